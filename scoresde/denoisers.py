r"""Denoisers: (x, t) -> E[x0 | x_t], and everything that follows from it.

A denoiser carries its process and answers one thing, a prediction P(x, t); its parameterisation says what P means, so
that x0, eps, the score -eps / sigma and the velocity alpha eps - sigma x0 follow (theory 5, Tweedie). Solvers use the
coefficients directly: no accuracy and no time is lost in going through x0 where the network predicts eps, or the other
way round.

Sources: Ho et al. 2020, Karras et al. 2022 (what a network is told), Saharia et al. 2022 (dynamic thresholding).
"""

from __future__ import annotations

import abc
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scoresde._tensors import Coefficient, expand
from scoresde.parameterisations import Parameterisation, PredictsEps, PredictsX0, combine_prediction
from scoresde.sde import Level, LinearSDE, ProcessWarning, Time


class Denoiser(nn.Module, abc.ABC):
    """E[x0 | x_t] under the process `sde`; exact, trained and guided ones are the same kind of thing.

    Args:
        sde: the forward process.
        parameterisation: what `predict` answers.
        shape: of one sample, without the batch dimension; None when any shape will do.
        max_log_snr: the cleanest noise level that it can be asked about (inf for exact laws).
        data_range: (low, high) where clean data live, for pictures; clipping goes by it, and samples come out in it.
        memory_format: how the states that it is sampled with lie in memory.
        data_std: standard deviation of clean data about their mean, root mean square over entries; 0.5 is usual for
            pictures in [-1, 1]. Posterior samplers take their scale from it.

    Raises:
        ValueError: an empty data range, or a data_std that is not positive.
    """

    def __init__(
        self,
        sde: LinearSDE,
        parameterisation: Parameterisation,
        shape: tuple[int, ...] | None = None,
        max_log_snr: float = math.inf,
        data_range: tuple[float, float] = (-1.0, 1.0),
        memory_format: torch.memory_format = torch.contiguous_format,
        data_std: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 < data_std < math.inf:
            raise ValueError(f"data_std = {data_std}; it must be positive")
        self.data_std = data_std
        if not data_range[0] < data_range[1]:
            raise ValueError(f"data_range = {data_range} is empty; give (low, high), such as (-1, 1) or (0, 1)")
        self.data_range = data_range
        self.sde = sde
        self.parameterisation = parameterisation
        self.shape = None if shape is None else tuple(shape)
        self.max_log_snr = max_log_snr
        self.memory_format = memory_format

    @abc.abstractmethod
    def predict(self, x: Tensor, t: Level) -> Tensor:
        """The prediction P at `x` (B, *) and the level `t`; a tensor of x's shape that the caller does not alter."""

    @property
    @abc.abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the states it works on."""

    @property
    @abc.abstractmethod
    def device(self) -> torch.device:
        """The device it works on."""

    def forward(self, x: Tensor, t: Time) -> Tensor:
        """E[x0 | x_t = x], (B, *); t is a number or (B,)."""
        return self.x0(x, t)

    def x0(self, x: Tensor, t: Time) -> Tensor:
        """E[x0 | x_t = x]."""
        level = self.sde.at(t)
        return combine_prediction(self.parameterisation.x0(level), x, self.predict(x, level))

    def eps(self, x: Tensor, t: Time) -> Tensor:
        """E[eps | x_t = x] = (x - alpha x0) / sigma."""
        level = self.sde.at(t)
        return combine_prediction(self.parameterisation.eps(level), x, self.predict(x, level))

    def score(self, x: Tensor, t: Time) -> Tensor:
        """grad_x log q_t(x) = -eps / sigma (theory 5); at t = 0 exact for exact laws, not finite for networks."""
        level = self.sde.at(t)
        return combine_prediction(self.parameterisation.score(level), x, self.predict(x, level))

    def velocity(self, x: Tensor, t: Time) -> Tensor:
        """v = alpha eps - sigma x0 (Salimans & Ho 2022)."""
        level = self.sde.at(t)
        pair = self.parameterisation.linear(level, eps=level.alpha, x0=-level.sigma)
        return combine_prediction(pair, x, self.predict(x, level))


# --- networks ------------------------------------------------------------------------------------------


class Conditioning(abc.ABC):
    """What a network is told of the noise level."""

    @abc.abstractmethod
    def __call__(self, t: Level) -> Coefficient:
        """A number, or one per sample (B,)."""

    @abc.abstractmethod
    def max_log_snr(self, sde: LinearSDE) -> float:
        """The log-SNR of the cleanest level that the network was trained on."""


@dataclass(frozen=True)
class LogSNR(Conditioning):
    """The log-SNR, held to the trained range [low, high], so that one network serves any schedule and any grid."""

    low: float = -20.0
    high: float = 20.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"log-SNR range [{self.low}, {self.high}] is empty")

    def max_log_snr(self, sde: LinearSDE) -> float:
        return self.high

    def __call__(self, t: Level) -> Coefficient:
        lam = t.log_snr
        if isinstance(lam, Tensor):
            return lam.clamp(self.low, self.high)
        if lam > self.high + 1e-6 or self.low - 1e-6 > lam > -math.inf:
            _warn_off_range(f"log-SNR = {lam:.4g} (t = {t.t:.4g})", f"[{self.low:.4g}, {self.high:.4g}]")
        return min(max(lam, self.low), self.high)


@dataclass(frozen=True)
class ChainIndex(Conditioning):
    """k = K t - 1, the 0-based index of a chain of K steps, for networks trained on one; not rounded unless asked."""

    steps: int
    rounded: bool = False

    def max_log_snr(self, sde: LinearSDE) -> float:
        return float(sde.log_snr(1.0 / self.steps))

    def __call__(self, t: Level) -> Coefficient:
        k = self.steps * t.t - 1.0
        if isinstance(k, Tensor):
            k = k.clamp(0.0, self.steps - 1.0)
            return k.round().long() if self.rounded else k
        if k < -1e-6:
            _warn_off_range(f"t = {t.t:.4g} (k = {k:.3g})", f"t >= 1/{self.steps}")
        k = min(max(k, 0.0), self.steps - 1.0)
        return round(k) if self.rounded else k


def _warn_off_range(what: str, trained: str) -> None:
    warnings.warn(
        f"{what} is off the range that the network was trained on, {trained}; the nearest end is used",
        ProcessWarning,
        stacklevel=2,
    )


class NetDenoiser(Denoiser):
    """A network module(x, condition) made a denoiser: `NetDenoiser(module, VP(), PredictsV())`.

    The network sees x at unit power (x times `parameterisation.input_scale`) and one condition per sample.

    Args:
        module: (x (B, *), condition (B,)) -> (B, *); a second half of output channels (a learned variance) is ignored.
        sde: the process it is used with.
        parameterisation: what the network predicts.
        condition: how the noise level is told to it. Default: the chain's index for a process made from a table
            of betas (`VP.from_betas`), the log-SNR for any other.
        shape: of one sample; needed only to sample without a start.
        data_range: of the clean data that the network was trained on.
        data_std: their standard deviation about their mean.
    """

    def __init__(
        self,
        module: nn.Module,
        sde: LinearSDE,
        parameterisation: Parameterisation,
        *,
        condition: Conditioning | None = None,
        shape: tuple[int, ...] | None = None,
        data_range: tuple[float, float] = (-1.0, 1.0),
        data_std: float = 0.5,
    ) -> None:
        if condition is None:
            condition = LogSNR() if sde.chain_steps is None else ChainIndex(sde.chain_steps)
        super().__init__(sde, parameterisation, shape, condition.max_log_snr(sde), data_range, data_std=data_std)
        self.module = module
        self.condition = condition

    def predict(self, x: Tensor, t: Level) -> Tensor:
        c = self.condition(t)
        if isinstance(c, Tensor):
            condition = c.to(x.device, x.dtype if c.is_floating_point() else c.dtype).expand(len(x))
        else:
            dtype = torch.long if isinstance(c, int) else x.dtype
            condition = torch.full((len(x),), c, dtype=dtype, device=x.device)
        k = self.parameterisation.input_scale(t)
        if isinstance(k, Tensor):
            x = x * expand(k, x)
        elif abs(k - 1.0) > 1e-12:  # a VP process has unit power already
            x = x * k
        prediction: Tensor = self.module(x, condition)
        if prediction.shape == x.shape:
            return prediction
        if prediction.ndim == x.ndim > 1 and prediction.shape[1] == 2 * x.shape[1]:
            return prediction[:, : x.shape[1]]
        raise ValueError(f"the network answered shape {tuple(prediction.shape)} to x of shape {tuple(x.shape)}")

    def _any_tensor(self) -> Tensor:
        for tensor in (*self.module.parameters(), *self.module.buffers()):
            if tensor.is_floating_point():
                return tensor
        return torch.empty(0)

    @property
    def dtype(self) -> torch.dtype:
        return self._any_tensor().dtype

    @property
    def device(self) -> torch.device:
        return self._any_tensor().device


class EpsNet(NetDenoiser):
    """A network that predicts the noise eps: anybody's DDPM network, with its betas declared by the process."""

    def __init__(
        self,
        module: nn.Module,
        sde: LinearSDE,
        *,
        condition: Conditioning | None = None,
        shape: tuple[int, ...] | None = None,
        data_range: tuple[float, float] = (-1.0, 1.0),
        data_std: float = 0.5,
    ) -> None:
        super().__init__(
            module, sde, PredictsEps(), condition=condition, shape=shape, data_range=data_range, data_std=data_std
        )


# --- wrappers ------------------------------------------------------------------------------------------


class Wrapped(Denoiser):
    """A denoiser around another one, `inner`: to change one behaviour of a denoiser, wrap it.

    Args:
        parameterisation: what `predict` answers; by default as `inner` does.
        memory_format: of the states; by default as for `inner`.
    """

    def __init__(
        self,
        inner: Denoiser,
        parameterisation: Parameterisation | None = None,
        memory_format: torch.memory_format | None = None,
    ) -> None:
        super().__init__(
            inner.sde,
            inner.parameterisation if parameterisation is None else parameterisation,
            inner.shape,
            inner.max_log_snr,
            inner.data_range,
            inner.memory_format if memory_format is None else memory_format,
            inner.data_std,
        )
        self.inner = inner

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        return self.inner.device

    def inner_x0(self, x: Tensor, t: Level) -> Tensor:
        """x0 as `inner` has it."""
        return combine_prediction(self.inner.parameterisation.x0(t), x, self.inner.predict(x, t))


class Clipped(Wrapped):
    """x0 clipped to the data range: static thresholding."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner, PredictsX0())

    def predict(self, x: Tensor, t: Level) -> Tensor:
        return self.inner_x0(x, t).clamp(*self.data_range)


class DynamicallyClipped(Wrapped):
    """x0 clipped, per sample, to its own quantile of |x0| where that exceeds the data range, and scaled back into it.

    |x0| is counted from the middle of the range in half ranges (Saharia et al. 2022, section 2.3).

    Raises:
        ValueError: a quantile outside (0, 1].
    """

    def __init__(self, inner: Denoiser, quantile: float = 0.995) -> None:
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile = {quantile}; it must lie in (0, 1]")
        super().__init__(inner, PredictsX0())
        self.quantile = quantile

    def predict(self, x: Tensor, t: Level) -> Tensor:
        low, high = self.data_range
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        u = (self.inner_x0(x, t) - middle) / half
        bound = expand(torch.quantile(u.flatten(1).abs(), self.quantile, dim=1).clamp_min(1.0), u)
        return middle + half * u.clamp(-bound, bound) / bound
