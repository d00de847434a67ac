"""From `--solver` and its options to a solver and its grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import click
from torch import Tensor

from scoresde import grids
from scoresde.denoisers import Denoiser
from scoresde.solvers import (
    DDIM,
    ERSDE,
    RK4,
    RK45,
    AdamsBashforth,
    AdaptiveSDE,
    Ancestral,
    DPMSolver,
    Euler,
    EulerMaruyama,
    ExponentialEuler,
    Heun,
    PredictorCorrector,
    SASolver,
    Scipy,
    TorchSDE,
    UniPC,
)
from scoresde.solvers.adams_bashforth import NoiseRatio, SquaredAngle, Time, Variable
from scoresde_cli.names import DEFAULT_STEPS, FIXED, SOLVERS, flag, takers

AnySolver = Any  # Solver[Reverse] | Solver[SDE], for whose difference only the library cares
VARIABLES: dict[str, Variable] = {"squared-angle": SquaredAngle(), "noise-ratio": NoiseRatio(), "time": Time()}


@dataclass(frozen=True)
class Wish:
    """The options of solvers, None where not given."""

    steps: int | None = None
    grid: str | None = None
    times: list[float] | None = None
    order: int | None = None
    eta: float | None = None
    variance: str | None = None
    variable: str | None = None
    method: str | None = None
    corrections: int | None = None
    snr: float | None = None
    langevin: str | None = None
    rtol: float | None = None
    atol: float | None = None

    def names(self) -> list[str]:
        """Those that were given."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]

    def pick(self, *names: str, **renamed: str) -> dict[str, Any]:
        """Of these, those that were given: the solver's own defaults stand for the others.

        Args:
            renamed: options by the solver's name for them.
        """
        wanted = {**{name: name for name in names}, **renamed}
        return {theirs: getattr(self, ours) for theirs, ours in wanted.items() if getattr(self, ours) is not None}

    @property
    def fixed(self) -> bool:
        """Whether it says how many steps."""
        return self.steps is not None or self.times is not None


def _flow(wish: Wish) -> AnySolver:
    """The probability flow: in fixed steps when they were asked for, adaptive otherwise."""
    return UniPC() if wish.fixed else RK45(**wish.pick("rtol", "atol"))


def _adams(wish: Wish) -> AnySolver:
    chosen = wish.pick("order", "variable")
    if wish.variable is not None:
        chosen["variable"] = VARIABLES[wish.variable]
    return AdamsBashforth(**chosen)


MAKERS: dict[str, Callable[[Wish], AnySolver]] = {
    "unipc": lambda wish: UniPC(**wish.pick("order")),
    "dpm": lambda wish: DPMSolver(**wish.pick("order")),
    "adams": _adams,
    "ddim": lambda wish: DDIM(**wish.pick("eta")),
    "heun": lambda wish: Heun(),
    "rk4": lambda wish: RK4(),
    "euler": lambda wish: Euler(),
    "ode": _flow,
    "rk45": lambda wish: RK45(**wish.pick("rtol", "atol")),
    "scipy": lambda wish: Scipy(**wish.pick("method", "rtol", "atol")),
    "ancestral": lambda wish: Ancestral(**wish.pick("variance")),
    "em": lambda wish: EulerMaruyama(**wish.pick("eta")),
    "exponential-em": lambda wish: ExponentialEuler(**wish.pick("eta")),
    "dpm-sde": lambda wish: DPMSolver(sde=True, **wish.pick("order")),
    "sa": lambda wish: SASolver(**wish.pick("eta", points="order")),
    "er-sde": lambda wish: ERSDE(**wish.pick(points="order")),
    "pc": lambda wish: PredictorCorrector(**wish.pick("corrections", "snr", size="langevin")),
    "adaptive-sde": lambda wish: AdaptiveSDE(**wish.pick("rtol", "atol", "eta")),
    "torchsde": lambda wish: TorchSDE(**wish.pick("method", "eta")),
}


def plain(solver: AnySolver) -> dict[str, Any]:
    """The options of a solver as plain values, under the library's names."""
    names = {variable: name for name, variable in VARIABLES.items()}
    values = {field.name: getattr(solver, field.name) for field in fields(solver)}
    return {name: names[value] if isinstance(value, Variable) else value for name, value in values.items()}


@dataclass(frozen=True)
class Plan:
    """A solver with its times.

    Args:
        times: a decreasing grid; None for a solver that chooses its own steps.
        grid: the grid's name; None for times of the user's own, and without any.
        changed: the options that are not at their defaults.
    """

    name: str
    solver: AnySolver
    times: Tensor | None
    grid: str | None
    changed: dict[str, Any]

    @property
    def steps(self) -> int | None:
        return None if self.times is None else len(self.times) - 1

    def label(self) -> str:
        """For folder names: the solver and its steps, and what is not the default."""
        parts = [self.name, self.steps, None if self.grid == self.solver.grid else self.grid]
        changed = [f"{option}{value}" for option, value in self.changed.items()]
        return "-".join([*(str(part) for part in parts if part is not None), *changed])


def make(name: str, wish: Wish) -> AnySolver:
    """The solver of that name with its options.

    Raises:
        UsageError: an option that it does not take, or options that contradict each other.
        ValueError: values out of range, also of times.
    """
    _check(name, wish)
    if wish.times is not None:
        grids.check_times(wish.times)
    return MAKERS[name](wish)


def plan(name: str, wish: Wish, denoiser: Denoiser) -> Plan:
    """The solver of that name with its options, and its grid for this denoiser.

    Raises:
        UsageError, ValueError: as for `make`, and a grid that the process does not have.
    """
    solver = make(name, wish)
    own = {option: getattr(wish, option) for option in wish.names() if option not in FIXED}
    changed = {k: v for k, v in own.items() if MAKERS[name](replace(wish, **{k: None})) != solver}
    if solver.adaptive:
        return Plan(name, solver, None, None, changed)
    if wish.times is not None:
        return Plan(name, solver, grids.check_times(wish.times), None, changed)
    grid = wish.grid or solver.grid
    times = grids.GRIDS[grid](denoiser.sde, wish.steps or DEFAULT_STEPS, solver.cleanest(denoiser))
    return Plan(name, solver, times, grid, changed)


def _check(name: str, wish: Wish) -> None:
    for option in wish.names():
        if option not in SOLVERS[name].options:
            raise click.UsageError(f"{flag(option)} means nothing to {name}; it is for {takers(option)}")
    low, high = SOLVERS[name].orders or (0, 0)
    if wish.order is not None and not low <= wish.order <= high:
        raise click.UsageError(f"--order {wish.order}: for {name} it must be from {low} to {high}")
    if wish.times is not None and (wish.steps is not None or wish.grid is not None):
        raise click.UsageError("--times is a grid already; leave out --steps and --grid")
    if name == "ode":
        if wish.grid is not None and not wish.fixed:
            raise click.UsageError("--grid needs --steps: without them ode chooses its own steps")
        if wish.fixed and (wish.rtol is not None or wish.atol is not None):
            raise click.UsageError("--rtol and --atol are for ode without --steps, which then chooses its own")
