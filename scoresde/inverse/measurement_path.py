r"""The measurement as an SDE: a dial from clean (t = 0) to fully corrupted (t = 1), and back by reverse diffusion.

    Y_0 = A(X),    dY = noise_std dW on [0, 1],    so that Y_1 has the law of Y            (theory 8)

and for the law q_t of Y_t, by Tweedie,

    grad log q_t(y) = (E[A(X) | Y_t = y] - y) / (noise_std^2 t)
    dY = -noise_std^2 grad log q_t(Y) dt + noise_std dWbar,   from Y_1 = y down to t = 0,

whose end is a draw of A(X) given y. Only the time reversal itself (Anderson 1982) has the joint law of Y_0 and Y_1:
with any other share of noise (the probability flow, ER-SDE) the marginals stay right, and the draws given one y do not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import grids
from scoresde._philox import philox_word
from scoresde._tensors import Coefficient
from scoresde.denoisers import Denoiser
from scoresde.rescheduled import Rescheduled
from scoresde.sampling import sample, sample_ids
from scoresde.sde import LinearSDE
from scoresde.solvers import SASolver

STEPS = 50
"""Steps of the whole way from 1 to 0 unless told otherwise; on mixtures 20 are at the floor already."""

REVERSAL = SASolver()  # weak order 2; with eta = 1 it is the time reversal


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
        times = self.times(to, since, steps)
        y = self._batch(y)
        rows = sample_ids(len(y) if n is None and ids is None else n, ids)
        return self.follow(y, times, rows, seed, batch_size, on_step)

    def follow(
        self,
        y: Tensor,
        times: Tensor,
        ids: Tensor,
        seed: int = 0,
        batch_size: int | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Tensor:
        """Draws of Y at times[-1] given Y = y, one for all or one for each, at times[0]: along a decreasing grid.

        Raises:
            ValueError: as many y as there are not draws.
            NumericalError: values that are not finite.
        """
        y = self._batch(y)
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

    def times(self, to: float = 0.0, since: float = 1.0, steps: int = STEPS) -> Tensor:
        """The reversal's own grid over [to, since], `steps` of them over [0, 1].

        Raises:
            ValueError: a noise at `since` below the cleanest level that the denoiser knows.
        """
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
