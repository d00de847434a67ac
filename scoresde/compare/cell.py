"""One cell of a comparison: samples of one solver on one grid, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.compare.memory import watch
from scoresde.denoisers import Denoiser, Wrapped
from scoresde.reverse import Reverse
from scoresde.sampling import sample
from scoresde.sde import SDE, Level
from scoresde.solvers import Solver


class Counted(Wrapped):
    """A denoiser that counts how often it is evaluated (`calls`), and for how many samples in all (`samples`)."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.train(inner.training)  # or `sample` would leave the network in another mode than it found it in
        self.calls, self.samples = 0, 0

    def predict(self, x: Tensor, t: Level) -> Tensor:
        self.calls += 1
        self.samples += len(x)
        return self.inner.predict(x, t)


@dataclass(frozen=True, eq=False)
class Drawn:
    """What `draw` found.

    Args:
        samples: (n, *).
        evaluations: of the network, per sample; of an adaptive solver the mean over batches, each of which goes on
            until its slowest sample is done.
        seconds: on the wall, for all n.
        peak_bytes: the most memory in use above what was before; None where the system does not tell.
    """

    samples: Tensor
    evaluations: float
    seconds: float
    peak_bytes: int | None


def draw(
    denoiser: Denoiser,
    solver: Solver[Reverse] | Solver[SDE],
    times: Tensor | Sequence[float] | None,
    *,
    n: int,
    seed: int,
    batch_size: int | None = None,
    shape: Sequence[int] | None = None,
    on_step: Callable[[], None] | None = None,
) -> Drawn:
    """Samples 0..n-1 of `seed`, as `sample` draws them, with their cost.

    Args:
        times: a decreasing grid; None for an adaptive solver.
        batch_size: samples computed at once, default all n; the last batch is filled up.

    Raises:
        ValueError: arguments out of range, or a solver that cannot work here, such as one that needs a finite g(1) on a
            process whose alpha(1) is 0.
        NumericalError: it diverged. Whoever compares solvers puts either message in the solver's row, and goes on.
    """
    if times is None and not solver.adaptive:
        raise ValueError(f"{solver} needs a grid of times; only adaptive solvers do without")
    counted = Counted(denoiser)
    peak = watch(denoiser.device)
    start = _now(denoiser.device)
    samples = sample(counted, solver, times=times, n=n, seed=seed, batch_size=batch_size, shape=shape, on_step=on_step)
    seconds = _now(denoiser.device) - start
    batch = n if batch_size is None else batch_size
    return Drawn(samples, counted.samples / (-(-n // batch) * batch), seconds, peak())


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
