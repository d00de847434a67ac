r"""RePaint (Lugmayr et al., CVPR 2022): what A sees is replaced at each step, and the rest follows the prior.

For A with A A' = I, such as a mask, x falls into A x, which is seen, and (I - A'A) x, which is not. A step from t to s
makes (RePaint 8)

    unseen     x_s ~ N(c_t x_t + c_0 xhat0, v I)                    the ancestral kernel (bridge)
    seen     A x_s ~ N(alpha_s u, sigma_s^2 I)                      a measurement, noised afresh

In the paper u = y, free of noise. Here it is a draw of A x_0 given y and x_t, as y is noisy: with r the spread of x0
given x_t for data of standard deviation data_std,

    u ~ N(A xhat0, r^2 I) N(y; u, noise_std^2 I)
      = N(A xhat0 + k (y - A xhat0), k noise_std^2),      k = r^2 / (r^2 + noise_std^2)

which is y where noise_std = 0. In the step to 0, where alpha_s = 1 and sigma_s = 0, the seen part is u: y denoised.

So that the unseen part may adapt to the seen one, each stretch of `jump` steps is gone through `resamplings` times, and
back up by the forward kernel in between (algorithm 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import grids
from scoresde._tensors import combine
from scoresde.inverse.levels import estimate, spread, with_travel
from scoresde.inverse.problem import Draws, Method, Problem, Run, check_finite
from scoresde.linalg import LinearOperator
from scoresde.reverse import prior_sample
from scoresde.sde import Level, bridge, transition

PROBES, TOLERANCE = 4, 1e-4


@dataclass(frozen=True)
class RePaint(Method):
    """RePaint, for linear A with A A' = I: masks, Walsh-Hadamard and the like.

    A step costs `resamplings` network calls, and no network gradients. It is not asymptotically exact: the seen part is
    drawn without regard to where it was in x_t, and what y says of the unseen part comes through the network alone.
    Many steps are exact for priors N(m, data_std^2 I), as u is there. It needs no tuning, but time: with few
    resamplings the unseen part does not fit the seen one.

    Args:
        resamplings: how often each stretch is gone through; 1 is plain replacement.
        jump: steps of a stretch.

    Raises:
        ValueError: resamplings < 1 or jump < 1.
    """

    resamplings: int = 10
    jump: int = 10

    def __post_init__(self) -> None:
        for name, value in (("resamplings", self.resamplings), ("jump", self.jump)):
            if value < 1:
                raise ValueError(f"{name} = {value}; it must be 1 or more")

    def draw(self, problem: Problem, run: Run) -> Draws:
        replace = _Replacement(problem, self)
        sde, noise, noise_of_y = problem.denoiser.sde, run.noise(problem), run.noise_of_y(problem)
        times = run.grid(problem, grids.LOGISTIC).tolist()
        x = prior_sample(sde, noise.start(), times[0])
        for k, (t, s, turn) in enumerate(with_travel(times, self.jump, self.resamplings)):
            z = noise.at(k, t, s)()
            if s > t:  # back up
                a, v = transition(sde.at(t), sde.at(s))
                x = combine(a, x, float(v) ** 0.5, z)
                continue
            x = replace.step(x, sde.at(t), sde.at(s), z, noise_of_y.at(k, t, s)(1))
            check_finite(x, self, t, s)
            if turn == self.resamplings - 1:
                run.on_step()
        return Draws(x)


class _Replacement:
    """The step from t to s."""

    def __init__(self, problem: Problem, method: RePaint) -> None:
        self.problem = problem
        self.A = problem.operator.as_linear()
        _check_rows(self.A, problem.y, method)

    def step(self, x: Tensor, t: Level, s: Level, z: Tensor, z_y: Tensor) -> Tensor:
        """x_s, from standard normals in the shapes of x and of y."""
        A, denoiser = self.A, self.problem.denoiser
        c_t, c_0, v = (float(c) for c in bridge(s, t))
        x0, _ = estimate(denoiser, x, t)
        ancestral = combine(c_t, x, c_0, x0).add_(z, alpha=v**0.5)
        # z serves both parts, which are orthogonal
        u = self._seen(A(x0), spread(t, denoiser.data_std), z_y)
        seen = combine(float(s.alpha), u, float(s.sigma), A(z))
        return ancestral + A.adjoint(seen - A(ancestral))

    def _seen(self, mean: Tensor, r: float, z_y: Tensor) -> Tensor:
        """A draw of A x0 ~ N(mean, r^2 I) given y."""
        variance = self.problem.noise_std**2
        k = r**2 / (r**2 + variance)
        return mean + k * (self.problem.y - mean) + (k * variance).sqrt() * z_y


def _check_rows(A: LinearOperator, y: Tensor, method: RePaint) -> None:
    """Refuse an A without A A' = I, as far as a few random y tell."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(PROBES, *y.shape[1:], dtype=torch.float64, generator=generator).to(y)
    difference = (A(A.adjoint(v)) - v).norm().item() / v.norm().item()
    if not difference <= TOLERANCE:
        raise ValueError(
            f"{method} replaces what A sees, for which A A' must be I, as of a mask; for {A}, A A' v differs from v by "
            f"{difference:.3g} of its size: take DDNM for operators with an SVD, or MMPS"
        )
