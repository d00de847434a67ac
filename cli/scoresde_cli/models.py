"""What is sampled from: a trained run, or a mixture whose denoiser is exact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import Tensor

from scoresde import checkpoint, recipe
from scoresde.denoisers import Clipped, Denoiser, DynamicallyClipped, Wrapped
from scoresde.mixtures import MIXTURES
from scoresde.recipe import Space
from scoresde.sde import Level
from scoresde_cli.names import flag
from scoresde_cli.options import did_you_mean
from scoresde_cli.pictures import Density
from scoresde_cli.resolve import process_recipe

GMM = "gmm:"


@dataclass(frozen=True)
class Model:
    """A denoiser, and what identifies it.

    Args:
        identity: what its samples depend on; where: what else is worth a note, such as paths.
        folder: for its samples by all solvers; grids: for grids tuned to it.
        density: to draw behind points of the plane.
    """

    denoiser: Denoiser
    space: Space
    identity: Mapping[str, Any]
    where: Mapping[str, Any]
    folder: Path
    grids: Path
    density: Density | None = None


def open_model(source: str, average: str | None, process: Mapping[str, Any], device: torch.device) -> Model:
    """The model that RUN names.

    Args:
        average: which of a run's averages, "raw" for none; None when not given.
        process: the options of forward processes that were given.

    Raises:
        UsageError: options that do not go with it, or no such mixture; CheckpointError: no whole checkpoint.
    """
    if source.startswith(GMM):
        if average is not None:
            raise click.UsageError(f"--average is for trained runs; {source} is exact")
        return _mixture(source.removeprefix(GMM), process, device)
    if process:
        options = ", ".join(flag(name) for name in process)
        raise click.UsageError(f"{options}: a trained run has its own process; this is for gmm:NAME")
    return _trained(Path(source), _average(average), device)


def _average(word: str | None) -> int | None:
    if word is None:
        return 0
    if word != "raw" and not word.isdecimal():
        raise click.UsageError(f"--average {word}: it must be a number from 0, or raw")
    return None if word == "raw" else int(word)


def _mixture(name: str, process: Mapping[str, Any], device: torch.device) -> Model:
    if name not in MIXTURES:
        hint = did_you_mean(name, MIXTURES)
        raise click.UsageError(f"there is no mixture {name!r}; choose from {', '.join(MIXTURES)}.{hint}")
    if device.type != "cpu":
        raise click.UsageError("mixtures are computed on the cpu; leave out --device")
    law = MIXTURES[name]()
    of = process_recipe(process)
    folder = f"gmm-{name}" + ("" if of.process.name == "vp" else f"-{of.process.name}")
    return Model(
        law.denoiser(recipe.process(of)),
        Space("array", (law.dim,)),
        {"model": f"{GMM}{name}", "process": of.to_dict()["process"]},
        {},
        Path("samples", folder),
        Path("grids", folder),
        _density(name) if law.dim == 2 else None,
    )


def _density(name: str) -> Density:
    """The exact density on a rectangle that holds nearly all of it."""
    law = MIXTURES[name]()
    reach = 3.5 * law.covariances.diagonal(dim1=1, dim2=2).sqrt()
    low, high = (law.means - reach).amin(0), (law.means + reach).amax(0)
    side = torch.linspace(0.0, 1.0, 241, dtype=torch.float64)
    xs, ys = low[0] + side * (high[0] - low[0]), low[1] + side * (high[1] - low[1])
    points = torch.cartesian_prod(ys, xs).flip(1)
    values = law.log_prob(points).exp().reshape(len(ys), len(xs))
    return xs.numpy(), ys.numpy(), np.asarray(values)


def _trained(path: Path, average: int | None, device: torch.device) -> Model:
    found = checkpoint.read(path)
    denoiser = found.denoiser(average=average, device=device)
    file = checkpoint.MODEL if average is None or not found.recipe.training.ema else f"ema-{average}.safetensors"
    digests = json.loads((found.folder / checkpoint.MANIFEST).read_bytes())["sha256"]
    single = path == found.folder
    run = found.folder.parent.parent if single else path
    return Model(
        denoiser,
        found.space,
        {"model": f"{found.recipe.data.source}, step {found.step}", "sha256": digests[file]},
        {"checkpoint": str(found.folder), "file": file, "data": found.recipe.data.source},
        run / "samples" / (found.folder.name if single else ""),
        run / "grids",
    )


# --- wrappers ------------------------------------------------------------------------------------------


def clipped(model: Model, clip: str) -> Denoiser:
    """The model's denoiser with its x0 clipped as asked.

    Raises:
        UsageError: data without a range to clip to.
    """
    if clip == "none":
        return model.denoiser
    if model.space.kind != "image":
        raise click.UsageError(f"--clip {clip} is for pictures, whose values have a range")
    return {"static": Clipped, "dynamic": DynamicallyClipped}[clip](model.denoiser)


class Silent(Wrapped):
    """A denoiser that predicts zero and asks no network, to see whether a solver and a process go together."""

    def predict(self, x: Tensor, t: Level) -> Tensor:
        return torch.zeros_like(x)
