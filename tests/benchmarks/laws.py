"""Sliced Wasserstein distance to exact samples of 25 modes, by solver and steps, next to the exact-versus-exact floor.

python tests/benchmarks/laws.py [--steps 1000] [--n 5000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time

import torch

import scoresde as sd
from scoresde.metrics import sliced_wasserstein
from scoresde.solvers import DDIM, RK45, Ancestral, Euler, EulerMaruyama, Heun

SOLVERS = {
    "ancestral": Ancestral(),
    "em": EulerMaruyama(),
    "ode (Euler)": Euler(),
    "heun": Heun(),
    "ddim": DDIM(),
    "ode (RK45)": RK45(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    law, n = sd.MIXTURES["grid25"](), arguments.n
    denoiser = law.denoiser(sd.VP())
    floor = torch.tensor([float(sliced_wasserstein(law.sample(n, i), law.sample(n, 500 + i), p=2)) for i in range(30)])
    mean, std = floor.mean().item(), floor.std().item()
    print(f"25 modes, n = {n}: exact against exact {mean:.4f}, standard deviation {std:.4f} (30 pairs)")
    print(f"{'solver':14s} {'steps':>6s} {'sliced W2':>10s} {'in std':>8s} {'seconds':>8s}")
    rows = []
    for name, solver in SOLVERS.items():
        steps = None if solver.adaptive else arguments.steps
        start = time.perf_counter()
        x = sd.sample(denoiser, solver, steps=steps, n=n, seed=1)
        seconds = time.perf_counter() - start
        # one sample set against many exact ones: the spread of the exact side averages out
        w2 = torch.tensor([float(sliced_wasserstein(x, law.sample(n, 1000 + i), p=2)) for i in range(10)]).mean().item()
        print(f"{name:14s} {steps or '-'!s:>6s} {w2:10.4f} {(w2 - mean) / std:8.2f} {seconds:8.1f}")
        rows.append({"solver": name, "steps": steps, "sliced_w2": w2, "in_std": (w2 - mean) / std, "seconds": seconds})
    if arguments.json:
        with open(arguments.json, "w") as stream:
            json.dump({"n": n, "floor": mean, "floor_std": std, "rows": rows}, stream, indent=2)


if __name__ == "__main__":
    main()
