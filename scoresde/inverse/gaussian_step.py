r"""The exact Gaussian step of many methods: x ~ N(m, r^2 I) told of y = A x + noise_std z, for linear A.

With Sigma = diag(noise_std^2),

    precision  P = I / r^2 + A' Sigma^-1 A,      mean = m + P^-1 A' Sigma^-1 (y - A m)
    evidence   log N(y; A m, Sigma + r^2 A A')

By the SVD of A where it has one and the noise is the same for all entries of y: with z = V' x and singular values s,
everything is a product by numbers. Otherwise by conjugate gradients (no evidence then), with a draw by perturbing and
solving: P^-1 (m~ / r^2 + A' Sigma^-1 y~) with m~ ~ N(m, r^2 I) and y~ ~ N(y, Sigma) has the law N(mean, P^-1)
(Papandreou & Yuille 2010).
"""

from __future__ import annotations

import abc
import math

from torch import Tensor

from scoresde._tensors import flat_sum
from scoresde.inverse.conjugate_gradients import conjugate_gradients
from scoresde.inverse.problem import Problem
from scoresde.linalg import SVD

ITERATIONS, TOLERANCE = 200, 1e-6


class GaussianStep:
    """The posterior of N(m, r^2 I) given y, made once for a problem.

    Raises:
        ValueError: A is not linear.
    """

    def __init__(self, problem: Problem) -> None:
        problem.operator.as_linear()
        svd = spectral(problem)
        self._how: _Step = _Iterative(problem) if svd is None else _Spectral(problem, svd)

    def mean(self, m: Tensor, r: float) -> Tensor:
        """argmin |y - A x|^2 / noise_std^2 + |x - m|^2 / r^2, (B, *), for m (B, *) and r > 0."""
        return self._how.mean(m, r)

    def draw(self, m: Tensor, r: float, z_x: Tensor, z_y: Tensor) -> Tensor:
        """A draw, (B, *), from standard normals z_x in the shape of x and z_y in that of y."""
        return self._how.draw(m, r, z_x, z_y)

    def log_evidence(self, m: Tensor, r: float) -> Tensor:
        """log N(y; A m, Sigma + r^2 A A'), nats, (B,).

        Raises:
            ValueError: A has no SVD that is fast enough, or the noise differs between entries.
        """
        return self._how.log_evidence(m, r)


def spectral(problem: Problem) -> SVD | None:
    """The SVD of A, where it makes Sigma + r^2 A A' diagonal; None where there is none, or the noise does not fit."""
    if problem.noise_std.ndim > 0 and problem.noise_std.numel() > 1:
        return None
    try:
        return problem.operator.as_linear().svd(problem.shape)
    except ValueError:
        return None


def why_not_spectral(problem: Problem) -> str:
    """Words for the reason that `spectral` is None."""
    if problem.noise_std.numel() > 1:
        return "noise_std is given for each entry of y, and needs to be one number"
    return f"{problem.operator} has none that is fast enough for samples of shape {problem.shape}"


class _Step(abc.ABC):
    @abc.abstractmethod
    def mean(self, m: Tensor, r: float) -> Tensor: ...

    @abc.abstractmethod
    def draw(self, m: Tensor, r: float, z_x: Tensor, z_y: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def log_evidence(self, m: Tensor, r: float) -> Tensor: ...


class _Spectral(_Step):
    """In the coordinates of V' x."""

    def __init__(self, problem: Problem, svd: SVD) -> None:
        self.svd = svd
        y = problem.y.double()
        self.noise_std = float(problem.measurement.std(y))
        self.s = svd.values.to(y.device)
        # U' y, exactly 0 where not seen: V' A' y holds rounding there, to be divided by noise_std^2
        self.projected = svd.ut(y)
        # what U does not span of y is noise alone
        self.outside = (flat_sum(y.square()) - flat_sum(self.projected.square())).clamp_min(0.0)
        self.sizes = y[0].numel(), self.projected[0].numel()

    def _variance(self, r: float) -> Tensor:
        """Of U' y given m: noise_std^2 + r^2 s^2."""
        return self.noise_std**2 + r**2 * self.s.square()

    def _residual(self, m: Tensor) -> Tensor:
        """U' (y - A m), as U' A = diag(s) V'; float64."""
        return self.projected - self.s * self.svd.vt(m).double()

    def mean(self, m: Tensor, r: float) -> Tensor:
        gain = r**2 * self.s / self._variance(r)
        return m + self.svd.v((gain * self._residual(m)).to(m))

    def draw(self, m: Tensor, r: float, z_x: Tensor, z_y: Tensor) -> Tensor:
        std = r * self.noise_std * self._variance(r).rsqrt()
        return self.mean(m, r) + self.svd.v(std.to(m) * self.svd.vt(z_x))

    def log_evidence(self, m: Tensor, r: float) -> Tensor:
        variance, (M, D) = self._variance(r), self.sizes
        inside = flat_sum(self._residual(m).square() / variance + variance.log())
        # D - rank coordinates that are not seen count as noise_std^2 in the sum, and M - rank of y are noise alone
        outside = self.outside / self.noise_std**2 + 2.0 * (M - D) * math.log(self.noise_std)
        return -0.5 * (inside + outside + M * math.log(2.0 * math.pi))


class _Iterative(_Step):
    """By conjugate gradients on P r^2 = I + r^2 A' Sigma^-1 A."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.A = problem.operator.as_linear()
        self.std = problem.noise_std

    def _solve(self, m: Tensor, r: float, y: Tensor) -> Tensor:
        weigh = lambda v: self.A.adjoint(v / self.std**2)  # noqa: E731
        return m + conjugate_gradients(
            lambda v: v + r**2 * weigh(self.A(v)), r**2 * weigh(y - self.A(m)), ITERATIONS, TOLERANCE
        )

    def mean(self, m: Tensor, r: float) -> Tensor:
        return self._solve(m, r, self.problem.y)

    def draw(self, m: Tensor, r: float, z_x: Tensor, z_y: Tensor) -> Tensor:
        return self._solve(m + r * z_x, r, self.problem.y + self.std * z_y)

    def log_evidence(self, m: Tensor, r: float) -> Tensor:
        raise ValueError(
            f"the density of y needs the SVD of A, which {self.A} has none of that is fast enough, "
            "and noise_std the same for all entries of y"
        )
