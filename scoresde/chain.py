r"""The discrete chain of DDPM (Ho et al. 2020): theory 2 and 3, equation by equation.

beta_k in (0, 1) is a variance, k = 1..K; alpha_k = 1 - beta_k; abar_k = alpha_1 ... alpha_k, abar_0 = 1. Everything is
a float64 table indexed by k = 0..K (entry 0 of beta is 0), so that a finger on x_{k-1} is an index k - 1.

A chain *is* a VP process observed on a grid (theory 4): `DDPM.from_sde` and `sde` are exact in both directions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from scoresde import bounds, grids
from scoresde._tensors import combine
from scoresde.bounds import Bound, Step, Walk, WeightedBound, discretised_log_prob
from scoresde.denoisers import Denoiser
from scoresde.processes import VP, TableVP
from scoresde.sde import LinearSDE, transition

__all__ = ["DDPM", "Bound", "WeightedBound", "discretised_log_prob"]

Variance = str | Tensor | Sequence[float]
BATCH = 256
MIN_LOG_SNR = -14.0  # abar = 8e-7: no signal is left that the prior could miss


def _nothing() -> None:
    """What is called after each evaluation, unless told otherwise."""


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
        rising = _rising(times)
        levels = [sde.at(t) for t in rising.tolist()]
        power = max(abs(float(level.alpha**2 + level.sigma**2) - 1.0) for level in levels)
        if power > 1e-9:
            raise ValueError(f"{sde} does not preserve the variance (off by {power:.2g}), so it is no DDPM chain")
        betas = [float(transition(s, t)[1]) for s, t in itertools.pairwise(levels)]  # v = 1 - a^2
        if max(betas) >= 1:
            raise ValueError(f"alpha = 0 at t = {rising[-1].item():g}: the last beta would be 1; stop the grid earlier")
        return cls(betas)

    @classmethod
    def from_levels(cls, sde: LinearSDE, times: Tensor | Sequence[float]) -> DDPM:
        """The chain with the signal-to-noise ratios of any linear process at the given times.

        x_k is X_t / sqrt(alpha^2 + sigma^2), so that abar_k = alpha^2 / (alpha^2 + sigma^2): for a process that
        preserves the variance, `from_sde`. It ends with some signal: where the log-SNR is below -14 it is raised to
        that, and of several such times the first alone is a step.

        Raises:
            ValueError: as for `from_sde`.
        """
        rising = _rising(times)
        log_snr = sde.log_snr(rising[1:])
        heard = int((log_snr > MIN_LOG_SNR).sum())
        log_snr = log_snr[: heard + 1].clamp_min(MIN_LOG_SNR)
        log_abar = torch.cat([torch.zeros(1, dtype=torch.float64), torch.nn.functional.logsigmoid(log_snr)])
        return cls(-torch.expm1(torch.diff(log_abar)))

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
        return bounds.prior_kl(mean.double(), variance, self._log_noise)

    @property
    def _log_noise(self) -> float:
        """log(1 - abar_K), which is within a hair of 0."""
        return math.log1p(-self.alpha_bar[-1].item())

    def step_kl(self, x0: Tensor, x0_hat: Tensor, k: int, *, large: bool = False) -> Tensor:
        """L_{k-1} = KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k)), k >= 2, from the estimate x0_hat; nats, (B,).

        The means differ by sqrt(abar_{k-1}) beta_k / (1 - abar_k) (x_0 - x0_hat); p has either variance.
        """
        self._check(k, 2)
        variances = self.large_variances() if large else self.small_variances()
        return self._step(k, variances[k].item()).kl(x0[0].numel(), bounds.squares(x0.double() - x0_hat.double()))

    def eps_weight(self, k: int, *, large: bool = False) -> float:
        """What |eps - eps_theta|^2 weighs in L_{k-1}: beta_k^2 / (2 variance alpha_k (1 - abar_k)), eq. (8, 12)."""
        self._check(k, 2)
        variance = self.variance_large(k) if large else self.variance_small(k)
        return (self.beta[k] ** 2 / (2.0 * variance * (1.0 - self.beta[k]) * self._noise[k])).item()

    def small_variances(self) -> Tensor:
        """beta-tilde_1..beta-tilde_K behind a 0, (K + 1,), but beta_1 for the last step, k = 1."""
        small = self._noise[:-1] / self._noise[1:] * self.beta[1:]
        return torch.cat([self.beta[:2], small[1:]])

    def large_variances(self) -> Tensor:
        """beta_1..beta_K behind a 0, (K + 1,)."""
        return self.beta.clone()

    def optimal_variances(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        seed: int = 0,
        batch_size: int | None = None,
        on_step: Callable[[], None] = _nothing,
    ) -> Tensor:
        """The variances for which the bound is lowest on data such as x0 (n, *), (K + 1,) behind a 0.

        beta-tilde_k + abar_{k-1} beta_k^2 / (1 - abar_k)^2 E|x_0 - xhat0|^2 / D (Bao et al. 2022), with the mean over
        x0 and a draw of x_k each. Give them as `variance=` for other data than these.

        Raises:
            ValueError, NumericalError: as for `bound`.
        """
        x, ids = self._data(denoiser, x0, None)
        walk = self._walk(denoiser, self.large_variances())
        error2 = bounds.mean_error2(
            walk, denoiser, x, seed=seed, ids=ids, batch_size=_batch(batch_size, len(x)), on_step=on_step
        )
        on_x0 = torch.tensor([0.0, *(step.on_x0 for step in reversed(walk.steps))], dtype=torch.float64)
        small = torch.tensor([0.0, *(step.small for step in reversed(walk.steps))], dtype=torch.float64)
        return small + on_x0**2 * error2

    def bound(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        seed: int = 0,
        variance: Variance = "small",
        bin_width: float | None = None,
        draws: int = 1,
        ids: Sequence[int] | Tensor | None = None,
        batch_size: int | None = None,
        on_step: Callable[[], None] = _nothing,
    ) -> Bound:
        """The variational bound (5) of -log p(x_0), term by term, over `draws` trajectories x_{1:K} | x_0 of each x_0.

        Arguments and errors as for `weighted_bound`.

        Raises:
            NumericalError: a term that is not finite, named by sample and k.
        """
        return (
            self.weighted_bound(
                denoiser,
                x0,
                trajectories=draws,
                seed=seed,
                variance=variance,
                bin_width=bin_width,
                ids=ids,
                batch_size=batch_size,
                on_step=on_step,
            )
            .check()
            .bound
        )

    def weighted_bound(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        trajectories: int,
        seed: int = 0,
        variance: Variance = "small",
        bin_width: float | None = None,
        ids: Sequence[int] | Tensor | None = None,
        batch_size: int | None = None,
        on_step: Callable[[], None] = _nothing,
    ) -> WeightedBound:
        """The importance-weighted bounds (1.2) of -log p(x_0) with 1..M trajectories x_{1:K} | x_0 of each x_0.

        A sample that fails is reported in `problems`, and the others go on; `.check()` makes it an error.

        Args:
            denoiser: any; it is asked at the noise level of each abar_k.
            x0: (B, *).
            trajectories: M, of each x_0; trajectory j of sample i is a function of (seed, ids[i], j).
            seed: of the draws.
            variance: of the reverse steps: "small" (beta-tilde), "large" (beta), or a table (K + 1,) such as
                `optimal_variances`, whose entry 0 is not used. With either word the last step, k = 1, has beta_1.
            bin_width: of 8-bit data on [-1, 1] it is 2/255: L_0 is then Ho et al.'s discretised decoder, and the bound
                is on a probability. None: x_0 is continuous, L_0 is a log density.
            ids: of the samples, 0..B-1 by default, each in [0, 2^32).
            batch_size: trajectories computed at once, default B but at least 256; memory for states depends on it, and
                not on K or M.
            on_step: called after each evaluation of the denoiser, for a progress bar.

        Raises:
            ValueError: another variance, x0 of the wrong shape or not finite, or counts below 1.
        """
        x, sample_ids = self._data(denoiser, x0, ids)
        if trajectories < 1:
            raise ValueError(f"trajectories = {trajectories}; it must be 1 or more")
        return bounds.weigh(
            self._walk(denoiser, self._variances(variance), bin_width),
            denoiser,
            x,
            trajectories=trajectories,
            seed=seed,
            ids=sample_ids,
            batch_size=_batch(batch_size, len(x)),
            on_step=on_step,
        )

    def _variances(self, variance: Variance) -> Tensor:
        """Those that a word means, or the table itself."""
        if isinstance(variance, str):
            if variance not in WORDS:
                raise ValueError(f"variance = {variance!r}; it must be 'small', 'large' or a table of K + 1 variances")
            return WORDS[variance](self)
        table = torch.as_tensor(variance, dtype=torch.float64).cpu()
        if table.shape != (self.steps + 1,):
            raise ValueError(
                f"variance has shape {tuple(table.shape)}; a table for k = 0..K has {self.steps + 1} entries"
            )
        bad = ~((table[1:] > 0) & table[1:].isfinite())
        if bool(bad.any()):
            k = int(bad.nonzero()[0]) + 1
            raise ValueError(f"variance[{k}] = {table[k].item():g}; each must be positive and finite")
        return table

    def _step(self, k: int, variance: float) -> Step:
        """Step k with this variance in the model."""
        abar_before, beta, noise = self.alpha_bar[k - 1].item(), self.beta[k].item(), self._noise[k].item()
        return Step(
            k,
            signal=math.sqrt(self.alpha_bar[k].item()),
            noise=noise,
            on_x=math.sqrt(1.0 - beta) * self._noise[k - 1].item() / noise,
            on_x0=math.sqrt(abar_before) * beta / noise,
            small=self.variance_small(k),
            variance=variance,
        )

    def _walk(self, denoiser: Denoiser, variances: Tensor, bin_width: float | None = None) -> Walk:
        down = range(self.steps, 0, -1)
        # log SNR = log(abar / (1 - abar)): where the denoiser's own process has the chain's noise level
        times = denoiser.sde.time_of_log_snr(torch.log(self.alpha_bar) - torch.log(self._noise)).tolist()
        steps = [self._step(k, variances[k].item()) for k in down]
        return Walk(steps, [times[k] for k in down], self._log_noise, bin_width)

    def _data(self, denoiser: Denoiser, x0: Tensor, ids: Sequence[int] | Tensor | None) -> tuple[Tensor, Tensor]:
        """x0 as the denoiser takes it, and the numbers of its samples."""
        if x0.ndim < 2 or len(x0) == 0 or not bool(x0.isfinite().all()):
            raise ValueError(f"x0 of shape {tuple(x0.shape)} must be (B, *), with B >= 1, and finite")
        numbers = torch.arange(len(x0)) if ids is None else torch.as_tensor(ids, dtype=torch.int64)
        if numbers.shape != (len(x0),):
            raise ValueError(f"ids has shape {tuple(numbers.shape)}; there are {len(x0)} samples")
        return x0.to(denoiser.device, denoiser.dtype), numbers


WORDS: dict[str, Callable[[DDPM], Tensor]] = {"small": DDPM.small_variances, "large": DDPM.large_variances}
"""The reverse variances that have a name."""


def _rising(times: Tensor | Sequence[float]) -> Tensor:
    """The grid from 0 up, whichever way it was given."""
    grid = torch.as_tensor(times, dtype=torch.float64)
    grid = grids.check_times(grid.flip(0) if grid.ndim == 1 and len(grid) > 1 and grid[0] < grid[-1] else grid)
    if grid[-1] != 0:
        raise ValueError(f"the grid ends at t = {grid[-1].item():g}; a chain starts from the data, t = 0")
    return grid.flip(0)


def _batch(batch_size: int | None, count: int) -> int:
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; it must be 1 or more")
    return max(count, BATCH) if batch_size is None else batch_size
