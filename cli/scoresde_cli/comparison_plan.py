"""The entries of a comparison, each a row of its results: every solver with its steps or its tolerance, on its grid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
import torch

from scoresde.denoisers import Denoiser
from scoresde_cli import names, solvers, tuned
from scoresde_cli.comparison_wishes import OWN_GRID, Asked
from scoresde_cli.drawing import rehearse
from scoresde_cli.models import Model
from scoresde_cli.solvers import Plan, Wish

ADAPTIVE_CALLS = 150  # of the network, about, for progress and estimates


@dataclass(frozen=True)
class Entry:
    """A solver, ready to be run.

    Args:
        tolerance: absolute and relative, of an adaptive solver; grid: as asked, "own" for the solver's.
    """

    asked: Asked
    plan: Plan
    tolerance: float | None
    grid: str

    @property
    def effort(self) -> str:
        """Steps or tolerance in words."""
        return f"tolerance {self.tolerance:g}" if self.tolerance is not None else f"{self.plan.steps} steps"

    @property
    def curve(self) -> str:
        """What it shares with the same solver at other efforts."""
        return str(self.asked) + ("" if self.grid == OWN_GRID else f" on {self.grid}")

    @property
    def label(self) -> str:
        return f"{self.curve}, {self.effort}"

    @property
    def calls(self) -> int:
        """Evaluations of the network for a batch; of adaptive solvers a guess."""
        return ADAPTIVE_CALLS if self.plan.steps is None else self.plan.steps * self.plan.solver.evaluations

    def identity(self) -> dict[str, Any]:
        """What its samples depend on, as plain values."""
        times, solver = self.plan.times, self.plan.solver
        return {
            "solver": {"name": self.plan.name, "method": type(solver).__name__, **solvers.plain(solver)},
            "steps": self.plan.steps,
            "times": None if times is None else hashlib.sha256(times.numpy().tobytes()).hexdigest(),
        }  # fmt: skip

    def words(self) -> list[str]:
        """The options of `scoresde compare` that ask for it alone."""
        effort = ["--steps", self.plan.steps] if self.tolerance is None else ["--tolerances", f"{self.tolerance:g}"]
        grid = [] if self.grid == OWN_GRID else ["--grids", self.grid]
        return ["--solvers", str(self.asked), *map(str, effort), *grid]

    def sample_words(self) -> list[str]:
        """The options of `scoresde sample` that draw its samples."""
        own = [word for name, value in self.asked.options.items() for word in (names.flag(name), str(value))]
        if self.tolerance is None:
            effort = ["--steps", str(self.plan.steps)]
        else:
            effort = ["--rtol", f"{self.tolerance:g}", "--atol", f"{self.tolerance:g}"]
        grid = [] if self.grid == OWN_GRID else ["--grid", self.grid]
        return ["--solver", self.asked.solver, *effort, *own, *grid]


@dataclass(frozen=True)
class Refused:
    """A solver that cannot run here, and why."""

    label: str
    why: str


def entries(
    source: str,
    model: Model,
    asked: Sequence[Asked],
    steps: Sequence[int],
    tolerances: Sequence[float],
    grids: Sequence[str],
    options: Mapping[str, Any],
) -> tuple[list[Entry], list[Refused]]:
    """All that can be run, and what cannot.

    Args:
        source: RUN; options: those that say which model it is, as given.

    Raises:
        UsageError, ValueError: options of solvers that are out of range.
    """
    for one in asked:
        solvers.make(one.solver, Wish(**one.options))
    found: list[Entry] = []
    refused: list[Refused] = []
    for one in asked:
        for grid in [OWN_GRID] if one.adaptive else grids:
            efforts = [Wish(rtol=e, atol=e) for e in tolerances] if one.adaptive else [Wish(steps=n) for n in steps]
            curve = str(one) if grid == OWN_GRID else f"{one} on {grid}"
            why: dict[str, list[str]] = {}  # to the efforts that it keeps from running
            for effort in efforts:
                try:
                    found.append(_entry(source, model, one, grid, effort, options))
                except (click.UsageError, ValueError) as error:
                    why.setdefault(getattr(error, "message", str(error)), []).append(_words(effort))
            refused += [
                Refused(curve if len(words) == len(efforts) else f"{curve}, {', '.join(words)}", reason)
                for reason, words in why.items()
            ]
    return found, refused


def _entry(source: str, model: Model, asked: Asked, grid: str, effort: Wish, options: Mapping[str, Any]) -> Entry:
    """One solver on one grid, at one effort."""
    chosen = None if grid == OWN_GRID else grid
    wish = Wish(steps=effort.steps, rtol=effort.rtol, atol=effort.atol, grid=chosen, **asked.options)
    if grid == names.TUNED:
        plan = tuned.plan(source, model, asked.solver, wish, options)
    else:
        plan = solvers.plan(asked.solver, wish, model.denoiser)
    refuse(model.denoiser, plan)
    return Entry(asked, plan, effort.rtol, grid)


def _words(effort: Wish) -> str:
    return f"tolerance {effort.rtol:g}" if effort.rtol is not None else f"{effort.steps} steps"


def refuse(denoiser: Denoiser, plan: Plan) -> None:
    """Take the first step without the network.

    Raises:
        ValueError: the solver cannot run on this process.
    """
    rehearse(denoiser, plan.solver, torch.tensor([1.0, 0.99]) if plan.times is None else plan.times)
