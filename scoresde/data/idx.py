"""The IDX format of the MNIST files, plain or compressed with gzip.

    0x00 0x00, type code, number of dimensions d; d sizes, 4 bytes each; the values. All big-endian.

The labels that go with `...-images-idx3-ubyte` are looked for beside it, as `...-labels-idx1-ubyte`.
"""

import gzip
import math
import re
from pathlib import Path
from typing import IO

import numpy as np

from scoresde.data.arrays import from_array
from scoresde.data.dataset import Dataset
from scoresde.data.errors import DataError, check_memory
from scoresde.data.images import data_errors
from scoresde.data.options import Options

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path, options: Options) -> Dataset:
    """An IDX file, and the labels beside it if there are any, as a data set.

    Raises
    ------
    DataError
        if the header or the length is wrong, it holds labels instead of items, or is too large.
    """
    array = read_idx_array(path, options.memory_limit)
    if array.ndim == 1:
        raise DataError(f"{path}: holds {len(array)} labels or numbers, not items; name the images file")
    beside = labels_beside(path)
    labels = None if beside is None else read_idx_array(beside, options.memory_limit)
    return from_array(array, labels, name=str(path), options=options)


def read_idx_array(path: Path, memory_limit: int) -> np.ndarray:
    """The array in an IDX file, in this machine's byte order; gzip is known by its content, not its name."""
    try:
        with data_errors(), path.open("rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            if not zipped:
                return _parse(raw, memory_limit)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _parse(stream, memory_limit)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def labels_beside(path: Path) -> Path | None:
    """The labels file that goes with one of images by MNIST's naming, with or without .gz, if it exists."""
    name, found = re.subn(r"images([-.])idx3-ubyte", r"labels\1idx1-ubyte", path.name)
    if not found:
        return None
    plain = name.removesuffix(".gz")
    candidates = (path.with_name(name), path.with_name(plain), path.with_name(plain + ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _parse(stream: IO[bytes] | gzip.GzipFile, memory_limit: int) -> np.ndarray:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or magic[3] == 0:
        raise DataError(f"is not an IDX file: it starts with {magic.hex(' ') or 'nothing'}")
    dtype, n_dims = np.dtype(TYPES[magic[2]]), magic[3]
    sizes = stream.read(4 * n_dims)
    if len(sizes) < 4 * n_dims:
        raise DataError("is truncated within the IDX header")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    n_bytes = math.prod(shape) * dtype.itemsize
    check_memory(n_bytes, memory_limit, "it", "keep fewer items in the file")
    # one byte more than the header promises, and never all of what gzip would unpack
    data = stream.read(n_bytes + 1)
    if len(data) != n_bytes:
        amount = "more" if len(data) > n_bytes else f"only {len(data)}"
        raise DataError(f"its IDX header promises {n_bytes} bytes of {shape}, and there are {amount}")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
