"""What the tests of the measurement as an SDE share: a law, operators of every rank, and distances over the floor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from problems import mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde.inverse import GaussianMeasurement
from scoresde.metrics import sliced_wasserstein
from scoresde.operators import LinearOperator

LAW = mixture()
WIDE, TALL = normal(2, 3, seed=3), normal(5, 3, seed=4)
OPERATORS = {
    "identity": torch.eye(3, dtype=torch.float64),
    "wide": WIDE,
    "tall": TALL,  # A(X) lies on a 3-dimensional subspace of 5
    "of rank one": torch.outer(normal(4, seed=5), normal(3, seed=6)),
}
N = 2000
FLOORED = 1.3
"""Mean ratio to the exact-versus-exact floor over 4 problems: 1 +- 0.1 for exact draws."""


def measured(operator: LinearOperator, noise_std: float, seed: int = 0) -> tuple[GaussianMeasurement, Tensor]:
    """A measurement and one y, (*)."""
    measurement = GaussianMeasurement(operator, noise_std)
    return measurement, measurement.simulate(LAW.sample(1, seed=40 + seed), seed=seed)[0]


def above_floor(draw: Callable[[int], tuple[Tensor, sd.GaussianMixture]], seeds: int = 4) -> float:
    """Sliced W1 from draws to exact ones, over that from exact ones to others, in the mean over problems."""
    found, floor = 0.0, 0.0
    for seed in range(seeds):
        x, law = draw(seed)
        exact = [law.sample(len(x), seed=4 * seed + k) for k in range(4)]
        found += sum(sliced_wasserstein(x, other, directions=50) for other in exact) / 4
        pairs = ((0, 1), (2, 3), (0, 2), (1, 3))
        floor += sum(sliced_wasserstein(exact[i], exact[j], directions=50) for i, j in pairs) / 4
    return found / floor


class Told(torch.nn.Module):
    """A network that uses what it is told."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return torch.sin(self.module(x)) + 0.1 * condition.reshape(-1, *(1,) * (x.ndim - 1))
