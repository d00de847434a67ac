"""What `scoresde compare` is asked for, as people write it: solvers with options, steps, tolerances, grids, seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import click

from scoresde_cli import names
from scoresde_cli.ids import parse_ids
from scoresde_cli.options import did_you_mean

OWN_GRID = "own"
GRIDS = (OWN_GRID, *names.GRIDS, names.TUNED)
NUMBERS: dict[str, Callable[[str], Any]] = {
    "order": int,
    "eta": float,
    "variance": str,
    "variable": str,
    "corrections": int,
    "snr": float,
    "langevin": str,
    "method": str,
}
"""The options of solvers, and what their values are."""
WORDS: dict[str, tuple[str, ...]] = {
    "variance": names.VARIANCES,
    "variable": names.VARIABLES,
    "langevin": names.LANGEVIN,
}
METHODS = {"scipy": names.SCIPY_METHODS, "torchsde": names.TORCHSDE_METHODS}


@dataclass(frozen=True)
class Asked:
    """A solver with its options, `sa:eta=0.5`."""

    solver: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return ":".join([self.solver, *(f"{name}={value}" for name, value in self.options.items())])

    @property
    def adaptive(self) -> bool:
        """Whether it takes a tolerance here and no steps; ode does, which in fixed steps is unipc."""
        return "rtol" in names.SOLVERS[self.solver].options


def parse_solver(text: str) -> Asked:
    """NAME or NAME:option=value:...

    Raises:
        ValueError: no such solver, option or value.
    """
    solver, *parts = (word.strip() for word in text.split(":"))
    if solver not in names.SOLVERS:
        raise ValueError(f"{solver!r} is not one of {', '.join(names.SOLVERS)}.{did_you_mean(solver, names.SOLVERS)}")
    options = dict(_option(solver, part) for part in parts)
    if len(options) < len(parts):
        raise ValueError(f"{text!r} gives an option twice")
    return Asked(solver, options)


def _option(solver: str, part: str) -> tuple[str, Any]:
    name, _, value = (word.strip() for word in part.partition("="))
    known = [option for option in names.SOLVERS[solver].options if option in NUMBERS]
    if name not in known:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise ValueError(f"{solver} has no option {name!r}; {takes}.{did_you_mean(name, known)}")
    words = METHODS[solver] if name == "method" else WORDS.get(name)
    if words is not None and value not in words:
        raise ValueError(f"{name} of {solver} is one of {', '.join(words)}, not {value!r}.{did_you_mean(value, words)}")
    try:
        return name, NUMBERS[name](value)
    except ValueError:
        raise ValueError(f"{name} of {solver} must be a number, not {value!r}") from None


class Solvers(click.ParamType):
    """Solvers, separated by commas."""

    name = "solvers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Asked]:
        if isinstance(value, list):
            return value
        try:
            asked = [parse_solver(word) for word in _words(value)]
        except ValueError as error:
            self.fail(str(error), param, ctx)
        for one in asked:
            if asked.count(one) > 1:
                self.fail(f"{one} is there twice", param, ctx)
        return asked


class Numbers(click.ParamType):
    """Numbers above 0, separated by commas, in increasing order of effort.

    Args:
        whole: steps; otherwise tolerances, whose effort grows downwards.
    """

    name = "numbers"

    def __init__(self, *, whole: bool) -> None:
        self.whole = whole

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[Any]:
        if isinstance(value, list):
            return value
        kind = "a whole number, 1 or more" if self.whole else "a number above 0"
        found: set[Any] = set()
        for word in _words(value):
            try:
                number = int(word) if self.whole else float(word)
            except ValueError:
                number = 0
            if not 0 < number < math.inf:
                self.fail(f"{value!r}: {word!r} is not {kind}", param, ctx)
            if number in found:
                self.fail(f"{value!r}: {word} is there twice", param, ctx)
            found.add(number)
        return sorted(found, reverse=not self.whole)


class Grids(click.ParamType):
    """Names of grids, separated by commas."""

    name = "grids"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        words = _words(value)
        for word in words:
            if word not in GRIDS:
                self.fail(f"{word!r} is not one of {', '.join(GRIDS)}.{did_you_mean(word, GRIDS)}", param, ctx)
            if words.count(word) > 1:
                self.fail(f"{word} is there twice", param, ctx)
        return words


class Seeds(click.ParamType):
    """Seeds, "0-4" or "0,7", each once: a set of samples that counted twice would narrow an interval for nothing."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        seeds: list[int] = []
        try:
            for part in _words(value):
                seeds += parse_ids(part)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        for seed in seeds:
            if seeds.count(seed) > 1:
                self.fail(f"{value!r}: seed {seed} is there twice, and its samples count once", param, ctx)
        return seeds


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]
