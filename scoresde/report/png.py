"""PNG files of 8 or 16 bits, grey or RGB, with notes inside (PNG specification, third edition, W3C 2025).

Written out because Pillow has no 16-bit RGB. A file is a signature and chunks, each of length, name, data
and checksum; pixels are big-endian rows, each stored as its difference from the row above and deflated.
"""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scoresde._files import write_atomically

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2
FILTER_UP = 2


def write_png(path: str | Path, array: np.ndarray, text: Mapping[str, str] | None = None) -> None:
    """Write `encode_png(array, text)` to a file, whole or not at all. The folder must exist."""
    write_atomically(path, encode_png(array, text))


def encode_png(array: np.ndarray, text: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a PNG file: array (H, W), (H, W, 1) or (H, W, 3), uint8 or uint16; `text` is kept inside.

    Raises ValueError for any other array, and for a key of `text` not of 1 to 79 printable ASCII letters.
    """
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be uint8 or uint16, got {array.dtype}")
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3) or array.size == 0:
        raise ValueError(f"a picture must be (H, W), (H, W, 1) or (H, W, 3), got {array.shape}")
    H, W, C = array.shape
    bits = 8 * array.dtype.itemsize
    header = struct.pack(">IIBBBBB", W, H, bits, GREY if C == 1 else RGB, 0, 0, 0)

    rows = np.ascontiguousarray(array.astype(array.dtype.newbyteorder(">"))).view(np.uint8).reshape(H, -1)
    differences = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    lines = np.concatenate([np.full((H, 1), FILTER_UP, np.uint8), differences], axis=1)

    notes = [_chunk(b"iTXt", _note(key, value)) for key, value in (text or {}).items()]
    pixels = _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
    return b"".join([SIGNATURE, _chunk(b"IHDR", header), *notes, pixels, _chunk(b"IEND", b"")])


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _note(key: str, value: str) -> bytes:
    """Keyword, no compression, no language, no translation, then the text in UTF-8."""
    if not (1 <= len(key) <= 79 and key.isascii() and key.isprintable() and key == key.strip()):
        raise ValueError(f"a key of the text must be 1 to 79 printable ASCII characters, got {key!r}")
    return key.encode() + b"\0\0\0\0\0" + value.encode()
