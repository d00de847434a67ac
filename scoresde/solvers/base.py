"""What a solver is: `init(process, x) -> State`, `step(process, state, t, s, noise) -> State`.

A step goes from time t to time s, both floats in [0, 1]; s < t when sampling. `noise()` draws a standard normal
tensor for the step, `noise(1)` a second, independent one. A step owns the state it is given and may overwrite its
tensors: keep a clone of what you want to keep. Nothing in a step couples the samples of a batch.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar, Generic, NamedTuple, TypeVar

from torch import Tensor

from scoresde import grids
from scoresde.denoisers import Denoiser
from scoresde.reverse import Reverse
from scoresde.sde import SDE

Draw = Callable[..., Tensor]
Process = TypeVar("Process", bound=SDE, contravariant=True)


class State(NamedTuple):
    """Where a solver is: x (B, *), what it remembers or reuses from step to step, and the times that it was at."""

    x: Tensor
    memory: tuple[Tensor, ...] = ()
    past: tuple[float, ...] = ()


class Solver(abc.ABC, Generic[Process]):
    """One way to follow a process; the type parameter says which: any `SDE`, or a `Reverse`.

    Attributes:
        adaptive: chooses its own steps, so that it takes neither a step count nor a grid.
        grid: the spacing of times that it takes unless told otherwise, a name in `grids.GRIDS`.
        headroom: how much cleaner than the last time above 0 it may look inside the last step, in log-SNR.
    """

    adaptive: ClassVar[bool] = False
    grid: ClassVar[str] = grids.UNIFORM
    headroom: ClassVar[float] = 0.0

    @property
    @abc.abstractmethod
    def order(self) -> int:
        """Power of the step in the global error, weak order for a stochastic one; measured in the tests."""

    @property
    @abc.abstractmethod
    def evaluations(self) -> int:
        """Network calls in a step (0: as many as the tolerance asks)."""

    @property
    @abc.abstractmethod
    def stochastic(self) -> bool:
        """Whether it draws noise."""

    @abc.abstractmethod
    def reverse(self, denoiser: Denoiser) -> Reverse:
        """The reverse process that it follows when it samples from a denoiser."""

    @abc.abstractmethod
    def init(self, process: Process, x: Tensor) -> State:
        """The state at the start `x` (B, *), which the solver owns from then on."""

    @abc.abstractmethod
    def step(self, process: Process, state: State, t: float, s: float, noise: Draw) -> State:
        """The state at s, from the state at t."""

    def cleanest(self, denoiser: Denoiser) -> float:
        """The log-SNR that the last time above 0 of a grid may have, for a network's trained range to hold."""
        return denoiser.max_log_snr - self.headroom
