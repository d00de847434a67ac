r"""Sampling by the measurement as an SDE (`measurement_path`): down to a draw of A(X), and a lift of it to X.

What is needed is a denoiser of A(X), under any process (`Rescheduled`):

    A = I       the prior's: E[X | Y_t = y] = xhat0(sqrt(abar) y, tau), abar(tau) = 1 / (1 + noise_std^2 t) for a VP one
    linear A    a mixture's is exact: A(X) has the law sum_i w_i N(A m_i, A S_i A') (`pushforward`)
    any A       one trained on A(x) for x from the data

Given a draw v of A(X), X is A^+ v for an injective A, and otherwise a draw of x given A(x) = v: `lift`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from scoresde import grids
from scoresde.denoisers import Denoiser
from scoresde.distributions import GaussianMixture
from scoresde.inverse.measurement import GaussianMeasurement
from scoresde.inverse.measurement_path import STEPS, Brownian, MeasurementPath
from scoresde.inverse.mixture_posterior import MixturePosterior, pushforward
from scoresde.inverse.problem import Draws, Method, Problem, Run
from scoresde.linalg import Operator

LIFT_NOISE = 1e-3
"""The noise with which A(x) = v is told to a method that fills in x, as a share of noise_std."""


@dataclass(frozen=True, eq=False)
class MeasurementSDE(Method):
    """Reverse diffusion of the measurement itself, and a lift of A(X) to X.

    Without a denoiser, for A = I (or A'A = c^2 I, such as a mask of all ones) and any trained prior, as it is. With one
    of A(X), for any A. One network call a step, no network gradients, no tuning; noise_std is one number. Exact in the
    limit of many steps for an exact denoiser and A = I or an injective A; else as exact as `fill` is.

    Args:
        denoiser: of A(X), under any process: trained on A(x), or `pushforward(law, A).denoiser(sde)`.
        fill: a method that draws x given A(x) = v, for an A that is not injective; its samples may not interact.

    Raises:
        ValueError: a fill that interacts; on use, a noise_std that differs between entries, no denoiser for an A that
            needs one, no fill for an A that is not injective.
    """

    denoiser: Denoiser | None = None
    fill: Method | None = None

    exact: ClassVar[str] = "many steps"

    def __post_init__(self) -> None:
        if self.fill is not None and self.fill.interacting:
            raise ValueError(f"the samples of {self.fill} interact, and each draw of A(X) is filled alone; take MMPS()")

    @classmethod
    def of_mixture(cls, law: GaussianMixture, operator: Operator) -> MeasurementSDE:
        """Exact for a mixture prior and every linear A, but for the steps."""
        return cls(pushforward(law, operator).denoiser(Brownian(1.0)), MixturePosterior(law))

    def draw(self, problem: Problem, run: Run) -> Draws:
        noise_std = _one_noise_std(problem.measurement)
        if self.denoiser is None:
            y, noise_std = _as_denoising(problem, noise_std)
            return Draws(_down(MeasurementPath(problem.denoiser, noise_std), y, run))
        v = _down(MeasurementPath(self.denoiser, noise_std), problem.y, run)
        return Draws(lift(replace(problem, y=v.to(problem.y)), run, self.fill))


def _down(path: MeasurementPath, y: Tensor, run: Run) -> Tensor:
    """From 1 to 0, by the run's times or steps."""
    if run.times is None:
        times = path.times(steps=STEPS if run.steps is None else run.steps)
    else:
        times = grids.check_times(run.times)
        if times[0] != 1 or times[-1] != 0:
            raise ValueError(
                f"times go from {times[0]:g} to {times[-1]:g}; y is the measurement at t = 1, and they must end at 0"
            )
    return path.follow(y, times, run.ids, run.seed, run.batch_size, run.on_step)


def _one_noise_std(measurement: GaussianMeasurement) -> float:
    std = torch.as_tensor(measurement.noise_std, dtype=torch.float64).flatten()
    if bool((std != std[0]).any()):
        raise ValueError(
            f"noise_std runs from {std.min().item():g} to {std.max().item():g} over the entries, and a measurement is "
            "an SDE with one noise_std; take MMPS, or divide y and A by it"
        )
    return std[0].item()


def _as_denoising(problem: Problem, noise_std: float) -> tuple[Tensor, float]:
    """y and noise_std as of x itself, where A'A = c^2 I: A'y / c^2 = x + (noise_std / c) z says all that y does."""
    if problem.operator.linear:
        A = problem.operator.as_linear()
        probe = torch.randn(1, *problem.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        back = A.adjoint(A(probe))
        c2 = ((back * probe).sum() / probe.square().sum()).item()
        if c2 > 0 and torch.allclose(back, c2 * probe, rtol=0.0, atol=1e-8 * c2):
            return A.adjoint(problem.y) / c2, noise_std / c2**0.5
    raise ValueError(
        f"A is {problem.operator}, not the identity, and the denoiser of x says nothing of A(x) + noise; give "
        "denoiser= one of A(x), trained on A of the data or pushforward(law, A).denoiser(sde); or take another method, "
        "such as MMPS"
    )


def lift(problem: Problem, run: Run, fill: Method | None = None) -> Tensor:
    """Draws of x given A(x) = v, (n, *), for the draws v = `problem.y` of A(X).

    Without `fill`, A^+ v. With it, its draws from the prior given v, told with a noise of `LIFT_NOISE` noise_std.

    Args:
        problem: the prior, the measurement and v, (1, *) or (n, *).
        run: for `fill`; its times do not count, as they belong to v.
        fill: a method whose samples do not interact.

    Raises:
        ValueError: no `fill`, and an A that is not linear or leaves part of x unseen.
    """
    if fill is not None:
        told = GaussianMeasurement(problem.operator, LIFT_NOISE * _one_noise_std(problem.measurement))
        return fill.draw(replace(problem, measurement=told), replace(run, times=None, solver=None)).x
    svd = problem.operator.as_linear().svd(problem.shape)
    unseen = int((svd.values.expand(svd.vt(torch.zeros(1, *problem.shape).double()).shape) <= svd.cutoff).sum())
    if unseen:
        raise ValueError(
            f"{problem.operator} leaves {unseen} of {math.prod(problem.shape)} directions of x unseen; give fill= a "
            "method that draws x given A(x), such as MMPS() or MixturePosterior(law)"
        )
    return svd.pinv(problem.y)
