"""The flow's part of `scoresde likelihood`: densities of arrays, probabilities of pictures' grey levels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde.denoisers import Denoiser
from scoresde.likelihood import (
    Divergence,
    ExactTrace,
    FlowLikelihood,
    Hutchinson,
    Pixels,
    flow_likelihood,
    matched_gaussian,
)
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


def compute(judged: Judged, denoiser: Denoiser, method: Method) -> Flow:
    """All of it.

    Raises:
        ValueError: options out of range.
    """
    divergence = _divergence(judged, method, exact_law=math.isinf(denoiser.max_log_snr))
    if method.dequantise is None:
        found = _flow(judged, judged.x, denoiser, method, divergence, PLAIN)
        row = Values(
            PLAIN,
            judged.log_scale - found.nats.cpu(),
            _draws(found.standard_error, divergence),
            problems=found.problems,
        )
        return Flow([row, _mismatch(found.mismatch.cpu())], row, _about(found, method, divergence))
    pixels = Pixels(judged.levels or 2)
    draws = []
    for j in range(method.dequantise):
        x = pixels.dequantise(judged.x, seed=method.seed, draw=j, ids=judged.numbers)
        draws.append(_flow(judged, x, denoiser, method, divergence, f"{PLAIN}, draw {j + 1} of {method.dequantise}"))
    return _dequantised(draws, pixels, judged.dim, _about(draws[0], method, divergence))


def _dequantised(draws: list[FlowLikelihood], pixels: Pixels, dim: int, about: str) -> Flow:
    """The mean over draws, and all of them weighted."""
    densities = torch.stack([found.nats.cpu() for found in draws])
    nats = torch.stack([pixels.log_probability(one[None], dim) for one in densities])
    count = len(draws)
    spread = nats.std(0) / math.sqrt(count) if count > 1 else None
    problems = {row: words for found in draws for row, words in found.problems.items()}
    plain = Values("flow, dequantised", -nats.mean(0), spread, problems=problems)
    rows = [plain]
    if count > 1:
        rows.append(Values(f"flow, {count} draws weighted", -pixels.log_probability(densities, dim)))
    mismatch = torch.stack([found.mismatch.cpu() for found in draws]).mean(0)
    return Flow([*rows, _mismatch(mismatch)], rows[-1], about)


def _flow(
    judged: Judged, x: Tensor, denoiser: Denoiser, method: Method, divergence: Divergence, what: str
) -> FlowLikelihood:
    steps = method.steps or STEPS
    terminal = None
    if math.isfinite(denoiser.max_log_snr) and judged.others is not None and len(judged.others) > 1:
        terminal = matched_gaussian(judged.others.to(denoiser.device))
    with counted(f"{what}: step", -(-len(x) // method.batch_size) * steps) as on_step:
        return flow_likelihood(
            denoiser,
            x,
            divergence=divergence,
            steps=steps,
            seed=method.seed,
            ids=judged.numbers,
            batch_size=min(method.batch_size, len(x)),
            terminal=terminal,
            on_step=on_step,
        )


def _divergence(judged: Judged, method: Method, *, exact_law: bool) -> Divergence:
    probes = method.probes is not None or method.gaussian_probes
    small = judged.dim <= (SMALL if exact_law else EXACT_NET) and not probes
    if method.trace == EXACT_TRACE or (method.trace == AUTO and small):
        return ExactTrace()
    return Hutchinson(method.probes or Hutchinson.probes, method.gaussian_probes)


def _draws(error: Tensor, divergence: Divergence) -> Tensor | None:
    return None if divergence.exact else error.cpu()


def _mismatch(nats: Tensor) -> Values:
    """What the flow's line would be more if it ended in the prior that sampling starts from."""
    return Values("prior's mismatch, corrected", nats, part=True)


def _about(found: FlowLikelihood, method: Method, divergence: Divergence) -> str:
    kind = "normal probes" if method.gaussian_probes else "probes of random signs"
    how = "the exact trace" if divergence.exact else f"{method.probes or Hutchinson.probes} {kind} at each step"
    return f"{found.evaluations} evaluations of the network and {found.products} products with its Jacobian, by {how}"
