r"""MCGDiff (Cardoso, Idrissi, Le Corff & Moulines, ICLR 2024): particles led by a noised copy of y, on the SVD of A.

With A = U diag(d) V', what was measured of the coordinate x_i of V' x is y_i = (U' y)_i / d_i = x_i + e_i z, with
e_i = noise_std / d_i. That is the law of X_tau / alpha_tau at the time tau_i where sigma / alpha = e_i, and noises of
different coordinates are independent. So p(x_0 | y) is the law of X_0 given X_tau_i[i] = alpha_tau_i y_i for all i: a
noiseless problem, with one coordinate observed at each tau_i. Down to there, a coordinate is led by

    g_s(x) = N(alpha_s y_i; x_i, v),      v the variance of X_s | X_tau_i                      (transition)

Particles follow the ancestral kernel p(x_s | x_t) = N(mu, w I) of the prior (bridge), tilted by g_s:

    K = w / (w + v),    x_s[i] ~ N(K alpha_s y_i + (1 - K) mu_i, K v),    weight N(alpha_s y_i; mu_i, w + v) / g_t(x_t)

A coordinate whose tau_i lies between s and t is put at alpha_tau_i y_i there, with weight N(alpha_tau_i y_i; mu_i, w),
and goes on to s from there, by the kernel with the same estimate of x_0. Coordinates that have passed their tau, and
those that A does not see, follow the prior.

The authors' code puts tau_i on the nearest time of its grid, replaces the observation by a Gaussian of a small variance
kappa, divides by it once tau_i is passed, and multiplies by the likelihood at the end: by a weight that is the inverse
of a narrow Gaussian density at a draw from it, of hardly finite variance. By the identity above it is not needed, nor
is kappa. Coordinates cleaner than the last time above 0 are drawn here from N(xhat0, r^2) N(y_i; x_i, e_i^2), with r
the standard deviation of x0 given x_t, instead of being put at y_i. Resampling is systematic, theirs is multinomial.

Far above tau_i, g_s says more of x_s than y does: it takes the prior to be flat. The weights that undo this are what
costs particles, where the prior has separate modes most of all.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from scoresde import grids
from scoresde._tensors import Coefficient, flat_sum
from scoresde.denoisers import Denoiser
from scoresde.inverse.drawing import equally_weighted
from scoresde.inverse.levels import estimate, spread
from scoresde.inverse.problem import Draws, Method, Problem, Run, check_finite
from scoresde.inverse.resampling import Population
from scoresde.linalg import FromFunctions, LinearOperator
from scoresde.reverse import prior_sample
from scoresde.sde import Level, bridge, transition

ROUNDING = 1e-9  # in log-SNR


@dataclass(frozen=True)
class MCGDiff(Method):
    """Monte Carlo guided diffusion.

    For linear A with an SVD. A step costs a network call for each particle, and no network gradients. It needs no
    tuning: more particles and more steps are better. Its samples interact.

    Args:
        particles: default as many as draws are wanted. If other than that, the draws are resampled from them.
        threshold: resample when the effective number of particles falls below this share of them, in [0, 1]; at every
            step by default.

    Raises:
        ValueError: particles < 1, or a threshold outside [0, 1].
    """

    particles: int | None = None
    threshold: float = 1.0

    exact: ClassVar[str] = "many particles and steps"
    interacting: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.particles is not None and self.particles < 1:
            raise ValueError(f"particles = {self.particles}; it must be 1 or more")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold = {self.threshold}; it must lie in [0, 1]")

    def draw(self, problem: Problem, run: Run) -> Draws:
        wanted = len(run.ids)
        if self.particles is not None and self.particles != wanted:
            run = replace(run, ids=torch.arange(self.particles))
        denoiser, times = problem.denoiser, run.grid(problem, grids.GEOMETRIC).tolist()
        now = denoiser.sde.at(times[0])
        seen = Observed(problem, now)
        noise = run.noise(problem)
        x = prior_sample(denoiser.sde, noise.start(), times[0])
        z = seen.coordinates(x)
        population = Population(len(z), self.threshold, run.seed)
        population.weigh(seen.log_start(z, now))
        lead = z.new_zeros(len(z), dtype=torch.float64)  # log g_t, which the start does not follow
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            kept = population.resample()
            if kept is not None:
                x, z, lead = x[kept], z[kept], lead[kept]
            now, then = denoiser.sde.at(t), denoiser.sde.at(s)
            x0 = seen.coordinates(_x0(denoiser, x, now, run.batch_size))
            eps = noise.at(k, t, s)().flatten(1)
            if s > 0:
                z, log_w = seen.step(z, x0, now, then, eps)
            else:
                z, log_w = seen.last_step(x0, now, denoiser.data_std, eps)
            population.weigh(log_w - lead)
            lead, x = seen.log_lead(z, then), seen.back(z)
            check_finite(x, self, t, s)
            run.on_step()
        draws = Draws(
            x, population.log_weights(), population.log_evidence() + seen.log_density, population.diagnostics()
        )
        if len(x) == wanted:
            return draws
        return replace(draws, x=equally_weighted(draws, run.seed, wanted), log_weights=None)


class Observed:
    """The measurement in the coordinates of V' x, each with the time that it is a noiseless observation of.

    Coordinates z are flat, (B, D). Densities are those of y_i = (U' y)_i / d_i, in nats, (B,) float64.

    Args:
        start: where particles start; a y_i noisier than that is met there, and has no time of its own.

    Raises:
        ValueError: A is not linear, or has no SVD that is fast enough.
    """

    def __init__(self, problem: Problem, start: Level) -> None:
        A, y = _whitened(problem)
        svd, y = A.svd(problem.shape), y.double()
        projected = svd.ut(y)
        values = svd.values.to(y.device).expand(projected.shape[1:]).flatten()
        self._svd, self._spectral = svd, tuple(projected.shape[1:])
        seen = values > svd.cutoff
        log_snr = 2.0 * torch.log(values)  # of alpha / sigma = d_i / noise_std
        early = log_snr <= start.log_snr + ROUNDING
        self._early = (seen & early).nonzero()[:, 0]
        self._index = (seen & ~early).nonzero()[:, 0]
        self._noise = torch.where(seen, values, math.inf).reciprocal()
        self._y = projected.flatten() * self._noise
        sde = start.sde
        self._tau = sde.at(sde.time_of_log_snr(log_snr[self._index]))
        outside, unseen = y.square().sum() - projected.square().sum(), y.numel() - int(seen.sum())
        noise_std = problem.noise_std.double().expand(problem.y.shape[1:])
        self.log_density = float(
            torch.log(values[seen]).neg().sum()
            - 0.5 * (outside.clamp_min(0.0) + unseen * math.log(2.0 * math.pi))
            - noise_std.log().sum()
        )
        """What makes the log density of y of that of all y_i; the part of y that U does not span is noise alone."""

    def coordinates(self, x: Tensor) -> Tensor:
        """V' x, flat."""
        return self._svd.vt(x).flatten(1)

    def back(self, z: Tensor) -> Tensor:
        """x."""
        return self._svd.v(z.reshape(-1, *self._spectral))

    def log_start(self, z: Tensor, t: Level) -> Tensor:
        """log density of what is noisier than the start, given z there: y_i is x_t / alpha_t and more noise."""
        i = self._early
        more = (self._noise[i].square() - math.exp(-t.log_snr)).clamp_min(1e-300)
        return log_normal(self._y[i] - z[:, i].double() / max(t.alpha, 1e-300), more)

    def log_lead(self, z: Tensor, t: Level) -> Tensor:
        """log g_t(z), of all y_i that are cleaner than t."""
        i, tau = self._cleaner(t)
        v = torch.as_tensor(transition(tau, t)[1])
        return log_normal(t.alpha * self._y[i] - z[:, i].double(), v, t.alpha)

    def step(self, z: Tensor, x0: Tensor, t: Level, s: Level, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z at s, and the log of the integral of p(z_s | z_t) g_s(z_s), where s > 0."""
        c_t, c_0, w = (float(c) for c in bridge(s, t))
        mean = c_t * z + c_0 * x0
        new = mean + math.sqrt(w) * eps
        i, tau = self._cleaner(s)
        v = torch.as_tensor(transition(tau, s)[1])
        residual, gain = s.alpha * self._y[i] - mean[:, i].double(), w / (w + v)
        new[:, i] = mean[:, i] + (gain * residual).to(z) + (gain * v).sqrt().to(z) * eps[:, i]
        log_w = log_normal(residual, w + v, s.alpha)
        # what is passed on the way: put at y_i at its tau, and on to s from there
        i, tau = self._cleaner(t, than=s)
        x0, z = x0[:, i].double(), z[:, i].double()
        pinned = tau.alpha * self._y[i]
        on_z, on_x0, v = (torch.as_tensor(c) for c in bridge(tau, t))
        log_w = log_w + log_normal(pinned - on_z * z - on_x0 * x0, v, tau.alpha)
        on_y, on_x0, v = (torch.as_tensor(c) for c in bridge(s, tau))
        new[:, i] = (on_y * pinned + on_x0 * x0).to(new) + v.sqrt().to(new) * eps[:, i]
        return new, log_w

    def last_step(self, x0: Tensor, t: Level, data_std: float, eps: Tensor) -> tuple[Tensor, Tensor]:
        """z at 0, and the log density of all y_i that are cleaner than t, for x_0 ~ N(xhat0, r^2)."""
        i, _ = self._cleaner(t)
        r2 = spread(t, data_std) ** 2
        residual, variance = self._y[i] - x0[:, i].double(), r2 + self._noise[i].square()
        new = x0.clone()
        std = r2**0.5 * self._noise[i] * variance.rsqrt()
        new[:, i] += (r2 / variance * residual).to(x0) + std.to(x0) * eps[:, i]
        return new, log_normal(residual, variance)

    def _cleaner(self, t: Level, than: Level | None = None) -> tuple[Tensor, Level]:
        """Which coordinates have their tau below t, but not below `than`; and these tau."""
        tau = self._tau
        time, alpha, sigma, log_snr = (torch.as_tensor(c) for c in (tau.t, tau.alpha, tau.sigma, tau.log_snr))
        mask = log_snr >= t.log_snr
        if than is not None:
            mask = mask & (log_snr < than.log_snr)
        return self._index[mask], Level(time[mask], alpha[mask], sigma[mask], log_snr[mask], tau.sde)


def log_normal(residual: Tensor, variance: Tensor, scale: Coefficient = 1.0) -> Tensor:
    """sum_i log (scale_i N(residual_i; 0, variance_i)), (B, n) -> (B,)."""
    log_scale = torch.as_tensor(scale, dtype=torch.float64, device=residual.device).log()
    return flat_sum(log_scale - 0.5 * (residual.square() / variance + variance.log() + math.log(2.0 * math.pi)))


def _whitened(problem: Problem) -> tuple[LinearOperator, Tensor]:
    """A and y in units of the noise."""
    A, std = problem.operator.as_linear(), problem.noise_std
    if std.numel() == 1:
        return A / float(std), problem.y / std
    std = std.double()
    B = FromFunctions(lambda x: A(x) / std.to(x), lambda y: A.adjoint(y / std.to(y)), shape=problem.shape)
    return B, problem.y / std


def _x0(denoiser: Denoiser, x: Tensor, t: Level, batch_size: int | None) -> Tensor:
    """xhat0 of all particles, so many at once."""
    return torch.cat([estimate(denoiser, part, t)[0] for part in x.split(batch_size or len(x))])
