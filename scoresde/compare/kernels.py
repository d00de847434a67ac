r"""The exact reverse kernel of a mixture beside the Gaussians that solvers put in its place.

Conditioned on X_t, a mixture at s < t is a mixture again. With X_t | X_s ~ N(a X_s, v I) and, at either time,
q = sum_i w_i N(alpha m_i, C_i), C_i = U diag(c_i) U' (theory 4 and 7),

    q(x_s | x_t) = sum_i r_i(x_t) N(alpha_s m_i + U (a c_s / c_t) U'(x_t - alpha_t m_i),  U (c_s v / c_t) U'),

r_i the responsibilities at t. Its mean is c_t x_t + c_0 xhat0(x_t), that of the bridge with xhat0 for x_0, and its
covariance the bridge's plus c_0^2 Cov[X_0 | x_t]. So ancestral sampling, the exact kernel of the process given x_0
with xhat0 in its place, has the mean right whatever the step; its small variance leaves out c_0^2 Cov[X_0 | x_t], and
the large one v puts in its place what it is for N(0, I) data. Euler-Maruyama is first order in the step in both.
Where the law is smooth on the scale of sigma the covariance is about v, of which the small variance is the share
sigma_s^2 / sigma_t^2, (k - 1) / k in step k from the data of a uniform grid: 1/2 sum_k [1 / (k - 1) - log(k / (k - 1))]
= 0.289 nats per dimension (half of Euler's constant) that no number of steps takes away.

What a Gaussian p = N(mean_p, v_p I) is off by, in nats, is a sum of three (that the first one stands apart is theorem
2.2.1 of theory 3, log p being quadratic; the others are Lemma 4's)

    E KL(q || p) = E KL(q || N(mean, Cov))                          q is not Gaussian: no Gaussian does better
                 + E |mean - mean_p|^2 / (2 v_p)                    the mean
                 + E 1/2 [D log v_p - log|Cov| - D + tr Cov / v_p]  the variance

Summed over a grid, with the KL of x(1) from the prior, it is the KL between the laws of whole paths: by how much the
variational bound (5) exceeds -log p(x_0) on average (theory 3).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde import grids
from scoresde.compare.estimate import Estimate, over_seeds
from scoresde.denoisers import Denoiser
from scoresde.distributions import GaussianMixture
from scoresde.noise import CounterNoise
from scoresde.sde import LinearSDE
from scoresde.solvers import Ancestral, EulerMaruyama

COUNTS = (5, 10, 20, 50, 100, 250, 1000)
KERNELS: dict[str, Any] = {
    "ancestral, small": Ancestral(),
    "ancestral, large": Ancestral("large"),
    "Euler-Maruyama": EulerMaruyama(),
}
"""Solvers whose step from x_t is a draw from a Gaussian: mean, and one variance for all entries."""


class ReverseKernel:
    """q(x_s | x_t) of a mixture under a linear process, for times s < t; x are (B, D), computed in float64.

    Raises:
        ValueError: s not below t, or a law without a density at s.
    """

    def __init__(self, law: GaussianMixture, sde: LinearSDE, s: float, t: float) -> None:
        if not 0 <= s < t <= 1:
            raise ValueError(f"s = {s}, t = {t}: a reverse kernel needs 0 <= s < t <= 1")
        self.at_s, self.at_t = law.diffuse(sde, s), law.diffuse(sde, t)
        if bool((self.at_s.eigenvalues <= 0).any()):
            raise ValueError(f"the law has no density at s = {s}: a component has a singular covariance")
        a, v = (float(c) for c in sde.transition(s, t))
        self.gain = a * self.at_s.eigenvalues / self.at_t.eigenvalues  # (K, D), in the eigenbasis
        self.spread = v * self.at_s.eigenvalues / self.at_t.eigenvalues
        self.basis = law.basis

    def log_prob(self, x_s: Tensor, x_t: Tensor) -> Tensor:
        """log q(x_s | x_t) in nats, (B,)."""
        x_t = x_t.double()
        z = self._rotated(x_s.double()[:, None] - self.component_means(x_t))
        constant = -0.5 * torch.log(2.0 * math.pi * self.spread).sum(1)
        log_r = self.at_t.responsibilities(x_t).log()
        return torch.logsumexp(log_r + constant - 0.5 * (z.square() / self.spread).sum(2), 1)

    def moments(self, x_t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean (B, D) and covariance (B, D, D) of X_s given x_t."""
        x_t = x_t.double()
        r, means = self.at_t.responsibilities(x_t), self.component_means(x_t)
        mean = torch.einsum("bk,bkd->bd", r, means)
        centred = means - mean[:, None]
        within = torch.diag_embed(self.spread)
        if self.basis is not None:
            within = self.basis @ within @ self.basis.mT
        between = torch.einsum("bk,bki,bkj->bij", r, centred, centred)
        return mean, between + torch.einsum("bk,kij->bij", r, within)

    def component_means(self, x_t: Tensor) -> Tensor:
        """Of each component given x_t, (B, K, D)."""
        z = self.gain * self._rotated(x_t[:, None] - self.at_t.means)
        return self.at_s.means + (z if self.basis is None else torch.einsum("bke,kde->bkd", z, self.basis))

    def _rotated(self, x: Tensor) -> Tensor:
        """U' x."""
        return x if self.basis is None else torch.einsum("bkd,kde->bke", x, self.basis)


@torch.no_grad()
def step_kernel(solver: Any, denoiser: Denoiser, x_t: Tensor, t: float, s: float) -> tuple[Tensor, float]:
    """Mean (B, D) and variance of a solver's first step from x_t, read off the solver itself.

    Where it takes no noise to t = 0, the forward kernel's variance v stands, as in the bound's decoder (theory 3).
    """
    process = solver.reverse(denoiser)

    def step(draws: float) -> Tensor:
        x: Tensor = solver.step(
            process, solver.init(process, x_t.clone()), t, s, lambda k=0: torch.full_like(x_t, draws)
        ).x
        return x

    mean = step(0.0)
    variance = (step(1.0) - mean).square().mean().item()
    return mean, variance if variance > 0 else float(denoiser.sde.transition(s, t)[1])


# --- what they are off by ------------------------------------------------------------------------------


@dataclass(frozen=True)
class KernelKL:
    """Expected nats of a Gaussian kernel: by its mean, by its variance, and in all, with what no Gaussian avoids."""

    mean: Estimate
    variance: Estimate
    total: Estimate


@dataclass(frozen=True)
class StepKL:
    """One step, from t to s.

    Args:
        non_gaussian: E KL(q || its moment-matched Gaussian), nats.
        kernels: by name.
    """

    t: float
    s: float
    non_gaussian: Estimate
    kernels: dict[str, KernelKL]


@dataclass(frozen=True, eq=False)
class PathKL:
    """A whole grid.

    Args:
        times: the grid, decreasing.
        dim: D: divide by it for nats per dimension.
        steps: from noise to data.
        prior: KL of x(1) from N(0, sigma(1)^2 I).
        non_gaussian: the sum over the steps.
        kernels: sums over the steps, by name; `total` with the prior's share is the gap of the bound (5).
    """

    times: Tensor
    dim: int
    steps: tuple[StepKL, ...]
    prior: Estimate
    non_gaussian: Estimate
    kernels: dict[str, KernelKL]


def path_kl(
    law: GaussianMixture,
    sde: LinearSDE,
    times: Tensor,
    *,
    kernels: Mapping[str, Any] = KERNELS,
    n: int = 1000,
    seed: int = 0,
) -> PathKL:
    """What each kernel is off by in every step of a grid, over n exact paths of the forward process.

    The same paths serve all steps and all kernels, so that differences are paired and the sums have honest intervals.

    Args:
        times: a decreasing grid; where its last step goes to t = 0 the law must have a density.
        kernels: solvers by name.

    Raises:
        ValueError: n < 2, a law without a density, or a kernel that a solver does not have (Euler-Maruyama needs a
            finite g).
    """
    if n < 2:
        raise ValueError(f"n = {n}; an interval needs at least 2 paths")
    grid = grids.check_times(times)
    denoiser = law.denoiser(sde)
    rising = grid.flip(0).tolist()
    noise = CounterNoise(seed, torch.arange(n), (law.dim,), torch.float64)
    x_s = sde.perturb(law.sample(n, seed).double().cpu(), rising[0], noise.start())
    found: list[tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]] = []
    for k, (s, t) in enumerate(itertools.pairwise(rising)):
        a, v = (float(c) for c in sde.transition(s, t))
        x_t = a * x_s + math.sqrt(v) * noise.at(k, s, t)()
        found.append(_step_nats(ReverseKernel(law, sde, s, t), denoiser, kernels, x_s, x_t, s, t))
        x_s = x_t
    log_prior = torch.distributions.Normal(0.0, sde.prior_std(rising[-1])).log_prob(x_s).sum(1)
    steps = [_summary(t, s, *nats) for (s, t), nats in zip(itertools.pairwise(rising), found, strict=True)]
    whole = _summary(
        rising[-1],
        rising[0],
        torch.stack([rest for rest, _ in found]).sum(0),
        {name: tuple(torch.stack([nats[name][i] for _, nats in found]).sum(0) for i in (0, 1)) for name in kernels},
    )
    prior = over_seeds(law.diffuse(sde, rising[-1]).log_prob(x_s) - log_prior)
    return PathKL(grid, law.dim, tuple(reversed(steps)), prior, whole.non_gaussian, whole.kernels)


def _step_nats(
    exact: ReverseKernel, denoiser: Denoiser, kernels: Mapping[str, Any], x_s: Tensor, x_t: Tensor, s: float, t: float
) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The non-Gaussian part, and the parts of mean and variance of each kernel: nats on each path, (n,)."""
    mean, covariance = exact.moments(x_t)
    factor = torch.linalg.cholesky(covariance)
    z = torch.linalg.solve_triangular(factor, (x_s - mean)[..., None], upper=False)[..., 0]
    log_det = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
    dim = x_t.shape[1]
    matched = -0.5 * (z.square().sum(1) + log_det + dim * math.log(2.0 * math.pi))
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
    parts = {}
    for name, solver in kernels.items():
        mean_p, v_p = step_kernel(solver, denoiser, x_t, t, s)
        parts[name] = (
            (mean - mean_p).square().sum(1) / (2.0 * v_p),
            0.5 * (dim * math.log(v_p) - log_det - dim + trace / v_p),
        )
    return exact.log_prob(x_s, x_t) - matched, parts


def _summary(t: float, s: float, rest: Tensor, parts: Mapping[str, Sequence[Tensor]]) -> StepKL:
    kernels = {
        name: KernelKL(over_seeds(mean), over_seeds(variance), over_seeds(rest + mean + variance))
        for name, (mean, variance) in parts.items()
    }
    return StepKL(t, s, over_seeds(rest), kernels)


def path_kl_by_steps(
    law: GaussianMixture,
    sde: LinearSDE,
    counts: Sequence[int] = COUNTS,
    *,
    grid: str = grids.UNIFORM,
    kernels: Mapping[str, Any] = KERNELS,
    n: int = 1000,
    seed: int = 0,
) -> list[PathKL]:
    """`path_kl` on a named grid of each number of steps: where kernels part with few steps, by how much, and why."""
    return [
        path_kl(law, sde, grids.GRIDS[grid](sde, count, math.inf), kernels=kernels, n=n, seed=seed) for count in counts
    ]
