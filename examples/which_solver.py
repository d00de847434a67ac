"""Which solver for this model? Errors beside their floor, costs, and one sentence of advice, from Python.

This is what `scoresde compare` does. The law is known here, so that its own samples are the truth; for a trained
network take `sd.compare.DataJudge` with held-out data, and the same lines.

python examples/which_solver.py
"""

from __future__ import annotations

from collections.abc import Sequence

import scoresde as sd
from scoresde import compare, grids

SOLVERS = {
    "ancestral": sd.solvers.Ancestral(),
    "em": sd.solvers.EulerMaruyama(),
    "er-sde": sd.solvers.ERSDE(),
    "unipc": sd.solvers.UniPC(),
}


def main(counts: Sequence[int] = (10, 20, 50), n: int = 2000, seeds: Sequence[int] = range(5)) -> str:
    """Print a table, and return the advice."""
    law = sd.MIXTURES["two-moons"]()
    denoiser, judge = law.denoiser(sd.VP()), compare.MixtureJudge(law)
    floor = _means(judge, [judge.floor_values(n, seed) for seed in range(20)])
    rows = []
    for name, solver in SOLVERS.items():
        for steps in counts:
            times = grids.GRIDS[solver.grid](denoiser.sde, steps, denoiser.max_log_snr)
            drawn = [compare.draw(denoiser, solver, times, n=n, seed=seed) for seed in seeds]
            found = _means(judge, [judge.values(one.samples, seed) for one, seed in zip(drawn, seeds, strict=True)])
            error = found[judge.headline]
            over = compare.ratio(error, floor[judge.headline])
            print(f"{name:9s} {steps:3d} steps: {over.value:.2f} of the floor ({over.low:.2f} to {over.high:.2f})")
            rows.append(
                compare.Row(
                    label=f"{name}, {steps} steps",
                    solver=name,
                    steps=steps,
                    evaluations=drawn[0].evaluations,
                    seconds=sum(one.seconds for one in drawn) / len(drawn),
                    value=error,
                    faults=compare.faults(judge.measures, found, floor),
                )
            )
    advice = compare.advise(rows, floor[judge.headline], baseline="ancestral")
    print(advice)
    return advice


def _means(judge: compare.Judge, values: Sequence[dict[str, float]]) -> dict[str, compare.Estimate]:
    """Means over seeds, with intervals."""
    return {m.name: compare.over_seeds([one[m.name] for one in values]) for m in judge.measures}


if __name__ == "__main__":
    main()
