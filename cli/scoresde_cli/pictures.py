"""Samples as files: PNG and NPY bytes, grids of pictures, points of the plane; each file is whole or not there."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scoresde import report
from scoresde.recipe import Space
from scoresde.report._files import write_atomically

IN_GRID = 256  # pictures at most
MARGIN = 0.15
Density = tuple[np.ndarray, np.ndarray, np.ndarray]


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all."""
    write_atomically(path, content)
    return path


def npy_bytes(array: np.ndarray) -> bytes:
    """A NumPy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def png_bytes(image: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """(C, H, W) uint8 or uint16 as a PNG file with notes inside."""
    return report.encode_png(np.ascontiguousarray(image.transpose(1, 2, 0)), text)


def picture(samples: np.ndarray, space: Space, density: Density | None = None) -> bytes | None:
    """Many samples (N, *) as one PNG: a grid of pictures, or points of the plane; None for anything else.

    Args:
        density: (xs, ys, values) to draw behind the points.
    """
    if space.kind == "image":
        return report.encode_png(report.image_grid(_eight_bit(samples[:IN_GRID])))
    if samples.shape[1:] != (2,):
        return None
    xs, ys, values = density or _empty_around(samples)
    return report.to_png_bytes(report.density_panel(xs, ys, values, {f"{len(samples)} samples": samples}, side=4.0))


def _eight_bit(images: np.ndarray) -> np.ndarray:
    return images if images.dtype == np.uint8 else (images >> 8).astype(np.uint8)


def _empty_around(points: np.ndarray) -> Density:
    low, high = points.min(0), points.max(0)
    pad = MARGIN * np.maximum(high - low, 1e-3)
    xs, ys = (np.linspace(a, b, 2) for a, b in zip(low - pad, high + pad, strict=True))
    return xs, ys, np.zeros((2, 2))
