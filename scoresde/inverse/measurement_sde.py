r"""The measurement as an SDE: a dial from clean (t = 0) to fully corrupted (t = 1), and back by reverse diffusion.

    Y_0 = A(X),    dY = noise_std dW on [0, 1],    so that Y_1 has the law of Y            (theory 8)

and for the law q_t of Y_t, by Tweedie,

    grad log q_t(y) = (E[A(X) | Y_t = y] - y) / (noise_std^2 t)
    dY = -noise_std^2 grad log q_t(Y) dt + noise_std dWbar,   from Y_1 = y down to t = 0,

whose end is a draw of A(X) given y. Only the time reversal itself (Anderson 1982) has the joint law of Y_0 and Y_1:
with any other share of noise (the probability flow, ER-SDE) the marginals stay right, and the draws given one y do not.

What is needed is a denoiser of A(X), under any process (`Rescheduled`):

    A = I       the prior's: E[X | Y_t = y] = xhat0(sqrt(abar) y, tau), abar(tau) = 1 / (1 + noise_std^2 t) for a VP one
    linear A    a mixture's is exact: A(X) has the law sum_i w_i N(A m_i, A S_i A') (`pushforward`)
    any A       one trained on A(x) for x from the data

Given a draw v of A(X), X is A^+ v for an injective A, and otherwise a draw of x given A(x) = v: `lift`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from scoresde import grids
from scoresde._philox import philox_word
from scoresde._tensors import Coefficient
from scoresde.denoisers import Denoiser
from scoresde.distributions import GaussianMixture
from scoresde.inverse.measurement import GaussianMeasurement
from scoresde.inverse.problem import Draws, Method, Problem, Run
from scoresde.linalg import Operator
from scoresde.noise import uniform
from scoresde.rescheduled import Rescheduled
from scoresde.sampling import sample, sample_ids
from scoresde.sde import LinearSDE
from scoresde.solvers import SASolver

STEPS = 50
"""Steps of the whole way from 1 to 0 unless told otherwise; on mixtures 20 are at the floor already."""

LIFT_NOISE = 1e-3
"""The noise with which A(x) = v is told to a method that fills in x, as a share of noise_std."""

REVERSAL = SASolver()  # weak order 2; with eta = 1 it is the time reversal
LABELS = (1 << 31) + 2  # the stream of random words that choose components


@dataclass(frozen=True)
class Brownian(LinearSDE):
    """dY = noise_std dW: alpha = 1, sigma(t) = noise_std sqrt(t). At t = 1 the data still show, as they should.

    Raises:
        ValueError: a noise_std that is not positive and finite.
    """

    noise_std: float

    def __post_init__(self) -> None:
        if not 0 < self.noise_std < math.inf:
            raise ValueError(f"noise_std = {self.noise_std}; it must be positive and finite")

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.noise_std * torch.sqrt(t)

    def alpha_dot(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def sigma2_dot(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.noise_std**2)

    def time_of_log_snr(self, log_snr: Coefficient) -> Tensor:
        lam = torch.as_tensor(log_snr, dtype=torch.float64)
        return torch.exp(-lam - 2.0 * math.log(self.noise_std)).clamp(0.0, 1.0)


@dataclass(frozen=True, eq=False)
class MeasurementPath:
    """Y_t = A(X) + noise_std W_t, and the way back. Nothing here knows of A: `denoiser` is one of A(X).

    Every y is (B, *), or (*) where the denoiser knows the shape of a sample.

    Args:
        denoiser: of A(X), under any process; for A = I the prior's.
        noise_std: of Y = Y_1, one number.

    Raises:
        ValueError: a noise_std that is not positive and finite; on use, a t outside [0, 1].
    """

    denoiser: Denoiser
    noise_std: float

    def __post_init__(self) -> None:
        _ = self.process

    @functools.cached_property
    def process(self) -> Brownian:
        """dY = noise_std dW."""
        return Brownian(self.noise_std)

    @functools.cached_property
    def reversed(self) -> Rescheduled:
        """(y, t) -> E[A(X) | Y_t = y], a denoiser like any other."""
        return Rescheduled(self.denoiser, self.process)

    def mean(self, y: Tensor, t: float = 1.0) -> Tensor:
        """E[A(X) | Y_t = y], (B, *): one network call."""
        return self.reversed.x0(self._batch(y), t)

    def score(self, y: Tensor, t: float = 1.0) -> Tensor:
        """grad log q_t(y), (B, *)."""
        return self.reversed.score(self._batch(y), t)

    def sample(
        self,
        y: Tensor,
        *,
        steps: int = STEPS,
        n: int | None = None,
        ids: Sequence[int] | Tensor | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        """Draws of A(X) given Y_1 = y, (n, *): the dial turned to 0. The rest as for `dial`."""
        return self.dial(y, 0.0, steps=steps, n=n, ids=ids, seed=seed, batch_size=batch_size, on_step=on_step)

    def dial(
        self,
        y: Tensor,
        to: float,
        since: float = 1.0,
        *,
        steps: int = STEPS,
        n: int | None = None,
        ids: Sequence[int] | Tensor | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        """Draws of Y_to given Y_since = y, (n, *): partial restoration.

        Turning it to s and from there to 0, with the same seed or another, has the law of turning it to 0 at once.

        Args:
            y: one for all draws, or one for each.
            to, since: 1 is fully corrupted, 0 is clean; to < since.
            steps: of the whole way from 1 to 0, of which a part takes its share; one network call each.
            n, ids, seed, batch_size, on_step: as for `scoresde.sample`.

        Raises:
            ValueError: times that do not fall, as many y as there are not draws, a noise at `since` below the cleanest
                level that the denoiser knows.
            NumericalError: values that are not finite.
        """
        if not 0 <= to < since <= 1:
            raise ValueError(f"to = {to}, since = {since}: the dial goes down, 0 <= to < since <= 1")
        times = self._times(to, since, steps)
        y = self._batch(y)
        rows = sample_ids(len(y) if n is None and ids is None else n, ids)
        return self._follow(y, times, rows, seed, batch_size, on_step)

    def _follow(
        self,
        y: Tensor,
        times: Tensor,
        ids: Tensor,
        seed: int,
        batch_size: int | None,
        on_step: Callable[[], None] | None,
    ) -> Tensor:
        """Draws of Y at times[-1] given Y = y, (1, *) or (n, *), at times[0], along a decreasing grid."""
        if len(y) not in (1, len(ids)):
            raise ValueError(f"y holds {len(y)} measurements, for {len(ids)} draws; give one, or one for each draw")
        # noise of its own for each start: a second turn, or a lift, with the same seed is independent of the first
        turn = philox_word(seed, round(float(times[0]) * 0xFFFFFFFF))
        return sample(
            self.reversed,
            REVERSAL,
            times=times,
            ids=ids,
            x1=y.expand(len(ids), *y.shape[1:]),
            seed=turn,
            batch_size=batch_size,
            on_step=on_step,
        )

    def _times(self, to: float, since: float, steps: int) -> Tensor:
        """The reversal's own grid over [to, since]."""
        cleanest = REVERSAL.cleanest(self.reversed)
        if self.process.at(since).log_snr >= cleanest:
            raise ValueError(
                f"noise_std = {self.noise_std:g} at t = {since:g} is a noise of {self.noise_std * since**0.5:g}, which "
                f"is below the cleanest level that the denoiser knows, {math.exp(-0.5 * cleanest):.3g}: there is "
                "nothing that it could remove"
            )
        whole = grids.GRIDS[REVERSAL.grid](self.process, steps, cleanest)
        # a step that is next to nothing is left out
        inside = whole[(whole > to + 1e-6 * (since - to)) & (whole < since - 1e-6 * (since - to))]
        return torch.cat([torch.tensor([since]).double(), inside, torch.tensor([to]).double()])

    def _batch(self, y: Tensor) -> Tensor:
        """y as (B, *), as the denoiser takes it."""
        y = torch.as_tensor(y).to(self.denoiser.device, self.denoiser.dtype)
        shape = self.denoiser.shape
        if shape is not None and tuple(y.shape) == shape:
            y = y[None]
        if y.ndim < 2 or tuple(y.shape[1:]) != (shape or tuple(y.shape[1:])):
            raise ValueError(f"y has shape {tuple(y.shape)}; the denoiser of A(X) takes (B, *) with {shape or '(*)'}")
        return y


@dataclass(frozen=True, eq=False)
class MeasurementSDE(Method):
    """Reverse diffusion of the measurement itself, and a lift of A(X) to X.

    Without a denoiser, for A = I (or A'A = c^2 I, such as a mask of all ones) and any trained prior, as it is. With one
    of A(X), for any A. One network call a step, no network gradients, no tuning; noise_std is one number. Exact in the
    limit of many steps for an exact denoiser and A = I or an injective A; else as exact as `fill` is.

    Args:
        denoiser: of A(X), under any process: trained on A(x), or `pushforward(law, A).denoiser(sde)`.
        fill: a method that draws x given A(x) = v, for an A that is not injective; its samples may not interact.

    Raises:
        ValueError: a fill that interacts; on use, a noise_std that differs between entries, no denoiser for an A that
            needs one, no fill for an A that is not injective.
    """

    denoiser: Denoiser | None = None
    fill: Method | None = None

    exact: ClassVar[str] = "many steps"

    def __post_init__(self) -> None:
        if self.fill is not None and self.fill.interacting:
            raise ValueError(f"the samples of {self.fill} interact, and each draw of A(X) is filled alone; take MMPS()")

    @classmethod
    def of_mixture(cls, law: GaussianMixture, operator: Operator) -> MeasurementSDE:
        """Exact for a mixture prior and every linear A, but for the steps."""
        return cls(pushforward(law, operator).denoiser(Brownian(1.0)), MixturePosterior(law))

    def draw(self, problem: Problem, run: Run) -> Draws:
        noise_std = _one_noise_std(problem.measurement)
        if self.denoiser is None:
            y, noise_std = _as_denoising(problem, noise_std)
            return Draws(_down(MeasurementPath(problem.denoiser, noise_std), y, run))
        path = MeasurementPath(self.denoiser, noise_std)
        v = _down(path, path._batch(problem.y), run)
        return Draws(lift(replace(problem, y=v.to(problem.y)), run, self.fill))


def _down(path: MeasurementPath, y: Tensor, run: Run) -> Tensor:
    """From 1 to 0, by the run's times or steps."""
    if run.times is None:
        times = path._times(0.0, 1.0, STEPS if run.steps is None else run.steps)
    else:
        times = grids.check_times(run.times)
        if times[0] != 1 or times[-1] != 0:
            raise ValueError(
                f"times go from {times[0]:g} to {times[-1]:g}; y is the measurement at t = 1, and they must end at 0"
            )
    return path._follow(y, times, run.ids, run.seed, run.batch_size, run.on_step)


def _one_noise_std(measurement: GaussianMeasurement) -> float:
    std = torch.as_tensor(measurement.noise_std, dtype=torch.float64).flatten()
    if bool((std != std[0]).any()):
        raise ValueError(
            f"noise_std runs from {std.min().item():g} to {std.max().item():g} over the entries, and a measurement is "
            "an SDE with one noise_std; take MMPS, or divide y and A by it"
        )
    return std[0].item()


def _as_denoising(problem: Problem, noise_std: float) -> tuple[Tensor, float]:
    """y and noise_std as of x itself, where A'A = c^2 I: A'y / c^2 = x + (noise_std / c) z says all that y does."""
    if problem.operator.linear:
        A = problem.operator.as_linear()
        probe = torch.randn(1, *problem.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        back = A.adjoint(A(probe))
        c2 = ((back * probe).sum() / probe.square().sum()).item()
        if c2 > 0 and torch.allclose(back, c2 * probe, rtol=0.0, atol=1e-8 * c2):
            return A.adjoint(problem.y) / c2, noise_std / c2**0.5
    raise ValueError(
        f"A is {problem.operator}, not the identity, and the denoiser of x says nothing of A(x) + noise; give "
        "denoiser= one of A(x), trained on A of the data or pushforward(law, A).denoiser(sde); or take another method, "
        "such as MMPS"
    )


# --- from A(X) to X ------------------------------------------------------------------------------------


def lift(problem: Problem, run: Run, fill: Method | None = None) -> Tensor:
    """Draws of x given A(x) = v, (n, *), for the draws v = `problem.y` of A(X).

    Without `fill`, A^+ v. With it, its draws from the prior given v, told with a noise of `LIFT_NOISE` noise_std.

    Args:
        problem: the prior, the measurement and v, (1, *) or (n, *).
        run: for `fill`; its times do not count, as they belong to v.
        fill: a method whose samples do not interact.

    Raises:
        ValueError: no `fill`, and an A that is not linear or leaves part of x unseen.
    """
    if fill is not None:
        told = GaussianMeasurement(problem.operator, LIFT_NOISE * _one_noise_std(problem.measurement))
        return fill.draw(replace(problem, measurement=told), replace(run, times=None, solver=None)).x
    svd = problem.operator.as_linear().svd(problem.shape)
    unseen = int((svd.values.expand(svd.vt(torch.zeros(1, *problem.shape).double()).shape) <= svd.cutoff).sum())
    if unseen:
        raise ValueError(
            f"{problem.operator} leaves {unseen} of {math.prod(problem.shape)} directions of x unseen; give fill= a "
            "method that draws x given A(x), such as MMPS() or MixturePosterior(law)"
        )
    return svd.pinv(problem.y)


# --- mixtures ------------------------------------------------------------------------------------------


def pushforward(law: GaussianMixture, operator: Operator) -> GaussianMixture:
    """The law of A X for X ~ `law`: sum_i w_i N(A m_i, A S_i A'), in M dimensions; degenerate where A is.

    Raises:
        ValueError: an operator that is not linear, or does not take vectors of the law's length.
    """
    a = operator.as_linear().dense(law.dim)
    covariances = a @ law.covariances @ a.mT
    return GaussianMixture(
        law.weights, law.means @ a.mT, 0.5 * (covariances + covariances.mT), dtype=law.dtype, device=law.device
    )


@dataclass(frozen=True, eq=False)
class MixturePosterior(Method):
    """Exact draws from the posterior of a mixture, for linear A: a component by its weight, then Matheron's rule.

        x = x' + S A' (A S A' + noise_std^2 I)^-1 (y - A x' - noise_std z'),     x' ~ N(m, S)

    The prior's denoiser is not asked, and there are no steps.

    Args:
        law: the prior, of vectors of as many entries as a sample has.
    """

    law: GaussianMixture

    exact: ClassVar[str] = "always"

    def draw(self, problem: Problem, run: Run) -> Draws:
        law, a = self.law, problem.measurement.dense(problem.shape).cpu()
        std = problem.measurement.std(a).expand(problem.y.shape[1:]).flatten()
        y = problem.y.flatten(1).double().cpu()
        sa = law.covariances @ a.mT  # (K, D, M)
        factor = torch.linalg.cholesky(a @ sa + torch.diag(std**2))
        label = self._components(y, law.means @ a.mT, factor, run)
        x = law.place(run.noise(problem).start().flatten(1), label)
        z = run.noise_of_y(problem).at(0, 1.0, 0.0)().flatten(1).double().cpu()
        residual = (y - x @ a.mT - std * z)[..., None]
        x = x + (sa[label] @ torch.cholesky_solve(residual, factor[label]))[..., 0]
        return Draws(x.reshape(-1, *problem.shape).to(problem.y))

    def _components(self, y: Tensor, means: Tensor, factor: Tensor, run: Run) -> Tensor:
        """A component for each draw, (n,), by P(component | y)."""
        z = torch.linalg.solve_triangular(factor, (y[:, None] - means)[..., None], upper=False)[..., 0]
        log_w = self.law.weights.log() - 0.5 * z.square().sum(-1) - factor.diagonal(dim1=1, dim2=2).log().sum(-1)
        edges = torch.softmax(log_w, 1).cumsum(1).expand(len(run.ids), -1).contiguous()
        u = uniform(run.seed, run.ids, (1,), stream=LABELS, dtype=torch.float64)
        return torch.searchsorted(edges, u * edges[:, -1:])[:, 0].clamp_max(len(self.law.weights) - 1)
