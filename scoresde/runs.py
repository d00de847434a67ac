"""The run folder: config.toml, metrics.jsonl, log.txt, samples/, checkpoints/.

One writer at a time, by a lock that the system drops when the writer dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scoresde import checkpoint
from scoresde._files import write_atomically
from scoresde.errors import BusyError
from scoresde.recipe import Recipe, Space, to_toml
from scoresde.training import TrainingState


class Run:
    """A folder that a training run writes.

    Args:
        folder: made when it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkpoints = folder / "checkpoints"
        self.samples = folder / "samples"
        self.config = folder / "config.toml"
        self.metrics = folder / "metrics.jsonl"
        self.log_file = folder / "log.txt"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against other writers.

        Raises:
            BusyError: another process is writing it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(
                    f"{self.folder} is being written by another process; wait, or take another --out"
                ) from error
            yield

    def exists(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(checkpoint.steps(self.checkpoints))

    def begin(self, recipe: Recipe, step: int) -> None:
        """Write config.toml, drop leftovers of an interrupted write, and records later than `step`."""
        for leftover in self.checkpoints.glob(".writing-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        write_atomically(self.config, to_toml(recipe).encode())
        if self.metrics.exists():
            kept = [line for line in self.metrics.read_text().splitlines() if 0 <= _step_of(line) <= step]
            write_atomically(self.metrics, "".join(line + "\n" for line in kept).encode())

    def record(self, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        with self.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")

    def log(self, line: str) -> None:
        """Append one line to log.txt."""
        with self.log_file.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def save(self, state: TrainingState, recipe: Recipe, space: Space, *, keep: int = 3) -> Path:
        """Write a checkpoint, then remove all but the newest `keep`."""
        path = checkpoint.write(self.checkpoints, state, recipe, space)
        for old in checkpoint.steps(self.checkpoints)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)
        return path

    def read_metrics(self) -> list[Mapping[str, Any]]:
        """The records so far; a half-written last line is passed over."""
        if not self.metrics.exists():
            return []
        return [json.loads(line) for line in self.metrics.read_text().splitlines() if _step_of(line) >= 0]


def _step_of(line: str) -> int:
    """The step of a record; -1 for a line that an interrupted write left broken."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return -1
