"""The training loop, a generator of records: the bar, the log and stopping belong to the caller.

    for record in train(state, batches, settings):
        print(record.loss)

A step is a function of the state and of (seed, step): stopping anywhere and going on from a saved state gives, bit for
bit on the same machine and thread count, what not stopping would have given.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoresde.denoisers import NetDenoiser
from scoresde.errors import NumericalError
from scoresde.training.batches import VALIDATION, Batches, generator_for
from scoresde.training.ema import EMA
from scoresde.training.loss import ContinuousTimes, Times, Weight, denoising_loss, low_discrepancy, simple


@dataclass(frozen=True)
class Settings:
    """How to train.

    Args:
        steps: in all; the learning rate's decay is laid out over them.
        learning_rate: its peak.
        warmup: steps of linear warm-up.
        final_rate: the learning rate at the end, as a share of the peak, reached along a cosine.
        clip: largest norm of the gradient; inf for none.
        weight: of the loss at t; times: the law of t.
        low_discrepancy: equally spaced t within a batch instead of independent ones.
        micro_batches: parts that a batch is computed in, for memory; the step is the same but for rounding.
        autocast: dtype of the network's arithmetic, float32 for none.
        max_skipped: steps in a row with a loss or gradient that is not finite before training stops.

    Raises:
        ValueError: a value out of range.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup: int = 100
    final_rate: float = 0.0
    clip: float = 1.0
    weight: Weight = simple
    times: Times = field(default_factory=ContinuousTimes)
    low_discrepancy: bool = True
    micro_batches: int = 1
    autocast: torch.dtype = torch.float32
    max_skipped: int = 10

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("warmup", 0), ("micro_batches", 1), ("max_skipped", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} = {getattr(self, name)}; it must be {low} or more")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate = {self.learning_rate}; it must be positive")
        if not 0 <= self.final_rate <= 1:
            raise ValueError(f"final_rate = {self.final_rate}; it must lie in [0, 1]")
        if not self.clip > 0:
            raise ValueError(f"clip = {self.clip}; it must be positive (inf for none)")

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        return self.learning_rate * (self.final_rate + (1.0 - self.final_rate) * cosine)


@dataclass
class TrainingState:
    """All that training changes; a checkpoint holds exactly this."""

    denoiser: NetDenoiser
    optimizer: torch.optim.Optimizer
    ema: EMA
    scaler: torch.amp.GradScaler
    step: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0


@dataclass(frozen=True)
class Record:
    """What one step did. A step whose loss or gradient was not finite changed nothing and has `skipped` set."""

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    skipped: bool


@dataclass(frozen=True)
class Validation:
    """The loss on held-out data: mean and standard error, weight 1 on eps."""

    step: int
    loss: float
    standard_error: float


def train(state: TrainingState, batches: Batches, settings: Settings) -> Iterator[Record]:
    """Train from `state.step` to `settings.steps`; yields after every step, when `state` is whole and may be saved.

    Raises:
        NumericalError: `max_skipped` steps in a row were not finite.
    """
    module = state.denoiser.module
    parameters = [p for p in module.parameters() if p.requires_grad]
    device = state.denoiser.device
    fp16 = settings.autocast is torch.float16
    while state.step < settings.steps:
        if not module.training:  # validation or a preview came between
            module.train()
        step = state.step
        rate = settings.rate(step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        x0, generator = batches.at(step)
        t, eps = _draw(x0, generator, settings)
        loss = _backward(state, x0.to(device), t.to(device), eps.to(device), settings)
        if fp16:
            state.scaler.unscale_(state.optimizer)
        norm = _clip(parameters, settings.clip)
        skipped = not (math.isfinite(loss) and math.isfinite(norm))
        if not skipped:
            # by hand and not scaler.step: the norm has told already whether the gradient is finite
            state.optimizer.step()
            state.ema.update()
        if fp16:
            state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.step = step + 1
        state.skipped += skipped
        state.skipped_in_a_row = state.skipped_in_a_row + 1 if skipped else 0
        yield Record(state.step, loss, norm, rate, skipped)
        if state.skipped_in_a_row >= settings.max_skipped:
            raise NumericalError(
                f"the loss or its gradient was not finite {settings.max_skipped} steps in a row, up to step "
                f"{state.step}; take a smaller learning rate than {settings.learning_rate:g}, or look at the data"
            )


def _draw(x0: Tensor, generator: torch.Generator, settings: Settings) -> tuple[Tensor, Tensor]:
    """t (B,) and eps (B, *) of a step."""
    n = len(x0)
    if settings.low_discrepancy:
        u = low_discrepancy(torch.rand((), generator=generator), n)
    else:
        u = torch.rand(n, generator=generator)
    return settings.times(u), torch.randn(x0.shape, generator=generator, dtype=x0.dtype)


def _backward(state: TrainingState, x0: Tensor, t: Tensor, eps: Tensor, settings: Settings) -> float:
    """Gradients of the mean loss, summed over micro-batches; the loss."""
    total = torch.zeros((), device=x0.device)
    size = math.ceil(len(x0) / settings.micro_batches)
    for part in zip(x0.split(size), t.split(size), eps.split(size), strict=True):
        with _autocast(x0.device.type, settings.autocast):
            loss = denoising_loss(state.denoiser, *part, settings.weight).sum() / len(x0)
        scaled = state.scaler.scale(loss) if settings.autocast is torch.float16 else loss
        scaled.backward()
        total = total + loss.detach()
    return total.item()


def _autocast(device_type: str, dtype: torch.dtype) -> contextlib.AbstractContextManager[object]:
    if dtype is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device_type, dtype)


def _clip(parameters: list[torch.nn.Parameter], limit: float) -> float:
    """Norm of the whole gradient, which is scaled down to `limit` when larger."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).item()
    if limit < norm < math.inf:
        torch._foreach_mul_(gradients, limit / norm)
    return norm


@torch.no_grad()
def validation_loss(
    state: TrainingState,
    fetch: Callable[[Tensor], Tensor],
    size: int,
    *,
    seed: int,
    times: Times,
    batch_size: int = 256,
    limit: int = 2048,
) -> Validation:
    """The simple loss of the first average (or of the parameters, when there is none) on held-out data.

    Always the same items, times and noise for a seed, so that two steps of a run are compared like with like.

    Args:
        fetch: rows -> (B, *); size: number of held-out items, of which the first `limit` are used.
    """
    n = min(size, limit)
    device = state.denoiser.device
    generator = generator_for(seed, VALIDATION, 0)
    u = low_discrepancy(torch.rand((), generator=generator), n)[torch.randperm(n, generator=generator)]
    losses = []
    state.denoiser.eval()
    with state.ema.applied():
        for start in range(0, n, batch_size):
            x0 = fetch(torch.arange(start, min(n, start + batch_size)))
            eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype)
            t = times(u[start : start + batch_size])
            losses.append(denoising_loss(state.denoiser, x0.to(device), t.to(device), eps.to(device)).cpu())
    loss = torch.cat(losses).double()
    return Validation(state.step, loss.mean().item(), loss.std(correction=min(1, n - 1)).item() / math.sqrt(n))
