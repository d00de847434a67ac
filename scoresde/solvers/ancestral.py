"""Ancestral sampling: Ho et al. 2020, Algorithm 2, on any grid of any linear process.

x_s ~ N(c_t x_t + c_0 xhat0, variance), the bridge of X_s given X_t and X_0 (theory 4) with the estimate xhat0 put for
X_0; on a chain's own grid it is Algorithm 2. The kernel is exact given x0: what a step leaves out is the spread of
X_0 given x_t, so that on coarse grids the modes come out too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scoresde._tensors import combine
from scoresde.denoisers import Denoiser
from scoresde.reverse import Reverse
from scoresde.sde import bridge, transition
from scoresde.solvers.base import Draw, Solver, State

SMALL, LARGE = "small", "large"


@dataclass(frozen=True)
class Ancestral(Solver[Reverse]):
    """Ancestral sampling with the fixed variance beta-tilde ("small") or beta ("large").

    small: the bridge's variance sigma_s^2 v / sigma_t^2, right for data at a point; large: v, the variance of the
    forward kernel, right for N(0, I) data (Ho et al. 2020, section 3.2). No noise in the step to t = 0.

    Raises:
        ValueError: another variance.
    """

    variance: str = SMALL
    order = 1
    evaluations = 1
    stochastic = True

    def __post_init__(self) -> None:
        if self.variance not in (SMALL, LARGE):
            raise ValueError(f"variance = {self.variance!r}; it must be 'small' (beta-tilde) or 'large' (beta)")

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=1.0)

    def init(self, process: Reverse, x: Tensor) -> State:
        return State(x)

    def step(self, process: Reverse, state: State, t: float, s: float, noise: Draw) -> State:
        denoiser, level_t, level_s = process.denoiser, process.at(t), process.at(s)
        c_t, c_0, variance = bridge(level_s, level_t)
        if self.variance == LARGE:
            _, variance = transition(level_s, level_t)
        prediction = denoiser.predict(state.x, level_t)
        k, m = denoiser.parameterisation.linear(level_t, x=c_t, x0=c_0)
        x = combine(k, state.x, m, prediction, out=state.x)
        if s > 0:
            x.add_(noise(), alpha=float(variance) ** 0.5)
        return State(x)
