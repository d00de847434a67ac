r"""Tweedie moment projected diffusion (Boys et al. 2023, arXiv:2310.06721): the row sums of A C_t A' for the whole.

    q_t(y | x_t) ~ N(y; A xhat0, S),      S = noise_std^2 I + diag(A C_t A' 1)
    E[x0 | x_t, y] = xhat0 + tau C_t A' S^-1 (y - A xhat0)

with C_t = (sigma^2 / alpha) d xhat0 / d x_t. Row sums are one vector-Jacobian product, where MMPS needs one for each
entry of y; they are the matrix where it is diagonal, and count correlations as variance elsewhere. Negative ones, of
entries that are anticorrelated, are taken by their size: taken for 0 they leave noise_std^2 alone as the variance of y.

tau is 1 as published. Here it is the step that is best along S^-1 (y - A xhat0) for the whole matrix (`line_step`),
for the price of a scalar product: where row sums are the matrix it is 1 too, and elsewhere the push does not overshoot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._tensors import expand, flat_sum
from scoresde.inverse.guided import Twist, Twisted, TwistedDenoiser, line_step
from scoresde.inverse.problem import Problem
from scoresde.sde import Level


@dataclass(frozen=True)
class TMPD(Twisted):
    """TMPD, for linear A; exact only for Gaussian priors with a diagonal A C_t A', as of a mask on independent entries.

    A step costs a network call with two vector-Jacobian products of it. It needs no tuning when noise_std is known.
    """

    def denoiser(self, problem: Problem) -> TMPDDenoiser:
        return TMPDDenoiser(problem)


class TMPDDenoiser(TwistedDenoiser):
    """The prior's denoiser, told of y through N(y; A xhat0, noise_std^2 I + diag(A C_t A' 1))."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.operator = problem.operator.as_linear()
        self.variance = problem.noise_std**2

    def guided_x0(self, x: Tensor, t: Level) -> Tensor:
        return self.twist(x, t).guided

    def twist(self, x: Tensor, t: Level) -> Twist:
        A, (x0, covariance) = self.operator, self.estimate(x, t)
        residual = self.problem.y - A(x0)
        seen = A.adjoint(torch.ones_like(residual))
        spread = covariance(seen)
        S = self.variance + A(spread).abs()
        u = residual / S
        v = A.adjoint(u)
        push = covariance(v)
        guided = x0 + expand(line_step(residual, u, self.problem.noise_std, v, push), push) * push
        log_prob = -0.5 * flat_sum(residual.square() / S + S.log() + math.log(2.0 * math.pi))
        # along A' 1, the one direction for which C_t is known
        variance = flat_sum(seen * spread).clamp_min(0.0) / flat_sum(seen.square()).clamp_min(torch.finfo(x.dtype).tiny)
        return Twist(x0, guided, log_prob, variance)
