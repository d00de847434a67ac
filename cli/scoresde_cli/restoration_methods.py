"""From `--method` and its options to a method, and from `--solver` to the solver that it takes."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
import torch

from scoresde.denoisers import Denoiser
from scoresde.inverse import Method, Units
from scoresde.inverse.guided import Guided
from scoresde.linalg import Identity, Operator
from scoresde_cli import names, restoration_options, solvers


@dataclass(frozen=True)
class Plan:
    """A method with its steps.

    Args:
        particles, twist: for methods that have any; a twist of None goes by the measurement.
        solver: for guided methods, and its name; None for the method's own, and for methods that take none.
        steps: None where an adaptive solver chooses them.
    """

    name: str
    particles: int
    twist: str | None
    solver: solvers.AnySolver | None
    solver_name: str | None
    steps: int | None

    @property
    def facts(self) -> names.MethodFacts:
        return names.METHODS[self.name]

    def method(self, entries: int) -> Method:
        """For a measurement of so many entries."""
        return make(self.name, self.particles, entries, self.twist)

    def deciding(self, entries: int) -> dict[str, Any]:
        """As plain values, for settings.json."""
        method = self.method(entries)
        solver = method.default_solver if self.solver is None and isinstance(method, Guided) else self.solver
        return {
            "method": {"name": self.name, "choices": repr(method)},
            "solver": None if solver is None else {"method": type(solver).__name__, **solvers.plain(solver)},
            "steps": self.steps,
        }

    def label(self) -> str:
        """For folder names: the method, and what is not its default."""
        steps = None if self.steps == self.facts.steps else self.steps
        return "-".join(str(part) for part in (self.name, self.twist, self.solver_name, steps) if part is not None)


def plan(name: str, steps: int | None, solver: str | None, particles: int | None, twist: str | None, n: int) -> Plan:
    """The method of that name with its options.

    Raises:
        UsageError: an option that it does not take.
    """
    restoration_options.check_method(name, solver, particles, twist)
    particles = max(names.PARTICLES, n) if particles is None else particles
    chosen = names.METHODS[name].steps if steps is None else steps
    if solver is None:
        return Plan(name, particles, twist, None, None, chosen)
    made = solvers.make(solver, solvers.Wish(steps=steps))
    return Plan(name, particles, twist, made, solver, None if made.adaptive else chosen)


def make(name: str, particles: int, entries: int, twist: str | None = None) -> Method:
    """The method of that name, as good as it is for a measurement of so many entries.

    Raises:
        UsageError: a twist that is not for so many.
    """
    facts = names.METHODS[name]
    choices: dict[str, Any] = {"particles": particles} if facts.particles else {}
    if facts.twist:
        few = entries <= names.MMPS_AT_MOST
        if twist == names.TWISTS[0] and not few:
            raise click.UsageError(
                f"--twist {twist} takes a gradient of the network for each entry of the measurement, which has "
                f"{entries}; up to {names.MMPS_AT_MOST} will do: take --twist {' or '.join(names.TWISTS[1:])}"
            )
        choices["twist"] = make(twist or names.TWISTS[0 if few else 1], particles, entries)
    module = import_module(f"scoresde.inverse.{name.replace('-', '_')}")
    method: Method = getattr(module, facts.cls)(**choices)
    return method


def default_for(operator: Operator, shape: tuple[int, ...]) -> str:
    """The method for an operator of the user's own, on x of a shape."""
    if operator.linear:
        return names.DEFAULT_METHOD_LINEAR
    x = torch.zeros(1, *shape, dtype=torch.float64)
    try:
        operator.pullback(x, torch.zeros_like(operator(x)))
    except ValueError:
        return names.DEFAULT_METHOD_NO_GRADIENT
    return names.DEFAULT_METHOD_ANY


def check_operator(plan: Plan, operator: Operator, what: str) -> None:
    """Refuse an operator that the method is not for.

    Raises:
        UsageError: it is not linear, and the method needs that.
    """
    if plan.facts.operators != names.ANY and not operator.linear:
        others = [name for name, facts in names.METHODS.items() if facts.operators == names.ANY]
        raise click.UsageError(f"{what} is not linear, and {plan.name} needs that; take --method {', '.join(others)}")


def check_noise(plan: Plan, sigma: float, units: Units, denoiser: Denoiser) -> None:
    """Refuse noise, in the user's units, that is too little for a method that only removes noise.

    Raises:
        UsageError: it is less than what the network was trained to remove.
    """
    least = units.scale * math.exp(-0.5 * denoiser.max_log_snr)
    if plan.facts.operators == names.IDENTITY and sigma <= least:
        raise click.UsageError(
            f"--sigma {sigma:g}: the network was trained on noise from {least:.3g} on, on this scale, so that "
            f"{plan.name} has nothing to remove; take a larger --sigma, or --method {names.DEFAULT_METHOD_LINEAR}"
        )


def exact_for(operator: Operator, shape: tuple[int, ...]) -> list[str]:
    """The methods for this operator on x of a shape whose draws have the law of the posterior in a limit."""
    kinds = {names.ANY}
    if operator.linear:
        kinds |= {names.LINEAR}
        with contextlib.suppress(ValueError):  # it has none that is fast enough
            operator.as_linear().svd(shape)
            kinds |= {names.SPECTRAL}
    if type(operator) is Identity:
        kinds |= {names.IDENTITY}
    return [name for name, facts in names.METHODS.items() if facts.exact and facts.operators in kinds]
