r"""Numbers with 95 % intervals: means over seeds, ratios and differences of two, statistics of independent paths.

A mean of S independent values has Student's interval, mean -+ t std / sqrt(S) with S - 1 degrees of freedom.

A ratio a / b of two estimates that are independent has the interval of Donner & Zou (2012, MOVER-R), which needs of
each no more than its interval (l, u):

    (a b -+ sqrt((a b)^2 - l_a u_b (2 a - l_a) (2 b - u_b))) / (u_b (2 b - u_b))     with l_a, u_b for the lower end

and u_a, l_b for the upper one. With symmetric intervals it is Fieller's (1954), the two standard errors
in units of each one's own quantile. Where the interval of b reaches 0 the ratio has none. A difference likewise (Zou &
Donner 2008): a - b - sqrt((a - l_a)^2 + (u_b - b)^2), and the mirror image. Two estimates that rise and fall together,
as a solver's error and the floor do when both are measured against the same exact sets, have narrower intervals than
these: what is reported errs on the side of doubt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

CONFIDENCE = 0.95
RESAMPLES = 1000  # of a bootstrap


@dataclass(frozen=True)
class Estimate:
    """A value and the 95 % interval about it; ends that are nan say that there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def bounded(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, which has no nan: None for what is not finite."""
        return {key: value if math.isfinite(value) else None for key, value in vars(self).items()}


def over_seeds(values: Sequence[float] | Tensor) -> Estimate:
    """The mean of independent values (S,) and Student's interval; nan ends for one value.

    Raises:
        ValueError: no values, or some that are not finite.
    """
    numbers = _checked(values)
    mean = numbers.mean().item()
    if len(numbers) == 1:
        return Estimate(mean)
    half = student_quantile(len(numbers) - 1) * numbers.std().item() / math.sqrt(len(numbers))
    return Estimate(mean, mean - half, mean + half)


def student_quantile(degrees: int) -> float:
    """How many standard errors the interval reaches to either side, with so many degrees of freedom."""
    return float(special.stdtrit(degrees, (1 + CONFIDENCE) / 2))


def ratio(a: Estimate, b: Estimate) -> Estimate:
    """a / b, for b > 0 (nan otherwise); the lower end of what cannot be negative may be."""
    if not b.value > 0:
        return Estimate(math.nan)
    value = a.value / b.value
    if not (a.bounded and b.low > 0 and math.isfinite(b.high)):
        return Estimate(value)
    ends = [
        _ratio_end(a.value, b.value, end_a, end_b, sign)
        for end_a, end_b, sign in ((a.low, b.high, -1.0), (a.high, b.low, 1.0))
    ]
    return Estimate(value, *ends)


def _ratio_end(a: float, b: float, end_a: float, end_b: float, sign: float) -> float:
    denominator = end_b * (2 * b - end_b)
    under_root = (a * b) ** 2 - end_a * (2 * a - end_a) * denominator
    return (a * b + sign * math.sqrt(max(under_root, 0.0))) / denominator if denominator > 0 else math.nan


def difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b."""
    value = a.value - b.value
    return Estimate(
        value,
        value - math.hypot(a.value - a.low, b.high - b.value),
        value + math.hypot(a.high - a.value, b.value - b.low),
    )


def bootstrap(values: Tensor, statistic: Callable[[Tensor], Tensor], *, seed: int = 0) -> Estimate:
    """A statistic of independent items (n, *) and its percentile interval over resampled items (Efron 1979).

    Args:
        statistic: (..., n) -> (...), over the last dimension; for values (n,).
        seed: of the resampling.

    Raises:
        ValueError: no values, or some that are not finite.
    """
    numbers = _checked(values)
    value = statistic(numbers).item()
    if len(numbers) == 1:
        return Estimate(value)
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, 2**22 // len(numbers))
    found = []
    for start in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - start)
        found.append(statistic(numbers[torch.randint(len(numbers), (count, len(numbers)), generator=generator)]))
    quantiles = torch.tensor([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], dtype=torch.float64)
    low, high = torch.cat(found).quantile(quantiles).tolist()
    return Estimate(value, low, high)


def median(values: Tensor) -> Estimate:
    """The median of independent values (n,), between two order statistics: at least 95 % for any law (Thompson 1936).

    Raises:
        ValueError: no values, or some that are not finite.
    """
    numbers = _checked(values).sort().values
    n = len(numbers)
    # P(fewer than `below` values under the median) <= 2.5 %
    below = int((special.bdtr(range(n), n, 0.5) < (1 - CONFIDENCE) / 2).sum())
    value = numbers.quantile(0.5).item()
    if below < 1:  # fewer than 6 values
        return Estimate(value)
    return Estimate(value, numbers[below - 1].item(), numbers[n - below].item())


def _checked(values: Sequence[float] | Tensor) -> Tensor:
    numbers = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    if numbers.ndim != 1 or len(numbers) == 0:
        raise ValueError(f"values of shape {tuple(numbers.shape)}; give a list of one or more numbers")
    if not bool(numbers.isfinite().all()):
        i = int((~numbers.isfinite()).nonzero()[0])
        raise ValueError(f"value {i} of {len(numbers)} is {numbers[i].item()}; an interval needs finite ones")
    return numbers
