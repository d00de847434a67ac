"""What the tests of `scoresde sample` share: short runs, coarse solvers, and what a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from scoresde_cli.main import run

TRAIN = ("--preset", "tiny", "--steps", 3, "--batch-size", 8, "--validate-every", 0, "--sample-every", 0)


def pictures_run(folder: Path) -> Path:
    """A run on 6 x 6 pictures."""
    data = np.random.default_rng(0).integers(0, 256, size=(20, 6, 6), dtype=np.uint8)
    return _trained(folder, data)


def points_run(folder: Path) -> Path:
    """A run on points of the plane, far from unit scale."""
    return _trained(folder, 100.0 + 20.0 * np.random.default_rng(0).normal(size=(50, 2)))


def _trained(folder: Path, data: np.ndarray) -> Path:
    np.save(folder / "x.npy", data)
    assert run(["train", str(folder / "x.npy"), "--out", str(folder / "run"), *map(str, TRAIN)]) == 0
    return folder / "run"


def settings(folder: Path | str) -> dict[str, Any]:
    found = json.loads(Path(folder, "settings.json").read_text())
    return {**found["settings"], **found["notes"]}


def samples(folder: Path | str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("sample-*")}


ADAPTIVE = ("rk45", "scipy", "adaptive-sde")


def coarsely(solver: str, steps: int) -> tuple[Any, ...]:
    """Options that make a solver quick on an untrained network."""
    if solver in ADAPTIVE:
        return ("--rtol", 0.3, "--atol", 0.3, *(("--method", "RK23") if solver == "scipy" else ()))
    return ("--steps", steps)
