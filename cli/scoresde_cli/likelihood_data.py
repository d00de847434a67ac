"""The data whose likelihood is asked for, as the model sees them, and others of the same kind that are not judged."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from torch import Tensor

from scoresde import checkpoint, recipe
from scoresde.checkpoint import Checkpoint
from scoresde.data import DataError, Dataset
from scoresde.data.options import choose
from scoresde.distributions import GaussianMixture
from scoresde.mixtures import MIXTURES
from scoresde.recipe import Space
from scoresde_cli.material import open_material
from scoresde_cli.models import GMM

OTHERS = 2000  # items at most that moments and variances are taken from
JUDGED, NOT_JUDGED = 0x5EED_0001, 0x5EED_0002  # keep apart the draws of one seed, and those that were trained on


@dataclass(frozen=True)
class Judged:
    """Data to be judged.

    Args:
        x: model values, (n, *).
        numbers: of these in their data set, (n,), which their noise depends on.
        source: what the user calls them; about: in words; label: for a folder's name.
        space: that they live in.
        levels: of a stored pixel, for pictures; None for arrays.
        log_density: of each, exactly, in the user's units, (n,) float64; None where it is not known.
        others: model values of data like these, (m, *); None where there are none.
        notes: what the user should know.
    """

    x: Tensor
    numbers: Tensor
    source: str
    about: str
    label: str
    space: Space
    levels: int | None
    log_density: Tensor | None
    others: Tensor | None
    notes: tuple[str, ...] = ()

    @property
    def dim(self) -> int:
        """D."""
        return self.x[0].numel()

    @property
    def log_scale(self) -> float:
        """What a density of model values is more than that of the user's, in nats for one sample."""
        return 0.0 if self.levels is not None else self.dim * math.log(self.space.std)

    @property
    def bin_width(self) -> float | None:
        """Between the values of a picture in [-1, 1]; None for arrays."""
        return None if self.levels is None else 2.0 / (self.levels - 1)


def of_mixture(source: str, data: str | None, n: int | None, usual_n: int, seed: int) -> Judged:
    """Draws of gmm:NAME, or data given for it.

    Raises:
        UsageError: no such mixture; DataError: data that do not fit it.
    """
    law = MIXTURES[source.removeprefix(GMM)]()
    space = Space("array", (law.dim,))
    others = law.sample(OTHERS, seed ^ NOT_JUDGED)
    if data is None:
        count = n or usual_n
        x = law.sample(count, seed ^ JUDGED)
        return Judged(
            x, torch.arange(count), source, f"{count:,} draws of {source}", "draws", space, None, _exact(law, x), others
        )
    dataset = recipe.open_dataset(recipe.DataRecipe(source=data, seed=seed ^ JUDGED))
    _check_fits(dataset, space, source)
    rows = _rows(dataset, n, usual_n, seed)
    x = dataset.batch(rows)
    return Judged(x, rows, data, f"{len(rows):,} of {data}", _label(data), space, None, _exact(law, x), others)


def of_run(run: str, data: str | None, n: int | None, usual_n: int, seed: int, bits: int | None) -> Judged:
    """The held-out data of a trained run, or data given for it.

    Raises:
        UsageError: a run without held-out data, or options that do not go with the data.
        DataError: data that cannot be read or do not fit the run; CheckpointError: no whole run.
    """
    found = checkpoint.read(Path(run))
    train, held_out, notes = _own(found, needed=data is None)
    if data is None:
        assert held_out is not None
        dataset, source, label = held_out, f"held-out {found.recipe.data.source}", "held-out"
        if len(held_out) == 0:
            raise click.UsageError(
                f"{run} was trained without held-out data (--held-out 0); say which DATA to judge it by, such as a "
                "folder of new pictures"
            )
    else:
        dataset, source, label = _open(found, data, seed), data, _label(data)
        _check_fits(dataset, found.space, run)
        if data == found.recipe.data.source and data not in DRAWN:
            notes = (*notes, f"{data} are the data that the run was trained on; leave DATA out for those held out")
    if bits is not None and dataset.levels is None:
        raise click.UsageError(f"--bits is for pictures; {dataset.name} holds arrays, which have densities")
    rows = _rows(dataset, n, usual_n, seed)
    law = _law(found.recipe.data.source if data is None else data)
    return Judged(
        found.space.to_model(dataset.batch(rows)),
        rows,
        source,
        f"{len(rows):,} of {len(dataset):,} {source}" if data is None else f"{len(rows):,} of {data}",
        label,
        found.space,
        2**bits if bits is not None else dataset.levels,
        None if law is None else _exact(law, dataset.batch(rows)),
        None if train is None else found.space.to_model(train.batch(_some(train, seed))),
        notes,
    )


DRAWN = ("moons", "checkerboard", "swissroll", "rings", *(f"{GMM}{name}" for name in MIXTURES))
"""Data that are drawn when they are asked for."""


def _own(found: Checkpoint, *, needed: bool) -> tuple[Dataset | None, Dataset | None, tuple[str, ...]]:
    """What the run was trained on, and what was held out; without them, why not."""
    try:
        material = open_material(found.recipe, found.space)
    except DataError as error:
        if needed:
            raise DataError(f"{error}; or say which DATA to judge the run by") from error
        return None, None, (f"The data that the run was trained on are not there ({error})",)
    return material.train, material.held_out, ()


def _open(found: Checkpoint, data: str, seed: int) -> Dataset:
    """DATA, cut to size as those that were trained on."""
    own = found.recipe.data
    same = own if data == own.source else replace(own, downscale=None)
    if data in DRAWN:
        return recipe.open_dataset(recipe.DataRecipe(source=data, seed=seed ^ JUDGED))
    return recipe.open_dataset(replace(same, source=data, n=None))


def _check_fits(dataset: Dataset, space: Space, model: str) -> None:
    if (dataset.kind, dataset.shape) != (space.kind, space.shape):
        raise DataError(
            f"{dataset.name} holds {_words(dataset.kind, dataset.shape)}; {model} is for "
            f"{_words(space.kind, space.shape)}"
        )


def _label(data: str) -> str:
    return "-".join(Path(data.replace(":", "-")).name.split()) or "data"


def _words(kind: str, shape: tuple[int, ...]) -> str:
    return f"{'pictures' if kind == 'image' else 'arrays'} of shape {' x '.join(map(str, shape))}"


def _rows(dataset: Dataset, n: int | None, usual_n: int, seed: int) -> Tensor:
    """Which of the data: `n` at random, or as many as usual when there are."""
    count = min(usual_n, len(dataset)) if n is None else n
    return torch.from_numpy(choose(len(dataset), count, seed, dataset.name))


def _some(dataset: Dataset, seed: int) -> Tensor:
    return torch.from_numpy(choose(len(dataset), min(OTHERS, len(dataset)), seed, dataset.name))


def _law(source: str) -> GaussianMixture | None:
    return MIXTURES[source.removeprefix(GMM)]() if source.startswith(GMM) else None


def _exact(law: GaussianMixture, x: Tensor) -> Tensor:
    """log density in double precision."""
    return law.log_prob(x.double())
