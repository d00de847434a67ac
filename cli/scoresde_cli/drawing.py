"""Drawing samples batch by batch into a gallery, so that an interruption costs one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scoresde
from scoresde import sampling
from scoresde.compare import Counted
from scoresde.denoisers import Denoiser
from scoresde.noise import CounterNoise
from scoresde_cli import stopping
from scoresde_cli.gallery import Gallery
from scoresde_cli.interpolation import Interpolation
from scoresde_cli.models import Model, Silent, clipped
from scoresde_cli.progress import display, say
from scoresde_cli.solvers import AnySolver, Plan, plain
from scoresde_cli.speed import Speed


@dataclass(frozen=True)
class Drawing:
    """All that decides a sample, but for its number.

    Args:
        way: between samples; the numbers are then those of its frames.
        speed: what makes the model faster.
    """

    model: Model
    plan: Plan
    clip: str
    seed: int
    batch_size: int
    way: Interpolation | None = None
    speed: Speed = field(default_factory=Speed)

    @property
    def word(self) -> str:
        """What is drawn."""
        return "sample" if self.way is None else "frame"

    def deciding(self) -> dict[str, Any]:
        """As plain values, for settings.json."""
        solver = self.plan.solver
        times = self.plan.times
        way = {} if self.way is None else {"interpolate": list(self.way.stops), "frames": self.way.frames}
        return {
            **self.model.identity,
            "solver": {"name": self.plan.name, "method": type(solver).__name__, **plain(solver)},
            "grid": self.plan.grid,
            "steps": self.plan.steps,
            "times": None if times is None else times.tolist(),
            "clip": self.clip,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "device": self.model.denoiser.device.type,
            **way,
            **self.speed.deciding(),
        }

    def label(self) -> str:
        """The name of its folder."""
        clip = "" if self.clip == "none" else f"-clip-{self.clip}"
        way = "" if self.way is None else f"{self.way.label()}-"
        speed = "".join(f"-{word}" for word in self.speed.words())
        return f"{way}{self.plan.label()}{clip}{speed}-seed{self.seed}"

    def title(self) -> str:
        """In words, for the inside of a picture."""
        steps = "adaptive" if self.plan.steps is None else f"{self.plan.steps} steps"
        clip = "" if self.clip == "none" else f", {self.clip} clipping"
        way = "" if self.way is None else f", between samples {', '.join(map(str, self.way.stops))}"
        speed = "".join(f", {word}" for word in self.speed.words())
        return f"{self.plan.name}, {steps}{clip}{speed}, seed {self.seed}{way}"


def draw(drawing: Drawing, ids: Sequence[int], out: Path | None, *, overwrite: bool, again: str) -> Path:
    """Write the samples `ids` that are not there yet; the folder.

    Raises:
        UsageError: the folder holds samples of other settings.
        ValueError: the solver asks for what the process does not have.
        NumericalError: a sample is not finite; OSError: a file cannot be written.
        Interrupted: by a signal; what was written stays.
    """
    denoiser = Counted(clipped(drawing.model, drawing.clip))
    times = torch.tensor([1.0, 0.99]) if drawing.plan.times is None else drawing.plan.times
    rehearse(denoiser, drawing.plan.solver, times)
    folder = out if out is not None else drawing.model.folder / drawing.label()
    gallery = Gallery(folder, drawing.model.space, drawing.deciding(), drawing.title(), drawing.word)
    gallery.open(overwrite=overwrite)
    whole = gallery.whole(ids)
    missing = [i for i in ids if i not in whole]
    if whole:
        say(f"{len(whole)} of {len(ids)} {drawing.word}s are there already")
    began = time.perf_counter()
    try:
        with stopping.immediate():
            runs = _draw_missing(drawing, denoiser, gallery, missing)
    except stopping.Interrupted as interrupted:
        done = len(gallery.whole(ids))
        raise stopping.Interrupted(
            interrupted.signum, f"Stopped; {done} of {len(ids)} {drawing.word}s are in {folder}\nTo go on: {again}"
        ) from None
    notes: dict[str, Any] = {
        "scoresde": scoresde.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **drawing.model.where,
        "command": again,
        "seconds": time.perf_counter() - began if missing else 0.0,
    }
    if runs:
        notes["evaluations"] = round(denoiser.samples / (runs * drawing.batch_size), 2)
    rows = None if drawing.way is None else (drawing.way.rows(), drawing.way.frames)
    gallery.finish(ids, notes, drawing.model.density, rows)
    return folder


def rehearse(denoiser: Denoiser, solver: AnySolver, times: Tensor) -> None:
    """Take the first step without the network, so that a solver refuses a process before anything is drawn.

    Raises:
        ValueError: it does.
    """
    silent = Silent(denoiser)
    noise = CounterNoise(0, torch.zeros(1, dtype=torch.int64), (1,), denoiser.dtype, denoiser.device)
    for _ in sampling.trajectory(solver.reverse(silent), solver, times[:2], noise.start(), noise):
        pass


def _latents(drawing: Drawing, denoiser: Denoiser, frames: Sequence[int]) -> Tensor | None:
    """Where frames start; None for samples, which find it themselves."""
    if drawing.way is None:
        return None
    t = 1.0 if drawing.plan.times is None else drawing.plan.times[0].item()
    return drawing.way.latents(frames, denoiser, drawing.model.space.shape, drawing.seed, t)


def _draw_missing(drawing: Drawing, denoiser: Counted, gallery: Gallery, missing: Sequence[int]) -> int:
    """Compute and write; how often the loop was run: for each batch, unless it was recorded."""
    size = drawing.batch_size
    batches = [missing[start : start + size] for start in range(0, len(missing), size)]
    steps = drawing.plan.steps or 1
    done = 0
    graph = drawing.speed.loop()
    with display("batch" if drawing.plan.steps is None else "step", len(batches) * steps) as show:

        def on_step() -> None:
            nonlocal done
            done += 1
            show.update(done, f"{min(done // steps * size, len(missing))} of {len(missing)} {drawing.word}s")

        for batch in batches:
            x = sampling.sample(
                denoiser,
                drawing.plan.solver,
                times=drawing.plan.times,
                ids=batch,
                x1=_latents(drawing, denoiser, batch),
                seed=drawing.seed,
                batch_size=size,
                on_step=on_step,
                loop=graph or sampling.solve,
            )
            gallery.add(batch, drawing.model.space.to_user(x))
    return len(batches) if graph is None else graph.runs
