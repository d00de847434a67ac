"""What the training loop costs beside a bare one, in the same process.

The bare loop is what one would write by hand: draw, perturb, forward, loss, backward, fused AdamW, foreach EMA; no data
set, no clipping, no checks. Rounds of both alternate, so that a busy machine slows both.

    python tests/benchmarks/training.py [--json FILE] [--threads 2] [--rounds 5]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from scoresde import recipe
from scoresde.nets import build
from scoresde.processes import VP
from scoresde.recipe import Recipe, Space
from scoresde.training import Batches, train

CASES = {
    "U-Net small, 1x8x8, batch 128": (Space("image", (1, 8, 8), levels=256), "small", 128, 12),
    "U-Net small, 1x28x28, batch 64": (Space("image", (1, 28, 28), levels=256), "small", 64, 5),
    "MLP small, 2-D, batch 512": (Space("array", (2,)), "small", 512, 150),
    "MLP small, 2-D, batch 128": (Space("array", (2,)), "small", 128, 200),
}


def bare_loop(data: Tensor, space: Space, preset: str, batch: int) -> Callable[[int], None]:
    """A hand-written loop over the same network; returns a function that does n steps."""
    module = build(preset, space.shape)
    if space.kind == "image":
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    parameters = list(module.parameters())
    averages = [p.detach().clone() for p in parameters]
    sde = VP()
    expand = (-1, *(1,) * len(space.shape))

    def run(steps: int) -> None:
        for _ in range(steps):
            x0 = data[torch.randint(len(data), (batch,))]
            t = torch.rand(batch, dtype=torch.float64) * (1 - 1e-5) + 1e-5
            eps = torch.randn_like(x0)
            alpha, sigma = sde.alpha(t), sde.sigma(t)
            x_t = alpha.float().reshape(expand) * x0 + sigma.float().reshape(expand) * eps
            log_snr = (2 * (alpha.log() - sigma.log())).float()
            loss = (module(x_t, log_snr) - eps).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(averages, parameters, 1e-3)

    return run


def our_loop(data: Tensor, space: Space, preset: str, batch: int) -> Callable[[int], None]:
    """scoresde's loop with everything on: clipping, checks, EMA, records."""
    config = Recipe().with_values(network={"preset": preset}, training={"batch_size": batch, "steps": 10**9})
    state = recipe.training_state(config, space)
    loop = train(state, Batches(lambda rows: data[rows], len(data), batch), recipe.settings(config))

    def run(steps: int) -> None:
        for _ in itertools.islice(loop, steps):
            pass

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    print(f"{'case':34s} {'bare ms':>9s} {'ours ms':>9s} {'throughput ours / bare':>24s}")
    for name, (space, preset, batch, steps) in CASES.items():
        data = torch.randn(4096, *space.shape)
        loops = {"bare": bare_loop(data, space, preset, batch), "ours": our_loop(data, space, preset, batch)}
        times: dict[str, list[float]] = {key: [] for key in loops}
        for loop in loops.values():
            loop(max(3, steps // 5))
        for _ in range(arguments.rounds):
            for key, loop in loops.items():
                start = time.perf_counter()
                loop(steps)
                times[key].append((time.perf_counter() - start) / steps * 1e3)
        ratio = statistics.median(b / o for b, o in zip(times["bare"], times["ours"], strict=True))
        bare, ours = (statistics.median(times[key]) for key in ("bare", "ours"))
        print(f"{name:34s} {bare:9.3f} {ours:9.3f} {ratio:24.3f}")
        rows.append({"case": name, "bare_ms": bare, "ours_ms": ours, "throughput_ratio": ratio})
    if arguments.json:
        with open(arguments.json, "w") as stream:
            json.dump({"threads": arguments.threads, "rows": rows}, stream, indent=2)


if __name__ == "__main__":
    main()
