r"""Probabilities of grey levels from log densities: dequantisation, declared once (theory 6).

With x on `levels` equally spaced values of distance w, and u uniform on [-1/2, 1/2]^D, the mass of the cell about x is

    P(x) = w^D E_u[p(x + w u)] >= w^D exp E_u[log p(x + w u)].

The right side is uniform dequantisation (Uria et al. 2013; Theis et al. 2016); the mean of M densities inside the log
is the importance-weighted one, which tightens with M (Burda et al. 2016; Ho et al. 2019). In bits per dimension the
factor w^D is the term -log2 w: log2(127.5) for 8-bit data on [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.noise import uniform


@dataclass(frozen=True)
class Pixels:
    """Data on equally spaced values, both ends included.

    Args:
        levels: 256 for 8-bit data, 2 or more.
        low, high: the first and the last value, in the model's units.

    Raises:
        ValueError: fewer than two levels, or an empty range.
    """

    levels: int = 256
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"levels = {self.levels}; data have 2 or more, 256 with 8 bits")
        if not -math.inf < self.low < self.high < math.inf:
            raise ValueError(f"low = {self.low}, high = {self.high}: give a range, such as -1 to 1")

    @property
    def width(self) -> float:
        """w, the distance between neighbouring levels."""
        return (self.high - self.low) / (self.levels - 1)

    def dequantise(self, x: Tensor, *, seed: int = 0, draw: int = 0, ids: Tensor | None = None) -> Tensor:
        """x + w u, (n, *): a point of each one's cell, a function of (seed, ids[i], draw) and x[i].

        Args:
            ids: (n,) int64 in [0, 2^32); default 0..n-1.
        """
        numbers = torch.arange(len(x)) if ids is None else ids
        u = uniform(seed, numbers, tuple(x.shape[1:]), step=draw, dtype=x.dtype, device=x.device)
        return x + self.width * (u - 0.5)

    def log_probability(self, nats: Tensor, dim: int) -> Tensor:
        """log P of the levels from log densities (M, n) of M dequantised draws: the weighted bound, (n,), nats."""
        return torch.logsumexp(nats, 0) - math.log(len(nats)) + dim * math.log(self.width)

    def bits_per_dim(self, nats: Tensor, dim: int) -> Tensor:
        """From log densities of dequantised data: nats / (D ln 2) with the term -log2 w, (n,)."""
        return -nats / (dim * math.log(2.0)) - math.log2(self.width)
