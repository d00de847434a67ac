r"""The probability flow from data to noise, and how the log density changes along it.

In y = x / sqrt(alpha^2 + sigma^2) and the angle phi = atan(rho) the flow of every linear process is

    dy / dphi = cos(phi) eps - sin(phi) x0 = k x + m P,         d log p(y) / dphi = -div_y = -r (k D + m tr dP/dx)

(see `solvers/_angle.py`), bounded at both ends; k, m and r depend on t alone, and P is what the denoiser predicts. The
trajectory needs no probes, so they are drawn afresh at every node of the quadrature, where one that is fixed over the
whole trajectory, as an adaptive solver of the joint equation needs it (Grathwohl et al. 2019), cannot average out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde._tensors import combine, scale
from scoresde.denoisers import Denoiser
from scoresde.likelihood.clock import Clock, Node
from scoresde.likelihood.divergence import Divergence, Draw, Followed
from scoresde.likelihood.terminal import Reference
from scoresde.noise import normal, uniform


class Change(NamedTuple):
    """At one node: the slope of y (B, *), what the log density changes by (B,) and the variance of that over probes."""

    slope: Tensor
    gain: Tensor
    variance: Tensor
    followed: Followed | None


class Walk(NamedTuple):
    """What came of a batch: y and dy/dlog rho at the end, the integral of `gain` and its variance over probes.

    Attributes:
        failed_at: log rho where a sample was first found not finite, (B,); nan where it never was.
    """

    y: Tensor
    slope: Tensor
    integral: Tensor
    variance: Tensor
    failed_at: Tensor
    evaluations: int
    products: int

    def first(self, n: int) -> Walk:
        """That of the first n samples."""
        return self._replace(**{name: getattr(self, name)[:n] for name in self._fields[:5]})


@dataclass(frozen=True, eq=False)
class Probes(Draw):
    """Counter-based: a function of (seed, id, node, k)."""

    seed: int
    ids: Tensor
    event: tuple[int, ...]
    node: int
    dtype: torch.dtype
    device: torch.device

    def normal(self, k: int) -> Tensor:
        return normal(
            self.seed, self.ids, self.event, step=self.node, stream=k + 1, dtype=self.dtype, device=self.device
        )

    def sign(self, k: int) -> Tensor:
        u = uniform(self.seed, self.ids, self.event, step=self.node, stream=k + 1, device=self.device)
        return (2.0 * (u < 0.5) - 1.0).to(self.dtype)


@dataclass(frozen=True, eq=False)
class Flow:
    """The flow of one denoiser as the integrators see it."""

    denoiser: Denoiser
    clock: Clock
    divergence: Divergence
    reference: Reference
    seed: int
    ids: Tensor
    event: tuple[int, ...]
    keep: bool
    on_step: Callable[[], None] | None

    @property
    def dim(self) -> int:
        """D."""
        return math.prod(self.event)

    def slope(self, y: Tensor, at: Node) -> Tensor:
        """dy for a unit of the coordinate; one network call."""
        x = scale(at.level.radius, y)
        k, m, _ = self._coefficients(at)
        return combine(k, x, m, self.denoiser.predict(x, at.level))

    def change(self, y: Tensor, at: Node, draw: Draw, before: Followed | None) -> Change:
        """The slope of y, and the log density's beyond that of the reference; one network call and its products."""
        x = scale(at.level.radius, y)
        k, m, r = self._coefficients(at)
        answer = self.divergence(lambda z: self.denoiser.predict(z, at.level), x, draw, before, keep=self.keep)
        gain = r * (k * self.dim + m * answer.trace) - at.rate * self.reference.rate(at.cos, at.sin)
        return Change(combine(k, x, m, answer.prediction), gain, (r * m) ** 2 * answer.variance, answer.followed)

    def _coefficients(self, at: Node) -> tuple[float | Tensor, float | Tensor, float | Tensor]:
        """(k, m, r) of the slope for a unit of the coordinate: dphi = cos sin dlog rho."""
        k, m = self.denoiser.parameterisation.linear(at.level, eps=at.cos, x0=-at.sin)
        unit = at.cos * at.sin * at.rate
        return unit * k, unit * m, at.level.radius

    def draw(self, node: int) -> Draw:
        """The random numbers of a node."""
        return Probes(self.seed, self.ids, self.event, node, self.denoiser.dtype, self.denoiser.device)

    def stepped(self) -> None:
        if self.on_step is not None:
            self.on_step()


def finite(y: Tensor, gain: Tensor) -> Tensor:
    """Which samples still are, (B,)."""
    return y.flatten(1).isfinite().all(1) & gain.isfinite()


def first_failure(failed_at: Tensor, ok: Tensor, log_rho: float | Tensor) -> Tensor:
    """log rho noted for samples that are not `ok` and were before."""
    return torch.where(failed_at.isnan() & ~ok, log_rho, failed_at)


def log_ratio(at: Node) -> float:
    """log rho of a scalar node."""
    return math.log(at.sin / at.cos)
