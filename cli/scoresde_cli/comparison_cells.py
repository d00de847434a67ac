"""The cells of a comparison on disk: one small JSON file for each solver, effort and seed, written whole or not at all.

A cell is found by a digest of everything that its numbers depend on, which it also holds. So a solver or a seed more
costs only what is new, an interrupted comparison goes on where it was, and numbers of another checkpoint, another truth
or another version are other files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import scoresde
from scoresde._files import write_atomically
from scoresde_cli.progress import say

FORMAT, VERSION = "scoresde-comparison-cell", 1
DIGITS = 16


@dataclass(frozen=True)
class Cells:
    """A folder of cells.

    Args:
        common: what all of them depend on.
    """

    folder: Path
    common: Mapping[str, Any]

    def made_for(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """All that a cell depends on, as it reads back from its file."""
        whole = {"scoresde": scoresde.__version__, **self.common, **own}
        return dict(json.loads(json.dumps(whole)))

    def path(self, label: str, own: Mapping[str, Any]) -> Path:
        """The file of a cell."""
        return self.folder / f"{label}-{_digest(self.made_for(own))[:DIGITS]}.json"

    def read(self, label: str, own: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was found, or None where there is nothing, or nothing whole."""
        path = self.path(label, own)
        try:
            content = dict(json.loads(path.read_bytes()))
            digest = content.pop("sha256")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            say(f"{path} is damaged ({error}); it is computed again")
            return None
        if digest != _digest(content) or content.get("format") != FORMAT or content.get("version") != VERSION:
            say(f"{path} is not the file that was written, or of another version; it is computed again")
            return None
        return _numbers(dict(content["found"])) if content["made_for"] == self.made_for(own) else None

    def write(
        self, label: str, own: Mapping[str, Any], found: Mapping[str, Any], notes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Keep what was found; as it will be read.

        Raises:
            OSError: it cannot be written.
        """
        content = {
            "format": FORMAT,
            "version": VERSION,
            "made_for": self.made_for(own),
            "found": plain(found),
            "notes": dict(notes),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {**content, "sha256": _digest(content)}
        write_atomically(self.path(label, own), (json.dumps(whole, indent=1) + "\n").encode())
        return _numbers(dict(json.loads(json.dumps(content["found"]))))


def plain(value: Any) -> Any:
    """JSON has no nan and no infinity: they become the words of Python."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as plain values, bit for bit."""
    return {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "base64": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
    }


def unpacked(found: Mapping[str, Any]) -> np.ndarray:
    """The reverse of `packed`."""
    return np.frombuffer(base64.b64decode(found["base64"]), dtype=found["dtype"]).reshape(found["shape"])


def _numbers(found: dict[str, Any]) -> dict[str, Any]:
    """The reverse of `plain`, for the values of measures."""
    values = found.get("values")
    if values is not None:
        found["values"] = {name: float(value) for name, value in values.items()}
    return found


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
