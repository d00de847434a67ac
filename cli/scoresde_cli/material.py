"""What a training run works on: its data, split, and scaled to model values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from scoresde import data, recipe
from scoresde.data import DataError, Dataset
from scoresde.recipe import Recipe, Space
from scoresde.training import Batches

NAMED = 5  # files that were left out are named up to so many


@dataclass(frozen=True)
class Material:
    """Training and held-out data, and the space that they live in. `held_out` may be empty."""

    train: Dataset
    held_out: Dataset
    space: Space

    def fetch(self, part: Dataset) -> Callable[[Tensor], Tensor]:
        """rows (B,) -> model values (B, *)."""
        return lambda rows: self.space.to_model(part.batch(rows))

    def batches(self, of: Recipe) -> Batches:
        """The batches that a recipe trains on."""
        training = of.training
        return Batches(
            self.fetch(self.train), len(self.train), training.batch_size, seed=training.seed, flip=of.data.flip
        )

    def describe(self) -> list[str]:
        """Lines to print: what there is, and which files were left out."""
        kind = "pictures" if self.train.kind == "image" else "arrays"
        shape = " x ".join(map(str, self.space.shape))
        lines = [
            f"{self.train.name}: {len(self.train) + len(self.held_out)} {kind} of {shape}, "
            f"{len(self.held_out)} of them held out"
        ]
        skipped = self.train.skipped
        if skipped:
            lines.append(f"{len(skipped)} {'file was' if len(skipped) == 1 else 'files were'} left out:")
            lines += [f"  {file}: {reason}" for file, reason in skipped[:NAMED]]
        if len(skipped) > NAMED:
            lines.append(f"  and {len(skipped) - NAMED} more")
        return lines


def open_material(of: Recipe, space: Space | None = None) -> Material:
    """Open, split and measure the data of a recipe.

    Args:
        space: of the run that goes on with these data.

    Raises:
        DataError: data that cannot be read or are not those of the run; ValueError: options out of range.
    """
    dataset = recipe.open_dataset(of.data)
    if of.data.flip and dataset.kind != "image":
        raise ValueError(f"--flip mirrors pictures; {dataset.name} holds arrays of shape {dataset.shape}")
    if of.data.held_out == 0:
        train, held_out = dataset, dataset.take([])
    else:
        train, held_out = data.split(dataset, of.data.held_out, of.data.seed)
    found = recipe.space_of(train)
    if space is None:
        return Material(train, held_out, found)
    if not _same(space, found):
        raise DataError(
            f"{dataset.name}: these are not the data that the run was trained on: they are {_brief(found)}, and were "
            f"{_brief(space)}; put the data back, or begin another run"
        )
    return Material(train, held_out, space)


def _same(a: Space, b: Space) -> bool:
    """Whether two spaces are one; their moments may differ by rounding, with the number of threads."""
    moments = ("mean", "std", "data_std")
    close = all(math.isclose(getattr(a, m), getattr(b, m), rel_tol=1e-9, abs_tol=1e-12) for m in moments)
    return close and (a.kind, a.shape, a.levels) == (b.kind, b.shape, b.levels)


def _brief(space: Space) -> str:
    return (
        f"{space.kind}s of shape {space.shape} with mean {space.mean:.6g}, std {space.std:.6g}, "
        f"spread {space.data_std:.6g}"
    )
