"""Log-likelihoods by random probes: error against the exact density, and time, beside torchdiffeq's dopri5.

    python tests/benchmarks/likelihood.py [--repeats 5] [--json FILE]

256 points of a plane of 25 narrow modes and 64 points of ten modes in 64 dimensions, exact denoisers in float64, one
thread. The peer integrates x and log p together, as its adaptive solver must, with one probe that is fixed over the
trajectory (Grathwohl et al. 2019; Song et al. 2021), from t = 1e-5 to 1. Root mean square errors are over points and
repetitions with other probes, times the median. The last table is the exact trace by steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import scoresde as sd

CASES = {"grid25": 256, "modes64": 64}
SETTINGS = [(steps, probes) for probes in (2, 4) for steps in (20, 30, 40, 60, 90, 120)]
START = 1e-5


def exact(name: str) -> sd.GaussianMixture:
    """The named mixture in float64."""
    law = sd.MIXTURES[name]()
    return sd.GaussianMixture(law.weights, law.means, law.eigenvalues, dtype=torch.float64)


def peer(denoiser: sd.Denoiser, x: Tensor, tolerance: float, seed: int) -> Tensor:
    """log p(x) by dopri5 with one probe."""
    from torchdiffeq import odeint

    process = sd.Reverse(denoiser, eta=0.0)
    probe = torch.randint(0, 2, x.shape, generator=torch.Generator().manual_seed(seed)).to(x.dtype) * 2 - 1

    def rate(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            y = state[0].detach().requires_grad_()
            v = process.drift(y, float(t))
            row = torch.autograd.grad(v, y, probe)[0]
        return v.detach(), (row * probe).sum(1)

    times = torch.tensor([START, 1.0], dtype=x.dtype)
    # without step_t it would evaluate past t = 1
    options = {"step_t": times[-1:]}
    y, change = odeint(
        rate, (x, x.new_zeros(len(x))), times, rtol=tolerance, atol=tolerance, method="dopri5", options=options
    )
    std = denoiser.sde.prior_std()
    return torch.distributions.Normal(x.new_zeros(()), std).log_prob(y[-1]).sum(1) + change[-1]


def measured(run: Callable[[int], Tensor], truth: Tensor, repeats: int) -> tuple[float, float]:
    """Root mean square error, and milliseconds."""
    run(1000)
    errors, seconds = [], []
    for seed in range(repeats):
        began = time.perf_counter()
        found = run(seed)
        seconds.append(time.perf_counter() - began)
        errors.append((found - truth).square().mean())
    return torch.stack(errors).mean().sqrt().item(), 1e3 * statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, n in CASES.items():
        law = exact(name)
        denoiser, x = law.denoiser(sd.VP()), law.sample(n, seed=1)
        truth = law.log_prob(x)

        def show(what: str, run: Callable[[int], Tensor], case: str = name, truth: Tensor = truth) -> None:
            error, ms = measured(run, truth, arguments.repeats)
            rows.append({"law": case, "what": what, "rms": error, "milliseconds": ms})
            print(f"{case:8s} {what:34s} {error:10.3g} nats {ms:8.0f} ms", flush=True)

        try:
            import torchdiffeq  # noqa: F401

            for tolerance in (1e-3, 1e-5):
                show(
                    f"torchdiffeq dopri5, {tolerance:g}, 1 probe",
                    lambda seed, d=denoiser, x=x, tol=tolerance: peer(d, x, tol, seed),
                )
        except ImportError:
            print("not found: torchdiffeq")
        for steps, probes in SETTINGS:
            choices = {"steps": steps, "divergence": sd.Hutchinson(probes)}
            show(
                f"{steps} steps, {probes} probes",
                lambda seed, d=denoiser, x=x, c=choices: sd.log_likelihood(d, x, seed=seed, **c),
            )
        for steps in (60, 120, 240, 480):
            show(
                f"{steps} steps, exact trace",
                lambda seed, d=denoiser, x=x, s=steps: sd.log_likelihood(d, x, steps=s, divergence=sd.ExactTrace()),
            )
    if arguments.json:
        with open(arguments.json, "w") as stream:
            json.dump(rows, stream, indent=2)


if __name__ == "__main__":
    main()
