r"""What an operator is: A(x) for each of a batch, and for a linear one its adjoint, its matrix and its SVD.

Operators hold choices (a mask, a kernel, a factor), not sizes: the shape of a sample comes with the data, and is asked
for where it is needed (`dense(shape)`, `svd(shape)`). They compute in the dtype and on the device of their input.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

Shape = tuple[int, ...]
DENSE_AT_MOST = 4096
"""Entries of a sample, or of a measurement, up to which a dense SVD is a matter of seconds."""


class Operator(abc.ABC):
    """A map A of one sample to one measurement, applied to each of a batch: (B, *) -> (B, *).

    Attributes:
        linear: whether it is a `LinearOperator`.
    """

    linear: ClassVar[bool] = False

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


class LinearOperator(Operator):
    """A linear map of one sample, applied to each of a batch."""

    linear = True

    @abc.abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A' y, (B, *) -> (B, *), with <A x, y> = <x, A' y>."""

    def pullback(self, x: Tensor, v: Tensor) -> Tensor:
        return self.adjoint(v)

    def as_linear(self) -> LinearOperator:
        return self

    def dense(self, shape: int | Shape) -> Tensor:
        """A as an (M, D) float64 matrix, for samples of `shape` (flattened); an int is a vector's length."""
        shape = (shape,) if isinstance(shape, int) else shape
        columns = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        return self(columns).flatten(1).mT.contiguous()

    def svd(self, shape: Shape) -> SVD:
        """A = U diag(values) V' for samples of `shape`; structured operators override this in O(D log d).

        Raises:
            ValueError: no structure to use, and too large for a dense one.
        """
        return dense_svd(self, shape)


@dataclass(frozen=True, eq=False)
class SVD:
    """A = U diag(values) V', with one coordinate z = V' x for each entry of a sample.

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
        values = self.values.to(y)
        inverse = torch.where(self.values > self.cutoff, 1.0 / self.values.clamp_min(1e-300), 0.0).to(values)
        return self.vt(self.operator.adjoint(y)) * inverse

    def u(self, z: Tensor) -> Tensor:
        """U z: A V (z / values); coordinates where the value is 0 do not count."""
        inverse = torch.where(self.values > self.cutoff, 1.0 / self.values.clamp_min(1e-300), 0.0).to(z)
        return self.operator(self.v(z * inverse))

    @property
    def cutoff(self) -> float:
        """Singular values up to this one are 0 but for rounding."""
        return 1e-10 * float(self.values.max())


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
    _, values, basis = torch.linalg.svd(operator.dense(shape), full_matrices=True)
    values = torch.cat([values, values.new_zeros(size - len(values))])
    return SVD(
        operator,
        values,
        lambda x: x.flatten(1) @ basis.to(x).mT,
        lambda z: (z @ basis.to(z)).reshape(-1, *shape),
    )
