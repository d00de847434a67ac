"""The loop: from noise to data and back, one generator for every solver.

    for t, state in trajectory(process, solver, times, x1, noise): ...

`sample`, `encode` and `decode` are that loop with its objects made: the grid, the counter-based noise, the batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from scoresde import grids
from scoresde.denoisers import Denoiser
from scoresde.errors import NumericalError
from scoresde.noise import CounterNoise, Noise
from scoresde.reverse import Reverse, prior_sample
from scoresde.sde import SDE
from scoresde.solvers import Heun, Solver, State, UniPC

Process = TypeVar("Process", bound=SDE)
DEFAULT_STEPS = 100


def trajectory(
    process: Process, solver: Solver[Process], times: Tensor, x: Tensor, noise: Noise
) -> Iterator[tuple[float, State]]:
    """Follow `process` along `times`, from `x` (B, *) at times[0]; yields (s, state at s) after each step.

    `x` is not altered. The tensors of a state are reused by the next step: clone what you keep.
    """
    state = solver.init(process, x.clone())
    for k, (t, s) in enumerate(itertools.pairwise(times.tolist())):
        state = solver.step(process, state, t, s, noise.at(k, t, s))
        yield s, state


def solve(
    process: Process,
    solver: Solver[Process],
    times: Tensor,
    x: Tensor,
    noise: Noise,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """x at times[-1]; `on_step` is called after every step.

    Raises:
        NumericalError: a value that is not finite, named by sample, step and t.
    """
    end = x
    for _, state in trajectory(process, solver, times, x, noise):
        end = state.x
        if on_step is not None:
            on_step()
    check_finite(end, process, solver, times, x, noise)
    return end


def check_finite(
    end: Tensor, process: Process, solver: Solver[Process], times: Tensor, x: Tensor, noise: Noise
) -> None:
    """Refuse an `end`, reached from `x`, that is not finite: the one time that the host waits for a GPU.

    Where it is not, the run is repeated, looking at every step: the noise is the same, and good runs need not pay for
    the looking.

    Raises:
        NumericalError: names sample, step and t.
    """
    if bool(end.isfinite().all()):
        return
    if not bool(x.isfinite().all()):
        raise NumericalError("the start holds values that are not finite")
    t = float(times[0])
    for k, (s, state) in enumerate(trajectory(process, solver, times, x, noise)):
        finite = state.x.flatten(1).isfinite().all(1)
        if not bool(finite.all()):
            sample = int((~finite).nonzero()[0])
            raise NumericalError(
                f"{solver}: sample {sample} of the batch is not finite after step {k + 1} of {len(times) - 1}, "
                f"from t = {t:.6g} to {s:.6g}; "
                "check the network there, take smaller steps or a solver for stiff ranges (DDIM, Ancestral)"
            )
        t = s
    raise NumericalError(f"{solver}: samples were not finite at t = {t:.6g}, but in a second run they were")


Loop = Callable[[Reverse, Solver[Reverse], Tensor, Tensor, CounterNoise, Callable[[], None] | None], Tensor]
"""What takes a batch from times[0] to times[-1], with the arguments of `solve`."""


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    solver: Solver[Reverse] | Solver[SDE] | None = None,
    *,
    steps: int | None = None,
    times: Tensor | Sequence[float] | None = None,
    n: int | None = None,
    ids: Sequence[int] | Tensor | None = None,
    x1: Tensor | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    shape: Sequence[int] | None = None,
    on_step: Callable[[], None] | None = None,
    loop: Loop = solve,
) -> Tensor:
    """Draw from the model: (n, *).

    Sample i is a function of (seed, ids[i]) alone: bitwise so, on one machine, with a given `batch_size` (the last
    batch is padded); within rounding otherwise.

    Args:
        denoiser: exact, trained or guided.
        solver: default `UniPC()`, the probability flow.
        steps: steps of the solver's own grid (`solver.grid`), default 100.
        times: a decreasing grid of your own instead (see `scoresde.grids`); adaptive solvers take neither.
        n: how many, default 1.
        ids: which samples instead of 0..n-1, as numbers in [0, 2^32).
        x1: (n, *) starts at times[0] instead of draws from N(0, sigma(times[0])^2 I).
        seed: in [0, 2^64).
        batch_size: samples computed at once; default all.
        shape: of one sample, for a denoiser that does not know it.
        on_step: called after every step of every batch, for a progress bar.
        loop: what takes a batch along the grid: `solve`, or on a GPU a `CudaGraph()`, to be given a `batch_size`.

    Raises:
        ValueError: arguments that contradict each other or are out of range.
        NumericalError: values that are not finite, named by sample, step and t.
    """
    solver = UniPC() if solver is None else solver
    grid = _grid(denoiser, solver, steps, times)
    id_tensor = sample_ids(n, ids, x1)
    event = _event_shape(denoiser, shape, x1)
    count = len(id_tensor)
    batch = count if batch_size is None else batch_size
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; it must be 1 or more")
    out = torch.empty(count, *event, dtype=denoiser.dtype, device=denoiser.device)
    process = solver.reverse(denoiser)
    was_training = denoiser.training
    denoiser.eval()
    try:
        for start in range(0, count, max(batch, 1)):
            # the last batch is filled up with its own first entry: a network's rounding depends on the batch's shape
            rows = torch.arange(start, start + batch)
            rows = torch.where(rows < count, rows, start)
            noise = CounterNoise(seed, id_tensor[rows], event, denoiser.dtype, denoiser.device)
            if x1 is None:
                x = prior_sample(denoiser.sde, noise.start(), grid[0].item())
            else:
                x = x1.to(device=denoiser.device, dtype=denoiser.dtype)[rows.to(denoiser.device)]
            x = x.contiguous(memory_format=denoiser.memory_format)
            keep = min(batch, count - start)
            out[start : start + keep] = loop(process, solver, grid, x, noise, on_step)[:keep]
    finally:
        denoiser.train(was_training)
    return out


def decode(
    denoiser: Denoiser,
    x1: Tensor,
    solver: Solver[Reverse] | Solver[SDE] | None = None,
    *,
    steps: int | None = None,
    times: Tensor | Sequence[float] | None = None,
) -> Tensor:
    """x(0) from latents `x1` at t = 1: `sample` from given starts, by a deterministic solver, default `UniPC()`."""
    return sample(denoiser, _deterministic(UniPC() if solver is None else solver), steps=steps, times=times, x1=x1)


@torch.no_grad()
def encode(
    denoiser: Denoiser,
    x0: Tensor,
    solver: Solver[Reverse] | Solver[SDE] | None = None,
    *,
    steps: int | None = None,
    times: Tensor | Sequence[float] | None = None,
) -> Tensor:
    """The latents x(1) that the probability flow carries data `x0` (n, *) to; `decode` goes back.

    `times` is a decreasing grid, as for `sample`; it is followed upwards. The default solver is `Heun()`: multistep
    methods go from noise to data only.

    Raises:
        ValueError: a solver that draws noise, or arguments out of range.
        NumericalError: values that are not finite.
    """
    solver = _deterministic(Heun() if solver is None else solver)
    grid = _grid(denoiser, solver, steps, times).flip(0)
    x = x0.to(device=denoiser.device, dtype=denoiser.dtype).contiguous(memory_format=denoiser.memory_format)
    noise = CounterNoise(0, torch.arange(len(x)), tuple(x.shape[1:]), x.dtype, x.device)
    was_training = denoiser.training
    denoiser.eval()
    try:
        return solve(solver.reverse(denoiser), solver, grid, x, noise)
    finally:
        denoiser.train(was_training)


def _deterministic(solver: Solver[Reverse] | Solver[SDE]) -> Solver[Reverse] | Solver[SDE]:
    if solver.stochastic:
        raise ValueError(f"{solver} draws noise; latents need a deterministic solver: Heun, RK4, RK45, DDIM(eta=0)")
    return solver


def _grid(
    denoiser: Denoiser,
    solver: Solver[Reverse] | Solver[SDE],
    steps: int | None,
    times: Tensor | Sequence[float] | None,
) -> Tensor:
    if solver.adaptive:
        if steps is not None or times is not None:
            raise ValueError(f"{solver} chooses its own steps: give tolerances instead of steps or times")
        return grids.uniform(1)
    if times is None:
        steps = DEFAULT_STEPS if steps is None else steps
        return grids.GRIDS[solver.grid](denoiser.sde, steps, solver.cleanest(denoiser))
    grid = grids.check_times(times)
    if steps is not None and steps != len(grid) - 1:
        raise ValueError(f"steps = {steps}, but times has {len(grid) - 1} steps; give one of the two")
    return grid


def sample_ids(n: int | None, ids: Sequence[int] | Tensor | None, x1: Tensor | None = None) -> Tensor:
    """The numbers of the samples that these arguments of `sample` ask for, (n,) int64.

    Raises:
        ValueError: they contradict each other.
    """
    if n is not None and n < 1:
        raise ValueError(f"n = {n}; it must be 1 or more")
    if ids is None:
        count = n if n is not None else 1 if x1 is None else len(x1)
        id_tensor = torch.arange(count)
    else:
        id_tensor = torch.as_tensor(ids, dtype=torch.int64)
    for name, wanted in (("n", n), ("x1", None if x1 is None else len(x1))):
        if wanted is not None and wanted != len(id_tensor):
            raise ValueError(f"{name} asks for {wanted} samples, but there are {len(id_tensor)} ids")
    return id_tensor


def _event_shape(denoiser: Denoiser, shape: Sequence[int] | None, x1: Tensor | None) -> tuple[int, ...]:
    known = [tuple(s) for s in (shape, denoiser.shape, None if x1 is None else x1.shape[1:]) if s is not None]
    if not known:
        raise ValueError("the denoiser does not know the shape of a sample; give shape=(...)")
    if any(s != known[0] for s in known):
        raise ValueError(f"shapes of one sample contradict each other: {' and '.join(map(str, dict.fromkeys(known)))}")
    return known[0]
