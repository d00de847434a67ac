"""What is measured: y = A x + noise_std z, z ~ N(0, I)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._tensors import flat_sum
from scoresde.linalg import LinearOperator


@dataclass(frozen=True)
class GaussianMeasurement:
    """y = operator(x) + noise_std z.

    Args:
        operator: a linear operator.
        noise_std: standard deviation of the noise, > 0, in the units of y.

    Raises:
        ValueError: noise_std not positive or not finite.
    """

    operator: LinearOperator
    noise_std: float

    def __post_init__(self) -> None:
        if not 0 < self.noise_std < math.inf:
            raise ValueError(f"noise_std = {self.noise_std}; it must be positive and finite")

    def matrix(self, dim: int) -> Tensor:
        """A as a dense (M, dim) float64 matrix."""
        return self.operator.matrix(dim)

    def simulate(self, x: Tensor, seed: int = 0) -> Tensor:
        """A draw of y given x, (B, *)."""
        clean = self.operator(x)
        z = torch.randn(clean.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return clean + self.noise_std * z.to(clean)

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """log N(y; A x, noise_std^2 I) in nats, (B,)."""
        z = (y - self.operator(x)) / self.noise_std
        return -flat_sum(0.5 * z.square() + math.log(self.noise_std) + 0.5 * math.log(2.0 * math.pi))
