"""The coupled part of a comparison: every solver from the same x(1) along the same Brownian path, at every step count.

An entry's cell holds its distance to the fine solution of its own equation on the same paths, and the ends of the first
few, for pictures. The fine solutions are only computed where a cell is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.compare import Estimate, exact_denoiser, exact_flow, median, starts
from scoresde.compare.coupled import FLOW, Law, coupled_ends, fine_solution, noise_law, path_distances, root_mean_square
from scoresde.errors import NumericalError
from scoresde_cli.comparison_cells import Cells, packed, unpacked
from scoresde_cli.comparison_plan import Entry
from scoresde_cli.comparison_study import Found, Study
from scoresde_cli.comparison_truth import EXACT
from scoresde_cli.progress import Display, display
from scoresde_cli.solvers import AnySolver

SHOWN = 8  # paths whose ends are kept
COUNT = {EXACT: 400, "other": 32}  # paths: more where the denoiser is exact, and so quick
FINE = {EXACT: 2000, "other": 400}  # steps of the fine solution at least


@dataclass(frozen=True)
class Paths:
    """What was found of an entry.

    Args:
        error: root mean square distance of its ends to the solution of its equation on the same paths: the exact flow
            where it is known, a fine solution otherwise; typical: of the median path.
        resolution, typical_resolution: of that solution, about: what an error must be above to be seen.
        law: the noise of its equation over that of the reverse SDE, at three times.
        ends: of the first few paths, (SHOWN, *), in the user's units.
    """

    entry: Entry
    error: Estimate
    typical: Estimate
    resolution: float
    typical_resolution: float
    law: Law
    ends: np.ndarray

    @property
    def flow(self) -> bool:
        """Whether the equation is the probability flow."""
        return self.law == FLOW


@dataclass(frozen=True)
class Coupling:
    """How many paths are followed, from which seed, and with how many fine steps."""

    count: int
    seed: int
    fine_steps: int

    def identity(self) -> dict[str, Any]:
        return {"kind": "paths", "format": 2, "seed": self.seed, "paths": self.count, "fine_steps": self.fine_steps}


def coupling(study: Study) -> Coupling:
    """Of a study."""
    kind = EXACT if study.truth.kind == EXACT else "other"
    steps = max((entry.plan.steps or 0 for entry in study.entries), default=0)
    return Coupling(min(study.n, COUNT[kind]), study.seeds[0], max(FINE[kind], 2 * steps))


def follow(study: Study, entries: Sequence[Entry], command: str) -> list[Paths]:
    """All entries that can be coupled.

    Args:
        entries: those whose samples are whole.

    Raises:
        Interrupted: by a signal; cells that are whole stay. OSError: a cell cannot be written.
    """
    of, cells = coupling(study), study.cells()
    if new := missing(study, entries):
        with display("coupled evaluation", calls(study, new) * -(-of.count // study.batch_size)) as show:
            for entry, found in _computed(study, of, new, show):
                cells.write(_label(entry), _own(of, entry), found, {"command": command})
            show.update(show.total)
    return [paths for entry in entries for paths in _read(cells, of, entry)]


def missing(study: Study, entries: Sequence[Entry]) -> list[tuple[Entry, Law]]:
    """Those that can follow a given path and have no cell yet, with the noise of their equation."""
    of, cells = coupling(study), study.cells()
    return [
        (entry, law)
        for entry in entries
        if cells.read(_label(entry), _own(of, entry)) is None and (law := _law(study, entry)) is not None
    ]


def _law(study: Study, entry: Entry) -> Law | None:
    """None for noise in steps of its own choice, or that does not shrink with the step."""
    try:
        return noise_law(entry.plan.solver, study.model.denoiser, study.model.space.shape)
    except ValueError:
        return None


def calls(study: Study, new: Sequence[tuple[Entry, Law]]) -> int:
    """Evaluations for a batch of paths, those of the fine solutions among them."""
    fine = coupling(study).fine_steps
    laws = {law for _, law in new}
    return sum(entry.calls for entry, _ in new) + len(laws) * (fine + fine // 2)


def _computed(
    study: Study, of: Coupling, new: Sequence[tuple[Entry, Law]], show: Display
) -> Iterator[tuple[Entry, Found]]:
    denoiser, shape = study.model.denoiser, study.model.space.shape
    solutions: dict[Law, tuple[Tensor, float, float]] = {}
    done, note, each = 0, "", 1

    def on_step() -> None:
        nonlocal done
        done += each
        show.update(min(done, show.total - 1), note)

    same: dict[str, Any] = {
        "ids": torch.arange(of.count), "seed": of.seed, "shape": shape,
        "batch_size": min(study.batch_size, of.count), "on_step": on_step,
    }  # fmt: skip
    for entry, law in new:
        solver = entry.plan.solver
        try:
            if law not in solutions:
                note, each = "fine solution", 1
                solutions[law] = _solution(study, of, solver, law, same)
            note, each = entry.label, solver.evaluations or entry.calls
            ends = coupled_ends(denoiser, solver, entry.plan.times, **same)
        except (NumericalError, ValueError) as error:
            yield entry, {"error": str(error)}
            continue
        truth, resolution, typical_resolution = solutions[law]
        distances = path_distances(ends, truth)
        yield (
            entry,
            {
                "error_of_paths": vars(root_mean_square(distances)),
                "typical": vars(median(distances)),
                "resolution": resolution,
                "typical_resolution": typical_resolution,
                "law": list(law),
                "ends": packed(study.model.space.to_user(ends[:SHOWN])),
            },
        )


def _solution(
    study: Study, of: Coupling, solver: AnySolver, law: Law, same: Mapping[str, Any]
) -> tuple[Tensor, float, float]:
    """Where the paths go in truth, and how well that is known: in the root mean square, and of the median path."""
    denoiser = study.model.denoiser
    if law == FLOW and study.truth.law is not None:
        exact = exact_denoiser(study.truth.law, denoiser.sde)
        x1 = starts(denoiser, of.count, of.seed)
        flow = exact_flow(exact, x1, batch_size=same["batch_size"])
        known = max(flow.accuracy, torch.finfo(denoiser.dtype).eps * flow.x0.abs().max().item())
        return flow.x0, known, known
    reference = fine_solution(denoiser, solver, steps=of.fine_steps, **same)
    return reference.ends, reference.error.value, reference.typical.value


def _read(cells: Cells, of: Coupling, entry: Entry) -> Iterator[Paths]:
    found = cells.read(_label(entry), _own(of, entry))
    if found is None or "error" in found:
        return
    error, typical = (
        Estimate(**{key: float(value) for key, value in found[part].items()}) for part in ("error_of_paths", "typical")
    )
    known = float(found["resolution"]), float(found["typical_resolution"])
    yield Paths(entry, error, typical, *known, tuple(found["law"]), unpacked(found["ends"]))


def _own(of: Coupling, entry: Entry) -> dict[str, Any]:
    return {**of.identity(), **entry.identity()}


def _label(entry: Entry) -> str:
    return f"paths-{entry.plan.label()}"


def as_dict(of: Paths) -> dict[str, Any]:
    """For results.json."""
    return {
        "label": of.entry.label,
        "error": of.error.as_dict(),
        "typical": of.typical.as_dict(),
        "resolution": of.resolution,
        "typical_resolution": of.typical_resolution,
        "noise_law": list(of.law),
    }
