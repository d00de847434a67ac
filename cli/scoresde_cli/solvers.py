"""From `--solver` and its options to a solver and its grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import click
from torch import Tensor

from scoresde import grids
from scoresde.sde import LinearSDE
from scoresde.solvers import DDIM, RK45, Ancestral, Euler, EulerMaruyama, Heun
from scoresde_cli.names import DEFAULT_STEPS, SOLVERS, flag

AnySolver = Any  # Solver[Reverse] | Solver[SDE], for whose difference only the library cares


@dataclass(frozen=True)
class Wish:
    """The options of solvers, None where not given."""

    steps: int | None = None
    grid: str | None = None
    times: list[float] | None = None
    eta: float | None = None
    variance: str | None = None
    rtol: float | None = None
    atol: float | None = None

    def names(self) -> list[str]:
        """Those that were given."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def pick(self, *names: str) -> dict[str, Any]:
        """Of these, those that were given: the solver's own defaults stand for the others."""
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


def _flow(wish: Wish) -> AnySolver:
    """The probability flow: in fixed steps when they were asked for, adaptive otherwise."""
    return RK45(**wish.pick("rtol", "atol")) if wish.steps is None and wish.times is None else Euler()


MAKERS: dict[str, Callable[[Wish], AnySolver]] = {
    "ancestral": lambda wish: Ancestral(**wish.pick("variance")),
    "em": lambda wish: EulerMaruyama(**wish.pick("eta")),
    "ode": _flow,
    "euler": lambda wish: Euler(),
    "heun": lambda wish: Heun(),
    "ddim": lambda wish: DDIM(**wish.pick("eta")),
    "rk45": lambda wish: RK45(**wish.pick("rtol", "atol")),
}


@dataclass(frozen=True)
class Plan:
    """A solver with its times.

    Args:
        times: a decreasing grid; None for a solver that chooses its own steps.
        grid: the grid's name; None for times of the user's own, and without any.
    """

    name: str
    solver: AnySolver
    times: Tensor | None
    grid: str | None

    @property
    def steps(self) -> int | None:
        return None if self.times is None else len(self.times) - 1

    def label(self) -> str:
        """For folder names: the solver and its steps, and what is not the default."""
        parts = [self.name, *(str(part) for part in (self.steps, self.grid) if part not in (None, "uniform"))]
        changed = [f for f in fields(self.solver) if getattr(self.solver, f.name) != f.default]
        return "-".join([*parts, *(f"{f.name}{getattr(self.solver, f.name)}" for f in changed)])


def plan(name: str, wish: Wish, sde: LinearSDE) -> Plan:
    """The solver of that name with its options, and its grid on this process.

    Raises:
        UsageError: an option that it does not take, or options that contradict each other.
        ValueError: values out of range.
    """
    _check(name, wish)
    solver = MAKERS[name](wish)
    if solver.adaptive:
        return Plan(name, solver, None, None)
    if wish.times is not None:
        return Plan(name, solver, grids.check_times(wish.times), None)
    grid = wish.grid or "uniform"
    return Plan(name, solver, grids.GRIDS[grid](sde, wish.steps or DEFAULT_STEPS), grid)


def _check(name: str, wish: Wish) -> None:
    for option in wish.names():
        if option not in SOLVERS[name].options:
            takers = [solver for solver, facts in SOLVERS.items() if option in facts.options]
            raise click.UsageError(f"{flag(option)} means nothing to {name}; it is for {', '.join(takers)}")
    if wish.times is not None and (wish.steps is not None or wish.grid is not None):
        raise click.UsageError("--times is a grid already; leave out --steps and --grid")
    if name == "ode":
        fixed = wish.steps is not None or wish.times is not None
        if wish.grid is not None and not fixed:
            raise click.UsageError("--grid needs --steps: without them ode chooses its own steps")
        if fixed and (wish.rtol is not None or wish.atol is not None):
            raise click.UsageError("--rtol and --atol are for ode without --steps, which then chooses its own")
