r"""What an operator is: A(x) for each of a batch, and for a linear one its adjoint, its matrix and its SVD.

Operators hold choices (a mask, a kernel, a factor), not sizes: the shape of a sample comes with the data, and is asked
for where it is needed (`dense(shape)`, `svd(shape)`). They compute in the dtype and on the device of their input.

    A @ B, A + B, A - B, 2.0 * A, A / 2.0, -A and A.T are operators again (`algebra`)
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, overload

import torch
from torch import Tensor

Shape = tuple[int, ...]
DENSE_AT_MOST = 4096
"""Entries of a sample, or of a measurement, up to which a dense SVD is a matter of a minute or two on one core."""
COLUMNS = 512  # of a matrix, written out at once


class Operator(abc.ABC):
    """A map A of one sample to one measurement, applied to each of a batch: (B, *) -> (B, *).

    Attributes:
        linear: whether it is a `LinearOperator`.
        differentiable: whether `pullback` gives its derivative; where it does not, it may give another direction, or
            raise a ValueError.
    """

    linear: ClassVar[bool] = False
    differentiable: bool = True

    @abc.abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """A(x).

        Raises:
            ValueError: x of a shape that A does not take.
        """

    def out_shape(self, shape: Shape) -> Shape:
        """The shape of A(x) for one x of `shape`."""
        return tuple(self(torch.zeros(1, *shape)).shape[1:])

    def pullback(self, x: Tensor, v: Tensor) -> Tensor:
        """(dA/dx)' v at x: the gradient of <A(x), v>, by autograd unless an operator knows better.

        Raises:
            ValueError: A is not differentiable.
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad((self(x) * v).sum(), x)[0]

    def as_linear(self) -> LinearOperator:
        """Itself, when it is linear.

        Raises:
            ValueError: it is not.
        """
        raise ValueError(
            f"{self} is not linear, and this needs a linear operator; take a method for any A, such as DAPS"
        )

    def __matmul__(self, inner: Operator) -> Operator:
        """A(B(x))."""
        from scoresde.linalg.algebra import Chain  # these are operators themselves

        return Chain(self, inner)


class LinearOperator(Operator):
    """A linear map of one sample, applied to each of a batch."""

    linear = True

    @abc.abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A' y, (B, *) -> (B, *), with <A x, y> = <x, A' y>."""

    @property
    def in_shape(self) -> Shape | None:
        """The shape of the smallest sample that A takes, where A knows it; None where any will do."""
        return None

    def pullback(self, x: Tensor, v: Tensor) -> Tensor:
        return self.adjoint(v)

    def as_linear(self) -> LinearOperator:
        return self

    def dense(self, shape: int | Shape | None = None) -> Tensor:
        """A as an (M, D) float64 matrix, for samples of `shape` (flattened); an int is a vector's length.

        Args:
            shape: may be left out where A knows it (`in_shape`).

        Raises:
            ValueError: no shape given, and A does not know it.
        """
        shape = self.in_shape if shape is None else shape
        if shape is None:
            raise ValueError(f"{self} takes samples of any shape; give that of yours, dense(shape)")
        shape = (shape,) if isinstance(shape, int) else shape
        columns = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        return torch.cat([self(some).flatten(1) for some in columns.split(COLUMNS)]).mT.contiguous()

    def svd(self, shape: Shape) -> SVD:
        """A = U diag(values) V' for samples of `shape`; structured operators override this in O(D log d).

        Raises:
            ValueError: no structure to use, and too large for a dense one.
        """
        return dense_svd(self, shape)

    @property
    def T(self) -> LinearOperator:
        """A', with A as its adjoint."""
        from scoresde.linalg.algebra import Transposed

        return Transposed(self)

    @overload
    def __matmul__(self, inner: LinearOperator) -> LinearOperator: ...
    @overload
    def __matmul__(self, inner: Operator) -> Operator: ...
    def __matmul__(self, inner: Operator) -> Operator:
        from scoresde.linalg.algebra import Chain, Product

        return Product(self, inner.as_linear()) if inner.linear else Chain(self, inner)

    def __add__(self, other: LinearOperator) -> LinearOperator:
        from scoresde.linalg.algebra import Sum

        return Sum(self, other)

    def __mul__(self, c: float) -> LinearOperator:
        from scoresde.linalg.algebra import Scaled

        return Scaled(float(c), self)

    __rmul__ = __mul__

    def __truediv__(self, c: float) -> LinearOperator:
        return self * (1.0 / c)

    def __neg__(self) -> LinearOperator:
        return self * -1.0

    def __sub__(self, other: LinearOperator) -> LinearOperator:
        return self + -other


@dataclass(frozen=True, eq=False)
class SVD:
    """A = U diag(values) V', with one coordinate z = V' x for each entry of a sample.

    U is not stored: it is A V / values. What divides by `values` is computed in float64 whatever the dtype of its
    argument, as a small value magnifies the rounding of A' y.

    Args:
        operator: A.
        values: singular values, float64, >= 0, in the shape of V' x for one x (or broadcasting to it); 0 on the null
            space. Not sorted.
        vt: V' x, (B, *shape) -> (B, *spectral); orthogonal.
        v: V z, its inverse.
    """

    operator: LinearOperator
    values: Tensor
    vt: Callable[[Tensor], Tensor]
    v: Callable[[Tensor], Tensor]

    def ut(self, y: Tensor) -> Tensor:
        """U' y in the coordinates of V' x, (B, *spectral): V' A' y / values; 0 where the value is 0."""
        return (self.vt(self.operator.adjoint(y.double())) * self._inverse(y)).to(y.dtype)

    def u(self, z: Tensor) -> Tensor:
        """U z: A V (z / values); coordinates where the value is 0 do not count."""
        return self.operator(self.v(z.double() * self._inverse(z))).to(z.dtype)

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y = V (U' y / values), (B, *shape): of all x with the least |y - A x|, the shortest."""
        inverse = self._inverse(y)
        return self.v(self.vt(self.operator.adjoint(y.double())) * inverse**2).to(y.dtype)

    def null(self, x: Tensor) -> Tensor:
        """(I - A^+ A) x: the part of x that A does not see, (B, *shape)."""
        return self.v(self.vt(x) * (self.values <= self.cutoff).to(x))

    @property
    def cutoff(self) -> float:
        """Singular values up to this one are 0 but for rounding."""
        return 1e-10 * float(self.values.max())

    def _inverse(self, like: Tensor) -> Tensor:
        """1 / values, and 0 for those that are 0; float64, on the device of `like`."""
        return torch.where(self.values > self.cutoff, self.values, math.inf).reciprocal().to(like.device)


def dense_svd(operator: LinearOperator, shape: Shape) -> SVD:
    """By the matrix of A.

    Raises:
        ValueError: more than `DENSE_AT_MOST` entries.
    """
    size, out = math.prod(shape), math.prod(operator.out_shape(shape))
    if max(size, out) > DENSE_AT_MOST:
        raise ValueError(
            f"{operator} has no fast SVD, and a dense one is for at most {DENSE_AT_MOST} entries, not "
            f"{max(size, out)}; take a method that needs no SVD, such as MMPS"
        )
    values, basis = full_right(operator.dense(shape))
    return SVD(
        operator,
        values,
        lambda x: x.flatten(1) @ basis.to(x).mT,
        lambda z: (z @ basis.to(z)).reshape(-1, *shape),
    )


def full_right(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values of an (M, D) matrix, filled up with zeros to (D,), and all its right vectors V', (D, D)."""
    _, values, basis = torch.linalg.svd(matrix, full_matrices=True)
    return torch.cat([values, values.new_zeros(len(basis) - len(values))]), basis
