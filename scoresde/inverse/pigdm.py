r"""Pseudoinverse-guided diffusion (Song, Vahdat, Mardani & Kautz, ICLR 2023): X_0 | x_t ~ N(xhat0, r_t^2 I).

    q_t(y | x_t) ~ N(y; A xhat0, S),      S = noise_std^2 I + r_t^2 A A'
    E[x0 | x_t, y] = xhat0 + C_t A' S^-1 (y - A xhat0)

with C_t = (sigma^2 / alpha) d xhat0 / d x_t from the gradient. r_t^2 is the variance of x0 given x_t for data of
variance s^2 in every direction,

    r_t^2 = sigma^2 s^2 / (sigma^2 + alpha^2 s^2)

where theirs has s = 1: pictures in [-1, 1] have s near 0.5, and data of another scale need their own. Their code
multiplies the push by weights of its own besides, for DDIM steps; here it is the score, for any solver. A push
beyond the reach of the data is made shorter (`within_reach`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._tensors import Coefficient, scale
from scoresde.inverse.conjugate_gradients import conjugate_gradients
from scoresde.inverse.gaussian_step import ITERATIONS, TOLERANCE, GaussianStep, spectral
from scoresde.inverse.guided import Estimate, Twist, Twisted, TwistedDenoiser, within_reach
from scoresde.inverse.problem import Problem
from scoresde.linalg import SVD
from scoresde.sde import Level


@dataclass(frozen=True)
class PiGDM(Twisted):
    """PiGDM, for linear A; exact for priors N(m, s^2 I) only.

    A step costs a network call with one vector-Jacobian product of it. S is inverted by the SVD of A where that is fast
    and the noise is the same for all entries of y, by conjugate gradients otherwise. It needs no tuning when noise_std
    and the standard deviation of the data are known.

    Args:
        data_std: s, > 0, in units of x; default that of the prior's denoiser.

    Raises:
        ValueError: data_std not positive and finite.
    """

    data_std: float | None = None

    def __post_init__(self) -> None:
        if self.data_std is not None and not 0 < self.data_std < math.inf:
            raise ValueError(f"data_std = {self.data_std}; it must be positive")

    def denoiser(self, problem: Problem) -> PiGDMDenoiser:
        return PiGDMDenoiser(problem, self)


class PiGDMDenoiser(TwistedDenoiser):
    """The prior's denoiser, told of y through N(y; A xhat0, noise_std^2 I + r_t^2 A A')."""

    def __init__(self, problem: Problem, choices: PiGDM) -> None:
        super().__init__(problem)
        self.choices = choices
        self.operator = problem.operator.as_linear()
        self.variance = problem.noise_std**2
        self.svd = spectral(problem)
        self.step = GaussianStep(problem)
        self.std = problem.denoiser.data_std if choices.data_std is None else choices.data_std

    def guided_x0(self, x: Tensor, t: Level) -> Tensor:
        return self._guided(self.estimate(x, t), self._r2(t))

    def twist(self, x: Tensor, t: Level) -> Twist:
        estimate, r2 = self.estimate(x, t), float(self._r2(t))
        log_prob = self.step.log_evidence(estimate.x0, math.sqrt(r2))
        variance = torch.full((len(x),), r2, dtype=x.dtype, device=x.device)
        return Twist(estimate.x0, self._guided(estimate, r2), log_prob, variance)

    def _r2(self, t: Level) -> Coefficient:
        s2, sigma2 = self.std**2, t.sigma**2
        return sigma2 * s2 / (sigma2 + t.alpha**2 * s2)

    def _guided(self, estimate: Estimate, r2: Coefficient) -> Tensor:
        A, (x0, covariance) = self.operator, estimate
        residual = self.problem.y - A(x0)
        if self.svd is not None:
            v = _spectral(self.svd, residual, float(self.variance), r2)
        else:
            S = lambda v: self.variance * v + scale(r2, A(A.adjoint(v)))  # noqa: E731
            v = A.adjoint(conjugate_gradients(S, residual, ITERATIONS, TOLERANCE))
        return x0 + within_reach(covariance(v), self.problem.denoiser.data_std)


def _spectral(svd: SVD, v: Tensor, variance: float, r2: Coefficient) -> Tensor:
    """A' S^-1 v, (B, *): V (V' A' v / (noise_std^2 + r^2 s^2)), in float64 as it divides by small numbers."""
    z = svd.vt(svd.operator.adjoint(v.double()))
    values = svd.values.to(z.device).expand_as(z)
    # where A sees nothing z is rounding
    return svd.v(torch.where(values > svd.cutoff, z / (variance + scale(r2, values.square())), 0.0)).to(v.dtype)
