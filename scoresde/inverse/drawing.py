"""Draws from p(x | y): `restore`, by any method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from scoresde import grids
from scoresde.denoisers import Denoiser
from scoresde.inverse.measurement import GaussianMeasurement
from scoresde.inverse.mmps import MMPS
from scoresde.inverse.problem import Draws, Method, Problem, Run
from scoresde.inverse.resampling import offset, systematic
from scoresde.reverse import Reverse
from scoresde.sampling import sample_ids
from scoresde.sde import SDE
from scoresde.solvers import Solver


class Choices(TypedDict, total=False):
    """The keyword arguments of `posterior_draws`, for what hands them on."""

    method: Method | None
    solver: Solver[Reverse] | Solver[SDE] | None
    steps: int | None
    times: Tensor | Sequence[float] | None
    n: int | None
    ids: Sequence[int] | Tensor | None
    seed: int
    batch_size: int | None
    shape: Sequence[int] | None
    on_step: Callable[[], None] | None


def restore(denoiser: Denoiser, measurement: GaussianMeasurement, y: Tensor, **choices: Unpack[Choices]) -> Tensor:
    """Equally weighted draws of x given y: (n, *). Arguments and errors as for `posterior_draws`."""
    return equally_weighted(posterior_draws(denoiser, measurement, y, **choices), choices.get("seed", 0))


@torch.no_grad()
def posterior_draws(
    denoiser: Denoiser,
    measurement: GaussianMeasurement,
    y: Tensor,
    *,
    method: Method | None = None,
    solver: Solver[Reverse] | Solver[SDE] | None = None,
    steps: int | None = None,
    times: Tensor | Sequence[float] | None = None,
    n: int | None = None,
    ids: Sequence[int] | Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    shape: Sequence[int] | None = None,
    on_step: Callable[[], None] | None = None,
) -> Draws:
    """Draws of x given y, with their weights, an estimate of log p(y) and diagnostics where the method has them.

    Sample i is a function of (seed, ids[i]) alone, as for `sample`, but for methods that are `interacting`.

    Args:
        denoiser: of the prior.
        measurement: y = A(x) + noise_std z.
        y: one measurement, for all draws; or (n, *), one for each draw.
        method: default `MMPS()`.
        solver: for methods that are guided denoisers, each of which has a default.
        steps, times: of the grid, at most one of the two; by default the method's own.
        n: how many, default 1.
        ids: which samples instead of 0..n-1, as numbers in [0, 2^32).
        seed: in [0, 2^64).
        batch_size: samples computed at once; default all. Interacting methods only split what the network sees.
        shape: of one x, for a denoiser that does not know it.
        on_step: called after every step of every batch, for a progress bar.

    Raises:
        ValueError: arguments that contradict each other or are out of range; a problem that is not one for this
            method.
        NumericalError: values that are not finite.
    """
    method = MMPS() if method is None else method
    if solver is not None and not method.solvers:
        raise ValueError(f"{method} makes its own steps; leave out the solver")
    if steps is not None and steps < 1:
        raise ValueError(f"steps = {steps}; it must be 1 or more")
    if steps is not None and times is not None:
        raise ValueError("steps and times both say where to step; give one of the two")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; it must be 1 or more")
    event = _event_shape(denoiser, shape)
    y = _check_y(measurement, torch.as_tensor(y).to(denoiser.device, denoiser.dtype), event)
    rows = sample_ids(len(y) if n is None and ids is None else n, ids)
    if len(y) not in (1, len(rows)):
        raise ValueError(f"y holds {len(y)} measurements, for {len(rows)} draws; give one, or one for each draw")
    if method.interacting and len(y) > 1:
        raise ValueError(f"the samples of {method} interact: it takes one measurement at a time, not {len(y)}")
    grid = None if times is None else grids.check_times(times)
    run = Run(rows, seed, steps, grid, solver, batch_size, on_step or (lambda: None))
    was_training = denoiser.training
    denoiser.eval()
    try:
        return _in_batches(method, Problem(denoiser, measurement, y, event), run)
    finally:
        denoiser.train(was_training)


def _in_batches(method: Method, problem: Problem, run: Run) -> Draws:
    """All draws at once, or a batch at a time, the last one filled up with its own first entry."""
    count, size = len(run.ids), run.batch_size
    if method.interacting or size is None:
        return method.draw(problem, run)
    parts = []
    for start in range(0, count, size):
        rows = torch.arange(start, start + size)
        rows = torch.where(rows < count, rows, start)
        batch = problem if len(problem.y) == 1 else replace(problem, y=problem.y[rows])
        part = method.draw(batch, replace(run, ids=run.ids[rows]))
        parts.append((part, min(size, count - start)))
    first = parts[0][0]
    return Draws(torch.cat([part.x[:keep] for part, keep in parts]), diagnostics=first.diagnostics)


def equally_weighted(draws: Draws, seed: int = 0, n: int | None = None) -> Tensor:
    """(n, *) draws of equal weight: as they are, or resampled systematically by their weights, where needed."""
    n = len(draws.x) if n is None else n
    if draws.log_weights is None and n == len(draws.x):
        return draws.x
    log_weights = torch.zeros(len(draws.x)) if draws.log_weights is None else draws.log_weights
    return draws.x[systematic(log_weights, offset(seed, 0), n).to(draws.x.device)]


def _event_shape(denoiser: Denoiser, shape: Sequence[int] | None) -> tuple[int, ...]:
    if shape is None and denoiser.shape is None:
        raise ValueError("the denoiser does not know the shape of a sample; give shape=(...)")
    return tuple(denoiser.shape or ()) if shape is None else tuple(shape)


def _check_y(measurement: GaussianMeasurement, y: Tensor, event: tuple[int, ...]) -> Tensor:
    """y as (1, *) or (n, *)."""
    expected = measurement.operator.out_shape(event)
    if tuple(y.shape) == expected:
        y = y[None]
    if tuple(y.shape[1:]) != expected or len(y) == 0:
        raise ValueError(
            f"y has shape {tuple(y.shape)}; for x of shape {event} the operator gives {expected}, "
            "so y must have that shape, or one more dimension in front with a measurement for each draw"
        )
    if not bool(y.isfinite().all()):
        raise ValueError("y holds values that are not finite")
    return y
