r"""DiffPIR: plug-and-play restoration with a diffusion prior (Zhu et al., CVPR workshops 2023, algorithm 1).

Each step alternates the prior's denoiser with a proximal step towards y, and goes on with the noise that this implies:

    x~0  = argmin |y - A(x)|^2 / noise_std^2 + |x - xhat0|^2 / r^2,       r^2 = (sigma_t / alpha_t)^2 / lambda
    eps~ = (x_t - alpha_t x~0) / sigma_t
    x_s  = alpha_s x~0 + sigma_s (sqrt(1 - zeta) eps~ + sqrt(zeta) z)

(the paper's rho_t is noise_std^2 / r^2). The proximal step is exact for linear A, and by gradient descent for others.

Where this differs: r is at most `WIDEST` times the data's standard deviation.
"""

from __future__ import annotations

import abc
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import grids
from scoresde._tensors import combine, expand, flat_sum
from scoresde.inverse.gaussian_step import GaussianStep
from scoresde.inverse.langevin import check_seen
from scoresde.inverse.levels import estimate, noise_to_signal
from scoresde.inverse.problem import Draws, Method, Problem, Run, check_finite
from scoresde.reverse import prior_sample

WIDEST = 10.0
"""r in units of data_std; a wider one only lets the noise of y into what A hardly sees, which few steps do not mend."""
HALVINGS, ARMIJO = 40, 1e-4  # of a gradient step that does not lower the objective by this share of its promise


@dataclass(frozen=True)
class DiffPIR(Method):
    """DiffPIR, for any differentiable A.

    A step costs a network call and no network gradients; for linear A an exact Gaussian solve, for other A
    `inner` gradients of A. It is not asymptotically exact: the data step takes the best point, not a draw.
    lambda_ and zeta are for tuning: the authors' code has lambda_ from 1 to 12 and zeta from 0.25 to 1, by task.

    Args:
        lambda_: how much the prior counts against y, > 0.
        zeta: share of fresh noise, in [0, 1].
        inner: gradient steps of the data step, for A that is not linear.

    Raises:
        ValueError: lambda_ not positive and finite, zeta outside [0, 1], or inner < 1.
    """

    lambda_: float = 1.0
    zeta: float = 0.7
    inner: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.lambda_ < math.inf:
            raise ValueError(f"lambda_ = {self.lambda_}; it must be positive and finite")
        if not 0 <= self.zeta <= 1:
            raise ValueError(f"zeta = {self.zeta}; it must lie in [0, 1]")
        if self.inner < 1:
            raise ValueError(f"inner = {self.inner}; it must be 1 or more")

    def draw(self, problem: Problem, run: Run) -> Draws:
        denoiser, noise = problem.denoiser, run.noise(problem)
        sde = denoiser.sde
        prox: Proximal = Exact(problem) if problem.operator.linear else Descent(problem, self.inner)
        times = run.grid(problem, grids.LOGISTIC).tolist()
        x = prior_sample(sde, noise.start(), times[0])
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            now, then = sde.at(t), sde.at(s)
            r = min(noise_to_signal(now) / math.sqrt(self.lambda_), WIDEST * denoiser.data_std)
            x0 = prox(estimate(denoiser, x, now)[0], r)
            eps = combine(1.0 / now.sigma, x, -now.alpha / now.sigma, x0)
            mixed = combine(math.sqrt(1.0 - self.zeta), eps, math.sqrt(self.zeta), noise.at(k, t, s)())
            x = combine(then.alpha, x0, then.sigma, mixed)
            check_finite(x, self, t, s)
            run.on_step()
        return Draws(x)


class Proximal(abc.ABC):
    """The data step."""

    @abc.abstractmethod
    def __call__(self, m: Tensor, r: float) -> Tensor:
        """argmin |y - A(x)|^2 / noise_std^2 + |x - m|^2 / r^2, (B, *)."""


class Exact(Proximal):
    """For linear A."""

    def __init__(self, problem: Problem) -> None:
        self.step = GaussianStep(problem)

    def __call__(self, m: Tensor, r: float) -> Tensor:
        return self.step.mean(m, r)


class Descent(Proximal):
    """By gradient descent from m, each sample with its own step size, found by halving (Armijo 1966)."""

    def __init__(self, problem: Problem, inner: int) -> None:
        self.problem, self.inner = problem, inner

    def __call__(self, m: Tensor, r: float) -> Tensor:
        x = m
        size = torch.full((len(m),), r**2, dtype=torch.float64, device=m.device)
        for _ in range(self.inner):
            value, gradient = self._objective(x, m, r), self._gradient(x, m, r)
            check_seen(self.problem, value)
            slope = flat_sum(gradient.double().square())
            done = torch.zeros_like(size, dtype=torch.bool)
            for _ in range(HALVINGS):
                trial = x - expand(size, x) * gradient
                done |= self._objective(trial, m, r) <= value - ARMIJO * size * slope
                if bool(done.all()):
                    break
                size = torch.where(done, size, 0.5 * size)
            x = torch.where(expand(done, x).bool(), x - expand(size, x) * gradient, x)
            size = 2.0 * size
        return x

    def _objective(self, x: Tensor, m: Tensor, r: float) -> Tensor:
        """Half of it, (B,) float64."""
        residual = self.problem.measurement.residual(x, self.problem.y).double()
        return 0.5 * (flat_sum(residual.square()) + flat_sum((x - m).double().square()) / r**2)

    def _gradient(self, x: Tensor, m: Tensor, r: float) -> Tensor:
        std = self.problem.noise_std
        weighed = self.problem.measurement.residual(x, self.problem.y) / std
        return combine(1.0 / r**2, x - m, -1.0, self.problem.operator.pullback(x, weighed))
