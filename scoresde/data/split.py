"""Training and held-out items, told apart by content.

The side of an item is decided by a hash of its own values and the seed, and by nothing else: a duplicate
falls on the same side as its twin, so held-out items are never also trained on; the order of the items does
not matter; adding items moves no others; and every machine agrees.
"""

from hashlib import blake2b

import numpy as np

from scoresde.data.dataset import Dataset

HASH_BITS = 64


def split(dataset: Dataset, held_out: float = 0.05, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Split into (training, held-out) data, each item held out with probability `held_out`.

    held_out  expected share of distinct items, in (0, 1); the actual one varies as a coin toss would.

    As long as there are two distinct items, neither side is empty: the item with the smallest (or largest)
    hash, and its duplicates, is moved over when needed. If all items are equal, all are for training.

    Raises
    ------
    ValueError
        if `held_out` is not in (0, 1) or `seed` is not in [0, 2^64).
    """
    if not 0.0 < held_out < 1.0:
        raise ValueError(f"held_out must lie between 0 and 1 (0.05 is usual), got {held_out}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must lie in [0, 2^64), got {seed}")
    hashes = _hashes(dataset.array, seed)
    threshold = np.uint64(int(held_out * 2**HASH_BITS))
    held = (hashes < threshold) | (hashes == hashes.min(initial=2**HASH_BITS - 1))
    # also what leaves everything for training when all items are equal
    held &= hashes != hashes.max(initial=0)
    return dataset.take(np.flatnonzero(~held)), dataset.take(np.flatnonzero(held))


def _hashes(array: np.ndarray, seed: int) -> np.ndarray:
    """A 64-bit hash of each item's values, little-endian, keyed by the seed: (N,) uint64."""
    key = seed.to_bytes(8, "little")
    little = array.dtype.newbyteorder("<")

    def digest(item: np.ndarray) -> int:
        values = np.ascontiguousarray(item, dtype=little).tobytes()
        return int.from_bytes(blake2b(values, digest_size=HASH_BITS // 8, key=key).digest(), "little")

    return np.array([digest(item) for item in array], dtype=np.uint64)
