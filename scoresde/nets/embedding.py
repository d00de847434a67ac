"""One number per sample, turned into a vector that a network can use.

The number is a log-SNR (natural logarithm), of interest between about -20 and 20. It is seen through
sines and cosines (Vaswani et al. 2017, section 3.5; Tancik et al. 2020) whose frequencies are geometric,

    omega_k = omega_min (1 / omega_min)^(k / (K - 1)),   omega_min = pi / 64,   k = 0..K-1,

so the slowest pair turns by less than one revolution over [-20, 20] and names each level uniquely, and
the fastest has a period of 2 pi, which separates levels about one unit (a factor e in SNR) apart.
No frequency exceeds 1: a finite level keeps a finite phase, however absurd.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

FREQUENCIES = 32
OMEGA_MIN = math.pi / 64


class LevelEmbedding(nn.Module):
    """(B,) levels to (B, width) vectors: Fourier features, then two linear layers, each followed by SiLU."""

    omega: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("omega", OMEGA_MIN ** torch.linspace(1, 0, FREQUENCIES), persistent=False)
        self.linear1 = nn.Linear(2 * FREQUENCIES, width)
        self.linear2 = nn.Linear(width, width)

    def forward(self, level: Tensor) -> Tensor:
        # Never in half precision, whose steps near 20 are as wide as 0.016 (float16) or 0.125 (bfloat16).
        dtype = torch.promote_types(level.dtype, torch.float32)
        phase = level.to(dtype)[:, None] * self.omega.to(dtype)
        features = torch.cat([phase.sin(), phase.cos()], dim=1)
        hidden = F.silu(self.linear1(features.to(self.linear1.weight.dtype)))
        return F.silu(self.linear2(hidden))


def check_condition(x: Tensor, condition: Tensor) -> Tensor:
    """The condition as (B,), or a ValueError that names the two shapes. A scalar serves the whole batch."""
    if not condition.is_floating_point():
        raise TypeError(f"condition must be a floating-point tensor, got {condition.dtype}")
    if condition.ndim > 1 or (condition.ndim == 1 and len(condition) != len(x)):
        raise ValueError(f"condition must be (B,) = ({len(x)},) or (), got {tuple(condition.shape)}")
    return condition.expand(len(x))


class FiLM(nn.Module):
    """Scale and shift features by an embedding, h (1 + scale) + shift (Perez et al. 2018); h is (B, C, *)."""

    def __init__(self, embedding: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(embedding, 2 * channels)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        scale_shift = self.linear(embedding)
        scale, shift = scale_shift.unflatten(1, (-1,) + (1,) * (h.ndim - 2)).chunk(2, dim=1)
        return torch.addcmul(shift, h, 1 + scale)


def zero(module: nn.Module) -> nn.Module:
    """The same module with all parameters at zero: a branch that starts silent (Goyal et al. 2017)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
