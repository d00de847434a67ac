"""Data in a shuffled order that is a function of (seed, step): there is no reader's state to save.

Epoch e visits the items in a permutation drawn from (seed, e); batch number `step` is the items at places
step B .. step B + B - 1 of the endless sequence of epochs. Every random number of a step is drawn from a generator
seeded by (seed, step), so that a run that was stopped goes on with the very numbers it would have had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoresde.noise import philox_word

STEP, ORDER, VALIDATION = 1, 2, 3  # streams of sub-seeds


def generator_for(seed: int, stream: int, index: int) -> torch.Generator:
    """A CPU generator of its own for (seed, stream, index)."""
    # torch's CPU generator keeps the low 32 bits of a seed, and every bit of a Philox word is good
    return torch.Generator().manual_seed(philox_word(seed, index, stream) & 0xFFFFFFFF)


@dataclass
class Batches:
    """Batches of a data set.

    Args:
        fetch: rows (B,) -> (B, *) float32 tensor.
        size: number of items.
        batch_size: B.
        seed: of the order and of every draw made for a step.
        flip: mirror each item left to right with probability 1/2.

    Raises:
        ValueError: an empty data set or a batch size below 1.
    """

    fetch: Callable[[Tensor], Tensor]
    size: int
    batch_size: int
    seed: int = 0
    flip: bool = False
    _epoch: int = field(default=-1, init=False, repr=False)
    _order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long), init=False, repr=False)

    def __post_init__(self) -> None:
        if self.size < 1 or self.batch_size < 1:
            raise ValueError(f"{self.size} items in batches of {self.batch_size}: both must be 1 or more")

    def at(self, step: int) -> tuple[Tensor, torch.Generator]:
        """The data of a step (counted from 0), (B, *), and the generator for the step's other draws."""
        generator = generator_for(self.seed, STEP, step)
        x = self.fetch(self._rows(step * self.batch_size))
        if self.flip:
            mirrored = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(mirrored.reshape(-1, *(1,) * (x.ndim - 1)), x.flip(-1), x)
        return x, generator

    def _rows(self, start: int) -> Tensor:
        parts, need = [], self.batch_size
        while need > 0:
            epoch, offset = divmod(start, self.size)
            if epoch != self._epoch:
                self._epoch = epoch
                self._order = torch.randperm(self.size, generator=generator_for(self.seed, ORDER, epoch))
            part = self._order[offset : offset + need]
            parts.append(part)
            start, need = start + len(part), need - len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)
