"""Errors of the solvers at equal numbers of evaluations, on exact mixtures: the table of the README.

Deterministic: root mean square distance to the exact flow's end (RK45 at 1e-11, float64, 400 starts) and the median
over starts, since a few paths that change mode decide the former. Stochastic: sliced 2-Wasserstein distance to exact
samples over the exact-versus-exact floor, and the standard deviation within modes over the true one. Each on its own
grid; `peers.py` tunes them beside other packages'. --curve: ancestral sampling's loss of standard deviation within
modes, by steps, in 64 dimensions.

python tests/benchmarks/solvers.py [--curve] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from torch import Tensor

import scoresde as sd
from scoresde.metrics import sliced_wasserstein
from scoresde.solvers import (
    DDIM,
    ERSDE,
    RK4,
    RK45,
    AdamsBashforth,
    Ancestral,
    DPMSolver,
    Euler,
    EulerMaruyama,
    ExponentialEuler,
    Heun,
    PredictorCorrector,
    SASolver,
    UniPC,
)

LAWS = ("grid25", "modes64")
BUDGETS = (10, 20, 50, 100)
FLOW = [
    UniPC(),
    UniPC(2),
    DPMSolver(3),
    DPMSolver(2),
    AdamsBashforth(4),
    AdamsBashforth(3),
    RK4(),
    Heun(),
    DDIM(),
    Euler(),
]
STOCHASTIC = [
    ERSDE(),
    SASolver(),
    SASolver(eta=0.5),
    DPMSolver(2, sde=True),
    PredictorCorrector(),
    EulerMaruyama(),
    ExponentialEuler(),
    Ancestral(),
]


def exact(name: str) -> sd.GaussianMixture:
    """The named mixture in float64."""
    law = sd.MIXTURES[name]()
    return sd.GaussianMixture(law.weights, law.means, law.eigenvalues, dtype=torch.float64)


def steps_for(solver: Any, evaluations: int) -> int:
    """As many as the budget pays for."""
    return max(1, evaluations // solver.evaluations)


def width(law: sd.GaussianMixture, x: Tensor) -> float:
    """Root mean square distance to the nearest mode's mean over its standard deviation."""
    mode = law.responsibilities(x).argmax(1)
    return ((x - law.means[mode]).square() / law.eigenvalues[mode]).mean().sqrt().item()


def flow_table() -> list[dict[str, Any]]:
    """Errors of deterministic solvers."""
    rows = []
    for name in LAWS:
        law, sde = exact(name), sd.VP()
        denoiser = law.denoiser(sde)
        z = torch.randn(400, law.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        x1 = sde.prior_std() * z
        end = sd.sample(denoiser, RK45(1e-11, 1e-11), x1=x1)
        for solver in FLOW:
            row: dict[str, Any] = {"law": name, "solver": str(solver), "order": solver.order}
            for budget in BUDGETS:
                error2 = (sd.sample(denoiser, solver, steps=steps_for(solver, budget), x1=x1) - end).square().mean(1)
                row[f"rms {budget}"] = error2.mean().sqrt().item()
                row[f"median {budget}"] = error2.median().sqrt().item()
            rows.append(row)
            cells = "  ".join(f"{row[f'rms {b}']:.1e} ({row[f'median {b}']:.0e})" for b in BUDGETS)
            print(f"{name:8s} {row['solver']:60s} {cells}", flush=True)
    return rows


def law_table() -> list[dict[str, Any]]:
    """Distances of stochastic solvers, over the floor."""
    rows = []
    n = 5000
    for name in LAWS:
        law = exact(name)
        denoiser = law.denoiser(sd.VP())
        sets = [law.sample(n, 100 + i) for i in range(6)]
        floor = torch.tensor([sliced_wasserstein(law.sample(n, i), sets[i], p=2) for i in range(6)]).mean().item()
        print(f"{name:8s} floor {floor:.4f}, width of exact samples {width(law, sets[0]):.3f}")
        for solver in STOCHASTIC:
            row: dict[str, Any] = {"law": name, "solver": str(solver), "order": solver.order, "floor": floor}
            for budget in (20, 50, 100):
                x = sd.sample(denoiser, solver, steps=steps_for(solver, budget), n=n, seed=1)
                distance = torch.tensor([sliced_wasserstein(x, y, p=2) for y in sets]).mean().item()
                row[f"w2 / floor {budget}"], row[f"width {budget}"] = distance / floor, width(law, x)
            rows.append(row)
            cells = "  ".join(f"{row[f'w2 / floor {b}']:.2f} {row[f'width {b}']:.3f}" for b in (20, 50, 100))
            print(f"{name:8s} {row['solver']:60s} {cells}", flush=True)
    return rows


def ancestral_curve() -> list[dict[str, Any]]:
    """Standard deviation within modes of ancestral sampling in 64 dimensions, by steps."""
    law = exact("modes64")
    rows = []
    for steps in (10, 20, 50, 100, 200, 500, 1000):
        kept = width(law, sd.sample(law.denoiser(sd.VP()), Ancestral(), steps=steps, n=1000, seed=1))
        rows.append({"steps": steps, "width": kept})
        print(f"ancestral, {steps:5d} steps: {kept:.3f} of the true standard deviation", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curve", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.curve:
        result: dict[str, Any] = {"curve": ancestral_curve()}
    else:
        result = {"flow": flow_table(), "stochastic": law_table()}
    if arguments.json:
        with open(arguments.json, "w") as stream:
            json.dump(result, stream, indent=2)


if __name__ == "__main__":
    main()
