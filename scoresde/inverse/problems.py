"""The usual tasks, as operators; masks that are drawn; masks and kernels from files.

    inpaint(box_mask(64, 64))        deblur(read_kernel("levin09.npz:3"))        superresolve(4)

Operators are for pictures (B, C, H, W) on the [0, 1] scale. Masks are (H, W), True where a pixel is kept. A kernel is
(h, w) float64 of sum 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import IO

import numpy as np
import scipy.io
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scoresde.data import DataError, read_image
from scoresde.data.images import data_errors, quiet
from scoresde.data.pixels import full_scale
from scoresde.linalg import (
    JPEG,
    Clip,
    Convolution,
    Downsample,
    Fourier,
    Grey,
    Identity,
    LinearOperator,
    Mask,
    Operator,
    PhaseRetrieval,
    Quantise,
    Radon,
    SeparableBlur,
    gaussian_taps,
    motion_kernel,
)
from scoresde.noise import uniform

KERNEL_SUM = 1e-6
"""How far from 1 the sum of a kernel may lie: float32 rounding."""


def denoise() -> LinearOperator:
    """Noise alone."""
    return Identity()


def inpaint(mask: Tensor) -> LinearOperator:
    """Only the pixels where `mask`, (H, W), is True are left, as a list."""
    return Mask(mask)


def deblur(kernel: Tensor, padding: str = "circular") -> LinearOperator:
    """Blurred by `kernel`, (h, w); see `Convolution`."""
    return Convolution(kernel, padding)


def gaussian_deblur(std: float, padding: str = "circular") -> LinearOperator:
    """Blurred by a Gaussian of so many pixels; its SVD is fast whatever the padding."""
    return SeparableBlur(gaussian_taps(std), padding=padding)


def motion_deblur(length: float, angle: float = 0.0, padding: str = "circular") -> LinearOperator:
    """Blurred by a straight movement of so many pixels, at `angle` degrees from the horizontal."""
    return Convolution(motion_kernel(length, angle), padding)


def superresolve(scale: int, kernel: str = "average") -> LinearOperator:
    """Shrunk by a whole number: by "average" of blocks, or "bicubic"."""
    return Downsample(scale, kernel)


def colourise() -> LinearOperator:
    """Grey instead of colour."""
    return Grey()


def mri(mask: Tensor) -> LinearOperator:
    """Magnetic resonance, one coil: the frequencies where `mask`, (H, W), is True (`cartesian_mask`)."""
    return Fourier(mask)


def tomography(views: int, size: int) -> LinearOperator:
    """Parallel-beam projections of a (size, size) picture, at so many evenly spaced angles over half a turn.

    Raises:
        ValueError: views or size below 1.
    """
    if views < 1:
        raise ValueError(f"views = {views}; it must be 1 or more")
    return Radon([180.0 * k / views for k in range(views)], size)


def retrieve_phase(oversampling: float = 2.0) -> Operator:
    """The magnitudes of the Fourier transform of a picture with a margin of zeros."""
    return PhaseRetrieval(oversampling)


def dequantise(levels: int) -> Operator:
    """Rounded to so many levels from black to white."""
    return Quantise(levels)


def dejpeg(quality: int) -> Operator:
    """Saved as JPEG."""
    return JPEG(quality)


def hdr(gain: float = 2.0) -> Operator:
    """Contrast raised about mid-grey, and clipped at black and white: high dynamic range from a low one."""
    return Clip(gain=gain, pivot=0.5)


# masks that are drawn


def box_mask(height: int, width: int, *, box: tuple[int, int, int, int] | None = None, keep: float = 0.75) -> Tensor:
    """A rectangle is missing, (H, W).

    Args:
        box: its (top, left, height, width); None for one in the middle, of the shape of the picture.
        keep: of that one, the share of pixels that stay, in (0, 1): 0.75 leaves out half of each side.

    Raises:
        ValueError: a box that is empty, leaves the picture or is all of it; keep outside (0, 1).
    """
    if not 0 < keep < 1:
        raise ValueError(f"keep = {keep}; it must lie in (0, 1)")
    if box is None:
        h, w = (min(max(round(n * (1 - keep) ** 0.5), 1), n) for n in (height, width))
        box = (height - h) // 2, (width - w) // 2, h, w
    top, left, h, w = box
    inside = h > 0 and w > 0 and 0 <= top <= height - h and 0 <= left <= width - w
    if not inside or (h, w) == (height, width):
        raise ValueError(
            f"box = {box} as (top, left, height, width); it must lie in a picture of {height} x {width} and leave some"
        )
    mask = torch.ones(height, width, dtype=torch.bool)
    mask[top : top + h, left : left + w] = False
    return mask


def random_mask(height: int, width: int, keep: float, seed: int = 0) -> Tensor:
    """Pixels chosen at random are missing, (H, W): a share `keep`, in (0, 1], stays, rounded, and at least one.

    Raises:
        ValueError: keep outside (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep = {keep}; it must lie in (0, 1]")
    pixels = height * width
    mask = torch.zeros(pixels, dtype=torch.bool)
    mask[_shuffled(pixels, seed)[: max(1, round(keep * pixels))]] = True
    return mask.reshape(height, width)


def text_mask(height: int, width: int, text: str = "scoresde", size: int | None = None) -> Tensor:
    """Lines of text are missing, (H, W): the words, repeated until they fill the picture.

    Args:
        size: of the letters in pixels; None for an eighth of the height, 8 to 32.

    Raises:
        ValueError: a text that leaves no mark, or a size below 4.
    """
    size = min(max(height // 8, 8), 32) if size is None else size
    if size < 4:
        raise ValueError(f"size = {size}; letters need 4 pixels or more")
    if not text.split():
        raise ValueError(f"text = {text!r}; it must hold a letter")
    font, words = ImageFont.load_default(size), cycle(text.split())
    picture = Image.new("1", (width, height))
    draw = ImageDraw.Draw(picture)
    for top in range(0, height, round(1.5 * size)):
        line = next(words)
        while font.getlength(line) < width:
            line += " " + next(words)
        draw.text((0, top), line, fill=1, font=font)
    mask = torch.from_numpy(~np.array(picture, dtype=bool))
    if bool(mask.all()):
        raise ValueError(f"text = {text!r} leaves no mark on a picture of {height} x {width}")
    return mask


def cartesian_mask(height: int, width: int, acceleration: float = 4.0, centre: float = 0.08, seed: int = 0) -> Tensor:
    """Frequencies of accelerated MRI (Zbontar et al. 2018), (H, W) for `mri`, in the order of `torch.fft.fft2`.

    Whole columns, as of a scanner that encodes phase along the width: round(W / acceleration) of them, one at least.

    Args:
        acceleration: one column in so many is measured, >= 1.
        centre: share of the columns, those of the lowest frequencies, that are measured in any case, in [0, 1]; the
            others are chosen at random.
        seed: of that choice, in [0, 2^64).

    Raises:
        ValueError: values out of range, or a centre that is more than all that is measured.
    """
    if not acceleration >= 1:
        raise ValueError(f"acceleration = {acceleration}; it must be 1 or more")
    if not 0 <= centre <= 1 / acceleration:
        raise ValueError(f"centre = {centre}; it must lie in [0, {1 / acceleration:g}], the share that is measured")
    count = max(1, round(width / acceleration))
    low = min(round(centre * width), count)
    by_frequency = torch.fft.fftfreq(width).abs().argsort(stable=True)
    others = by_frequency[low:][_shuffled(width - low, seed)]
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[:, torch.cat([by_frequency[:low], others[: count - low]])] = True
    return mask


def _shuffled(n: int, seed: int) -> Tensor:
    """0 to n - 1 in random order."""
    return uniform(seed, torch.zeros(1, dtype=torch.int64), (n,), dtype=torch.float64)[0].argsort()


# files


def read_mask(path: str | Path, height: int, width: int) -> Tensor:
    """A mask from a picture (bright is kept) or a .npy file (True, or not 0, is kept), (H, W).

    Raises:
        DataError: it cannot be read, is of another size, keeps nothing, or holds more than two values (.npy).
    """
    path = Path(path)
    array = _one(path) if path.suffix.lower() in READERS else read_image(path, 1)[0]
    if array.shape != (height, width):
        raise DataError(
            f"{path}: the mask has the shape {array.shape} and the picture {(height, width)}; cut it to this size, or "
            "draw it anew: a mask is never resized"
        )
    if path.suffix.lower() in READERS:
        values = np.unique(array)
        if len(values) > 2:
            raise DataError(f"{path}: holds {len(values)} values from {values[0]:g} to {values[-1]:g}; a mask has two")
        kept = array != 0
    else:
        kept = array > full_scale(array) / 2
    if not kept.any():
        raise DataError(
            f"{path}: keeps nothing; in a mask what is kept is white, or 1, and what is missing black, or 0"
        )
    return torch.from_numpy(kept)


def read_kernel(path: str | Path, *, normalise: bool = False) -> Tensor:
    """A kernel (h, w) float64 from .npy, .npz, MATLAB's .mat (up to version 7) or a picture.

    Args:
        path: of a file that holds several, `FILE:3` is the fourth and `FILE:name` the one of that name; cell arrays
            count one by one.
        normalise: divide by the sum. Pictures, which have no scale, always are.

    Raises:
        DataError: it cannot be read, or no single kernel is chosen; values that are no numbers or not finite; a sum
            that is not positive, or not 1 and `normalise` was not asked for.
    """
    path, choice = _split(path)
    if path.suffix.lower() in READERS:
        kernel = _one(path, choice).astype(np.float64)
    elif choice is not None:
        raise DataError(f"{path}: is a picture, and so one kernel; leave out :{choice}")
    else:
        picture = read_image(path, 1)[0]
        kernel, normalise = picture / full_scale(picture), True
    total = float(kernel.sum())
    if not total > 0:
        raise DataError(f"{path}: the kernel sums to {total:g}; a blur keeps the brightness, with a sum of 1")
    if normalise:
        kernel = kernel / total
    elif abs(total - 1) > KERNEL_SUM:
        raise DataError(
            f"{path}: the kernel sums to {total:.8g}; a blur keeps the brightness, with a sum of 1: divide it by its "
            "sum and save it again, or in Python say read_kernel(..., normalise=True)"
        )
    return torch.from_numpy(kernel)


def _split(path: str | Path) -> tuple[Path, str | None]:
    """FILE:choice as its two parts, unless there is a file of the whole name."""
    name, colon, choice = str(path).rpartition(":")
    return (Path(path), None) if not colon or Path(path).is_file() else (Path(name), choice)


def _one(path: Path, choice: str | None = None) -> np.ndarray:
    """The chosen array of a file, or the only one: a matrix of finite real numbers."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        # opened here: NumPy leaves a broken file open
        with quiet(), data_errors(), path.open("rb") as stream:
            arrays = READERS[path.suffix.lower()](stream)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if choice is None and len(arrays) != 1:
        raise DataError(f"{path}: holds {_listed(arrays)}; say which: {path.name}:0 is the first")
    names = list(arrays)
    name = names[0] if choice is None else choice
    if name not in arrays and name.isdecimal() and int(name) < len(names):
        name = names[int(name)]
    if name not in arrays:
        raise DataError(f"{path}: there is no {name}; it holds {_listed(arrays)}, the first of which is 0")
    array = arrays[name]
    if array.dtype.kind not in "buif" or array.ndim != 2 or array.size == 0:
        raise DataError(f"{path}: a matrix of real numbers is needed, not {array.dtype} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{path}: {int((~np.isfinite(array)).sum())} of {array.size} values are not finite")
    return array


def _listed(arrays: Mapping[str, np.ndarray]) -> str:
    shown = ", ".join([*arrays][:8]) + (", ..." if len(arrays) > 8 else "")
    return f"{len(arrays)} arrays ({shown})" if arrays else "no arrays"


def _npy(stream: IO[bytes]) -> Mapping[str, np.ndarray]:
    return {"array": np.lib.format.read_array(stream, allow_pickle=False)}


def _npz(stream: IO[bytes]) -> Mapping[str, np.ndarray]:
    with np.load(stream, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _mat(stream: IO[bytes]) -> Mapping[str, np.ndarray]:
    """The numeric variables, and each of a cell array as name[0], name[1], ..."""
    try:
        found = scipy.io.loadmat(stream)
    except NotImplementedError as error:
        raise DataError("is MATLAB 7.3, which is not read; save it with -v7, or as .npy") from error
    arrays: dict[str, np.ndarray] = {}
    for name, value in found.items():
        if isinstance(value, np.ndarray) and value.dtype == object:
            arrays |= {f"{name}[{i}]": np.asarray(cell) for i, cell in enumerate(value.ravel(order="F"))}
        elif isinstance(value, np.ndarray):
            arrays[name] = value
    return arrays


READERS = {".npy": _npy, ".npz": _npz, ".mat": _mat}
