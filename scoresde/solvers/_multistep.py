r"""The step that all multistep methods share: x <- keep x + sum_j w_j e_j + noise z, e_j the estimates at past times.

A method says what it remembers (x0, or the slope of the flow), how x and the integral of a polynomial through the
remembered values go over a step, and how many values it uses. From that the step follows as a few numbers, computed
once for a grid, and one addition to x for each of them.

Corrections cost nothing more. When the estimate at the end of a step is there, the step could have been done better:
with the polynomial through that estimate too (Zhao et al. 2023; in start-up, any multistep method that keeps its
order). The better step differs from the one that was taken by a combination of the same estimates, so it is added to
the next step.
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde import grids
from scoresde.parameterisations import Pair, Parameterisation
from scoresde.reverse import Reverse
from scoresde.sde import Level, LinearSDE
from scoresde.solvers.base import Draw, Solver, State

AMPLIFICATION = 25.0
"""Sum of |weights| over their sum: 6.7 for Adams-Bashforth 4 with equal steps, 7 for a parabola one step ahead."""


class Correction(NamedTuple):
    """Steps and estimates are counted back from now: estimate 0 is the newest, step i ended where estimate i was made.

    Args:
        step: which one is corrected.
        old, new: the estimates that it used, and that it should have used.
    """

    step: int
    old: slice
    new: slice


def corrected(old: int, new: int) -> tuple[Correction, ...]:
    """The step just taken, done again through the `new` newest estimates; it used the `old` ones before that."""
    return (Correction(0, old=slice(1, 1 + old), new=slice(0, new)),) if old else ()


class Multistep(Solver[Reverse]):
    """A solver that remembers its last estimates, from noise to data. One evaluation a step."""

    evaluations = 1
    grid = grids.LOGISTIC
    repeated: ClassVar[int | None] = None
    """The step, counted from 0, whose estimate is made once more, at the corrected x."""

    @property
    @abc.abstractmethod
    def points(self) -> int:
        """How many estimates a step uses, once there are as many."""

    @property
    @abc.abstractmethod
    def remembered(self) -> int:
        """How many estimates it keeps, the newest included: `points`, and one more to correct each step."""

    @abc.abstractmethod
    def corrections(self, known: int) -> Sequence[Correction]:
        """What to correct when a new estimate is there and `known` others."""

    @abc.abstractmethod
    def estimate(self, parameterisation: Parameterisation, t: Level) -> Pair:
        """(k, m): what is remembered is k x + m P, P the denoiser's prediction."""

    @abc.abstractmethod
    def keep(self, t: Level, s: Level) -> float:
        """The factor of x in a step from t to s."""

    @abc.abstractmethod
    def quadrature(self, points: Sequence[Level], t: Level, s: Level) -> np.ndarray:
        """The weights, in a step from t to s, of the estimates at `points`."""

    @abc.abstractmethod
    def spread(self, t: Level, s: Level) -> float:
        """The standard deviation of the noise of a step from t to s."""

    def init(self, process: Reverse, x: Tensor) -> State:
        return State(x)

    def step(self, process: Reverse, state: State, t: float, s: float, noise: Draw) -> State:
        x, memory, past = state
        denoiser, level = process.denoiser, process.at(t)
        plan = _plan(self, denoiser.parameterisation, denoiser.sde, past, t, s)
        # the oldest estimate makes room for the newest
        room = memory[-1] if len(memory) == self.remembered else torch.empty_like(x)
        memory = (room, *memory[: self.remembered - 1])
        plan.fold.write(x, denoiser.predict(x, level), room)
        if plan.first_change:
            _add(x, plan.first_change, memory)
            plan.fold.write(x, denoiser.predict(x, level), room)
        if plan.keep == 0.0:
            torch.mul(room, plan.weights[0], out=x)
        else:
            x.mul_(plan.keep).add_(room, alpha=plan.weights[0])
        _add(x, plan.weights[1:], memory[1:])
        if plan.noise > 0.0:
            x.add_(noise(), alpha=plan.noise)
        return State(x, memory, (t, *past)[: self.remembered - 1])


def _add(x: Tensor, weights: tuple[float, ...], memory: tuple[Tensor, ...]) -> None:
    for weight, estimate in zip(weights, memory, strict=False):
        x.add_(estimate, alpha=weight)


class Fold(NamedTuple):
    """An estimate k x + m P as factor h, h = x + mix P or P + mix x: one operation where k x + m P takes two."""

    factor: float
    from_x: bool
    mix: float

    def write(self, x: Tensor, prediction: Tensor, out: Tensor) -> None:
        """h, into `out`."""
        if self.from_x:
            torch.add(x, prediction, alpha=self.mix, out=out)
        else:
            torch.add(prediction, x, alpha=self.mix, out=out)


class Plan(NamedTuple):
    """One step in numbers: x <- keep x + sum_j weights_j h_j + noise z, after x <- x + sum_j first_change_j h_j."""

    keep: float
    weights: tuple[float, ...]
    noise: float
    fold: Fold
    first_change: tuple[float, ...]


@functools.lru_cache(maxsize=16384)
def _plan(
    solver: Multistep, parameterisation: Parameterisation, sde: LinearSDE, past: tuple[float, ...], t: float, s: float
) -> Plan:
    """The step from t to s after steps from the times `past`, newest first.

    Raises:
        ValueError: s is not below t.
    """
    if not s < t:
        raise ValueError(
            f"{solver} goes from noise to data, but was asked to step from t = {t:g} to {s:g}; "
            "for the way to the noise take Heun, RK4, RK45 or DDIM(eta=0)"
        )
    level_s = sde.at(s)
    at = [sde.at(time) for time in (t, *past)]
    folds = [_fold(solver.estimate(parameterisation, level)) for level in at]
    factors = np.array([fold.factor for fold in folds])
    keep = solver.keep(at[0], level_s)
    weights, change = np.zeros(len(at)), np.zeros(len(at))
    used = at[: solver.points]
    weights[: len(used)] = _bounded(solver, used, at[0], level_s)
    for step, old, new in solver.corrections(len(past)):
        a, b = at[step + 1], at[step]
        carried = solver.keep(b, at[0])
        change[new] += carried * solver.quadrature(at[new], a, b)
        change[old] -= carried * _bounded(solver, at[old], a, b)
    repeat = len(past) == solver.repeated
    if not repeat:
        weights += keep * change
    return Plan(
        keep,
        tuple((weights * factors).tolist()),
        solver.spread(at[0], level_s),
        folds[0],
        tuple((change * factors).tolist()) if repeat else (),
    )


def _bounded(solver: Multistep, points: Sequence[Level], t: Level, s: Level) -> np.ndarray:
    """The weights of the newest of `points`, as many as do not amplify beyond `AMPLIFICATION`; 0 for the others.

    A long step after short ones, as the last one of many grids, would extrapolate the noise of the estimates.
    """
    weights = np.zeros(len(points))
    for count in range(len(points), 0, -1):
        weights[:count] = solver.quadrature(points[:count], t, s)
        weights[count:] = 0.0
        if np.abs(weights).sum() <= AMPLIFICATION * abs(weights.sum()):
            break
    return weights


def _fold(pair: Pair) -> Fold:
    on_x, on_p = (float(c) for c in pair)
    if abs(on_x) >= abs(on_p):
        return Fold(on_x, True, on_p / on_x)
    return Fold(on_p, False, on_x / on_p)


def weights_of_moments(v: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """w with sum_j w_j v_j^m = moments_m: integrals of the polynomial through values at the points v."""
    return np.linalg.solve(np.vander(v, increasing=True).T, moments)


def check_order(value: int, low: int, high: int, name: str = "order") -> None:
    """Refuse an order that does not exist.

    Raises:
        ValueError: not a whole number in [low, high].
    """
    if value not in range(low, high + 1):
        raise ValueError(f"{name} = {value}; it must be a whole number from {low} to {high}")
