"""Linear operators on batches: A(x), A.adjoint(y), and A as a matrix."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class LinearOperator(abc.ABC):
    """A linear map of one sample, applied to each of a batch (B, *)."""

    @abc.abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A x."""

    @abc.abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A' y, with <A x, y> = <x, A' y>."""

    def matrix(self, dim: int) -> Tensor:
        """A as a dense (M, dim) float64 matrix for vectors of `dim` entries, column by column."""
        return self(torch.eye(dim, dtype=torch.float64)).mT.contiguous()


class Identity(LinearOperator):
    """A = I."""

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y


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

    def __call__(self, x: Tensor) -> Tensor:
        return self._check(x, self._matrix.shape[1]) @ self._matrix.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return self._check(y, self._matrix.shape[0]) @ self._matrix.to(y)

    def _check(self, x: Tensor, length: int) -> Tensor:
        if x.shape[-1] != length:
            m, d = self._matrix.shape
            raise ValueError(f"A is {m} x {d}: vectors of {length} entries are needed, not {x.shape[-1]}")
        return x
