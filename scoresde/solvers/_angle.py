r"""The probability flow in the angle phi = atan(sigma / alpha), for solvers that choose their own steps.

In the coordinates y = x / sqrt(alpha^2 + sigma^2) and phi, the flow of every linear process is the same equation,

    dy / dphi = cos(phi) eps - sin(phi) x0,

which is bounded on the whole of [0, pi/2] even for a network (in t, a VP process has slopes like 1 / sqrt(t) near the
data). The angle 0 itself is not evaluated: the last 2e-3 (float32) or 5e-7 (float64) is one exact denoising step,

    x0 = cos(phi) y - sin(phi) dy/dphi.

y is cos(phi) x0 + sin(phi) eps and its slope is the v of Salimans & Ho (2022, app. D, where the process is VP).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._tensors import combine, scale
from scoresde.denoisers import Denoiser
from scoresde.reverse import Reverse


def angle_of_time(denoiser: Denoiser, t: float, dtype: torch.dtype) -> float:
    """phi(t) = atan(sigma / alpha), kept off 0 by what the dtype and the denoiser's trained range allow."""
    level = denoiser.sde.at(t)
    floor = max(torch.finfo(dtype).eps ** 0.4, math.exp(-0.5 * denoiser.max_log_snr))
    return max(math.atan2(float(level.sigma), float(level.alpha)), math.atan(floor))


def time_of_angle(denoiser: Denoiser, phi: Tensor) -> Tensor:
    """t where atan(sigma / alpha) = phi, for an angle per sample (B,)."""
    return denoiser.sde.time_of_log_snr(-2.0 * torch.log(torch.tan(phi.clamp_max(math.pi / 2))))


def slope(denoiser: Denoiser, y: Tensor, phi: Tensor) -> Tensor:
    """dy/dphi = cos(phi) eps - sin(phi) x0 at y (B, *) and an angle per sample (B,); one network call."""
    level = denoiser.sde.at(time_of_angle(denoiser, phi))
    x = scale(level.radius, y)
    k, m = denoiser.parameterisation.linear(level, eps=torch.cos(phi), x0=-torch.sin(phi))
    return combine(k, x, m, denoiser.predict(x, level), out=x)


def arrive(process: Reverse, y: Tensor, dy: Tensor, phi: float, s: float) -> Tensor:
    """x at time s, from y and dy/dphi at phi(s); phi stops short of s = 0, where x0 = cos(phi) y - sin(phi) dy/dphi."""
    if s == 0:
        return combine(math.cos(phi), y, -math.sin(phi), dy)
    return y * process.at(s).radius
