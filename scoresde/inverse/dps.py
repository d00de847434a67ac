r"""Diffusion posterior sampling (Chung et al., ICLR 2023): the gradient of the misfit of xhat0.

    E[x0 | x_t, y] = xhat0 + (sigma^2 / alpha) grad_x log N(y; A(xhat0), noise_std^2 I)     (DPS 16)
                   = xhat0 + C_t v,      v = (dA/dx0)' r / noise_std^2,   r = y - A(xhat0)

takes X_0 for certain given x_t, so that it trusts y far too much where sigma is large: the push overshoots, by C_t over
noise_std^2, and its samples explode. `LikelihoodScale` goes the same way, but not as far,

    xhat0 + tau C_t v,      tau = q / (q + |v' C_t v|),      q = |r|^2 / noise_std^2

which is the first step of conjugate gradients on (noise_std^2 I + J C_t J') u = r, J = dA/dx0 (`line_step`): a coarse
MMPS, at the price of DPS and for any A. For one observation and a Gaussian prior it is exact.

What is published as an algorithm (DPS, algorithm 1) is another thing, `PublishedScale`: after each ancestral step of a
DDPM chain,

    x_{k-1}  <-  x_{k-1} - zeta grad_{x_k} |y - A(xhat0(x_k))|

which does not know of noise_std. The ancestral step has c_0 xhat0 in it, c_0 = sqrt(abar_{k-1}) beta_k / (1 - abar_k)
(bridge), so that this is the same as moving xhat0 by

    -(zeta / c_0) grad_{x_k} |y - A(xhat0)|

and so it is done here: with c_0 of a chain of K steps (the betas of Ho et al., in K steps to the same end), at the
signal-to-noise ratio of x_t, on any process and with any solver. Ancestral steps along that chain are then the
published ones exactly; a solver that goes in other steps meets the same total push, as long as it can follow it. K is
`chain`, and as zeta counts once for each step, twice the K is twice the push. It is the default number of steps here;
`PublishedScale(zeta, chain=1000)` with `steps=1000` is what the authors ran.

The gradient is a vector-Jacobian product: grad_x |r| = -(alpha / sigma^2) C_t (dA/dx0)' r / |r|, with C_t v as in
`Estimate`. The norm is that of each sample.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from scoresde._tensors import Coefficient, expand, flat_sum, scale
from scoresde.inverse.guided import Guided, GuidedDenoiser, line_step
from scoresde.inverse.problem import DEFAULT_STEPS, Problem
from scoresde.processes import VP
from scoresde.reverse import Reverse
from scoresde.sde import Level, bridge
from scoresde.solvers import ERSDE, Solver

CHAIN = VP()  # beta_k from 1e-4 to 0.02 when K = 1000, as of Ho et al.
TINY = 1e-30  # sigma^2 = 0 at t = 0, where C_t = 0


Pull = Callable[[Tensor], tuple[Tensor, Tensor]]
"""u -> v = (dA/dx0)' u and C_t v, (B, *) of y to (B, *) of x."""


class Scale(abc.ABC):
    """How far the misfit pushes."""

    @abc.abstractmethod
    def push(self, residual: Tensor, noise_std: Tensor, t: Level, pull: Pull) -> Tensor:
        """E[x0 | x_t, y] - xhat0, (B, *), from the residual y - A(xhat0), (B, *)."""


@dataclass(frozen=True)
class PublishedScale(Scale):
    """zeta |y - A(xhat0)| at each step of a DDPM chain, whatever the noise.

    Args:
        zeta: >= 0; in units of x over units of y. The authors take 0.3 to 1 for pictures in [-1, 1].
        chain: K, the steps of the chain that zeta is for. Runs of many fewer steps overshoot.

    Raises:
        ValueError: zeta negative or not finite, or chain < 1.
    """

    zeta: float = 1.0
    chain: int = DEFAULT_STEPS

    def __post_init__(self) -> None:
        if not 0 <= self.zeta < math.inf:
            raise ValueError(f"zeta = {self.zeta}; it must be 0 (the prior) or more")
        if self.chain < 1:
            raise ValueError(f"chain = {self.chain}; it must be 1 or more")

    def push(self, residual: Tensor, noise_std: Tensor, t: Level, pull: Pull) -> Tensor:
        norm = flat_sum(residual.square()).sqrt().clamp_min(torch.finfo(residual.dtype).tiny)
        # the gradient in the chain's own variable, x_t / radius
        strength = self.zeta / self._c_0(t) * t.radius * t.alpha / (t.sigma**2 + TINY)
        return pull(scale(strength, residual / expand(norm, residual)))[1]

    def _c_0(self, t: Level) -> Coefficient:
        """What x0 weighs in the chain's step at this signal-to-noise ratio."""
        k = CHAIN.time_of_log_snr(t.log_snr)
        _, c_0, _ = bridge(CHAIN.at((k - 1.0 / self.chain).clamp_min(0.0)), CHAIN.at(k))
        return c_0


@dataclass(frozen=True)
class LikelihoodScale(Scale):
    """Up log N(y; A(xhat0), noise_std^2 I), as far as the spread of x0 given x_t allows; nothing to tune."""

    def push(self, residual: Tensor, noise_std: Tensor, t: Level, pull: Pull) -> Tensor:
        u = residual / noise_std**2
        v, push = pull(u)
        return expand(line_step(residual, u, noise_std, v, push), push) * push


@dataclass(frozen=True)
class DPS(Guided):
    """DPS, for any differentiable A, linear or not.

    A step costs a network call with one vector-Jacobian product of it, and one of A. It is not exact in any limit, not
    even for Gaussian priors, but for a single observation. It needs no tuning when noise_std is known; as published,
    with `PublishedScale(zeta)`, it needs zeta for each task and noise.

    Args:
        scale: `LikelihoodScale()` or `PublishedScale(zeta)`.
    """

    scale: Scale = field(default_factory=LikelihoodScale)

    default_solver: ClassVar[Solver[Reverse]] = ERSDE()  # steadier here than solvers with all the noise

    def denoiser(self, problem: Problem) -> DPSDenoiser:
        return DPSDenoiser(problem, self)


class DPSDenoiser(GuidedDenoiser):
    """The prior's denoiser, moved down the gradient of the misfit of xhat0."""

    def __init__(self, problem: Problem, choices: DPS) -> None:
        super().__init__(problem)
        self.choices = choices

    def guided_x0(self, x: Tensor, t: Level) -> Tensor:
        A, (x0, covariance) = self.problem.operator, self.estimate(x, t)

        def pull(u: Tensor) -> tuple[Tensor, Tensor]:
            v = A.pullback(x0, u)
            return v, covariance(v)

        return x0 + self.choices.scale.push(self.problem.y - A(x0), self.problem.noise_std, t, pull)
