"""The latents of some samples, and those on the way from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.denoisers import Denoiser
from scoresde.latents import slerp
from scoresde.noise import CounterNoise
from scoresde.reverse import prior_sample
from scoresde_cli.names import DEFAULT_FRAMES


@dataclass(frozen=True)
class Interpolation:
    """A way through the latents of samples.

    Args:
        stops: the samples' numbers, two or more.
        frames: from one stop to the next, both of them included.
    """

    stops: tuple[int, ...]
    frames: int

    @property
    def count(self) -> int:
        """Frames in all: a stop on the way ends one leg and starts the next."""
        return self._legs * (self.frames - 1) + 1

    @property
    def _legs(self) -> int:
        return len(self.stops) - 1

    def rows(self) -> list[int]:
        """The frames for a picture with one row of them for each leg, which shows stops on the way twice."""
        return [leg * (self.frames - 1) + i for leg in range(self._legs) for i in range(self.frames)]

    def label(self) -> str:
        """For folder names."""
        frames = [] if self.frames == DEFAULT_FRAMES else [f"frames{self.frames}"]
        return "-".join(["interpolate", *map(str, self.stops), *frames])

    def latents(self, frames: Sequence[int], denoiser: Denoiser, shape: Sequence[int], seed: int, t: float) -> Tensor:
        """x(t) of some of the frames (F, *), each by itself; at a stop it is where that sample starts, bit for bit."""
        ids = torch.tensor(self.stops, dtype=torch.int64)
        noise = CounterNoise(seed, ids, tuple(shape), denoiser.dtype, denoiser.device)
        x = prior_sample(denoiser.sde, noise.start(), t)
        pieces = self.frames - 1
        legs = [min(frame // pieces, self._legs - 1) for frame in frames]
        return torch.cat(
            [
                slerp(x[leg : leg + 1], x[leg + 1 : leg + 2], (frame - leg * pieces) / pieces)
                for frame, leg in zip(frames, legs, strict=True)
            ]
        )
