"""Frechet distance of a run trained on MNIST to its test digits, in the features of a LeNet, by solver.

    python tests/benchmarks/frechet.py RUN --test t10k-images-idx3-ubyte.gz --features lenet.pth [--n 1000]

Next to it stands the same distance between real digits: n of them against the rest, which is what n samples of a
perfect model would get (the distance of finite samples is biased upwards, the more the fewer they are).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import scoresde as sd
from scoresde import checkpoint, data
from scoresde.metrics import feature_statistics, frechet_distance, load_features
from scoresde.report import image_grid, write_png
from scoresde.solvers import RK45, Ancestral, EulerMaruyama, Heun


def statistics(features, images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the features of pictures in [-1, 1]."""
    parts = [features((x.clamp(-1, 1) + 1) / 2) for x in images.split(500)]
    return feature_statistics(torch.cat(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--solvers", default="ode,heun,ancestral,em")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pictures", type=Path, help="folder for a grid of samples of each solver")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    features = load_features(arguments.features)
    test = data.open_data(arguments.test)
    real = test.batch(np.random.default_rng(0).permutation(len(test)))
    everything = statistics(features, real)
    half = len(real) // 2
    halves = frechet_distance(*statistics(features, real[:half]), *statistics(features, real[half:]))
    matched = frechet_distance(*statistics(features, real[: arguments.n]), *statistics(features, real[arguments.n :]))
    print(f"real, half against half ({half} each): {halves:.3f}")
    print(f"real, {arguments.n} against the other {len(real) - arguments.n}: {matched:.3f}", flush=True)
    rows = [{"solver": "real halves", "distance": halves}, {"solver": f"real {arguments.n}", "distance": matched}]
    denoiser = checkpoint.read(arguments.run).denoiser()
    cases = {
        "ode": ("ode (RK45)", RK45(), None),
        "heun": ("heun-18", Heun(), 18),
        "ancestral": (f"ancestral-{arguments.steps}", Ancestral(), arguments.steps),
        "em": (f"em-{arguments.steps}", EulerMaruyama(), arguments.steps),
    }
    for name, solver, steps in (cases[key] for key in arguments.solvers.split(",")):
        start = time.perf_counter()
        x = sd.sample(denoiser, solver, steps=steps, n=arguments.n, seed=0, batch_size=64)
        seconds = time.perf_counter() - start
        distance = frechet_distance(*statistics(features, x), *everything)
        print(f"{name:16s} {distance:8.3f}   {seconds:7.1f} s for {arguments.n}", flush=True)
        rows.append({"solver": name, "distance": distance, "seconds": seconds})
        if arguments.pictures:
            arguments.pictures.mkdir(parents=True, exist_ok=True)
            pixels = ((x[:64].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()
            write_png(arguments.pictures / f"{name.split()[0]}.png", image_grid(pixels, 8))
    if arguments.json:
        with open(arguments.json, "w") as stream:
            json.dump({"n": arguments.n, "rows": rows, "argv": sys.argv[1:]}, stream, indent=2)


if __name__ == "__main__":
    main()
