"""From what a user calls DATA to a data set: a name in `SOURCES`, or a path, whose content decides.

A caller adds names by handing a longer dictionary to `open_data`. A name wins over a file of that name, which
is reached as ./name.
"""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from scoresde.data import toys
from scoresde.data.arrays import read_npy, read_npz
from scoresde.data.bundled import digits, photos
from scoresde.data.dataset import Dataset
from scoresde.data.errors import DataError, check_memory
from scoresde.data.files import open_zip, read_folder, read_zip
from scoresde.data.idx import GZIP_MAGIC, read_idx
from scoresde.data.images import SUFFIXES
from scoresde.data.options import Options

Source = Callable[[Options], Dataset]

TOY_POINTS = 20_000
NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK"
KINDS = "a folder or zip of images, a .npy or .npz array, or an IDX file (.gz too)"


def _toy(name: str, draw: Callable[[int, int], np.ndarray], options: Options) -> Dataset:
    options.refuse_all_but(("n",), name)
    n = options.n or TOY_POINTS
    check_memory(16 * n, options.memory_limit, name, "ask for a smaller n")
    return Dataset(draw(n, options.seed), "array", name)


def _photos(options: Options) -> Dataset:
    options.refuse_all_but(("n", "size", "crop", "channels", "downscale"), "photos")
    if options.size is not None and options.crop is not None:
        raise DataError("photos: size and crop mean the same here; give one, and downscale to shrink")
    return photos(
        options.n or 4096,
        options.size or options.crop or 32,
        options.channels or 3,
        options.seed,
        options.downscale or 1,
    )


SOURCES: dict[str, Source] = {
    "digits": digits,
    "photos": _photos,
    "moons": partial(_toy, "moons", toys.moons),
    "checkerboard": partial(_toy, "checkerboard", toys.checkerboard),
    "swissroll": partial(_toy, "swissroll", toys.swissroll),
    "rings": partial(_toy, "rings", toys.rings),
}


def open_data(data: str | Path, options: Options | None = None, *, sources: Mapping[str, Source] = SOURCES) -> Dataset:
    """Open what `data` names: one of `sources`, or the path of data of a kind in `KINDS`.

    options  see `Options`; the default asks for everything as it is, with seed 0.

    Raises
    ------
    DataError
        if there is no such name or path (the nearest names are suggested), an option means nothing for this
        data, or the data cannot be used.
    """
    options = options or Options()
    if isinstance(data, str) and data in sources:
        return sources[data](options)
    path = Path(data)
    if path.is_dir():
        return read_folder(path, options)
    if path.is_file():
        return _reader(path)(path, options)
    near = difflib.get_close_matches(str(data), sources, n=2)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise DataError(f"{data}: no such data{hint} DATA is one of {', '.join(sources)}, or {KINDS}")


def _reader(path: Path) -> Callable[[Path, Options], Dataset]:
    """The function that reads this file, chosen by how the file begins."""
    try:
        with path.open("rb") as stream:
            head = stream.read(8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    if head.startswith(NPY_MAGIC):
        return read_npy
    if head.startswith(ZIP_MAGIC):
        return read_npz if _is_npz(path) else read_zip
    if head.startswith((GZIP_MAGIC, b"\0\0")):
        return read_idx
    if path.suffix.lower() in SUFFIXES:
        raise DataError(f"{path}: is one picture; put it in a folder, and name the folder")
    raise DataError(f"{path}: is none of the kinds read: {KINDS}")


def _is_npz(path: Path) -> bool:
    with open_zip(path) as archive:
        names = archive.namelist()
    return path.suffix.lower() == ".npz" or (bool(names) and all(name.endswith(".npy") for name in names))
