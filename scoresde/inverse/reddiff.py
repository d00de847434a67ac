r"""RED-diff: restoration as optimisation, with the denoiser as a regulariser (Mardani et al., ICLR 2024).

The posterior is approximated by a point mu, each sample its own, that Adam moves down

    1/2 |y - A(mu)|^2 + lambda_t (sigma_t / alpha_t) <epshat(x_t) - eps, mu>,     x_t = alpha_t mu + sigma_t eps

with fresh eps at each step and t falling from 1 to 0, epshat - eps held fixed in the gradient (RED-diff, algorithm 1,
its weights lambda sigma_t / alpha_t). As epshat - eps = (alpha_t / sigma_t) (mu - xhat0), the gradient is

    A'(A(mu) - y) + lambda_t (mu - xhat0(x_t))

which is regularisation by denoising, and finite at every t.

Where this differs: the published lambda_t is a constant lambda, whatever the noise of y. Here

    lambda_t = max(lambda, noise_std^2 / r_t^2),         r_t^2 = 1 / (1 / data_std^2 + (alpha_t / sigma_t)^2)

r_t the spread of x0 given x_t when x0 ~ N(m, data_std^2 I). For that prior, mu - xhat0 is (r_t / data_std)^2 (mu - m)
in the mean, so that mu settles at the posterior's mode whatever t. Adam's rate falls linearly to 0, which averages eps
out. The start is the ridge estimate with that prior, m = E[x0 | x_1], in place of A^+ y.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import grids
from scoresde._tensors import combine
from scoresde.inverse.gaussian_step import GaussianStep
from scoresde.inverse.levels import estimate, spread
from scoresde.inverse.problem import Draws, Method, Problem, Run, check_finite
from scoresde.sde import Level

BETA1, BETA2, TINY = 0.9, 0.99, 1e-8


@dataclass(frozen=True)
class REDDiff(Method):
    """RED-diff, for any differentiable A.

    A step, and the start, cost a network call and a gradient of A, and no network gradients. It is no sampler: it
    looks for one likely point, and its draws differ by the noise of the optimisation and by the modes it ends in,
    less than the posterior's do. It needs no tuning when noise_std is known and not tiny; lambda_ matters below.

    Args:
        lambda_: least weight of the prior, > 0, against residuals in the units of y.
        rate: of Adam at first, in units of the data's standard deviation, > 0.

    Raises:
        ValueError: lambda_ or rate not positive and finite.
    """

    lambda_: float = 0.02
    rate: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (("lambda_", self.lambda_), ("rate", self.rate)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} = {value}; it must be positive and finite")

    def draw(self, problem: Problem, run: Run) -> Draws:
        denoiser, noise = problem.denoiser, run.noise(problem)
        times = run.grid(problem, grids.LOGISTIC).tolist()
        mu = _start(problem, denoiser.sde.at(times[0]), noise.start())
        adam, steps = _Adam(mu), len(times) - 1
        variance = float(problem.noise_std.square().mean())
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            level = denoiser.sde.at(t)
            x = combine(level.alpha, mu, level.sigma, noise.at(k, t, s)())
            weight = max(self.lambda_, variance / spread(level, denoiser.data_std) ** 2)
            gradient = weight * (mu - estimate(denoiser, x, level)[0]) - _towards(problem, mu)
            mu = adam.step(mu, gradient, self.rate * denoiser.data_std * (1.0 - k / steps))
            check_finite(mu, self, t, s)
            run.on_step()
        return Draws(mu)


def _start(problem: Problem, t: Level, z: Tensor) -> Tensor:
    """From N(m, data_std^2 I), m = E[x0 | x_t] at the first time: the posterior's mean for linear A, else a draw."""
    data_std = problem.denoiser.data_std
    m, _ = estimate(problem.denoiser, t.sigma * z, t)
    return GaussianStep(problem).mean(m, data_std) if problem.operator.linear else combine(1.0, m, data_std, z)


def _towards(problem: Problem, mu: Tensor) -> Tensor:
    """(dA/dx)' (y - A(mu)); entries of y weigh by their noise, where it differs, about its root mean square."""
    variance = problem.noise_std.square()
    weight = variance.mean() / variance
    return problem.operator.pullback(mu, weight * (problem.y - problem.operator(mu)))


class _Adam:
    """Adam (Kingma & Ba 2015), entry by entry, so that samples stay apart."""

    def __init__(self, like: Tensor) -> None:
        self.count = 0
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)

    def step(self, x: Tensor, gradient: Tensor, rate: float) -> Tensor:
        self.count += 1
        self.mean = combine(BETA1, self.mean, 1.0 - BETA1, gradient)
        self.square = combine(BETA2, self.square, 1.0 - BETA2, gradient.square())
        mean = self.mean / (1.0 - BETA1**self.count)
        root = (self.square / (1.0 - BETA2**self.count)).sqrt()
        return x - rate * mean / (root + TINY)
