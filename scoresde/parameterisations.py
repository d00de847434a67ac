r"""What a prediction P(x, t) means: its affine maps to x0 and eps, written once.

    x0 = a x + b P,      eps = c x + d P,      x = alpha x0 + sigma eps                    (theory 5)

The coefficients depend on t alone and are computed in float64; the score, the training target and any combination that
a solver wants follow from them.

Sources: Vincent 2011 and Efron 2011 (Tweedie), Ho et al. 2020 (eps), Salimans & Ho 2022 (v), Karras et al. 2022
(preconditioning).
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, replace

from torch import Tensor

from scoresde._tensors import Coefficient, combine, scale
from scoresde.sde import NO_SIGNAL, Level

Pair = tuple[Coefficient, Coefficient]
"""Coefficients of two things; a constant is a float, also where times are given per sample."""


def _is(c: Coefficient, value: float) -> bool:
    """Whether a coefficient is this constant."""
    return not isinstance(c, Tensor) and c == value


def _floored(c: Coefficient) -> Coefficient:
    """Off zero, so that a limit where a scale is 0 comes out of a division: finite where it exists, else huge."""
    return c.clamp_min(1e-150) if isinstance(c, Tensor) else max(c, 1e-150)


class Parameterisation(abc.ABC):
    """The affine maps from (x, P) to x0 and eps."""

    @abc.abstractmethod
    def x0(self, t: Level) -> Pair:
        """(a, b) with x0 = a x + b P."""

    @abc.abstractmethod
    def eps(self, t: Level) -> Pair:
        """(c, d) with eps = c x + d P."""

    def input_scale(self, t: Level) -> Coefficient:
        """What x is multiplied by before a network sees it: 1 for a VP process, unit power for any other."""
        return 1.0 / t.radius

    def score(self, t: Level) -> Pair:
        """(c, d) with score = c x + d P; the limit where sigma = 0."""
        t = replace(t, sigma=_floored(t.sigma))
        c, d = self.eps(t)
        return -c / t.sigma, -d / t.sigma

    def target(self, t: Level) -> Pair:
        """(k, m) with P = k x0 + m eps: what a network is trained to predict."""
        t = replace(t, alpha=_floored(t.alpha), sigma=_floored(t.sigma))
        # k from eps = c x + d P and m from x0 = a x + b P, of which the other one would cancel
        a, b = self.x0(t)
        c, d = self.eps(t)
        return (0.0 if _is(c, 0.0) else -c * t.alpha / d), (0.0 if _is(a, 0.0) else -a * t.sigma / b)

    def linear(self, t: Level, *, x: Coefficient = 0.0, x0: Coefficient = 0.0, eps: Coefficient = 0.0) -> Pair:
        """(k, m) with  x * x_t + x0 * xhat0 + eps * epshat  =  k x_t + m P."""
        k: Coefficient = x
        m: Coefficient = 0.0
        for weight, pair in ((x0, self.x0), (eps, self.eps)):
            if isinstance(weight, Tensor) or weight != 0.0:
                on_x, on_p = pair(t)
                k, m = k + weight * on_x, m + weight * on_p
        return k, m


def _need_signal(t: Level, what: str) -> None:
    if not isinstance(t.alpha, Tensor) and t.alpha <= NO_SIGNAL:
        raise ValueError(
            f"alpha({t.t:g}) = 0: a predicted {what} says nothing of x0 there; "
            "use a network that predicts x0 or v, or start below this t"
        )


class PredictsX0(Parameterisation):
    """P = x0."""

    def x0(self, t: Level) -> Pair:
        return 0.0, 1.0

    def eps(self, t: Level) -> Pair:
        sigma = _floored(t.sigma)
        return 1.0 / sigma, -t.alpha / sigma


class PredictsEps(Parameterisation):
    """P = eps (Ho et al. 2020)."""

    def x0(self, t: Level) -> Pair:
        _need_signal(t, "eps")
        return 1.0 / t.alpha, -t.sigma / t.alpha

    def eps(self, t: Level) -> Pair:
        return 0.0, 1.0


class PredictsScore(Parameterisation):
    """P = score = -eps / sigma."""

    def x0(self, t: Level) -> Pair:
        _need_signal(t, "score")
        return 1.0 / t.alpha, t.sigma**2 / t.alpha

    def eps(self, t: Level) -> Pair:
        return 0.0, -t.sigma


class PredictsV(Parameterisation):
    """P = (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2): Salimans & Ho's v for any process; nothing divides by 0."""

    def x0(self, t: Level) -> Pair:
        return t.alpha / t.radius**2, -t.sigma / t.radius

    def eps(self, t: Level) -> Pair:
        return t.sigma / t.radius**2, t.alpha / t.radius


@dataclass(frozen=True)
class PredictsEDM(Parameterisation):
    """P = F of Karras et al. 2022 (eq. 7, table 1): the data's standard deviation balances x and F at every t."""

    data_std: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.data_std < math.inf:
            raise ValueError(f"data_std = {self.data_std}; it must be positive")

    def _power(self, t: Level) -> Coefficient:
        return t.sigma**2 + (t.alpha * self.data_std) ** 2

    def input_scale(self, t: Level) -> Coefficient:
        return self._power(t) ** -0.5

    def x0(self, t: Level) -> Pair:
        return t.alpha * self.data_std**2 / self._power(t), t.sigma * self.data_std / self._power(t) ** 0.5

    def eps(self, t: Level) -> Pair:
        return t.sigma / self._power(t), -t.alpha * self.data_std / self._power(t) ** 0.5


class PredictsExcess(Parameterisation):
    """score = (alpha P - x) / (alpha^2 + sigma^2): what the score has beyond that of N(0, I) data.

    Finite with finite coefficients on the whole of [0, 1] for a smooth law, so exact laws speak in it: the score at
    t = 0 and x0 at alpha = 0 both come out to the last digits.
    """

    def x0(self, t: Level) -> Pair:
        return t.alpha / t.radius**2, (t.sigma / t.radius) ** 2

    def eps(self, t: Level) -> Pair:
        return t.sigma / t.radius**2, -t.sigma * t.alpha / t.radius**2


def combine_prediction(pair: Pair, x: Tensor, prediction: Tensor) -> Tensor:
    """k x + m P as a new tensor."""
    k, m = pair
    return scale(m, prediction) if _is(k, 0.0) else combine(k, x, m, prediction)
