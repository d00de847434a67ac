"""The demo on digits: what a trained run draws, the way to noise and back, and how near the data that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde import checkpoint, grids
from scoresde.denoisers import Denoiser
from scoresde.noise import CounterNoise, normal
from scoresde.recipe import Recipe, Space
from scoresde.reverse import prior_sample
from scoresde.runs import Run
from scoresde.sampling import trajectory
from scoresde_cli.demo_study import SOLVERS, Drawn, Effort, draw_all, nearest
from scoresde_cli.material import Material

TIMES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 1.0)
FOLLOWED = 10  # digits, whose way to noise or from noise is shown
BATCH = 32  # as `scoresde sample` has it, so that it draws the very same pictures
Rows = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class DigitsStudy:
    """What the page says of digits. Pictures are uint8 (n, 1, 8, 8); distances are per pixel, black to white = 1.

    Args:
        counts: training and held-out digits; parameters: of the network.
        data: digits trained on; held_out: one of each kind that were not.
        forward, backward: pictures by a label of the time.
        nearest: to the digits trained on, median, by name of solver; nearest_held_out: the same for unseen digits.
        apart: root mean square difference between samples of the same number, by pairs of solvers.
        metrics: the run's records.
    """

    recipe: Recipe
    counts: tuple[int, int]
    parameters: int
    data: np.ndarray
    held_out: np.ndarray
    drawn: list[Drawn]
    pictures: Rows
    forward: Rows
    backward: Rows
    nearest: Mapping[str, float]
    nearest_held_out: float
    apart: Mapping[tuple[str, str], float]
    metrics: list[Mapping[str, Any]]


def study_digits(run: Run, material: Material, effort: Effort, seed: int, device: torch.device) -> DigitsStudy:
    """Sample the run's averaged network with each solver, and measure.

    Raises:
        NumericalError: a sample is not finite.
    """
    found = checkpoint.read(run.folder)
    denoiser = found.denoiser(device=device)
    space = found.space
    train, held_out = (material.fetch(part)(torch.arange(len(part))) for part in (material.train, material.held_out))
    drawn = draw_all(denoiser, effort.picture_steps, effort.pictures, seed, BATCH)
    shown = {each.name: each.samples.clamp(-1.0, 1.0) / 2 for each in drawn}
    one_of_each = train[_one_of_each(material.train.labels)]
    return DigitsStudy(
        found.recipe,
        (len(train), len(held_out)),
        sum(p.numel() for p in denoiser.module.parameters()),
        space.to_user(train[:100]),
        space.to_user(held_out[_one_of_each(material.held_out.labels)]),
        drawn,
        {each.name: space.to_user(each.samples) for each in drawn},
        _forward(denoiser, space, one_of_each, seed),
        _backward(denoiser, space, effort.picture_steps, seed),
        {name: nearest(x, train / 2) for name, x in shown.items()},
        nearest(held_out / 2, train / 2),
        {(a, b): _apart(shown[a], shown[b]) for a, b in (("ancestral", "em"), ("ancestral", "ode"))},
        run.read_metrics(),
    )


def _one_of_each(labels: np.ndarray | None) -> Tensor:
    """The first item of each class."""
    if labels is None:
        return torch.arange(FOLLOWED)
    return torch.from_numpy(np.unique(labels, return_index=True)[1][:FOLLOWED])


def _apart(x: Tensor, y: Tensor) -> float:
    return (x - y).square().mean().sqrt().item()


def _forward(denoiser: Denoiser, space: Space, x0: Tensor, seed: int) -> dict[str, np.ndarray]:
    """alpha(t) x0 + sigma(t) eps at some times, with one eps for all of them."""
    eps = normal(seed, torch.arange(len(x0)), tuple(x0.shape[1:]))
    return {_label(t): space.to_user(denoiser.sde.perturb(x0, t, eps)) for t in TIMES}


def _backward(denoiser: Denoiser, space: Space, steps: int, seed: int) -> dict[str, np.ndarray]:
    """The way of the first ancestral samples from t = 1 to 0."""
    solver = SOLVERS["ancestral"]
    noise = CounterNoise(seed, torch.arange(FOLLOWED), space.shape, denoiser.dtype, denoiser.device)
    times = grids.uniform(steps)
    wanted = {round((1.0 - t) * steps): t for t in TIMES}
    x1 = prior_sample(denoiser.sde, noise.start())
    seen = {_label(1.0): space.to_user(x1)}
    with torch.no_grad():
        path = trajectory(solver.reverse(denoiser), solver, times, x1, noise)
        for step, (_, state) in enumerate(path, 1):
            if step in wanted:
                seen[_label(wanted[step])] = space.to_user(state.x)
    return seen


def _label(t: float) -> str:
    return f"t = {t:g}"
