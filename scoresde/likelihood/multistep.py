r"""The flow in equal steps of the clock: Adams and Bashforth's method of order 4 (1883), started by Runge and Kutta's.

Each node is one network call, which serves the slope and the trace; the trapezoidal rule sums the traces, its ends
corrected as by Gregory (1670). Steps are equal, so the coefficients are the classical ones. Of the methods tried (Heun,
RK3, RK4, Dormand & Prince, Adams of order 2 to 6, with and without corrector) it had the smallest errors for its calls.
Where a trace costs many calls, Runge and Kutta's method throughout makes do with fewer nodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.likelihood.clock import Node
from scoresde.likelihood.flow import Flow, Walk, finite, first_failure, log_ratio

ADAMS = (55 / 24, -59 / 24, 37 / 24, -9 / 24)
TRAPEZOID, GREGORY = (1 / 2,), (3 / 8, 7 / 6, 23 / 24)
STARTS = len(ADAMS) - 1  # steps by Runge and Kutta's method, until there are slopes enough


def multistep(flow: Flow, y: Tensor, steps: int, starts: int = STARTS) -> Walk:
    """From `y` (B, *) at the clock's start to its end, the first `starts` steps by Runge and Kutta's method."""
    starts = min(starts, steps)
    nodes, dv = flow.clock.nodes(steps)
    weights = quadrature(steps)
    integral = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    variance, failed_at = torch.zeros_like(integral), torch.full_like(integral, torch.nan)
    slopes: list[Tensor] = []
    followed = None
    for k in range(steps + 1):
        at = nodes[2 * k]
        weight = dv * weights[k]
        change = flow.change(y, at, flow.draw(k), followed)
        followed = change.followed
        integral = integral + weight * change.gain
        variance = variance + weight**2 * change.variance
        failed_at = first_failure(failed_at, finite(y, change.gain), log_ratio(at))
        slopes = [change.slope, *slopes[:STARTS]]
        if k < starts:
            y = _runge_kutta(flow, y, slopes[0], nodes[2 * k + 1], nodes[2 * k + 2], dv)
        elif k < steps:
            y = y + dv * sum(a * slope for a, slope in zip(ADAMS, slopes, strict=True))
        flow.stepped()
    calls = steps + 1 + 3 * starts
    products = (steps + 1) * flow.divergence.products(flow.dim)
    return Walk(y, slopes[0] / nodes[-1].rate, integral, variance, failed_at, calls, products)


def quadrature(steps: int) -> list[float]:
    """Weights of the steps + 1 nodes, for steps of length 1.

    Gregory's are of order 4 where what is summed does not die away at an end, as for a network that knows no level
    below the data's details, and take nothing from the trapezoidal rule where it does.
    """
    ends = GREGORY if steps >= 2 * len(GREGORY) - 1 else TRAPEZOID
    return [*ends, *[1.0] * (steps + 1 - 2 * len(ends)), *reversed(ends)]


def _runge_kutta(flow: Flow, y: Tensor, slope: Tensor, middle: Node, end: Node, dv: float) -> Tensor:
    """A step of the classical method of order 4, whose first slope is known."""
    second = flow.slope(y + 0.5 * dv * slope, middle)
    third = flow.slope(y + 0.5 * dv * second, middle)
    fourth = flow.slope(y + dv * third, end)
    return y + (dv / 6.0) * (slope + 2.0 * (second + third) + fourth)
