"""An IMAGE as numbers: pictures on the [0, 1] scale of their file, arrays as they are; sizes before contents."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from scoresde.data import DataError, read_image
from scoresde.data.images import probe
from scoresde.recipe import Space

ARRAY, ARCHIVES = ".npy", (".npz", ".mat")
FAR = 6.0  # standard deviations of noise


@dataclass(frozen=True)
class Input:
    """A file that was looked at, its contents still unread.

    Args:
        shape: (C, H, W) of a picture; as it is saved, of an array.
        of_picture: whether the prior is of pictures, so that whole numbers of 8 or 16 bits are grey levels.
    """

    path: Path
    shape: tuple[int, ...]
    of_picture: bool

    @property
    def is_array(self) -> bool:
        return self.path.suffix == ARRAY

    def digest(self) -> str:
        """sha256 of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def read(self) -> Tensor:
        """(*shape) float64; pictures, and grey levels of 8 or 16 bits, from 0 to 1.

        Raises:
            DataError: it cannot be read, or holds values that are not finite.
        """
        array = _open(self.path, mapped=False) if self.is_array else read_image(self.path)
        grey_levels = self.of_picture and array.dtype.kind == "u" and array.dtype.itemsize <= 2
        top = np.iinfo(array.dtype).max if grey_levels else 1
        values = torch.from_numpy(np.asarray(array, dtype=np.float64) / top)
        finite = values.isfinite()
        if not bool(finite.all()):
            where = tuple(int(i) for i in (~finite).nonzero()[0])
            bad = int((~finite).sum())
            raise DataError(f"{self.path}: {bad} of {values.numel()} values are not finite, the first at {where}")
        return values.reshape(self.shape)


def look(path: Path, space: Space) -> Input:
    """The size of a picture or array, from its header.

    Raises:
        DataError: it is missing, broken, or not numbers; UsageError: a picture, where the prior is of arrays.
    """
    if path.suffix == ARRAY:
        shape = _open(path, mapped=True).shape
        # a grey picture is (H, W) to many; (1, M) is what a mask keeps of one
        grey = space.kind == "image" and space.shape[0] == 1 and len(shape) == 2 and shape[0] > 1
        return Input(path, (1, *shape) if grey else shape, space.kind == "image")
    if space.kind != "image":
        raise click.UsageError(f"{path}: this prior is of arrays of shape {space.shape}; save what you have as .npy")
    if path.suffix in ARCHIVES:
        raise DataError(f"{path}: of arrays only {ARRAY} files are read; save the one that you mean with numpy.save")
    try:
        with path.open("rb") as stream:
            header = probe(stream)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Input(path, (header.channels, header.height, header.width), True)


def _open(path: Path, *, mapped: bool) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a NumPy array: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif" or array.size == 0:
        raise DataError(
            f"{path}: real numbers are needed, and at least one; it holds {getattr(array, 'dtype', 'more')}"
        )
    return array


def check_scale(path: Path, values: Tensor, sigma: float) -> None:
    """Refuse what cannot be a picture on the scale [0, 1], or one of its measurements, with noise of that size.

    Raises:
        DataError: it lies far outside.
    """
    low, high, far = float(values.min()), float(values.max()), 1.0 + FAR * sigma
    if low < -far or high > 1.0 + far:
        raise DataError(
            f"{path}: holds values from {low:.4g} to {high:.4g}, and pictures are on the scale [0, 1]; divide them by "
            "255, or by what white is"
        )


def check_shape(path: Path, shape: tuple[int, ...], space: Space) -> None:
    """Refuse samples that the prior knows nothing of; pictures of another size are none of these.

    Raises:
        UsageError: other channels, or arrays of another shape.
    """
    trained = space.shape
    if shape == trained:
        return
    if space.kind != "image" or len(shape) != 3:
        raise click.UsageError(
            f"{path}: x would have the shape {shape}, and the prior is of samples of shape {trained}"
        )
    if shape[0] != trained[0] and path.suffix == ARRAY:
        raise click.UsageError(
            f"{path}: x would have the shape {shape}, and the prior is of pictures of shape {trained}: channels come "
            "first, (C, H, W); of (H, W, C) save x.transpose(2, 0, 1)"
        )
    if shape[0] != trained[0]:
        words = {1: "grey (1 channel)", 3: "colour (3 channels)"}
        theirs, ours = (words.get(c, f"of {c} channels") for c in (shape[0], trained[0]))
        raise click.UsageError(
            f"{path} is {theirs}, and the prior was trained on pictures that are {ours}; convert it first, with "
            f"Pillow: Image.open({path.name!r}).convert({'L' if trained[0] == 1 else 'RGB'!r}).save('converted.png')"
        )
