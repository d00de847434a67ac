"""Who draws from p(x | y)? Every method of `scoresde.inverse` on a mixture, by tests that can fail.

A mixture of three components in three dimensions, of which two linear combinations are measured with noise: half of
the posteriors have a second mode of 9 % or more. For each method: p-values of simulation-based calibration,
coverage with random references, joint two-sample test and chi-square of the residual (`scoresde.metrics.calibration`),
the verdict of the four together, and the coverage of 90 % intervals (50 % below 19 draws) and the spread-skill ratio.
Samples that interact are made problem by problem, `--particles` at once, and so many draws picked from them: minutes.

python tests/benchmarks/calibration.py [--methods MMPS,...] [--steps 100] [--problems 500] [--draws 19]
    [--particles 256] [--level 0.01] [--seed 0] [--json FILE]
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import pkgutil
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import scoresde as sd
from scoresde import inverse, metrics
from scoresde.inverse import (
    Draws,
    GaussianMeasurement,
    MeasurementSDE,
    Method,
    MixturePosterior,
    Problem,
    Run,
    posterior_draws,
    restore,
)
from scoresde.linalg import Dense

LAW = sd.GaussianMixture(
    [0.5, 0.3, 0.2],
    torch.tensor([[-1.5, -1.0, 0.0], [1.5, 1.0, 0.5], [0.5, -1.5, -1.5]], dtype=torch.float64),
    torch.tensor([[0.3, 0.2, 0.5], [0.2, 0.4, 0.3], [0.3, 0.3, 0.2]], dtype=torch.float64),
)
MEASUREMENT = GaussianMeasurement(Dense([[0.8, 0.1, -0.4], [0.1, -0.3, 0.9]]), 0.5)
ORTHONORMAL = {"RePaint": GaussianMeasurement(Dense([[8 / 9, 1 / 9, -4 / 9], [4 / 9, -4 / 9, 7 / 9]]), 0.5)}
"""What is measured for a method that does not take just any linear A."""


@dataclass(frozen=True)
class Fault(Method):
    """The exact posterior, but for the width of its components and a power of their weights."""

    width: float = 1.0
    power: float = 1.0

    def draw(self, problem: Problem, run: Run) -> Draws:
        x = []
        for i, y in zip(run.ids.tolist(), problem.y, strict=True):
            right = LAW.posterior(problem.measurement, y)
            law = sd.GaussianMixture(right.weights**self.power, right.means, self.width**2 * right.covariances)
            x.append(law.sample(1, seed=run.seed * 10**6 + i)[0])
        return Draws(torch.stack(x))


GIVEN: dict[str, Method] = {
    "MixturePosterior": MixturePosterior(LAW),
    "0.9 of its width": Fault(width=0.9),
    "its weights^0.5": Fault(power=0.5),
    "MeasurementSDE": MeasurementSDE.of_mixture(LAW, MEASUREMENT.operator),
}
"""What the tests make of the closed form and of two faults; methods that have to be told of the law."""


def methods() -> dict[str, Method]:
    """Those given, then every other method in the package with its defaults."""
    found = dict(GIVEN)
    for info in pkgutil.iter_modules(inverse.__path__):
        module = importlib.import_module(f"scoresde.inverse.{info.name}")
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if name not in found and issubclass(kind, Method) and not inspect.isabstract(kind):
                found[name] = kind()
    return found


def draws_of(method: Method, measurement: GaussianMeasurement, y: Tensor, arguments: argparse.Namespace) -> Tensor:
    """(N, L, D), for y (N, M)."""
    denoiser, L = LAW.denoiser(sd.VP()), arguments.draws
    kind: dict[str, Any] = {"method": method, "steps": arguments.steps}
    if not method.interacting:
        x = restore(denoiser, measurement, y.repeat_interleave(L, 0), n=len(y) * L, seed=arguments.seed, **kind)
        return x.reshape(len(y), L, -1)
    generator = torch.Generator().manual_seed(arguments.seed)
    rows = []
    for i, one in enumerate(y):
        # another seed for each problem, as all have the same ids
        draws = posterior_draws(denoiser, measurement, one, n=arguments.particles, seed=arguments.seed + i, **kind)
        weights = torch.ones(len(draws.x)) if draws.log_weights is None else draws.log_weights.exp()
        rows.append(draws.x[torch.multinomial(weights, L, replacement=True, generator=generator)])
    return torch.stack(rows)


def row_of(name: str, method: Method, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one method."""
    measurement = ORTHONORMAL.get(name, MEASUREMENT)
    truth = LAW.sample(arguments.problems, seed=arguments.seed + 100)
    y = measurement.simulate(truth, seed=arguments.seed + 200)
    start = time.perf_counter()
    draws = draws_of(method, measurement, y, arguments)
    seconds = time.perf_counter() - start
    found = metrics.calibration_tests(truth, draws, y, measurement.residual, seed=arguments.seed)
    covered = metrics.interval_coverage(truth, draws, 0.9 if arguments.draws >= 19 else 0.5)
    return {
        "method": name,
        "exact": method.exact,
        **found._asdict(),
        "p": found.p,
        "passes": found.p > arguments.level,
        "coverage": covered._asdict(),
        "spread_skill": metrics.spread_skill(truth, draws),
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="names between commas; default all")
    parser.add_argument("--steps", type=int, help="default each method's own")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--draws", type=int, default=19)
    parser.add_argument("--particles", type=int, default=256)
    parser.add_argument("--level", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = methods()
    names = list(known) if arguments.methods is None else arguments.methods.split(",")
    for name in names:
        if name not in known:
            parser.error(f"no method {name!r}; there are {', '.join(known)}")
    print(f"{arguments.problems} problems, {arguments.draws} draws each, verdict at level {arguments.level:g}")
    print(f"{'method':18s} {'SBC':>8s} {'TARP':>8s} {'joint':>8s} {'chi2':>8s}  {'':6s}", end="")
    print(f" {'coverage':>8s} {'error/spread':>12s} {'seconds':>8s}  exact limit claimed")
    rows = []
    for name in names:
        row = row_of(name, known[name], arguments)
        rows.append(row)
        cells = " ".join(f"{row[test]:8.1e}" for test in ("sbc", "tarp", "joint", "residual"))
        print(f"{name:18s} {cells}  {'passes' if row['passes'] else 'fails':6s}", end="")
        figures = f"{row['coverage']['share']:8.3f} {row['spread_skill']:12.2f} {row['seconds']:8.1f}"
        print(f" {figures}  {row['exact'] or '-'}", flush=True)
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key not in ("json", "methods")}
        with open(arguments.json, "w") as stream:
            json.dump({**settings, "rows": rows}, stream, indent=2)


if __name__ == "__main__":
    main()
