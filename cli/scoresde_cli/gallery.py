"""A folder of samples: one file each, what they were made with, and which of them are whole.

    sample-000012.png    (or .npy)
    settings.json        everything that decides the samples, and some that does not
    sha256.txt           a line for each file as it was written, in the form that `sha256sum -c` reads
    grid.png             all of them; scatter.png for points of the plane; samples.npy for arrays

The frames of an interpolation are called frame-000012.png, and so on.

A sample that is there with the digest of its line is not computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from scoresde._files import write_atomically
from scoresde.data import DataError, read_image
from scoresde.recipe import Space
from scoresde_cli.ids import format_ids, parse_ids
from scoresde_cli.pictures import IN_GRID, Density, npy_bytes, picture, png_bytes, write_bytes

SETTINGS, DIGESTS = "settings.json", "sha256.txt"
SUMMARIES = ("grid.png", "scatter.png", "samples.npy", "frames.npy")
WORDS = ("sample", "frame")


class Gallery:
    """The samples of one model by one solver with one seed, or the frames between some of them.

    Args:
        folder: made by `open`.
        deciding: what the samples depend on; the folder never mixes two of these.
        title: of a sample, kept inside its PNG.
        word: what one of them is called, sample or frame.
    """

    def __init__(
        self, folder: Path, space: Space, deciding: Mapping[str, Any], title: str, word: str = "sample"
    ) -> None:
        self.folder, self.space, self.title, self.word = folder, space, title, word
        self.numbers = {"sample": "seeds", "frame": "drawn"}[word]
        self.deciding: dict[str, Any] = json.loads(json.dumps(deciding))
        self.digest = hashlib.sha256(json.dumps(self.deciding, sort_keys=True).encode()).hexdigest()

    def name(self, sample: int) -> str:
        """The file of a sample."""
        return f"{self.word}-{sample:06d}.{'png' if self.space.kind == 'image' else 'npy'}"

    def open(self, *, overwrite: bool) -> bool:
        """Make the folder, or check that what is in it was made with these settings; whether it was cleared first.

        Raises:
            UsageError: it was not, and `overwrite` is not set; or these are not our files.
            DataError: damaged settings, likewise; OSError: it cannot be made.
        """
        try:
            self._make_or_check()
        except (click.UsageError, DataError):
            if not overwrite:
                raise
            self._clear()
            self._make_or_check()
            return True
        return False

    def _make_or_check(self) -> None:
        if not (self.folder / SETTINGS).exists():
            strangers = sorted(path for word in WORDS for path in self.folder.glob(f"{word}-*"))
            if strangers:
                raise click.UsageError(
                    f"{self.folder} holds {strangers[0].name} but no {SETTINGS}; take another --out, or --overwrite"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write({})
            return
        there = self._read_settings()["settings"]
        for key in (*self.deciding, *there):
            if there.get(key) != self.deciding.get(key):
                raise click.UsageError(
                    f"{self.folder} holds samples made with other settings: {key} is {_brief(there.get(key))} there "
                    f"and {_brief(self.deciding.get(key))} here; take another --out, or --overwrite"
                )

    def whole(self, ids: Iterable[int]) -> set[int]:
        """Those of the samples that are there as they were written."""
        digests = self._digests()
        found = set()
        for i in ids:
            path = self.folder / self.name(i)
            if path.name in digests and path.is_file():
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() == digests[path.name]:
                    found.add(i)
        return found

    def add(self, ids: Sequence[int], values: np.ndarray) -> None:
        """Write samples (n, *), in the user's values; they are all kept, or those before an error."""
        for i, value in zip(ids, values, strict=True):
            if self.space.kind == "image":
                title = f"{self.title}, {self.word} {i}"
                content = png_bytes(value, {"scoresde": title, "scoresde settings": self.digest})
            else:
                content = npy_bytes(value)
            write_bytes(self.folder / self.name(i), content)
            with (self.folder / DIGESTS).open("a", encoding="ascii") as stream:
                stream.write(f"{hashlib.sha256(content).hexdigest()}  {self.name(i)}\n")

    def finish(
        self,
        ids: Sequence[int],
        notes: Mapping[str, Any],
        density: Density | None,
        rows: tuple[Sequence[int], int] | None = None,
    ) -> None:
        """Write what shows all samples `ids` at once, and the notes.

        Args:
            density: to draw behind points of the plane.
            rows: which samples a grid of pictures shows, and how many in a row; default `ids`, nearly in a square.
        """
        in_grid, columns = rows or (ids, None)
        if self.space.kind == "image":
            shown = np.stack([self._read(i) for i in in_grid[:IN_GRID]])
        else:
            shown = np.stack([self._read(i) for i in ids])
            write_bytes(self.folder / f"{self.word}s.npy", npy_bytes(shown))
        drawn = picture(shown, self.space, density, columns, self.word)
        if drawn is not None:
            name = "grid.png" if self.space.kind == "image" else "scatter.png"
            write_bytes(self.folder / name, drawn)
        before = self._read_settings()["notes"]
        asked = {*ids, *(parse_ids(before[self.numbers]) if self.numbers in before else ())}
        seconds = before.get("seconds", 0.0) + notes.get("seconds", 0.0)
        self._write({**before, **notes, self.numbers: format_ids(asked), "seconds": round(seconds, 3)})

    def _read(self, sample: int) -> np.ndarray:
        path = self.folder / self.name(sample)
        return read_image(path) if self.space.kind == "image" else np.load(path, allow_pickle=False)

    def _write(self, notes: Mapping[str, Any]) -> None:
        text = json.dumps({"settings": self.deciding, "notes": notes}, indent=2) + "\n"
        write_atomically(self.folder / SETTINGS, text.encode())

    def _read_settings(self) -> dict[str, Any]:
        path = self.folder / SETTINGS
        try:
            found = json.loads(path.read_bytes())
            return {"settings": dict(found["settings"]), "notes": dict(found["notes"])}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}); take another --out, or --overwrite") from error

    def _digests(self) -> dict[str, str]:
        """{file: sha256}; of several lines the last counts, and one that an interruption cut short does not."""
        path = self.folder / DIGESTS
        lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.exists() else []
        pairs = (line.split("  ", 1) for line in lines if len(line) > 66)
        return {name: digest for digest, name in pairs if len(digest) == 64}

    def _clear(self) -> None:
        """Remove what a gallery writes, and nothing else."""
        if self.folder.is_dir():
            for word in WORDS:
                for path in [*self.folder.glob(f"{word}-[0-9]*.png"), *self.folder.glob(f"{word}-[0-9]*.npy")]:
                    path.unlink()
            for name in (*SUMMARIES, SETTINGS, DIGESTS):
                (self.folder / name).unlink(missing_ok=True)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
