"""The one table: every number per sample, a mean over the data with its standard errors, beside what it is held to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from scoresde_cli.options import aligned

NAMED = 5  # samples that failed are named up to so many
LEAST, MOST = 5e-4, 1e6  # between which numbers have four decimals


@dataclass(frozen=True)
class Values:
    """One quantity for each of the data: negative log-likelihood, a term of it, or a part.

    Args:
        nats: (n,) float64, nan where it failed.
        draws: its standard error over probes or draws, (n,); None where there is none.
        part: of the quantity above, and no likelihood of its own.
        problems: by row of the data.
    """

    name: str
    nats: Tensor
    draws: Tensor | None = None
    part: bool = False
    problems: Mapping[int, str] | None = None


@dataclass(frozen=True)
class Line:
    """A line of the table; numbers are means over the data, None where there is none.

    Args:
        nats, error: the mean and its standard error over the data, draws included.
        draws: its standard error over probes and draws alone, with these data.
        bits: per dimension.
        above, above_error: how far above the line that it is held to, from the same data: nats, and its standard error.
        failed: numbers of the samples that are left out, since they are not finite; doubtful: of those that are in the
            mean, but did not settle.
    """

    name: str
    nats: float | None
    error: float | None
    draws: float | None
    bits: float | None
    above: float | None
    above_error: float | None
    part: bool
    failed: tuple[int, ...]
    doubtful: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def line(of: Values, held_to: Values | None, numbers: Tensor, dim: int) -> Line:
    """The means of one quantity.

    Args:
        held_to: what `above` is against; None for that line itself.
        numbers: of the samples, (n,).
    """
    whole = of.nats.isfinite()
    above = _mean(of.nats - held_to.nats) if held_to is not None and not of.part else (None, None)
    mean, error = _mean(of.nats)
    return Line(
        of.name,
        mean,
        error,
        None if of.draws is None else _root(of.draws[whole]),
        None if mean is None else mean / (dim * math.log(2.0)),
        *above,
        of.part,
        tuple(numbers[~whole].tolist()),
        tuple(int(numbers[row]) for row in of.problems or () if bool(whole[row])),
    )


def _mean(values: Tensor) -> tuple[float | None, float | None]:
    """Over those that are finite, with its standard error."""
    whole = values[values.isfinite()]
    if len(whole) == 0:
        return None, None
    return whole.mean().item(), whole.std().item() / math.sqrt(len(whole)) if len(whole) > 1 else None


def _root(errors: Tensor) -> float | None:
    """The standard error of a mean from those of its parts."""
    value = errors.square().sum().sqrt().item() / max(len(errors), 1)
    return value if math.isfinite(value) and len(errors) else None


# --- in words ------------------------------------------------------------------------------------------


HEAD = ("negative log-likelihood", "nats", "over data", "over draws", "bits/dim")


def heads(held_to: str) -> tuple[str, ...]:
    """Of the columns; `held_to` is the name of a line, or begins with one, a comma and more."""
    return (*HEAD, f"above {held_to.partition(',')[0]}", "+-")


def printed(lines: Sequence[Line], held_to: str) -> list[str]:
    """The table as lines of text, and what is left out of it."""
    rows = [(("  " if of.part else "") + of.name, *map(_number, _cells(of))) for of in lines]
    return [*aligned(heads(held_to), rows), *left_out(lines)]


def left_out(lines: Sequence[Line]) -> list[str]:
    """Which samples did not settle; which are not finite, and so in no mean: lines that lack the same ones together."""
    lack: dict[tuple[int, ...], list[str]] = {}
    for of in lines:
        if of.failed:
            lack.setdefault(of.failed, []).append(of.name)
    doubts = [
        f"{of.name}: {named(of.doubtful)} did not settle; results.json says by how much" for of in lines if of.doubtful
    ]
    return doubts + [
        f"{'All lines' if len(names) == len(lines) else '; '.join(names)}: not finite for {named(failed)}, left out of "
        "the mean"
        for failed, names in lack.items()
    ]


def _cells(of: Line) -> tuple[float | None, ...]:
    return of.nats, of.error, of.draws, of.bits, of.above, of.above_error


def _number(value: float | None) -> str:
    """Four decimals, or a few digits of what is smaller, or larger, than these are for."""
    if value is None:
        return "-"
    if abs(value) >= MOST:
        return f"{value:.4g}"
    return f"{value:.4f}" if value == 0.0 or abs(value) >= LEAST else f"{value:.1e}"


def named(numbers: Sequence[int]) -> str:
    """Samples by their numbers, the first few of many."""
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"sample{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:NAMED]))}{more}"


def from_dict(values: Mapping[str, Any]) -> Line:
    """The reverse of `Line.as_dict`, also after a journey through JSON."""
    return Line(**{**values, "failed": tuple(values["failed"]), "doubtful": tuple(values["doubtful"])})
