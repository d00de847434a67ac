r"""Super-resolution: a picture made smaller by a whole factor, each axis by a matrix.

Entry i of the small axis is centred at (i + 1/2) s, and weighs entry j by

    w((j + 1/2 - (i + 1/2) s) / s),     normalised to sum 1 over the entries that exist,

with w a box of width 1 (the average of blocks), or Keys' cubic with a = -1/2 stretched by s, so that it is its own
low-pass filter (Keys 1981; both as Pillow's reducing `resize` has them, with BOX and BICUBIC; MATLAB's `imresize`
differs at the edges, which it reflects).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.linalg.separable import Separable


def box(t: Tensor) -> Tensor:
    """1 within half an entry of the small axis."""
    return (t.abs() <= 0.5).double()


def cubic(t: Tensor) -> Tensor:
    """Keys (1981), eq. 15: a = -1/2."""
    t = t.abs()
    near = (1.5 * t - 2.5) * t**2 + 1.0
    far = ((-0.5 * t + 2.5) * t - 4.0) * t + 2.0
    return torch.where(t < 1, near, torch.where(t < 2, far, 0.0))


WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {"average": box, "bicubic": cubic}


@dataclass(frozen=True)
class Downsample(Separable):
    """(B, *, H, W) -> (B, *, H / scale, W / scale).

    Args:
        scale: the factor, a whole number >= 1.
        kernel: "average" of blocks, or "bicubic", with antialiasing.

    Raises:
        ValueError: a scale below 1, an unknown kernel; on use, a size that the scale does not divide.
    """

    scale: int
    kernel: str = "average"

    def __post_init__(self) -> None:
        if self.scale < 1 or self.scale != int(self.scale):
            raise ValueError(f"scale = {self.scale}; it must be a whole number, 1 or more")
        if self.kernel not in WEIGHTS:
            raise ValueError(f"kernel = {self.kernel!r}; it must be one of {', '.join(WEIGHTS)}")

    def matrices(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        s = self.scale
        if height % s or width % s:
            sizes = f"crop it to {height // s * s} x {width // s * s}" if min(height, width) >= s else "take a smaller"
            raise ValueError(f"a picture of {height} x {width} cannot be made smaller by {s}: {sizes}")
        return self._matrix(height), self._matrix(width)

    def size_of_x(self, height: int, width: int) -> tuple[int, int]:
        return self.scale * height, self.scale * width

    def _matrix(self, n: int) -> Tensor:
        centre = (torch.arange(n // self.scale, dtype=torch.float64) + 0.5) * self.scale
        entry = torch.arange(n, dtype=torch.float64) + 0.5
        weights = WEIGHTS[self.kernel]((entry - centre[:, None]) / self.scale)
        return weights / weights.sum(1, keepdim=True)
