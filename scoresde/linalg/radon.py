r"""Tomography: the sums of a picture along parallel rays (Radon 1917), as `skimage.transform.radon` has them.

At angle a, ray u passes through the points v = 0..n-1

    column - c = cos(a) (u - c) + sin(a) (v - c),       row - c = cos(a) (v - c) - sin(a) (u - c),      c = n // 2,

at which the picture is interpolated linearly (0 outside) and summed. The weights make a sparse matrix, whose transpose
is the exact adjoint.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from scoresde.linalg._input import Values, finite
from scoresde.linalg.base import LinearOperator, Shape


class Radon(LinearOperator):
    """(B, *, size, size) -> (B, *, angles, size): one row for each angle, in units of pixels.

    The matrix has about 2 size^2 entries an angle (a gigabyte for 256 pixels and 180 angles) and is made at first use.
    What lies outside the disk about the middle is seen by some of the rays only. The SVD is that of a dense matrix.

    Args:
        angles: in degrees, (K,), as scikit-image counts them; 0 sums over the rows of a picture.
        size: of the picture.

    Raises:
        ValueError: angles that are no vector or not finite, a size below 1; on use, pictures of another size.
    """

    def __init__(self, angles: Values, size: int) -> None:
        self.angles = finite(angles, 1, "angles", "a vector of degrees")
        if size < 1:
            raise ValueError(f"size = {size}; it must be 1 or more")
        self.size = size

    def __repr__(self) -> str:
        return f"Radon({len(self.angles)} angles, {self.size} x {self.size})"

    def __call__(self, x: Tensor) -> Tensor:
        self._check(x, self.size)
        matrix, transposed = self._matrices(x)
        sums = SparseProduct.apply(matrix, transposed, x.reshape(-1, self.size**2).mT).mT
        return sums.reshape(*x.shape[:-2], len(self.angles), self.size)

    def adjoint(self, y: Tensor) -> Tensor:
        self._check(y, len(self.angles))
        matrix, transposed = self._matrices(y)
        x = SparseProduct.apply(transposed, matrix, y.reshape(-1, len(self.angles) * self.size).mT).mT
        return x.reshape(*y.shape[:-2], self.size, self.size)

    @property
    def in_shape(self) -> Shape:
        return (self.size, self.size)

    def out_shape(self, shape: Shape) -> Shape:
        self._check(torch.empty(1, *shape), self.size)
        return (*shape[:-2], len(self.angles), self.size)

    def _matrices(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return _matrices(tuple(self.angles.tolist()), self.size, like.dtype, like.device)

    def _check(self, x: Tensor, rows: int) -> None:
        if x.ndim < 3 or x.shape[-2:] != (rows, self.size):
            raise ValueError(f"{self} needs shape (B, *, {rows}, {self.size}) here, not {tuple(x.shape)}")


class SparseProduct(torch.autograd.Function):
    """S x, with the transpose of S at hand for the gradient."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, x: Tensor) -> Tensor:
        ctx.matrices = matrix, transposed
        return matrix @ x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        matrix, transposed = ctx.matrices
        return None, None, SparseProduct.apply(transposed, matrix, gradient)


@functools.lru_cache(maxsize=2)
def _matrices(angles: tuple[float, ...], n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """A and A', sparse."""
    parts = [_ray_weights(math.radians(angle), n) for angle in angles]
    ray = torch.cat([k * n + u for k, (u, _, _) in enumerate(parts)])
    pixel, weight = torch.cat([p for _, p, _ in parts]), torch.cat([w for _, _, w in parts])

    def sparse(i: Tensor, j: Tensor, shape: tuple[int, int]) -> Tensor:
        matrix = torch.sparse_coo_tensor(torch.stack([i, j]), weight, shape, check_invariants=False).coalesce()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")  # and 80 times as fast
            return matrix.to(device, dtype).to_sparse_csr()

    rays = len(angles) * n
    return sparse(ray, pixel, (rays, n * n)), sparse(pixel, ray, (n * n, rays))


def _ray_weights(angle: float, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Which ray sees which pixel (flattened), and how much: linear interpolation at n points of each of n rays."""
    at = torch.arange(n, dtype=torch.float64) - n // 2
    v, u = at[:, None], at[None, :]
    column = math.cos(angle) * u + math.sin(angle) * v + n // 2
    row = math.cos(angle) * v - math.sin(angle) * u + n // 2
    rays = torch.arange(n).expand(n, n)
    parts = []
    for r in (row.floor(), row.floor() + 1):
        for c in (column.floor(), column.floor() + 1):
            weight = (1.0 - (row - r).abs()) * (1.0 - (column - c).abs())
            seen = (r >= 0) & (r < n) & (c >= 0) & (c < n) & (weight > 0)
            parts.append((rays[seen], (r * n + c)[seen].long(), weight[seen]))
    u_, pixel, weights = (torch.cat(part) for part in zip(*parts, strict=True))
    return u_, pixel, weights
