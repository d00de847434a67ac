"""The demo on damaged digits: held-out ones lose a box or are blurred, and are restored as `scoresde restore` does."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.compare import Counted
from scoresde.inverse import equally_weighted
from scoresde.report import write_png
from scoresde_cli import names, restoration_tasks, restoring
from scoresde_cli import restoration_metrics as metrics
from scoresde_cli import restoration_pictures as pictures
from scoresde_cli.demo_study import Effort
from scoresde_cli.models import open_model
from scoresde_cli.progress import display
from scoresde_cli.restoration_problem import Restoration, draw, prepare
from scoresde_cli.restoration_setting import Setting, Wish

TASKS: Mapping[str, Mapping[str, Any]] = {"inpaint": {"mask": "box"}, "deblur": {"kernel_std": 0.8}}
"""With their options; a wider blur has a kernel larger than a digit."""
SIGMA = names.SIMULATED_SIGMA
SAMPLES = names.DRAWS
SHOWN = 3  # samples of each digit
MISSING = 0.5  # grey, since what surrounds a digit is black


@dataclass(frozen=True)
class Restored:
    """One task on some held-out digits, a column of pictures for each.

    Args:
        options: as `scoresde restore` takes them.
        rows: uint8 (n, 1, 8, 8), by what they show.
        psnr: in decibels, of the mean and of the samples; chi_square: residual, of the samples and of the truth; both
            in the mean over digits.
        chi_square_std: standard deviation of that of the truth.
        evaluations: of the network for a sample; seconds: for all.
    """

    task: str
    method: str
    options: str
    rows: Mapping[str, np.ndarray]
    psnr: Mapping[str, float]
    chi_square: Mapping[str, float]
    chi_square_std: float
    evaluations: int
    seconds: float

    @property
    def digits(self) -> int:
        """How many."""
        return len(self.rows["truth"])


def write_digits(folder: Path, digits: np.ndarray) -> list[Path]:
    """Each digit (n, 1, H, W) as a picture file, to be damaged and restored."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{i}.png" for i in range(len(digits))]
    for file, digit in zip(files, digits, strict=True):
        write_png(file, digit.transpose(1, 2, 0))
    return files


def study_restoration(
    run: Path, files: Sequence[Path], effort: Effort, seed: int, device: torch.device
) -> list[Restored]:
    """Damage and restore the digits in these files, by the default method of each task.

    Raises:
        NumericalError: a sample is not finite.
    """
    model = open_model(str(run), None, {}, device)
    found = []
    for name, options in TASKS.items():
        wish = Wish(
            task=name,
            operator=None,
            options=options,
            sigma=SIGMA,
            simulate=True,
            method=names.DEFAULT_METHODS[name],
            steps=effort.restore_steps,
            solver=None,
            particles=None,
            twist=None,
            n=SAMPLES,
            seed=seed,
            batch_size=SAMPLES,
        )
        setting = restoring.choose(model, restoration_tasks.make(name, None, options, seed), wish)
        found.append(_restore(setting, [prepare(setting, file) for file in files]))
    return found


def _restore(setting: Setting, problems: Sequence[Restoration]) -> Restored:
    wish, space = setting.wish, setting.model.space
    denoiser = Counted(setting.model.denoiser)
    steps, done = wish.steps or 1, 0
    drawn: list[Tensor] = []
    with display(f"{wish.task}: step", len(problems) * steps) as show:

        def on_step() -> None:
            nonlocal done
            done += 1
            show.update(done, f"digit {len(drawn) + 1} of {len(problems)}")

        began = time.perf_counter()
        for of in problems:
            each = draw(
                setting, denoiser, of, list(range(wish.n)), steps=steps, batch_size=wish.batch_size, on_step=on_step
            )
            drawn.append(of.units.to_user(equally_weighted(each, wish.seed).cpu().double()))
        seconds = time.perf_counter() - began
    results = [metrics.of_samples(of, x, pictures=True) for of, x in zip(problems, drawn, strict=True)]
    mean = metrics.average(results)
    options = {"task": wish.task, **wish.options, "sigma": wish.sigma, "steps": steps}
    return Restored(
        str(wish.task),
        setting.plan.name,
        " ".join(f"{names.flag(word)} {value}" for word, value in options.items()) + f" -n {wish.n}",
        {word: pictures.pixels(x, space) for word, x in _rows(problems, torch.stack(drawn)).items()},
        mean["psnr"],
        mean["chi_square"],
        math.sqrt(2.0 / sum(of.y.numel() for of in problems)),
        round(denoiser.samples / (len(problems) * wish.n)),
        seconds,
    )


def _rows(problems: Sequence[Restoration], drawn: Tensor) -> dict[str, Tensor]:
    """What is shown, (n, 1, H, W) from 0 to 1 each, of samples (n, draws, 1, H, W)."""
    std = drawn.std(1)
    samples = {f"sample {k}": drawn[:, k] for k in range(SHOWN)}
    return {
        "measured": torch.cat([_measured(of) for of in problems]),
        **samples,
        "mean": drawn.mean(1),
        f"std, white = {std.max().item():.2g}": pictures.uncertainty(std),
        "truth": torch.cat([of.truth for of in problems if of.truth is not None]),
    }


def _measured(of: Restoration) -> Tensor:
    """(1, 1, H, W)."""
    if of.mask is None:
        return of.y
    kept = of.mask.to(of.y)
    return of.measurement.operator.as_linear().adjoint(of.y) + MISSING * (1.0 - kept)
