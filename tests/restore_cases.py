"""What the tests of `scoresde restore` share: a short run on digits, pictures of digits, and what a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cli_cases import DIGITS

from scoresde import data
from scoresde.report import write_png
from scoresde_cli.main import run

MADE = (
    *("measurement.npy", "measurement.png", "mean.npy", "mean.png", "std.npy", "std.png", "panel.png"),
    *("metrics.json", "settings.json", "sha256.txt"),
)
"""What every restoration of a picture holds besides its samples."""


def digits_run(folder: Path) -> Path:
    """A run on 8 x 8 digits of a few steps: nearly the prior N(0, I), which is what a network of v starts from."""
    assert run(["train", *map(str, DIGITS), "--predict", "v", "--steps", "2", "--out", str(folder / "run")]) == 0
    return folder / "run"


def picture(name: str, number: int = 5, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    """A digit as a file of 8-bit grey values, repeated to a size; its values from 0 to 1."""
    digit = np.round(data.digits().array[number] * (255 / 16)).astype(np.uint8)
    tiled = np.tile(digit, (1, -(-size[0] // 8), -(-size[1] // 8)))[:, : size[0], : size[1]]
    write_png(name, np.ascontiguousarray(tiled.transpose(1, 2, 0)))
    return tiled / 255


def metrics(folder: Path | str) -> dict[str, Any]:
    return dict(json.loads(Path(folder, "metrics.json").read_text()))


def samples(folder: Path | str) -> torch.Tensor:
    """(n, *) float64, as computed."""
    return torch.stack([torch.from_numpy(np.load(path)) for path in sorted(Path(folder).glob("sample-*.npy"))]).double()


def contents(folder: Path | str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("sample-*")}
