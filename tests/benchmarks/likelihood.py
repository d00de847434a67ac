"""Log-likelihoods by random probes: error against the exact density, and time, beside torchdiffeq's dopri5.

    python tests/benchmarks/likelihood.py [--repeats 5] [--json FILE]

256 points of a plane of 25 narrow modes and 64 points of ten modes in 64 dimensions, exact denoisers in float64, one
thread. The peer integrates x and log p together, as its adaptive solver must, with one probe that is fixed over the
trajectory (Grathwohl et al. 2019; Song et al. 2021), from t = 1e-5 to 1. Root mean square errors are over points and
repetitions with other probes, times the least of processor time. Beside the rows of probes stands their error over that
of dopri5 and their time over its time, at either tolerance. Then the exact trace, by steps.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import scoresde as sd
from scoresde.likelihood import Divergence

CASES = {"grid25": 256, "modes64": 64}
SETTINGS = [
    (steps, probes, follow) for probes, follow in ((2, False), (2, True), (4, False)) for steps in (30, 40, 60, 120)
]
START = 1e-5
PEER = "torchdiffeq dopri5"


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


def measured(run: Callable[[int], Tensor], truth: Tensor, repeats: int) -> tuple[float, float, float]:
    """Root mean square error, the worst, and milliseconds."""
    run(1000)
    errors, seconds = [], []
    for seed in range(repeats):
        began = time.process_time()
        found = run(seed)
        seconds.append(time.process_time() - began)
        errors.append(found - truth)
    error = torch.stack(errors)
    return error.square().mean().sqrt().item(), error.abs().max().item(), 1e3 * min(seconds)


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

        terminal = law.gaussian()

        def ours(
            seed: int,
            steps: int,
            divergence: Divergence,
            runge_kutta: bool = False,
            denoiser: sd.Denoiser = denoiser,
            x: Tensor = x,
            terminal: sd.GaussianMixture = terminal,
        ) -> Tensor:
            found = sd.flow_likelihood(
                denoiser,
                x,
                divergence=divergence,
                steps=steps,
                seed=seed,
                terminal=terminal,
                runge_kutta=runge_kutta,
            )
            return found.check().nats

        runs: dict[str, Callable[[int], Tensor]] = {}
        if importlib.util.find_spec("torchdiffeq") is None:
            print("not found: torchdiffeq")
        else:
            for tolerance in (1e-3, 1e-5):
                runs[f"{PEER}, {tolerance:g}, 1 probe"] = functools.partial(peer, denoiser, x, tolerance)
        for steps, probes, follow in SETTINGS:
            name_of_row = f"{steps} steps, {probes} probes{', followed' if follow else ''}"
            runs[name_of_row] = functools.partial(ours, steps=steps, divergence=sd.Hutchinson(probes, follow=follow))
        for steps, runge_kutta in itertools.product((60, 120, 240), (False, True)):
            runs[f"{steps} steps, exact trace{', RK4' if runge_kutta else ''}"] = functools.partial(
                ours, steps=steps, divergence=sd.ExactTrace(), runge_kutta=runge_kutta
            )
        peers: list[tuple[float, float]] = []
        for what, run in runs.items():
            rms, worst, ms = measured(run, truth, 1 if "exact" in what else arguments.repeats)
            if what.startswith(PEER):
                peers.append((rms, ms))
            beside = "".join(f"   {rms / e:5.2f} in {ms / m:5.2f}" for e, m in peers if "probes" in what)
            rows.append({"law": name, "what": what, "rms": rms, "worst": worst, "milliseconds": ms})
            print(f"{name:8s} {what:34s} {rms:9.2g} (worst {worst:7.1g}) nats {ms:7.0f} ms {beside}", flush=True)
    if arguments.json:
        with open(arguments.json, "w") as stream:
            json.dump(rows, stream, indent=2)


if __name__ == "__main__":
    main()
