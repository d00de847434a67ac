"""The way of some samples in a comparison: what one look at the noise says, and what is decided when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scoresde import grids
from scoresde.compare.along import decided, estimates_along
from scoresde.solvers import Ancestral
from scoresde_cli.comparison_cells import packed, unpacked
from scoresde_cli.comparison_study import Study
from scoresde_cli.progress import say

STEPS, LEVELS = 100, 10
FOLLOWED, SHOWN, POINTS = 32, 8, 400


@dataclass(frozen=True)
class Way:
    """The way of an ancestral run.

    Args:
        times: (m,) from 1 down.
        estimates: E[x0 | x_t] there of the first samples, (m, n, *), in the user's units; end: where they go, (n, *).
        bands: of spatial frequency, or one, "all"; decided: the share of each that is decided, (m, bands).
        paths: that `decided` is over.
    """

    times: np.ndarray
    estimates: np.ndarray
    end: np.ndarray
    bands: tuple[str, ...]
    decided: np.ndarray
    paths: int


def follow(study: Study, command: str) -> Way:
    """The way of the first seed's samples, from its cell or computed.

    Raises:
        NumericalError: a value that is not finite; OSError: the cell cannot be written.
    """
    plane = study.model.space.shape == (2,)
    count = POINTS if plane else FOLLOWED
    shown = POINTS if plane else min(SHOWN, FOLLOWED)
    own = {"kind": "way", "seed": study.seeds[0], "steps": STEPS, "levels": LEVELS, "count": count, "shown": shown}
    cells, label = study.cells(), f"way-seed{study.seeds[0]}"
    found = cells.read(label, own)
    if found is None:
        say("what is decided when ...")
        found = cells.write(label, own, _computed(study, count, shown), {"command": command})
    times, estimates, end, share = (unpacked(found[key]) for key in ("times", "estimates", "end", "decided"))
    return Way(times, estimates, end, tuple(found["bands"]), share, count)


def _computed(study: Study, count: int, shown: int) -> dict[str, Any]:
    denoiser, space = study.model.denoiser, study.model.space
    along = estimates_along(
        denoiser,
        Ancestral(),
        grids.uniform(STEPS),
        ids=torch.arange(count),
        seed=study.seeds[0],
        levels=LEVELS,
        shape=space.shape,
        batch_size=min(study.batch_size, count),
    )
    share = decided(along)
    flat = space.to_user(along.estimates[:, :shown].flatten(0, 1))
    return {
        "times": packed(along.times.numpy()),
        "estimates": packed(flat.reshape(len(along.times), shown, *space.shape)),
        "end": packed(space.to_user(along.end[:shown])),
        "bands": list(share.bands),
        "decided": packed(share.share.cpu().numpy()),
    }
