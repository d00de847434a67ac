"""What methods ask of the prior at a noise level, and paths that go back up."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from scoresde.denoisers import Denoiser
from scoresde.parameterisations import combine_prediction
from scoresde.sde import Level

LEAST_SIGNAL = 1e-4
"""alpha / sigma below which x_t says nothing: there, the level with this ratio stands for t (0 / 0 where alpha = 0)."""


def regular(t: Level) -> Level:
    """`t`, or the level that stands for it where there is no signal."""
    least = 2.0 * math.log(LEAST_SIGNAL)
    if isinstance(t.log_snr, Tensor):
        return t.sde.at(torch.where(t.log_snr < least, t.sde.time_of_log_snr(least), t.t))
    return t.sde.at(t.sde.time_of_log_snr(least).item()) if t.log_snr < least else t


def estimate(denoiser: Denoiser, x: Tensor, t: Level) -> tuple[Tensor, Tensor]:
    """E[x0 | x_t] and E[eps | x_t], (B, *), from one network call."""
    t = regular(t)
    prediction = denoiser.predict(x, t)
    part = denoiser.parameterisation
    return combine_prediction(part.x0(t), x, prediction), combine_prediction(part.eps(t), x, prediction)


def noise_to_signal(t: Level) -> float:
    """rho = sigma / alpha, finite."""
    t = regular(t)
    return float(t.sigma) / float(t.alpha)


def spread(t: Level, data_std: float) -> float:
    """Standard deviation of x0 given x_t when x0 ~ N(0, data_std^2)."""
    rho = noise_to_signal(t)
    return rho * data_std / math.hypot(rho, data_std)


def with_travel(times: list[float], jump: int, turns: int) -> list[tuple[float, float, int]]:
    """(from, to, which turn) of all steps, where each stretch of `jump` steps is walked `turns` times.

    Between two turns is a step back up to the start of the stretch (Lugmayr et al. 2022).
    """
    path = []
    for first in range(0, len(times) - 1, jump):
        stretch = times[first : first + jump + 1]
        for turn in range(turns):
            if turn > 0:
                path.append((stretch[-1], stretch[0], turn))
            path.extend((t, s, turn) for t, s in itertools.pairwise(stretch))
    return path
