r"""The single-pixel camera: some of the Walsh-Hadamard coefficients of a picture.

    H_1 = 1,    H_2n = [[H_n, H_n], [H_n, -H_n]] / sqrt(2),     symmetric and its own inverse (Sylvester's order)

H is applied to the flattened entries, in O(D log D).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde.linalg._input import Values
from scoresde.linalg.base import SVD, LinearOperator, Shape
from scoresde.linalg.mask import Mask


class Hadamard(LinearOperator):
    """The coefficients where the mask is True: (B, *lead, *mask.shape) -> (B, *lead, M).

    Args:
        mask: True for the coefficients that are measured, in the shape of a sample or of its last dimensions, whose
            entries are a power of two (pad pictures to such a size, or crop them). Entry 0 is that of the mean.

    Raises:
        ValueError: as for `Mask`; entries that are not a power of two.
    """

    def __init__(self, mask: Values) -> None:
        self._kept = Mask(mask)
        size = self._kept.mask.numel()
        if size & (size - 1):
            raise ValueError(
                f"the mask has {size} entries; Walsh-Hadamard needs a power of two: pad the picture to "
                f"{2 ** size.bit_length()} entries in all, or crop it to {2 ** (size.bit_length() - 1)}"
            )

    @property
    def mask(self) -> Tensor:
        """True for the coefficients that are measured."""
        return self._kept.mask

    def __repr__(self) -> str:
        return f"Hadamard({self._kept})"

    def __call__(self, x: Tensor) -> Tensor:
        return self._kept(self._transform(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self._transform(self._kept.adjoint(y))

    @property
    def in_shape(self) -> Shape:
        return self._kept.in_shape

    def svd(self, shape: Shape) -> SVD:
        """V = H."""
        return SVD(self, self._kept.svd(shape).values, self._transform, self._transform)

    def _transform(self, x: Tensor) -> Tensor:
        self._kept.check(x)
        return walsh_hadamard(x.flatten(-self.mask.ndim)).reshape(x.shape)


def walsh_hadamard(x: Tensor) -> Tensor:
    """H x over the last dimension, whose length is a power of two."""
    shape, half = x.shape, 1
    while half < shape[-1]:
        a, b = x.reshape(*shape[:-1], -1, 2, half).unbind(-2)
        x = torch.stack([a + b, a - b], -2)
        half *= 2
    return x.reshape(shape) / math.sqrt(shape[-1])
