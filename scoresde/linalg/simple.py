"""The identity, a given matrix, and given functions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde.linalg._input import Values, finite
from scoresde.linalg.base import SVD, LinearOperator, Shape


class Identity(LinearOperator):
    """A = I."""

    def __repr__(self) -> str:
        return "Identity()"

    def __call__(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        return y

    @property
    def T(self) -> LinearOperator:
        return self

    def svd(self, shape: Shape) -> SVD:
        return SVD(self, torch.ones(shape, dtype=torch.float64), lambda x: x, lambda z: z)


class Dense(LinearOperator):
    """A given matrix (M, D), for vectors (B, D).

    Raises:
        ValueError: not a matrix, or values that are not finite; on use, vectors of another length.
    """

    def __init__(self, matrix: Values) -> None:
        self._matrix = finite(matrix, 2, "A", "a matrix (M, D)")

    def __repr__(self) -> str:
        m, d = self._matrix.shape
        return f"Dense({m} x {d})"

    def __call__(self, x: Tensor) -> Tensor:
        return self._check(x, self._matrix.shape[1]) @ self._matrix.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        return self._check(y, self._matrix.shape[0]) @ self._matrix.to(y)

    @property
    def in_shape(self) -> Shape:
        return (self._matrix.shape[1],)

    @property
    def T(self) -> LinearOperator:
        return Dense(self._matrix.mT)

    def _check(self, x: Tensor, length: int) -> Tensor:
        if x.shape[-1] != length:
            m, d = self._matrix.shape
            raise ValueError(f"A is {m} x {d}: vectors of {length} entries are needed, not {x.shape[-1]}")
        return x


class FromFunctions(LinearOperator):
    """A given as a function, and A' as another.

    Both take and give batches, keep the dtype and the device of their argument, and do the same to each sample
    whatever its companions. `check_operator` finds out whether they do.

    Args:
        forward: x -> A x, (B, *) -> (B, *).
        adjoint: y -> A' y; left out, it is computed by autograd through `forward`, at a forward evaluation and a
            backward one a call.
        shape: of one sample; needed when `adjoint` is left out.

    Raises:
        ValueError: neither `adjoint` nor `shape`; on use, autograd finds no way through `forward`.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor],
        adjoint: Callable[[Tensor], Tensor] | None = None,
        *,
        shape: Shape | None = None,
    ) -> None:
        if adjoint is None and shape is None:
            raise ValueError("A is given without its adjoint; give adjoint=, or shape= of one sample to compute it")
        self._forward, self._adjoint = forward, adjoint
        self._shape = None if shape is None else tuple(shape)

    def __repr__(self) -> str:
        return f"FromFunctions({getattr(self._forward, '__name__', self._forward)})"

    def __call__(self, x: Tensor) -> Tensor:
        return self._forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._transposed(y) if self._adjoint is None else self._adjoint(y)

    @property
    def in_shape(self) -> Shape | None:
        return self._shape

    def _transposed(self, y: Tensor) -> Tensor:
        """The gradient of <A x, y>, which is the same at every x."""
        again = torch.is_grad_enabled() and y.requires_grad
        with torch.enable_grad():
            x = y.new_zeros(len(y), *(self._shape or ())).requires_grad_()
            out = self._forward(x)
            if not out.requires_grad:
                raise ValueError(f"{self}: autograd finds no way through the function; give its adjoint=")
            return torch.autograd.grad(out, x, y, create_graph=again)[0]
