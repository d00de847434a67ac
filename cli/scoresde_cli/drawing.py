"""Drawing samples batch by batch into a gallery, so that an interruption costs one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

import scoresde
from scoresde import sampling
from scoresde_cli import stopping
from scoresde_cli.gallery import Gallery
from scoresde_cli.models import Counted, Model, clipped
from scoresde_cli.progress import display, say
from scoresde_cli.solvers import Plan


@dataclass(frozen=True)
class Drawing:
    """All that decides a sample, but for its number."""

    model: Model
    plan: Plan
    clip: str
    seed: int
    batch_size: int

    def deciding(self) -> dict[str, Any]:
        """As plain values, for settings.json."""
        solver = self.plan.solver
        options = {field.name: getattr(solver, field.name) for field in fields(solver)}
        times = self.plan.times
        return {
            **self.model.identity,
            "solver": {"name": self.plan.name, "method": type(solver).__name__, **options},
            "grid": self.plan.grid,
            "steps": self.plan.steps,
            "times": None if times is None else times.tolist(),
            "clip": self.clip,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "device": self.model.denoiser.device.type,
        }

    def label(self) -> str:
        """The name of its folder."""
        clip = "" if self.clip == "none" else f"-clip-{self.clip}"
        return f"{self.plan.label()}{clip}-seed{self.seed}"

    def title(self) -> str:
        """In words, for the inside of a picture."""
        steps = "adaptive" if self.plan.steps is None else f"{self.plan.steps} steps"
        clip = "" if self.clip == "none" else f", {self.clip} clipping"
        return f"{self.plan.name}, {steps}{clip}, seed {self.seed}"


def draw(drawing: Drawing, ids: Sequence[int], out: Path | None, *, overwrite: bool, again: str) -> Path:
    """Write the samples `ids` that are not there yet; the folder.

    Raises:
        UsageError: the folder holds samples of other settings.
        NumericalError: a sample is not finite; OSError: a file cannot be written.
        Interrupted: by a signal; what was written stays.
    """
    denoiser = Counted(clipped(drawing.model, drawing.clip))
    folder = out if out is not None else drawing.model.folder / drawing.label()
    gallery = Gallery(folder, drawing.model.space, drawing.deciding(), drawing.title())
    gallery.open(overwrite=overwrite)
    whole = gallery.whole(ids)
    missing = [i for i in ids if i not in whole]
    if whole:
        say(f"{len(whole)} of {len(ids)} samples are there already")
    began = time.perf_counter()
    try:
        with stopping.immediate():
            batches = _draw_missing(drawing, denoiser, gallery, missing)
    except stopping.Interrupted as interrupted:
        done = len(gallery.whole(ids))
        raise stopping.Interrupted(
            interrupted.signum, f"Stopped; {done} of {len(ids)} samples are in {folder}\nTo go on: {again}"
        ) from None
    notes: dict[str, Any] = {
        "scoresde": scoresde.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **drawing.model.where,
        "command": again,
        "seconds": time.perf_counter() - began if missing else 0.0,
    }
    if batches:
        notes["evaluations"] = round(denoiser.calls / batches, 2)  # a batch, so a sample
    gallery.finish(ids, notes, drawing.model.density)
    return folder


def _draw_missing(drawing: Drawing, denoiser: Counted, gallery: Gallery, missing: Sequence[int]) -> int:
    """Compute and write; the number of batches."""
    size = drawing.batch_size
    batches = [missing[start : start + size] for start in range(0, len(missing), size)]
    steps = drawing.plan.steps or 1
    done = 0
    with display("batch" if drawing.plan.steps is None else "step", len(batches) * steps) as show:

        def on_step() -> None:
            nonlocal done
            done += 1
            show.update(done, f"{min(done // steps * size, len(missing))} of {len(missing)} samples")

        for batch in batches:
            x = sampling.sample(
                denoiser,
                drawing.plan.solver,
                times=drawing.plan.times,
                ids=batch,
                seed=drawing.seed,
                batch_size=size,
                on_step=on_step,
            )
            gallery.add(batch, drawing.model.space.to_user(x))
    return len(batches)
