"""The mixture benchmark of posterior samplers (Cardoso et al., ICLR 2024): how far from the exact posterior is each?

    python examples/mixture_posteriors.py                         # the flagship and some others, every cell
    python examples/mixture_posteriors.py --methods all --problems 20 --json table.json

The prior has 25 components of unit covariance with means (-8 i, -8 j) repeated d / 2 times, i, j in {-2..2}, and
weights g^2 / sum g^2. A is a Gaussian dy x d matrix whose singular values are replaced by draws from U[0, 1],
noise_std is U[0, 1] times the largest of them, and y = A x* + noise_std z. A number is the sliced 1-Wasserstein
distance between 2000 samples of the method and 2000 of the exact posterior, in the mean over problems; the floor is
that between two sets of exact samples.

The means span two directions and A sees dy. All others are independent of these, of y and of each other, N(0, 1) each,
and every method here treats them alike. So an orthonormal basis with one coordinate for all of them gives the law in d
dimensions exactly, in 3 + dy coordinates: a direction theta is seen through its part in those of the means and of A,
and through the norm of the rest (`tests/test_inverse_smc.py` compares with all of d).
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import scoresde as sd
from scoresde.metrics import wasserstein_1d

DIMENSIONS, MEASUREMENTS = (8, 80, 800), (1, 2, 4)
Sampler = Callable[["Case", int, int, int], Tensor]


@dataclass(frozen=True, eq=False)
class Case:
    """A problem in reduced coordinates.

    Args:
        d: dimension of the full problem.
        basis: (d, r), orthonormal: the directions of the means and of A.
        prior, measurement, y: in the coordinates of the basis, and one more for the rest.
    """

    d: int
    basis: Tensor
    prior: sd.GaussianMixture
    measurement: sd.GaussianMeasurement
    y: Tensor

    @property
    def posterior(self) -> sd.GaussianMixture:
        return self.prior.posterior(self.measurement, self.y)

    @property
    def sde(self) -> sd.LinearSDE:
        """A process with noise enough to hide how far apart the modes are."""
        spread = torch.linalg.eigvalsh(self.prior.covariance()).max().sqrt().item()
        return sd.EDM(sigma_max=4.0 * spread)


def case(d: int, dy: int, seed: int, *, reduced: bool = True) -> Case:
    """Problem number `seed` of the cell (d, dy).

    Raises:
        ValueError: d odd, or smaller than dy.
    """
    if d % 2 or d < dy:
        raise ValueError(f"d = {d}, dy = {dy}: d must be even, and at least dy")
    generator = torch.Generator().manual_seed(1000 * seed + 10 * d + dy)
    normal = lambda *shape: torch.randn(shape, dtype=torch.float64, generator=generator)  # noqa: E731
    uniform = lambda *shape: torch.rand(shape, dtype=torch.float64, generator=generator)  # noqa: E731
    index = torch.arange(-2.0, 3.0, dtype=torch.float64)
    means = -8.0 * torch.cartesian_prod(index, index).repeat(1, d // 2)
    weights = normal(25).square()
    u, _, vt = torch.linalg.svd(normal(dy, d), full_matrices=False)
    values = uniform(dy).sort(descending=True).values
    A = u @ torch.diag(values) @ vt
    noise_std = uniform().item() * values.max().item()
    label = torch.multinomial(weights, 1, generator=generator)
    y = (A @ (means[label] + normal(1, d))[0]) + noise_std * normal(dy)
    basis = torch.linalg.qr(torch.cat([_directions(d), A]).mT).Q if reduced else torch.eye(d, dtype=torch.float64)
    rest = torch.zeros(1 if basis.shape[1] < d else 0, dtype=torch.float64)
    into = lambda rows: torch.cat([rows @ basis, rest.expand(len(rows), -1)], 1)  # noqa: E731
    prior = sd.GaussianMixture(weights, into(means), torch.ones(25, dtype=torch.float64))
    return Case(d, basis, prior, sd.GaussianMeasurement(sd.operators.Dense(into(A)), noise_std), y)


def _directions(d: int) -> Tensor:
    """The two that the means differ along, as rows."""
    rows = torch.zeros(2, d, dtype=torch.float64)
    rows[0, 0::2] = rows[1, 1::2] = math.sqrt(2.0 / d)
    return rows


def distance(case: Case, x: Tensor, y: Tensor, directions: int = 200, seed: int = 0) -> float:
    """Sliced 1-Wasserstein distance in d dimensions."""
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(directions, case.d, dtype=torch.float64, generator=generator)
    theta = theta / theta.norm(dim=1, keepdim=True)
    seen = theta @ case.basis
    if x.shape[1] > seen.shape[1]:
        seen = torch.cat([seen, (1.0 - seen.square().sum(1, keepdim=True)).clamp_min(0.0).sqrt()], 1)
    return math.fsum(wasserstein_1d(x @ row, y @ row) for row in seen) / directions


# --- methods -------------------------------------------------------------------------------------------


def sampler(make: Callable[[Case], sd.inverse.Method]) -> Sampler:
    """Draws by a method of the library, on a grid for far modes: geometric in sigma, to a tenth of a mode's width."""

    def draw(case: Case, n: int, steps: int, seed: int) -> Tensor:
        denoiser = case.prior.denoiser(case.sde)
        denoiser.data_std = _entry_std(case)
        times = sd.grids.geometric(case.sde, steps, sigma_min=0.1, sigma_max=math.inf)
        return sd.restore(denoiser, case.measurement, case.y, method=make(case), times=times, n=n, seed=seed)

    return draw


def _entry_std(case: Case) -> float:
    """Of an entry of the full x, in the mean over d: the reduced coordinates leave out those of variance 1."""
    variances = case.prior.covariance().diagonal()
    return math.sqrt((variances.sum().item() + case.d - len(variances)) / case.d)


def exact(case: Case, n: int, steps: int, seed: int) -> Tensor:
    return case.posterior.sample(n, seed + 1)


inverse = sd.inverse
METHODS: dict[str, Sampler] = {
    "floor": exact,
    "twisted-smc": sampler(lambda case: inverse.TwistedSMC(start=case.prior.gaussian())),
    "mcgdiff": sampler(lambda case: inverse.MCGDiff()),
    "mmps": sampler(lambda case: inverse.MMPS()),
    "pigdm": sampler(lambda case: inverse.PiGDM()),
    "tmpd": sampler(lambda case: inverse.TMPD()),
    "dps": sampler(lambda case: inverse.DPS()),
    "ddrm": sampler(lambda case: inverse.DDRM()),
    "ddnm": sampler(lambda case: inverse.DDNM()),
    "diffpir": sampler(lambda case: inverse.DiffPIR()),
    "reddiff": sampler(lambda case: inverse.REDDiff()),
    "daps": sampler(lambda case: inverse.DAPS()),
    "split-gibbs": sampler(lambda case: inverse.SplitGibbs()),
    "measurement-sde": lambda case, n, steps, seed: sd.restore(
        case.prior.denoiser(case.sde),
        case.measurement,
        case.y,
        method=inverse.MeasurementSDE.of_mixture(case.prior, case.measurement.operator),
        steps=steps,
        n=n,
        seed=seed,
    ),
}
DEFAULT = ("floor", "twisted-smc", "mmps")


def study(
    methods: Sequence[str],
    dimensions: Sequence[int] = DIMENSIONS,
    measurements: Sequence[int] = MEASUREMENTS,
    problems: int = 20,
    n: int = 2000,
    steps: int = 100,
) -> list[dict[str, float | str]]:
    """One row for each cell and method: mean distance, its standard error over problems, seconds a problem."""
    rows: list[dict[str, float | str]] = []
    for d in dimensions:
        for dy in measurements:
            cases = [case(d, dy, seed) for seed in range(problems)]
            truths = [c.posterior.sample(n, seed=0) for c in cases]
            for name in methods:
                began = time.perf_counter()
                found = [METHODS[name](c, n, steps, seed) for seed, c in enumerate(cases)]
                seconds = (time.perf_counter() - began) / problems
                values = torch.tensor([distance(c, x, y) for c, x, y in zip(cases, found, truths, strict=True)])
                error = values.std().item() / math.sqrt(problems) if problems > 1 else math.nan
                rows.append({"d": d, "dy": dy, "method": name, "distance": values.mean().item()})
                rows[-1] |= {"error": error, "median": values.median().item(), "seconds": seconds}
                print(
                    f"d = {d:3d}  dy = {dy}  {name:15s} {rows[-1]['distance']:7.3f} +- {error:.3f}  {seconds:6.1f} s",
                    flush=True,
                )
    return rows


def main(arguments: Sequence[str] | None = None) -> list[dict[str, float | str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(DEFAULT), help=f"of {', '.join(METHODS)}; or all")
    parser.add_argument("--dimensions", default="8,80,800")
    parser.add_argument("--measurements", default="1,2,4")
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--n", type=int, default=2000, help="samples, and particles")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the rows there too")
    chosen = parser.parse_args(arguments)
    names = tuple(METHODS) if chosen.methods == "all" else chosen.methods.split(",")
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        parser.error(f"no method {unknown[0]!r}; choose from {', '.join(METHODS)}, all")
    numbers = [[int(word) for word in text.split(",")] for text in (chosen.dimensions, chosen.measurements)]
    torch.set_num_threads(1)  # tiny tensors run slower on more
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sd.ProcessWarning)
        rows = study(names, *numbers, chosen.problems, chosen.n, chosen.steps)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n")
    return rows


if __name__ == "__main__":
    main()
