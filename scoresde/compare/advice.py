"""Which solver to take: what nothing beats at its cost, and one plain sentence.

The rules. A row's ratio is its error over the floor, what as many exact (or real) samples read. Samples that reach a
ratio of 1.1 are as good as exact ones for most purposes, so the advice is the row with the fewest evaluations whose
ratio is at most 1.1 (the smaller error breaks a tie). The interval of the ratio is said with it, and that more seeds
would narrow it where it reaches beyond 1.1. Where a cheaper row's interval reaches below 1.1 too, that is said; where
no row reaches the floor, the one with the smallest error is named, with how far it is. What the first solver that was
asked about, or the one that it is compared with, needs is told for contrast. Rows that failed are named, and never
advised; rows whose samples are wrong in another measure (`faults`) are not advised unless all are.

Picking the cheapest among many noisy rows flatters it a little: with seeds other than those that it was picked by, its
ratio is larger on average. Errors are compared at the same seeds, which makes that less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from scoresde.compare.estimate import Estimate, ratio
from scoresde.compare.judge import Measure

WITHIN = 1.1
OFF = 0.1  # of what is right, for measures that can be wrong in two ways


@dataclass(frozen=True)
class Row:
    """One solver at one cost.

    Args:
        label: unlike any other row's.
        solver: its name, with whatever tells it from other ones apart from the number of steps.
        steps: None for an adaptive solver.
        evaluations: of the network, per sample.
        seconds: for all samples.
        value: the error; nan when the row failed.
        faults: in what its samples are wrong however small the error, in words; of `faults`.
    """

    label: str
    solver: str
    steps: int | None
    evaluations: float
    seconds: float
    value: Estimate
    faults: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there are no samples to judge."""
        return not math.isfinite(self.value.value)


def faults(
    measures: Sequence[Measure], values: Mapping[str, Estimate], floor: Mapping[str, Estimate]
) -> tuple[str, ...]:
    """The two-sided measures that are wrong, by their intervals and by more than `OFF`: a distance over all modes sees
    little of their width.

    Args:
        values: of the samples, floor: of exact ones; by the measures' names.
    """
    wrong = []
    for measure in (measure for measure in measures if measure.two_sided):
        read, exact = values[measure.name], floor[measure.name]
        told_apart = read.low > exact.high or read.high < exact.low
        if told_apart and abs(read.value - exact.value) > OFF * measure.ideal:
            wrong.append(f"{measure.title} {read.value:.2f}")
    return tuple(wrong)


def pareto(rows: Sequence[Row]) -> list[Row]:
    """The rows that no row with as few evaluations beats, by rising evaluations and falling error."""
    front: list[Row] = []
    for row in _by_cost(rows):
        if not front or row.value.value < front[-1].value.value:
            front.append(row)
    return front


def advise(rows: Sequence[Row], floor: Estimate, *, baseline: str | None = None, within: float = WITHIN) -> str:
    """What to take, in one sentence without a full stop.

    Args:
        floor: of the same measure; positive.
        baseline: the solver to compare the advice with; by default that of the first row, or of the first row of
            another solver.

    Raises:
        ValueError: no rows, or a floor that is not positive (a signed measure, whose ratios mean nothing).
    """
    if not rows:
        raise ValueError("there are no rows to choose from")
    if not floor.value > 0:
        raise ValueError(
            f"the floor is {floor.value:g}; advice goes by ratios to it: take a measure with a positive one"
        )
    alive = _by_cost(rows)
    if not alive:
        return "no solver gave samples that could be judged" + _failures(rows)
    ratios = {row.label: ratio(row.value, floor) for row in alive}
    if all(row.faults for row in alive):  # then that rules nobody out
        rows = [replace(row, faults=()) for row in rows]
        alive = _by_cost(rows)
    sound = [row for row in alive if not row.faults]
    reached = [row for row in sound if ratios[row.label].value <= within]
    if not reached:
        nearest = min(sound, key=lambda row: row.value.value)
        return _nothing(nearest, ratios[nearest.label], within) + _failures(rows)
    best = reached[0]
    return (
        f"for this model take {_named(best)}: {_place(ratios[best.label], within)}"
        + _contrast(best, rows, ratios, baseline, within)
        + _cheaper(best, sound, ratios, within)
        + ("" if ratios[best.label].bounded else "; how sure that is, more seeds would tell")
        + _failures(rows)
    )


def _by_cost(rows: Sequence[Row]) -> list[Row]:
    return sorted((row for row in rows if not row.failed), key=lambda row: (row.evaluations, row.value.value))


def _named(row: Row) -> str:
    if row.steps is None:
        return f"{row.solver} ({row.evaluations:.0f} evaluations)"
    more = "" if round(row.evaluations) == row.steps else f" ({row.evaluations:.0f} evaluations)"
    return f"{row.solver} {_effort(row)}{more}"


def _effort(row: Row) -> str:
    if row.steps is None:
        return f"with {row.evaluations:.0f} evaluations"
    return f"with {row.steps} step{'' if row.steps == 1 else 's'}"


def _interval(estimate: Estimate) -> str:
    return f" ({_ends(estimate)})" if estimate.bounded else ""


def _ends(of: Estimate) -> str:
    return f"{max(of.low, 0.0):.2f} to {of.high:.2f}"  # an error is not negative, whatever Student says


def _place(found: Estimate, within: float) -> str:
    if found.bounded and found.high > within:
        return f"{found.value:.2f} times the floor ({_ends(found)}: more seeds would narrow that)"
    if found.value <= 1:
        return f"at the floor, {found.value:.2f} of it{_interval(found)}"
    return f"within {math.ceil(100 * found.value) / 100:.2f} of the floor{_interval(found)}"


def _nothing(nearest: Row, found: Estimate, within: float) -> str:
    doubt = "; its interval reaches there: more seeds would tell" if found.low <= within else ""
    return (
        f"nothing here comes within {within:g} of the floor: nearest is {_named(nearest)}, "
        f"{found.value:.2f} times the floor{_interval(found)}{doubt}"
    )


def _contrast(best: Row, rows: Sequence[Row], ratios: dict[str, Estimate], baseline: str | None, within: float) -> str:
    """What the baseline needs, and what kept it from being done earlier where that is not the error."""
    other = baseline if baseline is not None else next((r.solver for r in rows if r.solver != best.solver), None)
    theirs = _by_cost([row for row in rows if row.solver == other])
    if other == best.solver or not theirs:
        return ""
    near = [row for row in theirs if ratios[row.label].value <= within]
    enough = next((row for row in near if not row.faults), None)
    if enough is not None:
        needs = enough.steps if enough.steps is not None else f"{enough.evaluations:.0f} evaluations"
        early = [row for row in near if row.evaluations < enough.evaluations]
        return f"; {other} needs {needs}" + (f" ({_effort(early[-1])}: {', '.join(early[-1].faults)})" if early else "")
    last = theirs[-1]
    return f"; {_named(last)} is at {', '.join([f'{ratios[last.label].value:.2f}', *last.faults])}"


def _cheaper(best: Row, alive: Sequence[Row], ratios: dict[str, Estimate], within: float) -> str:
    """The cheapest row that may be as good, for all that is known."""
    maybe = next((r for r in alive if r.evaluations < best.evaluations and ratios[r.label].low <= within), None)
    if maybe is None:
        return ""
    found = ratios[maybe.label]
    return f"; {_named(maybe)} may do as well: {found.value:.2f}{_interval(found)}"


def _failures(rows: Sequence[Row]) -> str:
    """Who failed, and where."""
    failed = [row for row in rows if row.failed]
    parts = []
    for solver in dict.fromkeys(row.solver for row in failed):
        steps = [row.steps for row in failed if row.solver == solver and row.steps is not None]
        parts.append(f"{solver} failed" + (f" with {', '.join(map(str, sorted(steps)))} steps" if steps else ""))
    return "".join(f"; {part}" for part in parts)
