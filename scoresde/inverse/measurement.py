"""What is measured: y = A(x) + noise_std z, z ~ N(0, I)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._tensors import flat_sum
from scoresde.linalg import Operator
from scoresde.linalg.base import Shape
from scoresde.noise import MEASURING, normal


@dataclass(frozen=True, eq=False)
class GaussianMeasurement:
    """y = operator(x) + noise_std z.

    Args:
        operator: linear, or any map.
        noise_std: standard deviation of the noise, > 0, in the units of y: a number, or one for each entry of a
            measurement (a tensor that broadcasts to it).

    Raises:
        ValueError: a noise_std that is not positive or not finite.
    """

    operator: Operator
    noise_std: float | Tensor

    def __post_init__(self) -> None:
        std = torch.as_tensor(self.noise_std, dtype=torch.float64)
        bad = ~((std > 0) & std.isfinite())
        if bool(bad.any()):
            raise ValueError(f"noise_std = {std[bad].flatten()[0].item():g}; it must be positive and finite")

    def dense(self, shape: int | Shape) -> Tensor:
        """A as an (M, D) float64 matrix, for samples of `shape` (flattened); an int is a vector's length.

        Raises:
            ValueError: the operator is not linear.
        """
        return self.operator.as_linear().dense(shape)

    def std(self, like: Tensor) -> Tensor:
        """noise_std in the dtype and on the device of `like`, () or broadcasting to one measurement."""
        return torch.as_tensor(self.noise_std, dtype=torch.float64).to(like)

    def simulate(self, x: Tensor, seed: int = 0) -> Tensor:
        """A draw of y given x, (B, *); the noise of row i is a function of (seed, i), with seed in [0, 2^64)."""
        clean = self.operator(x)
        z = normal(seed, torch.arange(len(clean)), tuple(clean.shape[1:]), stream=MEASURING, dtype=torch.float64)
        return clean + self.std(clean) * z.to(clean)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """(y - A(x)) / noise_std, (B, *): standard normal at the true x."""
        clean = self.operator(x)
        return (y.to(clean) - clean) / self.std(clean)

    def chi_square(self, x: Tensor, y: Tensor) -> Tensor:
        """|residual|^2 / M, (B,): 1 +- sqrt(2 / M) at the true x, and so it is for draws from the posterior."""
        z = self.residual(x, y)
        return flat_sum(z.square()) / z[0].numel()

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """log N(y; A(x), noise_std^2 I) in nats, (B,)."""
        z = self.residual(x, y)
        std = self.std(z).expand(z.shape[1:])
        return -flat_sum(0.5 * z.square() + torch.log(std) + 0.5 * math.log(2.0 * math.pi))
