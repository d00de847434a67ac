"""The flow's part of `scoresde likelihood`: densities of arrays, probabilities of pictures' grey levels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import click
import torch
from torch import Tensor

from scoresde.denoisers import Denoiser
from scoresde.likelihood import (
    Converged,
    Divergence,
    ExactTrace,
    FlowLikelihood,
    Hutchinson,
    Pixels,
    converged_likelihood,
    flow_likelihood,
    matched_gaussian,
)
from scoresde.likelihood.converged import DOUBLINGS, FIRST
from scoresde.likelihood.likelihood import SMALL, STEPS
from scoresde_cli.likelihood_data import Judged
from scoresde_cli.likelihood_method import Method
from scoresde_cli.likelihood_table import Values
from scoresde_cli.names import AUTO, EXACT_TRACE
from scoresde_cli.progress import counted

PLAIN = "probability flow"
EXACT_NET = 16  # dimensions up to which auto takes the exact trace of a network, which costs so many times more


@dataclass(frozen=True)
class Flow:
    """What the flow says.

    Args:
        rows: of the table; best: the one that others are held to where nothing exact is known.
        about: how it was computed, in words.
    """

    rows: list[Values]
    best: Values
    about: str


@dataclass(frozen=True)
class One:
    """What one walk of the flow found: tensors (n,).

    Args:
        error: standard error over probes; None for the exact trace.
        problems: by row.
    """

    nats: Tensor
    error: Tensor | None
    mismatch: Tensor
    problems: Mapping[int, str]
    about: str


def compute(judged: Judged, denoiser: Denoiser, method: Method) -> Flow:
    """All of it.

    Raises:
        UsageError, ValueError: options that do not go with the data or the model.
    """
    divergence = _divergence(judged, method, exact_law=math.isinf(denoiser.max_log_snr))
    if method.dequantise is None:
        found = _one(judged, judged.x, denoiser, method, divergence, PLAIN)
        row = Values(PLAIN, judged.log_scale - found.nats, found.error, problems=found.problems)
        return Flow([row, _mismatch(found.mismatch)], row, found.about)
    pixels = Pixels(judged.levels or 2)
    draws = []
    for j in range(method.dequantise):
        x = pixels.dequantise(judged.x, seed=method.seed, draw=j, ids=judged.numbers)
        draws.append(_one(judged, x, denoiser, method, divergence, f"{PLAIN}, draw {j + 1} of {method.dequantise}"))
    return _dequantised(draws, pixels, judged.dim)


def _dequantised(draws: list[One], pixels: Pixels, dim: int) -> Flow:
    """The mean over draws, and all of them weighted."""
    densities = torch.stack([found.nats for found in draws])
    nats = torch.stack([pixels.log_probability(one[None], dim) for one in densities])
    count = len(draws)
    spread = nats.std(0) / math.sqrt(count) if count > 1 else None
    problems = {row: words for found in draws for row, words in found.problems.items()}
    plain = Values("flow, dequantised", -nats.mean(0), spread, problems=problems)
    rows = [plain]
    if count > 1:
        rows.append(Values(f"flow, {count} draws weighted", -pixels.log_probability(densities, dim)))
    mismatch = torch.stack([found.mismatch for found in draws]).mean(0)
    return Flow([*rows, _mismatch(mismatch)], rows[-1], draws[0].about)


def _one(judged: Judged, x: Tensor, denoiser: Denoiser, method: Method, divergence: Divergence, what: str) -> One:
    terminal = None
    if math.isfinite(denoiser.max_log_snr) and judged.others is not None and len(judged.others) > 1:
        terminal = matched_gaussian(judged.others.to(denoiser.device))
    batch_size = min(method.batch_size, len(x))
    batches = -(-len(x) // batch_size)
    if method.tolerance is not None:
        with counted(f"{what}: step, at most", batches * FIRST * (2 ** (DOUBLINGS + 1) - 1)) as on_step:
            found = converged_likelihood(
                denoiser,
                x,
                tolerance=method.tolerance,
                ids=judged.numbers,
                batch_size=batch_size,
                terminal=terminal,
                on_step=on_step,
            )
        return One(found.nats, None, found.mismatch, found.problems, _about_steps(found, method.tolerance))
    steps = method.steps or STEPS
    with counted(f"{what}: step", batches * steps) as on_step:
        one = flow_likelihood(
            denoiser,
            x,
            divergence=divergence,
            steps=steps,
            seed=method.seed,
            ids=judged.numbers,
            batch_size=batch_size,
            terminal=terminal,
            on_step=on_step,
        )
    error = None if divergence.exact else one.standard_error.cpu()
    return One(one.nats.cpu(), error, one.mismatch.cpu(), one.problems, _about(one, method, divergence))


def _divergence(judged: Judged, method: Method, *, exact_law: bool) -> Divergence:
    probes = method.probes is not None or method.gaussian_probes
    most = SMALL if exact_law else EXACT_NET
    small = judged.dim <= most and not probes
    if method.trace == EXACT_TRACE or (method.trace == AUTO and small):
        return ExactTrace()
    if method.tolerance is not None:
        raise click.UsageError(
            f"--tolerance needs the exact trace, which here costs {judged.dim} products with the Jacobian at each "
            "step; --trace exact pays for them"
        )
    return Hutchinson(method.probes or Hutchinson.probes, method.gaussian_probes)


def _mismatch(nats: Tensor) -> Values:
    """What the flow's line would be more if it ended in the prior that sampling starts from."""
    return Values("prior's mismatch, corrected", nats, part=True)


def _about(found: FlowLikelihood, method: Method, divergence: Divergence) -> str:
    kind = "normal probes" if method.gaussian_probes else "probes of random signs"
    how = "the exact trace" if divergence.exact else f"{method.probes or Hutchinson.probes} {kind} at each step"
    return f"{found.evaluations} evaluations of the network and {found.products} products with its Jacobian, by {how}"


def _about_steps(found: Converged, tolerance: float) -> str:
    settled = int(found.settled.sum())
    return (
        f"{int(found.steps.min())} to {int(found.steps.max())} steps, doubled for each of the data until its value "
        f"stays within {tolerance:g} nats, which {settled} of {len(found.nats)} do, by the exact trace"
    )
