"""Time one draw of counter-based noise beside torch.randn, and a sweep of a Brownian path beside torchsde's, on one
CPU thread.

python tests/benchmarks/noise.py --json noise.json
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torchsde import BrownianInterval

from scoresde import grids
from scoresde.noise import BrownianNoise, CounterNoise
from scoresde.processes import VP

SHAPES = [(64, 8), (64, 1, 28, 28), (64, 3, 128, 128)]
DTYPES = {"float32": torch.float32, "float64": torch.float64}
STEPS = (20, 100, 1000)
GRIDS = (grids.UNIFORM, grids.LOGISTIC)
DIGITS = 9  # of torchsde's times


def microseconds(call: Callable[[], object], seconds: float) -> float:
    """The time of one call: the best of several runs that together take about `seconds`."""
    call()
    start = time.perf_counter()
    call()
    runs = 10
    calls = max(1, round(seconds / runs / (time.perf_counter() - start)))
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        best = min(best, (time.perf_counter() - start) / calls)
    return best * 1e6


def measure(shape: tuple[int, ...], dtype: str, seconds: float) -> dict[str, object]:
    """Times in microseconds of torch.randn and of a draw, their ratio, and nanoseconds for each number."""
    draw = CounterNoise(0, torch.arange(shape[0]), shape[1:], DTYPES[dtype]).at(0, 1.0, 0.99)
    randn = microseconds(lambda: torch.randn(shape, dtype=DTYPES[dtype]), seconds)
    ours = microseconds(draw, seconds)
    numbers = torch.Size(shape).numel()
    return {
        "dtype": dtype,
        "shape": "x".join(map(str, shape)),
        "numbers": numbers,
        "randn_us": round(randn, 2),
        "ours_us": round(ours, 2),
        "ratio": round(ours / randn, 2),
        "ns_each": round(1000 * ours / numbers, 2),
    }


def interval(rows: int, dim: int) -> Callable[[float, float], object]:
    """torchsde's path, with the settings that make it independent of the order of queries."""
    path = BrownianInterval(
        0.0, 1.0, size=(rows, dim), dtype=torch.float64, entropy=0, halfway_tree=True, tol=10.0**-DIGITS
    )
    return lambda t, s: path(round(s, DIGITS), round(t, DIGITS))


def milliseconds(increment: Callable[[float, float], object], times: list[float]) -> float:
    """Of one step, in one sweep from 1 to 0, of processor time: other work on the machine does not count."""
    start = time.process_time()
    for t, s in itertools.pairwise(times):
        increment(t, s)
    return 1000 * (time.process_time() - start) / (len(times) - 1)


def sweep(shape: tuple[int, ...], steps: int, grid: str) -> dict[str, object]:
    """Milliseconds of a step along a Brownian path, ours and torchsde's, and the cells that ours keeps."""
    times = grids.GRIDS[grid](VP(), steps, math.inf).tolist()
    noise = BrownianNoise(0, torch.arange(shape[0]), shape[1:])
    ours = milliseconds(lambda t, s: noise.at(0, t, s)(), times)
    coarse = sorted({round(t, DIGITS) for t in times}, reverse=True)  # it cannot tell the last ones apart
    theirs = milliseconds(interval(shape[0], math.prod(shape[1:])), coarse)
    return {
        "shape": "x".join(map(str, shape)),
        "grid": grid,
        "steps": steps,
        "torchsde_ms": round(theirs, 2),
        "ours_ms": round(ours, 2),
        "ratio": round(theirs / ours, 2),
        "cells_kept": len(noise.path()._cells),
    }


def show(title: str, rows: list[dict[str, object]]) -> None:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--seconds", type=float, default=1.0, help="time to spend on each cell")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(shape, dtype, options.seconds) for dtype in DTYPES for shape in SHAPES]
    show("One draw of standard normals, one thread", rows)
    sweeps = [sweep(shape, steps, grid) for shape in ((64, 8), (64, 1, 28, 28)) for grid in GRIDS for steps in STEPS]
    show("A step along a Brownian path from t = 1 to 0, one thread", sweeps)
    if options.json:
        found = {"torch": torch.__version__, "rows": rows, "sweeps": sweeps}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
