"""Feature spaces: what samples are looked at in, when their law is not known.

Pictures are seen through a function of pictures (n, C, H, W) in [0, 1]: a LeNet (`metrics.load_features`), anybody's
own, or a small network trained on the data (`feature_net.py`). Arrays of few numbers are their own features, each over
its standard deviation; longer ones are seen through their principal components.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ITEMS_AT_ONCE = 500
FEW = 64  # numbers of an array that is its own features, and principal components of longer ones


@dataclass(frozen=True, eq=False)
class Features:
    """A map from items (n, *) in the model's units to features (n, F), float64.

    Args:
        function: of at most 500 items at once; for a sample of a batch it must not look at the others.
        about: what they are, for people.
        headline: the measure of a judge that suits them: the Frechet distance for features of pictures, which are many
            and have one hump, the sliced Wasserstein distance for data that are their own features.
    """

    function: Callable[[Tensor], Tensor]
    about: str
    headline: str

    @torch.no_grad()
    def __call__(self, items: Tensor) -> Tensor:
        """Features of items (n, *), n >= 1.

        Raises:
            ValueError: no items, or features that are not (n, F) or not finite.
        """
        if len(items) == 0:
            raise ValueError("there are no items to take features of")
        found = torch.cat([self._checked(part) for part in items.split(ITEMS_AT_ONCE)])
        if not bool(found.isfinite().all()):
            i = int((~found.isfinite()).any(1).nonzero()[0])
            raise ValueError(f"the features of item {i} are not finite ({self.about})")
        return found

    def _checked(self, part: Tensor) -> Tensor:
        found = self.function(part)
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(part) or found.shape[1] == 0:
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"features of {len(part)} items must be ({len(part)}, F), got {shape} ({self.about})")
        return found.detach().double().cpu()


def picture_features(
    function: Callable[[Tensor], Tensor], about: str, data_range: tuple[float, float] = (-1.0, 1.0)
) -> Features:
    """Features of pictures (n, C, H, W) whose black and white are `data_range`, by a function of pictures in [0, 1].

    What lies outside of the range is cut off, as it is when a picture is saved.
    """
    low, high = data_range
    return Features(lambda x: function(((x.float() - low) / (high - low)).clamp(0.0, 1.0)), about, "frechet")


def array_features(train: Tensor, named: str = "the training data") -> Features:
    """Arrays (n, *) as they are, each entry over its standard deviation in train (N, *), N >= 2.

    With more than 64 entries: the first 64 principal components of the training data, over the root mean square of
    their standard deviations. They see nothing of what the data never do.

    Args:
        named: what `train` is, for people.

    Raises:
        ValueError: fewer than two items.
    """
    if len(train) < 2:
        raise ValueError(f"{len(train)} training items; the scale of features needs 2 or more")
    flat = train.flatten(1).double().cpu()
    mean = flat.mean(0)
    if flat.shape[1] <= FEW:
        # an entry that never changes is in the data's own units
        std = torch.where(flat.std(0) > 0, flat.std(0), 1.0)
        return Features(
            lambda x: (x.flatten(1).double().cpu() - mean) / std, "the data themselves, standardised", "sw2"
        )
    # an SVD: the covariance of D entries takes D^2 numbers
    _, spread, vectors = torch.linalg.svd(flat - mean, full_matrices=False)
    variances = spread[:FEW].square() / (len(flat) - 1)
    basis = vectors[:FEW].mT / variances.sum().div(FEW).sqrt().clamp_min(1e-150)
    return Features(
        lambda x: (x.flatten(1).double().cpu() - mean) @ basis,
        f"{min(FEW, len(vectors))} principal components of {named}",
        "sw2",
    )
