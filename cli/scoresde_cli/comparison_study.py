"""A comparison: what is compared with what, and its cells, computed where they are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scoresde.compare import draw
from scoresde.errors import NumericalError
from scoresde_cli.comparison_cells import Cells
from scoresde_cli.comparison_plan import Entry, Refused
from scoresde_cli.comparison_truth import Truth
from scoresde_cli.models import Model
from scoresde_cli.progress import Display, display

Found = dict[str, Any]
FLOORS = 20  # at least, where there are data for as many that share none


@dataclass(frozen=True)
class Study:
    """What is compared.

    Args:
        source: RUN; model_words, truth_words: the options that say which model and which truth it is, for commands.
        n: samples of each seed.
        folder: of results, report and cells.
        with_paths: whether single paths are followed too.
    """

    source: str
    model: Model
    truth: Truth
    entries: Sequence[Entry]
    refused: Sequence[Refused]
    n: int
    seeds: Sequence[int]
    batch_size: int
    folder: Path
    model_words: Sequence[str]
    truth_words: Sequence[str]
    with_paths: bool = True

    @property
    def floor_seeds(self) -> range:
        """More than those of samples, since a ratio is known no better than the floor, which costs no samples."""
        return range(min(max(FLOORS, len(self.seeds)), self.truth.judge.floor_sets(self.n)))

    @property
    def batches(self) -> int:
        """Of a cell."""
        return -(-self.n // self.batch_size)

    def cells(self) -> Cells:
        """Where the numbers are kept."""
        common = {
            "model": dict(self.model.identity),
            "n": self.n,
            "batch_size": self.batch_size,
            "device": self.model.denoiser.device.type,
        }
        return Cells(self.folder / "cells", common)

    def own(self, entry: Entry, seed: int) -> dict[str, Any]:
        """What a cell of a solver depends on besides."""
        return {"kind": "samples", "seed": seed, "truth": self.truth.identity, **entry.identity()}

    def own_floor(self, seed: int) -> dict[str, Any]:
        """What a cell of the floor depends on besides."""
        return {"kind": "floor", "seed": seed, "truth": self.truth.identity}

    def missing(self) -> list[tuple[int, Entry]]:
        """(seed, entry) of the cells that are not there yet: seed by seed, the quick ones first."""
        cells = self.cells()
        found = []
        for entry in self.entries:
            for place, seed in enumerate(self.seeds):
                there = cells.read(_label(entry, seed), self.own(entry, seed))
                if there is None:
                    found.append((place, entry))
                elif "error" in there:
                    break  # other seeds do not mend it
        ordered = sorted(found, key=lambda one: (one[0], one[1].calls))
        return [(self.seeds[place], entry) for place, entry in ordered]


@dataclass(frozen=True)
class Filled:
    """All cells.

    Args:
        samples: for each entry what was found with each seed that was tried; floors: the same of exact or real samples.
        computed: how many cells were not there before.
    """

    samples: list[list[Found]]
    floors: list[Found]
    computed: int


def fill(study: Study, command: str) -> Filled:
    """Compute what is missing, and read it all.

    Raises:
        Interrupted: by a signal; cells that are whole stay. OSError: a cell cannot be written.
    """
    cells = study.cells()
    notes = {"torch": torch.__version__, "threads": torch.get_num_threads(), "command": command}
    floors = [_floor(study, cells, seed, notes) for seed in study.floor_seeds]
    missing = study.missing()
    failed: set[int] = set()
    total = study.batches * sum(entry.calls for _, entry in missing)
    done = 0
    with display("evaluation", total) as show:
        for number, (seed, entry) in enumerate(missing, 1):
            note = f"{entry.label}, seed {seed}: {number} of {len(missing)}"
            if id(entry) not in failed:
                found = _draw(study, entry, seed, show, done, note)
                cells.write(_label(entry, seed), study.own(entry, seed), found, notes)
                if "error" in found:
                    failed.add(id(entry))
                    show.say(f"{entry.label}, seed {seed}: {found['error']}")
            done += study.batches * entry.calls
            show.update(done, note)
    return Filled([list(_until_failure(study, cells, entry)) for entry in study.entries], floors, len(missing))


def _until_failure(study: Study, cells: Cells, entry: Entry) -> Iterator[Found]:
    for seed in study.seeds:
        found = cells.read(_label(entry, seed), study.own(entry, seed))
        if found is None:
            return
        yield found
        if "error" in found:
            return


def _floor(study: Study, cells: Cells, seed: int, notes: dict[str, Any]) -> Found:
    label, own = f"floor-seed{seed}", study.own_floor(seed)
    found = cells.read(label, own)
    if found is None:
        found = cells.write(label, own, {"values": study.truth.judge.floor_values(study.n, seed)}, notes)
    return found


def _draw(study: Study, entry: Entry, seed: int, show: Display, done: int, note: str) -> Found:
    """Samples, judged."""
    calls = 0

    def on_step() -> None:
        nonlocal calls
        calls += entry.plan.solver.evaluations or entry.calls
        show.update(min(done + calls, show.total - 1), note)

    try:
        drawn = draw(
            study.model.denoiser,
            entry.plan.solver,
            entry.plan.times,
            n=study.n,
            seed=seed,
            batch_size=study.batch_size,
            shape=study.model.space.shape,
            on_step=on_step,
        )
    except NumericalError as error:
        return {"error": str(error)}
    samples = drawn.samples.cpu()
    return {
        "values": study.truth.judge.values(samples, seed),
        "nearness": study.truth.nearness(samples),
        "evaluations": drawn.evaluations,
        "seconds": drawn.seconds,
        "peak_bytes": drawn.peak_bytes,
    }


def _label(entry: Entry, seed: int) -> str:
    """The beginning of a cell's file name."""
    return f"{entry.plan.label()}-seed{seed}"


def there(study: Study) -> int:
    """How many of the cells of samples are there."""
    return len(study.entries) * len(study.seeds) - len(study.missing())
