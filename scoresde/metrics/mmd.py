"""Maximum mean discrepancy (Gretton et al. 2012), squared and unbiased (their equation 3):

    MMD^2(x, y) = mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2 mean of k(x_i, y_j)

`mmd` takes the Gaussian kernel, `kernel_distance` the cubic one that is customary between features of
pictures (KID: Binkowski et al. 2018, section 4). Being unbiased, both average to zero between samples of
one law, and may be negative.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.metrics._pairs import check_samples, mean_over_pairs

POINTS_FOR_MEDIAN = 1000


def mmd(x: Tensor, y: Tensor, *, bandwidth: float | None = None) -> float:
    """Unbiased MMD^2 of x (N, D) and y (M, D) with k(a, b) = exp(-|a - b|^2 / (2 bandwidth^2)).

    `bandwidth` is in the units of x; by default the median distance between the points of both samples.
    """
    x, y = check_samples(x, y, least=2)
    if bandwidth is None:
        bandwidth = median_distance(x, y)
    if not bandwidth > 0:
        raise ValueError(f"bandwidth must be positive, got {bandwidth}")
    width = bandwidth
    return _unbiased(lambda a, b: torch.exp(-0.5 * (torch.cdist(a, b) / width) ** 2), x, y)


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """KID of features x (N, D) and y (M, D): unbiased MMD^2 with k(a, b) = (<a, b> / D + 1)^3."""
    x, y = check_samples(x, y, least=2)
    return _unbiased(lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3, x, y)


def median_distance(x: Tensor, y: Tensor) -> float:
    """The median distance between points of the pooled samples, from at most 1000 evenly spaced of each."""
    x, y = check_samples(x, y)
    pool = torch.cat([points[:: -(-len(points) // POINTS_FOR_MEDIAN)] for points in (x, y)])
    median = torch.pdist(pool).median().item()
    if median == 0:
        raise ValueError("more than half of the pairs of points coincide: give the bandwidth yourself")
    return median


def _unbiased(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    within_x = mean_over_pairs(kernel, x, x, distinct=True)
    within_y = mean_over_pairs(kernel, y, y, distinct=True)
    return within_x + within_y - 2 * mean_over_pairs(kernel, x, y)
