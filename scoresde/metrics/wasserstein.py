"""Wasserstein distances that sorting can compute: on the line, and averaged over lines through the space.

On the line the optimal plan pairs equal quantiles,

    W_p(x, y)^p = integral over u in [0, 1] of |F_x^{-1}(u) - F_y^{-1}(u)|^p,

and between two samples both quantile functions are steps, at i / N and j / M, so that the integral is a
finite sum: exact for samples of unequal sizes too, and the mean over sorted pairs when N = M.

    SW_p(x, y)^p = E over directions theta on the unit sphere of W_p(<theta, x>, <theta, y>)^p

(Rabin et al. 2011; Bonneel et al. 2015) is estimated with random directions.
"""

import torch
from torch import Tensor

from scoresde.metrics._pairs import ENTRIES_AT_ONCE, check_samples


def wasserstein_1d(x: Tensor, y: Tensor, *, p: int = 1) -> float:
    """W_p between samples x (N,) and y (M,) on the line, exactly, in the units of x; p is 1 or 2."""
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(f"x and y must be (N,) and (M,), got {tuple(x.shape)} and {tuple(y.shape)}")
    _check_power(p)
    x, y = check_samples(x[:, None], y[:, None])
    return _transport_cost(x, y, p).item() ** (1 / p)


def sliced_wasserstein(x: Tensor, y: Tensor, *, p: int = 1, directions: int = 200, seed: int = 0) -> float:
    """SW_p between samples x (N, D) and y (M, D), in the units of x; p is 1 or 2.

    The directions depend on `seed`, `directions` and D alone. Their error is seen with
    `sliced_wasserstein_values`, whose mean is the p-th power of this.
    """
    values = sliced_wasserstein_values(x, y, p=p, directions=directions, seed=seed)
    return values.mean().item() ** (1 / p)


def sliced_wasserstein_values(x: Tensor, y: Tensor, *, p: int = 1, directions: int = 200, seed: int = 0) -> Tensor:
    """W_p^p along each direction, (directions,) float64: independent, so std / sqrt(n) is their error."""
    _check_power(p)
    if directions < 1:
        raise ValueError(f"directions must be at least 1, got {directions}")
    x, y = check_samples(x, y)
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(directions, x.shape[1], generator=generator, dtype=torch.float64)
    theta = (theta / theta.norm(dim=1, keepdim=True)).to(x.device)
    at_once = max(1, ENTRIES_AT_ONCE // (len(x) + len(y)))
    return torch.cat([_transport_cost(x @ part.T, y @ part.T, p) for part in theta.split(at_once)])


def _transport_cost(x: Tensor, y: Tensor, p: int) -> Tensor:
    """W_p^p of each column: x (N, L), y (M, L) to (L,)."""
    N, M = len(x), len(y)
    # Steps at i / N and j / M, counted in units of 1 / (N M) so that equal ones are equal integers.
    ends = torch.cat([torch.arange(1, N + 1) * M, torch.arange(1, M + 1) * N]).unique().to(x.device)
    weights = torch.diff(ends, prepend=ends.new_zeros(1)).to(x.dtype) / (N * M)
    gaps = x.sort(dim=0).values[(ends - 1) // M] - y.sort(dim=0).values[(ends - 1) // N]
    return weights @ gaps.abs() ** p


def _check_power(p: int) -> None:
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p}")
