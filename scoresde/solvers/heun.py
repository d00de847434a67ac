"""Heun's method on the probability flow: the trapezoidal rule with an Euler predictor (Karras et al. 2022, alg. 1).

The flow of a network is singular at t = 0 (it divides by sigma), so that end is never evaluated: the last step down
to 0 is the midpoint rule, which has the same order and cost (Karras et al. fall back to one Euler step instead).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import grids
from scoresde.denoisers import Denoiser
from scoresde.reverse import Reverse
from scoresde.sde import SDE
from scoresde.solvers.base import Draw, Solver, State


@dataclass(frozen=True)
class Heun(Solver[SDE]):
    """Heun's method; one evaluation, half a step ahead, in a first step from t = 0."""

    order = 2
    evaluations = 2
    stochastic = False
    grid = grids.LOGISTIC
    headroom = 2.0 * math.log(2.0)  # sigma of any process falls no faster than t near 0

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=0.0)

    def init(self, process: SDE, x: Tensor) -> State:
        return State(x, tuple(torch.empty_like(x) for _ in range(3)))

    def step(self, process: SDE, state: State, t: float, s: float, noise: Draw) -> State:
        x, (u_t, u_s, ahead), _ = state
        h = s - t
        if t == 0:  # one step of second-order local error costs no order
            x.add_(process.drift(x, 0.5 * s, out=u_s), alpha=h)
            return state
        process.drift(x, t, out=u_t)
        if s == 0:
            torch.add(x, u_t, alpha=0.5 * h, out=ahead)
            x.add_(process.drift(ahead, 0.5 * t, out=u_s), alpha=h)
            return state
        torch.add(x, u_t, alpha=h, out=ahead)
        x.add_(u_t, alpha=0.5 * h).add_(process.drift(ahead, s, out=u_s), alpha=0.5 * h)
        return state
