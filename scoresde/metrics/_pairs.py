"""Two samples checked, and averages over all pairs of their points without holding all pairs at once."""

from collections.abc import Callable

from torch import Tensor

ENTRIES_AT_ONCE = 2**24  # 128 MiB of float64


def check_samples(x: Tensor, y: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """x (N, D) and y (M, D) in float64, N, M >= `least`; ValueError says what is wrong with which one."""
    for name, points in (("x", x), ("y", y)):
        if points.ndim != 2 or points.shape[1] == 0:
            raise ValueError(f"{name} must be (N, D), got {tuple(points.shape)}; flatten each sample first")
        if len(points) < least:
            raise ValueError(f"{name} must hold at least {least} samples, got {len(points)}")
        if not points.isfinite().all():
            index = int((~points.isfinite()).any(dim=1).nonzero()[0])
            raise ValueError(f"{name} must be finite; sample {index} is the first that is not")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have the same dimension, got {x.shape[1]} and {y.shape[1]}")
    return x.double(), y.double()


def mean_over_pairs(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, distinct: bool = False) -> float:
    """The mean of kernel(x_i, y_j) over i and j; with `distinct`, over i != j (then x and y are one sample).

    `kernel` maps (n, D) and (M, D) to (n, M).
    """
    total = 0.0
    rows = max(1, ENTRIES_AT_ONCE // len(y))
    for start in range(0, len(x), rows):
        block = kernel(x[start : start + rows], y)
        if distinct:
            block.diagonal(offset=start).zero_()
        total += block.sum().item()
    return total / (len(x) * (len(y) - 1 if distinct else len(y)))
