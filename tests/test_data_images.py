"""Image files written here, pixel by pixel, must come back as the same numbers, whatever their kind."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scoresde.data import DataError, read_image
from scoresde.data.images import decode, probe
from scoresde.data.pixels import composite, fit, with_channels

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def filtered(rows: np.ndarray, n_bytes: int) -> bytes:
    """PNG scanlines of (H, bytes) with the five filters in turn; n_bytes per pixel."""
    out, above = b"", np.zeros(rows.shape[1], dtype=np.int64)
    for i, row in enumerate(rows.astype(np.int64)):
        left = np.concatenate([np.zeros(n_bytes, np.int64), row[:-n_bytes]])
        corner = np.concatenate([np.zeros(n_bytes, np.int64), above[:-n_bytes]])
        p = left + above - corner
        distances = np.stack([abs(p - left), abs(p - above), abs(p - corner)])
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        guess = [np.zeros_like(row), left, above, (left + above) // 2, paeth][i % 5]
        out += bytes([i % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes()
        above = row
    return out


def deep_png(array: np.ndarray, *, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """A 16-bit PNG of (H, W, C), with every filter, written by hand because Pillow cannot."""
    height, width, channels = array.shape
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    scanlines = b""
    for top, left, down, right in passes:
        part = array[top::down, left::right]
        if part.size:
            as_bytes = np.frombuffer(part.astype(">u2").tobytes(), np.uint8).reshape(len(part), -1)
            scanlines += filtered(as_bytes, 2 * channels)
    header = struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, int(interlaced))
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(scanlines)), (b"IEND", b"")]
    chunks = [chunk(kind, data) for kind, data in parts]
    return b"\x89PNG\r\n\x1a\n" + chunks[0] + extra + chunks[1] + chunks[2]


def tiff16(array: np.ndarray, order: str, planar: int = 1) -> bytes:
    """An uncompressed 16-bit RGB TIFF of (H, W, 3) in one strip; order is < or >."""
    height, width, channels = array.shape
    stored = array if planar == 1 else array.transpose(2, 0, 1)
    data = stored.astype(f"{order}u2").tobytes()
    tags = [
        (256, 4, width), (257, 4, height), (258, 3, None), (259, 3, 1), (262, 3, 2),
        (273, 4, None), (277, 3, channels), (278, 4, height), (279, 4, len(data)), (284, 3, planar),
    ]  # fmt: skip
    after = 8 + 2 + 12 * len(tags) + 4
    bits = struct.pack(order + "HHH", 16, 16, 16) + b"\0\0"
    entries = b""
    for tag, kind, value in tags:
        if tag == 258:
            entries += struct.pack(order + "HHII", tag, kind, 3, after)
        elif tag == 273:
            entries += struct.pack(order + "HHII", tag, kind, 1, after + len(bits))
        elif kind == 3:
            entries += struct.pack(order + "HHIHH", tag, kind, 1, value, 0)
        else:
            entries += struct.pack(order + "HHII", tag, kind, 1, value)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    start = mark + struct.pack(order + "I", 8) + struct.pack(order + "H", len(tags))
    return start + entries + struct.pack(order + "I", 0) + bits + data


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_lossless_grey_comes_back_exactly(kind: str, generator: np.random.Generator) -> None:
    pixels = generator.integers(0, 256, (5, 7), dtype=np.uint8)
    # grey GIF files hold a palette, which counts as colour unless one channel is asked for
    array = read_image(saved(Image.fromarray(pixels), kind), 1 if kind == "GIF" else None)
    assert array.dtype == np.uint8
    assert array.shape == (1, 5, 7)
    np.testing.assert_array_equal(array[0], pixels)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_colour_comes_back_exactly(
    kind: str, options: dict[str, bool], generator: np.random.Generator
) -> None:
    pixels = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    array = read_image(saved(Image.fromarray(pixels), kind, **options))
    np.testing.assert_array_equal(array, pixels.transpose(2, 0, 1))
    assert array.flags.c_contiguous


def test_one_bit_pictures_are_black_and_white() -> None:
    pixels = np.array([[True, False, True]])
    np.testing.assert_array_equal(read_image(saved(Image.fromarray(pixels), "PNG")), [[[255, 0, 255]]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_all_its_bits(kind: str, generator: np.random.Generator) -> None:
    pixels = generator.integers(0, 65536, (6, 5), dtype=np.uint16)
    array = read_image(saved(Image.fromarray(pixels), kind))
    assert array.dtype == np.uint16
    np.testing.assert_array_equal(array[0], pixels)


def test_sixteen_bit_pgm_keeps_all_its_bits(generator: np.random.Generator) -> None:
    pixels = generator.integers(0, 65536, (6, 5), dtype=np.uint16)
    array = read_image(b"P5 5 6 65535\n" + pixels.astype(">u2").tobytes())
    np.testing.assert_array_equal(array[0], pixels)


@pytest.mark.parametrize("interlaced", [False, True])
def test_sixteen_bit_colour_png_keeps_all_its_bits(interlaced: bool, generator: np.random.Generator) -> None:
    pixels = generator.integers(0, 65536, (13, 11, 3), dtype=np.uint16)
    array = read_image(deep_png(pixels, interlaced=interlaced))
    assert array.dtype == np.uint16
    np.testing.assert_array_equal(array, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_colour_tiff_keeps_all_its_bits(order: str, generator: np.random.Generator) -> None:
    pixels = generator.integers(0, 65536, (4, 6, 3), dtype=np.uint16)
    np.testing.assert_array_equal(read_image(tiff16(pixels, order)), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("order", ["<", ">"])
def test_compressed_sixteen_bit_tiff_keeps_all_its_bits(order: str, generator: np.random.Generator) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = generator.integers(0, 65536, (40, 30, 3), dtype=np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, photometric="rgb", compression="zlib", byteorder=order)
    np.testing.assert_array_equal(read_image(stream.getvalue()), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("background", [1.0, 0.0, 0.25])
def test_sixteen_bit_alpha_is_composited_exactly(
    channels: int, background: float, generator: np.random.Generator
) -> None:
    pixels = generator.integers(0, 65536, (5, 6, channels), dtype=np.uint16)
    x, a = pixels[..., :-1].astype(np.float64), pixels[..., -1:].astype(np.float64)
    expected = np.floor((x * a + round(background * 65535) * (65535 - a)) / 65535 + 0.5)
    array = read_image(deep_png(pixels), background=background)
    np.testing.assert_array_equal(array, expected.transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("background", [1.0, 0.0, 0.5])
def test_eight_bit_alpha_is_composited_exactly(mode: str, background: float, generator: np.random.Generator) -> None:
    pixels = generator.integers(0, 256, (9, 8, len(mode)), dtype=np.uint8)
    x, a = pixels[..., :-1].astype(np.float64), pixels[..., -1:].astype(np.float64)
    expected = np.floor((x * a + round(background * 255) * (255 - a)) / 255 + 0.5)
    array = read_image(saved(Image.fromarray(pixels, mode=None), "PNG"), background=background)
    np.testing.assert_array_equal(array, expected.transpose(2, 0, 1))


def test_the_extremes_of_compositing_do_not_overflow() -> None:
    worst = np.full((2, 1, 1), 65535, dtype=np.uint16)
    assert composite(worst, 1.0).item() == 65535
    worst[1] = 0
    assert composite(worst, 1.0).item() == 65535


def test_a_palette_is_resolved_and_its_transparency_shows_white() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    opaque = read_image(saved(image, "PNG"))
    np.testing.assert_array_equal(opaque[:, 0].T, [[10, 20, 30], [40, 50, 60], [70, 80, 90]])
    through = read_image(saved(image, "PNG", transparency=bytes([255, 0, 255])))
    np.testing.assert_array_equal(through[:, 0].T, [[10, 20, 30], [255, 255, 255], [70, 80, 90]])


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_named_as_transparent_shows_the_background(deep: bool, channels: int) -> None:
    top = 65535 if deep else 255
    pixels = np.array([[7, 8], [9, 7]])[..., None].repeat(channels, axis=2)
    key = chunk(b"tRNS", struct.pack(">" + "H" * channels, *[7] * channels))
    if deep:
        data = deep_png(pixels.astype(np.uint16), extra=key)
    else:
        shallow = Image.fromarray(pixels.astype(np.uint8).squeeze())
        data = saved(shallow, "PNG", transparency=(7, 7, 7) if channels == 3 else 7)
    array = read_image(data)
    assert array.shape == (channels, 2, 2)
    for plane in array:
        np.testing.assert_array_equal(plane, [[top, 8], [9, top]])


def test_cmyk_jpeg_becomes_rgb() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    array = read_image(saved(cyan, "JPEG", quality=100)).astype(int)
    assert array.shape == (3, 16, 16)
    assert np.abs(array - np.array([0, 255, 255])[:, None, None]).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # how a camera held this way would store the upright scene
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright), 7: np.rot90(upright.T, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    blown_up = np.kron(stored, np.ones((8, 8), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(blown_up), kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    array = read_image(data)[0, 4::8, 4::8]
    np.testing.assert_allclose(array.astype(int), upright, atol=2 if kind == "JPEG" else 0)
    header = probe(io.BytesIO(data))
    assert (header.height, header.width) == (16, 24)


@pytest.mark.parametrize("order", [6, 3])
def test_exif_orientation_is_applied_to_sixteen_bit_colour(order: int, generator: np.random.Generator) -> None:
    pixels = generator.integers(0, 65536, (4, 6, 3), dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = order
    array = read_image(deep_png(pixels, extra=chunk(b"eXIf", exif.tobytes()[6:])))
    turned = np.rot90(pixels, -1 if order == 6 else 2)
    np.testing.assert_array_equal(array, turned.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF"])
def test_the_first_frame_of_many_is_read(kind: str) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (10, 200)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(data, 1), np.full((1, 4, 4), 10))


def test_grey_is_pillows_luma_in_eight_bits(generator: np.random.Generator) -> None:
    pixels = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = saved(Image.fromarray(pixels), "PNG")
    np.testing.assert_array_equal(read_image(data, 1)[0], np.asarray(Image.fromarray(pixels).convert("L")))


def test_grey_of_sixteen_bits_is_the_rounded_luma(generator: np.random.Generator) -> None:
    pixels = generator.integers(0, 65536, (3, 20, 20), dtype=np.uint16)
    pixels[:, 0, 0] = 65535
    luma = np.tensordot([0.299, 0.587, 0.114], pixels.astype(np.float64), axes=1)
    grey = with_channels(pixels, 1)
    assert grey.dtype == np.uint16
    assert grey[0, 0, 0] == 65535
    # the weights are rounded to 16 bits
    assert np.abs(grey[0] - luma).max() <= 1.5


def test_grey_pictures_are_repeated_into_three_channels() -> None:
    array = read_image(saved(Image.new("L", (2, 2), 9), "PNG"), 3)
    np.testing.assert_array_equal(array, np.full((3, 2, 2), 9))


@pytest.mark.parametrize("cap", [99, 50])
def test_too_many_pixels_are_refused_before_decoding(cap: int) -> None:
    header = struct.pack(">IIBBBBB", 10, 10, 8, 0, 0, 0, 0)
    no_pixels = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="10 x 10 are too many pixels"):
        read_image(no_pixels, max_pixels=cap)


@pytest.mark.parametrize("side", [8001, 11_000, 20_000])
def test_a_bomb_is_refused_by_default_and_no_warning_leaks(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(DataError, match="too many pixels"):
        read_image(bomb)


def test_a_large_picture_is_decoded_without_a_warning_where_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    assert read_image(saved(Image.new("L", (8, 8)), "PNG")).shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image"),
        (b"hello", "not an image"),
        (saved(Image.new("RGB", (64, 64), "red"), "PNG")[:120], "cannot be decoded"),
        (saved(Image.effect_noise((64, 64), 50), "JPEG")[:900], "cannot be decoded"),
        (saved(Image.new("F", (4, 4)), "TIFF"), "as .npy"),
        (saved(Image.new("I", (4, 4)), "TIFF"), "as .npy"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"P6 1 1 65535\n" + bytes(6), "save it as PNG"),
        (tiff16(np.zeros((4, 6, 3), np.uint16), "<", planar=2), "separate colour planes"),
    ],
)
def test_what_cannot_be_read_exactly_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_image(data)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.png: cannot be read: No such file"):
        read_image(tmp_path / "absent.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"broken\.png: broken, or not an image"):
        read_image(tmp_path / "broken.png")


def test_every_truncation_and_flip_is_an_image_or_a_data_error(generator: np.random.Generator) -> None:
    whole = deep_png(generator.integers(0, 65536, (6, 6, 3), dtype=np.uint16))
    for length in range(0, len(whole), 7):
        with pytest.raises(DataError):
            read_image(whole[: min(length, len(whole) - 30)])
    for position in generator.integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[position] ^= 0x55
        try:
            array = read_image(bytes(flipped))
        except DataError:
            continue
        assert array.dtype in (np.uint8, np.uint16)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_channel_counts_are_refused(channels: int) -> None:
    with pytest.raises(ValueError, match="channels must be 1, 3 or None"):
        read_image(b"", channels)


def test_headers_foretell_what_decoding_gives(generator: np.random.Generator) -> None:
    deep = generator.integers(0, 65536, (4, 6, 4), dtype=np.uint16)
    files = [deep_png(deep[..., :c]) for c in (1, 2, 3, 4)]
    files += [saved(Image.new(mode, (6, 4)), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    for data in files:
        header, array = probe(io.BytesIO(data)), decode(data)
        assert (header.channels, header.height, header.width) == array.shape
        assert header.dtype == array.dtype


def test_fitting_to_the_same_size_changes_nothing(generator: np.random.Generator) -> None:
    picture = generator.integers(0, 256, (3, 5, 4), dtype=np.uint8)
    assert fit(picture, (5, 4)) is picture


def test_fitting_takes_the_centre_of_the_right_aspect() -> None:
    # black bars left and right of a white square vanish when a square is asked for
    picture = np.zeros((1, 40, 120), dtype=np.uint8)
    picture[:, :, 40:80] = 255
    # the filter's support reaches over the edge of the box, so look at the inside
    assert (fit(picture, (20, 20))[:, :, 3:-3] == 255).all()
    assert (fit(picture.transpose(0, 2, 1), (20, 20))[:, 3:-3] == 255).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(3, 3), (17, 30), (64, 9)])
def test_fitting_keeps_a_constant_constant(dtype: type, size: tuple[int, int]) -> None:
    top = np.iinfo(dtype).max
    for value in (0, 93, top):
        fitted = fit(np.full((3, 20, 31), value, dtype), size)
        assert fitted.shape == (3, *size)
        assert fitted.dtype == dtype
        assert (fitted == value).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_fitting_a_sharp_edge_stays_in_range(dtype: type) -> None:
    top = np.iinfo(dtype).max
    edge = np.zeros((1, 20, 20), dtype)
    edge[:, :, 10:] = top
    row = fit(edge, (60, 60))[0, 30].astype(int)
    # an overshoot that wrapped around would be a large step the wrong way
    assert row.min() == 0
    assert row.max() == top
    assert np.diff(row).min() > -0.2 * top


def test_fitting_does_not_alias_fine_stripes() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (1, 64, 32))
    fitted = fit(stripes, (16, 16)).astype(int)
    assert np.abs(fitted[:, 2:-2, 2:-2] - 127.5).max() < 12


def test_fitting_sixteen_bits_agrees_with_eight(generator: np.random.Generator) -> None:
    picture = generator.integers(0, 256, (1, 40, 50), dtype=np.uint8)
    deep = picture.astype(np.uint16) * np.uint16(257)
    difference = fit(deep, (20, 20)) / 257 - fit(picture, (20, 20)).astype(float)
    assert np.abs(difference).max() < 1.0


def test_probing_does_not_decode() -> None:
    header = struct.pack(">IIBBBBB", 10, 20, 8, 2, 0, 0, 0)
    no_pixels = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    found = probe(io.BytesIO(no_pixels))
    assert (found.height, found.width, found.channels, found.dtype) == (20, 10, 3, np.uint8)


def test_inverted_sixteen_bit_tiff_is_refused() -> None:
    tifffile = pytest.importorskip("tifffile")
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((4, 5), np.uint16), photometric="miniswhite")
    with pytest.raises(DataError, match="white is zero"):
        read_image(stream.getvalue())
