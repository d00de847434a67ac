"""What a posterior sampler is given, what it answers, and what it is."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from scoresde import grids
from scoresde.denoisers import Denoiser
from scoresde.errors import NumericalError
from scoresde.inverse.measurement import GaussianMeasurement
from scoresde.linalg import Operator
from scoresde.noise import CounterNoise
from scoresde.reverse import Reverse
from scoresde.sde import SDE
from scoresde.solvers import Solver

DEFAULT_STEPS = 100


@dataclass(frozen=True, eq=False)
class Problem:
    """A prior, a measurement, and what was measured.

    Args:
        denoiser: of the prior.
        measurement: y = A(x) + noise.
        y: (1, *) for all samples of a batch, or (B, *), one for each.
        shape: of one x.
    """

    denoiser: Denoiser
    measurement: GaussianMeasurement
    y: Tensor
    shape: tuple[int, ...]

    @property
    def operator(self) -> Operator:
        """A."""
        return self.measurement.operator

    @property
    def noise_std(self) -> Tensor:
        """In the dtype and on the device of y, () or broadcasting to one measurement."""
        return self.measurement.std(self.y)


@dataclass(frozen=True, eq=False)
class Run:
    """Which draws are wanted, and how.

    Args:
        ids: (B,) the numbers of the samples; sample i depends on (seed, ids[i]), but for methods that interact.
        seed: of all noise.
        steps, times: of the grid, at most one of the two; None for the method's own.
        solver: for guided denoisers; None for the method's own, and for methods that are no denoisers.
        batch_size: samples that the network sees at once; None for all.
        on_step: called after every step.
    """

    ids: Tensor
    seed: int = 0
    steps: int | None = None
    times: Tensor | None = None
    solver: Solver[Reverse] | Solver[SDE] | None = None
    batch_size: int | None = None
    on_step: Callable[[], None] = lambda: None

    def noise(self, problem: Problem) -> CounterNoise:
        """Counter-based noise in the shape of x."""
        denoiser = problem.denoiser
        return CounterNoise(self.seed, self.ids, problem.shape, denoiser.dtype, denoiser.device)

    def noise_of_y(self, problem: Problem) -> CounterNoise:
        """The same in the shape of y; take other draw numbers than from `noise`, as the words are the same."""
        denoiser = problem.denoiser
        return CounterNoise(self.seed, self.ids, tuple(problem.y.shape[1:]), denoiser.dtype, denoiser.device)

    def grid(self, problem: Problem, name: str, default_steps: int = DEFAULT_STEPS) -> Tensor:
        """The times asked for, or so many steps of the named grid, for methods that make their own steps."""
        if self.times is not None:
            return grids.check_times(self.times)
        steps = default_steps if self.steps is None else self.steps
        return grids.GRIDS[name](problem.denoiser.sde, steps, problem.denoiser.max_log_snr)


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws from the posterior, and what the method knows of them.

    Args:
        x: (n, *).
        log_weights: (n,) normalised, of weighted draws; None for equal weights.
        log_evidence: estimate of log p(y), nats, for methods that have one.
        diagnostics: plain numbers and lists to report, such as the effective sample size after each step.
    """

    x: Tensor
    log_weights: Tensor | None = None
    log_evidence: float | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)


class Method(abc.ABC):
    """One way to draw from p(x | y).

    Attributes:
        exact: the limit in which its draws have the law p(x | y), in words; empty when there is none, and then what
            reports its draws says so.
        interacting: its samples are made together, so that each depends on all; otherwise sample i is a function of
            (seed, i).
        solvers: takes a solver.
    """

    exact: ClassVar[str] = ""
    interacting: ClassVar[bool] = False
    solvers: ClassVar[bool] = False

    @abc.abstractmethod
    def draw(self, problem: Problem, run: Run) -> Draws:
        """As many draws as `run.ids`, one batch; called under `torch.no_grad`.

        Raises:
            ValueError: the problem is not one for this method, such as an operator that is not linear.
            NumericalError: values that are not finite.
        """


def check_finite(x: Tensor, method: Method, t: float, s: float) -> None:
    """Refuse a batch that is not finite after the step from t to s.

    Raises:
        NumericalError: names sample and times.
    """
    finite = x.flatten(1).isfinite().all(1)
    if not bool(finite.all()):
        sample = int((~finite).nonzero()[0])
        raise NumericalError(
            f"{method}: sample {sample} of the batch is not finite after the step from t = {t:.6g} to {s:.6g}; "
            "check the network there, the scale of y and noise_std, or take more steps"
        )
