r"""Brownian paths by counter: W(t) on [0, 1] is a function of (seed, sample id, path number, t), with nothing to store.

Levy's construction: W(0) = 0, W(1) = z(1), and in the middle m of a cell [a, b] of the dyadic tree

    W(m) = (W(a) + W(b)) / 2 + sqrt(b - a) / 2 z(m),

z(m) a standard normal for each node m, so that W is Brownian motion at all dyadic times (Levy 1948; as a tree of
random numbers, Gaines & Lyons 1997). Where a path goes between two times is settled by nodes that lie between them, and
so is the same whatever was asked before, in whatever order, by whichever process.

Times are rounded to float32, 24 binary digits from the first one: exact at 0 and 1, to 3e-8 near t = 1, and finer as
t falls, like the steps of grids that are dense at the data. All nodes above such a time are float32 too, and the bits
of m are the `step` of its Philox counter (`_philox.py`): each node of the tree has one 32-bit word to itself. z(m) is
drawn in float32, W computed in float64 from there, one correctly rounded operation at a time, so that no bit depends on
what else is in the batch.

A time costs as many nodes as lie between it and a cell that is in memory: about 23 - log2(n) + 2 a step in a sweep of n
steps, fewer for times with few binary digits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scoresde._philox import Address, check_range, normal_blocks

PATHS = (1 << 32) - 1  # path k has the stream PATHS - k
AT_ONCE = 1 << 20  # normals drawn in one call, unless a node alone has more
REUSE = 0.25  # cells narrower than this share of the last move are forgotten: one more like it ends outside them


class Cell(NamedTuple):
    """[low, high] with W at its ends, (B, D) float64."""

    low: float
    high: float
    w_low: Tensor
    w_high: Tensor


class BrownianPath:
    """Path `k` of (seed, ids) in D dimensions, as torchsde takes it (`bm=`): path(ta, tb) is W_tb - W_ta, (B, D).

    It remembers the cells about the last time, so that a sweep descends little; it is not for several threads.

    Args:
        seed: in [0, 2^64).
        ids: (B,) int64 in [0, 2^32).
        dim: D.
        k: in [0, 2^31); paths with different k are independent.
    """

    dtype = torch.float64
    levy_area_approximation = "none"

    def __init__(self, seed: int, ids: Tensor, dim: int, k: int = 0) -> None:
        self.shape = torch.Size((len(ids), dim))
        self.device = ids.device
        self._address = Address(seed, ids, -(-dim // 4), 0, PATHS - check_range("draw", k, 31))
        self._spare: list[NDArray[np.uint8]] = []
        self._cells: list[Cell] = []
        self._last: dict[float, Tensor] = {}

    def __repr__(self) -> str:
        return f"BrownianPath(seed={self._address.seed}, shape={tuple(self.shape)})"

    def size(self) -> torch.Size:
        """(B, D)."""
        return self.shape

    def __call__(
        self, ta: float | Tensor, tb: float | Tensor | None = None, return_U: bool = False, return_A: bool = False
    ) -> Tensor:
        """W_tb - W_ta, or W_ta without tb, (B, D) float64; 0 between times that round to one.

        Raises:
            ValueError: a time outside [0, 1], or an area of the path, which this tree does not have.
        """
        if return_U or return_A:
            raise ValueError("this Brownian path has increments but no areas; take a method other than srk and log_ode")
        low, high = (0.0, rounded(ta)) if tb is None else (rounded(ta), rounded(tb))
        known = self._last
        for time in (low, high):
            if time not in known:
                known = {**known, time: self._value(time, REUSE * min((abs(time - t) for t in known), default=1.0))}
        self._last = {time: known[time] for time in (low, high)}
        return known[high] - known[low]

    def _value(self, t: float, finest: float) -> Tensor:
        """W(t), keeping the cells about t that are not narrower than `finest`."""
        if not self._cells:
            zero = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
            self._cells.append(Cell(0.0, 1.0, zero, self._normals([1.0])[0].double()))
        while not self._cells[-1].low <= t <= self._cells[-1].high:
            self._cells.pop()
        cell = self._cells[-1]
        nodes = path_to(t, cell.low, cell.high)
        together = max(1, AT_ONCE // max(1, 4 * self._address.blocks * len(self._address.ids)))
        for i in range(0, len(nodes), together):
            part = nodes[i : i + together]
            for m, z in zip(part, self._normals(part), strict=True):
                # one operation at a time: a fused one may round otherwise in the remainder of a vector loop
                w = torch.add(cell.w_low, cell.w_high).mul_(0.5)
                w.add_(z.double().mul_(0.5 * math.sqrt(cell.high - cell.low)))
                low, high, w_low, w_high = cell
                cell = Cell(low, m, w_low, w) if t <= m else Cell(m, high, w, w_high)
                if cell.high - cell.low >= finest:
                    self._cells.append(cell)
        return cell.w_low if t == cell.low else cell.w_high

    def _normals(self, nodes: list[float]) -> Tensor:
        """z of each node, (nodes, B, D) float32, in one call."""
        count, dim = self.shape
        words = np.array(nodes, dtype=np.float32).view(np.uint32).astype(np.int64)
        at = self._address._replace(
            ids=self._address.ids.repeat(len(nodes)),
            step=torch.from_numpy(words).to(self.device).repeat_interleave(count),
        )
        return normal_blocks(at, torch.float32, self._spare).view(len(nodes), count, 4 * at.blocks)[..., :dim]


def rounded(t: float | Tensor) -> float:
    """A time of the tree: t to 24 binary digits.

    Raises:
        ValueError: outside [0, 1].
    """
    time = float(np.float32(float(t)))
    if not 0 <= time <= 1:
        raise ValueError(f"a Brownian path covers the times [0, 1], got {float(t)}")
    return time


def path_to(t: float, low: float, high: float) -> list[float]:
    """The middles of the cells about t, from [low, high] down to the one that is t; none for an end."""
    nodes: list[float] = []
    while low < t < high:
        middle = 0.5 * (low + high)
        nodes.append(middle)
        low, high = (low, middle) if t <= middle else (middle, high)
    return nodes
