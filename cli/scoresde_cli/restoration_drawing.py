"""The samples of one posterior: those that are missing are drawn, and all are summed up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scoresde
from scoresde.compare import Counted
from scoresde.denoisers import Denoiser
from scoresde.inverse.drawing import equally_weighted
from scoresde.sde import Level
from scoresde_cli import restoration_metrics as metrics
from scoresde_cli import stopping
from scoresde_cli.progress import display, say
from scoresde_cli.restoration_folder import Folder
from scoresde_cli.restoration_problem import Restoration, draw
from scoresde_cli.restoration_setting import Setting


class CountedGradients(Counted):
    """A denoiser for samples of `shape` that counts gradients too: of how many samples was its answer pulled back."""

    def __init__(self, inner: Denoiser, shape: tuple[int, ...]) -> None:
        super().__init__(inner)
        self.shape = shape
        self.gradients = 0

    def predict(self, x: Tensor, t: Level) -> Tensor:
        prediction = super().predict(x, t)
        if prediction.requires_grad:
            prediction.register_hook(self._note)
        return prediction

    def _note(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


def restore_one(
    setting: Setting, of: Restoration, path: Path, where: str, *, overwrite: bool, again: str
) -> dict[str, Any]:
    """Draw what is missing, write what is made of all of it; the metrics.

    Args:
        where: which picture it is, to be said before how far it is.

    Raises:
        UsageError: the folder holds samples of other settings; NumericalError: a sample is not finite.
        OSError: a file cannot be written; Interrupted: by a signal, what was written stays.
    """
    space, ids = setting.model.space, range(setting.wish.n)
    folder = Folder(path, space, of.shape, setting.deciding(of.digest, of.shape, of.y[0].numel()), setting.title())
    folder.open(overwrite=overwrite)
    try:
        seen = of.seen(space)
        folder.write_measurement(of.y[0], seen, of.mask)
        effort = _effort(setting, of, folder, ids, where)
        samples = folder.read(ids)
        folder.write_summary(samples, of.truth, seen)
        found = {
            "results": metrics.of_samples(of, samples, pictures=space.kind == "image"),
            "effort": effort,
            "notes": _notes(setting, of, again),
            "settings": setting.deciding(of.digest, of.shape, of.y[0].numel()),
        }
        folder.write_metrics(found)
    except stopping.Interrupted as interrupted:
        done = len(folder.whole(ids))
        raise stopping.Interrupted(
            interrupted.signum, f"Stopped; {done} of {len(ids)} samples are in {path}\nTo go on: {again}"
        ) from None
    return found


def _effort(setting: Setting, of: Restoration, folder: Folder, ids: Sequence[int], where: str) -> dict[str, Any]:
    """Draw the samples that are not there; what it took, or what an earlier run noted when nothing is missing."""
    before = folder.metrics()
    whole = folder.whole(ids)
    if setting.plan.facts.interacting and (len(whole) < len(ids) or before is None):
        whole = set()  # they are made together, or not at all
    missing = [i for i in ids if i not in whole]
    if whole:
        say(f"{where}{len(whole)} of {len(ids)} samples are there already")
    if not missing and before is not None:
        return dict(before.get("effort", {}))
    return _draw(setting, of, folder, missing, where)


def _draw(setting: Setting, of: Restoration, folder: Folder, missing: Sequence[int], where: str) -> dict[str, Any]:
    wish, plan = setting.wish, setting.plan
    denoiser = CountedGradients(setting.model.denoiser, of.shape)
    size = len(missing) if plan.facts.interacting else wish.batch_size
    batches = [list(missing[start : start + size]) for start in range(0, len(missing), size)]
    steps = plan.steps or 1
    total, done = len(batches) * steps, 0
    began = time.perf_counter()
    last = None
    with display(f"{where}{'batch' if plan.steps is None else 'step'}", total) as show:

        def on_step(more: int = 1) -> None:
            nonlocal done
            done += more
            if more and done <= total:
                show.update(done, f"{min(done // steps * size, len(missing))} of {len(missing)} samples")

        for batch in batches:
            last = draw(setting, denoiser, of, batch, steps=plan.steps, batch_size=wish.batch_size, on_step=on_step)
            x = equally_weighted(last, wish.seed).cpu().double()
            folder.add(batch, of.units.to_user(x))
        on_step(max(total - done, 0))  # methods may leave out a step
    computed = len(batches) * size
    return {
        "seconds": round(time.perf_counter() - began, 3),
        "drawn": len(missing),
        "evaluations": round(denoiser.samples / computed, 2) if computed else 0.0,
        "gradients": round(denoiser.gradients / computed, 2) if computed else 0.0,
        **({} if last is None else metrics.of_draws(of, last)),
    }


def _notes(setting: Setting, of: Restoration, again: str) -> dict[str, Any]:
    """What the samples do not depend on, but a reader may."""
    facts, operator = setting.plan.facts, of.measurement.operator
    scale = "the [0, 1] scale of the picture file" if setting.model.space.kind == "image" else "the units of the file"
    return {
        "picture": str(of.path),
        "operator": str(operator),
        "linear": operator.linear,
        "noise": {
            "sigma": setting.wish.sigma,
            "units": scale,
            "sigma_of_the_model": float(of.for_model().measurement.noise_std),
        },
        "asymptotically_exact": facts.exact or None,
        **setting.model.where,
        "scoresde": scoresde.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "command": again,
    }
