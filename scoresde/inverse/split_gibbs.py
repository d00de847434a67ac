r"""Split Gibbs sampling with a diffusion prior.

A copy z of x takes the likelihood, and is held to x by a Gaussian of width r:

    pi(x, z) ~ p(x) N(z; x, r^2 I) p(y | z)

    z | x, y    N(x, r^2 I) told of y: exactly for linear A, by Metropolis-corrected Langevin steps otherwise
    x | z       p(x) N(z; x, r^2 I): the posterior of a denoising problem, so x_t = alpha_t z at the time t where
                sigma / alpha = r, and the reverse diffusion from there to 0

Both are draws, so each sweep leaves pi as it is. Under pi, x has the law of x given y = A(x + r eps) + noise_std z: for
linear A the posterior with r^2 A A' more variance in the noise. So r falls geometrically, from where pi mixes at once
to where it is near enough, and stays there for the last sweeps.

Sources: Vono, Dobigeon & Chainais 2019 (the sampler); Coeurdoux et al. 2024, Xu & Chi 2024 (DPnP), Wu et al. 2024
(PnP-DM) with diffusion priors, of which the last lets r fall in this way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde import grids
from scoresde._tensors import scale
from scoresde.inverse.langevin import likelihood_step
from scoresde.inverse.levels import LEAST_SIGNAL, noise_to_signal
from scoresde.inverse.problem import DEFAULT_STEPS, Draws, Method, Problem, Run, check_finite
from scoresde.noise import CounterNoise, Noise
from scoresde.sampling import solve
from scoresde.solvers import SASolver

SOLVER, SPREAD = SASolver(eta=1.0, points=2), 1.2
"""The reverse SDE itself: solvers with less noise have its marginals, but not its law of x_0 given x_t. With 8 steps
the variances of that law are met on a Gaussian to 2 % up to r = 1.5 and to 3 to 5 % at r = 5; with 5 steps to 10 %."""
FIRST_DRAW, DRAWS = 16, 64  # of the solver's noise: its first number, and how many a step has


@dataclass(frozen=True)
class SplitGibbs(Method):
    """Plug-and-play split Gibbs sampling.

    For any A, linear or not. A step is a sweep, at `denoise_steps` network calls, and for an A that is not linear
    `langevin_steps` evaluations of A and pullbacks; where it has no pullback, evaluations only, but many more are
    needed. No network gradients. No tuning of its step sizes. Between separate modes of the prior it moves only while r
    is large, so that their weights need many sweeps.

    Args:
        r_max, r_min: where r starts and ends, in units of the data's standard deviation.
        annealed: share of the sweeps in which r falls, in [0, 1]; at times of one's own, r is sigma / alpha at each.
        denoise_steps: of the reverse diffusion in each sweep.
        langevin_steps: of each draw when A is not linear; their sizes are found in the first halves while r falls.

    Raises:
        ValueError: out of range.
    """

    r_max: float = 3.0
    r_min: float = 0.1
    annealed: float = 0.8
    denoise_steps: int = 8
    langevin_steps: int = 20

    exact: ClassVar[str] = "r_min to 0, and many sweeps"

    def __post_init__(self) -> None:
        if not 0 < self.r_min <= self.r_max < math.inf:
            raise ValueError(f"r_min = {self.r_min}, r_max = {self.r_max}: needs 0 < r_min <= r_max")
        if not 0 <= self.annealed <= 1:
            raise ValueError(f"annealed = {self.annealed}; it must lie in [0, 1]")
        if self.denoise_steps < 1:
            raise ValueError(f"denoise_steps = {self.denoise_steps}; it must be 1 or more")
        if self.langevin_steps < 2:
            raise ValueError(f"langevin_steps = {self.langevin_steps}; it must be 2 or more")

    def draw(self, problem: Problem, run: Run) -> Draws:
        denoiser = problem.denoiser
        times, falling = self._times(problem, run)
        noise, likelihood = run.noise(problem), likelihood_step(problem, run, self.langevin_steps)
        process = SOLVER.reverse(denoiser)
        x = torch.zeros_like(noise.start())
        z = x
        for k, t in enumerate(times):
            now = denoiser.sde.at(t)
            z = likelihood.draw(x, noise_to_signal(now), z, k, adapt=k < falling)
            down = grids.descent(denoiser.sde, t, self.denoise_steps, spread=SPREAD, max_log_snr=denoiser.max_log_snr)
            x = solve(process, SOLVER, down, scale(now.alpha, z), _Inner(noise, k))
            check_finite(x, self, t, 0.0)
            run.on_step()
        return Draws(x, diagnostics=likelihood.diagnostics())

    def _times(self, problem: Problem, run: Run) -> tuple[list[float], int]:
        """Those where sigma / alpha = r, one for each sweep, and in how many of them r falls."""
        sde, max_log_snr = problem.denoiser.sde, problem.denoiser.max_log_snr
        if run.times is None:
            sweeps = DEFAULT_STEPS if run.steps is None else run.steps
            falling = max(1, round(self.annealed * sweeps))
            log_r = torch.linspace(math.log(self.r_max), math.log(self.r_min), falling, dtype=torch.float64)
            log_r[-1] = math.log(self.r_min)  # also of a single sweep
            log_r = torch.cat([log_r, log_r[-1:].expand(sweeps - falling)]) + math.log(problem.denoiser.data_std)
            log_snr = -2.0 * log_r
        else:
            log_snr = sde.log_snr(run.times[:-1])
            falling = len(log_snr)
        noisiest = max(float(sde.log_snr(1.0)), 2.0 * math.log(LEAST_SIGNAL))
        return sde.time_of_log_snr(log_snr.clamp(noisiest, max_log_snr)).tolist(), falling


@dataclass(frozen=True, eq=False)
class _Inner(Noise):
    """The noise of one sweep's solver, off all else."""

    noise: CounterNoise
    sweep: int

    def start(self) -> Tensor:
        return self.noise.start()

    def at(self, step: int, t: float, s: float) -> Callable[..., Tensor]:
        draw = self.noise.at(self.sweep, t, s)
        return lambda k=0: draw(FIRST_DRAW + DRAWS * step + k)
