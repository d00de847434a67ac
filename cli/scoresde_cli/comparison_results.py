"""The rows of a comparison, with intervals over seeds, as results.json and results.csv."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import scoresde
from scoresde.compare import Estimate, FittedOrder, Row, advise, faults, fitted_order, over_seeds, pareto
from scoresde_cli.comparison_paths import Paths
from scoresde_cli.comparison_plan import Entry
from scoresde_cli.comparison_study import Filled, Found, Study

FORMAT, VERSION = "scoresde-comparison", 1
BASELINE = "ancestral"
LEAST_POINTS = 3
STRONG = "1/2 to 1"  # along a path with noise
AGAIN = "again"  # the folder that commands write to, so that they compute


@dataclass(frozen=True)
class Result:
    """A row: what a solver reads, and what it costs.

    Args:
        entry: None for one that could not be tried.
        values: by measure; empty when it failed.
        evaluations: of the network for a sample; seconds: for all samples of a seed, in the mean over seeds.
        peak_bytes: of a seed at the most; None where the system does not tell.
        error: why there are no values.
        nearness: to the training data, "ratio" and "close" of `scoresde.compare.memorisation`; empty without data.
    """

    label: str
    entry: Entry | None = None
    values: dict[str, Estimate] = field(default_factory=dict)
    evaluations: float = math.nan
    seconds: float = math.nan
    peak_bytes: int | None = None
    error: str = ""
    nearness: dict[str, Estimate] = field(default_factory=dict)


def rows(study: Study, filled: Filled) -> list[Result]:
    """All rows, those that failed among them."""
    found = [_row(study, entry, cells) for entry, cells in zip(study.entries, filled.samples, strict=True)]
    return found + [Result(refused.label, error=refused.why) for refused in study.refused]


def floor(study: Study, filled: Filled) -> dict[str, Estimate]:
    """What exact or real samples read."""
    return _estimates(study, filled.floors)


def _row(study: Study, entry: Entry, cells: Sequence[Found]) -> Result:
    errors = [cell["error"] for cell in cells if "error" in cell]
    if errors:
        return Result(entry.label, entry, error=errors[0])
    peaks = [cell["peak_bytes"] for cell in cells if cell["peak_bytes"] is not None]
    return Result(
        entry.label,
        entry,
        values=_estimates(study, cells),
        evaluations=math.fsum(cell["evaluations"] for cell in cells) / len(cells),
        seconds=math.fsum(cell["seconds"] for cell in cells) / len(cells),
        peak_bytes=max(peaks, default=None),
        nearness={key: _over_seeds([float(cell["nearness"][key]) for cell in cells]) for key in cells[0]["nearness"]},
    )


def _estimates(study: Study, cells: Sequence[Found]) -> dict[str, Estimate]:
    measures = study.truth.judge.measures
    return {m.name: _over_seeds([cell["values"][m.name] for cell in cells]) for m in measures}


def _over_seeds(values: Sequence[float]) -> Estimate:
    """The mean and its interval; a value that is not finite in one of the seeds is not finite in all."""
    return over_seeds(values) if all(map(math.isfinite, values)) else Estimate(math.nan)


def advice(study: Study, found: Sequence[Result], at_floor: dict[str, Estimate]) -> tuple[list[Result], str]:
    """The rows that nothing cheaper beats, and what to take, in one sentence."""
    judged = [_judged(study, row, at_floor) for row in found]
    best = {row.label for row in pareto(judged)}
    front = sorted((row for row in found if row.label in best), key=lambda row: row.evaluations)
    baseline = BASELINE if BASELINE in [row.solver for row in judged] else None
    sentence = advise(judged, at_floor[study.truth.judge.headline], baseline=baseline)
    return front, f"{sentence[0].upper()}{sentence[1:]}."


def _judged(study: Study, row: Result, at_floor: dict[str, Estimate]) -> Row:
    entry, judge = row.entry, study.truth.judge
    if entry is None:
        return Row(row.label, row.label, None, math.nan, math.nan, Estimate(math.nan))
    name = entry.curve if entry.tolerance is None else f"{entry.curve} at {entry.tolerance:g}"
    value = row.values.get(judge.headline, Estimate(math.nan))
    wrong = faults(judge.measures, row.values, at_floor) if row.values else ()
    return Row(row.label, name, entry.plan.steps, row.evaluations, row.seconds, value, wrong)


@dataclass(frozen=True)
class Order:
    """By which power of the step the distance of the typical path falls.

    Args:
        theory: what is expected.
    """

    curve: str
    fitted: FittedOrder
    theory: str

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "curve": self.curve,
            "slope": self.fitted.slope.as_dict(),
            "steps": list(self.fitted.steps),
            "why": self.fitted.why or None,
            "theory": self.theory,
        }


def orders(paths: Sequence[Paths]) -> list[Order]:
    """Of each solver with three step counts or more."""
    curves: dict[str, list[Paths]] = {}
    for each in paths:
        if each.entry.plan.steps is not None:
            curves.setdefault(each.entry.curve, []).append(each)
    found = []
    for curve, of in curves.items():
        if len(of) >= LEAST_POINTS:
            steps, errors = ([p.entry.plan.steps or 0 for p in of], [p.typical.value for p in of])
            theory = str(of[0].entry.plan.solver.order) if of[0].flow else STRONG
            found.append(Order(curve, fitted_order(steps, errors, floor=of[0].typical_resolution), theory))
    return found


# --- commands ------------------------------------------------------------------------------------------


def command(study: Study, row: Result) -> str:
    """What computes a row anew."""
    if row.entry is None:
        return ""
    words = ["scoresde", "compare", study.source, *row.entry.words(), "-n", study.n]
    words += ["--seeds", ",".join(map(str, study.seeds)), "--batch-size", study.batch_size]
    return shlex.join(map(str, [*words, *study.model_words, *study.truth_words, "--no-paths", "--out", AGAIN]))


def sample_command(study: Study, row: Result) -> str:
    """What draws the samples of its first seed."""
    if row.entry is None:
        return ""
    words = ["scoresde", "sample", study.source, *row.entry.sample_words(), "-n", study.n, "--seed", study.seeds[0]]
    return shlex.join(map(str, [*words, "--batch-size", study.batch_size, *study.model_words]))


# --- files ---------------------------------------------------------------------------------------------


def document(
    study: Study, found: Sequence[Result], at_floor: Mapping[str, Estimate], rest: dict[str, Any]
) -> dict[str, Any]:
    """Everything, for results.json; numbers that are not finite are null.

    Args:
        rest: what else is to be said, as plain values.
    """
    judge = study.truth.judge
    return {
        "format": FORMAT,
        "version": VERSION,
        "scoresde": scoresde.__version__,
        "model": dict(study.model.identity),
        "where": dict(study.model.where),
        "truth": {"kind": study.truth.kind, "about": judge.about, "notes": list(study.truth.notes)},
        "n": study.n,
        "seeds": list(study.seeds),
        "floor_seeds": list(study.floor_seeds),
        "batch_size": study.batch_size,
        "measures": [vars(measure) for measure in judge.measures],
        "headline": judge.headline,
        "floor": {name: value.as_dict() for name, value in at_floor.items()},
        "rows": [_as_dict(study, row) for row in found],
        **rest,
    }


def _as_dict(study: Study, row: Result) -> dict[str, Any]:
    entry = row.entry
    return {
        "label": row.label,
        "solver": None if entry is None else str(entry.asked),
        "grid": None if entry is None else entry.plan.grid,
        "steps": None if entry is None else entry.plan.steps,
        "tolerance": None if entry is None else entry.tolerance,
        "evaluations": _finite(row.evaluations),
        "seconds": _finite(row.seconds),
        "peak_bytes": row.peak_bytes,
        "values": {name: value.as_dict() for name, value in row.values.items()},
        "nearness": {name: value.as_dict() for name, value in row.nearness.items()},
        "error": row.error or None,
        "command": command(study, row),
        "sample_command": sample_command(study, row),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_json(content: dict[str, Any]) -> bytes:
    """The bytes of results.json."""
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def as_csv(content: dict[str, Any]) -> bytes:
    """The rows of the same, the floor first, for spreadsheets: each measure with the ends of its interval."""
    measures = [measure["name"] for measure in content["measures"]]
    plain = ("label", "solver", "grid", "steps", "tolerance", "evaluations", "seconds", "peak_bytes")
    ends = [(name, end) for name in measures for end in ("value", "low", "high")]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*plain, *(name + ("" if end == "value" else f"_{end}") for name, end in ends), "error", "command"])
    for row in ({"label": "floor", "values": content["floor"]}, *content["rows"]):
        values = [row["values"].get(name, {}).get(end) for name, end in ends]
        writer.writerow([*map(row.get, plain), *values, row.get("error"), row.get("command")])
    return table.getvalue().encode()
