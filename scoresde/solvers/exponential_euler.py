r"""Exponential Euler-Maruyama: the linear drift and the noise exactly, the score frozen over the step.

dX = [f X - 1/2 (1 + eta^2) g^2 score] dt + eta g dW (theory 4) with the score at its value at t has the solution

    x_s = (alpha_s / alpha_t) x_t + 1/2 (1 + eta^2) alpha_s I score(x_t, t) + eta alpha_s sqrt(rho_t^2 - rho_s^2) z,

I = int_s^t alpha d(rho^2), rho = sigma / alpha: the discretisation of Lee, Lu & Tan 2023 and Chen et al. 2023, whose
bounds are those that theory quotes. For alpha^2 + sigma^2 = 1, I = 2 (1 / alpha_t - 1 / alpha_s).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde._tensors import combine
from scoresde.denoisers import Denoiser
from scoresde.reverse import Reverse
from scoresde.sde import NO_SIGNAL, LinearSDE
from scoresde.solvers.base import Draw, Solver, State

NODES, NODE_WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(32))


@dataclass(frozen=True)
class ExponentialEuler(Solver[Reverse]):
    """Exponential Euler-Maruyama with noise share eta; it needs alpha > 0 (cosine, rectified flow: not at t = 1).

    Raises:
        ValueError: eta negative; at the first step, alpha = 0 there.
    """

    eta: float = 1.0
    order = 1
    evaluations = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"eta = {self.eta}; it must be 0 (no noise) or more (1 is the reverse SDE)")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=self.eta)

    def init(self, process: Reverse, x: Tensor) -> State:
        return State(x)

    def step(self, process: Reverse, state: State, t: float, s: float, noise: Draw) -> State:
        denoiser, level = process.denoiser, process.at(t)
        keep, on_score, std = _coefficients(denoiser.sde, self.eta, t, s)
        c, d = denoiser.parameterisation.score(level)
        x = combine(keep + on_score * c, state.x, on_score * d, denoiser.predict(state.x, level), out=state.x)
        if std > 0:
            x.add_(noise(), alpha=std)
        return State(x)


@functools.lru_cache(maxsize=16384)
def _coefficients(sde: LinearSDE, eta: float, t: float, s: float) -> tuple[float, float, float]:
    """The factors of x, score and z."""
    if not s < t:
        raise ValueError(f"ExponentialEuler goes from noise to data, but was asked to step from t = {t:g} to {s:g}")
    at_t, at_s = sde.at(t), sde.at(s)
    alpha_t, alpha_s = float(at_t.alpha), float(at_s.alpha)
    if alpha_t <= NO_SIGNAL:
        raise ValueError(
            f"ExponentialEuler divides by alpha, but alpha({t:g}) = 0; start at a smaller t with times=..., "
            "or take a solver that does not: Ancestral, DDIM, SASolver"
        )
    if sde.unit_power:
        integral = 2.0 * (1.0 / alpha_t - 1.0 / alpha_s)
    else:  # alpha d(rho^2) = g^2 / alpha dt
        at = sde.at(0.5 * (s + t) + 0.5 * (t - s) * NODES)
        integral = 0.5 * (t - s) * float((NODE_WEIGHTS * (at.g2 / at.alpha)).sum())
    rho_t, rho_s = (float(at.sigma) / float(at.alpha) for at in (at_t, at_s))
    std = eta * alpha_s * math.sqrt(rho_t**2 - rho_s**2)
    return alpha_s / alpha_t, 0.5 * (1.0 + eta**2) * alpha_s * integral, std
