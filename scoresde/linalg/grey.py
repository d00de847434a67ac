"""Colouring: one weighted mean of the channels is measured."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.linalg._input import Values, finite
from scoresde.linalg.base import SVD, LinearOperator, Shape, full_right

LUMA = (0.299, 0.587, 0.114)
"""Red, green and blue in ITU-R BT.601, as Pillow's "L"."""


class Grey(LinearOperator):
    """(B, C, H, W) -> (B, 1, H, W), sum_c weights[c] x[c].

    Args:
        weights: (C,), of red, green and blue as ITU-R BT.601 has them by default.

    Raises:
        ValueError: no vector, weights that are not finite or all 0; on use, another number of channels.
    """

    def __init__(self, weights: Values = LUMA) -> None:
        self.weights = finite(weights, 1, "weights", "one number for each channel")
        if not bool(self.weights.any()):
            raise ValueError("all weights are 0, so that nothing is measured")

    def __repr__(self) -> str:
        return f"Grey({', '.join(f'{w:g}' for w in self.weights.tolist())})"

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x, len(self.weights))
        return torch.einsum("c,bchw->bhw", self.weights.to(x), x)[:, None]

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, 1)
        return self.weights.to(y)[:, None, None] * y

    def svd(self, shape: Shape) -> SVD:
        """V turns the channels: the first coordinate lies along the weights, the value |weights|, the others across."""
        self._check(torch.empty(1, *shape), len(self.weights))
        values, basis = full_right(self.weights[None])
        return SVD(
            self,
            values[:, None, None].expand(shape),
            lambda x: torch.einsum("dc,bchw->bdhw", basis.to(x), x),
            lambda z: torch.einsum("dc,bdhw->bchw", basis.to(z), z),
        )

    def _check(self, x: Tensor, channels: int) -> None:
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(
                f"{self} needs pictures of {channels} channel{'s' if channels > 1 else ''}, (B, {channels}, H, W), "
                f"not shape {tuple(x.shape)}"
            )
