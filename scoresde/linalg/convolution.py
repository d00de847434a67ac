r"""Blur: the convolution of each channel with a kernel.

    (A x)[i] = sum_m k[m] x[i + c - m],     c = (kh // 2, kw // 2),

as `scipy.ndimage.convolve` has it: a kernel that is 1 at its entry c, and 0 elsewhere, is the identity. It is a true
convolution, so the kernel is the picture of a point. Computed by FFT on the picture extended past its edges.

When the edges are circular, F A = diag(khat) F, so that A'A = F^-1 diag(|khat|^2) F, which is diagonal in the real
Hartley basis as |khat| is even: V is the Hartley transform, for kernels of any symmetry, and the values are |khat|.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from scoresde.linalg._input import Values, finite, picture_size
from scoresde.linalg.base import SVD, LinearOperator, Shape, dense_svd
from scoresde.linalg.hartley import hartley
from scoresde.linalg.padding import padding_named


class Convolution(LinearOperator):
    """Each channel convolved with a kernel; pictures keep their size.

    The SVD is fast for circular padding, for all kernels and sizes; for the others it is that of a matrix. Where the
    kernel is separable, as a Gaussian is, `SeparableBlur` has a fast one for every padding.

    Args:
        kernel: (kh, kw), of odd or even sizes. It need not sum to 1: a picture gets brighter by its sum.
        padding: what lies past the edges: "circular", "zero", or "reflect" (d c b a | a b c d | d c b a).

    Raises:
        ValueError: a kernel that is no matrix or not finite, an unknown padding; on use, a kernel larger than the
            picture.
    """

    def __init__(self, kernel: Values, padding: str = "circular") -> None:
        self.kernel = finite(kernel, 2, "the kernel", "a kernel (kh, kw)")
        self.padding = padding
        self._padding = padding_named(padding)

    def __repr__(self) -> str:
        kh, kw = self.kernel.shape
        return f"Convolution({kh} x {kw}, {self.padding})"

    def __call__(self, x: Tensor) -> Tensor:
        height, width = self._check(x)
        (kh, kw), extend = self.kernel.shape, self._padding.extend
        grid = self._grid(height, width)
        x = extend(extend(x, -2, kh - 1 - kh // 2, kh // 2), -1, kw - 1 - kw // 2, kw // 2)
        spectrum = torch.fft.rfft2(x, s=grid) * self._transfer(x, grid)
        return torch.fft.irfft2(spectrum, s=grid)[..., kh - 1 : kh - 1 + height, kw - 1 : kw - 1 + width]

    def adjoint(self, y: Tensor) -> Tensor:
        height, width = self._check(y)
        (kh, kw), fold = self.kernel.shape, self._padding.fold
        grid = self._grid(height, width)
        y = torch.nn.functional.pad(y, (kw - 1, 0, kh - 1, 0))
        spectrum = torch.fft.rfft2(y, s=grid) * self._transfer(y, grid).conj()
        x = torch.fft.irfft2(spectrum, s=grid)[..., : height + kh - 1, : width + kw - 1]
        return fold(fold(x, -1, kw - 1 - kw // 2, kw // 2), -2, kh - 1 - kh // 2, kh // 2)

    def svd(self, shape: Shape) -> SVD:
        if not self._padding.periodic:
            return dense_svd(self, shape)
        size = self._check(torch.empty(1, *shape))
        return SVD(self, torch.fft.fft2(self.kernel, s=size).abs().expand(shape), hartley, hartley)

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Of the FFT: the extended picture, and zeros up to a size without large prime factors."""
        kh, kw = self.kernel.shape
        return fast_size(height + kh - 1), fast_size(width + kw - 1)

    def _transfer(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """khat in the dtype and on the device of x."""
        return torch.fft.rfft2(self.kernel.to(x), s=grid)

    def _check(self, x: Tensor) -> tuple[int, int]:
        (height, width), (kh, kw) = picture_size(x, self), self.kernel.shape
        if kh > height or kw > width:
            raise ValueError(f"the kernel, {kh} x {kw}, is larger than the picture, {height} x {width}")
        return height, width


@functools.cache
def fast_size(n: int) -> int:
    """The least 2^a 3^b 5^c that is n or more."""
    size = n
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1
