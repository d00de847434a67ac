"""One image file to an exact array, (C, H, W) of uint8 or uint16.

Pillow decodes; this file sees to what Pillow leaves to its caller or would lose without a word: depth,
transparency, orientation, hostile sizes, and the many ways in which a decoder may fail. Of moving pictures
and multi-page files the first frame is read. Colour profiles are not applied.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from scoresde.data.depth import (
    GREY_WITH_ALPHA,
    SIXTEEN_BIT_GREY,
    bits_per_channel,
    layout,
    sixteen_bit_colour,
)
from scoresde.data.errors import DataError
from scoresde.data.pixels import composite, full_scale, with_channels

# others start programs (EPS) or lose bits silently (JPEG 2000, AVIF)
FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP", "PPM")
SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".gif", ".bmp", ".webp"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
MAX_PIXELS = 64_000_000
GREY_MODES = ("1", "L", "LA", "La", "I", *SIXTEEN_BIT_GREY)


@dataclass(frozen=True)
class Header:
    """What a picture will be once decoded, known without decoding: its size, 1 or 3 channels, its type."""

    height: int
    width: int
    channels: int
    dtype: np.dtype


def read_image(
    source: str | Path | bytes,
    channels: int | None = None,
    *,
    background: float = 1.0,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Read one image file, or its bytes, as (C, H, W) uint8 or, for 16-bit files, uint16.

    channels    1 (Rec. 601 luma), 3, or None: 1 for grey files and 3 for all others, palettes among them.
    background  grey level in [0, 1] behind transparent pixels; 1 is white.
    max_pixels  larger pictures are refused from their header, before decoding.

    The EXIF orientation is applied. Palettes, 1-bit, CMYK and alpha are all resolved to grey or RGB.

    Raises
    ------
    DataError
        if the file is missing, not an image of a kind in `FORMATS`, broken, too large, or of a depth that
        8 or 16 bits do not hold (12-bit, 32-bit, floating point).
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1, 3 or None, got {channels}")
    name = "picture" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from error
    try:
        with quiet():
            array = decode(data, background=background, max_pixels=max_pixels)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    return array if channels is None else with_channels(array, channels)


def probe(stream: IO[bytes], max_pixels: int = MAX_PIXELS) -> Header:
    """Read only the header of a picture; raises DataError, without a file name, as `decode` would."""
    with data_errors(), _open(stream, max_pixels) as image:
        width, height = image.size
        # of the base class: that of PNG decodes the picture to look behind it
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        # TIFF reports the upright size already
        if image.format != "TIFF" and orientation in (5, 6, 7, 8):
            width, height = height, width
        grey = image.mode in GREY_MODES or layout(image) == GREY_WITH_ALPHA
        dtype = np.dtype(np.uint16 if bits_per_channel(image) == 16 else np.uint8)
        return Header(height, width, 1 if grey else 3, dtype)


def decode(data: bytes, *, background: float = 1.0, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The bytes of an image file as (1 or 3, H, W), uint8 or uint16; raises DataError without a file name."""
    with data_errors(), _open(io.BytesIO(data), max_pixels) as image:
        if bits_per_channel(image) == 8:
            array = _eight_bit(image)
        elif image.mode in GREY_MODES:
            grey = np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16)
            array = _with_colour_key(grey[None], image)
        else:
            array = _with_colour_key(sixteen_bit_colour(image, data), image)
    return composite(array, background) if len(array) in (2, 4) else np.ascontiguousarray(array)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings about odd files. The effect is global: wrap a thread pool in it, not its threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def data_errors() -> Iterator[None]:
    """Turn whatever a decoder raises on broken or hostile bytes into a DataError without a file name."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"broken, or not an image of a kind read here ({', '.join(FORMATS)})") from error
    except Exception as error:  # decoders let SyntaxError, struct.error, KeyError and more through
        raise DataError(f"cannot be decoded: {error}") from error


def _open(stream: IO[bytes], max_pixels: int) -> ImageFile.ImageFile:
    """Open a picture, its pixels still unread, and check how many there are."""
    try:
        image = Image.open(stream, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(f"too many pixels, the limit is {max_pixels:,}: {error}") from error
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(f"{width} x {height} are too many pixels, the limit is {max_pixels:,}; shrink it")
    return image


def _eight_bit(image: ImageFile.ImageFile) -> np.ndarray:
    """Decode as (C, H, W) uint8: grey, grey and alpha, RGB, or RGBA."""
    mode = "L" if image.mode in GREY_MODES else "RGB"
    alpha = "A" if image.has_transparency_data else ""
    array = np.asarray(ImageOps.exif_transpose(image).convert(mode + alpha))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _with_colour_key(array: np.ndarray, image: ImageFile.ImageFile) -> np.ndarray:
    """Add an alpha channel where a 16-bit PNG names one colour as transparent (tRNS)."""
    if "transparency" not in image.info or len(array) in (2, 4):
        return array
    key = np.array(image.info["transparency"], dtype=array.dtype).reshape(-1, 1, 1)
    alpha = np.where((array == key).all(axis=0), 0, full_scale(array)).astype(array.dtype)
    return np.concatenate([array, alpha[None]])
