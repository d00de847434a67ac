r"""Operators that act on rows and on columns: A x = R x C', for each channel.

That is the Kronecker product of two small matrices, and its SVD is that of the two (Van Loan 2000): with
R = U_r S_r V_r' and C = U_c S_c V_c',

    V' x = V_r' x V_c,      values[i, j] = S_r[i] S_c[j]
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from scoresde.linalg._input import Values, finite, picture_size
from scoresde.linalg.base import SVD, LinearOperator, Shape, full_right
from scoresde.linalg.padding import padding_named


class Separable(LinearOperator):
    """A x = R x C'."""

    @abc.abstractmethod
    def matrices(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """R and C in float64, (h, height) and (w, width), for pictures of this size.

        Raises:
            ValueError: a size that A does not take.
        """

    @abc.abstractmethod
    def size_of_x(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of x, for an A x of this size."""

    def __call__(self, x: Tensor) -> Tensor:
        R, C = self.matrices(*picture_size(x, self))
        return R.to(x) @ x @ C.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        R, C = self.matrices(*self.size_of_x(*picture_size(y, self)))
        return R.to(y).mT @ y @ C.to(y)

    def svd(self, shape: Shape) -> SVD:
        R, C = self.matrices(*picture_size(torch.empty(1, *shape), self))
        (rows, vt_r), (columns, vt_c) = full_right(R), full_right(C)
        return SVD(
            self,
            (rows[:, None] * columns).expand(shape),
            lambda x: vt_r.to(x) @ x @ vt_c.to(x).mT,
            lambda z: vt_r.to(z).mT @ z @ vt_c.to(z),
        )


class SeparableBlur(Separable):
    """Each column convolved with one kernel and each row with another; a fast SVD for every padding.

    It is `Convolution` with the kernel k_rows[:, None] * k_columns[None, :], and has its convention of the centre.

    Args:
        kernel_rows: (kh,), which blurs from row to row.
        kernel_columns: (kw,), from column to column; default that of the rows.
        padding: what lies past the edges: "circular", "zero", or "reflect" (d c b a | a b c d | d c b a).

    Raises:
        ValueError: a kernel that is no vector or not finite, an unknown padding; on use, a kernel larger than the
            picture.
    """

    def __init__(self, kernel_rows: Values, kernel_columns: Values | None = None, padding: str = "circular") -> None:
        columns = kernel_rows if kernel_columns is None else kernel_columns
        self.kernel_rows = finite(kernel_rows, 1, "the kernel of the rows", "a kernel (kh,)")
        self.kernel_columns = finite(columns, 1, "the kernel of the columns", "a kernel (kw,)")
        self.padding = padding
        self._padding = padding_named(padding)

    def __repr__(self) -> str:
        return f"SeparableBlur({len(self.kernel_rows)} x {len(self.kernel_columns)}, {self.padding})"

    def matrices(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        kh, kw = len(self.kernel_rows), len(self.kernel_columns)
        if kh > height or kw > width:
            raise ValueError(f"the kernel, {kh} x {kw}, is larger than the picture, {height} x {width}")
        return self._matrix(self.kernel_rows, height), self._matrix(self.kernel_columns, width)

    def size_of_x(self, height: int, width: int) -> tuple[int, int]:
        return height, width

    def _matrix(self, kernel: Tensor, n: int) -> Tensor:
        """Row i holds k[m] where i + c - m comes from: the kernel slid over the extended unit vectors."""
        k = len(kernel)
        unit = self._padding.extend(torch.eye(n, dtype=torch.float64), -1, k - 1 - k // 2, k // 2)
        return torch.nn.functional.conv1d(unit[:, None], kernel.flip(0)[None, None])[:, 0].mT.contiguous()
