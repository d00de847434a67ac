r"""Forward processes: what noise does to data as t runs from 0 (data) to 1 (noise).

A *linear* process has the marginals

    X_t | X_0 = x0  ~  N(alpha(t) x0, sigma(t)^2 I)                                   (theory 1)

and is the solution of dX = f(t) X dt + g(t) dW with

    f = alpha' / alpha,        g^2 = (sigma^2)' - 2 f sigma^2                         (theory 4)

so its two scale functions, and their derivatives alpha' and (sigma^2)', say everything: the four are the
primary quantities here and every other one is derived from them, once. They stay finite on the whole of
[0, 1], which f, g and sigma' do not: f and g^2 are infinite where alpha = 0, sigma' may be where sigma = 0.

Times are a float or a float64 tensor of shape () or (B,). All scales are computed in float64.

Sources: Song et al. 2021 (VP, sub-VP, VE), Karras et al. 2022 (EDM), Nichol & Dhariwal 2021 (cosine),
Liu et al. 2023 (rectified flow), Kingma et al. 2021 (log-SNR).
"""

from __future__ import annotations

import abc
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde._tensors import Coefficient, combine, scale

Time = float | Tensor
LOG_SNR_TINY = 1e-12  # relative slack when checking that the signal-to-noise ratio falls
MISMATCH_NATS = 1e-2
NO_SIGNAL = 1e-12  # an alpha below it is 0 but for rounding, as in cos(pi / 2)


class ProcessWarning(UserWarning):
    """Something that silently ruins results: a rising SNR, a terminal law that is not the prior, t off range."""


@dataclass(frozen=True, slots=True)
class Level:
    """What a linear process says of one time: floats for a scalar t, float64 tensors (B,) for a time per sample."""

    t: Coefficient
    alpha: Coefficient
    sigma: Coefficient
    alpha_dot: Coefficient  # d alpha / dt
    sigma2_dot: Coefficient  # d sigma^2 / dt
    log_snr: Coefficient

    @property
    def radius(self) -> Coefficient:
        """sqrt(alpha^2 + sigma^2): the root mean square of x_t for data of unit power."""
        return (self.alpha**2 + self.sigma**2) ** 0.5

    @property
    def f(self) -> Coefficient:
        """Drift coefficient alpha' / alpha; infinite where alpha = 0."""
        return self.alpha_dot / self.alpha if _all_above(self.alpha, NO_SIGNAL) else -self.sigma * math.inf

    @property
    def g2(self) -> Coefficient:
        """Squared diffusion (sigma^2)' - 2 f sigma^2; infinite where alpha = 0."""
        return self.sigma2_dot - 2.0 * self.f * self.sigma**2


def _all_above(c: Coefficient, low: float) -> bool:
    return bool((c > low).all()) if isinstance(c, Tensor) else c > low


def as_time(t: Time) -> Tensor:
    """`t` as a float64 tensor.

    Raises:
        ValueError: t leaves [0, 1], is not finite, or has more than one dimension.
    """
    t = torch.as_tensor(t, dtype=torch.float64)
    if t.ndim > 1:
        raise ValueError(f"t has shape {tuple(t.shape)}; it must be a number or one number per sample, (B,)")
    if not bool(((t >= 0) & (t <= 1)).all()):
        bad = t[~((t >= 0) & (t <= 1))].flatten()[0].item()
        raise ValueError(f"t = {bad} is outside [0, 1] (0 is data, 1 is noise)")
    return t


class SDE(abc.ABC):
    """dX = drift(X, t) dt + diffusion(t) dW on t in [0, 1]; a solver may run it in either direction of time."""

    @abc.abstractmethod
    def drift(self, x: Tensor, t: Time, *, out: Tensor | None = None) -> Tensor:
        """The drift at `x` (B, *) and `t`, written into `out` when given (`out` must not be `x`)."""

    @abc.abstractmethod
    def diffusion(self, t: Time) -> Coefficient:
        """The scalar diffusion coefficient: a float, or (B,) for a time per sample."""


class LinearSDE(SDE):
    """A forward process with Gaussian marginals N(alpha(t) x0, sigma(t)^2 I), given by its two scales."""

    chain_steps: int | None = None
    """K when the process was made from a discrete chain of K steps, t_k = k/K."""

    @abc.abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Signal scale, float64, alpha(0) = 1 for every process of this package."""

    @abc.abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Noise standard deviation, float64, sigma(0) = 0."""

    @abc.abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor:
        """d alpha / dt."""

    @abc.abstractmethod
    def sigma2_dot(self, t: Tensor) -> Tensor:
        """d sigma^2 / dt."""

    @abc.abstractmethod
    def time_of_log_snr(self, log_snr: Coefficient) -> Tensor:
        """Inverse of `log_snr`, clamped to [0, 1]."""

    # --- derived once, for all -------------------------------------------------------------------------

    def log_snr(self, t: Time) -> Tensor:
        """lambda(t) = 2 log(alpha / sigma); +inf at t = 0, -inf where alpha = 0."""
        t = as_time(t)
        return 2.0 * (torch.log(self.alpha(t)) - torch.log(self.sigma(t)))

    def at(self, t: Time) -> Level:
        """All scales at t. For a scalar t the answer is floats, computed once and remembered."""
        if isinstance(t, Tensor) and t.ndim > 0:
            return _level(self, as_time(t))
        return _scalar_level(self, float(t))

    def drift(self, x: Tensor, t: Time, *, out: Tensor | None = None) -> Tensor:
        """f(t) x."""
        return scale(self.at(t).f, x, out)

    def diffusion(self, t: Time) -> Coefficient:
        """g(t)."""
        return self.at(t).g2 ** 0.5

    def marginal(self, x0: Tensor, t: Time) -> tuple[Tensor, Coefficient]:
        """Mean (B, *) and standard deviation of X_t | X_0 = x0 (theory 4)."""
        level = self.at(t)
        return scale(level.alpha, x0), level.sigma

    def perturb(self, x0: Tensor, t: Time, eps: Tensor) -> Tensor:
        """x_t = alpha x0 + sigma eps: a draw of X_t | X_0 = x0 when eps ~ N(0, I)."""
        level = self.at(t)
        return combine(level.alpha, x0, level.sigma, eps)

    def transition(self, s: Time, t: Time) -> tuple[Coefficient, Coefficient]:
        """(a, v) with X_t | X_s ~ N(a X_s, v I), for s <= t (theory 4).

        Raises:
            ValueError: s > t.
        """
        return transition(self.at(s), self.at(t))

    def bridge(self, s: Time, t: Time) -> tuple[Coefficient, Coefficient, Coefficient]:
        """(c_t, c_0, v) with X_s | X_t, X_0 ~ N(c_t x_t + c_0 x0, v I), for s <= t (theory 4; (6, 7) on any grid)."""
        return bridge(self.at(s), self.at(t))

    def prior_std(self, t: float = 1.0) -> float:
        """sigma(t): standard deviation of the law N(0, sigma(t)^2 I) that sampling starts from."""
        return float(self.at(t).sigma)

    def prior_mismatch(self, t: float = 1.0, power: float = 1.0) -> float:
        """KL(law of X_t || N(0, sigma(t)^2 I)), nats per dimension, at most, for data with E[X_0^2] = `power`.

        The KL is convex in the law, so a point mass is the worst case: 1/2 power alpha(t)^2 / sigma(t)^2.
        """
        return 0.5 * power * math.exp(float(self.log_snr(t)))

    def check_prior(self, t: float = 1.0) -> None:
        """Warn (`ProcessWarning`) when the law of x(t) is far from the N(0, sigma(t)^2 I) that sampling starts from."""
        nats = self.prior_mismatch(t)
        if nats > MISMATCH_NATS:
            warnings.warn(
                f"{self}: at t = {t:g} the data still show: up to {nats:.3g} nats per dimension between the law of "
                f"x({t:g}) and the N(0, {self.prior_std(t):.3g}^2) that sampling starts from (for data of unit power); "
                "take more noise, or start at a larger t",
                ProcessWarning,
                stacklevel=3,
            )

    def check(self) -> None:
        """Warn (`ProcessWarning`) of a signal-to-noise ratio that rises, and of a terminal law far from the prior."""
        lam = self.log_snr(torch.linspace(0.0, 1.0, 1001, dtype=torch.float64))
        if bool(lam.isnan().any()):
            raise ValueError(f"{self}: alpha and sigma must be finite, non-negative and not both 0 on [0, 1]")
        rise = lam[1:] > lam[:-1] + LOG_SNR_TINY * lam[1:].abs()
        if bool(rise.any()):
            t = int(rise.nonzero()[0]) / 1000
            warnings.warn(
                f"{self}: the signal-to-noise ratio rises after t = {t:.3f}; it must fall from t = 0 to 1, "
                "or no reverse kernel exists",
                ProcessWarning,
                stacklevel=3,
            )
        self.check_prior()


@functools.lru_cache(maxsize=16384)
def _scalar_level(sde: LinearSDE, t: float) -> Level:
    level = _level(sde, as_time(t))
    return Level(*(float(getattr(level, name)) for name in Level.__slots__))


def _level(sde: LinearSDE, t: Tensor) -> Level:
    return Level(t, sde.alpha(t), sde.sigma(t), sde.alpha_dot(t), sde.sigma2_dot(t), sde.log_snr(t))


def transition(s: Level, t: Level) -> tuple[Coefficient, Coefficient]:
    """a = alpha_t / alpha_s and v = sigma_t^2 - a^2 sigma_s^2, of X_t | X_s (theory 4); a = 0 where alpha_t = 0."""
    a = t.alpha / s.alpha if _all_above(s.alpha, 0.0) else 0.0 * t.alpha
    # v = sigma_t^2 (1 - SNR_t / SNR_s): no difference of nearly equal numbers when s is near t
    gap = t.log_snr - s.log_snr
    if isinstance(gap, Tensor):
        if bool((gap > 0).any()):
            raise ValueError("a transition goes from s to a later t: every s must be <= its t")
        return a, -(t.sigma**2) * torch.expm1(gap.nan_to_num(nan=0.0, neginf=-math.inf))
    if gap > 0:
        raise ValueError(f"a transition goes from s to a later t, but s = {s.t} > t = {t.t}")
    return a, 0.0 if math.isnan(gap) else -(t.sigma**2) * math.expm1(gap)


def bridge(s: Level, t: Level) -> tuple[Coefficient, Coefficient, Coefficient]:
    """Coefficients of x_t and x0 and the variance of X_s | X_t, X_0 (theory 4). At t = 0 all of it is x0."""
    a, v = transition(s, t)
    if not _all_above(t.sigma, 0.0):
        return 0.0 * t.sigma, 1.0 + 0.0 * t.sigma, 0.0 * t.sigma
    sigma2_t = t.sigma**2
    return a * s.sigma**2 / sigma2_t, s.alpha * v / sigma2_t, s.sigma**2 * v / sigma2_t


# --- variance preserving -------------------------------------------------------------------------------


class VariancePreserving(LinearSDE):
    """dX = -1/2 beta X dt + sqrt(beta) dW, by the integral B of beta: alpha = exp(-B/2), sigma^2 = 1 - exp(-B)."""

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
        if not (0 <= self.beta_min <= self.beta_max < math.inf and self.beta_max > 0):
            raise ValueError(
                f"beta_min = {self.beta_min}, beta_max = {self.beta_max}: needs 0 <= beta_min <= beta_max, beta_max > 0"
            )
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
    y = np.interp(x.detach().cpu().numpy(), xs, ys)
    return torch.as_tensor(y, dtype=torch.float64, device=x.device)


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
        if not (0 <= self.beta_min <= self.beta_max < math.inf and self.beta_max > 0):
            raise ValueError(
                f"beta_min = {self.beta_min}, beta_max = {self.beta_max}: needs 0 <= beta_min <= beta_max, beta_max > 0"
            )
        self.check()

    @property
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
