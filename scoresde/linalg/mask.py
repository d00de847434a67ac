"""Inpainting: some entries are measured and the others are not."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.linalg._input import Values, boolean
from scoresde.linalg.base import SVD, LinearOperator, Shape


class Mask(LinearOperator):
    """The entries of x where the mask is True, and no others: (B, *lead, *mask.shape) -> (B, *lead, M).

    A mask (H, W) holds for every channel; one of the whole shape of a sample, for its entries.

    Args:
        mask: True where x is measured, over the last dimensions of x. All True is fine.

    Raises:
        ValueError: values that are neither True nor False, or nothing is kept; on use, samples of another shape.
    """

    def __init__(self, mask: Values) -> None:
        self.mask = boolean(mask)
        self._kept = self.mask.flatten().nonzero()[:, 0]

    def __repr__(self) -> str:
        return f"Mask({len(self._kept)} of {' x '.join(map(str, self.mask.shape))} kept)"

    def __call__(self, x: Tensor) -> Tensor:
        self.check(x)
        return x.flatten(-self.mask.ndim)[..., self._kept.to(x.device)]

    def adjoint(self, y: Tensor) -> Tensor:
        return self.fill(y, 0.0)

    def fill(self, y: Tensor, value: float = 0.0) -> Tensor:
        """The sample with y where it is measured, and `value` elsewhere."""
        if y.ndim < 2 or y.shape[-1] != len(self._kept):
            raise ValueError(f"the mask keeps {len(self._kept)} entries; y (B, *, M) has shape {tuple(y.shape)}")
        full = y.new_full((*y.shape[:-1], self.mask.numel()), value)
        return full.index_copy(-1, self._kept.to(y.device), y).reshape(*y.shape[:-1], *self.mask.shape)

    @property
    def in_shape(self) -> Shape:
        return tuple(self.mask.shape)

    def svd(self, shape: Shape) -> SVD:
        """V = I."""
        self.check(torch.empty(1, *shape))
        return SVD(self, self.mask.double().expand(shape), lambda x: x, lambda z: z)

    def check(self, x: Tensor) -> None:
        """Refuse samples that the mask does not fit.

        Raises:
            ValueError: with both shapes.
        """
        dims = self.mask.ndim
        if x.ndim <= dims or x.shape[-dims:] != self.mask.shape:
            raise ValueError(
                f"the mask has shape {tuple(self.mask.shape)}, and the samples {tuple(x.shape[1:])}; "
                "the last dimensions of a sample must be those of the mask"
            )
