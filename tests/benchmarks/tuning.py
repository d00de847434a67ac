"""What a fitted grid gains over the solver's own: errors of the end x(0) on held-out starts, before and after.

python tests/benchmarks/tuning.py [--steps 5,8,10,20] [--n 64] [--run RUN] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict

import torch

import scoresde as sd
from scoresde.denoisers import Denoiser

PROCESSES = {"vp": sd.VP(), "rectified-flow": sd.RectifiedFlow()}


def models(run: str | None) -> dict[str, Denoiser]:
    """Two mixtures under two processes, or a trained run."""
    if run is not None:
        return {run: sd.load(run)}
    return {
        f"{name}, {process}": sd.MIXTURES[name]().denoiser(sde)
        for name in ("grid25", "modes64")
        for process, sde in PROCESSES.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", default="5,8,10,20")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--run")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{'model':24s} {'steps':>5s}  {'median':19s}  {'rms':19s}  {'mean':19s}  evaluations a path  seconds")
    for model, denoiser in models(arguments.run).items():
        for steps in map(int, arguments.steps.split(",")):
            start = time.perf_counter()
            found = sd.tune_grid(denoiser, sd.solvers.UniPC(), steps, n=arguments.n)
            seconds = time.perf_counter() - start
            before, after = found.held_out
            cells = [f"{getattr(before, k):.3g} -> {getattr(after, k):.3g}" for k in ("median", "rms", "mean")]
            paths = found.evaluations / arguments.n
            print(f"{model:24s} {steps:5d}  {'  '.join(f'{c:19s}' for c in cells)}  {paths:18,.0f}  {seconds:7.1f}")
            row = {"model": model, "steps": steps, "before": before._asdict(), "after": after._asdict()}
            rows.append({**row, "reference": found.reference, "evaluations": found.evaluations, "seconds": seconds})
    if arguments.json:
        with open(arguments.json, "w") as stream:
            json.dump({"solver": asdict(sd.solvers.UniPC()), "n": arguments.n, "rows": rows}, stream, indent=2)


if __name__ == "__main__":
    main()
