"""Where the steps of ancestral sampling and of Euler-Maruyama part from the exact reverse kernel of a mixture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scoresde.compare import Estimate
from scoresde.compare.kernels import KERNELS, PathKL, path_kl_by_steps
from scoresde.distributions import GaussianMixture
from scoresde.sde import LinearSDE
from scoresde_cli.comparison_cells import plain
from scoresde_cli.comparison_study import Study
from scoresde_cli.progress import say

COUNTS, PATHS = (5, 10, 20, 50, 100), 500
PARTS = ("mean", "variance", "total")


@dataclass(frozen=True)
class Grid:
    """Nats that each kernel is off by over a whole grid of `steps`.

    Args:
        non_gaussian: what no Gaussian avoids; kernels: by name, the parts "mean", "variance", and "total" with it.
    """

    steps: int
    non_gaussian: Estimate
    kernels: dict[str, dict[str, Estimate]]


def study_kernels(study: Study, command: str) -> list[Grid]:
    """Of a mixture, from the cell or computed; empty where there is nothing to compare.

    Raises:
        OSError: the cell cannot be written.
    """
    law = study.truth.law
    if law is None:
        return []
    own = {"kind": "kernels", "counts": list(COUNTS), "paths": PATHS}
    cells = study.cells()
    found = cells.read("kernels", own)
    if found is None:
        say("reverse kernels ...")
        grids = [_as_dict(grid) for grid in _computed(law, study.model.denoiser.sde)]
        found = cells.write("kernels", own, {"grids": grids}, {"command": command})
    return [_grid(each) for each in found["grids"]]


def _computed(law: GaussianMixture, sde: LinearSDE) -> list[PathKL]:
    """Without the kernels that the process does not admit: Euler-Maruyama's needs a finite g."""
    for kernels in (KERNELS, {name: kernel for name, kernel in KERNELS.items() if name.startswith("ancestral")}):
        try:
            return path_kl_by_steps(law, sde, COUNTS, kernels=kernels, n=PATHS)
        except ValueError:
            continue
    return []


def _as_dict(of: PathKL) -> dict[str, Any]:
    return {
        "steps": len(of.steps),
        "non_gaussian": plain(vars(of.non_gaussian)),
        "kernels": {name: {part: plain(vars(getattr(kl, part))) for part in PARTS} for name, kl in of.kernels.items()},
    }


def _grid(found: dict[str, Any]) -> Grid:
    kernels = {
        name: {part: _estimate(value) for part, value in parts.items()} for name, parts in found["kernels"].items()
    }
    return Grid(found["steps"], _estimate(found["non_gaussian"]), kernels)


def _estimate(found: dict[str, Any]) -> Estimate:
    return Estimate(**{key: float(value) for key, value in found.items()})
