"""Operators made of operators: A @ B, A + B, c A and A'."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from scoresde.linalg.base import SVD, LinearOperator, Operator, Shape


@dataclass(frozen=True, eq=False)
class Chain(Operator):
    """A(B(x)), for any two operators."""

    outer: Operator
    inner: Operator

    def __post_init__(self) -> None:
        object.__setattr__(self, "differentiable", self.outer.differentiable and self.inner.differentiable)

    def __repr__(self) -> str:
        return f"({self.outer} @ {self.inner})"

    def __call__(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def pullback(self, x: Tensor, v: Tensor) -> Tensor:
        return self.inner.pullback(x, self.outer.pullback(self.inner(x), v))


@dataclass(frozen=True, eq=False)
class Product(LinearOperator):
    """A B x."""

    outer: LinearOperator
    inner: LinearOperator

    def __repr__(self) -> str:
        return f"({self.outer} @ {self.inner})"

    def __call__(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    @property
    def in_shape(self) -> Shape | None:
        return self.inner.in_shape


@dataclass(frozen=True, eq=False)
class Sum(LinearOperator):
    """A x + B x.

    Raises:
        ValueError: on use, when A x and B x have different shapes.
    """

    first: LinearOperator
    second: LinearOperator

    def __repr__(self) -> str:
        return f"({self.first} + {self.second})"

    def __call__(self, x: Tensor) -> Tensor:
        return self._add(self.first(x), self.second(x), "measurements")

    def adjoint(self, y: Tensor) -> Tensor:
        return self._add(self.first.adjoint(y), self.second.adjoint(y), "samples")

    @property
    def in_shape(self) -> Shape | None:
        return self.first.in_shape or self.second.in_shape

    def _add(self, a: Tensor, b: Tensor, what: str) -> Tensor:
        if a.shape != b.shape:
            raise ValueError(f"{self}: {what} of shape {tuple(a.shape[1:])} and {tuple(b.shape[1:])} cannot be added")
        return a + b


@dataclass(frozen=True, eq=False)
class Scaled(LinearOperator):
    """c A x.

    Raises:
        ValueError: c is not finite.
    """

    c: float
    operator: LinearOperator

    def __post_init__(self) -> None:
        if not math.isfinite(self.c):
            raise ValueError(f"an operator is scaled by {self.c}; a finite number is needed")

    def __repr__(self) -> str:
        return f"{self.c:g} * {self.operator}"

    def __call__(self, x: Tensor) -> Tensor:
        return self.c * self.operator(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.c * self.operator.adjoint(y)

    @property
    def in_shape(self) -> Shape | None:
        return self.operator.in_shape

    def svd(self, shape: Shape) -> SVD:
        """That of A: U = c A V / |c values| takes the sign."""
        svd = self.operator.svd(shape)
        return SVD(self, abs(self.c) * svd.values, svd.vt, svd.v)


@dataclass(frozen=True, eq=False)
class Transposed(LinearOperator):
    """A' y."""

    operator: LinearOperator

    def __repr__(self) -> str:
        return f"{self.operator}.T"

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.operator(y)

    @property
    def in_shape(self) -> Shape | None:
        shape = self.operator.in_shape
        return None if shape is None else self.operator.out_shape(shape)

    @property
    def T(self) -> LinearOperator:
        return self.operator
