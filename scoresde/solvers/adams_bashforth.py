r"""Adams and Bashforth's multistep methods (1883) on the probability flow, in any variable in which it is dy/du = F.

For y = x / r and a variable u, both functions of t, the flow alpha' xhat0 + sigma' epshat becomes

    time             u = t              r = 1                        F = alpha' xhat0 + sigma' epshat
    noise ratio      u = sigma / alpha  r = alpha                    F = epshat
    squared angle    u = phi^2          r = sqrt(alpha^2 + sigma^2)  F = (cos(phi) epshat - sin(phi) xhat0) / (2 phi)

with phi = atan(sigma / alpha). The polynomial through the last F, in u, is integrated exactly on any grid. In the noise
ratio this is DEIS (Zhang & Chen 2023, rho-AB), which iPNDM (Liu et al. 2022) is up to its coefficients for equal steps.
It is infinite where alpha = 0, and time does not suit processes whose sigma has a root at 0; the squared angle is
finite and smooth at both ends of every process.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scoresde.denoisers import Denoiser
from scoresde.parameterisations import Pair, Parameterisation
from scoresde.reverse import Reverse
from scoresde.sde import NO_SIGNAL, Level
from scoresde.solvers._multistep import Correction, Multistep, check_order, corrected, weights_of_moments


class Variable(abc.ABC):
    """A variable u in which the flow of y = x / radius is dy/du = F."""

    @abc.abstractmethod
    def u(self, t: Level) -> float:
        """The variable."""

    @abc.abstractmethod
    def radius(self, t: Level) -> float:
        """x / y."""

    @abc.abstractmethod
    def slope(self, t: Level) -> tuple[float, float]:
        """(a, b) with F = a xhat0 + b epshat."""


@dataclass(frozen=True)
class Time(Variable):
    """u = t, y = x."""

    def u(self, t: Level) -> float:
        return float(t.t)

    def radius(self, t: Level) -> float:
        return 1.0

    def slope(self, t: Level) -> tuple[float, float]:
        return float(t.alpha_dot), 0.5 * float(t.sigma2_dot) / float(t.sigma)


@dataclass(frozen=True)
class NoiseRatio(Variable):
    """u = sigma / alpha, y = x / alpha: DEIS. Not for processes with alpha(1) = 0."""

    def u(self, t: Level) -> float:
        return float(t.sigma) / self.radius(t)

    def radius(self, t: Level) -> float:
        if float(t.alpha) <= NO_SIGNAL:
            raise ValueError(
                f"sigma / alpha is infinite at t = {t.t:g}; start at a smaller t with times=..., or take "
                "AdamsBashforth(variable=SquaredAngle()), which has no such end"
            )
        return float(t.alpha)

    def slope(self, t: Level) -> tuple[float, float]:
        return 0.0, 1.0


@dataclass(frozen=True)
class SquaredAngle(Variable):
    """u = phi^2, y = x / sqrt(alpha^2 + sigma^2)."""

    def u(self, t: Level) -> float:
        return _angle(t) ** 2

    def radius(self, t: Level) -> float:
        return float(t.radius)

    def slope(self, t: Level) -> tuple[float, float]:
        phi = _angle(t)
        return -math.sin(phi) / (2.0 * phi), math.cos(phi) / (2.0 * phi)


def _angle(t: Level) -> float:
    return math.atan2(float(t.sigma), float(t.alpha))


@dataclass(frozen=True)
class AdamsBashforth(Multistep):
    """Adams-Bashforth of order 2 to 4.

    The first steps have fewer slopes than the order asks. For order 3 the first one is corrected when the slope at its
    end is there; for order 4 the first two are, and the slope at the first corrected x is evaluated once more: one
    evaluation more than there are steps.

    Args:
        order: 2 to 4.
        variable: u.

    Raises:
        ValueError: another order; at the first step, a variable that is infinite there.
    """

    order: int = 3
    variable: Variable = SquaredAngle()
    stochastic = False

    def __post_init__(self) -> None:
        check_order(self.order, 2, 4)

    @property
    def points(self) -> int:
        return self.order

    @property
    def repeated(self) -> int | None:  # type: ignore[override]
        return 1 if self.order == 4 else None

    @property
    def remembered(self) -> int:
        return self.order

    def corrections(self, known: int) -> Sequence[Correction]:
        if known == 1 and self.order > 2:
            return corrected(1, 2)
        if known == 2 and self.order > 3:
            return (*corrected(2, 3), Correction(1, old=slice(1, 3), new=slice(0, 3)))
        return ()

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=0.0)

    def estimate(self, parameterisation: Parameterisation, t: Level) -> Pair:
        on_x0, on_eps = self.variable.slope(t)
        return parameterisation.linear(t, x0=on_x0, eps=on_eps)

    def keep(self, t: Level, s: Level) -> float:
        return self.variable.radius(s) / self.variable.radius(t)

    def quadrature(self, points: Sequence[Level], t: Level, s: Level) -> np.ndarray:
        u_t, u_s = self.variable.u(t), self.variable.u(s)
        v = (np.array([self.variable.u(point) for point in points]) - u_t) / (u_s - u_t)
        moments = 1.0 / np.arange(1, len(points) + 1)  # of v on [0, 1]
        return self.variable.radius(s) * (u_s - u_t) * weights_of_moments(v, moments)

    def spread(self, t: Level, s: Level) -> float:
        return 0.0
