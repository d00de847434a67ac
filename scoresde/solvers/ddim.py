"""DDIM (Song, Meng & Ermon 2020): keep the predicted x0 and eps, change their scales.

x_s = alpha_s xhat0 + sqrt(sigma_s^2 - v) epshat + sqrt(v) z, v = eta^2 times the bridge's variance (eq. 12 and 16).
eta = 0 is the exponential integrator of first order for the probability flow; eta = 1 has the ancestral variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from scoresde._tensors import combine
from scoresde.denoisers import Denoiser
from scoresde.reverse import Reverse
from scoresde.sde import bridge
from scoresde.solvers.base import Draw, Solver, State


@dataclass(frozen=True)
class DDIM(Solver[Reverse]):
    """DDIM with noise share eta in [0, 1]; with eta = 0 it also runs from data to noise (inversion).

    Raises:
        ValueError: eta outside [0, 1].
    """

    eta: float = 0.0
    order = 1
    evaluations = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta = {self.eta}; for DDIM it must lie in [0, 1]")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=self.eta)

    def init(self, process: Reverse, x: Tensor) -> State:
        return State(x)

    def step(self, process: Reverse, state: State, t: float, s: float, noise: Draw) -> State:
        denoiser, level_t, level_s = process.denoiser, process.at(t), process.at(s)
        alpha_s, sigma_s = float(level_s.alpha), float(level_s.sigma)
        variance = 0.0
        if self.eta > 0:
            variance = self.eta**2 * float(bridge(level_s, level_t)[2])
        linear = denoiser.parameterisation.linear
        if t == 0:  # clean data say nothing of eps: take x0 = x and ask for eps where the step goes
            prediction = denoiser.predict(state.x, level_s)
            k, m = linear(level_s, x=alpha_s, eps=sigma_s)
        else:
            prediction = denoiser.predict(state.x, level_t)
            k, m = linear(level_t, x0=alpha_s, eps=math.sqrt(sigma_s**2 - variance))
        x = combine(k, state.x, m, prediction, out=state.x)
        if variance > 0:
            x.add_(noise(), alpha=math.sqrt(variance))
        return State(x)
