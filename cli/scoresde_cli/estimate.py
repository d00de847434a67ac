"""`--dry-run`: what a run would be and would cost, from a few real steps. Nothing is written."""

from __future__ import annotations

import itertools
import resource
import sys
import time

import torch

from scoresde import nets, recipe
from scoresde.recipe import Recipe
from scoresde.training import train
from scoresde_cli.devices import describe
from scoresde_cli.material import Material
from scoresde_cli.progress import duration

WARM_UP, AT_MOST, SECONDS = 2, 50, 3.0
KEPT = 3  # checkpoints


def estimate(of: Recipe, material: Material, device: torch.device) -> str:
    """The resolved configuration as TOML, with the estimates as comments at its head."""
    state = recipe.training_state(of, material.space, device)
    parameters = nets.parameter_count(state.denoiser.module)
    seconds = _seconds_per_step(of, material, device)
    tensors = 4 * parameters * (3 + len(of.training.ema))  # weights, two moments, averages
    lines = [
        *material.describe(),
        f"{parameters:,} parameters",
        f"memory: {_peak_bytes(device) / 2**20:,.0f} MiB at its peak, all included",
        f"disk: {KEPT * tensors / 2**20:,.0f} MiB for {KEPT} checkpoints",
        f"time: {duration(seconds * of.training.steps)} for {of.training.steps:,} steps on {describe(device)} "
        f"({of.training.batch_size / seconds:,.0f} samples/s), previews and validation not counted"
        + (", before --compile" if of.training.compile else ""),
    ]
    return "".join(f"# {line}\n" for line in lines) + "\n" + recipe.to_toml(of)


def _seconds_per_step(of: Recipe, material: Material, device: torch.device) -> float:
    """Mean time of real steps after the first ones, which are slower; of all when there are but few."""
    state = recipe.training_state(of, material.space, device)
    times = [time.perf_counter()]
    for _ in itertools.islice(train(state, material.batches(of), recipe.settings(of)), AT_MOST):
        times.append(time.perf_counter())  # the loop reads the loss, which waits for a GPU
        if times[-1] - times[0] > SECONDS and len(times) > WARM_UP + 1:
            break
    first = WARM_UP if len(times) > WARM_UP + 1 else 0
    return (times[-1] - times[first]) / (len(times) - 1 - first)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # bytes there, kibibytes elsewhere
