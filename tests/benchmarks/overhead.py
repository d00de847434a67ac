"""What a step costs beside the network: CPU time of one thread, per evaluation, with a network that answers one tensor.

The state is 64 x 1 x 28 x 28 in float32; the figure is the slope between 12 and 60 evaluations, the least of several
rounds, so that what is paid once (the coefficients of a new grid, the first allocation) is shown apart. Peers are rows
of the same run where they are installed (`peer_samplers.py` says how). With --network a small U-Net at batch 1
and 64 instead: total time over evaluations times the time of one call.

python tests/benchmarks/overhead.py [--rounds 40] [--network] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import peer_samplers
import torch
from torch import Tensor, nn

import scoresde as sd
from scoresde import grids, nets
from scoresde.noise import Noise
from scoresde.solvers import (
    DDIM,
    ERSDE,
    AdamsBashforth,
    Ancestral,
    DPMSolver,
    Euler,
    EulerMaruyama,
    Heun,
    SASolver,
    Solver,
    UniPC,
)

FEW, MANY = 12, 60
DETERMINISTIC = {
    "Euler": Euler(),
    "DDIM": DDIM(),
    "Heun": Heun(),
    "DPMSolver(2)": DPMSolver(2),
    "DPMSolver(3)": DPMSolver(3),
    "AdamsBashforth(3)": AdamsBashforth(3),
    "UniPC(3)": UniPC(3),
}
STOCHASTIC = {
    "Ancestral": Ancestral(),
    "EulerMaruyama": EulerMaruyama(),
    "DPMSolver(2, sde)": DPMSolver(2, sde=True),
    "ERSDE": ERSDE(),
    "SASolver": SASolver(),
}


class Fixed(nn.Module):
    """Answers one tensor."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.register_buffer("answer", answer)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.answer


@dataclass(frozen=True, eq=False)
class Randn(Noise):
    """torch.randn: what a step costs with the cheapest noise there is."""

    shape: torch.Size
    generator: torch.Generator = field(default_factory=torch.Generator)

    def start(self) -> Tensor:
        return torch.randn(self.shape, generator=self.generator)

    def at(self, step: int, t: float, s: float) -> Callable[..., Tensor]:
        return lambda k=0: torch.randn(self.shape, generator=self.generator)


def cpu_time(run: Callable[[], None]) -> float:
    """Of one call, in seconds."""
    start = time.process_time()
    run()
    return time.process_time() - start


def slope(run: Callable[[int], None], rounds: int) -> tuple[float, float]:
    """Microseconds per evaluation between FEW and MANY, and of the very first run with MANY; the least of `rounds`."""
    cold = cpu_time(lambda: run(MANY))
    run(FEW)
    few, many = (min(cpu_time(lambda n=n: run(n)) for _ in range(rounds)) for n in (FEW, MANY))
    return 1e6 * (many - few) / (MANY - FEW), 1e6 * cold / MANY


def ours(solver: Solver, denoiser: sd.Denoiser, x: Tensor, noise: Noise) -> Callable[[int], None]:
    """A sampler as a function of the number of evaluations."""
    process = solver.reverse(denoiser)

    def run(evaluations: int) -> None:
        times = grids.GRIDS[solver.grid](denoiser.sde, evaluations // solver.evaluations, denoiser.max_log_snr)
        for _ in sd.trajectory(process, solver, times, x, noise):
            pass

    return run


def floor(x: Tensor, answer: Tensor) -> Callable[[int], None]:
    """x <- a x + b P in place and nothing else: the arithmetic of a step."""

    def run(evaluations: int) -> None:
        y = x.clone()
        for _ in range(evaluations):
            y.mul_(0.99).add_(answer, alpha=0.01)

    return run


def noise_alone(noise: Noise) -> Callable[[int], None]:
    """A draw a step."""

    def run(evaluations: int) -> None:
        for k in range(evaluations):
            noise.at(k, 1.0, 0.5)()

    return run


def overhead(rounds: int) -> dict[str, dict[str, float]]:
    """A row for each sampler."""
    generator = torch.Generator().manual_seed(0)
    x, answer = (torch.randn(64, 1, 28, 28, generator=generator) for _ in range(2))
    denoiser = sd.EpsNet(Fixed(answer), sd.VP(), condition=sd.LogSNR(-20, 40), shape=(1, 28, 28)).eval()
    philox = sd.CounterNoise(0, torch.arange(64), (1, 28, 28))
    randn = Randn(x.shape)
    rows: dict[str, Callable[[int], None]] = {"floor: x <- a x + b P": floor(x, answer)}
    rows |= {name: ours(solver, denoiser, x, randn) for name, solver in DETERMINISTIC.items()}
    rows["torch.randn alone"] = noise_alone(randn)
    rows |= {f"{name}, randn": ours(solver, denoiser, x, randn) for name, solver in STOCHASTIC.items()}
    rows["Philox alone"] = noise_alone(philox)
    rows |= {f"{name}, Philox": ours(solver, denoiser, x, philox) for name, solver in STOCHASTIC.items()}
    rows |= peer_samplers.overhead_rows(x)
    table = {}
    print(f"{'':40s} {'us an evaluation':>18s} {'first run':>12s}")
    for name, run in rows.items():
        each, cold = slope(run, rounds)
        table[name] = {"us": each, "cold_us": cold}
        print(f"{name:40s} {each:18.1f} {cold:12.1f}", flush=True)
    return table


def with_network(rounds: int) -> dict[str, dict[str, float]]:
    """Total time over evaluations times one call, for the `tiny` U-Net; medians of rounds that alternate."""
    torch.manual_seed(0)
    module = nets.build("tiny", (1, 28, 28)).eval()
    denoiser = sd.EpsNet(module, sd.VP(), condition=sd.LogSNR(-20, 40), shape=(1, 28, 28))
    table: dict[str, dict[str, float]] = {}
    for batch in (1, 64):
        x = torch.randn(batch, 1, 28, 28)
        condition = torch.zeros(batch)
        noise = sd.CounterNoise(0, torch.arange(batch), (1, 28, 28))
        for name, solver in {**DETERMINISTIC, **STOCHASTIC}.items():
            run = ours(solver, denoiser, x, noise)
            evaluations = 12
            ratios = []
            with torch.no_grad():
                run(evaluations)
                for _ in range(rounds):
                    calls = cpu_time(lambda: [module(x, condition) for _ in range(evaluations)])  # noqa: B023
                    ratios.append(cpu_time(lambda: run(evaluations)) / calls)  # noqa: B023
            table[f"{name}, batch {batch}"] = {"ratio": sorted(ratios)[len(ratios) // 2], "least": min(ratios)}
            print(
                f"{name:24s} batch {batch:3d}   total / calls {table[f'{name}, batch {batch}']['ratio']:.3f}",
                flush=True,
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--network", action="store_true")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        table = with_network(arguments.rounds) if arguments.network else overhead(arguments.rounds)
    if arguments.json:
        with open(arguments.json, "w") as stream:
            json.dump(table, stream, indent=2)


if __name__ == "__main__":
    main()
