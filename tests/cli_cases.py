"""What the tests of the command line share: short runs, and words for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Call = Callable[..., tuple[int, str, str]]
"""Words of a command line to (exit code, standard output, standard error)."""

MOONS = ("moons", "--n", 300, "--preset", "tiny", "--batch-size", 16, "--validate-every", 0, "--sample-every", 0)
DIGITS = ("digits", "--n", 200, "--preset", "tiny", "--batch-size", 8, "--validate-every", 0, "--sample-every", 0)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
