"""Exact arithmetic on pictures held as whole numbers, channels first: (C, H, W) of uint8 or uint16.

Grey is the luma of ITU-R BT.601 in the fixed-point form that Pillow uses for its mode L,

    Y = (19595 R + 38470 G + 7471 B + 2^15) >> 16,

which also serves 16 bits, where it still fits 32 unsigned bits. Transparent pixels show a background:
out = (x a + b (M - a)) / M, rounded, with M = 255 or 65535 (no gamma, as browsers do).
"""

import numpy as np
from PIL import Image

LUMA = np.array([19595, 38470, 7471], dtype=np.uint32)


def full_scale(array: np.ndarray) -> int:
    """The stored value that means white: 255 or 65535."""
    return int(np.iinfo(array.dtype).max)


def widen(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """8-bit values on the 16-bit scale (times 257, so that white stays white) where `dtype` asks for it."""
    if array.dtype == dtype:
        return array
    return array.astype(np.uint16) * np.uint16(257)


def composite(array: np.ndarray, background: float) -> np.ndarray:
    """Drop the last channel, which is alpha: (C + 1, H, W) -> (C, H, W), over a grey level in [0, 1]."""
    top = full_scale(array)
    # uint32 is enough: x a + b (M - a) + M / 2 never exceeds M^2 + M / 2 < 2^32
    colour, alpha = array[:-1].astype(np.uint32), array[-1:].astype(np.uint32)
    behind = np.uint32(round(background * top))
    mixed = (colour * alpha + behind * (np.uint32(top) - alpha) + np.uint32(top // 2)) // np.uint32(top)
    return mixed.astype(array.dtype)


def with_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """A (1 or 3, H, W) picture with 1 or 3 channels: colour becomes luma, grey is repeated."""
    if len(array) == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=0)
    luma = np.tensordot(LUMA, array.astype(np.uint32), axes=1) + np.uint32(1 << 15)
    return (luma >> np.uint32(16)).astype(array.dtype)[None]


def fit(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (C, H, W) to (C, *size): the largest centred part of that aspect, antialiased by Lanczos-3.

    A picture that has the size already is returned untouched.
    """
    height, width = array.shape[1:]
    if (height, width) == size:
        return array
    # the widest box of the wanted aspect that fits, in real pixel coordinates
    box_height = min(height, width * size[0] / size[1])
    box_width = min(width, height * size[1] / size[0])
    left, top = (width - box_width) / 2, (height - box_height) / 2
    box = (left, top, left + box_width, top + box_height)

    def resize(plane: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.LANCZOS, box=box))

    if array.dtype == np.uint8:
        return np.stack([resize(plane) for plane in np.ascontiguousarray(array)])
    # Pillow resizes 8-bit planes and floats; Lanczos overshoots at edges, hence the clip
    resized = np.stack([resize(plane) for plane in array.astype(np.float32)])
    return np.rint(resized.clip(0, full_scale(array))).astype(array.dtype)
