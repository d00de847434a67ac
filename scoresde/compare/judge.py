"""What samples are held against: a truth, measures of the distance to it, and what exact samples would read.

    values = [judge.values(samples_of(seed), seed) for seed in seeds]
    floors = [judge.floor_values(n, k) for k in range(min(20, judge.floor_sets(n)))]

Each seed has a truth of its own where there is an endless supply of it, so that the mean over seeds has an honest
interval (`over_seeds`). No finite set reads zero: `floor_values` is the same measure for exact (or real) samples in the
place of the model's, as many of them, against the same truth.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Measure:
    """One number that a judge reads off samples.

    Args:
        name: in files and options, such as "sw2".
        title: in tables.
        about: one sentence: what it is, its units, its sign.
        ideal: what a perfect sampler's would be with endless samples; the smallest possible unless `two_sided`.
        two_sided: both more and less than `ideal` are wrong.
        signed: an unbiased estimate of something that is not negative, so that it is negative at times and ratios to a
            floor mean nothing.
    """

    name: str
    title: str
    about: str
    ideal: float = 0.0
    two_sided: bool = False
    signed: bool = False


class Judge(abc.ABC):
    """Reads the distance of samples to a truth.

    Attributes:
        measures: what `values` and `floor_values` answer, in the order of tables.
        headline: the name of the measure that advice goes by.
        about: what the truth is, in a sentence or two.
        most: the largest n that `values` and `floor_values` take, half of what there is; None where there is no end.
        seeds: all are below it.
    """

    measures: tuple[Measure, ...]
    headline: str
    about: str
    most: int | None = None
    seeds: int = 2**32

    @abc.abstractmethod
    def values(self, samples: Tensor, seed: int) -> dict[str, float]:
        """The measures of samples (n, *), in the model's units, against the truth of `seed`.

        Raises:
            ValueError: samples of another shape, too few, or not finite.
        """

    @abc.abstractmethod
    def floor_values(self, n: int, seed: int) -> dict[str, float]:
        """The measures of n exact or real samples against the truth of `seed`.

        Seeds below `floor_sets(n)` have sets that share none.

        Raises:
            ValueError: more than there are, or too few.
        """

    @abc.abstractmethod
    def floor_sets(self, n: int) -> int:
        """How many independent floors of n exact or real samples there are: 1 or more, for n up to `most`."""

    @property
    def headline_measure(self) -> Measure:
        """The measure named `headline`."""
        return next(measure for measure in self.measures if measure.name == self.headline)
