"""What a user may choose about data, in one frozen object that every source understands or refuses."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from scoresde.data.errors import DataError

GIB = 2**30


@dataclass(frozen=True)
class Options:
    """Choices for `open_data`. None means "not asked for".

    n            how many items. Toys and photographs are drawn anew; of a file or folder a random subset of n
                 is kept; together with `crop`, n random crops are shared evenly among the pictures.
    size         side in pixels, or (height, width), of every picture in the end: the largest centred part of
                 that aspect is resized (Lanczos). Applied after `crop`.
    crop         side in pixels, or (height, width), of a randomly placed crop at full resolution.
    channels     1 (grey, Rec. 601 luma) or 3 (grey pictures are repeated). None keeps what the files have.
    downscale    photos only: shrink by this whole factor, so that a small crop shows structure.
    seed         decides subsets, crops and toys; 0 or more.
    background   grey level in [0, 1] that shows through transparent pixels; 1 is white.
    memory_limit bytes that the data set may take; more is refused before reading.
    """

    n: int | None = None
    size: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    channels: int | None = None
    downscale: int | None = None
    seed: int = 0
    background: float = 1.0
    memory_limit: int = 8 * GIB

    def __post_init__(self) -> None:
        if self.n is not None and self.n < 1:
            raise ValueError(f"n must be 1 or more, got {self.n}")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 or 3, got {self.channels}")
        if self.downscale is not None and self.downscale < 1:
            raise ValueError(f"downscale must be 1 or more, got {self.downscale}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        if not 0.0 <= self.background <= 1.0:
            raise ValueError(f"background must lie in [0, 1] (black to white), got {self.background}")
        for word, pair in (("size", self.size_pair), ("crop", self.crop_pair)):
            if pair is not None and min(pair) < 1:
                raise ValueError(f"{word} must be 1 pixel or more, got {pair}")

    @property
    def size_pair(self) -> tuple[int, int] | None:
        """`size` as (height, width)."""
        return None if self.size is None else sides(self.size)

    @property
    def crop_pair(self) -> tuple[int, int] | None:
        """`crop` as (height, width)."""
        return None if self.crop is None else sides(self.crop)

    def refuse_all_but(self, allowed: Iterable[str], name: str) -> None:
        """Raise DataError when a choice was made that means nothing for the data `name`."""
        choices = ("n", "size", "crop", "channels", "downscale")
        asked = [word for word in choices if getattr(self, word) is not None]
        meaningless = [word for word in asked if word not in set(allowed)]
        if meaningless:
            takes = ", ".join((*allowed, "seed"))
            raise DataError(f"{name}: {', '.join(meaningless)} does not apply to this data; it takes {takes}")


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """A side, or (height, width), as (height, width)."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


def choose(available: int, n: int, seed: int, name: str) -> np.ndarray:
    """Indices, increasing, of a random subset of `n` out of `available` items.

    Raises
    ------
    DataError
        if there are fewer than `n` items.
    """
    if n > available:
        raise DataError(f"{name}: n = {n} items were asked for and there are only {available}")
    return np.sort(np.random.default_rng(seed).choice(available, n, replace=False))
