"""A folder, or a zip, of pictures.

Files are taken by their suffix, recursively, sorted by path; hidden ones and `__MACOSX` are passed over. When
every picture lies in a subfolder (below whatever leading folders they all share), the names of the subfolders
are the classes. A zip is read in place, and gives exactly what its unpacked folder gives.
"""

import os
import stat
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from operator import eq
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np

from scoresde.data.assemble import WORKERS, assemble
from scoresde.data.dataset import Dataset
from scoresde.data.errors import DataError
from scoresde.data.images import SUFFIXES, Header, data_errors, decode, probe, quiet
from scoresde.data.options import Options, choose

MAX_FILE_BYTES = 640_000_000  # as many pixels as are allowed, of four 16-bit channels, and a little
MAX_BROKEN = 0.1


@dataclass(frozen=True)
class Entry:
    """A file that may be opened: its path below the folder or in the zip, and how to open it."""

    name: str
    open: Callable[[], IO[bytes]]


def read_folder(path: Path, options: Options) -> Dataset:
    """All pictures below a folder as a data set; see `read_pictures` for what is raised."""

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    names = []
    for folder, _, files in os.walk(path, onerror=refuse):
        names += [Path(folder, file).relative_to(path).as_posix() for file in files]
    entries = [Entry(name, partial(_open_file, path / name)) for name in names]
    return read_pictures(entries, options, str(path))


def read_zip(path: Path, options: Options) -> Dataset:
    """All pictures in a zip as a data set; DataError too when it is truncated or encrypted."""
    with open_zip(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        entries = [Entry(info.filename, partial(_open_member, archive, info)) for info in members]
        return read_pictures(entries, options, str(path))


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip and read its table of contents; DataError when it is truncated or encrypted."""
    try:
        with data_errors():
            archive = zipfile.ZipFile(path)
    except DataError as error:
        raise DataError(f"{path}: is not a whole zip file: {error}") from error
    if any(info.flag_bits & 1 for info in archive.infolist()):
        archive.close()
        raise DataError(f"{path}: is encrypted; unpack it first")
    return archive


def read_pictures(entries: Sequence[Entry], options: Options, name: str) -> Dataset:
    """Decode the pictures among `entries` into one data set.

    With options.n and no crop, n randomly chosen files are read; with a crop, n random crops are shared
    evenly. A broken file is left out and listed in `skipped`.

    Raises
    ------
    DataError
        if there is no picture, more than a tenth are broken, sizes differ without size or crop, or it would
        take too much memory.
    """
    options.refuse_all_but(("n", "size", "crop", "channels"), name)
    pictures = sorted((entry for entry in entries if _is_picture(entry.name)), key=lambda entry: entry.name)
    if not pictures:
        found = ", ".join(sorted(entry.name for entry in entries)[:5]) or "nothing"
        raise DataError(f"{name}: no pictures in it ({' '.join(sorted(SUFFIXES))}); found {found}")
    labels, class_names = _classes([entry.name for entry in pictures])
    pictures, labels = _chosen(pictures, labels, options, name)

    with quiet():
        with ThreadPoolExecutor(WORKERS) as pool:
            probed = list(pool.map(_probed, pictures))
        headers = [header for header in probed if isinstance(header, Header)]
        good = [i for i, header in enumerate(probed) if isinstance(header, Header)]
        skipped = [(pictures[i].name, reason) for i, reason in enumerate(probed) if isinstance(reason, str)]
        _refuse_many(skipped, len(pictures), name)

        def load(i: int) -> np.ndarray:
            return _decoded(pictures[good[i]], options.background)

        made = assemble(load, headers, [pictures[i].name for i in good], options, name)

    skipped += [(pictures[good[i]].name, reason) for i, reason in made.failures]
    _refuse_many(skipped, len(pictures), name)
    return Dataset(
        made.array,
        "image",
        name,
        value_range=(0, int(np.iinfo(made.array.dtype).max)),
        labels=None if labels is None else labels[np.array(good)[made.owner]],
        class_names=class_names,
        skipped=tuple(sorted(skipped)),
    )


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    passed_over = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not passed_over


def _classes(names: Sequence[str]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Label of each file and the class names, from the first folder that is not shared by all of them."""
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    first, last = min(folders), max(folders)
    shared = sum(takewhile(bool, map(eq, first, last)))
    if any(len(folder) == shared for folder in folders):
        return None, ()
    classes = sorted({folder[shared] for folder in folders})
    label = {name: i for i, name in enumerate(classes)}
    return np.array([label[folder[shared]] for folder in folders], dtype=np.int64), tuple(classes)


def _chosen(
    pictures: list[Entry], labels: np.ndarray | None, options: Options, name: str
) -> tuple[list[Entry], np.ndarray | None]:
    """The files to read when fewer than all are asked for."""
    if options.n is None or (options.crop is not None and options.n >= len(pictures)):
        return pictures, labels
    chosen = choose(len(pictures), options.n, options.seed, name)
    return [pictures[i] for i in chosen], None if labels is None else labels[chosen]


def _open_file(path: Path) -> IO[bytes]:
    status = path.stat()
    # a named pipe would wait for ever
    if not stat.S_ISREG(status.st_mode):
        raise DataError("not a regular file")
    _check_length(status.st_size)
    return path.open("rb")


def _open_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    _check_length(info.file_size)
    return archive.open(info)


def _check_length(n_bytes: int) -> None:
    if n_bytes > MAX_FILE_BYTES:
        raise DataError(f"its {n_bytes:,} bytes are more than the limit of {MAX_FILE_BYTES:,}")


def _probed(entry: Entry) -> Header | str:
    """The header of a picture, or the reason why there is none."""
    try:
        with data_errors(), entry.open() as stream:
            return probe(stream)
    except DataError as error:
        return str(error)


def _decoded(entry: Entry, background: float) -> np.ndarray:
    with data_errors(), entry.open() as stream:
        data = stream.read()
    return decode(data, background=background)


def _refuse_many(skipped: Sequence[tuple[str, str]], total: int, name: str) -> None:
    if len(skipped) > MAX_BROKEN * total:
        first = "; ".join(f"{file}: {reason}" for file, reason in sorted(skipped)[:3])
        raise DataError(
            f"{name}: {len(skipped)} of {total} pictures cannot be used, "
            f"and at most {MAX_BROKEN:.0%} may be skipped. First: {first}"
        )
