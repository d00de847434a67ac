r"""One prior under any process: a denoiser asked at its own time of the same log-SNR.

If x_t = alpha_t x0 + sigma_t eps under one linear process, then k x_t has the law of another one's x at its time of the
same log-SNR, with k the ratio of their radii sqrt(alpha^2 + sigma^2), so that

    E[x0 | x_t] = E[x0 | k x_t] under the other one,      score = k (score there at k x_t)

(Kingma et al. 2021, section 5.1; Karras et al. 2022, section 3). One network, or one exact law, serves every schedule.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._tensors import Coefficient, scale
from scoresde.denoisers import Denoiser
from scoresde.parameterisations import Pair, Parameterisation
from scoresde.sde import Level, LinearSDE


class Rescheduled(Denoiser):
    """The prior of `inner` under the process `sde`.

    It predicts what `inner` predicts, with coefficients in float64, so that nothing cancels at either end of time.
    Where `sde` is noisier than `inner.sde` ever is, exact laws are still exact, as they go by the scales alone. A
    network is told the nearest end of the range that it was trained on, as under its own process, and sees x at unit
    power.

    Args:
        inner: of any process.
        sde: the process to use it with.
    """

    def __init__(self, inner: Denoiser, sde: LinearSDE) -> None:
        super().__init__(
            sde,
            Moved(inner.parameterisation, inner.sde),
            inner.shape,
            inner.max_log_snr,
            inner.data_range,
            inner.memory_format,
            inner.data_std,
        )
        self.inner = inner

    def predict(self, x: Tensor, t: Level) -> Tensor:
        level, k = matched(self.inner.sde, t)
        return self.inner.predict(x if isinstance(k, float) and k == 1.0 else scale(k, x), level)

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        return self.inner.device


@dataclass(frozen=True)
class Moved(Parameterisation):
    """What a prediction made at k x, under the process `sde`, means for x under the process of a level."""

    of: Parameterisation
    sde: LinearSDE

    def x0(self, t: Level) -> Pair:
        level, k = matched(self.sde, t)
        a, b = self.of.x0(level)
        return a * k, b

    def eps(self, t: Level) -> Pair:
        level, k = matched(self.sde, t)
        c, d = self.of.eps(level)
        return c * k, d

    def score(self, t: Level) -> Pair:
        level, k = matched(self.sde, t)
        c, d = self.of.score(level)
        return c * k * k, d * k

    def target(self, t: Level) -> Pair:
        return self.of.target(matched(self.sde, t)[0])


def matched(sde: LinearSDE, t: Level) -> tuple[Level, Coefficient]:
    """The level of `sde` with the log-SNR of `t`, and k with alpha = k alpha_t and sigma = k sigma_t there.

    Where `sde` never is so noisy, the time is 1, and the scales have the log-SNR of `t` all the same.
    """
    return _matched(sde, t) if isinstance(t.log_snr, Tensor) else _scalar_matched(sde, t)


def _matched(sde: LinearSDE, t: Level) -> tuple[Level, Coefficient]:
    # not below its own t = 1: some inverses have no limit at -inf
    noisiest = sde.at(1.0).log_snr
    time = sde.time_of_log_snr(torch.as_tensor(t.log_snr, dtype=torch.float64).clamp_min(float(noisiest)))
    k = sde.at(time if isinstance(t.log_snr, Tensor) else time.item()).radius / t.radius
    return Level(time, k * t.alpha, k * t.sigma, t.log_snr, sde), k


@functools.lru_cache(maxsize=16384)
def _scalar_matched(sde: LinearSDE, t: Level) -> tuple[Level, float]:
    level, k = _matched(sde, t)
    return Level(float(level.t), float(level.alpha), float(level.sigma), t.log_snr, sde), float(k)
