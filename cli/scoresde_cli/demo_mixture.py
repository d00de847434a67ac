"""The demo where the answer is known: three solvers on a mixture of Gaussians with its exact score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from scoresde.metrics import sliced_wasserstein
from scoresde.mixtures import MIXTURES
from scoresde.processes import VP
from scoresde_cli.demo_study import Drawn, Effort, draw_all
from scoresde_cli.progress import display

NAME = "grid25"
HALF_WIDTH = 2.0  # of the square that is shown; all modes lie within 1.75
GRID = 401
BATCH = 1000
EXACT_SEED = 1000  # of the first exact set


@dataclass(frozen=True)
class MixtureStudy:
    """What the page says of the mixture.

    Args:
        xs, ys, density: the exact density (ys, xs) on a square.
        exact: (n, 2) exact draws.
        drawn: samples by each solver; distance: of each to the exact draws (sliced Wasserstein, p = 1).
        floor, floor_std: mean and standard deviation of the distance between two exact sets, over `pairs` pairs.
    """

    components: int
    xs: np.ndarray
    ys: np.ndarray
    density: np.ndarray
    exact: np.ndarray
    drawn: list[Drawn]
    distance: Mapping[str, float]
    floor: float
    floor_std: float
    pairs: int

    def deviations(self, name: str) -> float:
        """How many standard deviations a solver's distance is above what exact draws have among themselves."""
        return (self.distance[name] - self.floor) / self.floor_std


def study_mixture(effort: Effort, seed: int) -> MixtureStudy:
    """Sample the mixture's exact denoiser with each solver; distances to exact draws, next to their floor."""
    law = MIXTURES[NAME]()
    drawn = draw_all(law.denoiser(VP()), effort.point_steps, effort.points, seed, BATCH)
    exact = law.sample(effort.points, EXACT_SEED)
    floor = []
    with display("exact against exact: pair", effort.pairs) as show:
        for pair in range(effort.pairs):
            x, y = (law.sample(effort.points, EXACT_SEED + 2 * pair + k) for k in (1, 2))
            floor.append(sliced_wasserstein(x, y))
            show.update(pair + 1)
    side = torch.linspace(-HALF_WIDTH, HALF_WIDTH, GRID)
    density = law.log_prob(torch.cartesian_prod(side, side).flip(1)).exp().reshape(GRID, GRID)
    mean = math.fsum(floor) / len(floor)
    return MixtureStudy(
        law.components,
        side.numpy(),
        side.numpy(),
        density.numpy(),
        exact.numpy(),
        drawn,
        {each.name: sliced_wasserstein(each.samples, exact) for each in drawn},
        mean,
        math.sqrt(math.fsum((d - mean) ** 2 for d in floor) / (len(floor) - 1)),
        effort.pairs,
    )
