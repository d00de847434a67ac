r"""Judges for trained models: held-out data in a feature space, or the same model's own fine steps.

Frechet distance d^2 between Gaussians fitted to features; kernel distance (KID), unbiased; sliced Wasserstein. Frechet
and Wasserstein distances of finite sets are biased upwards, the more the fewer there are. The floor (as many real
items, disjoint from those that they are held against) has the same bias, so that differences to it mean what they say;
ratios flatter when the counts are small. On 86 held-out digits with 32 features and n = 400 the Frechet distance sees
a half blur at 12 times its own scatter (the kernel distance at 7), four missing digits at 17 (10), noise of 0.15 at 3
(3) and two missing digits at 1.5 (0.5), so it stays the headline there; 700 held-out digits see the last two at 5 and
14. With 20 none of the distances is of use: what these few happen not to show counts for nothing, and pictures without
threes read nearer than real ones. `about` says so.

Means over seeds are over sample sets (and, for the floor, over parts of the training data that share no item: random
subsets that do, 5 of half the items or 17 of 100 among 1711, have 95 % intervals that hold 71 % and 86 % of the time).
The held-out data are the same for all: intervals say how solvers compare on these data, not how they would on others.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.compare.features import Features
from scoresde.compare.judge import Judge, Measure
from scoresde.metrics import feature_statistics, frechet_distance, kernel_distance, sliced_wasserstein

PAIRED = 5000  # items of each set whose pairs are taken, for the kernel distance: O(n^2)

MEASURES = (
    Measure("frechet", "Frechet distance", "Between Gaussians fitted to features, squared; few samples raise it."),
    Measure(
        "kernel",
        "kernel distance",
        "KID, the squared MMD of features with a cubic kernel, unbiased and so at times negative; "
        f"{PAIRED} items at most.",
        signed=True,
    ),
    Measure("sw2", "sliced W2", "Sliced 2-Wasserstein distance of features; few samples raise it."),
)


class DataJudge(Judge):
    """Holds samples against held-out data; the floor is training items against the same.

    Args:
        features: of items in the model's units.
        real: held-out items (M, *), M >= 2.
        train: training items (N, *), N >= 4, disjoint from them.

    Raises:
        ValueError: too few items, or of different shapes.
    """

    measures = MEASURES

    def __init__(self, features: Features, real: Tensor, train: Tensor) -> None:
        if len(real) < 2 or len(train) < 4 or real.shape[1:] != train.shape[1:]:
            raise ValueError(
                f"held-out data {tuple(real.shape)} and training data {tuple(train.shape)}: give items of one shape, "
                "at least 2 held-out and 4 training ones"
            )
        self.features, self.train = features, train
        # files are often sorted, and a cap takes the first ones
        self._real = features(real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0))])
        self._statistics = feature_statistics(self._real)
        self.headline = features.headline
        self.most = len(train) // 2
        F = self._real.shape[1]
        few = f" They are no more than the features ({F}): too few to stand for all data." if len(real) <= F else ""
        self.about = (
            f"Against {len(real)} held-out items, in {features.about}. The floor is what as many training items read: "
            f"real against real.{few}"
        )

    def values(self, samples: Tensor, seed: int) -> dict[str, float]:
        check_samples(samples, self.train, None)
        return feature_distances(self.features(samples), self._real, seed, self._statistics)

    def floor_values(self, n: int, seed: int) -> dict[str, float]:
        check_count(n, self.most)
        return self.values(self.train[part(len(self.train), n, seed)], seed)

    def floor_sets(self, n: int) -> int:
        return len(self.train) // n


class ReferenceJudge(Judge):
    """Holds samples against the same model's own, made with fine steps: what a solver loses, whatever the model is.

    The truth of a seed is n of the reference samples, those of different seeds apart while there are others. A floor
    takes two such parts, one against the other.

    Args:
        features: of items in the model's units.
        reference: (R, *), R >= 4; their seed, or their ids, must not be those of the samples.

    Raises:
        ValueError: too few.
    """

    measures = MEASURES

    def __init__(self, features: Features, reference: Tensor) -> None:
        if len(reference) < 4:
            raise ValueError(
                f"{len(reference)} reference samples; 4 are the least, and twice as many as samples needed"
            )
        self.features, self.reference = features, reference
        self._reference = features(reference)
        self.headline = features.headline
        self.most = len(reference) // 2
        self.about = (
            f"Against {len(reference)} samples of the same model with fine steps, in {features.about}: what a solver "
            "loses, not how good the model is. The floor is what as many other fine samples read."
        )

    def values(self, samples: Tensor, seed: int) -> dict[str, float]:
        check_samples(samples, self.reference, self.most)
        truth = self._reference[part(len(self._reference), len(samples), seed)]
        return feature_distances(self.features(samples), truth, seed)

    def floor_values(self, n: int, seed: int) -> dict[str, float]:
        check_count(n, self.most)
        one, other = self._reference[part(len(self._reference), 2 * n, seed)].split(n)
        return feature_distances(one, other, seed)

    def floor_sets(self, n: int) -> int:
        return len(self.reference) // (2 * n)


def feature_distances(
    x: Tensor, y: Tensor, seed: int, statistics: tuple[Tensor, Tensor] | None = None
) -> dict[str, float]:
    """The measures of features x (n, F) against y (m, F).

    Args:
        seed: of the directions of projections.
        statistics: `feature_statistics(y)` where they are known.
    """
    return {
        "frechet": frechet_distance(
            *feature_statistics(x), *(feature_statistics(y) if statistics is None else statistics)
        ),
        "kernel": kernel_distance(x[:PAIRED], y[:PAIRED]),
        "sw2": sliced_wasserstein(x, y, p=2, seed=seed),
    }


def part(count: int, n: int, number: int) -> Tensor:
    """Indices of n of `count` items in a fixed random order, by number: count // n of them share none, then they recur.

    Raises:
        ValueError: a number below 0.
    """
    if number < 0:
        raise ValueError(f"seed = {number}; it must be 0 or more")
    first = number % (count // n) * n
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[first : first + n]


def check_samples(samples: Tensor, real: Tensor, most: int | None) -> None:
    """Refuse samples (n, *) that are not like `real` (N, *), or of a number that cannot be judged.

    Raises:
        ValueError: says what they should be.
    """
    if samples.shape[1:] != real.shape[1:]:  # features of another shape might be broadcast, and judged
        raise ValueError(f"samples are {tuple(samples.shape)}; give (n, {', '.join(map(str, real.shape[1:]))})")
    check_count(len(samples), most)


def check_count(n: int, most: int | None) -> None:
    """Refuse a number of samples that cannot be judged.

    Raises:
        ValueError: says how many there may be.
    """
    if n < 2:
        raise ValueError(f"n = {n}; a distance needs 2 samples or more")
    if most is not None and n > most:
        raise ValueError(f"n = {n}; there are real (or reference) items for at most {most}: take no more samples")
