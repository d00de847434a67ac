"""How far a deterministic solver ends from where the exact flow does, path by path from the same x(1).

    flow = exact_flow(exact_denoiser(law, sde), n=400)
    found = flow_errors(denoiser, DDIM(), times, flow)

Paths are independent of each other, so that statistics over them have honest intervals. On separated modes a few paths
that change mode decide the root mean square, and few of them are few data: with 4 such paths among 400 its interval
holds the truth in 92 % of experiments, not 95 %. The median says what happens to the typical path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.compare.estimate import Estimate, bootstrap, median
from scoresde.denoisers import Denoiser
from scoresde.distributions import GaussianMixture
from scoresde.noise import CounterNoise
from scoresde.reverse import Reverse, prior_sample
from scoresde.sampling import sample
from scoresde.sde import SDE, LinearSDE
from scoresde.solvers import RK45, Solver

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-6}
LOOSER = 10.0


@dataclass(frozen=True, eq=False)
class Flow:
    """Some paths of the probability flow, by their ends.

    Args:
        x1, x0: (n, *), at t = 1 and t = 0.
        accuracy: how well x0 is known: the typical (median) distance to what a tenfold tolerance gives, in the root
            mean square of a sample's entries.
    """

    x1: Tensor
    x0: Tensor
    accuracy: float


@dataclass(frozen=True, eq=False)
class FlowErrors:
    """Distances of a solver's ends to the flow's: of each path the root mean square of its entries.

    Args:
        rms: over paths, with a bootstrap interval; median: with the interval of order statistics.
        errors: (n,), float64.
    """

    rms: Estimate
    median: Estimate
    errors: Tensor


def exact_denoiser(law: GaussianMixture, sde: LinearSDE) -> Denoiser:
    """The denoiser of a mixture in float64, whatever the mixture's own dtype: for a reference."""
    covariances = law.eigenvalues if law.basis is None else law.covariances
    return GaussianMixture(law.weights, law.means, covariances, dtype=torch.float64).denoiser(sde)


def starts(denoiser: Denoiser, n: int, seed: int = 0, shape: Sequence[int] | None = None) -> Tensor:
    """The x(1), (n, *), that `sample` with n and seed starts from."""
    event = tuple(shape if shape is not None else denoiser.shape or ())
    if not event:
        raise ValueError("the denoiser does not know the shape of a sample; give shape=(...)")
    noise = CounterNoise(seed, torch.arange(n), event, denoiser.dtype, denoiser.device)
    return prior_sample(denoiser.sde, noise.start())


def exact_flow(
    denoiser: Denoiser, x1: Tensor, *, tolerance: float | None = None, batch_size: int | None = None
) -> Flow:
    """Where the flow takes x1 (n, *): by RK45 to a tight tolerance, default 1e-10 in float64 and 1e-6 in float32.

    Raises:
        NumericalError: it does not get there.
    """
    tight = TOLERANCES[denoiser.dtype] if tolerance is None else tolerance
    x0, looser = (sample(denoiser, RK45(rtol, rtol), x1=x1, batch_size=batch_size) for rtol in (tight, LOOSER * tight))
    return Flow(x1, x0, _distances(x0, looser).quantile(0.5).item())


def flow_errors(
    denoiser: Denoiser,
    solver: Solver[Reverse] | Solver[SDE],
    times: Tensor | Sequence[float] | None,
    flow: Flow,
    *,
    batch_size: int | None = None,
    on_step: Callable[[], None] | None = None,
) -> FlowErrors:
    """The solver from flow.x1 against flow.x0.

    Args:
        times: a decreasing grid; None for an adaptive solver.

    Raises:
        ValueError: a solver that draws noise, or that cannot start here. NumericalError: it diverged.
    """
    if solver.stochastic:
        raise ValueError(f"{solver} draws noise, so that its paths do not follow the flow; take a deterministic solver")
    ends = sample(denoiser, solver, times=times, x1=flow.x1, batch_size=batch_size, on_step=on_step)
    errors = _distances(ends, flow.x0)
    return FlowErrors(bootstrap(errors, root_mean_square), median(errors), errors)


def root_mean_square(errors: Tensor) -> Tensor:
    """Over the last dimension."""
    return errors.square().mean(-1).sqrt()


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """The root mean square of each sample's entries, (n,)."""
    return root_mean_square((a.double().cpu() - b.double().cpu()).flatten(1))
