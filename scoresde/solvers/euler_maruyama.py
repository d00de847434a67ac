"""Euler-Maruyama: x_s = x_t + (s - t) drift(x_t, t) + g(t) (W_s - W_t) (Maruyama 1955; Song et al. 2021, app. D)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.denoisers import Denoiser
from scoresde.reverse import Reverse
from scoresde.sde import SDE
from scoresde.solvers.base import Draw, Solver, State


@dataclass(frozen=True)
class EulerMaruyama(Solver[SDE]):
    """Euler-Maruyama on any SDE, in either direction of time; on a denoiser's reverse SDE with noise share eta.

    Strong order 1 (the noise is additive) and weak order 1. It needs a finite g, which processes with alpha(1) = 0
    (cosine, rectified flow) do not have at t = 1.

    Raises:
        ValueError: eta negative; at the first step, a diffusion that is not finite there.
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

    def init(self, process: SDE, x: Tensor) -> State:
        return State(x, (torch.empty_like(x),))

    def step(self, process: SDE, state: State, t: float, s: float, noise: Draw) -> State:
        x, (drift,), _ = state
        g = float(process.diffusion(t))
        if not math.isfinite(g):
            raise ValueError(
                f"Euler-Maruyama needs a finite diffusion, but g({t:g}) is not (alpha = 0 there); start at a smaller t "
                "with times=..., or take a solver that does not need g: Ancestral, DDIM, RK45"
            )
        x.add_(process.drift(x, t, out=drift), alpha=s - t)
        if g > 0:
            x.add_(noise(), alpha=g * math.sqrt(abs(s - t)))
        return State(x, (drift,))
