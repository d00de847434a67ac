r"""Denoising diffusion null-space models with noise, DDNM+ (Wang, Yu & Zhang, ICLR 2023), by the SVD of A.

A step puts A^+ y in place of what A sees of xhat0, as far as the noise of y allows, and goes on by the ancestral kernel
N(c_t x_t + c_0 xhat0, v) of the prior (bridge). In the coordinates of V' x, with y_i = (U' y)_i / d_i = x_i + e_i z,
e_i = noise_std / d_i (DDNM 17 to 19, appendix I),

    x~0  = xhat0 + lambda_i (y_i - xhat0),          lambda_i = min(1, sqrt(v) / (c_0 e_i))            Sigma_t
    x_s  ~ N(c_t x_t + c_0 x~0, v - (c_0 lambda_i e_i)^2)                                             Phi_t

so that the noise of y_i and the fresh noise have the variance v together; coordinates that A does not see follow the
prior's own kernel. Time travel (algorithm 2): after each `travel` steps, go back up by the forward kernel and repeat.

The step to 0, where v = 0, would leave xhat0 alone: here it draws from N(xhat0, r^2 I) N(y; A x, noise_std^2 I), with r
the spread of x0 given x_t. The authors' code steps otherwise than the paper: as `DDRM(eta, eta_b=1)` does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import grids
from scoresde._tensors import combine
from scoresde.inverse.ddrm import Coordinates
from scoresde.inverse.gaussian_step import GaussianStep
from scoresde.inverse.levels import estimate, spread, with_travel
from scoresde.inverse.problem import Draws, Method, Problem, Run, check_finite
from scoresde.sde import Level, bridge, transition


@dataclass(frozen=True)
class DDNM(Method):
    """DDNM+, for linear A with an SVD and noise that is the same for all entries of y.

    A step costs `repeats` network calls, and no network gradients. It is not asymptotically exact, even where
    coordinates are independent: the noise of y is the same at each step, but counted as fresh. It needs no tuning
    when noise_std is known.

    Args:
        travel: steps from one turn of time travel to the next.
        repeats: how often each of these stretches is gone through; 1 is no time travel.

    Raises:
        ValueError: travel < 1 or repeats < 1.
    """

    travel: int = 1
    repeats: int = 1

    def __post_init__(self) -> None:
        for name, value in (("travel", self.travel), ("repeats", self.repeats)):
            if value < 1:
                raise ValueError(f"{name} = {value}; it must be 1 or more")

    def draw(self, problem: Problem, run: Run) -> Draws:
        seen, last = Coordinates(problem, self), GaussianStep(problem)
        sde, noise, data_std = problem.denoiser.sde, run.noise(problem), problem.denoiser.data_std
        times = run.grid(problem, grids.LOGISTIC).tolist()
        sde.check_prior(times[0])
        x = seen.start(sde.at(times[0]), noise.start())
        for k, (t, s, turn) in enumerate(with_travel(times, self.travel, self.repeats)):
            draw = noise.at(k, t, s)
            if s > t:  # back up, along the forward process
                a, v = transition(sde.at(t), sde.at(s))
                x = combine(a, x, float(v) ** 0.5, draw())
                continue
            x0, _ = estimate(problem.denoiser, x, sde.at(t))
            if s > 0:
                x = _step(seen, x, x0, sde.at(t), sde.at(s), draw())
            else:
                x = last.draw(x0, spread(sde.at(t), data_std), draw(), run.noise_of_y(problem).at(k, t, s)(1))
            check_finite(x, self, t, s)
            if turn == self.repeats - 1:
                run.on_step()
        return Draws(x)


def _step(seen: Coordinates, x: Tensor, x0: Tensor, t: Level, s: Level, z: Tensor) -> Tensor:
    """x_s ~ N(c_t x_t + c_0 x~0, Phi)."""
    c_t, c_0, v = (float(c) for c in bridge(s, t))
    svd = seen.svd
    x0 = svd.vt(x0)
    reach = c_0 * seen.e  # infinite where not measured
    told = x0 + (v**0.5 / reach).clamp_max(1.0) * (seen.y - x0)
    left = (v - reach.square()).clamp_min(0.0).sqrt()  # exactly 0 where the noise of y is all of v
    std = torch.where(seen.measured, left, v**0.5)
    return combine(c_t, x, 1.0, svd.v(c_0 * told + std * svd.vt(z)))
