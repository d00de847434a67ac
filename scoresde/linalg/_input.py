"""What users hand over, as tensors: checked once, here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = Tensor | NDArray[Any] | Sequence[Any]


def copied(values: Values) -> Tensor:
    """A tensor of its own."""
    if isinstance(values, Tensor):
        return values.detach().cpu().clone()
    return torch.from_numpy(np.array(values, order="C"))


def finite(values: Values, ndim: int, name: str, wanted: str) -> Tensor:
    """`values` in float64.

    Raises:
        ValueError: another number of dimensions, no entries, or values that are not finite.
    """
    tensor = copied(values).double()
    if tensor.ndim != ndim or tensor.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; {wanted} is needed")
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"{name} holds values that are not finite")
    return tensor


def boolean(mask: Values, name: str = "the mask") -> Tensor:
    """A mask of True (kept) and False, or of 1 and 0.

    Raises:
        ValueError: other values, or nothing kept.
    """
    tensor = copied(mask)
    if not bool(((tensor == 0) | (tensor == 1)).all()):
        low, high = tensor.min().item(), tensor.max().item()
        raise ValueError(
            f"{name} holds values from {low:g} to {high:g}; True (kept) and False are needed: mask > {high / 2:g}, say"
        )
    if not bool(tensor.any()):
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} keeps nothing, so that nothing is measured")
    return tensor.bool()


def picture_size(x: Tensor, operator: object) -> tuple[int, int]:
    """Height and width of a batch of pictures.

    Raises:
        ValueError: no pictures.
    """
    if x.ndim < 3:
        raise ValueError(f"{operator} takes pictures (B, H, W) or (B, C, H, W), not shape {tuple(x.shape)}")
    return x.shape[-2], x.shape[-1]
