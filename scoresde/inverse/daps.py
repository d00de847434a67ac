r"""DAPS (Zhang et al. 2024, arXiv:2407.01521): noise levels decoupled by drawing x0 anew at each.

    xhat0 = the probability flow from x_t to 0, a few steps                             (algorithm 1)
    x0 ~ N(xhat0, r_t^2 I) N(y; A(x0), noise_std^2 I)
    x_s = alpha_s x0 + sigma_s eps

Consecutive x_t need not be close, so errors at high noise can be mended later. The draw of x0 is exact for linear A,
and by Metropolis-corrected Langevin steps otherwise (`langevin`), always with the true noise_std. Published are
uncorrected Langevin steps, with step sizes and a width of the likelihood tuned for each task.

r_t is a guess of the standard deviation of x0 given x_t. Published is sigma_t / alpha_t. Here it is that of
x0 ~ N(0, data_std^2 I),

    r_t^2 = sigma_t^2 data_std^2 / (sigma_t^2 + alpha_t^2 data_std^2)                   (as in PiGDM)

which is the same at low noise, and does not exceed the spread of the data at high noise.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from scoresde import grids
from scoresde._tensors import combine
from scoresde.inverse.langevin import likelihood_step
from scoresde.inverse.levels import spread
from scoresde.inverse.problem import Draws, Method, Problem, Run, check_finite
from scoresde.reverse import prior_sample
from scoresde.sampling import solve
from scoresde.solvers import UniPC


@dataclass(frozen=True)
class DAPS(Method):
    """Decoupled annealing posterior sampling.

    For any A, linear or not. A step costs `flow_steps` network calls, and for an A that is not linear
    `langevin_steps` evaluations of A and pullbacks; where it has no pullback, evaluations only, but many more are
    needed. No network gradients. No tuning. It is exact in no limit: the law of x0 given x_t is taken to be Gaussian.

    Args:
        flow_steps: network calls from x_t to 0. With 1, xhat0 is the mean of x0 given x_t; with more it comes near to a
            draw, whose spread r_t counts again. On mixtures 1 is nearest to the posterior.
        langevin_steps: of each draw when A is not linear; their sizes are found in the first half.

    Raises:
        ValueError: flow_steps < 1 or langevin_steps < 2.
    """

    flow_steps: int = 5
    langevin_steps: int = 30

    def __post_init__(self) -> None:
        if self.flow_steps < 1:
            raise ValueError(f"flow_steps = {self.flow_steps}; it must be 1 or more")
        if self.langevin_steps < 2:
            raise ValueError(f"langevin_steps = {self.langevin_steps}; it must be 2 or more")

    def draw(self, problem: Problem, run: Run) -> Draws:
        denoiser = problem.denoiser
        times = run.grid(problem, grids.GEOMETRIC).tolist()
        noise, likelihood = run.noise(problem), likelihood_step(problem, run, self.langevin_steps)
        solver, cleanest = UniPC(), denoiser.max_log_snr
        flow = solver.reverse(denoiser)
        x = prior_sample(denoiser.sde, noise.start(), times[0])
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            now, then = denoiser.sde.at(t), denoiser.sde.at(s)
            down = grids.descent(denoiser.sde, t, self.flow_steps, max_log_snr=cleanest)
            x0 = solve(flow, solver, down, x, noise)
            x0 = likelihood.draw(x0, spread(now, denoiser.data_std), x0, k)
            x = combine(then.alpha, x0, then.sigma, noise.at(k, t, s)())
            check_finite(x, self, t, s)
            run.on_step()
        return Draws(x, diagnostics=likelihood.diagnostics())
