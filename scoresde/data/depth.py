"""Sixteen bits per channel out of Pillow, which has no mode for sixteen-bit colour.

It reads such files as 8 bits without a word. But it unpacks either byte order and keeps the more significant
byte; so, told the wrong order, it yields the other byte, and the two passes make the sixteen bits.
"""

import io
import sys

import numpy as np
from PIL import Image, ImageFile, ImageOps

from scoresde.data.errors import DataError

EIGHT_BIT_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
SIXTEEN_BIT_GREY = ("I;16", "I;16B", "I;16L", "I;16N", "I;16R")
GREY_WITH_ALPHA = "LA;16B"
_FOREIGN = "B" if sys.byteorder == "little" else "L"
# how the bytes of 16-bit colour are laid out (N: as this machine does) -> the layout that yields the low ones
LOW_BYTES = {
    f"{colours};16{order}": f"{colours};16{other}"
    for colours in ("RGB", "RGBA")
    for order, other in (("B", "L"), ("L", "B"), ("N", _FOREIGN))
}
# TIFF tags, and values of theirs that defeat Pillow at 16 bits
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR = 258, 262, 284
WHITE_IS_ZERO, ONE_PLANE_A_COLOUR = 0, 2


def layout(image: ImageFile.ImageFile) -> str:
    """Pillow's name for the stored bytes of a picture not yet decoded, such as RGB;16B."""
    args = image.tile[0].args if image.tile else None
    first = args[0] if isinstance(args, tuple) else args
    return first if isinstance(first, str) else ""


def bits_per_channel(image: ImageFile.ImageFile) -> int:
    """8 or 16, as stored in the file of a picture not yet decoded.

    Raises
    ------
    DataError
        for a depth or layout of which Pillow would lose or misread bits: 12-bit, 32-bit, floating point.
    """
    stored = layout(image)
    tags = getattr(image, "tag_v2", {})
    deep_tiff = max(tags.get(BITS_PER_SAMPLE, (8,))) > 8
    if image.format == "PPM":
        return _ppm_bits(image)
    if image.mode in SIXTEEN_BIT_GREY and stored in SIXTEEN_BIT_GREY:
        if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            raise DataError("16-bit TIFF where white is zero is not read; save it as PNG")
        return 16
    if deep_tiff and tags.get(PLANAR) == ONE_PLANE_A_COLOUR:
        raise DataError("16-bit TIFF with separate colour planes is not read; save it as PNG")
    if image.mode in ("RGB", "RGBA") and (stored in LOW_BYTES or stored == GREY_WITH_ALPHA):
        return 16
    if image.mode in EIGHT_BIT_MODES and not deep_tiff and ";16" not in stored:
        return 8
    raise DataError(
        f"pixels of the kind {image.mode} ({stored or 'unknown layout'}) are not read; "
        "save it as an 8- or 16-bit grey or RGB PNG, or floating-point values as .npy"
    )


def _ppm_bits(image: ImageFile.ImageFile) -> int:
    if image.mode == "F":
        raise DataError("floating-point PFM is not read; save it as .npy")
    args = image.tile[0].args
    if image.mode == "RGB" and isinstance(args, tuple) and args[-1] > 255:
        raise DataError("16-bit colour PPM is not read; save it as PNG")
    return 16 if image.mode == "I" else 8


def sixteen_bit_colour(image: ImageFile.ImageFile, data: bytes) -> np.ndarray:
    """Decode `image`, opened from `data`, as (2, 3 or 4, H, W) uint16: grey and alpha, RGB, or RGBA."""
    stored = layout(image)
    if stored == GREY_WITH_ALPHA:
        # four bytes a pixel, taken as they lie: grey high, grey low, alpha high, alpha low
        as_stored = _upright(_opened_as(image, data, "RGBA"))
        return as_stored[0::2] * np.uint16(256) + as_stored[1::2]
    high, low = _upright(image), _upright(_opened_as(image, data, LOW_BYTES[stored]))
    return high * np.uint16(256) + low


def _opened_as(image: ImageFile.ImageFile, data: bytes, rawmode: str) -> ImageFile.ImageFile:
    """Open the data of `image` again, but unpack the stored bytes as `rawmode`."""
    again = Image.open(io.BytesIO(data), formats=(image.format or "PNG",))
    again.tile = [
        tile._replace(args=(rawmode, *tile.args[1:]) if isinstance(tile.args, tuple) else rawmode)
        for tile in again.tile
    ]
    return again


def _upright(image: ImageFile.ImageFile) -> np.ndarray:
    """Decode, turn as the EXIF orientation says, channels first, ready for 16-bit arithmetic."""
    return np.asarray(ImageOps.exif_transpose(image)).astype(np.uint16).transpose(2, 0, 1)
