r"""The reverse process: a denoiser read as an SDE that runs from t = 1 to t = 0.

For every eta >= 0,

    dX = [f X - 1/2 (1 + eta^2) g^2 score] dt + eta g dW                               (theory 4)

has the forward marginals; eta = 1 is Anderson's (1982) reverse diffusion, eta = 0 the probability flow of
Song et al. 2021 (eq. 13). The flow part is computed as alpha' x0 + sigma' eps = alpha' x0 - 1/2 (sigma^2)' score, which
stays finite where alpha = 0 and where sigma = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._tensors import Coefficient, combine
from scoresde.denoisers import Denoiser
from scoresde.parameterisations import Pair
from scoresde.sde import SDE, Level, LinearSDE, Time


@dataclass(frozen=True, eq=False)
class Reverse(SDE):
    """The reverse process of `denoiser`.

    Raises:
        ValueError: eta negative or not finite.
    """

    denoiser: Denoiser
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"eta = {self.eta}; it must be 0 (probability flow) or more (1 is the reverse SDE)")

    def at(self, t: Time) -> Level:
        """The scales of the forward process at t."""
        return self.denoiser.sde.at(t)

    def coefficients(self, t: Level) -> Pair:
        """(k, m) with drift = k x + m P, P the denoiser's prediction."""
        parameterisation = self.denoiser.parameterisation
        on_score = -0.5 * t.sigma2_dot
        if self.eta > 0:
            on_score = on_score - 0.5 * self.eta**2 * t.g2
        k, m = parameterisation.linear(t, x0=t.alpha_dot)
        c, d = parameterisation.score(t)
        return k + on_score * c, m + on_score * d

    def drift(self, x: Tensor, t: Time, *, out: Tensor | None = None) -> Tensor:
        level = self.at(t)
        k, m = self.coefficients(level)
        return combine(k, x, m, self.denoiser.predict(x, level), out)

    def diffusion(self, t: Time) -> Coefficient:
        return 0.0 if self.eta == 0 else self.eta * self.at(t).g2 ** 0.5


def prior_sample(sde: LinearSDE, z: Tensor, t: float = 1.0) -> Tensor:
    """sigma(t) z, the start of sampling at t when z ~ N(0, I).

    Warns (`ProcessWarning`) where the data still show at t, so that x(t) does not have that law.
    """
    sde.check_prior(t)
    return torch.mul(z, sde.prior_std(t))
