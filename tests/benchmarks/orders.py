"""Measured orders against the exact flow map of one Gaussian, and strong order along one Brownian path.

python tests/benchmarks/orders.py [--json FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import math

import torch

import scoresde as sd
from scoresde import grids
from scoresde.noise import BrownianNoise
from scoresde.solvers import DDIM, RK4, AdamsBashforth, DPMSolver, Euler, EulerMaruyama, Heun, UniPC

SOLVERS = {
    "Euler": Euler(),
    "Heun": Heun(),
    "RK4": RK4(),
    "DDIM(eta=0)": DDIM(),
    "EulerMaruyama(eta=0)": EulerMaruyama(eta=0.0),
    **{f"DPMSolver({order})": DPMSolver(order) for order in (1, 2, 3)},
    **{f"UniPC({order})": UniPC(order) for order in (1, 2, 3)},
    **{f"AdamsBashforth({order})": AdamsBashforth(order) for order in (2, 3, 4)},
}
PROCESSES = {
    "VP": sd.VP(),
    "VE": sd.VE(0.01, 20.0),
    "sub-VP": sd.SubVP(),
    "cosine": sd.VP.cosine(),
    "rectified flow": sd.RectifiedFlow(),
}
STEPS = (256, 512, 1024)
LAW = sd.GaussianMixture([1.0], [[0.5, -0.3]], [[[0.3, 0.1], [0.1, 0.2]]])


def flow_order(solver: sd.solvers.Solver, sde: sd.LinearSDE) -> float:
    """Slope of the log error between the coarsest and the finest grid."""
    x1 = sde.prior_std() * torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = LAW.flow(x1, sde, 1.0, 0.0)
    errors = [
        (sd.sample(LAW.denoiser(sde), solver, steps=n, x1=x1) - exact).square().mean().sqrt().item() for n in STEPS
    ]
    return math.log(errors[0] / errors[-1]) / math.log(STEPS[-1] / STEPS[0])


def strong_order() -> float:
    """Of Euler-Maruyama on the reverse SDE: differences of successive resolutions of one path."""
    process = sd.Reverse(LAW.denoiser(sd.VP(0.1, 10.0)), eta=1.0)
    noise = BrownianNoise(7, torch.arange(500), (2,), torch.float64)
    ends = [sd.solve(process, EulerMaruyama(), grids.uniform(n), noise.start(), noise) for n in (64, 128, 256, 512)]
    gaps = [(a - b).square().mean().sqrt().item() for a, b in itertools.pairwise(ends)]
    return math.log2(gaps[0] / gaps[-1]) / (len(gaps) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'solver':22s} {'declared':>8s} " + " ".join(f"{name:>14s}" for name in PROCESSES))
    table = {}
    for name, solver in SOLVERS.items():
        table[name] = {key: flow_order(solver, sde) for key, sde in PROCESSES.items()}
        print(f"{name:22s} {solver.order:8d} " + " ".join(f"{order:14.3f}" for order in table[name].values()))
    strong = strong_order()
    print(f"EulerMaruyama, strong, one Gaussian, one Brownian path: {strong:.3f}")
    if arguments.json:
        with open(arguments.json, "w") as stream:
            json.dump({"flow": table, "strong": strong}, stream, indent=2)


if __name__ == "__main__":
    main()
