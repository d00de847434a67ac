r"""Moment matching posterior sampling (Rozet et al. 2024): the whole covariance of x0 given x_t.

With C_t = Cov[x0 | x_t] = (sigma^2 / alpha) d xhat0 / d x_t (Tweedie's second order), X_0 | x_t ~ N(xhat0, C_t) gives

    q_t(y | x_t) ~ N(y; A xhat0, S),      S = noise_std^2 I + A C_t A'                  (MMPS 12)
    E[x0 | x_t, y] = xhat0 + C_t A' S^-1 (y - A xhat0)

which is exact for every Gaussian prior, at every t, as the posterior mean of theory 7. Products with C_t are
vector-Jacobian products of the network. S is written out for short measurements, and solved with by GMRES for others: a
network's Jacobian is not symmetric, and at high noise not even positive, so that conjugate gradients explode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._tensors import expand, flat_sum
from scoresde.inverse.gmres import gmres
from scoresde.inverse.guided import Twist, Twisted, TwistedDenoiser, line_step
from scoresde.inverse.problem import Problem
from scoresde.sde import Level

DENSE, LARGEST = 8, 64
"""Entries of y up to which S is written out: as many vector-Jacobian products as GMRES takes by default;
and up to which particles may ask for it, who need its determinant."""


@dataclass(frozen=True)
class MMPS(Twisted):
    """MMPS, for linear A; asymptotically exact for Gaussian priors only.

    Args:
        iterations: of GMRES at most, a vector-Jacobian product each.
        tolerance: at which they stop, relative, in the residual of each sample.

    Raises:
        ValueError: iterations < 1, or a tolerance outside (0, 1).
    """

    iterations: int = 5
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations = {self.iterations}; it must be 1 or more")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance = {self.tolerance}; it must lie in (0, 1)")

    def denoiser(self, problem: Problem) -> MMPSDenoiser:
        return MMPSDenoiser(problem, self)


class MMPSDenoiser(TwistedDenoiser):
    """The prior's denoiser, told of y through N(y; A xhat0, noise_std^2 I + A C_t A')."""

    def __init__(self, problem: Problem, choices: MMPS) -> None:
        super().__init__(problem)
        self.choices = choices
        self.operator = problem.operator.as_linear()
        self.variance = problem.noise_std**2

    def guided_x0(self, x: Tensor, t: Level) -> Tensor:
        if self.problem.y[0].numel() <= DENSE:
            return self.twist(x, t).guided
        A, (x0, covariance) = self.operator, self.estimate(x, t)
        residual = self.problem.y - A(x0)
        u = gmres(
            lambda v: self.variance * v + A(covariance(A.adjoint(v))),
            residual,
            self.choices.iterations,
            self.choices.tolerance,
        )
        return x0 + covariance(A.adjoint(u))

    def check_twist(self) -> None:
        M = self.problem.y[0].numel()
        if M > LARGEST:
            raise ValueError(
                f"y has {M} entries, and particles need MMPS to write out a matrix of {M} x {M}, by as many network "
                f"gradients; up to {LARGEST} will do: take twist=PiGDM() or TMPD()"
            )

    def twist(self, x: Tensor, t: Level) -> Twist:
        A, (x0, covariance) = self.operator, self.estimate(x, t)
        residual = self.problem.y - A(x0)
        M = residual[0].numel()
        # row m of A C is (C A' e_m)': one product for each entry of y gives S and the gain
        unit = torch.eye(M, dtype=x.dtype, device=x.device).reshape(M, 1, *residual.shape[1:])
        seen = torch.cat([A.adjoint(e) for e in unit])
        rows = torch.stack([covariance(a.expand_as(x)) for a in seen], 1)
        spread = torch.stack([A(row).flatten(1) for row in rows.unbind(1)], 1)
        S = 0.5 * (spread + spread.mT) + torch.diag_embed(self.variance.expand(residual.shape[1:]).flatten())
        factor = _cholesky(S)
        r = residual.flatten(1)[..., None]
        half = torch.linalg.solve_triangular(factor, r, upper=False)[..., 0]
        weights = torch.cholesky_solve(r, factor)[..., 0]
        push = torch.einsum("bm,bm...->b...", weights, rows)
        u = weights.reshape(residual.shape)
        # 1 where the Jacobian is a covariance
        tau = line_step(residual, u, self.problem.noise_std, A.adjoint(u), push)
        guided = x0 + expand(tau.to(push.dtype), push) * push
        log_det = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        log_prob = -0.5 * (flat_sum(half.square()) + log_det + M * math.log(2.0 * math.pi))
        variance = spread.diagonal(dim1=1, dim2=2).sum(1).clamp_min(0.0) / seen.square().sum()
        return Twist(x0, guided, log_prob, variance)


def _cholesky(S: Tensor) -> Tensor:
    """The factor of S; of S with its negative eigenvalues raised, where a network's Jacobian is no covariance."""
    factor, info = torch.linalg.cholesky_ex(S)
    if bool((info > 0).any()):
        values, basis = torch.linalg.eigh(S)
        values = torch.maximum(values, 1e-6 * values.abs().amax(1, keepdim=True))
        factor = torch.linalg.cholesky((basis * values[:, None, :]) @ basis.mT)
    return factor
