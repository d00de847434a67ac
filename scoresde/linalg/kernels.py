"""Kernels of blur, float64, that sum to 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SUBPIXELS = 32  # a side, for the share of a pixel that a line covers


def gaussian_taps(std: float, size: int | None = None) -> Tensor:
    """A Gaussian on the middle one of `size` entries, (size,), for `SeparableBlur`.

    Args:
        std: in pixels, > 0.
        size: odd; by default it reaches 4 std to each side, as `scipy.ndimage.gaussian_filter` does.

    Raises:
        ValueError: std not positive and finite, or a size that is not odd and positive.
    """
    if not (std > 0 and math.isfinite(std)):
        raise ValueError(f"std = {std:g} pixels; it must be positive and finite")
    size = 2 * int(4.0 * std + 0.5) + 1 if size is None else size
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size = {size}; it must be odd and positive, so that the kernel has a middle")
    n = torch.arange(size, dtype=torch.float64) - size // 2
    taps = torch.exp(-0.5 * (n / std) ** 2)
    return taps / taps.sum()


def gaussian_kernel(std: float, size: int | None = None) -> Tensor:
    """A Gaussian (size, size), for `Convolution`. Arguments and errors as for `gaussian_taps`."""
    taps = gaussian_taps(std, size)
    return taps[:, None] * taps[None, :]


def motion_kernel(length: float, angle: float = 0.0) -> Tensor:
    """The trace of a point that moves on a straight line: the share of each pixel under a line one pixel wide.

    Args:
        length: in pixels, >= 1; 1 is nearly no motion.
        angle: in degrees, counterclockwise from a motion to the right.

    Returns:
        Odd height and width, as small as hold the line.

    Raises:
        ValueError: a length below 1 or not finite, or an angle that is not finite.
    """
    if not (length >= 1 and math.isfinite(length)):
        raise ValueError(f"length = {length:g} pixels; it must be finite and 1 or more")
    if not math.isfinite(angle):
        raise ValueError(f"angle = {angle:g} degrees; it must be finite")
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    # half the box around a rectangle of length x 1; rounding off what a pixel does not see
    half_h, half_w = (math.ceil(0.5 * e - 0.5 - 1e-9) for e in (length * abs(s) + abs(c), length * abs(c) + abs(s)))
    y, x = _subpixels(half_h)[:, None], _subpixels(half_w)[None, :]
    inside = ((c * x - s * y).abs() < 0.5 * length) & ((s * x + c * y).abs() < 0.5)
    cover = inside.double().reshape(2 * half_h + 1, SUBPIXELS, 2 * half_w + 1, SUBPIXELS).sum((1, 3))
    return cover / cover.sum()


def _subpixels(half: int) -> Tensor:
    """Their positions, for 2 half + 1 pixels about 0."""
    n = torch.arange((2 * half + 1) * SUBPIXELS, dtype=torch.float64)
    return (n + 0.5) / SUBPIXELS - half - 0.5
