"""The README's first example: a prior whose answers are known, a process, a solver, and the exact law to compare with.

python examples/first_steps.py
"""

from __future__ import annotations

import scoresde as sd
from scoresde.metrics import sliced_wasserstein


def main(n: int = 2000, steps: int = 100) -> dict[str, float]:
    """Sample 25 modes with three solvers; the sliced 2-Wasserstein distance of each to exact samples."""
    prior = sd.MIXTURES["grid25"]()
    denoiser = prior.denoiser(sd.VP())  # the exact E[x0 | x_t]
    solvers = {
        "ancestral": sd.solvers.Ancestral(),
        "em": sd.solvers.EulerMaruyama(),
        "ode": sd.solvers.Euler(),
    }
    exact = prior.sample(n, seed=1)
    distances = {"exact samples": float(sliced_wasserstein(prior.sample(n, seed=2), exact, p=2))}
    for name, solver in solvers.items():
        x = sd.sample(denoiser, solver, steps=steps, n=n, seed=0)  # (n, 2)
        distances[name] = float(sliced_wasserstein(x, exact, p=2))
    for name, distance in distances.items():
        print(f"{name:14s} sliced W2 to exact samples: {distance:.4f}")
    return distances


if __name__ == "__main__":
    main()
