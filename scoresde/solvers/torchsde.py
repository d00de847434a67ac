r"""The reverse SDE by torchsde's methods: what our own stochastic solvers are checked against.

torchsde's clock tau must increase, so that a step from t down to s < t runs over tau = -t from -t to -s, where

    dX = drift(X, t) dt + g(t) dW        reads        dX = -drift(X, -tau) dtau + g(-tau) dW.

g does not depend on X: the noise is additive, the Ito and the Stratonovich integral are the same, and methods for
either apply. A step of our loop is one step of theirs, on Brownian increments made of our own draws.

Sources: Li et al. 2020 (torchsde); Maruyama 1955, Milstein 1974, Burrage, Burrage & Tian 2004 (heun), Rossler 2010
(srk: his SRA1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchsde._core import methods
from torchsde._core.base_sde import ForwardSDE

from scoresde.denoisers import Denoiser
from scoresde.reverse import Reverse
from scoresde.sde import SDE
from scoresde.solvers.base import Draw, Solver, State


class Facts(NamedTuple):
    """Which integral a method of torchsde is for, its weak order for additive noise, and network calls in a step."""

    sde_type: str
    order: int
    evaluations: int


# Not log_ode, which is midpoint when the noise is additive, and not reversible_heun, which damps no error: in 100 steps
# to data at one point it ends 500 away.
METHODS = {
    "euler": Facts("ito", 1, 1),
    "milstein": Facts("ito", 1, 1),
    "euler_heun": Facts("stratonovich", 1, 1),
    "midpoint": Facts("stratonovich", 1, 2),
    "heun": Facts("stratonovich", 2, 2),
    "srk": Facts("ito", 2, 3),  # it asks twice at the start of a step
}


@dataclass(frozen=True)
class TorchSDE(Solver[SDE]):
    """One of torchsde's methods on any SDE, in either direction; on a denoiser's reverse SDE with noise share eta.

    heun asks for the drift at the end of a step, where a network's is singular if that is t = 0: its last step is
    midpoint's. srk takes a second draw a step, for the integral of W; along `BrownianNoise` this one is not read off
    the path but independent.

    Args:
        method: euler, milstein, euler_heun, midpoint, heun or srk.
        eta: more than 0; 1 is the reverse SDE.

    Raises:
        ValueError: another method; eta not positive; at the first step, a diffusion that is not finite there.
    """

    method: str = "euler"
    eta: float = 1.0
    stochastic = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method = {self.method!r}; of torchsde's there are {', '.join(METHODS)}")
        if not 0 < self.eta < math.inf:
            raise ValueError(
                f"eta = {self.eta}; it must be positive (1 is the reverse SDE); without noise take Scipy or RK45"
            )

    @property
    def order(self) -> int:
        """Weak order, for additive noise."""
        return METHODS[self.method].order

    @property
    def evaluations(self) -> int:
        """Network calls in a step."""
        return METHODS[self.method].evaluations

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=self.eta)

    def init(self, process: SDE, x: Tensor) -> State:
        return State(x)

    def step(self, process: SDE, state: State, t: float, s: float, noise: Draw) -> State:
        g = float(process.diffusion(t))
        if not math.isfinite(g):
            raise ValueError(
                f"{self} needs a finite diffusion, but g({t:g}) is not (alpha = 0 there); start at a smaller t "
                "with times=..., or take a solver that does not need g: Ancestral, DDIM, RK45"
            )
        name = "midpoint" if self.method == "heun" and s == 0 else self.method
        sign = math.copysign(1.0, s - t)
        sde = ForwardSDE(Forwards(process, sign, state.x.shape, METHODS[name].sde_type))
        # sdeint would ask the network once more, for shapes, and draw from torch's global generator
        method = methods.select(name, sde.sde_type)(
            sde=sde, bm=Increments(noise), dt=None, adaptive=False, rtol=None, atol=None, dt_min=None, options={}
        )
        x, _ = method.step(sign * t, sign * s, state.x.flatten(1), ())
        return State(x.view_as(state.x))


class Forwards:
    """A process as torchsde takes it: on flat states (B, D), with increasing times tau = `sign` t."""

    noise_type = "additive"

    def __init__(self, process: SDE, sign: float, shape: torch.Size, sde_type: str) -> None:
        self.process, self.sign, self.shape, self.sde_type = process, sign, shape, sde_type

    def f(self, tau: float, y: Tensor) -> Tensor:
        return self.sign * self.process.drift(y.view(self.shape), self.sign * tau).flatten(1)

    def g_prod(self, tau: float, y: Tensor, v: Tensor) -> Tensor:
        return float(self.process.diffusion(self.sign * tau)) * v


class Increments:
    """torchsde's `bm` for one step, made of its draws."""

    levy_area_approximation = "space-time"

    def __init__(self, noise: Draw) -> None:
        self.noise = noise

    def __call__(self, a: float, b: float, return_U: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """W_b - W_a, and U = integral of W_u - W_a over [a, b]: Var U = h^3 / 3, Cov(W_b - W_a, U) = h^2 / 2."""
        h = b - a
        w = math.sqrt(h) * self.noise().flatten(1)
        if not return_U:
            return w
        return w, 0.5 * h * w + h * math.sqrt(h / 12) * self.noise(1).flatten(1)
