"""The identity, and a given matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scoresde.linalg.base import SVD, LinearOperator, Shape


class Identity(LinearOperator):
    """A = I."""

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    def svd(self, shape: Shape) -> SVD:
        return SVD(self, torch.ones(shape, dtype=torch.float64), lambda x: x, lambda z: z)


class Dense(LinearOperator):
    """A given matrix (M, D), for vectors (B, D).

    Raises:
        ValueError: not a matrix, or values that are not finite; on use, vectors of another length.
    """

    def __init__(self, matrix: Tensor | Sequence[Any]) -> None:
        self._matrix = torch.as_tensor(matrix, dtype=torch.float64)
        if self._matrix.ndim != 2:
            raise ValueError(f"A has shape {tuple(self._matrix.shape)}; a matrix (M, D) is needed")
        if not bool(self._matrix.isfinite().all()):
            raise ValueError("A holds values that are not finite")

    def __repr__(self) -> str:
        m, d = self._matrix.shape
        return f"Dense({m} x {d})"

    def __call__(self, x: Tensor) -> Tensor:
        return self._check(x, self._matrix.shape[1]) @ self._matrix.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return self._check(y, self._matrix.shape[0]) @ self._matrix.to(y)

    def _check(self, x: Tensor, length: int) -> Tensor:
        if x.shape[-1] != length:
            m, d = self._matrix.shape
            raise ValueError(f"A is {m} x {d}: vectors of {length} entries are needed, not {x.shape[-1]}")
        return x
