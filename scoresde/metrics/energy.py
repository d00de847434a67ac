"""Energy distance (Szekely & Rizzo 2013), for points of any dimension:

    D^2(x, y) = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

It is zero for equal laws and positive otherwise, and has no bandwidth to choose. On the line it is the
square of `scipy.stats.energy_distance`.
"""

import torch
from torch import Tensor

from scoresde.metrics._pairs import check_samples, mean_over_pairs


def energy_distance(x: Tensor, y: Tensor, *, unbiased: bool = False) -> float:
    """D^2 between samples x (N, D) and y (M, D), in the units of x.

    As it stands it compares the two empirical laws: never negative, and zero when the samples are equal.
    `unbiased` estimates D^2 between the laws they were drawn from: zero on average when these are equal,
    hence at times negative; it needs two samples on each side.
    """
    x, y = check_samples(x, y, least=2 if unbiased else 1)
    centre = x.mean(dim=0)  # distances from inner products lose digits far from the origin
    x, y = x - centre, y - centre
    between = mean_over_pairs(torch.cdist, x, y)
    within_x = mean_over_pairs(torch.cdist, x, x, distinct=unbiased)
    within_y = mean_over_pairs(torch.cdist, y, y, distinct=unbiased)
    distance = 2 * between - within_x - within_y
    return distance if unbiased else max(distance, 0.0)
