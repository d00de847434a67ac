r"""Operators that are not linear, for values on the [0, 1] scale of a picture.

    PhaseRetrieval   |F P x|, F the orthonormal discrete Fourier transform, P padding with zeros (Fienup 1982)
    Quantise         x rounded to the nearest of so many levels
    JPEG             D' q round(D x / q), D the cosine transform of 8 x 8 blocks, q a table (ITU-T T.81, annexes A, K)
    Clip             min(max(p + gain (x - p), low), high)
    Gamma            x^exponent
    Callable         a function of one's own

Rounding has derivative 0 almost everywhere, which tells a method nothing. `Quantise` and `JPEG` therefore pull back
straight through (Bengio et al. 2013): as though A were the identity. This is a choice, and not the gradient of A.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable as Function
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde.linalg.base import Operator


@dataclass(frozen=True)
class PhaseRetrieval(Operator):
    """The magnitudes of the Fourier transform of a picture padded with zeros, (B, *, H, W) -> (B, *, H', W').

    H' = ceil(oversampling H), and so for W'. They are the same for a picture, for the picture turned by 180 degrees,
    and, where there are margins of zeros, for the picture shifted within them. Where a magnitude is 0 its gradient is
    taken to be 0.

    Args:
        oversampling: >= 1; from 2 on the magnitudes determine almost every picture up to the above (Hayes 1982).

    Raises:
        ValueError: oversampling < 1; on use, no pictures.
    """

    oversampling: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.oversampling < math.inf:
            raise ValueError(f"oversampling = {self.oversampling}; it must be finite and 1 or more")

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim < 3:
            raise ValueError(f"{self} takes pictures (B, *, H, W), not {tuple(x.shape)}")
        # less than one part in 10^9 above a whole number is that number: 1.1 * 10 = 11.000000000000002
        size = [math.ceil(self.oversampling * n * (1 - 1e-9)) for n in x.shape[-2:]]
        return torch.fft.fft2(x, s=size, norm="ortho").abs()


class StraightThrough(Operator):
    """An operator that rounds, whose pullback is that of the identity; also where autograd sees through it."""

    differentiable = False

    @abc.abstractmethod
    def rounded(self, x: Tensor) -> Tensor:
        """A(x), in the shape of x; called without autograd."""

    def __call__(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.rounded(x)
        # exactly y, with the gradient of x
        return y + (x - x.detach()) if x.requires_grad else y

    def pullback(self, x: Tensor, v: Tensor) -> Tensor:
        return v


@dataclass(frozen=True)
class Quantise(StraightThrough):
    """x rounded to the nearest of so many levels, evenly spaced from low to high; 256 levels are 8 bits.

    Its derivative is 0, and its pullback straight through: for methods that only need to be told a direction.

    Raises:
        ValueError: fewer than 2 levels, or no low < high.
    """

    levels: int
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise ValueError(f"levels = {self.levels}; it must be 2 or more")
        _check_range(self.low, self.high)

    def rounded(self, x: Tensor) -> Tensor:
        step = (self.high - self.low) / (self.levels - 1)
        return self.low + step * ((x - self.low) / step).round().clamp(0, self.levels - 1)


@dataclass(frozen=True)
class JPEG(StraightThrough):
    """A picture (B, 1 or 3, H, W) through JPEG at a quality, of any size: coefficients rounded, colours not subsampled.

    The tables are those of ITU-T T.81 K.1 and K.2, scaled as libjpeg does; colours go through YCbCr (JFIF). Neither the
    picture nor the result is rounded to 8 bits; the result is clipped to [0, 1]. The pullback is straight through.

    Args:
        quality: 1 to 100.

    Raises:
        ValueError: a quality outside this range; on use, no pictures of 1 or 3 channels.
    """

    quality: int

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality = {self.quality}; it must lie in 1 to 100")

    def rounded(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ValueError(f"{self} takes pictures (B, 1 or 3, H, W), not {tuple(x.shape)}")
        if x.shape[1] == 1:
            return self._through(x, LUMINANCE).clamp(0, 1)
        colours = torch.tensor(YCBCR, dtype=torch.float64)
        grey = x.new_tensor([0.0, 128 / 255, 128 / 255])[:, None, None]
        ycc = torch.einsum("ij,bjhw->bihw", colours.to(x), x) + grey
        ycc = torch.cat([self._through(ycc[:, :1], LUMINANCE), self._through(ycc[:, 1:], CHROMINANCE)], 1)
        return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(colours).to(x), ycc - grey).clamp(0, 1)

    def _through(self, x: Tensor, table: tuple[int, ...]) -> Tensor:
        """Planes (B, C, H, W), each block's coefficients rounded to multiples of the scaled table."""
        q, D = self.table(table).to(x), _cosines().to(x)
        H, W = x.shape[-2:]
        # what is missing of the last blocks repeats the edge
        padded = F.pad(255 * x - 128, (0, -W % 8, 0, -H % 8), mode="replicate")
        blocks = padded.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
        blocks = D.mT @ (q * (D @ blocks @ D.mT / q).round()) @ D
        return (blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)[..., :H, :W] + 128) / 255

    def table(self, table: tuple[int, ...]) -> Tensor:
        """A table of the standard at this quality, (8, 8) whole numbers."""
        percent = 5000 // self.quality if self.quality < 50 else 200 - 2 * self.quality
        return ((percent * torch.tensor(table).reshape(8, 8) + 50) // 100).clamp(1, 255)


@dataclass(frozen=True)
class Clip(Operator):
    """min(max(pivot + gain (x - pivot), low), high): a sensor that saturates.

    A gain of 2 about 0 is overexposure by a stop. A gain of 2 about 0.5 is the high dynamic range (HDR) of the
    literature on diffusion posteriors: clip(2 x, -1, 1) on the scale [-1, 1]. The derivative is 0 where it saturates.

    Raises:
        ValueError: no low < high, or a gain that is not positive and finite.
    """

    low: float = 0.0
    high: float = 1.0
    gain: float = 1.0
    pivot: float = 0.0

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)
        _check_positive("gain", self.gain)
        if not math.isfinite(self.pivot):
            raise ValueError(f"pivot = {self.pivot}; it must be finite")

    def __call__(self, x: Tensor) -> Tensor:
        return (self.pivot + self.gain * (x - self.pivot)).clamp(self.low, self.high)


TOE = 2.0**-12
"""Below this `Gamma` is a straight line through 0: a power has no finite derivative there, or no value."""


@dataclass(frozen=True)
class Gamma(Operator):
    """x^exponent: the tone curve of a camera (exponent < 1 brightens); below 1/4096, negative x too, a straight line.

    Raises:
        ValueError: an exponent that is not positive and finite.
    """

    exponent: float

    def __post_init__(self) -> None:
        _check_positive("exponent", self.exponent)

    def __call__(self, x: Tensor) -> Tensor:
        return torch.where(x > TOE, x.clamp_min(TOE) ** self.exponent, x * TOE ** (self.exponent - 1))


@dataclass(frozen=True, eq=False)
class Callable(Operator):
    """A function of one's own, of a batch: (B, *) -> (B, *), each sample on its own; `check_function` tries it.

    Args:
        function: takes a tensor and returns one, floating point.
        differentiable: autograd sees through it. Otherwise it is given tensors that carry no gradient, and may well
            compute in NumPy.

    Raises:
        ValueError: on use, a result that is no floating-point tensor or has another number of samples.
    """

    function: Function[[Tensor], Tensor]
    differentiable: bool = True

    def __repr__(self) -> str:
        return f"Callable({getattr(self.function, '__name__', self.function)})"

    def __call__(self, x: Tensor) -> Tensor:
        y: Any = self.function(x if self.differentiable else x.detach())
        if not isinstance(y, Tensor):
            raise ValueError(
                f"{self} returned {type(y).__name__}, not a tensor; for NumPy, return torch.from_numpy(...)"
            )
        if not y.is_floating_point():
            raise ValueError(
                f"{self} returned {y.dtype}; a measurement is floating point: take float(), or stack the real and "
                "the imaginary part"
            )
        if y.ndim == 0 or len(y) != len(x):
            raise ValueError(
                f"{self} returned the shape {tuple(y.shape)} for {len(x)} samples {tuple(x.shape)}; the first "
                "dimension must stay"
            )
        return y.to(x)

    def pullback(self, x: Tensor, v: Tensor) -> Tensor:
        if not self.differentiable:
            raise ValueError(f"{self} is not differentiable; take a method that needs no gradient of A, such as DAPS")
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = self(x)
            if not y.requires_grad:
                raise ValueError(
                    f"autograd does not see through {self}; write it in torch, or say Callable(..., "
                    "differentiable=False) and take a method that needs no gradient of A, such as DAPS"
                )
            return torch.autograd.grad((y * v).sum(), x)[0]


def _check_range(low: float, high: float) -> None:
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low = {low}, high = {high}; they must be finite, with low < high")


def _check_positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} = {value}; it must be positive and finite")


def _cosines() -> Tensor:
    """The orthonormal cosine transform of 8 values (DCT-II), (8, 8) float64."""
    k, n = torch.arange(8, dtype=torch.float64)[:, None], torch.arange(8, dtype=torch.float64)
    D = torch.cos(math.pi * (n + 0.5) * k / 8) / 2
    D[0] /= math.sqrt(2)
    return D


# fmt: off
LUMINANCE = (
    16, 11, 10, 16,  24,  40,  51,  61,
    12, 12, 14, 19,  26,  58,  60,  55,
    14, 13, 16, 24,  40,  57,  69,  56,
    14, 17, 22, 29,  51,  87,  80,  62,
    18, 22, 37, 56,  68, 109, 103,  77,
    24, 35, 55, 64,  81, 104, 113,  92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103,  99,
)
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99,
    18, 21, 26, 66, 99, 99, 99, 99,
    24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99,
)
# fmt: on
YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)
