"""Likelihoods to a tolerance: the steps of the flow are doubled, sample by sample, until the value stays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.denoisers import Denoiser
from scoresde.distributions import GaussianMixture
from scoresde.likelihood.divergence import ExactTrace
from scoresde.likelihood.likelihood import FlowLikelihood, flow_likelihood

FIRST, DOUBLINGS = 30, 5
CHANCE = 16.0  # how much smaller than the change before one may be, and not be taken for chance


@dataclass(frozen=True)
class Converged:
    """Log densities and how far they settled: tensors (n,).

    Args:
        nats: float64; nan where the flow failed.
        change: between the last two numbers of steps, nats, or a sixteenth of the one before, if that is larger; the
            error that is left is smaller.
        steps: the last number of steps of each sample.
        settled: whether `change` is within the tolerance.
        mismatch: of the prior, as in `FlowLikelihood`.
        problems: sample by its row -> what is wrong with it: it failed, or did not settle.
    """

    nats: Tensor
    change: Tensor
    steps: Tensor
    settled: Tensor
    mismatch: Tensor
    problems: dict[int, str]


def converged_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    tolerance: float = 1e-4,
    steps: int = FIRST,
    doublings: int = DOUBLINGS,
    ids: Sequence[int] | Tensor | None = None,
    batch_size: int | None = None,
    terminal: GaussianMixture | None = None,
    max_log_snr: float | None = None,
    on_step: Callable[[], None] | None = None,
) -> Converged:
    """log p(x) by the exact trace, each sample with as many steps as it needs.

    The walk is Runge and Kutta's, of order 4, and its quadrature better, so that a value that changes by less than the
    tolerance when steps are doubled is much nearer than that to its limit. What a terminal Gaussian is off by is
    not in it (`terminal.py`: give an exact law itself where it matters). Random probes do not settle: their error is
    `standard_error`.

    Args:
        tolerance: in nats.
        steps: to begin with; `doublings`: how often they may be doubled.
        ids, batch_size, terminal, max_log_snr, on_step: as for `flow_likelihood`.

    Raises:
        ValueError: a tolerance that is not positive, fewer than 2 doublings (one change may be small by chance), or
            what `flow_likelihood` refuses.
    """
    if not tolerance > 0 or doublings < 2:
        raise ValueError(f"tolerance = {tolerance}, doublings = {doublings}; give one above 0, and 2 or more")
    numbers = torch.arange(len(x)) if ids is None else torch.as_tensor(ids, dtype=torch.int64)

    def walk(rows: Tensor, steps: int) -> FlowLikelihood:
        return flow_likelihood(
            denoiser,
            x[rows.to(x.device)],
            divergence=ExactTrace(),
            steps=steps,
            ids=numbers[rows],
            batch_size=batch_size,
            terminal=terminal,
            max_log_snr=max_log_snr,
            runge_kutta=True,
            on_step=on_step,
        )

    rows = torch.arange(len(x))
    first = walk(rows, steps)
    nats, mismatch = first.nats.cpu(), first.mismatch.cpu()
    change, last = torch.full_like(nats, torch.inf), torch.full_like(nats, torch.inf)
    taken = torch.full((len(x),), steps)
    for _ in range(doublings):
        steps *= 2
        found = walk(rows, steps)
        finer = found.nats.cpu()
        moved = (finer - nats[rows]).abs()
        change[rows] = torch.maximum(moved, last[rows] / CHANCE)  # the first change may be small by chance
        last[rows], nats[rows], mismatch[rows], taken[rows] = moved, finer, found.mismatch.cpu(), steps
        rows = rows[change[rows] > tolerance]
        if len(rows) == 0:
            break
    problems = first.problems | {
        i: _unsettled(int(numbers[i]), nats[i].item(), change[i].item(), int(taken[i]), tolerance)
        for i in (~(change <= tolerance)).nonzero().flatten().tolist()
        if i not in first.problems
    }
    return Converged(nats, change, taken, change <= tolerance, mismatch, problems)


def _unsettled(number: int, nats: float, change: float, steps: int, tolerance: float) -> str:
    if math.isnan(nats):
        return f"the likelihood of sample {number} is finite with {steps // 2} steps and not with {steps}"
    return (
        f"the likelihood of sample {number} did not settle within {tolerance:g} nats: the last doubling, to {steps} "
        f"steps, leaves {change:.2g}"
    )
