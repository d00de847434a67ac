"""What the parts of the demo share: their effort, and the three solvers, drawn from the same starts and timed."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import sampling
from scoresde.compare import Counted
from scoresde.denoisers import Denoiser
from scoresde.solvers import RK45, Ancestral, EulerMaruyama
from scoresde_cli.progress import display
from scoresde_cli.solvers import AnySolver


@dataclass(frozen=True)
class Effort:
    """How much is sampled.

    Args:
        pictures, picture_steps: digits by each solver, and steps of those that take a number of steps.
        points, point_steps: the same on the mixture.
        pairs: of exact sets of points, whose distances are the floor.
        restored, restore_steps: held-out digits in each task, and steps of each.
    """

    pictures: int
    picture_steps: int
    points: int
    point_steps: int
    pairs: int
    restored: int
    restore_steps: int


FULL = Effort(pictures=96, picture_steps=250, points=8000, point_steps=1000, pairs=16, restored=5, restore_steps=30)
QUICK = Effort(pictures=32, picture_steps=20, points=1000, point_steps=1000, pairs=8, restored=2, restore_steps=4)

SOLVERS: dict[str, AnySolver] = {"ancestral": Ancestral(), "em": EulerMaruyama(), "ode": RK45()}
"""By the names that `scoresde sample --solver` gives them."""


@dataclass(frozen=True)
class Drawn:
    """Samples of one solver, and what they cost.

    Args:
        steps: None for a solver that chooses its own.
        samples: (n, *), on the CPU.
        evaluations: of the denoiser, for one sample; the mean over batches where they differ.
        seconds: for all samples.
    """

    name: str
    steps: int | None
    samples: Tensor
    evaluations: int
    seconds: float

    @property
    def options(self) -> str:
        """As `scoresde sample` takes them."""
        return f"--solver {self.name}" + ("" if self.steps is None else f" --steps {self.steps}")


def draw_all(denoiser: Denoiser, steps: int, n: int, seed: int, batch_size: int) -> list[Drawn]:
    """n samples by each solver. Sample i of each starts from the same x(1), since noise depends on (seed, i) alone."""
    return [_draw(name, solver, denoiser, steps, n, seed, batch_size) for name, solver in SOLVERS.items()]


def _draw(name: str, solver: AnySolver, denoiser: Denoiser, steps: int, n: int, seed: int, batch_size: int) -> Drawn:
    counted = Counted(denoiser)
    chosen = None if solver.adaptive else steps
    batches = -(-n // batch_size)
    total = batches * (chosen or 1)
    done = 0
    with display(f"{name}: {'batch' if chosen is None else 'step'}", total) as show:

        def on_step() -> None:
            nonlocal done
            done += 1
            show.update(done)

        show.update(0)
        began = time.perf_counter()
        x = sampling.sample(counted, solver, steps=chosen, n=n, seed=seed, batch_size=batch_size, on_step=on_step)
        samples = x.cpu()
        seconds = time.perf_counter() - began
    return Drawn(name, chosen, samples, round(counted.calls / batches), seconds)


def nearest(x: Tensor, among: Tensor) -> float:
    """Median over x (n, *) of the root mean square difference to the nearest of `among` (N, *)."""
    distance = torch.cdist(x.flatten(1), among.flatten(1)).amin(1)
    return (distance.median() / x[0].numel() ** 0.5).item()
