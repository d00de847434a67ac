"""Noise: normal numbers that depend on a seed, a sample and a step, and never on what was drawn before.

    noise = CounterNoise(seed=0, ids=torch.arange(64), shape=(1, 28, 28))
    x = noise.start()               # (64, 1, 28, 28), for t = 1
    draw = noise.at(k, t, s)        # for step k, which goes from t to s
    z = draw()                      # (64, 1, 28, 28), standard normal; draw(1) is a second one, independent

Nothing is consumed: a draw repeated gives the same numbers, and a run that is resumed at step k, split over
processes or cut down to one of its samples sees the noise of the whole run.

`CounterNoise` draws each step afresh. `BrownianNoise` reads its steps off one Brownian path, W_s - W_t over
sqrt(|s - t|), so that solvers with different grids can be compared on the same path.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scoresde._philox import Address, check_range, normal_blocks, philox4x32, philox_word, uniform_blocks
from scoresde.brownian import BrownianPath, rounded

__all__ = ["BrownianNoise", "CounterNoise", "Noise", "normal", "philox4x32", "philox_word", "uniform"]

# Streams keep apart what shares a seed, a sample and a step: the start, draw k of a step (stream 1 + k), what is no
# solver's noise (from 2^31 on), and Brownian path k (stream 2^32 - 1 - k).
START, STEPS = 0, 1
RESAMPLING, ACCEPTANCE, MEASURING, COMPONENTS = range((1 << 31) + 1, (1 << 31) + 5)


def uniform(
    seed: int,
    ids: Tensor,
    shape: tuple[int, ...],
    *,
    step: int = 0,
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Uniform numbers in the open interval (0, 1), shape (B, *shape); sample i depends on `ids[i]`, not on i.

    `seed` is in [0, 2^64); `ids` is (B,) int64 in [0, 2^32); `step` and `stream` are in [0, 2^32); `dtype` is
    float32 or float64. Raises ValueError or TypeError otherwise, and for samples of more than 2^32 blocks.
    """
    at = _locate(seed, ids, shape, step, stream, dtype, device)
    return _as_samples(uniform_blocks(at, dtype), shape)


def normal(
    seed: int,
    ids: Tensor,
    shape: tuple[int, ...],
    *,
    step: int = 0,
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Standard normal numbers, shape (B, *shape), with |z| up to 6.76 in float32 and 8.57 in float64.

    Arguments and errors as for `uniform`.
    """
    at = _locate(seed, ids, shape, step, stream, dtype, device)
    return _as_samples(normal_blocks(at, dtype, []), shape)


class Noise(ABC):
    """The randomness of a sampler."""

    @abstractmethod
    def start(self) -> Tensor:
        """Standard normals (B, *shape) for x at t = 1, independent of those of every step."""

    @abstractmethod
    def at(self, step: int, t: float, s: float) -> Callable[..., Tensor]:
        """A function `draw(k=0)` for step number `step`, from t to s: standard normals (B, *shape).

        Draws with different k in [0, 2^31) are independent; the same k gives the same numbers again.
        """


@dataclass(frozen=True, eq=False)
class CounterNoise(Noise):
    """Fresh noise for each step: sample i is bitwise the same function of (seed, ids[i]) in any batch.

    `seed` is in [0, 2^64); `ids` is (B,) int64 in [0, 2^32); `dtype` is float32 or float64. Raises ValueError
    or TypeError otherwise. The random words are the same everywhere; the normals made of them may differ
    between machines in the last bits.
    """

    seed: int
    ids: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    _address: Address = field(init=False, repr=False)
    _spare: list[NDArray[np.uint8]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        address = _locate(self.seed, self.ids, self.shape, 0, START, self.dtype, self.device)
        object.__setattr__(self, "_address", address)

    def start(self) -> Tensor:
        return self._draw(0, START)

    def at(self, step: int, t: float, s: float) -> Callable[..., Tensor]:
        """Draws for `step` in [0, 2^32); the times do not matter to fresh noise."""
        step = check_range("step", step, 32)
        return lambda k=0: self._draw(step, STEPS + check_range("draw", k, 31))

    def _draw(self, step: int, stream: int) -> Tensor:
        at = self._address._replace(step=step, stream=stream)
        return _as_samples(normal_blocks(at, self.dtype, self._spare), self.shape)


@dataclass(frozen=True, eq=False)
class BrownianNoise(Noise):
    """Brownian paths over [0, 1], one per sample, seen at any resolution and in any order.

    Path i is a function of (seed, ids[i]) alone, bitwise so whatever its companions (`brownian.py`). Draw k of any
    step reads path k, and these paths are independent. They are the same whatever `dtype`, so that runs in either
    precision follow the same ones. The start is that of `CounterNoise` with the same seed and ids. Times are rounded
    to float32. Arguments and errors as for `CounterNoise`; not for several threads.
    """

    seed: int
    ids: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"
    _address: Address = field(init=False, repr=False)
    _paths: dict[int, BrownianPath] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        address = _locate(self.seed, self.ids, self.shape, 0, START, self.dtype, self.device)
        object.__setattr__(self, "_address", address)

    def start(self) -> Tensor:
        return normal(self.seed, self.ids, self.shape, stream=START, dtype=self.dtype, device=self.device)

    def at(self, step: int, t: float, s: float) -> Callable[..., Tensor]:
        """Draws (W_s - W_t) / sqrt(|s - t|) for times in [0, 1]; the path does not ask which step it is.

        Raises:
            ValueError: a time outside [0, 1], or times that round to one.
        """
        start, end = rounded(t), rounded(s)
        if start == end:
            raise ValueError(
                f"a Brownian path cannot tell times {t} and {s} apart: they are the same in float32; take fewer steps"
            )
        scale = 1.0 / math.sqrt(abs(end - start))
        return lambda k=0: (self.path(k)(start, end) * scale).to(self.dtype).view(len(self.ids), *self.shape)

    def path(self, k: int = 0) -> BrownianPath:
        """Path `k` as torchsde takes it (`bm=`), for a float64 state of shape (B, prod(shape))."""
        if k not in self._paths:
            self._paths[k] = BrownianPath(self.seed, self._address.ids, math.prod(self.shape), k)
        return self._paths[k]


def _locate(
    seed: int,
    ids: Tensor,
    shape: tuple[int, ...],
    step: int,
    stream: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Address:
    """The address of these numbers, or what is wrong with it."""
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}; draw one and convert it")
    blocks = -(-math.prod(shape) // (4 if dtype == torch.float32 else 2))
    if blocks > 1 << 32:
        raise ValueError(f"a sample has at most 2^32 blocks of random words, got {blocks} for {tuple(shape)}")
    if ids.dtype != torch.int64 or ids.ndim != 1:
        raise ValueError(f"ids must be a 1-D int64 tensor, got {ids.dtype} of shape {tuple(ids.shape)}")
    for end in ids.aminmax() if len(ids) else ():
        check_range("ids", int(end), 32)
    return Address(
        check_range("seed", seed, 64),
        ids.to(device),
        blocks,
        check_range("step", step, 32),
        check_range("stream", stream, 32),
    )


def _as_samples(numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(B, blocks, numbers in a block) to (B, *shape), without what the last block has too many."""
    return numbers.flatten(1)[:, : math.prod(shape)].contiguous().view(len(numbers), *shape)
