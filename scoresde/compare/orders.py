r"""Measured orders of convergence: the slope of log error against log step, where there is one.

An error C h^p (1 + O(h)) shows its power p only in the asymptotic range: with steps that are too long the higher terms
count, with many the precision of the numbers or of the reference does. The slopes between neighbouring step counts tell
where: the range is a run of at least three points, ending at as many steps as possible and then as long as possible,
whose slopes differ by at most 0.1 and are all a real fall; by at most 0.25 where there is no such run. Where there is
none at all, no order was seen, and none is made up.

Looking for a run that agrees makes the interval a little too narrow where errors scatter: it holds the true slope in
95 % of experiments when they scatter by 1 %, in 88 to 95 % at 3 % and in 80 to 90 % at 10 %. Errors measured on the
same paths at all step counts scatter by less. Its other fault is curvature: a first-order solver reads 0.97.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.compare.estimate import Estimate, student_quantile

SPREADS = (0.1, 0.25)  # of the slopes in the asymptotic range
LEAST_SLOPE = 0.3  # less is not convergence at order 1/2
POINTS = 3
CLEAR = 10.0  # how many times the floor an error must be


@dataclass(frozen=True)
class FittedOrder:
    """What `fitted_order` found.

    Args:
        slope: p, with the 95 % interval of a straight line through the points; nan where none was seen.
        standard_error: of p. It holds the scatter about the line, and no more than part of its curvature.
        steps: of the points used, ascending; empty where no order was seen.
        why: why none was seen, or "".
    """

    slope: Estimate
    standard_error: float
    steps: tuple[int, ...]
    why: str = ""

    @property
    def seen(self) -> bool:
        """Whether there is an order."""
        return bool(self.steps)

    def __str__(self) -> str:
        if not self.seen:
            return f"no order seen: {self.why}"
        return (
            f"order {self.slope.value:.2f} ({self.standard_error:.2f}) from {self.steps[0]} to {self.steps[-1]} steps"
        )


def fitted_order(steps: Sequence[int], errors: Sequence[float], *, floor: float = 0.0) -> FittedOrder:
    """The order p of errors ~ steps^-p over their asymptotic range.

    Args:
        steps: step counts, in any order.
        errors: one for each, as positive numbers; what is not finite (a solver that diverged) is left out.
        floor: what the reference or the precision is good for; errors below ten times that are left out.

    Raises:
        ValueError: lists of different lengths, step counts below 1 or given twice, or a negative error.
    """
    points = _points(steps, errors)
    usable = [(k, e) for k, e in points if math.isfinite(e) and e > CLEAR * floor and e > 0]
    if len(usable) < POINTS:
        left_out = (
            f", {len(points) - len(usable)} left out at the floor or not finite" if len(usable) < len(points) else ""
        )
        return _unseen(f"{len(usable)} usable step counts{left_out}; it takes {POINTS}")
    x = torch.tensor([math.log(k) for k, _ in usable], dtype=torch.float64)
    y = -torch.tensor([math.log(e) for _, e in usable], dtype=torch.float64)
    slopes = (y.diff() / x.diff()).tolist()
    run = _asymptotic(slopes)
    if run is None:
        listed = ", ".join(f"{slope:.2f}" for slope in slopes)
        return _unseen(f"the error falls as no power of the steps (slopes from one count to the next: {listed})")
    slope, error = _line(x[run], y[run])
    half = student_quantile(len(x[run]) - 2) * error
    return FittedOrder(Estimate(slope, slope - half, slope + half), error, tuple(k for k, _ in usable[run]))


def _points(steps: Sequence[int], errors: Sequence[float]) -> list[tuple[int, float]]:
    if len(steps) != len(errors):
        raise ValueError(f"{len(steps)} step counts for {len(errors)} errors; give one for each")
    points = sorted(zip(steps, errors, strict=True))
    for k, e in points:
        if k < 1 or e < 0:
            raise ValueError(f"{k} steps with error {e:g}; steps must be 1 or more, and errors not negative")
    if any(a == b for (a, _), (b, _) in itertools.pairwise(points)):
        raise ValueError("a step count is given twice; give each once")
    return points


def _asymptotic(slopes: Sequence[float]) -> slice | None:
    """The points of the asymptotic range, given the slopes between neighbours."""
    for spread in SPREADS:
        for last in range(len(slopes) - 1, POINTS - 3, -1):
            first = last
            while first > 0 and _agree(slopes[first - 1 : last + 1], spread):
                first -= 1
            if last - first >= POINTS - 2:
                return slice(first, last + 2)
    return None


def _agree(slopes: Sequence[float], spread: float) -> bool:
    return min(slopes) >= LEAST_SLOPE and max(slopes) - min(slopes) <= spread


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """The slope of the least squares line, and its standard error."""
    dx, dy = x - x.mean(), y - y.mean()
    slope = (dx @ dy / (dx @ dx)).item()
    residual = (dy - slope * dx).square().sum().item() / (len(x) - 2)
    return slope, math.sqrt(residual / (dx @ dx).item())


def _unseen(why: str) -> FittedOrder:
    return FittedOrder(Estimate(math.nan), math.nan, (), why)
