r"""Magnetic resonance, one coil: some of the Fourier coefficients of a real picture.

With F the orthonormal DFT over height and width and m the mask, A x = (Re m F x, Im m F x), and

    A'A = Re F* m F,

which is diagonal in the Hartley basis (`hartley`) with the entries (m_k + m_-k) / 2: a coefficient and its mirror image
are conjugate, so that measuring both says nothing new, but halves the variance of the noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde.linalg._input import Values
from scoresde.linalg.base import SVD, LinearOperator, Shape
from scoresde.linalg.hartley import hartley
from scoresde.linalg.mask import Mask


class Fourier(LinearOperator):
    """(B, *, H, W) -> (B, *, 2, M), real and imaginary parts of the coefficients where the mask is True.

    Args:
        mask: (H, W), in the order of `torch.fft.fft2`: frequency (0, 0) first (`torch.fft.ifftshift` brings a mask
            there that has it in the middle).

    Raises:
        ValueError: as for `Mask`; a mask that is no matrix.
    """

    def __init__(self, mask: Values) -> None:
        self._kept = Mask(mask)
        if self.mask.ndim != 2:
            raise ValueError(f"the mask has shape {tuple(self.mask.shape)}; frequencies (H, W) are needed")

    @property
    def mask(self) -> Tensor:
        """True for the frequencies that are measured."""
        return self._kept.mask

    def __repr__(self) -> str:
        return f"Fourier({self._kept})"

    def __call__(self, x: Tensor) -> Tensor:
        coefficients = self._kept(torch.fft.fft2(x, norm="ortho"))
        return torch.view_as_real(coefficients).mT

    def adjoint(self, y: Tensor) -> Tensor:
        if y.ndim < 3 or y.shape[-2] != 2:
            raise ValueError(f"y has shape {tuple(y.shape)}; real and imaginary parts (B, *, 2, M) are needed")
        coefficients = torch.view_as_complex(y.mT.contiguous())
        return torch.fft.ifft2(self._kept.adjoint(coefficients), norm="ortho").real

    @property
    def in_shape(self) -> Shape:
        return self._kept.in_shape

    def svd(self, shape: Shape) -> SVD:
        self._kept.check(torch.empty(1, *shape))
        m = self.mask.double()
        mirrored = m.flip(0, 1).roll((1, 1), (0, 1))  # m_-k
        return SVD(self, (0.5 * (m + mirrored)).sqrt().expand(shape), hartley, hartley)
