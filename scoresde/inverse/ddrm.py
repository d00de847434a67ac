r"""Denoising diffusion restoration models (Kawar, Elad, Ermon & Song, NeurIPS 2022), in the coordinates of V' x.

With A = U diag(d) V', the coordinate i of V' x was measured as y_i = (U' y)_i / d_i = x_i + e_i z, with
e_i = noise_std / d_i, or not at all (d_i = 0). In the paper's variables x / alpha and rho = sigma / alpha, a step from
t to s is (DDRM 7, 8)

    not measured       N(xhat0 + sqrt(1 - eta^2) rho_s epshat, eta^2 rho_s^2)
    rho_s < e_i        N(xhat0 + sqrt(1 - eta^2) rho_s (y_i - xhat0) / e_i, eta^2 rho_s^2)
    rho_s >= e_i       N((1 - eta_b) xhat0 + eta_b y_i, rho_s^2 - eta_b^2 e_i^2)

and the start N(y_i, rho^2 - e_i^2) where rho >= e_i, N(0, rho^2) elsewhere. Here x_s = alpha_s (.) is written out, so
that nothing is divided by an alpha that may be 0.

Where this differs: the step to 0, which the paper leaves at xhat0, draws from N(xhat0, r^2 I) N(y; A x, noise_std^2 I),
with r the spread of x0 given x_t. Otherwise no draw could be closer to y than the last noise level.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import grids
from scoresde.inverse.gaussian_step import GaussianStep, spectral, why_not_spectral
from scoresde.inverse.levels import estimate, spread
from scoresde.inverse.problem import Draws, Method, Problem, Run, check_finite
from scoresde.linalg import SVD
from scoresde.sde import Level


@dataclass(frozen=True)
class DDRM(Method):
    """DDRM, for linear A with an SVD and noise that is the same for all entries of y.

    A step costs a network call, and no network gradients. It needs no tuning when noise_std is known. It is not
    asymptotically exact: what y says of a coordinate enters without regard to the prior's correlations, the noise of y
    is the same at each step, and with eta > 0 the draws are narrower than the posterior at any number of steps, as each
    draws afresh most of the noise but not the spread of x0.

    Args:
        eta: share of fresh noise, in [0, 1], where the noise is below that of the measurement.
        eta_b: how far the measurement replaces the estimate, in [0, 1], where the noise is above it.

    Raises:
        ValueError: eta or eta_b outside [0, 1].
    """

    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("eta", self.eta), ("eta_b", self.eta_b)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} = {value}; it must lie in [0, 1]")

    def draw(self, problem: Problem, run: Run) -> Draws:
        denoiser, seen, last = problem.denoiser, Coordinates(problem, self), GaussianStep(problem)
        sde, noise = denoiser.sde, run.noise(problem)
        times = run.grid(problem, grids.LOGISTIC).tolist()
        sde.check_prior(times[0])
        x = seen.start(sde.at(times[0]), noise.start())
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            x0, eps = estimate(denoiser, x, sde.at(t))
            z = noise.at(k, t, s)()
            if s > 0:
                x = seen.step(x0, eps, sde.at(s), z, self.eta, self.eta_b)
            else:
                x = last.draw(x0, spread(sde.at(t), denoiser.data_std), z, run.noise_of_y(problem).at(k, t, s)(1))
            check_finite(x, self, t, s)
            run.on_step()
        return Draws(x)


class Coordinates:
    """The measurement in the coordinates of V' x.

    Attributes:
        svd: of A.
        measured: which coordinates A sees.
        y: (U' y)_i / d_i, in the dtype of y, (1 or B, *spectral); 0 where not measured.
        e: noise_std / d_i, the standard deviation of y_i; infinite where not measured.

    Raises:
        ValueError: A is not linear, or there is no SVD to work with.
    """

    def __init__(self, problem: Problem, method: Method) -> None:
        self.svd = _svd(problem, method)
        y, d = problem.y, self.svd.values.to(problem.y.device)
        self.measured = d > self.svd.cutoff
        e = torch.where(self.measured, float(problem.noise_std) / d, math.inf)
        self.y = (self.svd.ut(y.double()) * torch.where(self.measured, d, math.inf).reciprocal()).to(y)
        self.e = e.to(y)

    def start(self, t: Level, z: Tensor) -> Tensor:
        """x at the first time from standard normals z: around y_i where that is cleaner than t."""
        alpha, sigma = float(t.alpha), float(t.sigma)
        z = self.svd.vt(z)
        above = sigma >= alpha * self.e
        std = (sigma**2 - (alpha * self.e).square()).clamp_min(0.0).sqrt()
        return self.svd.v(torch.where(above, alpha * self.y + std * z, sigma * z))

    def step(self, x0: Tensor, eps: Tensor, s: Level, z: Tensor, eta: float, eta_b: float) -> Tensor:
        """x_s from the estimates of x0 and of the noise, and standard normals z."""
        alpha, sigma, vt = float(s.alpha), float(s.sigma), self.svd.vt
        x0, eps, z = vt(x0), vt(eps), vt(z)
        above = sigma >= alpha * self.e
        towards = torch.where(self.measured, (self.y - x0) / self.e, eps)
        below_mean = alpha * x0 + math.sqrt(1.0 - eta**2) * sigma * towards
        above_mean = alpha * ((1.0 - eta_b) * x0 + eta_b * self.y)
        above_std = (sigma**2 - (eta_b * alpha * self.e).square()).clamp_min(0.0).sqrt()
        mean = torch.where(above, above_mean, below_mean)
        return self.svd.v(mean + torch.where(above, above_std, eta * sigma) * z)


def _svd(problem: Problem, method: Method) -> SVD:
    """The SVD of A, or why there is none."""
    problem.operator.as_linear()  # or it is refused
    svd = spectral(problem)
    if svd is None:
        raise ValueError(
            f"{method} works in the SVD of A: {why_not_spectral(problem)}; MMPS, DiffPIR and DAPS do without"
        )
    return svd
