r"""Denoising score matching (Vincent 2011; Ho et al. 2020, Algorithm 1; theory 5).

The loss of one sample is w(t) |eps - epshat|^2 / D, with eps the noise that was added. As
|eps - epshat|^2 = sigma^2 |grad log q(x_t | x_0) - s|^2, it is score matching with weight w sigma^2; w = 1 is Ho et
al.'s "simple" loss. It is computed as w d^2 |P - P*|^2 in the network's own prediction P (d is the
coefficient of P in eps), which neither cancels nor divides by sigma.

Weights w(t), on the eps error:

    simple      1                                       Ho et al. 2020, eq. 14
    likelihood  g^2 / sigma^2 = -d(log SNR)/dt          Song et al. 2021 (Maximum likelihood training), eq. 7
    vlb         1/2 g^2 / sigma^2, nats per unit t      Kingma et al. 2021, eq. 17; a chain has its own, see `chain_vlb`
    min-snr     min(SNR, 5) / SNR                       Hang et al. 2023
    edm         1 + sigma^2 / (alpha^2 data_std^2)      Karras et al. 2022, table 1, for data_std = 0.5
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._tensors import Coefficient, combine, scale
from scoresde.denoisers import Denoiser
from scoresde.parameterisations import PredictsEDM, combine_prediction
from scoresde.sde import Level, LinearSDE

Weight = Callable[[Level], Coefficient]
MIN_SNR_GAMMA = 5.0


def simple(t: Level) -> Coefficient:
    """1."""
    return 1.0


def likelihood(t: Level) -> Coefficient:
    """g^2 / sigma^2, also where alpha is small: (sigma^2)' / sigma^2 - 2 alpha' / alpha."""
    return t.g2 / t.sigma**2


def vlb(t: Level) -> Coefficient:
    """Half the likelihood weight: averaged over t the loss is the bound's diffusion term, nats per dimension."""
    return 0.5 * likelihood(t)


def min_snr(t: Level) -> Coefficient:
    """min(SNR, 5) / SNR."""
    inverse = (t.sigma / t.alpha) ** 2
    return MIN_SNR_GAMMA * inverse / (1.0 + _relu(MIN_SNR_GAMMA * inverse - 1.0))


def _relu(c: Coefficient) -> Coefficient:
    return c.clamp_min(0.0) if isinstance(c, Tensor) else max(c, 0.0)


def edm(t: Level) -> Coefficient:
    """The weight that makes the loss uniform in the network's own output F."""
    return PredictsEDM().eps(t)[1] ** -2


WEIGHTS: dict[str, Weight] = {
    "simple": simple,
    "likelihood": likelihood,
    "vlb": vlb,
    "min-snr": min_snr,
    "edm": edm,
}


def chain_vlb(sde: LinearSDE, steps: int) -> Weight:
    """The weight of L_{k-1} of a chain of K steps (theory (8, 12), small variance) times K, on the eps error.

    1/2 (SNR_{k-1} / SNR_k - 1); at k = 1, where it is infinite, that of L_0 with variance beta_1: 1/2 / alpha_1^2.
    """

    def weight(t: Level) -> Coefficient:
        now, alpha_t, log_snr_t = (
            torch.as_tensor(c, dtype=torch.float64).reshape(-1) for c in (t.t, t.alpha, t.log_snr)
        )
        log_snr_s = sde.log_snr((now - 1.0 / steps).clamp_min(0.0))
        ratio = torch.expm1(log_snr_s - log_snr_t)
        first = alpha_t**-2
        return 0.5 * steps * torch.where(ratio.isinf(), first, ratio)

    return weight


# --- which times ---------------------------------------------------------------------------------------


class Times(abc.ABC):
    """The law of t in training, as a map from uniform numbers."""

    @abc.abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """t (B,), float64, from u (B,) in [0, 1)."""

    @abc.abstractmethod
    def smallest(self) -> float:
        """The smallest t that it gives."""


@dataclass(frozen=True)
class ContinuousTimes(Times):
    """t uniform on [t_min, 1 - t_min]: as clean as 1e-5, and off t = 1, where eps or weights may be singular."""

    t_min: float = 1e-5

    def __post_init__(self) -> None:
        if not 0 < self.t_min < 0.5:
            raise ValueError(f"t_min = {self.t_min}; it must lie in (0, 0.5)")

    def __call__(self, u: Tensor) -> Tensor:
        return self.t_min + (1.0 - 2.0 * self.t_min) * u.double()

    def smallest(self) -> float:
        return self.t_min


@dataclass(frozen=True)
class ChainTimes(Times):
    """t = k/K with k uniform on 1..K (Ho et al. 2020, Algorithm 1)."""

    steps: int = 1000

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps}; a chain has at least one step")

    def __call__(self, u: Tensor) -> Tensor:
        return ((u.double() * self.steps).floor() + 1.0).clamp_max(self.steps) / self.steps

    def smallest(self) -> float:
        return 1.0 / self.steps


def low_discrepancy(u: Tensor, n: int) -> Tensor:
    """n equally spaced points on [0, 1), shifted by the one uniform number u (Kingma et al. 2021, app. I.1)."""
    return (u.double() + torch.arange(n, dtype=torch.float64, device=u.device) / n).remainder(1.0)


# --- the loss ------------------------------------------------------------------------------------------


def denoising_loss(denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, weight: Weight = simple) -> Tensor:
    """w(t) |eps - epshat(x_t, t)|^2 / D per sample, (B,), at x_t = alpha x0 + sigma eps.

    Args:
        x0: (B, *) data; eps: (B, *) standard normal; t: (B,) in (0, 1].
    """
    level = denoiser.sde.at(t)
    x_t = combine(level.alpha, x0, level.sigma, eps)
    target = combine_prediction(denoiser.parameterisation.target(level), x0, eps)
    _, d = denoiser.parameterisation.eps(level)
    error = (denoiser.predict(x_t, level) - target).square().flatten(1).mean(1)
    return scale(weight(level) * d**2, error)
