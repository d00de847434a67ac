"""The classical Runge-Kutta method of order 4 on the probability flow (Kutta 1901).

As in `heun.py`, t = 0 is never evaluated, since a network's flow is singular there. The last step down to 0 is
Ralston's (1962) method of order 3, whose stages end at 3/4 of the step; a first step from 0 extrapolates its first
slope from three inside. Each happens once, with a local error of fourth order, and costs the order nothing.
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
class RK4(Solver[SDE]):
    """Runge-Kutta of order 4; three evaluations in a last step to t = 0, six in a first step from it."""

    order = 4
    evaluations = 4
    stochastic = False
    grid = grids.LOGISTIC
    headroom = 2.0 * math.log(4.0)  # sigma of any process falls no faster than t near 0

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=0.0)

    def init(self, process: SDE, x: Tensor) -> State:
        return State(x, tuple(torch.empty_like(x) for _ in range(3)))

    def step(self, process: SDE, state: State, t: float, s: float, noise: Draw) -> State:
        x, (slope, stage, total), _ = state
        h = s - t

        def look(at: float, ahead: float, weight: float) -> None:
            """slope <- the slope at x + ahead slope, time t + at h; total <- total + weight slope."""
            torch.add(x, slope, alpha=ahead * h, out=stage)
            total.add_(process.drift(stage, t + at * h, out=slope), alpha=weight)

        if t == 0:
            self._first_slope(process, state, h)
        else:
            process.drift(x, t, out=slope)
        if s == 0:  # Ralston
            torch.mul(slope, 2 / 9, out=total)
            look(0.5, 0.5, 1 / 3)
            look(0.75, 0.75, 4 / 9)
        else:
            torch.mul(slope, 1 / 6, out=total)
            look(0.5, 0.5, 1 / 3)
            look(0.5, 0.5, 1 / 3)
            look(1.0, 1.0, 1 / 6)
        x.add_(total, alpha=h)
        return state

    def _first_slope(self, process: SDE, state: State, h: float) -> None:
        """slope <- the slope at t = 0, by the parabola through those at h/4, h/2 and 3h/4."""
        x, (slope, stage, _), _ = state
        slope.zero_()
        for at, weight in ((0.25, 3.0), (0.5, -3.0), (0.75, 1.0)):
            slope.add_(process.drift(x, at * h, out=stage), alpha=weight)
