"""What the model would draw now: the same few samples each time, so that previews of a run can be compared."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from scoresde import grids, sampling
from scoresde.data import Dataset
from scoresde.recipe import Space
from scoresde.solvers import Heun
from scoresde.training import TrainingState
from scoresde_cli.pictures import npy_bytes, picture, write_bytes

STEPS = 18  # Karras et al. 2022: 35 evaluations with Heun's method
SEED = 0
PIXELS = 64 * 32 * 32  # of a preview in all
POINTS = 1000


def preview(state: TrainingState, space: Space, data: Dataset, folder: Path, on_step: Callable[[], None]) -> Path:
    """Draw samples with the averaged weights; a picture of them, or the numbers when they make none.

    Args:
        data: whose density is drawn behind points of the plane.
        on_step: is called now and then, and may raise to give up.

    Raises:
        NumericalError: a sample is not finite; OSError: it cannot be written.
    """
    n = min(64, max(4, PIXELS // math.prod(space.shape[1:]))) if space.kind == "image" else POINTS
    with state.ema.applied():
        x = sampling.sample(
            state.denoiser,
            Heun(),
            times=grids.karras(state.denoiser.sde, STEPS),
            n=n,
            seed=SEED,
            batch_size=min(n, 64) if space.kind == "image" else n,
            on_step=on_step,
        )
    values = space.to_user(x)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{state.step:06d}"
    drawn = picture(values, space, _density(data))
    if drawn is None:
        return write_bytes(folder / f"{name}.npy", npy_bytes(values))
    return write_bytes(folder / f"{name}.png", drawn)


def _density(data: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """(xs, ys, values) of a histogram of points of the plane."""
    if data.shape != (2,):
        return None
    counts, x_edges, y_edges = np.histogram2d(data.array[:, 0], data.array[:, 1], bins=60)
    xs, ys = (0.5 * (edges[1:] + edges[:-1]) for edges in (x_edges, y_edges))
    return xs, ys, counts.T
