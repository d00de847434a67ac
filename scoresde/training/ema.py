"""Exponential moving averages of a module's parameters, at several horizons."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class EMA:
    """Averages with decays such as 0.999, each warmed up as min(decay, (1 + n) / (10 + n)) after n updates.

    The warm-up lets the early average follow the parameters instead of remembering their random start.

    Raises:
        ValueError: a decay outside [0, 1).
    """

    def __init__(self, module: nn.Module, decays: Sequence[float]) -> None:
        for decay in decays:
            if not 0 <= decay < 1:
                raise ValueError(f"EMA decay = {decay}; each must lie in [0, 1)")
        self.decays = tuple(decays)
        self.updates = 0
        self._names = [name for name, _ in module.named_parameters()]
        self._parameters: list[Tensor] = [p for _, p in module.named_parameters()]
        self._averages = [[p.detach().clone() for p in self._parameters] for _ in self.decays]

    @torch.no_grad()
    def update(self) -> None:
        """Take the module's present parameters into every average."""
        warm = (1 + self.updates) / (10 + self.updates)
        self.updates += 1
        for decay, averages in zip(self.decays, self._averages, strict=True):
            torch._foreach_lerp_(averages, self._parameters, 1.0 - min(decay, warm))

    def state(self, index: int = 0) -> dict[str, Tensor]:
        """The parameters averaged at one horizon, by name."""
        return dict(zip(self._names, self._averages[index], strict=True))

    @torch.no_grad()
    def load(self, index: int, state: dict[str, Tensor], updates: int) -> None:
        """Put averages back, after `updates` updates."""
        for name, average in zip(self._names, self._averages[index], strict=True):
            average.copy_(state[name])
        self.updates = updates

    @contextlib.contextmanager
    def applied(self, index: int = 0) -> Iterator[None]:
        """The module with averaged parameters for the time of a `with`; nothing changes when there is no average."""
        if not self.decays:
            yield
            return
        with torch.no_grad():
            kept = [p.detach().clone() for p in self._parameters]
            torch._foreach_copy_(self._parameters, self._averages[index])
            try:
                yield
            finally:
                torch._foreach_copy_(self._parameters, kept)
