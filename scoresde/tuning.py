r"""Grids fitted to a model: the times on which a deterministic solver of few steps ends where the flow does.

    fitted = tune_grid(denoiser, UniPC(), steps=8)
    x = sample(denoiser, UniPC(), times=fitted.times, n=1000)

From a start x(1) an accurate solve says where the path ends; the solver in question ends somewhere beside it. That
distance is fitted, through the solver as it is: its errors at different times may cancel, which a sum of local errors
(Watson et al. 2021; Sabour et al. 2024) does not see. Three sets of starts, none of which a user draws, keep it honest:
grids are fitted on the first, the second says when to stop, and the third says what the errors are and whether the
start was better.

What is minimised is the mean over the paths of (e^2 + floor^2)^(1/2), e a path's root mean square error and the floor
what the accurate solve is good for. With few steps some paths end in another mode than they should. They would be all
that a mean of e^2 sees, and a mean of log e gives them up for the sake of the others: on gmm:modes64 in 10 steps it
sent eight times as many paths astray. Whether a grid is better is judged by the mean of the square root, (e^2 +
floor^2)^(1/4), of which a single path that goes astray is not the most.

Two stages. Grids of the logistic family (`grids.logistic`) by centre and spread, with the simplex of Nelder & Mead
(1965). Then all times freely, by Levenberg-Marquardt steps on the paths' errors r(theta), each weighted by (e^2 +
floor^2)^(-1/2), which majorises the mean. The slopes are differences; a path that jumps to another mode within one is
weighted down by that jump.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from scoresde import grids
from scoresde.denoisers import Denoiser, Wrapped
from scoresde.errors import NumericalError
from scoresde.noise import CounterNoise
from scoresde.reverse import Reverse, prior_sample
from scoresde.sampling import sample
from scoresde.sde import SDE, Level, LinearSDE
from scoresde.solvers import RK45, Solver

FIRST_ID, ROOM = 2**32 - 2**22, 2**20  # where the starts are counted from, and room for each set of them
HELD_OUT = 4  # starts of the third set for each of the first: they cost little, and few paths decide an error
EXACT, LOOSE = RK45(rtol=1e-5, atol=1e-5), RK45(rtol=1e-4, atol=1e-4)
EXACT_CALLS = 150  # of the network, about, for progress
ROUNDING = 10.0  # of the ends, in units of the dtype's
FAMILY_RUNS = 50  # grids of the family that are tried
CENTRE, SPREAD = 0.6, 1.3  # of the first of them, and of the coordinate v; any near them will do
CENTRES, SPREADS = (0.02, 20.0), (0.4, 4.0)
ROUNDS, TRIES = 16, 6  # of steps with slopes of their own, and of dampings for each
DIFFERENCE = 0.02  # of a free number, for the slopes
PATIENCE = 3  # rounds that may bring nothing
FITTED, JUDGED = 1.0, 0.5  # the power of e whose mean is taken
GAIN = 0.01  # relative decrease of the error that is something
SMALLEST = 1e-4  # step, as a share of all
UNUSABLE = 1e3  # the logarithm of an error that is not finite


class EndError(NamedTuple):
    """Errors of the ends x(0) of some paths: of each the root mean square of its entries, in the model's units.

    Args:
        mean: what grids are fitted by.
        rms: which few paths that end in another mode may dominate.
        median: of the typical path.
    """

    mean: float
    rms: float
    median: float


class Change(NamedTuple):
    """The errors of the grid that fitting started from, and of the grid that came out."""

    before: EndError
    after: EndError


@dataclass(frozen=True, eq=False)
class TunedGrid:
    """What `tune_grid` found.

    Args:
        times: (steps + 1,), float64, from 1 to 0.
        start: the grid that fitting started from; `times` itself when nothing better was found.
        fitted: errors of the paths that the times were fitted on.
        held_out: errors of paths that the times were not fitted on.
        reference: how well the true ends are known: the typical distance between those of two accurate solves, of which
            the better one is used.
        evaluations: of the network for one sample, in all.
    """

    times: Tensor
    start: Tensor
    fitted: Change
    held_out: Change
    reference: float
    evaluations: int

    @property
    def improved(self) -> bool:
        """Whether something better than the start was found."""
        return not torch.equal(self.times, self.start)


def tune_grid(
    denoiser: Denoiser,
    solver: Solver[Reverse] | Solver[SDE],
    steps: int,
    *,
    n: int = 64,
    seed: int = 0,
    start: Tensor | Sequence[float] | None = None,
    batch_size: int | None = None,
    shape: Sequence[int] | None = None,
    on_evaluation: Callable[[int, int], None] | None = None,
) -> TunedGrid:
    """Fit the times of `steps` steps of `solver` to a model. On one machine it is a function of its arguments.

    Its cost is about (50 + 16 (steps + 2)) solves of n paths, and it needs memory for batch_size (steps + 1) samples.

    Args:
        solver: deterministic, with fixed steps.
        steps: 2 or more.
        n: paths to fit on; as many say when to stop, and four times as many what the errors are.
        seed: of the paths' starts, in [0, 2^64).
        start: the grid to start from, default the solver's own.
        batch_size: paths computed at once, default all n.
        shape: of one sample, for a denoiser that does not know it.
        on_evaluation: called after every call of the network with how many there were and about how many there will be,
            for a progress bar.

    Raises:
        ValueError: a solver that draws noise or chooses its own steps, or arguments out of range.
        NumericalError: no grid on which the solver ends in finite values.
    """
    steps = _check(solver, steps, n, batch_size)
    sde, max_log_snr = denoiser.sde, solver.cleanest(denoiser)
    if start is None:
        first = grids.GRIDS[solver.grid](sde, steps, max_log_snr)
    else:
        first = grids.check_times(torch.as_tensor(start, dtype=torch.float64))
    if len(first) != steps + 1 or first[0] != 1 or first[-1] != 0:
        raise ValueError(
            f"start has {len(first) - 1} steps from {first[0]:g} to {first[-1]:g}; needs {steps} from 1 to 0"
        )
    event = tuple(shape if shape is not None else denoiser.shape or ())
    if not event:
        raise ValueError("the denoiser does not know the shape of a sample; give shape=(...)")
    batch = n if batch_size is None else min(batch_size, n)
    runs = FAMILY_RUNS + ROUNDS * (steps + 3)
    expected = -(-n // batch) * ((3 + HELD_OUT) * EXACT_CALLS + runs * steps * max(solver.evaluations, 1))
    counted = _Counted(denoiser, on_evaluation, expected)

    def paths(k: int, count: int) -> _Paths:
        noise = CounterNoise(seed, torch.arange(count) + FIRST_ID + k * ROOM, event, denoiser.dtype, denoiser.device)
        return _Paths(counted, solver, prior_sample(sde, noise.start()), batch)

    fit, check = paths(0, n), paths(1, n)
    floor = max(fit.uncertainty(), ROUNDING * torch.finfo(denoiser.dtype).eps)
    best, least, idle = first, check.loss(first, floor, JUDGED), 0
    for times in _candidates(fit, _Chart.of(sde, steps, max_log_snr), first, max_log_snr, floor):
        loss = check.loss(times, floor, JUDGED)
        if loss < least - GAIN:
            best, least, idle = times, loss, 0
        else:
            idle += 1
        if idle == PATIENCE:
            break
    if least == UNUSABLE:
        raise NumericalError(
            f"{solver}: on no grid of {steps} steps that was tried are all samples finite; take more steps"
        )
    held_out = paths(2, HELD_OUT * n)
    if held_out.loss(best, floor, JUDGED) >= held_out.loss(first, floor, JUDGED):
        best = first
    fitted, reported = (Change(_summary(some.errors(first)), _summary(some.errors(best))) for some in (fit, held_out))
    return TunedGrid(best, first, fitted, reported, floor, counted.evaluations)


def _check(solver: Solver[Reverse] | Solver[SDE], steps: int, n: int, batch_size: int | None) -> int:
    remedy = "take a deterministic one with fixed steps, such as UniPC(), DPMSolver(), Heun() or DDIM(eta=0)"
    if solver.adaptive:
        raise ValueError(f"{solver} chooses its own steps, so that there is no grid to fit; {remedy}")
    if solver.stochastic:
        raise ValueError(f"{solver} draws noise, so that its paths have no true ends to be fitted to; {remedy}")
    if grids.check_steps(steps) < 2:
        raise ValueError(f"steps = {steps}: one step goes from 1 to 0, with nothing to fit; take 2 or more")
    if not 1 <= n <= ROOM // HELD_OUT:
        raise ValueError(f"n = {n}; it must be 1 to {ROOM // HELD_OUT:,}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; it must be 1 or more")
    return int(steps)


def _candidates(fit: _Paths, chart: _Chart, first: Tensor, max_log_snr: float, floor: float) -> Iterator[Tensor]:
    """Grids that get better and better on the paths `fit`: the best of the family, then one after every round."""
    family = _best_of_family(fit, chart, max_log_snr, floor)
    yield family
    near = min((first, family), key=lambda times: fit.loss(times, floor))
    yield from _refined(fit, chart, chart.theta(near), floor)


def _best_of_family(fit: _Paths, chart: _Chart, max_log_snr: float, floor: float) -> Tensor:
    def times(logs: np.ndarray) -> Tensor:
        centre, spread = np.exp(logs)
        return grids.logistic(chart.sde, chart.steps, centre=centre, spread=spread, max_log_snr=max_log_snr)

    begin = np.log([CENTRE, SPREAD])
    found = minimize(
        lambda logs: fit.loss(times(logs), floor),
        begin,
        method="Nelder-Mead",
        bounds=[tuple(np.log(CENTRES)), tuple(np.log(SPREADS))],
        options={
            "maxfev": FAMILY_RUNS,
            "xatol": 1e-2,
            "fatol": 0.1 * GAIN,
            "initial_simplex": begin + np.array([[0.0, 0.0], [0.5, 0.0], [0.0, -0.4]]),
        },
    )
    return times(found.x)


def _refined(fit: _Paths, chart: _Chart, theta: Tensor, floor: float) -> Iterator[Tensor]:
    """The grid after every Levenberg-Marquardt step that lowers the loss, until none does."""
    residuals = fit.residuals(chart.times(theta))
    loss, damping = _loss(residuals, floor), 1e-2
    if loss == UNUSABLE:
        return
    for _ in range(ROUNDS):
        A, b = _normal_equations(fit, chart, theta, residuals, floor)
        for _ in range(TRIES):
            step = torch.linalg.solve(A + torch.diag(damping * A.diagonal() + 1e-12), -b)
            step = step / max(1.0, step.abs().max().item())
            new = fit.residuals(chart.times(theta + step))
            if _loss(new, floor) < loss:
                break
            damping *= 5.0
        else:
            return
        theta, residuals, loss, damping = theta + step, new, _loss(new, floor), max(damping / 5.0, 1e-6)
        yield chart.times(theta)


def _normal_equations(
    fit: _Paths, chart: _Chart, theta: Tensor, residuals: Tensor, floor: float
) -> tuple[Tensor, Tensor]:
    """sum_i w_i J_i' J_i and sum_i w_i J_i' r_i over the paths i, J the slopes of r in theta, batch by batch."""
    A, b = torch.zeros(len(theta), len(theta)).double(), torch.zeros(len(theta)).double()
    moved = [chart.times(theta + shift) for shift in DIFFERENCE * torch.eye(len(theta)).double()]
    for rows in fit.batches():
        r = residuals[rows]
        change = torch.stack([fit.residuals(times, rows) - r for times in moved], -1)  # (B, D, K)
        change = change.nan_to_num(posinf=0.0, neginf=0.0)  # of runs that failed
        e2, jump2 = r.square().mean(1) + floor**2, change.square().mean(1).amax(1)
        w = e2.sqrt() / (e2 + jump2) / r.shape[1]
        J = change / DIFFERENCE
        A += torch.einsum("b,bdk,bdl->kl", w, J, J)
        b += torch.einsum("b,bdk,bd->k", w, J, r)
    return A, b


def _loss(residuals: Tensor, floor: float, power: float = FITTED) -> float:
    """log of the power mean over the paths of (e^2 + floor^2)^(1/2)."""
    loss = (residuals.square().mean(1) + floor**2).pow(power / 2).mean().log().item() / power
    return loss if loss < UNUSABLE else UNUSABLE


def _summary(errors: Tensor) -> EndError:
    return EndError(errors.mean().item(), errors.square().mean().sqrt().item(), errors.median().item())


class _Paths:
    """Some paths of the flow: where they start, where they end, and how far from there a solver ends."""

    def __init__(self, denoiser: Denoiser, solver: Solver[Reverse] | Solver[SDE], x1: Tensor, batch_size: int) -> None:
        self.denoiser, self.solver, self.x1, self.batch_size = denoiser, solver, x1, batch_size
        self.ends = self._solve(EXACT, None, slice(None))

    def _solve(self, solver: Solver[Reverse] | Solver[SDE], times: Tensor | None, rows: slice) -> Tensor:
        return sample(self.denoiser, solver, times=times, x1=self.x1[rows], batch_size=self.batch_size)

    def batches(self) -> list[slice]:
        """The paths, as many at a time as may be computed at once."""
        return [slice(k, k + self.batch_size) for k in range(0, len(self.x1), self.batch_size)]

    def residuals(self, times: Tensor, rows: slice = slice(None)) -> Tensor:
        """What the ends miss on a grid, (B, D) in float64; infinite where the solver fails."""
        try:
            ends = self._solve(self.solver, times, rows)
        except NumericalError:
            return torch.full_like(self.ends[rows], math.inf, dtype=torch.float64, device="cpu").flatten(1)
        return (ends - self.ends[rows]).flatten(1).double().cpu()

    def errors(self, times: Tensor) -> Tensor:
        """The root mean square of each path's residuals, (n,)."""
        return self.residuals(times).square().mean(1).sqrt()

    def loss(self, times: Tensor, floor: float, power: float = FITTED) -> float:
        """What is minimised, or judged by."""
        return _loss(self.residuals(times), floor, power)

    def uncertainty(self) -> float:
        """The typical distance between the true ends as used and as a less accurate solve has them."""
        apart = (self._solve(LOOSE, None, slice(None)) - self.ends).flatten(1).double()
        return apart.square().mean(1).sqrt().median().item()


@dataclass(frozen=True)
class _Chart:
    """All grids of some steps as free numbers theta, (steps - 1,): the steps in v are as softmax((theta, 0)).

    v, a logistic function of the log-SNR, goes from `top` at t = 1 down to `low`, the cleanest level that the model may
    be asked about; all times before 0 lie above it.
    """

    sde: LinearSDE
    steps: int
    low: float
    top: float

    @staticmethod
    def of(sde: LinearSDE, steps: int, max_log_snr: float) -> _Chart:
        low, top = (float(_v(torch.as_tensor(level).double())) for level in (max_log_snr, sde.log_snr(1.0)))
        return _Chart(sde, steps, low, top)

    def times(self, theta: Tensor) -> Tensor:
        """The grid of theta."""
        share = torch.softmax(torch.cat([theta, torch.zeros(1).double()]), 0)
        share = (share + SMALLEST) / (1.0 + SMALLEST * self.steps)
        v = self.top - (self.top - self.low) * share.cumsum(0)[:-1]
        log_ratio = math.log(CENTRE) + SPREAD * torch.logit(v)
        inner = self.sde.time_of_log_snr(-2.0 * log_ratio)
        return grids.check_times(torch.cat([torch.ones(1).double(), inner, torch.zeros(1).double()]))

    def theta(self, times: Tensor) -> Tensor:
        """The reverse; a step that no theta has becomes the nearest."""
        v = _v(self.sde.log_snr(times[1:-1]))
        top, low = (torch.tensor([end], dtype=torch.float64) for end in (self.top, self.low))
        v = torch.cat([top, v, low])
        share = (v[:-1] - v[1:]) / (self.top - self.low) * (1.0 + SMALLEST * self.steps) - SMALLEST
        logs = share.clamp_min(SMALLEST).log()
        return logs[:-1] - logs[-1]


def _v(log_snr: Tensor) -> Tensor:
    return torch.sigmoid((-0.5 * log_snr - math.log(CENTRE)) / SPREAD)


class _Counted(Wrapped):
    """A denoiser that counts what it is asked."""

    def __init__(self, inner: Denoiser, on_evaluation: Callable[[int, int], None] | None, expected: int) -> None:
        super().__init__(inner)
        self.on_evaluation, self.expected = on_evaluation, expected
        self.calls = self.evaluations = 0
        self.train(inner.training)  # or `sample` would leave the network in another mode than it found it in

    def predict(self, x: Tensor, t: Level) -> Tensor:
        prediction = self.inner.predict(x, t)
        self.calls += 1
        self.evaluations += len(x)
        if self.on_evaluation is not None:
            self.on_evaluation(self.calls, max(self.expected, self.calls))
        return prediction
