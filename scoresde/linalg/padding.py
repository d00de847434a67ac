"""How a picture goes on past its edges.

circular    a b c d | a b c d | a b c d     scipy.ndimage's "wrap"
zero        0 0 0 0 | a b c d | 0 0 0 0     scipy.ndimage's "constant"
reflect     d c b a | a b c d | d c b a     scipy.ndimage's "reflect", numpy's "symmetric"; not torch's "reflect"
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

OUTSIDE = -1


class Padding(NamedTuple):
    """One way.

    Args:
        source: (positions, n) -> which of 0..n-1 stands at each position; `OUTSIDE` for zeros.
        periodic: shifting round commutes with it, so that Fourier diagonalises convolutions.
    """

    source: Callable[[Tensor, int], Tensor]
    periodic: bool = False

    def extend(self, x: Tensor, axis: int, before: int, after: int) -> Tensor:
        """x with so many more entries at the two ends of an axis."""
        n = x.shape[axis]
        source = self.source(torch.arange(-before, n + after, device=x.device), n)
        extended = x.index_select(axis, source.clamp_min(0))
        return extended * _along(source != OUTSIDE, axis, x)

    def fold(self, y: Tensor, axis: int, before: int, after: int) -> Tensor:
        """The adjoint of `extend`: what was repeated is summed."""
        n = y.shape[axis] - before - after
        source = self.source(torch.arange(-before, n + after, device=y.device), n)
        inside = y * _along(source != OUTSIDE, axis, y)
        shape = list(y.shape)
        shape[axis] = n
        return y.new_zeros(shape).index_add(axis, source.clamp_min(0), inside)


def _along(inside: Tensor, axis: int, x: Tensor) -> Tensor:
    """0 or 1 for each entry of a negative axis, to multiply x."""
    return inside.to(x).reshape(-1, *(1,) * (-axis - 1))


def _circular(position: Tensor, n: int) -> Tensor:
    return position.remainder(n)


def _zero(position: Tensor, n: int) -> Tensor:
    return torch.where((position >= 0) & (position < n), position, OUTSIDE)


def _reflect(position: Tensor, n: int) -> Tensor:
    return torch.minimum(position.remainder(2 * n), (-1 - position).remainder(2 * n))


PADDINGS = {"circular": Padding(_circular, periodic=True), "zero": Padding(_zero), "reflect": Padding(_reflect)}


def padding_named(name: str) -> Padding:
    """The padding of that name.

    Raises:
        ValueError: no such padding.
    """
    if name not in PADDINGS:
        raise ValueError(f"padding = {name!r}; it must be one of {', '.join(PADDINGS)}")
    return PADDINGS[name]
