"""Networks by name: three sizes, and the kind that suits the shape of the data."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch.nn as nn

from scoresde.nets.mlp import MLP
from scoresde.nets.unet import UNet

UNET_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"width": 16, "multipliers": (1, 2, 2), "blocks": 2},
    "small": {"width": 32, "multipliers": (1, 1, 2), "blocks": 2},
    "base": {"width": 64, "multipliers": (1, 2, 2), "blocks": 2},
}
MLP_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"width": 64, "depth": 2},
    "small": {"width": 128, "depth": 3},
    "base": {"width": 256, "depth": 4},
}


def build(preset: str, shape: tuple[int, ...]) -> nn.Module:
    """The network of that size for samples of `shape`: a U-Net for (C, H, W), a perceptron for anything else.

    Raises ValueError for a name that is no preset, and for an empty shape or one with a size below 1.
    """
    if preset not in UNET_PRESETS:
        close = get_close_matches(preset, UNET_PRESETS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"unknown preset {preset!r}, choose from {', '.join(UNET_PRESETS)}{hint}")
    if not shape or min(shape) < 1:
        raise ValueError(f"the shape of a sample must be one or more positive sizes, got {shape}")
    if len(shape) == 3:
        return UNet(shape[0], **UNET_PRESETS[preset])
    return MLP(shape, **MLP_PRESETS[preset])


def parameter_count(module: nn.Module) -> int:
    """How many numbers training may change."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
