r"""Denoising diffusion null-space models with noise, DDNM+ (Wang, Yu & Zhang, ICLR 2023), by the SVD of A.

A step puts A^+ y in place of what A sees of xhat0, as far as the noise of y allows, and adds what noise is missing. In
the coordinates of V' x, with y_i = (U' y)_i / d_i = x_i + e_i z, e_i = noise_std / d_i (DDNM 17 to 19, appendix I),

    x~0  = xhat0 + lambda_i (y_i - xhat0)                                                               Sigma_t
    x_s  ~ N(alpha_s x~0, sigma_s^2 - (alpha_s lambda_i e_i)^2),   lambda_i = 1        where sigma_s >= alpha_s e_i
    x_s  ~ N(alpha_s x~0, eta^2 sigma_s^2),   lambda_i = sqrt(1 - eta^2) sigma_s / (alpha_s e_i)        elsewhere

and N(alpha_s xhat0 + sqrt(1 - eta^2) sigma_s epshat, eta^2 sigma_s^2) where A does not see: the step of the authors'
code, which is that of DDRM with eta_b = 1. Time travel (algorithm 2) is what DDNM adds to it: after each `travel`
steps, go back up by the forward kernel and repeat.

The paper has these equations for the step of ancestral sampling too. There part of x_t is kept, with the noise of y in
it, which each step counts as fresh: the finer the grid, the more of that noise stays. Where DDNM differs from the
paper in the step to 0, so does `DDRM`, and as that does.
"""

from __future__ import annotations

from dataclasses import dataclass

from scoresde import grids
from scoresde._tensors import combine
from scoresde.inverse.ddrm import Coordinates
from scoresde.inverse.gaussian_step import GaussianStep
from scoresde.inverse.levels import estimate, spread, with_travel
from scoresde.inverse.problem import Draws, Method, Problem, Run, check_finite
from scoresde.sde import transition


@dataclass(frozen=True)
class DDNM(Method):
    """DDNM+, for linear A with an SVD and noise that is the same for all entries of y.

    A step costs `repeats` network calls, and no network gradients. It needs no tuning when noise_std is known. It is
    not asymptotically exact, for the reasons that DDRM is not; time travel mends some of what it neglects between
    coordinates, unless y is very noisy.

    Args:
        eta: share of fresh noise, in [0, 1], where A does not see or sees less well than x_t.
        travel: steps from one turn of time travel to the next.
        repeats: how often each of these stretches is gone through; 1 is no time travel.

    Raises:
        ValueError: eta outside [0, 1], travel < 1 or repeats < 1.
    """

    eta: float = 0.85
    travel: int = 5
    repeats: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta = {self.eta}; it must lie in [0, 1]")
        for name, value in (("travel", self.travel), ("repeats", self.repeats)):
            if value < 1:
                raise ValueError(f"{name} = {value}; it must be 1 or more")

    def draw(self, problem: Problem, run: Run) -> Draws:
        seen, last = Coordinates(problem, self), GaussianStep(problem)
        denoiser, noise = problem.denoiser, run.noise(problem)
        sde = denoiser.sde
        times = run.grid(problem, grids.LOGISTIC).tolist()
        sde.check_prior(times[0])
        x = seen.start(sde.at(times[0]), noise.start())
        for k, (t, s, turn) in enumerate(with_travel(times, self.travel, self.repeats)):
            z = noise.at(k, t, s)()
            if s > t:  # back up, along the forward process
                a, v = transition(sde.at(t), sde.at(s))
                x = combine(a, x, float(v) ** 0.5, z)
                continue
            x0, eps = estimate(denoiser, x, sde.at(t))
            if s > 0:
                x = seen.step(x0, eps, sde.at(s), z, self.eta, eta_b=1.0)
            else:
                x = last.draw(x0, spread(sde.at(t), denoiser.data_std), z, run.noise_of_y(problem).at(k, t, s)(1))
            check_finite(x, self, t, s)
            if turn == self.repeats - 1:
                run.on_step()
        return Draws(x)
