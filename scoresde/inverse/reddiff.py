r"""RED-diff: restoration as optimisation, with the denoiser as a regulariser (Mardani et al., ICLR 2024).

The posterior is approximated by a point mu, each sample its own, that Adam moves down

    1/2 |y - A(mu)|^2 + lambda (sigma_t / alpha_t) <epshat(x_t) - eps, mu>,       x_t = alpha_t mu + sigma_t eps

with fresh eps at each step and t falling from 1 to 0, epshat - eps held fixed in the gradient (RED-diff, algorithm 1,
with its weight lambda_t = lambda sigma_t / alpha_t). As epshat - eps = (alpha_t / sigma_t) (mu - xhat0), the gradient
is

    A'(A(mu) - y) + lambda (mu - xhat0(x_t))

which is regularisation by denoising, and finite at every t. For a prior N(m, C) and t held fixed, mu settles at the
solution of A'(A mu - y) + lambda rho^2 (C + rho^2)^-1 (mu - m) = 0, rho = sigma_t / alpha_t: a penalised least squares
point, as MAP is.

Where this differs: the published lambda is a constant, whatever the noise of y. Here (noise_std / data_std)^2 is added
to it, the weight that the prior N(m, data_std^2 I) has against y in MAP. The start is the ridge estimate with that
prior about 0, in place of A^+ y.
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
from scoresde.inverse.levels import estimate
from scoresde.inverse.problem import Draws, Method, Problem, Run, check_finite

BETA1, BETA2, TINY = 0.9, 0.99, 1e-8


@dataclass(frozen=True)
class REDDiff(Method):
    """RED-diff, for any differentiable A.

    A step costs a network call and a gradient of A, and no network gradients. It is no sampler: it looks for one likely
    point, and its draws differ only by the noise of the optimisation, much less than the posterior's do. Its weight
    and its rate are for tuning.

    Args:
        lambda_: weight of the prior, > 0, against residuals in the units of y; (noise_std / data_std)^2 is added to it.
        rate: of Adam, in units of the data's standard deviation, > 0; 0.2 is the published 0.1 for pictures in [-1, 1].

    Raises:
        ValueError: lambda_ or rate not positive and finite.
    """

    lambda_: float = 0.25
    rate: float = 0.2

    def __post_init__(self) -> None:
        for name, value in (("lambda_", self.lambda_), ("rate", self.rate)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} = {value}; it must be positive and finite")

    def draw(self, problem: Problem, run: Run) -> Draws:
        denoiser, noise = problem.denoiser, run.noise(problem)
        times = run.grid(problem, grids.LOGISTIC).tolist()
        mu = _start(problem, noise.start())
        adam = _Adam(mu, self.rate * denoiser.data_std)
        weight = self.lambda_ + float(problem.noise_std.square().mean()) / denoiser.data_std**2
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            level = denoiser.sde.at(t)
            x = combine(level.alpha, mu, level.sigma, noise.at(k, t, s)())
            gradient = weight * (mu - estimate(denoiser, x, level)[0]) - _towards(problem, mu)
            mu = adam.step(mu, gradient)
            check_finite(mu, self, t, s)
            run.on_step()
        return Draws(mu)


def _start(problem: Problem, z: Tensor) -> Tensor:
    """The ridge estimate with the data's scale for linear A; a draw of that scale for others."""
    scaled = problem.denoiser.data_std * z
    if not problem.operator.linear:
        return scaled
    return GaussianStep(problem).mean(torch.zeros_like(z), problem.denoiser.data_std)


def _towards(problem: Problem, mu: Tensor) -> Tensor:
    """(dA/dx)' (y - A(mu)); entries of y weigh by their noise, where it differs, about its root mean square."""
    variance = problem.noise_std.square()
    weight = variance.mean() / variance
    return problem.operator.pullback(mu, weight * (problem.y - problem.operator(mu)))


class _Adam:
    """Adam (Kingma & Ba 2015), entry by entry, so that samples stay apart."""

    def __init__(self, like: Tensor, rate: float) -> None:
        self.rate, self.count = rate, 0
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)

    def step(self, x: Tensor, gradient: Tensor) -> Tensor:
        self.count += 1
        self.mean = combine(BETA1, self.mean, 1.0 - BETA1, gradient)
        self.square = combine(BETA2, self.square, 1.0 - BETA2, gradient.square())
        mean = self.mean / (1.0 - BETA1**self.count)
        root = (self.square / (1.0 - BETA2**self.count)).sqrt()
        return x - self.rate * mean / (root + TINY)
