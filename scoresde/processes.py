"""The forward processes, each its two scales and their derivatives in closed form.

Sources: Ho et al. 2020 and Song et al. 2021 (VP, sub-VP, VE), Nichol & Dhariwal 2021 (cosine), Karras et al. 2022
(EDM), Liu et al. 2023 and Lipman et al. 2023 (rectified flow).
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde._tensors import Coefficient
from scoresde.sde import LinearSDE

# --- variance preserving -------------------------------------------------------------------------------


class VariancePreserving(LinearSDE):
    """dX = -1/2 beta X dt + sqrt(beta) dW, by the integral B of beta: alpha = exp(-B/2), sigma^2 = 1 - exp(-B)."""

    unit_power = True

    @abc.abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """Noise rate."""

    @abc.abstractmethod
    def integral(self, t: Tensor) -> Tensor:
        """B(t), the integral of beta over [0, t]."""

    @abc.abstractmethod
    def time_of_integral(self, b: Tensor) -> Tensor:
        """Inverse of B."""

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-0.5 * self.integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(-self.integral(t)))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -0.5 * self.beta(t) * self.alpha(t)

    def sigma2_dot(self, t: Tensor) -> Tensor:
        return self.beta(t) * torch.exp(-self.integral(t))

    def time_of_log_snr(self, log_snr: Coefficient) -> Tensor:
        lam = torch.as_tensor(log_snr, dtype=torch.float64)
        # SNR = 1 / (exp(B) - 1), so B = log(1 + exp(-lambda))
        return self.time_of_integral(torch.nn.functional.softplus(-lam, threshold=700.0)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class VP(VariancePreserving):
    """The DDPM process: beta(t) = beta_min + t (beta_max - beta_min) (Song et al. 2021, eq. 11).

    The default 0.1..20 is K beta_k for Ho et al.'s beta_k from 1e-4 to 0.02 with K = 1000.

    Raises:
        ValueError: beta_min < 0 or beta_max < beta_min or beta_max = 0.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _check_betas(self.beta_min, self.beta_max)
        self.check()

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def integral(self, t: Tensor) -> Tensor:
        return t * (self.beta_min + 0.5 * t * (self.beta_max - self.beta_min))

    def time_of_integral(self, b: Tensor) -> Tensor:
        # the root of 1/2 (b1 - b0) t^2 + b0 t = B in the form that does not cancel for small B
        slope = self.beta_max - self.beta_min
        return 2.0 * b / (self.beta_min + torch.sqrt(self.beta_min**2 + 2.0 * slope * b)).clamp_min(1e-300)

    @staticmethod
    def cosine(offset: float = 0.008) -> Cosine:
        """Nichol & Dhariwal's schedule, in continuous time and not clipped."""
        return Cosine(offset)

    @staticmethod
    def from_betas(betas: Tensor | np.ndarray | Sequence[float]) -> TableVP:
        """The VP process that passes through every abar_k of a discrete chain beta_1..beta_K, at t_k = k / K.

        Raises:
            ValueError: a beta outside (0, 1).
        """
        return TableVP(-np.log1p(-_table("betas", betas)))

    @staticmethod
    def from_alpha_bar(alpha_bar: Tensor | np.ndarray | Sequence[float]) -> TableVP:
        """As `from_betas`, from the table abar_1..abar_K (without abar_0 = 1).

        Raises:
            ValueError: a value outside (0, 1), or a table that does not fall.
        """
        table = _table("alpha_bar", alpha_bar)
        if (np.diff(table) >= 0).any():
            k = int(np.argmax(np.diff(table) >= 0)) + 2
            raise ValueError(f"alpha_bar must fall, but alpha_bar_{k} = {table[k - 1]} >= {table[k - 2]}")
        return TableVP(np.diff(-np.log(table), prepend=0.0))

    @staticmethod
    def song(betas: Tensor | np.ndarray | Sequence[float]) -> SongVP:
        """Song's convention: beta(t_k) = K beta_k, interpolated. Its marginals differ from the chain's by O(1/K)."""
        return SongVP(_table("betas", betas))


def _check_betas(beta_min: float, beta_max: float) -> None:
    if not (0 <= beta_min <= beta_max < math.inf and beta_max > 0):
        raise ValueError(f"beta_min = {beta_min}, beta_max = {beta_max}: needs 0 <= beta_min <= beta_max, beta_max > 0")


def _table(name: str, values: Tensor | np.ndarray | Sequence[float]) -> np.ndarray:
    """A 1-D float64 copy, checked to lie in (0, 1)."""
    table = np.array(values.detach().cpu().numpy() if isinstance(values, Tensor) else values, dtype=np.float64)
    if table.ndim != 1 or len(table) == 0:
        raise ValueError(f"{name} must be a non-empty 1-D table, not of shape {table.shape}")
    inside = (table > 0) & (table < 1)
    if not inside.all():
        k = int(np.argmin(inside)) + 1
        raise ValueError(f"{name}: entry {k} is {table[k - 1]}; each must lie strictly between 0 and 1")
    return table


class TableVP(VariancePreserving):
    """A VP process through the points B(k/K) = -log abar_k, linear in between (beta is constant on each interval).

    Linear interpolation of -log abar keeps every abar_k exact and the inverse in closed form.

    Args:
        increments: (K,) positive, B(t_k) - B(t_{k-1}) = -log(1 - beta_k).
    """

    def __init__(self, increments: np.ndarray) -> None:
        self.chain_steps = self.steps = len(increments)
        self._knots = np.arange(self.steps + 1) / self.steps
        self._integral = np.concatenate([[0.0], np.cumsum(increments)])
        self._increments = increments
        self.check()

    def __repr__(self) -> str:
        return f"VP through a table of {self.steps} betas"

    @property
    def betas(self) -> np.ndarray:
        """beta_1..beta_K of the chain."""
        return -np.expm1(-self._increments)

    def beta(self, t: Tensor) -> Tensor:
        # right-continuous at the knots, but for t = 1, which belongs to the last interval
        k = (t * self.steps).floor().long().clamp_max(self.steps - 1)
        return torch.as_tensor(self._increments * self.steps, device=t.device)[k]

    def integral(self, t: Tensor) -> Tensor:
        return _interpolate(t, self._knots, self._integral)

    def time_of_integral(self, b: Tensor) -> Tensor:
        return _interpolate(b, self._integral, self._knots)


def _interpolate(x: Tensor, xs: np.ndarray, ys: np.ndarray) -> Tensor:
    """As np.interp, exact at the knots, in torch, whose transforms (jvp, vmap) may be under way."""
    knots, values = (torch.as_tensor(array, device=x.device) for array in (xs, ys))
    k = (torch.searchsorted(knots, x.contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
    share = ((x - knots[k]) / (knots[k + 1] - knots[k])).clamp(0.0, 1.0)
    return torch.lerp(values[k], values[k + 1], share)


class SongVP(VariancePreserving):
    """beta(t) through beta(k/K) = K beta_k, linear in between, constant on [0, 1/K] (Song et al. 2021, app. B)."""

    def __init__(self, betas: np.ndarray) -> None:
        self.chain_steps = self.steps = len(betas)
        self._knots = np.arange(self.steps + 1) / self.steps
        self._beta = self.steps * np.concatenate([betas[:1], betas])
        areas = 0.5 * (self._beta[1:] + self._beta[:-1]) / self.steps
        self._integral = np.concatenate([[0.0], np.cumsum(areas)])
        self.check()

    def __repr__(self) -> str:
        return f"VP with beta(k/K) = K beta_k, K = {self.steps}"

    def beta(self, t: Tensor) -> Tensor:
        return _interpolate(t, self._knots, self._beta)

    def integral(self, t: Tensor) -> Tensor:
        k = (t * self.steps).floor().long().clamp_max(self.steps - 1)
        at = functools.partial(torch.as_tensor, device=t.device)
        left = at(self._beta)[k]
        h = t - at(self._knots)[k]
        slope = at(np.diff(self._beta) * self.steps)[k]
        return at(self._integral)[k] + h * (left + 0.5 * slope * h)

    def time_of_integral(self, b: Tensor) -> Tensor:
        at = functools.partial(torch.as_tensor, device=b.device)
        k = (torch.searchsorted(at(self._integral), b.contiguous(), right=True) - 1).clamp(0, self.steps - 1)
        left, slope = at(self._beta)[k], at(np.diff(self._beta) * self.steps)[k]
        area = (b - at(self._integral)[k]).clamp_min(0.0)
        root = torch.sqrt((left**2 + 2.0 * slope * area).clamp_min(0.0))
        return at(self._knots)[k] + 2.0 * area / (left + root).clamp_min(1e-300)


@dataclass(frozen=True)
class Cosine(LinearSDE):
    """alpha = cos(u) / cos(u_0), u = (t + offset) / (1 + offset) pi/2, sigma^2 = 1 - alpha^2.

    Nichol & Dhariwal 2021, eq. 17.
    alpha(1) = 0: not clipped, so f and g are infinite at t = 1.
    """

    offset: float = 0.008
    unit_power = True

    def __post_init__(self) -> None:
        if not 0 <= self.offset < math.inf:
            raise ValueError(f"offset = {self.offset}; it must be >= 0")
        self.check()

    @property
    def _u0(self) -> float:
        return 0.5 * math.pi * self.offset / (1.0 + self.offset)

    def _to_end(self, t: Tensor) -> Tensor:
        return 0.5 * math.pi * (1.0 - t) / (1.0 + self.offset)  # pi/2 - u, so that cos u = sin of it is 0 at t = 1

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(self._to_end(t)) / math.cos(self._u0)

    def sigma(self, t: Tensor) -> Tensor:
        u = 0.5 * math.pi * (t + self.offset) / (1.0 + self.offset)
        # cos^2 u0 - cos^2 u = sin(u - u0) sin(u + u0): no cancellation near t = 0
        du = 0.5 * math.pi * t / (1.0 + self.offset)
        return torch.sqrt(torch.sin(du) * torch.sin(u + self._u0)) / math.cos(self._u0)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -0.5 * math.pi / (1.0 + self.offset) * torch.cos(self._to_end(t)) / math.cos(self._u0)

    def sigma2_dot(self, t: Tensor) -> Tensor:
        return -2.0 * self.alpha(t) * self.alpha_dot(t)

    def time_of_log_snr(self, log_snr: Coefficient) -> Tensor:
        lam = torch.as_tensor(log_snr, dtype=torch.float64)
        alpha = torch.sigmoid(lam).sqrt()
        t = 1.0 - torch.asin((alpha * math.cos(self._u0)).clamp_max(1.0)) * (1.0 + self.offset) * 2.0 / math.pi
        return t.clamp(0.0, 1.0)


# --- the others ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SubVP(LinearSDE):
    """Sub-variance-preserving: alpha = exp(-B/2), sigma = 1 - exp(-B) (Song et al. 2021, eq. 29), B as for `VP`."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _check_betas(self.beta_min, self.beta_max)
        self.check()

    @functools.cached_property
    def _vp(self) -> VP:
        return VP(self.beta_min, self.beta_max)

    def alpha(self, t: Tensor) -> Tensor:
        return self._vp.alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self._vp.integral(t))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self._vp.alpha_dot(t)

    def sigma2_dot(self, t: Tensor) -> Tensor:
        return 2.0 * self.sigma(t) * self._vp.sigma2_dot(t)

    def time_of_log_snr(self, log_snr: Coefficient) -> Tensor:
        # alpha / sigma = a / (1 - a^2) = r, so a = 2 r / (1 + sqrt(1 + 4 r^2)) and B = -2 log a
        log_r = 0.5 * torch.as_tensor(log_snr, dtype=torch.float64)
        # for large r use 1/r: a = 2 / (1/r + sqrt(1/r^2 + 4))
        small, inv = torch.exp(log_r.clamp_max(0.0)), torch.exp(-log_r.clamp_min(0.0))
        a = torch.where(
            log_r > 0, 2.0 / (inv + torch.sqrt(inv**2 + 4.0)), 2.0 * small / (1.0 + torch.sqrt(1.0 + 4.0 * small**2))
        )
        # log a near a = 1 from 1 - a^2 = a / r
        b = torch.where(log_r > 0, -torch.log1p(-a * inv), -2.0 * torch.log(a))
        return self._vp.time_of_integral(b).clamp(0.0, 1.0)


@dataclass(frozen=True)
class VE(LinearSDE):
    """Variance exploding: alpha = 1, sigma^2 = sigma_min^2 (r^{2t} - 1), r = sigma_max / sigma_min.

    The marginal of Song et al.'s VE-SDE (2021, eq. 30) started at the data; their own sigma_min r^t is not 0 at t = 0.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"sigma_min = {self.sigma_min}, sigma_max = {self.sigma_max}: needs 0 < sigma_min < sigma_max"
            )
        self.check()

    @property
    def _rate(self) -> float:
        return 2.0 * math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.sqrt(torch.expm1(self._rate * t))

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma2_dot(self, t: Tensor) -> Tensor:
        return self.sigma_min**2 * self._rate * torch.exp(self._rate * t)

    def time_of_log_snr(self, log_snr: Coefficient) -> Tensor:
        lam = torch.as_tensor(log_snr, dtype=torch.float64)
        return (torch.log1p(torch.exp(-lam) / self.sigma_min**2) / self._rate).clamp(0.0, 1.0)


@dataclass(frozen=True)
class EDM(LinearSDE):
    """alpha = 1, sigma = sigma_max t: Karras et al.'s (2022) sigma as the clock, with t kept in [0, 1]."""

    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_max < math.inf:
            raise ValueError(f"sigma_max = {self.sigma_max}; it must be positive")
        self.check()

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma2_dot(self, t: Tensor) -> Tensor:
        return 2.0 * self.sigma_max**2 * t

    def time_of_log_snr(self, log_snr: Coefficient) -> Tensor:
        lam = torch.as_tensor(log_snr, dtype=torch.float64)
        return (torch.exp(-0.5 * lam) / self.sigma_max).clamp(0.0, 1.0)


@dataclass(frozen=True)
class RectifiedFlow(LinearSDE):
    """alpha = 1 - t, sigma = t (Liu et al. 2023; Lipman et al. 2023). alpha(1) = 0: f and g are infinite at t = 1."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1.0 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t.clone()

    def alpha_dot(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def sigma2_dot(self, t: Tensor) -> Tensor:
        return 2.0 * t

    def time_of_log_snr(self, log_snr: Coefficient) -> Tensor:
        return torch.sigmoid(-0.5 * torch.as_tensor(log_snr, dtype=torch.float64))


class GaussianPath(LinearSDE):
    """A user's own process, given by its two scale functions of t; drift and diffusion follow by differentiation.

    Args:
        alpha, sigma: differentiable functions of a float64 tensor, with alpha(0) = 1 and sigma(0) = 0.

    Raises:
        ValueError: alpha(0) is not 1, sigma(0) is not 0, or a scale is negative or not finite.
    """

    _EDGE = 1e-9  # derivatives at 0 and 1 are taken this far inside, where sqrt(u)^2 is differentiable

    def __init__(self, alpha: Callable[[Tensor], Tensor], sigma: Callable[[Tensor], Tensor]) -> None:
        self._alpha, self._sigma = alpha, sigma
        t = torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)
        for name, values in (("alpha", self.alpha(t)), ("sigma", self.sigma(t))):
            bad = ~(values >= 0) | values.isinf()
            if bool(bad.any()):
                i = int(bad.nonzero()[0])
                raise ValueError(f"{name}({i / 1000}) = {values[i].item()}; it must be finite and >= 0 on [0, 1]")
        for name, value, wanted in (("alpha", alpha(t[:1]), 1.0), ("sigma", sigma(t[:1]), 0.0)):
            if abs(value.item() - wanted) > 1e-6:
                raise ValueError(f"{name}(0) = {value.item()}; data live at t = 0, so it must be {wanted:g}")
        self.check()

    def __repr__(self) -> str:
        return "GaussianPath"

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._sigma(t)

    def _derivative(self, function: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
        inside = t.clamp(self._EDGE, 1.0 - self._EDGE)
        return torch.func.jvp(function, (inside,), (torch.ones_like(inside),))[1]

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self._derivative(self._alpha, t)

    def sigma2_dot(self, t: Tensor) -> Tensor:
        return self._derivative(lambda u: self._sigma(u) ** 2, t)

    def time_of_log_snr(self, log_snr: Coefficient) -> Tensor:
        lam = torch.as_tensor(log_snr, dtype=torch.float64)
        low, high = torch.zeros_like(lam), torch.ones_like(lam)
        for _ in range(60):  # bisection, to 2^-60
            middle = 0.5 * (low + high)
            noisy = self.log_snr(middle) < lam
            low, high = torch.where(noisy, low, middle), torch.where(noisy, middle, high)
        return low
