r"""A real orthonormal Fourier basis: the Hartley transform (Bracewell 1983) of pictures.

    H x = Re F x - Im F x,      F the orthonormal DFT over height and width,

whose rows are cas(2 pi k n / N) / sqrt(N), cas = cos + sin. H is symmetric and its own inverse. Row k spans with row -k
what exp(2 pi i k n / N) and its conjugate span, so that H diagonalises every real symmetric operator that F does.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hartley(x: Tensor) -> Tensor:
    """H x over the last two dimensions, O(D log d) for all sizes."""
    spectrum = torch.fft.fft2(x, norm="ortho")
    return spectrum.real - spectrum.imag
