"""The beginning of a training session: a new run, or one that goes on where it stopped."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

import scoresde
from scoresde import checkpoint, nets
from scoresde import recipe as recipes
from scoresde.checkpoint import Checkpoint
from scoresde.recipe import Recipe
from scoresde.runs import Run
from scoresde.training import TrainingState
from scoresde_cli import compiling, devices, progress, resolve
from scoresde_cli.material import Material, open_material
from scoresde_cli.session import Rhythm, Session


@dataclass(frozen=True)
class Plan:
    """What will be trained, on what, and the checkpoint that it goes on from."""

    recipe: Recipe
    material: Material
    there: Checkpoint | None


def plan(source: str | None, options: Mapping[str, Any], config: Path | None, out: Path | None) -> Plan:
    """Resolve what was asked for and open the data; nothing is written.

    Raises:
        UsageError, ValueError: options; DataError: data; CheckpointError: a damaged checkpoint in `out`.
    """
    there = checkpoint.read(out) if out is not None and Run(out).exists() else None
    recipe = resolve.resolve(source, options, config, None if there is None else there.recipe)
    if there is not None and out is not None:
        resolve.check_goes_on(there.recipe, recipe, out)
    return Plan(recipe, open_material(recipe, None if there is None else there.space), there)


@contextlib.contextmanager
def begun(
    source: str | None, options: Mapping[str, Any], config: Path | None, out: Path, device: torch.device
) -> Iterator[tuple[Plan, TrainingState, Run]]:
    """The plan, the state to train from, and the run's folder, locked; it is only made once all else is in order."""
    run = Run(out)
    with contextlib.ExitStack() as stack:
        there = out.is_dir()
        if there:
            _refuse_foreign(run)
            stack.enter_context(run.locked())
        planned = plan(source, options, config, out)
        if planned.there is None:
            state = recipes.training_state(planned.recipe, planned.material.space, device)
        else:
            state = planned.there.training_state(device)
        if not there:
            stack.enter_context(run.locked())
        yield planned, state, run


def train(planned: Plan, state: TrainingState, run: Run, rhythm: Rhythm, again: str) -> None:
    """Train to the end, and say how to go from there."""
    recipe, material = planned.recipe, planned.material
    if state.step >= recipe.training.steps:
        progress.say(f"{run.folder} is trained to step {state.step} already; give --steps more than that to go on")
        return
    run.begin(recipe, state.step)

    def say(line: str) -> None:
        progress.say(line)
        run.log(line)

    for line in _opening(planned, state):
        say(line)
    if recipe.training.compile:
        batch = math.ceil(recipe.training.batch_size / recipe.training.micro_batches)
        module, device = state.denoiser.module, state.denoiser.device
        why_not = compiling.compile_training(module, material.space.shape, batch, device)
        if why_not is not None:
            say(f"Warning: torch.compile does not work here ({why_not}); going on without it")
    Session(run, recipe, material, state, rhythm, again).train()
    say(f"Trained to step {state.step}. To sample: scoresde sample {run.folder}")


def _opening(planned: Plan, state: TrainingState) -> list[str]:
    recipe, denoiser = planned.recipe, state.denoiser
    lines = [
        f"scoresde {scoresde.__version__}, torch {torch.__version__}, {devices.describe(denoiser.device)}",
        *planned.material.describe(),
        f"{recipe.network.preset} network of {nets.parameter_count(denoiser.module):,} parameters predicts "
        f"{recipe.network.predict} under {recipe.process.name}",
    ]
    if planned.there is None:
        return lines
    lines.append(f"Going on from step {state.step}")
    before, after = planned.there.recipe.training.steps, recipe.training.steps
    if before != after:
        old, new = (recipes.settings(r).rate(state.step) for r in (planned.there.recipe, recipe))
        lines.append(
            f"The learning rate now falls over {after} steps instead of {before}: it is {new:.3g} here, not {old:.3g}"
        )
    return lines


def _refuse_foreign(run: Run) -> None:
    """A folder with other things in it is not taken for a new run."""
    visible = [path for path in run.folder.iterdir() if not path.name.startswith(".")]
    if visible and not run.config.exists() and not run.exists():
        raise click.UsageError(
            f"--out {run.folder}: this folder is no run and holds other things, such as {visible[0].name}; "
            "take a new or an empty one"
        )
