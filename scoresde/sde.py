r"""What a forward process is: what noise does to data as t runs from 0 (data) to 1 (noise).

A *linear* process has the marginals

    X_t | X_0 = x0  ~  N(alpha(t) x0, sigma(t)^2 I)                                   (theory 1)

and is the solution of dX = f(t) X dt + g(t) dW with

    f = alpha' / alpha,        g^2 = (sigma^2)' - 2 f sigma^2                         (theory 4)

so its two scale functions, and their derivatives alpha' and (sigma^2)', say everything: the four are the
primary quantities here and every other one is derived from them, once. They stay finite on the whole of
[0, 1], which f, g and sigma' do not: f and g^2 are infinite where alpha = 0, sigma' may be where sigma = 0.

Times are a float or a float64 tensor of shape () or (B,). All scales are computed in float64.

Sources: Song et al. 2021 (the SDE), Kingma et al. 2021 (log-SNR, transition and bridge). The processes themselves are
in `processes.py`.
"""

from __future__ import annotations

import abc
import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoresde._tensors import Coefficient, combine, scale

Time = float | Tensor
LOG_SNR_TINY = 1e-12  # relative slack when checking that the signal-to-noise ratio falls
MISMATCH_NATS = 1e-2
NO_SIGNAL = 1e-12  # an alpha below it is 0 but for rounding, as in cos(pi / 2)


class ProcessWarning(UserWarning):
    """Something that silently ruins results: a rising SNR, a terminal law that is not the prior, t off range."""


@dataclass(frozen=True)
class Level:
    """What a linear process says of one time: floats for a scalar t, float64 tensors (B,) for a time per sample.

    What few ask for is computed when first asked for.
    """

    t: Coefficient
    alpha: Coefficient
    sigma: Coefficient
    log_snr: Coefficient
    sde: LinearSDE = field(repr=False, compare=False)

    @functools.cached_property
    def alpha_dot(self) -> Coefficient:
        """d alpha / dt."""
        return self._rate(self.sde.alpha_dot)

    @functools.cached_property
    def sigma2_dot(self) -> Coefficient:
        """d sigma^2 / dt."""
        return self._rate(self.sde.sigma2_dot)

    def _rate(self, function: Callable[[Tensor], Tensor]) -> Coefficient:
        return function(self.t) if isinstance(self.t, Tensor) else function(as_time(self.t)).item()

    @functools.cached_property
    def radius(self) -> Coefficient:
        """sqrt(alpha^2 + sigma^2): the root mean square of x_t for data of unit power."""
        return 1.0 if self.sde.unit_power else (self.alpha**2 + self.sigma**2) ** 0.5

    @functools.cached_property
    def f(self) -> Coefficient:
        """Drift coefficient alpha' / alpha; infinite where alpha = 0."""
        return _ratio(self.alpha_dot, self.alpha, NO_SIGNAL, otherwise=-math.inf)

    @functools.cached_property
    def g2(self) -> Coefficient:
        """Squared diffusion (sigma^2)' - 2 f sigma^2; infinite where alpha = 0."""
        return self.sigma2_dot - 2.0 * self.f * self.sigma**2


def _ratio(a: Coefficient, b: Coefficient, low: float, *, otherwise: float) -> Coefficient:
    """a / b where b > low, `otherwise` where not; entry by entry for a time per sample."""
    if isinstance(b, Tensor):
        return torch.where(b > low, a / b.clamp_min(low + 1e-300), otherwise)
    return a / b if b > low else otherwise


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

    unit_power: bool = False
    """Whether alpha^2 + sigma^2 = 1 at every t: the process preserves the variance of data of unit power."""

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
        return _log_snr(self.alpha(t), self.sigma(t))

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
    return Level(t, float(level.alpha), float(level.sigma), float(level.log_snr), sde)


def _level(sde: LinearSDE, t: Tensor) -> Level:
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return Level(t, alpha, sigma, _log_snr(alpha, sigma), sde)


def _log_snr(alpha: Tensor, sigma: Tensor) -> Tensor:
    return 2.0 * (torch.log(alpha) - torch.log(sigma))


def transition(s: Level, t: Level) -> tuple[Coefficient, Coefficient]:
    """a = alpha_t / alpha_s and v = sigma_t^2 - a^2 sigma_s^2, of X_t | X_s (theory 4); a = 0 where alpha_t = 0."""
    a = _ratio(t.alpha, s.alpha, 0.0, otherwise=0.0)
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
    sigma2_s, sigma2_t = s.sigma**2, t.sigma**2
    return (
        _ratio(a * sigma2_s, sigma2_t, 0.0, otherwise=0.0),
        _ratio(s.alpha * v, sigma2_t, 0.0, otherwise=1.0),
        _ratio(sigma2_s * v, sigma2_t, 0.0, otherwise=0.0),
    )
