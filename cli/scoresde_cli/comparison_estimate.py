"""`scoresde compare --dry-run`: the cells, and what the missing ones would cost, from a few real evaluations."""

from __future__ import annotations

import time

import torch

from scoresde.denoisers import Denoiser
from scoresde_cli.comparison_paths import calls, coupling, missing
from scoresde_cli.comparison_study import Study
from scoresde_cli.devices import describe
from scoresde_cli.progress import duration

CALLS, SECONDS = 20, 3.0


def lines(study: Study) -> list[str]:
    """In words, for standard output."""
    curves: dict[str, list[str]] = {}
    for entry in study.entries:
        curves.setdefault(entry.curve, []).append(entry.effort.removesuffix(" steps").removeprefix("tolerance "))
    width = max(map(len, [*curves, *(refused.label for refused in study.refused)]), default=0)
    adaptive = {entry.curve for entry in study.entries if entry.tolerance is not None}
    rows = [
        f"  {curve:{width}}  {', '.join(efforts)} {'(tolerances)' if curve in adaptive else 'steps'}"
        for curve, efforts in curves.items()
    ]
    rows += [f"  {refused.label:{width}}  cannot run: {refused.why}" for refused in study.refused]
    left = study.missing()
    total = len(study.entries) * len(study.seeds)
    expected = study.batches * sum(entry.calls for _, entry in left)
    each = _seconds(study.model.denoiser, (min(study.batch_size, study.n), *study.model.space.shape))
    return [
        study.truth.judge.about,
        *rows,
        f"{total} cells of {study.n:,} samples (solver, effort, seed), {total - len(left)} of them there already",
        f"about {expected * min(study.batch_size, study.n):,} evaluations of the network for one sample, and "
        f"{duration(expected * each)} on {describe(study.model.denoiser.device)}, judging not counted",
        *(_of_paths(study, each) if study.with_paths else []),
    ]


def _of_paths(study: Study, each: float) -> list[str]:
    of, new = coupling(study), missing(study, study.entries)
    if not new:
        return ["there are no coupled paths to follow that are not there already"]
    expected = calls(study, new)
    share = of.count / min(study.batch_size, study.n)
    return [
        f"then {of.count} coupled paths, about {expected * of.count:,} evaluations more, "
        f"and {duration(expected * each * share)}"
    ]


@torch.no_grad()
def _seconds(denoiser: Denoiser, shape: tuple[int, ...]) -> float:
    """Of one call, for a batch."""
    x = torch.zeros(shape, dtype=denoiser.dtype, device=denoiser.device)
    denoiser(x, 0.5)
    began = time.perf_counter()
    taken = 0.0
    for done in range(1, CALLS + 1):
        denoiser(x, 0.5).sum().item()  # which waits for a GPU
        taken = (time.perf_counter() - began) / done
        if taken * done > SECONDS:
            break
    return taken
