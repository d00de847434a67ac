r"""Twisted sequential Monte Carlo: particles steered towards y by a guided denoiser, weighed for what it gets wrong.

The prior is a chain of ancestral steps, p(x_1) prod p(x_s | x_t), and a twist psi_t(x) stands for p(y | x_t = x). The
particles target p(x_t) psi_t(x_t) at every t (Wu et al. 2023, TDS; Guarniero, Johansen & Lee 2017):

    p(x_s | x_t) = N(c_t x_t + c_0 xhat0(x_t), v I),      v = bridge's variance + c_0^2 var[x0 | x_t]
    q(x_s | x_t) = N(c_t x_t + c_0 xhat0(x_t, y), v I)                                  guided by the twist
    w  <-  w p(x_s | x_t) psi_s(x_s) / (q(x_s | x_t) psi_t(x_t))

The second term of v is what the ancestral step forgets (Bao et al. 2022, Analytic-DPM), in the mean over the
directions that A sees. The last kernel N(x_0; xhat0, v I) is multiplied by the likelihood N(y; A x_0, noise_std^2 I)
exactly. So the draws have the law p(x_0 | y) of that chain in the limit of many particles, whatever the twist, and the
product of the mean weights is an unbiased estimate of its p(y). Particles are resampled systematically when their
effective number falls.

What decides the result on a prior with separate modes is their weights, which are settled at high noise. Hence the
grid, geometric in sigma / alpha, and a start that may have the moments of the prior instead of those of N(0, I).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from scoresde import grids
from scoresde._tensors import combine, expand, flat_sum
from scoresde.distributions import GaussianMixture
from scoresde.inverse.drawing import equally_weighted
from scoresde.inverse.gaussian_step import GaussianStep, spectral, why_not_spectral
from scoresde.inverse.guided import Twist, Twisted, TwistedDenoiser
from scoresde.inverse.levels import regular, spread
from scoresde.inverse.mmps import MMPS
from scoresde.inverse.problem import Draws, Method, Problem, Run, check_finite
from scoresde.inverse.resampling import Population
from scoresde.reverse import prior_sample
from scoresde.sde import Level, LinearSDE, bridge


@dataclass(frozen=True)
class TwistedSMC(Method):
    """Twisted sequential Monte Carlo.

    For linear A. A step costs, for each particle, a network call and the vector-Jacobian products of the twist. It
    needs no tuning: more particles and more steps are better. Its samples interact.

    Args:
        particles: default as many as draws are wanted. If other than that, the draws are resampled from them.
        twist: the guided method that steers: `MMPS()` (best, for up to 64 measurements), `PiGDM()` or `TMPD()`.
        threshold: resample when the effective number of particles falls below this share of them, in [0, 1].
        start: the law of data, a Gaussian, whose noised version the particles start from, such as one with the moments
            of the prior (`law.gaussian()`); default a point at 0, so that the start is N(0, sigma(1)^2 I).

    Raises:
        ValueError: particles < 1, a threshold outside [0, 1], or a start of several components.
    """

    particles: int | None = None
    twist: Twisted = field(default_factory=MMPS)
    threshold: float = 0.5
    start: GaussianMixture | None = None

    exact: ClassVar[str] = "many particles and steps"
    interacting: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.particles is not None and self.particles < 1:
            raise ValueError(f"particles = {self.particles}; it must be 1 or more")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold = {self.threshold}; it must lie in [0, 1]")
        if self.start is not None and self.start.components > 1:
            raise ValueError(f"start has {self.start.components} components; give one Gaussian, such as law.gaussian()")

    def draw(self, problem: Problem, run: Run) -> Draws:
        wanted = len(run.ids)
        if self.particles is not None and self.particles != wanted:
            run = replace(run, ids=torch.arange(self.particles))
        if spectral(problem) is None:
            raise ValueError(
                f"the last step's density of y needs the SVD of A: {why_not_spectral(problem)}; MMPS does without"
            )
        guide, last = self.twist.denoiser(problem), GaussianStep(problem)
        guide.check_twist()
        sde, data_std = problem.denoiser.sde, problem.denoiser.data_std
        times = run.grid(problem, grids.GEOMETRIC).tolist()
        noise = run.noise(problem)
        x = self._start(sde, noise.start(), times[0])
        now = _twist(guide, x, sde.at(times[0]), run.batch_size)
        population = Population(len(x), self.threshold, run.seed)
        population.weigh(now.log_prob)
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            kept = population.resample()
            if kept is not None:
                x, now = x[kept], Twist(*(part[kept] for part in now))
            draw = noise.at(k, t, s)
            if s > 0:
                x, log_ratio = _step(x, now, regular(sde.at(t)), sde.at(s), draw())
                then = _twist(guide, x, sde.at(s), run.batch_size)
                population.weigh(log_ratio + then.log_prob - now.log_prob)
                now = then
            else:
                r = spread(sde.at(t), data_std)
                population.weigh(last.log_evidence(now.x0, r) - now.log_prob)
                x = last.draw(now.x0, r, draw(), run.noise_of_y(problem).at(k, t, s)(1))
            check_finite(x, self, t, s)
            run.on_step()
        draws = Draws(x, population.log_weights(), population.log_evidence(), population.diagnostics())
        if len(x) == wanted:
            return draws
        return replace(draws, x=equally_weighted(draws, run.seed, wanted), log_weights=None)

    def _start(self, sde: LinearSDE, z: Tensor, t: float) -> Tensor:
        """x at the first time, from standard normals z."""
        if self.start is None:
            return prior_sample(sde, z, t)
        noised = self.start.diffuse(sde, t)
        return noised.place(z.flatten(1), torch.zeros(len(z), dtype=torch.int64)).reshape(z.shape).to(z)


def _twist(guide: TwistedDenoiser, x: Tensor, t: Level, batch_size: int | None) -> Twist:
    """The twist of all particles, so many at once."""
    level = regular(t)
    parts = [guide.twist(part, level) for part in x.split(batch_size or len(x))]
    return Twist(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _step(x: Tensor, now: Twist, t: Level, s: Level, z: Tensor) -> tuple[Tensor, Tensor]:
    """x_s ~ q(x_s | x_t), and log p - log q there."""
    c_t, c_0, variance = (float(c) for c in bridge(s, t))
    std = (variance + c_0**2 * now.variance).sqrt()
    shift = c_0 * (now.guided - now.x0)
    # p / q = exp((|z|^2 - |z + shift / std|^2) / 2)
    log_ratio = -flat_sum(shift * z) / std - 0.5 * flat_sum(shift.square()) / std**2
    return combine(c_t, x, c_0, now.x0).add_(shift).addcmul_(expand(std, z), z), log_ratio
