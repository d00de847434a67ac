"""The problems that tests share: every process, and laws with exact answers."""

from __future__ import annotations

import math

import torch

import scoresde as sd
from scoresde.sde import LinearSDE

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)

PROCESSES: dict[str, LinearSDE] = {
    "vp": sd.VP(),
    "cosine": sd.VP.cosine(),
    "betas": sd.VP.from_betas(BETAS),
    "song": sd.VP.song(BETAS),
    "sub-vp": sd.SubVP(),
    "ve": sd.VE(0.01, 20.0),
    "edm": sd.EDM(20.0),
    "rectified-flow": sd.RectifiedFlow(),
    "user": sd.GaussianPath(lambda t: torch.cos(0.5 * math.pi * t) ** 2, lambda t: torch.sin(0.5 * math.pi * t)),
}


def gaussian(dtype: torch.dtype = torch.float64) -> sd.GaussianMixture:
    """One Gaussian in 2-D, off centre and correlated: its flow map is known."""
    return sd.GaussianMixture([1.0], [[0.5, -0.3]], [[[0.3, 0.1], [0.1, 0.2]]], dtype=dtype)


def mixture(dim: int = 3, components: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> sd.GaussianMixture:
    """A mixture with full covariances."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    a = 0.5 * draw(components, dim, dim)
    weights = torch.rand(components, dtype=torch.float64, generator=generator) + 0.1
    return sd.GaussianMixture(weights, 1.5 * draw(components, dim), a @ a.mT + 0.05 * torch.eye(dim), dtype=dtype)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Reproducible standard normals."""
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))
