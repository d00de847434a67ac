"""Tuned grids on disk: RUN/grids/SOLVER-STEPS-MODEL.json, one for each solver with its options, steps and checkpoint.

MODEL is a digest of what identifies the model, so that a grid for another checkpoint is another file. Times are written
as the shortest decimals that give the same floats back.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from scoresde import grids
from scoresde._files import write_atomically
from scoresde.data import DataError
from scoresde.tuning import TunedGrid
from scoresde_cli import solvers
from scoresde_cli.models import Model
from scoresde_cli.names import DEFAULT_STEPS, TUNED, flag
from scoresde_cli.solvers import Plan, Wish

FORMAT, VERSION = "scoresde-grid", 1
DIGITS = 12


@dataclass(frozen=True)
class Place:
    """Where the grid of a model, a solver and its steps is, or would be.

    Args:
        plan: the solver with its own grid.
        command: that makes the tuned one.
    """

    model: Model
    plan: Plan
    command: str

    @property
    def made_for(self) -> dict[str, Any]:
        """What a grid depends on, as plain values."""
        solver = self.plan.solver
        named = {"name": self.plan.name, "method": type(solver).__name__, **solvers.plain(solver)}
        return {"model": dict(self.model.identity), "solver": named, "steps": self.plan.steps}

    @property
    def path(self) -> Path:
        return self.model.grids / self._name(_digest(self.model.identity)[:DIGITS])

    def others(self) -> list[Path]:
        """Grids for the same solver and steps, and other models."""
        return sorted(set(self.model.grids.glob(self._name("[0-9a-f]" * DIGITS))) - {self.path})

    def _name(self, model: str) -> str:
        return f"{self.plan.label()}-{model}.json"

    def write(self, fitted: TunedGrid, settings: Mapping[str, Any], notes: Mapping[str, Any]) -> None:
        """Write the file, whole.

        Raises:
            OSError: it cannot be written.
        """
        content = {
            "format": FORMAT,
            "version": VERSION,
            "made_for": self.made_for,
            "times": fitted.times.tolist(),
            "improved": fitted.improved,
            "held_out": _errors(fitted.held_out),
            "fitted": _errors(fitted.fitted),
            "reference": fitted.reference,
            "evaluations": fitted.evaluations,
            "settings": dict(settings),
            "notes": dict(notes),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = {**content, "sha256": _digest(content)}
        write_atomically(self.path, (json.dumps(whole, indent=2) + "\n").encode())

    def read(self) -> dict[str, Any]:
        """What was written, found to be that.

        Raises:
            DataError: damaged, of another version, or for something else.
        """
        remedy = f"make it again with: {self.command} --again"
        try:
            content = dict(json.loads(self.path.read_bytes()))
            version = content["version"]
            if content["format"] != FORMAT:
                raise ValueError("not a tuned grid")
            if version == VERSION and content.pop("sha256") != _digest(content):
                raise ValueError("it is not the file that was written")
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.path} is damaged ({error}); {remedy}") from error
        if version != VERSION:
            raise DataError(
                f"{self.path} has format version {version}; this scoresde reads version {VERSION}; {remedy}"
            )
        if content["made_for"] != json.loads(json.dumps(self.made_for)):
            raise DataError(f"{self.path} is for something else, in spite of its name; {remedy}")
        return content

    def times(self) -> Tensor:
        """The grid.

        Raises:
            UsageError: there is none; DataError: as for `read`.
        """
        if not self.path.exists():
            raise click.UsageError(
                f"there is no grid tuned for {self.plan.name} with {self.plan.steps} steps and this model"
                f"{self._elsewhere()}; make it with: {self.command}"
            )
        return grids.check_times(torch.tensor(self.read()["times"], dtype=torch.float64))

    def _elsewhere(self) -> str:
        """That there is one for another checkpoint, if there is."""
        for path in self.others():
            try:
                model = json.loads(path.read_bytes())["made_for"]["model"]
                return f", only one for another ({model['model']}): {path}"
            except (ValueError, KeyError, TypeError):
                continue
        return ""


def place(source: str, model: Model, name: str, wish: Wish, options: Mapping[str, Any]) -> Place:
    """Where the grid tuned for this solver is.

    Args:
        source: RUN; options: those that say which model it is, as given.

    Raises:
        UsageError, ValueError: as for `solvers.plan`.
    """
    plan = solvers.plan(name, replace(wish, grid=None, times=None, steps=wish.steps or DEFAULT_STEPS), model.denoiser)
    own = {option: getattr(wish, option) for option in wish.names() if option not in ("grid", "times", "steps")}
    words = ["scoresde", "tune-grid", source, "--solver", name, "--steps", plan.steps]
    for option, value in (*own.items(), *options.items()):
        words += [] if value is None else [flag(option), value]
    return Place(model, plan, shlex.join(map(str, words)))


def plan(source: str, model: Model, name: str, wish: Wish, options: Mapping[str, Any]) -> Plan:
    """The solver on its tuned grid; arguments as for `place`.

    Raises:
        UsageError: a solver that draws noise, and as for `place` and `Place.times`.
    """
    there = place(source, model, name, wish, options)
    if there.plan.solver.stochastic:
        raise click.UsageError(f"--grid {TUNED} is for solvers without noise, and {name} draws it here")
    return replace(there.plan, times=there.times(), grid=TUNED)


def _errors(change: Sequence[Any]) -> dict[str, Any]:
    return {when: error._asdict() for when, error in zip(("before", "after"), change, strict=True)}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
