"""Other packages' samplers and ours on exact denoisers of mixtures: the same model, start, budget and search of grids.

python tests/benchmarks/peers.py [--n 400] [--evaluations 5,10,20,50,100] [--json FILE]

Deterministic ones: RMS error to the reference flow. Stochastic ones: sliced 2-Wasserstein distance to exact samples and
the width of the modes, at 20 evaluations. For each its best setting, chosen with the answer known, and its usual one.
`peer_samplers.py` says where the other packages are looked for.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import torch
from peer_samplers import SDE, Peer, available, missing
from torch import Tensor

import scoresde as sd
from scoresde.metrics import sliced_wasserstein

LAW_EVALUATIONS, LAW_SAMPLES, TUNING_SAMPLES, EXACT_SETS, LAW_RUNS = 20, 5000, 2000, 10, 10


def distance(x: Tensor, exact: list[Tensor]) -> float:
    """Sliced 2-Wasserstein, the mean over exact sets; nan for samples that are not finite."""
    if not bool(x.isfinite().all()):
        return math.nan
    return sum(float(sliced_wasserstein(x, y[: len(x)], p=2)) for y in exact) / len(exact)


def width(law: sd.GaussianMixture, x: Tensor) -> float:
    """RMS distance to the mean of the most probable mode over its std sqrt(D), the samples' average over modes."""
    if not bool(x.isfinite().all()):
        return math.nan
    label = law.responsibilities(x).argmax(1)
    distance2 = (x - law.means[label]).square().mean(1) / law.eigenvalues[label, 0]
    parts = [distance2[label == i] for i in label.unique()]
    return sum(len(part) * part.mean().sqrt().item() for part in parts) / len(x)


def tune(peer: Peer, score: Callable[[str], float]) -> tuple[dict[str, float], str, str]:
    """Scores by setting, the best setting, and in words those whose score is not finite."""
    scores = {setting: score(setting) for setting in peer.settings}
    bad = [setting for setting in scores if not math.isfinite(scores[setting])]
    best = min(scores, key=lambda setting: math.inf if setting in bad else scores[setting])
    return scores, best, f"  not finite: {', '.join(bad)}" if bad else ""


def flow_rows(law: sd.GaussianMixture, x1: Tensor, budgets: list[int]) -> list[dict[str, Any]]:
    denoiser, rows = law.denoiser(SDE), []
    reference = sd.sample(denoiser, sd.solvers.RK45(1e-11, 1e-11), x1=x1)
    for peer, n in itertools.product((peer for peer in available() if not peer.stochastic), budgets):

        def score(setting: str, peer: Peer = peer, n: int = n) -> float:
            return (peer.sample(denoiser, x1, n, setting, 0) - reference).square().mean().sqrt().item()

        scores, best, bad = tune(peer, score)
        usual = peer.settings[0]
        cells = f"{scores[best]:10.3g}  {best:16s} {scores[usual]:10.3g}  {usual}"
        print(f"{peer.name:26s} {n:5d} {cells}{bad}", flush=True)
        rows.append({"peer": peer.name, "evaluations": n, "best": best, "default": usual, "rms": scores})
    return rows


def start(law: sd.GaussianMixture, n: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return SDE.prior_std() * torch.randn(n, law.dim, dtype=torch.float64, generator=generator)


def runs(draw: Callable[[int], Tensor], exact: list[Tensor]) -> tuple[float, float]:
    """Mean distance of the runs `draw(seed)` to the exact sets, and its standard error over runs."""
    values = torch.tensor([distance(draw(seed), exact) for seed in range(LAW_RUNS)], dtype=torch.float64)
    return float(values.mean()), float(values.std()) / LAW_RUNS**0.5


def law_rows(law: sd.GaussianMixture) -> list[dict[str, Any]]:
    denoiser, rows = law.denoiser(SDE), []
    exact = [law.sample(LAW_SAMPLES, 1000 + i) for i in range(EXACT_SETS)]
    tuning_start = start(law, TUNING_SAMPLES, 0)
    floor, floor_error = runs(lambda seed: law.sample(LAW_SAMPLES, 500 + seed), exact)
    print(f"{'exact samples':26s} {floor:8.4f} +- {floor_error:.4f} {width(law, exact[0]):7.3f}")
    for peer in (peer for peer in available() if peer.stochastic):

        def score(setting: str, peer: Peer = peer) -> float:
            return distance(peer.sample(denoiser, tuning_start, LAW_EVALUATIONS, setting, 1), exact[:2])

        def draw(seed: int, setting: str, peer: Peer = peer) -> Tensor:
            return peer.sample(denoiser, start(law, LAW_SAMPLES, 100 + seed), LAW_EVALUATIONS, setting, 100 + seed)

        _, best, bad = tune(peer, score)
        row: dict[str, Any] = {"peer": peer.name, "evaluations": LAW_EVALUATIONS, "floor": floor}
        row["floor_error"] = floor_error
        cells = ""
        for key, setting in (("best", best), ("default", peer.settings[0])):
            w2, error = runs(functools.partial(draw, setting=setting), exact)
            w = width(law, draw(0, setting))
            row |= {key: setting, f"{key}_w2": w2, f"{key}_w2_error": error, f"{key}_width": w}
            cells += f" {w2:8.4f} +- {error:.4f} {w:7.3f}  {setting:16s}"
        print(f"{peer.name:26s}{cells}{bad}", flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--evaluations", default="5,10,20,50,100")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"not found: {', '.join(missing()) or 'none'}")
    table: dict[str, Any] = {"n": arguments.n, "missing": missing()}
    for name in ("grid25", "modes64"):
        law = sd.MIXTURES[name]()
        law = sd.GaussianMixture(law.weights, law.means, law.eigenvalues, dtype=torch.float64)
        x1 = start(law, arguments.n, 0)
        print(f"\n{name}: RMS error to the reference flow, best setting and usual one, n = {arguments.n}")
        flow = flow_rows(law, x1, [int(n) for n in arguments.evaluations.split(",")])
        print(f"\n{name}: sliced W2 and width of the modes, {LAW_EVALUATIONS} evaluations, best setting and usual one")
        table[name] = {"flow": flow, "laws": law_rows(law)}
        if arguments.json:
            with open(arguments.json, "w") as stream:
                json.dump(table, stream, indent=2)


if __name__ == "__main__":
    main()
