"""Time one draw of counter-based noise beside torch.randn, on one CPU thread.

python tests/benchmarks/noise.py --json noise.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from scoresde.noise import CounterNoise

SHAPES = [(64, 8), (64, 1, 28, 28), (64, 3, 128, 128)]
DTYPES = {"float32": torch.float32, "float64": torch.float64}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--seconds", type=float, default=1.0, help="time to spend on each cell")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(shape, dtype, options.seconds) for dtype in DTYPES for shape in SHAPES]
    table = Table(title="One draw of standard normals, one thread")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
