"""Does a model hand out its training data? Distances to the nearest training item, beside those of held-out items.

A held-out item is as far from the training data as the law has it. Samples of a good model are as far; those of one
that memorised are nearer. Two numbers tell: the ratio of the medians, below 1 for memorising, and the share of samples
that are as near as the nearest 1 % of held-out items, 0.01 for none. The quantile is at h = 0.01 (m + 1) of the m
sorted distances (Weibull 1939), below which new data fall with probability h / (m + 1) exactly, on average over
held-out sets; with fewer than 99 items it is the smallest distance, and the share that is expected 1 / (m + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from scoresde.compare.estimate import CONFIDENCE, Estimate, median, ratio

ENTRIES_AT_ONCE = 2**24
QUANTILE = 0.01


@dataclass(frozen=True, eq=False)
class Memorisation:
    """What `memorisation` found.

    Args:
        samples, held_out: distances to the nearest training item, (n,) and (m,), in the root mean square of entries.
        nearest: which item that is for each sample, (n,).
        sample_median, held_out_median: of the distances.
        ratio: of the two; below 1 samples are nearer to the training data than new data are.
        threshold: the 1 % quantile of the held-out items' distances.
        close: the share of samples no farther than that, with the interval of Clopper and Pearson (1934).
        expected: what it is if samples are like new data: 0.01, or 1 / (m + 1) with m < 99 held-out items, give or take
            what the threshold is not known by, about its root over m.
    """

    samples: Tensor
    held_out: Tensor
    nearest: Tensor
    sample_median: Estimate
    held_out_median: Estimate
    ratio: Estimate
    threshold: float
    close: Estimate
    expected: float


def nearest(items: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Of items (n, *) the distance to the nearest of train (N, *), (n,) float64, and which it is, (n,).

    The distance is the root mean square difference of entries. Candidates are found by inner products in float32,
    and the distance then taken from differences, so that copies are at 0.

    Raises:
        ValueError: shapes that differ, nothing to compare with, or values that are not finite.
    """
    if len(train) == 0 or items.shape[1:] != train.shape[1:]:
        raise ValueError(f"items {tuple(items.shape)} and training items {tuple(train.shape)} must be alike, and some")
    x, y = items.flatten(1).float(), train.flatten(1).to(items.device).float()
    for name, part in (("items", x), ("training items", y)):
        if not bool(part.isfinite().all()):
            raise ValueError(f"the {name} hold values that are not finite")
    centre = y.mean(0)
    x, y = x - centre, y - centre
    half_norms = 0.5 * y.square().sum(1)
    which = torch.cat([(half_norms - part @ y.T).argmin(1) for part in x.split(max(1, ENTRIES_AT_ONCE // len(y)))])
    distance = (x.double() - y[which].double()).square().mean(1).sqrt()
    return distance, which


def memorisation(
    samples: Tensor, train: Tensor, held_out: Tensor, *, held_out_distances: Tensor | None = None
) -> Memorisation:
    """Samples (n, *) and held-out items (m, *) by their distance to training items (N, *), all in the same units.

    Args:
        held_out_distances: `nearest(held_out, train)[0]`, where it is known from another set of samples.

    Raises:
        ValueError: shapes that differ, an empty set, or values that are not finite.
    """
    if len(samples) == 0 or len(held_out) == 0:
        raise ValueError(f"{len(samples)} samples and {len(held_out)} held-out items; there must be some of each")
    ours, which = nearest(samples, train)
    theirs = nearest(held_out, train)[0] if held_out_distances is None else held_out_distances
    threshold = _quantile(theirs)
    medians = median(ours), median(theirs)
    close = _share(int((ours <= threshold).sum()), len(ours))
    return Memorisation(ours, theirs, which, *medians, ratio(*medians), threshold, close, expected_share(len(theirs)))


def expected_share(held_out: int) -> float:
    """Of new data, that are no farther than the threshold from so many held-out items."""
    return max(QUANTILE, 1.0 / (held_out + 1))


def _quantile(distances: Tensor) -> float:
    place = max(QUANTILE * (len(distances) + 1), 1.0)
    low = min(int(place), len(distances))
    near = distances.sort().values
    return torch.lerp(near[low - 1], near[min(low, len(near) - 1)], place - low).item()


def _share(k: int, n: int) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low = float(special.betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(special.betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return Estimate(k / n, low, high)
