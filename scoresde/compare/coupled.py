r"""Every solver from the same x(1) along the same Brownian path, at every step count, so that differences are paired.

A stochastic solver reads the normalised increments (W_s - W_t) / sqrt(|s - t|) of one path W per sample
(`BrownianNoise`); a deterministic one starts from the same x(1). As its steps shrink a solver tends to the solution of
*its* equation on that path (strong convergence), and solvers of one equation to the same one. The equation is known by
the noise that short steps put in (`noise_law`): the reverse process of theory 4 with share eta has eta at every t, the
probability flow 0, and ER-SDE a share that falls towards the data. Errors are distances to a fine solution of the same
equation on the same path, whose own error is seen by halving its steps.

What theory lets one expect. The noise of theory 4 is additive, so that Euler-Maruyama has strong order 1 (Kloeden &
Platen 1992), and so have solvers that treat the linear part exactly: their noise, a weighted integral of dW over the
step, is read off as its value for a straight path, which is off by O(h^(3/2)) and independent from step to step. A
solver that ends on xhat0 (ancestral, SA, DPM-Solver++) leaves out the noise of its last step, sigma(t) of the last t
above 0: order 1/2 in a uniform grid, nothing to speak of on a grid that is dense at the data. The theorem's constant
grows with the Lipschitz constant of the score. On well separated modes a path near a watershed ends in another mode
after the smallest change, the mean square is made of these few, and no order shows: measure it on one Gaussian, or by
the median.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde import grids
from scoresde.compare.estimate import Estimate, median, over_seeds
from scoresde.denoisers import Denoiser
from scoresde.noise import BrownianNoise, CounterNoise
from scoresde.reverse import Reverse
from scoresde.sampling import sample, solve
from scoresde.sde import SDE
from scoresde.solvers import SASolver, Solver, UniPC

AnySolver = Solver[Reverse] | Solver[SDE]
Law = tuple[float, ...]
LAW_TIMES = (0.2, 0.5, 0.8)
SHORT = (4e-4, 1e-4)
FLOW: Law = (0.0,) * len(LAW_TIMES)
FINE_STEPS = 2000


def along_path(
    process: Reverse,
    solver: Solver[Reverse],
    times: Tensor,
    x: Tensor,
    noise: CounterNoise,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """`solve` on the Brownian path of the noise's seed and ids: the `loop` of `sample` for coupled runs."""
    path = BrownianNoise(noise.seed, noise.ids, noise.shape, noise.dtype, noise.device)
    return solve(process, solver, times, x, path, on_step)


def coupled_ends(
    denoiser: Denoiser,
    solver: AnySolver,
    times: Tensor | None,
    *,
    ids: Sequence[int] | Tensor,
    seed: int = 0,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """x(0), (n, *), from the x(1) of (seed, ids) along the Brownian paths of (seed, ids).

    Sample i is a function of (seed, ids[i]), the solver and its grid.

    Args:
        times: a decreasing grid; None for a solver that chooses its own steps. An adaptive solver of an SDE shares
            x(1) but not the path, which is read at the times of a grid.
        shape: of one sample, for a denoiser that does not know it.
        batch_size: samples computed at once; default all.
        on_step: called after every step of every batch.

    Raises:
        ValueError: arguments out of range, or a step too short for the path's times.
        NumericalError: values that are not finite.
    """
    return sample(
        denoiser,
        solver,
        times=times,
        ids=ids,
        seed=seed,
        shape=shape,
        batch_size=batch_size,
        on_step=on_step,
        loop=along_path,
    )


# --- which equation ------------------------------------------------------------------------------------


@torch.no_grad()
def noise_law(solver: AnySolver, denoiser: Denoiser, shape: Sequence[int] | None = None) -> Law:
    """The noise that a short step puts in, over that of the reverse SDE, at t = 0.2, 0.5 and 0.8, to two decimals.

    Solvers with one law follow one equation. It is measured on the solver, by a step with its draws all 0 and one with
    its draws all 1: what a solver does counts, not what it is called.

    Raises:
        ValueError: a solver that has no equation on a given path: one of an SDE that chooses its own steps, or puts in
            noise that does not shrink with the step (predictor-corrector); or no shape of a sample.
    """
    if not solver.stochastic:
        return FLOW
    if solver.adaptive:
        raise ValueError(f"{solver} chooses its own steps, so that it cannot read its noise off a given Brownian path")
    event = denoiser.shape if shape is None else tuple(shape)
    if event is None:
        raise ValueError("the denoiser does not know the shape of a sample; give shape=(...)")
    x = torch.zeros(1, *event, dtype=denoiser.dtype, device=denoiser.device)
    short, shorter = (_shares(solver, solver.reverse(denoiser), x, length) for length in SHORT)
    if any(abs(a - b) > 0.1 * a for a, b in zip(short, shorter, strict=True)):
        raise ValueError(f"{solver} puts in noise that does not shrink with the step: it tends to no SDE's solution")
    return tuple(round(share, 2) for share in shorter)


def about_law(law: Law) -> str:
    """The equation of a law, in words."""
    if law == FLOW:
        return "the probability flow"
    if _is_constant(law):
        share = sum(law) / len(law)
        return "the reverse SDE" if abs(share - 1.0) < 0.02 else f"the reverse process with noise share {share:.2f}"
    shares = ", ".join(f"{share:.2f} at t = {t:g}" for share, t in zip(law, LAW_TIMES, strict=True))
    return f"a reverse process with noise share {shares}"


def _is_constant(law: Law) -> bool:
    return max(law) - min(law) < 0.02


def _shares(solver: AnySolver, process: Reverse, x: Tensor, length: float) -> list[float]:
    """At each of LAW_TIMES, by steps of `length` t."""
    shares = []
    for t in LAW_TIMES:
        still, moved = (_step(process, solver, x, t, t * (1.0 - length), draws) for draws in (0.0, 1.0))
        unit = math.sqrt(float(process.at(t).g2) * length * t)
        shares.append((moved - still).double().square().mean().sqrt().item() / unit)
    return shares


def _step(process: Reverse, solver: Any, x: Tensor, t: float, s: float, draws: float) -> Tensor:
    x_s: Tensor = solver.step(process, solver.init(process, x.clone()), t, s, lambda k=0: torch.full_like(x, draws)).x
    return x_s


# --- how far from it -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reference:
    """The fine solution of one equation on the paths of (seed, ids).

    Args:
        law: of the equation, from `noise_law`.
        ends: x(0), (n, *).
        solver: what found it, in `steps` steps.
        error: root mean square distance to the ends with half as many steps: about the error of the latter, so that
            an error near it is not resolved; typical: of the median path.
    """

    law: Law
    ends: Tensor
    solver: AnySolver
    steps: int
    error: Estimate
    typical: Estimate


def fine_solution(
    denoiser: Denoiser,
    solver: AnySolver,
    *,
    ids: Sequence[int] | Tensor,
    seed: int = 0,
    steps: int = FINE_STEPS,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    on_step: Callable[[], None] | None = None,
) -> Reference:
    """The solution that `solver` tends to.

    The probability flow is followed by UniPC, the reverse process with one share eta by SA-Solver, both on the grid
    that is dense at the data; an equation of a solver's own (ER-SDE, by its law) by that solver.

    Args:
        steps: of the reference; another run has half as many.

    Raises:
        ValueError: fewer than two steps, or a solver without a `noise_law`.
    """
    if grids.check_steps(steps) < 2:
        raise ValueError("steps = 1; a reference needs at least 2, to be compared with half as many")
    law = noise_law(solver, denoiser, shape)
    fine = _fine_solver(solver, law)
    ends = []
    for count in (steps // 2, steps):
        times = grids.GRIDS[fine.grid](denoiser.sde, count, fine.cleanest(denoiser))
        ends.append(
            coupled_ends(denoiser, fine, times, ids=ids, seed=seed, shape=shape, batch_size=batch_size, on_step=on_step)
        )
    moved = path_distances(*ends)
    return Reference(law, ends[1], fine, steps, root_mean_square(moved), median(moved))


def _fine_solver(solver: AnySolver, law: Law) -> AnySolver:
    if law == FLOW:
        return UniPC()
    if _is_constant(law):
        return SASolver(eta=round(sum(law) / len(law), 2))
    return solver


def path_distances(ends: Tensor, truth: Tensor) -> Tensor:
    """Root mean square over the entries of each sample, (n, *) twice -> (n,) float64."""
    return (ends.double() - truth.double()).flatten(1).square().mean(1).sqrt()


def root_mean_square(distances: Tensor) -> Estimate:
    """sqrt(E d^2) of independent distances (n,), with the interval of its square."""
    square = over_seeds(distances.double().square())
    return Estimate(*(math.sqrt(max(value, 0.0)) for value in (square.value, square.low, square.high)))


@dataclass(frozen=True, eq=False)
class StrongError:
    """How far a solver's ends are from the solution of its equation on the same paths.

    Args:
        distances: of each path, (n,) float64, root mean square over its entries.
        root_mean_square: over the paths: the strong error, with its interval.
        median: over the paths; it shows the order on separated modes too, since the paths that change mode are few.
        reference: what they are measured against.
    """

    solver: AnySolver
    steps: int | None
    distances: Tensor
    root_mean_square: Estimate
    median: Estimate
    reference: Reference


def strong_errors(
    denoiser: Denoiser,
    runs: Sequence[tuple[AnySolver, Tensor | None]],
    *,
    ids: Sequence[int] | Tensor,
    seed: int = 0,
    fine_steps: int = FINE_STEPS,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    on_step: Callable[[], None] | None = None,
) -> list[StrongError]:
    """The strong error of each (solver, times), one reference for each equation among them.

    Raises:
        ValueError, NumericalError: as for `coupled_ends` and `fine_solution`.
    """
    same: dict[str, Any] = {"ids": ids, "seed": seed, "shape": shape, "batch_size": batch_size, "on_step": on_step}
    references: dict[Law, Reference] = {}
    errors = []
    for solver, times in runs:
        law = noise_law(solver, denoiser, shape)
        if law not in references:
            references[law] = fine_solution(denoiser, solver, steps=fine_steps, **same)
        ends = coupled_ends(denoiser, solver, times, **same)
        distances = path_distances(ends, references[law].ends)
        steps = None if times is None else len(times) - 1
        typical = root_mean_square(distances), median(distances)
        errors.append(StrongError(solver, steps, distances, *typical, references[law]))
    return errors
