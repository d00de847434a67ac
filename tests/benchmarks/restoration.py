"""Restoration of held-out pictures: every method on every task it is for, next to a classical baseline.

    python tests/benchmarks/restoration.py RUN --pictures t10k-images-idx3-ubyte.gz [--kernels levin09.npz]

Each picture is degraded, with noise of standard deviation 0.05 on the [0, 1] scale, and restored by several draws. The
table has, in the mean over pictures: PSNR and SSIM of the posterior mean and PSNR of a single draw, the share of pixels
inside the central 90 % interval of the draws (of all pixels, and of those whose interval is wide), residual chi-square
of the draws (honest: about 1), network calls of a draw, seconds a picture and how much memory the process took at its
peak beyond what it had (each row is a process of its own).

The baselines see the same measurements, and are given their parameter by the best PSNR on other pictures: total
variation (Chambolle 2004) for denoising, Wiener for blur, biharmonic inpainting, bicubic enlargement, all of
scikit-image and Pillow.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import skimage.restoration as classical
import torch
from PIL import Image
from torch import Tensor

import scoresde as sd
from scoresde import data, inverse
from scoresde.denoisers import Denoiser, Wrapped
from scoresde.inverse import problems
from scoresde.linalg import Convolution, Operator, gaussian_kernel
from scoresde.metrics import psnr, ssim
from scoresde.sde import Level

Baseline = Callable[[np.ndarray, float], np.ndarray]
STRENGTHS = (0.003, 0.01, 0.03, 0.05, 0.1, 0.2, 0.4, 1.0)


@dataclass(frozen=True, eq=False)
class Task:
    """What was done, on [0, 1], and what a classical method makes of it: (y as numpy, strength) -> picture (H, W)."""

    operator: Operator
    baseline: Baseline
    about: str


def tasks(height: int, width: int, kernels: Path | None) -> dict[str, Task]:
    """By name, for grey pictures of that size."""
    found = {"denoise": Task(problems.denoise(), lambda y, a: classical.denoise_tv_chambolle(y[0], a), "tv")}
    masks = {
        "inpaint-box": problems.box_mask(height, width, keep=0.75),
        "inpaint-random": problems.random_mask(height, width, 0.3, 0),
        "inpaint-text": problems.text_mask(height, width),
    }
    for name, mask in masks.items():
        operator = problems.inpaint(mask)
        found[name] = Task(operator, _biharmonic(mask), "biharmonic")
    blurs = {"deblur": gaussian_kernel(1.5)}
    if kernels is not None:
        blurs["deblur-levin"] = problems.read_kernel(f"{kernels}:0")
    for name, kernel in blurs.items():
        operator = problems.deblur(kernel)
        found[name] = Task(operator, _wiener(operator, (1, height, width)), "wiener")
    for scale in (2, 4):
        found[f"superres-{scale}"] = Task(problems.superresolve(scale), _bicubic(height, width), "bicubic")
    return found


def _biharmonic(mask: Tensor) -> Baseline:
    def restore(y: np.ndarray, strength: float) -> np.ndarray:
        picture = np.zeros(mask.shape)
        picture[mask.numpy()] = y[0]
        return np.asarray(classical.inpaint_biharmonic(picture, ~mask.numpy()))

    return restore


def _wiener(operator: Convolution, shape: tuple[int, ...]) -> Baseline:
    """With the power of the second difference as the prior's inverse, as scikit-image has it; by the SVD of A."""
    svd = operator.svd(shape)
    height, width = shape[-2:]
    rows, columns = np.fft.fftfreq(height), np.fft.fftfreq(width)
    roughness = torch.from_numpy((4 - 2 * np.cos(2 * np.pi * rows)[:, None] - 2 * np.cos(2 * np.pi * columns)) ** 2)

    def restore(y: np.ndarray, strength: float) -> np.ndarray:
        back = svd.vt(operator.adjoint(torch.from_numpy(y)[None]))
        return svd.v(back / (svd.values.square() + strength * roughness))[0, 0].numpy()

    return restore


def _bicubic(height: int, width: int) -> Baseline:
    def restore(y: np.ndarray, strength: float) -> np.ndarray:
        return np.asarray(Image.fromarray(y[0].astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))

    return restore


METHODS: dict[str, Callable[[], inverse.Method]] = {
    "mmps": lambda: inverse.MMPS(),
    "pigdm": lambda: inverse.PiGDM(),
    "tmpd": lambda: inverse.TMPD(),
    "dps": lambda: inverse.DPS(),
    "repaint": lambda: inverse.RePaint(),
    "ddrm": lambda: inverse.DDRM(),
    "ddnm": lambda: inverse.DDNM(),
    "diffpir": lambda: inverse.DiffPIR(),
    "reddiff": lambda: inverse.REDDiff(),
    "daps": lambda: inverse.DAPS(),
    "split-gibbs": lambda: inverse.SplitGibbs(),
    "mcgdiff": lambda: inverse.MCGDiff(particles=64),
    "twisted-smc": lambda: inverse.TwistedSMC(particles=64, twist=inverse.PiGDM()),
    "measurement-sde": lambda: inverse.MeasurementSDE(),
}


class Counted(Wrapped):
    """Counts what the network is asked, in samples."""

    samples = 0

    def predict(self, x: Tensor, t: Level) -> Tensor:
        self.samples += len(x)
        return self.inner.predict(x, t)


@dataclass(frozen=True, eq=False)
class Study:
    """What all rows share: the prior, pictures (N, 1, H, W) on [0, 1], draws for each, steps."""

    denoiser: Denoiser
    pictures: Tensor
    sigma: float
    n: int
    steps: int | None

    def measured(self, task: Task, seed: int) -> Tensor:
        return inverse.GaussianMeasurement(task.operator, self.sigma).simulate(self.pictures.double(), seed)


def restored(study: Study, task: Task, method: inverse.Method, seed: int) -> dict[str, float]:
    """The row of a method: all pictures are restored together, unless its samples interact."""
    shape = tuple(study.pictures.shape[1:])
    model = inverse.PICTURES.measurement(task.operator, study.sigma, shape)
    y = model.to_model(study.measured(task, seed)).float()
    counted = Counted(study.denoiser)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    if method.interacting:
        runs = [
            sd.restore(counted, model.measurement, one, method=method, steps=study.steps, n=study.n, seed=seed)
            for one in y
        ]
        draws = torch.stack(runs)
    else:
        each = y.repeat_interleave(study.n, 0)
        x = sd.restore(counted, model.measurement, each, method=method, steps=study.steps, n=len(each), seed=seed)
        draws = x.reshape(len(y), study.n, *shape)
    seconds = (time.perf_counter() - began) / len(y)
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    chi = model.measurement.chi_square(draws.flatten(0, 1).double(), y.double().repeat_interleave(study.n, 0))
    pictures = inverse.PICTURES.to_user(draws.double()).clamp(0.0, 1.0)
    mean, truth = pictures.mean(1), study.pictures.double()
    low, high = pictures.quantile(0.05, 1), pictures.quantile(0.95, 1)
    slack = 0.5 / 255
    inside = ((truth >= low - slack) & (truth <= high + slack)).double().mean()
    varied = high - low > 4 * slack  # ink or not is not in question elsewhere
    covered = ((truth >= low - slack) & (truth <= high + slack))[varied].double().mean()
    return {
        "psnr": psnr(mean, truth).mean().item(),
        "ssim": ssim(mean, truth).mean().item(),
        "psnr of a draw": psnr(pictures[:, 0], truth).mean().item(),
        "inside 90 %": inside.item(),
        "inside, uncertain pixels": covered.item(),
        "chi-square": chi.mean().item(),
        "calls": counted.samples / (len(y) * study.n),
        "seconds": seconds,
        "MiB": memory,
    }


def baseline(study: Study, task: Task, seed: int) -> dict[str, float]:
    """The row of the classical method, its strength the best one for the first half of the pictures."""
    y, truth = study.measured(task, seed).numpy(), study.pictures.double()
    began = time.perf_counter()
    scores, results = [], []
    for strength in STRENGTHS:
        x = torch.from_numpy(np.stack([task.baseline(one, strength) for one in y]))[:, None].double().clamp(0.0, 1.0)
        results.append(x)
        scores.append(psnr(x[: len(x) // 2 or 1], truth[: len(x) // 2 or 1]).mean().item())
    seconds = (time.perf_counter() - began) / (len(y) * len(STRENGTHS))
    best = results[int(np.argmax(scores))]
    return {
        "psnr": psnr(best, truth).mean().item(),
        "ssim": ssim(best, truth).mean().item(),
        "seconds": seconds,
    }


def in_its_own_process(function: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """So that its peak of memory is its own, and a failure is a row."""
    queue: Any = multiprocessing.get_context("fork").Queue()

    def work() -> None:
        try:
            queue.put(function())
        except Exception as error:
            queue.put({"failed": f"{type(error).__name__}: {error}"})

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    row: dict[str, Any] = queue.get()
    process.join()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--pictures", type=Path, required=True, help="held out from training")
    parser.add_argument("--kernels", type=Path, help="a file of kernels; the first one is taken")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--first", type=int, default=0, help="the first picture taken")
    parser.add_argument("--n", type=int, default=16, help="draws for each")
    parser.add_argument("--steps", type=int, help="default: each method's own")
    parser.add_argument("--sigma", type=float, default=0.05)
    parser.add_argument("--tasks")
    parser.add_argument("--methods")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", sd.ProcessWarning)
    found = data.open_data(arguments.pictures)
    index = np.arange(arguments.first, arguments.first + arguments.images)
    pictures = (found.batch(index) + 1) / 2
    study = Study(sd.load(arguments.run), pictures, arguments.sigma, arguments.n, arguments.steps)
    every = tasks(*pictures.shape[-2:], arguments.kernels)
    rows = []
    for task_name in arguments.tasks.split(",") if arguments.tasks else every:
        task = every[task_name]
        rows.append({"task": task_name, "method": task.about, **baseline(study, task, seed=1)})
        show(rows[-1])
        for name in arguments.methods.split(",") if arguments.methods else METHODS:
            row = in_its_own_process(lambda task=task, name=name: restored(study, task, METHODS[name](), 1))
            rows.append({"task": task_name, "method": name, **row})
            show(rows[-1])
            if arguments.json is not None:
                arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def show(row: dict[str, Any]) -> None:
    cells = [f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()]
    print("  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
