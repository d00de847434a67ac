"""A residual perceptron for vectors, and for arrays without the structure of a picture.

No normalisation: a point of the plane carries its meaning in its length as well as in its direction.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from scoresde.nets.embedding import FiLM, LevelEmbedding, check_condition, zero


class ResidualLayer(nn.Module):
    """h + W2 silu(film(W1 h)), with W2 at zero to begin with."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, width), zero(nn.Linear(width, width))
        self.film = FiLM(width, width)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        return h + self.linear2(F.silu(self.film(self.linear1(h), embedding)))


class MLP(nn.Module):
    """Arrays (B, *shape) and a level per sample to arrays (B, *shape); `depth` residual layers of `width`.

    `shape` is a tuple, or an integer for vectors of that length. The output starts at exactly zero.
    Raises ValueError for sizes below 1.
    """

    def __init__(self, shape: int | Sequence[int], width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if min((*self.shape, width, depth)) < 1:
            raise ValueError(f"sizes must be at least 1, got shape {self.shape}, width {width}, depth {depth}")
        features = math.prod(self.shape)
        self.embedding = LevelEmbedding(width)
        self.first = nn.Linear(features, width)
        self.layers = nn.ModuleList(ResidualLayer(width) for _ in range(depth))
        self.last = zero(nn.Linear(width, features))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (B, *shape), condition (B,) or () log-SNR; returns (B, *shape)."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must be (B, {', '.join(map(str, self.shape))}), got {tuple(x.shape)}")
        embedding = self.embedding(check_condition(x, condition))
        h = self.first(x.reshape(len(x), -1))
        for layer in self.layers:
            h = layer(h, embedding)
        return cast(Tensor, self.last(F.silu(h))).reshape(x.shape)
