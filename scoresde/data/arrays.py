"""NumPy arrays, in memory or in `.npy` and `.npz` files, as data sets.

Whole numbers of 8 or 16 unsigned bits in the shape of pictures, (N, H, W), (N, C, H, W) or (N, H, W, C) with
C = 1, 3 or 4, are pictures; where both orders of axes would fit, channels come first. All else is N items
of any shape, as float32 and otherwise as they are: vectors (N, D), signals (N, C, L), float images; N bare
numbers become N items of shape (1,). Pickled objects are never loaded.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from scoresde.data.assemble import assemble
from scoresde.data.dataset import Dataset
from scoresde.data.errors import DataError, check_memory
from scoresde.data.files import open_zip
from scoresde.data.images import Header, data_errors, quiet
from scoresde.data.options import Options, choose
from scoresde.data.pixels import composite

DATA_KEYS = ("x", "data", "images", "arr_0")
LABEL_KEYS = ("y", "labels")
EXACT_IN_FLOAT32 = 2**24


def read_npy(path: Path, options: Options) -> Dataset:
    """A `.npy` file as a data set.

    Raises
    ------
    DataError
        if it is truncated, too large, holds objects or text, or its values or shape cannot be used.
    """
    with path.open("rb") as stream:
        array = _read_array(stream, path.stat().st_size, options.memory_limit, str(path))
    return from_array(array, name=str(path), options=options)


def read_npz(path: Path, options: Options) -> Dataset:
    """The data in an `.npz` file: key x, data, images or arr_0, or the only key; labels from y or labels.

    Raises
    ------
    DataError
        if no key can be chosen (the keys are listed), and as `read_npy`.
    """
    with open_zip(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}

        def read(key: str) -> np.ndarray:
            where = f"{path}, key {key!r}"
            with data_errors(), archive.open(members[key]) as stream:
                return _read_array(stream, members[key].file_size, options.memory_limit, where)

        array = read(_data_key(list(members), str(path)))
        label_key = next((key for key in LABEL_KEYS if key in members), None)
        labels = None if label_key is None else read(label_key)
    return from_array(array, labels, name=str(path), options=options)


def from_array(
    array: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    name: str = "array",
    options: Options | None = None,
) -> Dataset:
    """N items in an array, (N, *), with optional whole-number labels, (N,) or (N, 1), as a data set.

    Pictures obey the size, crop, channels and n of `options`; other arrays obey n alone.

    Raises
    ------
    DataError
        if it is empty, not numeric, holds NaN or infinity or whole numbers beyond 2^24 that float32 would
        round, looks like one single picture, or its labels do not fit.
    """
    options = options or Options()
    if array.dtype.kind not in "buif":
        raise DataError(f"{name}: values of type {array.dtype} are not read; save real numbers")
    if array.ndim == 0 or array.size == 0:
        raise DataError(f"{name}: holds no items, its shape is {array.shape}")
    labels = None if labels is None else _checked_labels(labels, len(array), name)
    pictures = as_pictures(array, name)
    if pictures is not None:
        return from_pictures(pictures, labels, name, options)
    options.refuse_all_but(("n",), f"{name} (an array of {array.dtype} {array.shape[1:]})")
    data = Dataset(_as_float32(array, options.memory_limit, name), "array", name, labels=labels)
    return data if options.n is None else data.take(choose(len(data), options.n, options.seed, name))


def as_pictures(array: np.ndarray, name: str) -> np.ndarray | None:
    """The array as (N, 1, 3 or 4, H, W) uint8 or uint16 when that is what it holds, else None."""
    if array.dtype.kind != "u" or array.dtype.itemsize > 2:
        return None
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 3:
        if array.shape[-1] in (3, 4) and min(array.shape[:2]) > 4:
            raise DataError(
                f"{name}: an array of shape {array.shape} looks like one picture; a data set is (N, H, W), "
                "(N, H, W, C) or (N, C, H, W)"
            )
        return array[:, None]
    if array.ndim == 4 and array.shape[1] in (1, 3, 4):
        return array
    if array.ndim == 4 and array.shape[-1] in (1, 3, 4):
        return array.transpose(0, 3, 1, 2)
    return None


def from_pictures(
    pictures: np.ndarray,
    labels: np.ndarray | None,
    name: str,
    options: Options,
    *,
    value_range: tuple[int, int] | None = None,
    class_names: Sequence[str] = (),
) -> Dataset:
    """Pictures (N, 1, 3 or 4, H, W) uint8 or uint16 as a data set, cropped and resized as asked.

    A fourth channel is alpha. The value range is that of the type unless one is given.
    """
    options.refuse_all_but(("n", "size", "crop", "channels"), name)
    value_range = value_range or (0, int(np.iinfo(pictures.dtype).max))
    if options.n is not None and (options.crop is None or options.n < len(pictures)):
        chosen = choose(len(pictures), options.n, options.seed, name)
        pictures, labels = pictures[chosen], None if labels is None else labels[chosen]
    channels, height, width = pictures.shape[1:]
    unchanged = options.crop is None and options.size is None and options.channels in (None, channels)
    if unchanged and channels != 4:
        array = np.ascontiguousarray(pictures)
        return Dataset(array, "image", name, value_range, labels, tuple(class_names))

    def load(i: int) -> np.ndarray:
        return composite(pictures[i], options.background) if channels == 4 else pictures[i]

    header = Header(height, width, 1 if channels == 1 else 3, pictures.dtype)
    keys = [str(i) for i in range(len(pictures))]
    made = assemble(load, [header] * len(pictures), keys, options, name)
    labels = None if labels is None else labels[made.owner]
    return Dataset(made.array, "image", name, value_range, labels, tuple(class_names))


def _read_array(stream: IO[bytes], length: int, limit: int, name: str) -> np.ndarray:
    """Read the npy format, checking its header first: NumPy allocates whatever a header claims."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with quiet(), data_errors():
            version = np.lib.format.read_magic(stream)
            if version not in readers:
                raise DataError(f"npy format {version} is not read")
            shape, _, dtype = readers[version](stream)
            if dtype.hasobject:
                raise DataError("holds Python objects (a pickle), which are never loaded; save plain numbers")
            n_bytes = int(np.prod([dtype.itemsize, *shape], dtype=object))
            if n_bytes > length - stream.tell():
                raise DataError(f"is truncated: shape {shape} of {dtype} needs {n_bytes} bytes")
            check_memory(n_bytes, limit, "it", "keep fewer items in the file")
            stream.seek(0)
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def _data_key(keys: Sequence[str], name: str) -> str:
    others = [key for key in keys if key not in LABEL_KEYS]
    known = [key for key in DATA_KEYS if key in others]
    if known or len(others) == 1:
        return (known or others)[0]
    raise DataError(
        f"{name}: cannot tell which array is the data: name it one of {', '.join(DATA_KEYS)}; "
        f"found {', '.join(keys) or 'none'}"
    )


def _as_float32(array: np.ndarray, limit: int, name: str) -> np.ndarray:
    """N items of any shape as float32, refusing whole numbers that would be rounded."""
    check_memory(array.size * 4, limit, name, "keep fewer items in the file")
    if array.dtype.kind in "iu" and array.dtype.itemsize > 2:
        low, high = int(array.min()), int(array.max())
        if max(-low, high) > EXACT_IN_FLOAT32:
            raise DataError(
                f"{name}: whole numbers from {low} to {high} are not exact in float32; "
                "scale them and save as floating point"
            )
    with np.errstate(over="ignore"):
        floats = np.ascontiguousarray(array, dtype=np.float32)
    return floats[:, None] if floats.ndim == 1 else floats


def _checked_labels(labels: np.ndarray, count: int, name: str) -> np.ndarray:
    if labels.dtype.kind not in "biu" or labels.size != count or labels.shape[:1] != (count,):
        raise DataError(
            f"{name}: labels must be {count} whole numbers, one for each item, "
            f"got {labels.dtype} of shape {labels.shape}"
        )
    return labels.reshape(count).astype(np.int64)
