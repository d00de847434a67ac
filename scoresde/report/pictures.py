"""Many small pictures as one: grids, and named rows for comparisons."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LEAST_SIDE = 64
PAPER = 255
INK = 40


def image_grid(images: np.ndarray, columns: int | None = None, *, gap: int = 2, scale: int | None = None) -> np.ndarray:
    """Pictures (N, H, W), (N, 1, H, W) or (N, 3, H, W), uint8, row by row in a grid (H', W', 3), uint8.

    `columns` is by default the whole number that makes the grid most nearly square. Each pixel becomes
    `scale` x `scale` pixels; by default just enough of them for the shorter side of a picture to reach 64.
    `gap` white pixels separate neighbours; there are none around the grid, and a last row may be short.
    """
    images = _as_rgb(images)
    N = len(images)
    columns = math.ceil(math.sqrt(N)) if columns is None else columns
    if columns < 1 or gap < 0:
        raise ValueError(f"columns must be at least 1 and gap at least 0, got {columns} and {gap}")
    images = _enlarge(images, scale)
    h, w = images.shape[1:3]
    rows, columns = -(-N // columns), min(columns, N)
    grid = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), PAPER, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        grid[top : top + h, left : left + w] = image
    return grid


def labelled_rows(
    rows: Mapping[str, np.ndarray],
    *,
    heads: Sequence[str] = (),
    gap: int = 2,
    scale: int | None = None,
    font_size: int = 14,
) -> np.ndarray:
    """One row of pictures for each name, which stands at its left: (H', W', 3), uint8.

    Each value is as the `images` of `image_grid`; all pictures have one size, rows may differ in length.
    `heads` stand above the columns.
    """
    if not rows:
        raise ValueError("there must be at least one row")
    strips = [image_grid(images, len(images), gap=gap, scale=scale) for images in rows.values()]
    heights = {strip.shape[0] for strip in strips}
    if len(heights) > 1:
        raise ValueError(f"all pictures must have the same height, got heights {sorted(heights)} as drawn")
    h = heights.pop()
    font = ImageFont.load_default(size=font_size)
    margin = math.ceil(max(font.getlength(name) for name in rows)) + font_size

    top = 2 * font_size if heads else 0
    longest = max(range(len(strips)), key=lambda i: strips[i].shape[1])
    width = margin + strips[longest].shape[1]
    page = np.full((top + len(rows) * (h + gap) - gap, width, 3), PAPER, np.uint8)
    for i, strip in enumerate(strips):
        page[top + i * (h + gap) : top + i * (h + gap) + h, margin : margin + strip.shape[1]] = strip

    drawing = Image.fromarray(page)
    pen = ImageDraw.Draw(drawing)
    for i, name in enumerate(rows):
        where = (margin - font_size // 2, top + i * (h + gap) + h // 2)
        pen.text(where, name, fill=(INK, INK, INK), font=font, anchor="rm")
    pitch = (width - margin + gap) / len(list(rows.values())[longest])
    for j, head in enumerate(heads):
        pen.text((margin + (j + 0.5) * pitch - gap / 2, top // 2), head, fill=(INK, INK, INK), font=font, anchor="mm")
    return np.asarray(drawing)


def _as_rgb(images: np.ndarray) -> np.ndarray:
    """(N, H, W, 3), or a ValueError."""
    if images.dtype != np.uint8:
        raise ValueError(f"pictures must be uint8, got {images.dtype}")
    shape = images.shape
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or images.shape[1] not in (1, 3) or images.size == 0:
        raise ValueError(f"pictures must be (N, H, W), (N, 1, H, W) or (N, 3, H, W), got {shape}")
    N, _, H, W = images.shape
    return np.broadcast_to(images, (N, 3, H, W)).transpose(0, 2, 3, 1)


def _enlarge(images: np.ndarray, scale: int | None) -> np.ndarray:
    if scale is None:
        scale = -(-LEAST_SIDE // min(images.shape[1:3]))
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    return images.repeat(scale, axis=1).repeat(scale, axis=2)
