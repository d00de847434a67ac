"""Samples as files: PNG and NPY bytes, grids of pictures, points of the plane; each file is whole or not there."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from scoresde import report
from scoresde._files import write_atomically
from scoresde.recipe import Space
from scoresde.report.plots import PALETTE, STYLE

IN_GRID = 256  # pictures at most
SIDE = 4.0  # inches
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


def picture(
    samples: np.ndarray,
    space: Space,
    density: Density | None = None,
    columns: int | None = None,
    word: str = "sample",
) -> bytes | None:
    """Many samples (N, *) as one PNG: a grid of pictures, or points of the plane; None for anything else.

    Args:
        density: (xs, ys, values) to draw behind the points.
        columns: of the grid of pictures; default nearly as many as rows.
        word: what one of them is called.
    """
    if space.kind == "image":
        return report.encode_png(report.image_grid(_eight_bit(samples[:IN_GRID]), columns))
    if samples.shape[1:] != (2,):
        return None
    title = f"{len(samples)} {word}s"
    if density is None:
        return report.to_png_bytes(_scatter(samples, title))
    return report.to_png_bytes(report.density_panel(*density, {title: samples}, side=SIDE))


def _eight_bit(images: np.ndarray) -> np.ndarray:
    return images if images.dtype == np.uint8 else (images >> 8).astype(np.uint8)


def _scatter(points: np.ndarray, title: str) -> Figure:
    """Points (N, 2) alone, with axes in their own units."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIDE, SIDE), layout="constrained")
        axes = figure.add_subplot(title=title, aspect="equal")
        axes.plot(points[:, 0], points[:, 1], ".", color=PALETTE[1], markersize=2, markeredgewidth=0)
    return figure
