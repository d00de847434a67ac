"""Many pictures into one array: crops, sizes, channels and depth made alike, with bounded memory.

All headers are known before the first picture is decoded, so that the array is allocated once, at its final
size, and everything that can be refused is refused early. Pictures are decoded by a few threads, each into
its own rows; row r belongs to picture r mod P, so the result depends neither on threads nor on timing.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from itertools import repeat

import numpy as np

from scoresde.data.errors import DataError, check_memory
from scoresde.data.images import Header
from scoresde.data.options import Options
from scoresde.data.pixels import fit, widen, with_channels

Load = Callable[[int], np.ndarray]
WORKERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Assembled:
    """The pictures, (N, C, H, W); which picture each row came from, (N,); (picture, reason) of failures."""

    array: np.ndarray
    owner: np.ndarray
    failures: tuple[tuple[int, str], ...]


def assemble(load: Load, headers: Sequence[Header], keys: Sequence[str], options: Options, name: str) -> Assembled:
    """Decode picture i by `load(i)`, for each of `headers`, and bring all to one shape and type.

    keys  a name for each picture that, with the seed, decides where its crops lie.

    A DataError raised by `load` is a failure of that picture alone.

    Raises
    ------
    DataError
        if the pictures differ in size and neither size nor crop was asked for, are smaller than the crop, or
        would need more memory than allowed.
    """
    shape, dtype = _layout(headers, options, name)
    rows = options.n if options.crop is not None and options.n is not None else len(headers)
    n_bytes = rows * math.prod(shape) * dtype.itemsize
    check_memory(n_bytes, options.memory_limit, name, "ask for a smaller size, crop or n")
    array = np.empty((rows, *shape), dtype)

    def fill(i: int) -> str | None:
        mine = range(i, rows, len(headers))
        try:
            picture = load(i)
            if picture.shape[1:] != (headers[i].height, headers[i].width):
                raise DataError("its size is not what its header says")
            picture = widen(picture, dtype)
            for row, part in zip(mine, _parts(picture, keys[i], len(mine), options), strict=True):
                array[row] = with_channels(part, shape[0])
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(WORKERS) as pool:
        reasons = list(pool.map(fill, range(len(headers))))
    failures = tuple((i, reason) for i, reason in enumerate(reasons) if reason is not None)
    return _without(array, len(headers), failures)


def _layout(headers: Sequence[Header], options: Options, name: str) -> tuple[tuple[int, int, int], np.dtype]:
    """The one shape (C, H, W) and type that all pictures are brought to."""
    sizes = Counter((header.height, header.width) for header in headers)
    size, crop = options.size_pair, options.crop_pair
    if crop is not None:
        small = sum(count for (h, w), count in sizes.items() if h < crop[0] or w < crop[1])
        if small:
            raise DataError(
                f"{name}: a crop of {crop[1]}x{crop[0]} pixels does not fit {small} of {len(headers)} "
                f"pictures; the sizes are {_listed(sizes)}; give a smaller --crop, or --size instead"
            )
    elif size is None and len(sizes) > 1:
        raise DataError(
            f"{name}: pictures of {len(sizes)} sizes (width x height): {_listed(sizes)}; "
            "give --size to bring them to one, or --crop"
        )
    height, width = size or crop or next(iter(sizes))
    channels = options.channels or max(header.channels for header in headers)
    return (channels, height, width), max((header.dtype for header in headers), key=lambda d: d.itemsize)


def _listed(sizes: Counter[tuple[int, int]], at_most: int = 6) -> str:
    listed = [f"{w}x{h} ({count})" for (h, w), count in sizes.most_common(at_most)]
    return ", ".join(listed) + (", ..." if len(sizes) > at_most else "")


def _parts(picture: np.ndarray, key: str, count: int, options: Options) -> Iterator[np.ndarray]:
    """`count` random crops of a picture (or the picture), each resized as asked."""
    crop, size = options.crop_pair, options.size_pair
    parts = repeat(picture, count) if crop is None else _crops(picture, crop, key, count, options.seed)
    return iter(parts) if size is None else (fit(part, size) for part in parts)


def _crops(picture: np.ndarray, crop: tuple[int, int], key: str, count: int, seed: int) -> Iterator[np.ndarray]:
    # seeded by the picture's own name: its crops stay when other files come or go
    digest = blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest, "little")])
    ways = [side - part + 1 for side, part in zip(picture.shape[1:], crop, strict=True)]
    corners = generator.integers(0, ways, size=(count, 2))
    return (picture[:, y : y + crop[0], x : x + crop[1]] for y, x in corners)


def _without(array: np.ndarray, pictures: int, failures: tuple[tuple[int, str], ...]) -> Assembled:
    """Close the gaps that failed pictures left, in place: no second copy of a large array."""
    owner = np.arange(len(array)) % pictures
    kept = np.flatnonzero(~np.isin(owner, [i for i, _ in failures]))
    if failures:
        for to, row in enumerate(kept):
            array[to] = array[row]
    return Assembled(array[: len(kept)], owner[kept], failures)
