r"""Exact laws: Gaussian mixtures and finite data sets, with everything that theory 7 has in closed form.

For a prior sum_i w_i N(m_i, S_i) and a linear process, q_t = sum_i w_i N(alpha m_i, C_i) with
C_i = alpha^2 S_i + sigma^2 I. Each S_i = U diag(l) U' is decomposed once, so that any t costs no more than products
with U. With c = alpha^2 l + sigma^2 and z = U'(x - alpha m_i) the component's posterior law of x0 is

    E_i[x0 | x_t] = m_i + U (alpha l / c) z,        Cov_i[x0 | x_t] = U diag(l sigma^2 / c) U',

and its share of the prediction that `MixtureDenoiser` makes (see `PredictsExcess`) is m_i + U (alpha (l - 1) / c) z: no
difference of nearly equal numbers at either end of time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from scoresde._tensors import expand
from scoresde.denoisers import Denoiser
from scoresde.parameterisations import PredictsExcess, PredictsX0
from scoresde.processes import RectifiedFlow
from scoresde.sde import Level, LinearSDE, Time

CHUNK = 2**24  # elements of a (B, K, D) intermediate held at once

Array = Tensor | Sequence[Any] | Any


class _Parameters(NamedTuple):
    weights: Tensor
    means: Tensor
    eigenvalues: Tensor
    basis: Tensor | None


class LinearMeasurement(Protocol):
    """y = A x + noise_std z, as far as an exact posterior needs it."""

    @property
    def noise_std(self) -> float | Tensor: ...

    def dense(self, shape: int) -> Tensor:
        """A as an (M, D) float64 matrix, for vectors of `shape` entries.

        Raises:
            ValueError: the operator is not linear.
        """
        ...


class GaussianMixture:
    """sum_i w_i N(m_i, S_i) in D dimensions.

    Args:
        weights: (K,) positive; normalised.
        means: (K, D).
        covariances: (K, D, D) full, (K, D) diagonal, or (K,) isotropic; positive semi-definite.
        dtype, device: of samples and states; by default those of `means` (float64 for plain lists).

    Raises:
        ValueError: shapes that do not fit, values that are not finite, a weight <= 0, a covariance that is not
            symmetric positive semi-definite.
    """

    def __init__(
        self,
        weights: Array,
        means: Array,
        covariances: Array,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(means, Tensor):
            means = torch.as_tensor(means, dtype=torch.float64)
        self.dtype = dtype or means.dtype
        self.device = torch.device(device) if device is not None else means.device
        w, m, s = (torch.as_tensor(a, dtype=torch.float64, device="cpu") for a in (weights, means, covariances))
        _check_parameters(w, m, s)
        self.weights = w / w.sum()
        self.means = m
        self.basis: Tensor | None = None
        if s.ndim == 3:
            self.eigenvalues, self.basis = torch.linalg.eigh(s)
        else:
            self.eigenvalues = s[:, None].expand_as(m).clone() if s.ndim == 1 else s.clone()
        bound = 1e-10 * self.eigenvalues.abs().amax(1, keepdim=True)
        if bool((self.eigenvalues < -bound).any()):
            i = int((self.eigenvalues < -bound).any(1).nonzero()[0])
            raise ValueError(f"covariance {i} is not positive semi-definite: {self.eigenvalues[i].min().item():g} < 0")
        self.eigenvalues.clamp_min_(0.0)

    @property
    def dim(self) -> int:
        """D."""
        return self.means.shape[1]

    @property
    def components(self) -> int:
        """K."""
        return len(self.weights)

    @property
    def covariances(self) -> Tensor:
        """(K, D, D), dense, float64."""
        return self._dense(self.eigenvalues)

    def _dense(self, diagonal: Tensor) -> Tensor:
        """U diag(.) U' from (..., K, D) to (..., K, D, D)."""
        basis = self._on(diagonal.device).basis
        if basis is None:
            return torch.diag_embed(diagonal)
        return (basis * diagonal[..., None, :]) @ basis.mT

    def _on(self, device: torch.device) -> _Parameters:
        """The parameters on `device`, copied there once: a copy from the host makes a GPU wait."""
        if device not in self._copies:
            weights, means, eigenvalues = (a.to(device) for a in (self.weights, self.means, self.eigenvalues))
            basis = None if self.basis is None else self.basis.to(device)
            self._copies[device] = _Parameters(weights, means, eigenvalues, basis)
        return self._copies[device]

    @functools.cached_property
    def _copies(self) -> dict[torch.device, _Parameters]:
        return {}

    # --- moments ---------------------------------------------------------------------------------------

    def mean(self) -> Tensor:
        """E[x], (D,), float64."""
        return self.weights @ self.means

    def covariance(self) -> Tensor:
        """Cov[x], (D, D), float64."""
        centred = self.means - self.mean()
        return torch.einsum("k,kij->ij", self.weights, self.covariances) + centred.mT @ (
            self.weights[:, None] * centred
        )

    def gaussian(self) -> GaussianMixture:
        """The Gaussian with its mean and covariance."""
        return GaussianMixture([1.0], self.mean()[None], self.covariance()[None], dtype=self.dtype, device=self.device)

    def kl(self, other: GaussianMixture) -> float:
        """KL(self || other) in nats, closed for single Gaussians only.

        Raises:
            ValueError: either has several components; average `log_prob` differences over samples instead.
        """
        if self.components > 1 or other.components > 1:
            raise ValueError(
                f"the KL of mixtures ({self.components} and {other.components} components) has no closed form; "
                "average self.log_prob(x) - other.log_prob(x) over x = self.sample(n)"
            )
        return gaussian_kl(self.means[0], self.covariances[0], other.means[0], other.covariances[0])

    # --- the law itself --------------------------------------------------------------------------------

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """(n, D) exact draws.

        Raises:
            ValueError: n < 0.
        """
        return self.sample_labelled(n, seed)[0]

    def sample_labelled(self, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """(n, D) exact draws and the component of each, (n,)."""
        if n < 0:
            raise ValueError(f"n = {n}; it must be >= 0")
        generator = torch.Generator().manual_seed(seed)
        label = (
            torch.multinomial(self.weights, n, replacement=True, generator=generator) if n else torch.zeros(0).long()
        )
        x = self.place(torch.randn(n, self.dim, dtype=torch.float64, generator=generator), label)
        return x.to(self.device, self.dtype), label.to(self.device)

    def place(self, z: Tensor, label: Tensor) -> Tensor:
        """m_i + U_i sqrt(l_i) z, (n, D) float64: a draw of component i = label, (n,), for standard normal z, (n, D)."""
        z = z.double().cpu() * self.eigenvalues.sqrt()[label]
        if self.basis is not None:
            for i in label.unique().tolist():
                z[label == i] = z[label == i] @ self.basis[i].mT
        return self.means[label] + z

    def log_prob(self, x: Tensor) -> Tensor:
        """log density in nats, (B, D) -> (B,).

        Raises:
            ValueError: a degenerate covariance: there is no density.
        """
        if bool((self.eigenvalues <= 0).any()):
            raise ValueError("a component has a singular covariance, so the law has no density")
        return self._at(CLEAN).log_prob(x)

    def score(self, x: Tensor) -> Tensor:
        """grad log density, (B, D) -> (B, D)."""
        return self._at(CLEAN).score(x)

    def responsibilities(self, x: Tensor) -> Tensor:
        """P(component | x), (B, K)."""
        return self._at(CLEAN).responsibilities(x)

    # --- under a process -------------------------------------------------------------------------------

    def diffuse(self, sde: LinearSDE, t: Time) -> GaussianMixture:
        """q_t, again a mixture; t is a single number."""
        level = sde.at(t)
        alpha, sigma2 = float(level.alpha), float(level.sigma) ** 2
        new = GaussianMixture.__new__(GaussianMixture)
        new.dtype, new.device, new.basis = self.dtype, self.device, self.basis
        new.weights, new.means = self.weights, alpha * self.means
        new.eigenvalues = alpha**2 * self.eigenvalues + sigma2
        return new

    def denoiser(self, sde: LinearSDE) -> MixtureDenoiser:
        """The exact E[x0 | x_t] under `sde`."""
        return MixtureDenoiser(self, sde)

    def posterior_covariance(self, x: Tensor, sde: LinearSDE, t: Time) -> Tensor:
        """Cov[x0 | x_t = x] = sigma^2 / alpha^2 (I + sigma^2 grad score), (B, D) -> (B, D, D)."""
        at = self._at(sde.at(t))
        r = at.responsibilities(x)
        x0 = at.component_x0(x)
        mean = torch.einsum("bk,bkd->bd", r, x0)
        spread = x0 - mean[:, None]
        within = self._dense((at.eigenvalues * at.sigma2 / at.diffused).double()).to(x)
        return torch.einsum("bk,bkij->bij", r, within.expand(*r.shape, *within.shape[-2:])) + torch.einsum(
            "bk,bki,bkj->bij", r, spread, spread
        )

    def flow(self, x: Tensor, sde: LinearSDE, t: float, s: float) -> Tensor:
        """The exact map of the probability flow from t to s, for a single Gaussian.

        x_s = alpha_s m + U (c_s / c_t)^(1/2) U' (x_t - alpha_t m).

        Raises:
            ValueError: several components (their flow has no closed form).
        """
        if self.components > 1:
            raise ValueError(f"the flow map is closed for one Gaussian; this mixture has {self.components} components")
        at_t, at_s = self._at(sde.at(t)), self._at(sde.at(s))
        z = at_t.rotated(x)[:, 0] * (at_s.diffused / at_t.diffused).sqrt()[..., 0, :]
        return (at_s.alpha * at_s.means[0]).to(x) + at_t.back(z[:, None])[:, 0]

    def posterior(self, measurement: LinearMeasurement, y: Array) -> GaussianMixture:
        """The exact law of x given y = A x + noise_std z: a mixture again (theory 7).

        In Kalman form, which needs no inverse of S_i and allows noise_std = 0 where A S_i A' is regular.

        Raises:
            ValueError: y of the wrong shape or not finite, or noise_std = 0 with a singular A S_i A'.
        """
        a = measurement.dense(self.dim)
        y = torch.as_tensor(y, dtype=torch.float64, device="cpu").flatten()
        if y.shape != a.shape[:1]:
            raise ValueError(f"y has {len(y)} entries; the operator gives {len(a)}")
        if not bool(y.isfinite().all()):
            raise ValueError("y holds values that are not finite")
        variance = torch.as_tensor(measurement.noise_std, dtype=torch.float64).flatten().expand(len(a)) ** 2
        s = self.covariances
        sa = s @ a.mT  # (K, D, M)
        evidence = a @ sa + torch.diag(variance)
        factor, info = torch.linalg.cholesky_ex(evidence)
        if bool((info > 0).any()):
            raise ValueError("noise_std is too small: A S A' + noise_std^2 I is singular; give a positive noise_std")
        residual = y - self.means @ a.mT  # (K, M)
        gain = torch.cholesky_solve(sa.mT, factor).mT
        half = torch.linalg.solve_triangular(factor, residual[..., None], upper=False)[..., 0]
        log_w = self.weights.log() - 0.5 * half.square().sum(1) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        covariances = s - gain @ sa.mT
        return GaussianMixture(
            torch.softmax(log_w, 0).clamp_min(1e-300),
            self.means + (gain @ residual[..., None])[..., 0],
            0.5 * (covariances + covariances.mT),
            dtype=self.dtype,
            device=self.device,
        )

    def _at(self, level: Level) -> _Diffused:
        return _Diffused(self, level)


CLEAN = RectifiedFlow().at(0.0)  # the data themselves: t = 0 of any process


def _check_parameters(w: Tensor, m: Tensor, s: Tensor) -> None:
    if w.ndim != 1 or m.ndim != 2 or len(w) != len(m) or len(w) == 0:
        raise ValueError(f"weights {tuple(w.shape)} and means {tuple(m.shape)} must be (K,) and (K, D), K >= 1")
    k, d = m.shape
    if tuple(s.shape) not in ((k,), (k, d), (k, d, d)):
        raise ValueError(f"covariances {tuple(s.shape)} must be ({k},), ({k}, {d}) or ({k}, {d}, {d})")
    for name, value in (("weights", w), ("means", m), ("covariances", s)):
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} holds values that are not finite")
    if bool((w <= 0).any()):
        i = int((w <= 0).nonzero()[0])
        raise ValueError(f"weights[{i}] = {w[i].item():g}; each must be positive")
    if s.ndim == 3 and not torch.allclose(s, s.mT, rtol=1e-8, atol=1e-10 * float(s.abs().max())):
        raise ValueError("covariances must be symmetric")


def gaussian_kl(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor) -> float:
    """KL(N(m_q, S_q) || N(m_p, S_p)) in nats (theory 3, Lemma 4), for (D,) means and (D, D) covariances.

    Raises:
        ValueError: a covariance that is not positive definite.
    """
    factors = []
    for name, cov in (("q", cov_q), ("p", cov_p)):
        factor, info = torch.linalg.cholesky_ex(cov)
        if int(info) > 0:
            raise ValueError(f"the covariance of {name} is not positive definite")
        factors.append(factor)
    factor_q, factor_p = factors
    z = torch.linalg.solve_triangular(factor_p, (mean_q - mean_p)[:, None], upper=False)
    ratio = torch.linalg.solve_triangular(factor_p, factor_q, upper=False)
    log_det = 2.0 * (factor_p.diagonal().log().sum() - factor_q.diagonal().log().sum())
    return float(0.5 * (log_det - len(mean_q) + z.square().sum() + ratio.square().sum()))


class _Diffused:
    """A mixture at one level: the (..., K, D) quantities that densities, scores and estimates share.

    For a level with a time per sample the leading dimension is B; for a scalar level it is absent.
    """

    def __init__(self, law: GaussianMixture, level: Level) -> None:
        alpha, sigma = (
            c[:, None, None] if isinstance(c, Tensor) else torch.full((), c, dtype=torch.float64, device=law.device)
            for c in (level.alpha, level.sigma)
        )
        self.weights, self.means, self.eigenvalues, self.basis = law._on(alpha.device)
        self.alpha, self.sigma2 = alpha, sigma**2
        self.centres = alpha * self.means
        # never exactly 0, so that a degenerate law at t = 0 does not divide by it
        self.diffused = (alpha**2 * self.eigenvalues + self.sigma2).clamp_min(1e-300)

    def rotated(self, x: Tensor) -> Tensor:
        """U'(x - alpha m), (B, K, D)."""
        z = x[:, None] - self.centres.to(x)
        return z if self.basis is None else torch.einsum("bkd,kde->bke", z, self.basis.to(x))

    def back(self, z: Tensor) -> Tensor:
        """U z, (B, K, D)."""
        return z if self.basis is None else torch.einsum("bke,kde->bkd", z, self.basis.to(z))

    def _log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        """log w_i N(x; alpha m_i, C_i), (B, K)."""
        c = self.diffused
        constant = self.weights.log() - 0.5 * (torch.log(2.0 * math.pi * c)).sum(-1)
        return constant.to(x) - 0.5 * (z.square() / c.to(x)).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        return _chunked(x, self, lambda at, x: torch.logsumexp(at._log_joint(x, at.rotated(x)), 1))

    def responsibilities(self, x: Tensor) -> Tensor:
        return torch.softmax(self._log_joint(x, self.rotated(x)), 1)

    def component_x0(self, x: Tensor) -> Tensor:
        """E_i[x0 | x_t], (B, K, D)."""
        gain = (self.alpha * self.eigenvalues / self.diffused).to(x)
        return self.means.to(x) + self.back(gain * self.rotated(x))

    def _mixed(self, x: Tensor, gain: Tensor, *, means: bool) -> Tensor:
        """sum_i r_i (m_i + U gain z), (B, D); without the means for the score."""
        z = self.rotated(x)
        r = torch.softmax(self._log_joint(x, z), 1)
        mixed = self.combined(r, z * gain.to(x))
        return mixed + r @ self.means.to(x) if means else mixed

    def combined(self, r: Tensor, z: Tensor) -> Tensor:
        """sum_i r_i U z_i, (B, D)."""
        if self.basis is None:
            return torch.einsum("bk,bkd->bd", r, z)
        return torch.einsum("bk,bke,kde->bd", r, z, self.basis.to(z))

    def score(self, x: Tensor) -> Tensor:
        return _chunked(x, self, lambda at, x: at._mixed(x, -1.0 / at.diffused, means=False))

    def excess(self, x: Tensor) -> Tensor:
        return _chunked(
            x, self, lambda at, x: at._mixed(x, at.alpha * (at.eigenvalues - 1.0) / at.diffused, means=True)
        )


def _chunked(x: Tensor, at: _Diffused, function: Any) -> Tensor:
    """function(at, x), a few rows at a time when a (B, K, D) intermediate would be large."""
    rows = max(1, CHUNK // at.means.numel())
    if len(x) <= rows or at.alpha.ndim > 0:
        return function(at, x)
    return torch.cat([function(at, part) for part in x.split(rows)])


class MixtureDenoiser(Denoiser):
    """The exact denoiser of a `GaussianMixture`: float64 coefficients, the state's dtype for the data."""

    def __init__(self, law: GaussianMixture, sde: LinearSDE) -> None:
        centred = law.means - law.mean()
        spread = (law.weights @ (law.eigenvalues + centred.square())).mean().sqrt().item()
        super().__init__(sde, PredictsExcess(), (law.dim,), data_std=max(spread, 1e-150))
        self.law = law

    @property
    def dtype(self) -> torch.dtype:
        return self.law.dtype

    @property
    def device(self) -> torch.device:
        return self.law.device

    def predict(self, x: Tensor, t: Level) -> Tensor:
        return self.law._at(t).excess(x)


class Empirical:
    """The uniform law on a finite data set (N, *): its denoiser is the ideal one, which knows nothing but the data.

    Raises:
        ValueError: an empty data set, or values that are not finite.
    """

    def __init__(self, data: Tensor) -> None:
        if data.ndim < 2 or len(data) == 0:
            raise ValueError(f"data of shape {tuple(data.shape)}; give (N, *) with at least one item")
        if not bool(data.isfinite().all()):
            raise ValueError("data hold values that are not finite")
        self.data = data
        self.data_std = max(data.var(0, correction=0).mean().sqrt().item(), 1e-150)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """(n, *) draws with replacement."""
        generator = torch.Generator().manual_seed(seed)
        return self.data[torch.randint(len(self.data), (n,), generator=generator)]

    def denoiser(self, sde: LinearSDE) -> EmpiricalDenoiser:
        """E[x0 | x_t] = the data averaged with weights softmax(-|x - alpha d|^2 / (2 sigma^2))."""
        return EmpiricalDenoiser(self, sde)


class EmpiricalDenoiser(Denoiser):
    """The ideal denoiser of a finite data set (De Bortoli 2022; Karras et al. 2022, app. B.3)."""

    def __init__(self, law: Empirical, sde: LinearSDE) -> None:
        super().__init__(sde, PredictsX0(), tuple(law.data.shape[1:]), data_std=law.data_std)
        self.law = law

    @property
    def dtype(self) -> torch.dtype:
        return self.law.data.dtype

    @property
    def device(self) -> torch.device:
        return self.law.data.device

    def predict(self, x: Tensor, t: Level) -> Tensor:
        data = self.law.data.flatten(1)
        rows = max(1, CHUNK // data.numel())
        alpha, sigma = (
            expand(c, data) if isinstance(c, Tensor) else torch.full((1, 1), c, dtype=data.dtype, device=data.device)
            for c in (t.alpha, t.sigma)
        )
        alpha, sigma = alpha.expand(len(x), 1), sigma.expand(len(x), 1)
        out = []
        for part, a, s in zip(x.flatten(1).split(rows), alpha.split(rows), sigma.split(rows), strict=True):
            # differences first: |x|^2 - 2 alpha x.d + alpha^2 |d|^2 would cancel at small sigma
            distance2 = (part[:, None] - a[:, None] * data).square().sum(-1)
            scaled = (distance2 - distance2.amin(1, keepdim=True)) / (2.0 * s.square()).clamp_min(1e-30)
            out.append(torch.softmax(-scaled, 1) @ data)
        return torch.cat(out).reshape(x.shape)
