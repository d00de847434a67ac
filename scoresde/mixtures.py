"""Named Gaussian mixtures, for `gmm:NAME` on the command line: exact answers to compare a sampler with."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from scoresde.distributions import GaussianMixture


def grid25() -> GaussianMixture:
    """A 5 x 5 grid of narrow modes, standard deviation 0.05, with unequal weights, over [-1.6, 1.6]^2."""
    axis = torch.linspace(-1.6, 1.6, 5, dtype=torch.float64)
    means = torch.cartesian_prod(axis, axis)
    weights = 1.0 + (torch.arange(25) % 4).double()
    return GaussianMixture(weights, means, torch.full((25,), 0.05**2), dtype=torch.float32)


def two_moons() -> GaussianMixture:
    """Two interleaved half circles, each of 12 elongated modes: a smooth law with the look of `moons`."""
    angle = (torch.arange(12, dtype=torch.float64) + 0.5) * math.pi / 12
    upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    tangent = torch.stack([-angle.sin(), angle.cos()], 1)
    means = 1.2 * torch.cat([upper, -upper])
    tangents = torch.cat([tangent, tangent])
    along = tangents[:, :, None] * tangents[:, None, :]
    covariances = 0.06**2 * torch.eye(2, dtype=torch.float64) + 0.13**2 * along
    return GaussianMixture(torch.ones(24), means, covariances, dtype=torch.float32)


def ring8() -> GaussianMixture:
    """Eight equal round modes of standard deviation 0.1 on a circle of radius 1.5."""
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = 1.5 * torch.stack([angle.cos(), angle.sin()], 1)
    return GaussianMixture(torch.ones(8), means, torch.full((8,), 0.1**2), dtype=torch.float32)


def uneven() -> GaussianMixture:
    """Three modes whose weights (0.7, 0.25, 0.05) and widths (0.4, 0.1, 0.03) differ: the small one is soon lost."""
    means = torch.tensor([[-0.8, 0.0], [1.2, 0.8], [1.0, -1.2]], dtype=torch.float64)
    stds = torch.tensor([0.4, 0.1, 0.03], dtype=torch.float64)
    return GaussianMixture(torch.tensor([0.7, 0.25, 0.05]), means, stds**2, dtype=torch.float32)


def modes64() -> GaussianMixture:
    """Ten modes of different widths (0.1 to 0.5) in 64 dimensions, with unequal weights."""
    generator = torch.Generator().manual_seed(64)
    means = torch.randn(10, 64, dtype=torch.float64, generator=generator)
    stds = torch.linspace(0.1, 0.5, 10, dtype=torch.float64)
    weights = torch.linspace(1.0, 3.0, 10, dtype=torch.float64)
    return GaussianMixture(weights, means, stds**2, dtype=torch.float32)


MIXTURES: dict[str, Callable[[], GaussianMixture]] = {
    "grid25": grid25,
    "two-moons": two_moons,
    "ring8": ring8,
    "uneven": uneven,
    "modes64": modes64,
}
