r"""The discrete chain of DDPM (Ho et al. 2020): theory 2 and 3, equation by equation.

beta_k in (0, 1) is a variance, k = 1..K; alpha_k = 1 - beta_k; abar_k = alpha_1 ... alpha_k, abar_0 = 1. Everything is
a float64 table indexed by k = 0..K (entry 0 of beta is 0), so that a finger on x_{k-1} is an index k - 1.

A chain *is* a VP process observed on a grid (theory 4): `DDPM.from_sde` and `sde` are exact in both directions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scoresde import grids
from scoresde._tensors import combine, flat_sum
from scoresde.denoisers import Denoiser
from scoresde.noise import CounterNoise
from scoresde.processes import VP, TableVP
from scoresde.sde import LinearSDE, transition


class DDPM:
    """The chain q(x_k | x_{k-1}) = N(sqrt(1 - beta_k) x_{k-1}, beta_k I).

    Args:
        betas: beta_1..beta_K, each in (0, 1).

    Raises:
        ValueError: a beta outside (0, 1).
    """

    def __init__(self, betas: Tensor | np.ndarray | Sequence[float]) -> None:
        self._sde = VP.from_betas(betas)
        beta = torch.as_tensor(self._sde.betas)
        self.beta = torch.cat([torch.zeros(1, dtype=torch.float64), beta])
        log_abar = torch.cumsum(torch.log1p(-self.beta), 0)
        self.alpha_bar = torch.exp(log_abar)
        self._noise = -torch.expm1(log_abar)  # 1 - abar_k without cancellation

    @property
    def steps(self) -> int:
        """K."""
        return len(self.beta) - 1

    @property
    def times(self) -> Tensor:
        """t_k = k / K, (K + 1,), rising."""
        return torch.arange(self.steps + 1, dtype=torch.float64) / self.steps

    def sde(self) -> TableVP:
        """The VP process that passes through every abar_k at t_k = k / K."""
        return self._sde

    @classmethod
    def from_sde(cls, sde: LinearSDE, times: Tensor | Sequence[float]) -> DDPM:
        """The chain with exactly the law of a VP process at the given times: beta_k = 1 - (alpha_k / alpha_{k-1})^2.

        Args:
            times: from 1 down to 0, or from 0 up; k counts from the data.

        Raises:
            ValueError: a process that is not variance preserving, a grid that does not reach 0, or alpha = 0 on it.
        """
        grid = torch.as_tensor(times, dtype=torch.float64)
        grid = grids.check_times(grid.flip(0) if grid.ndim == 1 and len(grid) > 1 and grid[0] < grid[-1] else grid)
        rising = grid.flip(0)
        levels = [sde.at(t) for t in rising.tolist()]
        if rising[0] != 0:
            raise ValueError(f"the grid ends at t = {rising[0].item():g}; a chain starts from the data, t = 0")
        power = max(abs(float(level.alpha**2 + level.sigma**2) - 1.0) for level in levels)
        if power > 1e-9:
            raise ValueError(f"{sde} does not preserve the variance (off by {power:.2g}), so it is no DDPM chain")
        betas = [float(transition(s, t)[1]) for s, t in itertools.pairwise(levels)]  # v = 1 - a^2
        if max(betas) >= 1:
            raise ValueError(f"alpha = 0 at t = {rising[-1].item():g}: the last beta would be 1; stop the grid earlier")
        return cls(betas)

    # --- kernels (theory 2) ----------------------------------------------------------------------------

    def _check(self, k: int, first: int = 1) -> int:
        if not first <= k <= self.steps:
            raise ValueError(f"k = {k}; it must lie in {first}..{self.steps}")
        return k

    def kernel(self, x: Tensor, k: int) -> tuple[Tensor, float]:
        """Mean and variance of q(x_k | x_{k-1} = x), eq. (2)."""
        beta = self.beta[self._check(k)].item()
        return math.sqrt(1.0 - beta) * x, beta

    def marginal(self, x0: Tensor, k: int) -> tuple[Tensor, float]:
        """Mean and variance of q(x_k | x_0), eq. (4)."""
        self._check(k, 0)
        return self.alpha_bar[k].sqrt().item() * x0, self._noise[k].item()

    def perturb(self, x0: Tensor, k: int, eps: Tensor) -> Tensor:
        """x_k = sqrt(abar_k) x_0 + sqrt(1 - abar_k) eps, eq. (4)."""
        mean, variance = self.marginal(x0, k)
        return mean.add(eps, alpha=math.sqrt(variance))

    def posterior(self, x_k: Tensor, x0: Tensor, k: int) -> tuple[Tensor, float]:
        """Mean and variance of q(x_{k-1} | x_k, x_0), eq. (6, 7); at k = 1 it is x_0 with variance 0."""
        self._check(k)
        noise_k, noise_before = self._noise[k], self._noise[k - 1]
        on_x = (1.0 - self.beta[k]).sqrt() * noise_before / noise_k
        on_x0 = self.alpha_bar[k - 1].sqrt() * self.beta[k] / noise_k
        return combine(on_x.item(), x_k, on_x0.item(), x0), self.variance_small(k)

    def posterior_mean_from_eps(self, x_k: Tensor, eps: Tensor, k: int) -> Tensor:
        """mu_k = [x_k - beta_k / sqrt(1 - abar_k) eps] / sqrt(alpha_k), eq. (11): the mean of Algorithm 2."""
        self._check(k)
        root = (1.0 - self.beta[k]).sqrt()
        return combine((1.0 / root).item(), x_k, (-self.beta[k] / (self._noise[k].sqrt() * root)).item(), eps)

    def variance_small(self, k: int) -> float:
        """beta-tilde_k = (1 - abar_{k-1}) / (1 - abar_k) beta_k, eq. (7); 0 at k = 1."""
        self._check(k)
        return (self._noise[k - 1] / self._noise[k] * self.beta[k]).item()

    def variance_large(self, k: int) -> float:
        """beta_k."""
        return self.beta[self._check(k)].item()

    def variance_learned(self, v: Tensor, k: int) -> Tensor:
        """exp(v log beta_k + (1 - v) log beta-tilde_k), v in [0, 1] (Nichol & Dhariwal 2021, eq. 15).

        At k = 1, where beta-tilde is 0, its value at k = 2 is used, as they do.
        """
        low = self.variance_small(max(k, 2)) if self.steps > 1 else self.variance_large(k)
        return torch.exp(v * math.log(self.variance_large(k)) + (1.0 - v) * math.log(low))

    # --- the bound (theory 3) --------------------------------------------------------------------------

    def prior_kl(self, x0: Tensor) -> Tensor:
        """L_K = KL(q(x_K | x_0) || N(0, I)) in nats, (B,)."""
        mean, variance = self.marginal(x0, self.steps)
        dim = x0[0].numel()
        # log variance from log1p(-abar): the variance is within a hair of 1
        log_variance = math.log1p(-self.alpha_bar[-1].item())
        return 0.5 * (dim * (variance - 1.0 - log_variance) + flat_sum(mean.double().square()))

    def step_kl(self, x0: Tensor, x0_hat: Tensor, k: int, *, large: bool = False) -> Tensor:
        """L_{k-1} = KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k)), k >= 2, from the estimate x0_hat; nats, (B,).

        The means differ by sqrt(abar_{k-1}) beta_k / (1 - abar_k) (x_0 - x0_hat); p has either variance.
        """
        self._check(k, 2)
        small = self.variance_small(k)
        variance = self.variance_large(k) if large else small
        weight = self.alpha_bar[k - 1] * self.beta[k] ** 2 / (2.0 * variance * self._noise[k] ** 2)
        ratio = small / variance
        dim = x0[0].numel()
        constant = 0.5 * dim * (ratio - 1.0 - math.log(ratio))
        return constant + weight.item() * flat_sum((x0 - x0_hat).double().square())

    def eps_weight(self, k: int, *, large: bool = False) -> float:
        """What |eps - eps_theta|^2 weighs in L_{k-1}: beta_k^2 / (2 variance alpha_k (1 - abar_k)), eq. (8, 12)."""
        self._check(k, 2)
        variance = self.variance_large(k) if large else self.variance_small(k)
        return (self.beta[k] ** 2 / (2.0 * variance * (1.0 - self.beta[k]) * self._noise[k])).item()

    def bound(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        seed: int = 0,
        variance: str = "small",
        bin_width: float | None = None,
    ) -> Bound:
        """The variational bound (5) of -log p(x_0), term by term, with one draw of x_k | x_0 for every k.

        Args:
            denoiser: any; it is asked at the noise level of each abar_k.
            x0: (B, *).
            seed: of the draws.
            variance: "small" or "large", the reverse variance for k >= 2. The last step k = 1 always has beta_1.
            bin_width: of 8-bit data on [-1, 1] it is 2/255: L_0 is then Ho et al.'s discretised decoder, and the bound
                is on a probability. None: x_0 is continuous, L_0 is a log density.

        Raises:
            ValueError: another variance, or x0 of the wrong shape or not finite.
        """
        if variance not in ("small", "large"):
            raise ValueError(f"variance = {variance!r}; it must be 'small' or 'large'")
        if x0.ndim < 2 or not bool(x0.isfinite().all()):
            raise ValueError(f"x0 of shape {tuple(x0.shape)} must be (B, *) and finite")
        noise = CounterNoise(seed, torch.arange(len(x0)), tuple(x0.shape[1:]), x0.dtype, x0.device)
        # log SNR = log(abar / (1 - abar)): where the denoiser's own process has the chain's noise level
        at = denoiser.sde.time_of_log_snr(torch.log(self.alpha_bar) - torch.log(self._noise)).tolist()
        terms = torch.empty(self.steps + 1, len(x0), dtype=torch.float64, device=x0.device)
        terms[self.steps] = self.prior_kl(x0)
        with torch.no_grad():
            for k in range(self.steps, 0, -1):
                x_k = self.perturb(x0, k, noise.at(k, 1.0, 0.0)())
                # same SNR, another radius, when the denoiser's process is not variance preserving
                x0_hat = denoiser.x0(x_k * float(denoiser.sde.at(at[k]).radius), at[k])
                if k > 1:
                    terms[k - 1] = self.step_kl(x0, x0_hat, k, large=variance == "large")
                else:
                    terms[0] = -self._decoder(x0, x0_hat, bin_width)
        return Bound(terms, x0[0].numel())

    def _decoder(self, x0: Tensor, mean: Tensor, bin_width: float | None) -> Tensor:
        """log p(x_0 | x_1), (B,): at k = 1 the mean is xhat0 itself, the variance beta_1."""
        std = math.sqrt(self.variance_large(1))
        if bin_width is not None:
            return discretised_log_prob(x0, mean, std, bin_width)
        z = (x0 - mean).double() / std
        return flat_sum(-0.5 * z.square() - math.log(std) - 0.5 * math.log(2.0 * math.pi))


@dataclass(frozen=True)
class Bound:
    """The terms L_0..L_K of the bound, (K + 1, B), in nats, and the dimension D of one sample."""

    terms: Tensor
    dim: int

    def nats(self) -> Tensor:
        """The bound per sample, (B,): an upper bound of -log p(x_0) on average over the draws."""
        return self.terms.sum(0)

    def bits_per_dim(self) -> Tensor:
        """Per sample, (B,)."""
        return self.nats() / (self.dim * math.log(2.0))

    def terms_bits_per_dim(self) -> Tensor:
        """Each L_k averaged over the batch, (K + 1,)."""
        return self.terms.mean(1) / (self.dim * math.log(2.0))


def discretised_log_prob(x: Tensor, mean: Tensor, std: float, width: float) -> Tensor:
    """log of the mass that N(mean, std^2) gives to the bin of each entry of x, summed over a sample, (B,).

    Bins of `width` centred on the values, on [-1, 1], open at both ends (Ho et al. 2020, eq. 13).
    """
    x, mean = x.double(), mean.double()
    upper, lower = (x + 0.5 * width - mean) / std, (x - 0.5 * width - mean) / std
    upper = torch.where(x > 1.0 - 0.5 * width, math.inf, upper)
    lower = torch.where(x < -1.0 + 0.5 * width, -math.inf, lower)
    # mirror to the left tail, where the normal's log cdf is accurate
    flip = lower + upper > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return flat_sum(log_upper + torch.log(-torch.expm1(log_lower - log_upper)))
