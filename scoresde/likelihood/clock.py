r"""The coordinate in which likelihoods are integrated, and the levels of a process along it.

The probability flow of every linear process is the same curve in u = x / alpha and rho = sigma / alpha. With J the
trace of the Jacobian of xhat0(u), its log density changes by D - J for each unit of log rho, which lies near 0 at
either end and is of size D wherever the data have structure. So nodes are spread evenly in

    v(rho) = e log rho + (1 - e) b / (b - a) log((rho + a) / (rho + b)),
    dv / dlog rho = e + (1 - e) rho / (rho + a) b / (rho + b),

which goes like log rho between the data's details a and their extent b, and e times as fast outside. Of a smooth
function that dies away at both ends the trapezoidal rule is exact to all orders, which no rule made of panels is: with
as many nodes, it was ten times as accurate as Gauss-Legendre rules on the laws of tests/benchmarks/likelihood.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._tensors import Coefficient
from scoresde.denoisers import Denoiser
from scoresde.sde import Level, LinearSDE

DETAIL, EXTENT, OUTSIDE = 0.02, 3.0, 0.1  # a, b and e
NOISIEST = 1e3  # rho where the flow is left, for a process whose alpha(1) is 0 or nearly so
FINEST = {torch.float64: 1e-6, torch.float32: 1e-4}  # rho where it is entered, when the denoiser allows


@dataclass(frozen=True)
class Node:
    """A point on the way, or one per sample: its level, r = sqrt(alpha^2 + sigma^2), and what a step needs.

    Attributes:
        cos, sin: of the angle atan(rho), that is alpha / r and sigma / r.
        rate: d log rho for a unit of the coordinate that is stepped in.
    """

    level: Level
    cos: Coefficient
    sin: Coefficient
    rate: float


def node(sde: LinearSDE, log_rho: float | Tensor, rate: float = 1.0) -> Node:
    """The node where sigma / alpha = rho."""
    t = sde.time_of_log_snr(-2.0 * log_rho)
    level = sde.at(t if t.ndim else t.item())
    return Node(level, level.alpha / level.radius, level.sigma / level.radius, rate)


@dataclass(frozen=True)
class Clock:
    """The way of a process from its cleanest level to its noisiest, both given as log rho."""

    sde: LinearSDE
    cleanest: float
    noisiest: float

    def nodes(self, steps: int) -> tuple[list[Node], float]:
        """Twice `steps` + 1 nodes, every second one half way between two others, and dv from one other to the next."""
        start, end = v_of(torch.tensor([self.cleanest, self.noisiest], dtype=torch.float64)).tolist()
        log_rho = log_rho_of(torch.linspace(start, end, 2 * steps + 1, dtype=torch.float64))
        log_rho[0], log_rho[-1] = self.cleanest, self.noisiest
        return [node(self.sde, at, 1.0 / _density(at)) for at in log_rho.tolist()], (end - start) / steps


def clock(denoiser: Denoiser, max_log_snr: float | None = None) -> Clock:
    """From the cleanest level that the denoiser and its dtype allow, or a noisier one of your own, to t = 1.

    Raises:
        ValueError: `max_log_snr` is cleaner than the denoiser goes, or noisier than t = 1.
    """
    sde = denoiser.sde
    allowed = min(denoiser.max_log_snr, -2.0 * math.log(FINEST[denoiser.dtype]))
    end = max(float(sde.log_snr(1.0)), -2.0 * math.log(NOISIEST))
    start = allowed if max_log_snr is None else max_log_snr
    if not end < start <= allowed:
        raise ValueError(
            f"max_log_snr = {start:g}; it must lie above {end:.4g}, the log-SNR at t = 1, and not above {allowed:.4g}, "
            "the cleanest level that this denoiser answers for"
        )
    return Clock(sde, -0.5 * start, -0.5 * end)


def _density(log_rho: float) -> float:
    """dv / dlog rho."""
    rho = math.exp(log_rho)
    return OUTSIDE + (1.0 - OUTSIDE) * rho / (rho + DETAIL) * EXTENT / (rho + EXTENT)


def v_of(log_rho: Tensor) -> Tensor:
    """v."""
    rho = log_rho.exp()
    inside = (1.0 - OUTSIDE) * EXTENT / (EXTENT - DETAIL)
    return OUTSIDE * log_rho + inside * torch.log((rho + DETAIL) / (rho + EXTENT))


def log_rho_of(v: Tensor) -> Tensor:
    """The inverse of `v_of`, by bisection."""
    low, high = torch.full_like(v, -60.0), torch.full_like(v, 60.0)
    for _ in range(64):
        middle = 0.5 * (low + high)
        short = v_of(middle) < v
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return low
