"""A data set in memory: N items of one shape, kept in the smallest type that holds them exactly.

Pictures stay the whole numbers that their files hold (uint8, uint16), channels first, and become floats in
[-1, 1] only when a batch is asked for. Everything else is float32 and handed out as it is: scaling is the
caller's choice, for which `standardise` gives the two numbers.
"""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from scoresde.data.errors import DataError

Kind = Literal["image", "array"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """N items with, perhaps, a class label each.

    array        (N, C, H, W) uint8 or uint16 with C = 1 or 3 for pictures; (N, *shape) float32 otherwise.
    kind         "image" or "array".
    name         what the user called it.
    value_range  pictures: the stored values that mean black and white, such as (0, 255), (0, 65535), or
                 (0, 16) for scikit-learn's digits. None for arrays.
    labels       (N,) int64, 0 or more, or None.
    class_names  name of each label where known, else empty.
    skipped      (file, reason) for each file that could not be used.

    Raises
    ------
    DataError
        if values are NaN or infinite (their count and the first index are named), or shapes, types, labels
        and range do not fit together.
    """

    array: np.ndarray = field(repr=False)
    kind: Kind
    name: str
    value_range: tuple[int, int] | None = None
    labels: np.ndarray | None = field(default=None, repr=False)
    class_names: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "image":
            self._check_images()
        else:
            self._check_arrays()
        if self.labels is not None:
            self._check_labels(self.labels)

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one item: (C, H, W) for pictures."""
        return self.array.shape[1:]

    @property
    def levels(self) -> int | None:
        """How many values a stored pixel may take (256 for 8 bits, 65536 for 16); None for arrays."""
        if self.value_range is None:
            return None
        low, high = self.value_range
        return high - low + 1

    def batch(self, indices: ArrayLike | torch.Tensor) -> torch.Tensor:
        """The items at `indices` (B,) as float32 (B, *shape): pictures in [-1, 1], arrays as they are.

        An 8-bit value v becomes v / 127.5 - 1, so 0 is -1 and 255 is 1 exactly.
        """
        values = torch.from_numpy(self.array[np.asarray(indices)].astype(np.float32))
        if self.value_range is None:
            return values
        low, high = self.value_range
        return (values - low) / ((high - low) / 2) - 1

    def take(self, indices: ArrayLike) -> "Dataset":
        """The data set of the items at `indices` (n,) alone, in that order, with their labels."""
        chosen = np.asarray(indices, dtype=np.int64)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, array=self.array[chosen], labels=labels)

    def _check_images(self) -> None:
        if self.array.dtype not in (np.uint8, np.uint16):
            raise DataError(f"{self.name}: pictures must be uint8 or uint16, got {self.array.dtype}")
        if self.array.ndim != 4 or self.array.shape[1] not in (1, 3) or 0 in self.array.shape[1:]:
            raise DataError(f"{self.name}: pictures must be (N, 1 or 3, H, W), got {self.array.shape}")
        if self.value_range is None or self.value_range[0] >= self.value_range[1]:
            raise DataError(f"{self.name}: pictures need a value range (low, high), got {self.value_range}")

    def _check_arrays(self) -> None:
        if self.array.dtype != np.float32:
            raise DataError(f"{self.name}: arrays must be float32, got {self.array.dtype}")
        if self.array.ndim < 2 or 0 in self.array.shape[1:]:
            raise DataError(f"{self.name}: arrays must be (N, *shape), got {self.array.shape}")
        wrong = ~np.isfinite(self.array)
        if wrong.any():
            first = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
            raise DataError(
                f"{self.name}: {int(wrong.sum())} values are NaN or infinite as float32, "
                f"the first at index {first}; remove or replace them"
            )

    def _check_labels(self, labels: np.ndarray) -> None:
        if labels.shape != (len(self),) or labels.dtype != np.int64:
            raise DataError(
                f"{self.name}: labels must be {len(self)} int64 numbers, one for each item, "
                f"got {labels.dtype} of shape {labels.shape}"
            )
        top = len(self.class_names) - 1 if self.class_names else None
        if len(labels) and (labels.min() < 0 or (top is not None and labels.max() > top)):
            allowed = "0 or more" if top is None else f"in 0 to {top}"
            raise DataError(f"{self.name}: labels must be {allowed}, got {labels.min()} to {labels.max()}")


def standardise(array: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of all the values of `array` (N, *), in float64.

    One pair of numbers for the whole array keeps the geometry of the data: (x - mean) / std.

    Raises
    ------
    DataError
        if there are no values, or all are equal, so that no scale exists.
    """
    if array.size == 0:
        raise DataError("cannot standardise an empty array")
    # item by item: a float64 copy of the whole would take twice the memory of the data
    mean = sum(float(item.sum(dtype=np.float64)) for item in array) / array.size
    total = sum(float(np.square(item.astype(np.float64) - mean).sum()) for item in array)
    std = float(np.sqrt(total / array.size))
    if std == 0.0:
        raise DataError(f"cannot standardise: all {array.size} values equal {mean:g}")
    return mean, std
