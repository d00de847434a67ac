"""Euler's method on the probability flow: x_s = x_t + (s - t) u(x_t, t)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.denoisers import Denoiser
from scoresde.reverse import Reverse
from scoresde.sde import SDE
from scoresde.solvers.base import Draw, Solver, State


@dataclass(frozen=True)
class Euler(Solver[SDE]):
    """Euler's method; from t = 0, where a network's flow is singular, the slope is taken half a step ahead."""

    order = 1
    evaluations = 1
    stochastic = False

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=0.0)

    def init(self, process: SDE, x: Tensor) -> State:
        return State(x, (torch.empty_like(x),))

    def step(self, process: SDE, state: State, t: float, s: float, noise: Draw) -> State:
        x, (u,), _ = state
        x.add_(process.drift(x, t if t > 0 else 0.5 * s, out=u), alpha=s - t)
        return State(x, (u,))
