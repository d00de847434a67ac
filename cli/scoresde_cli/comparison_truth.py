"""What samples are held against: the exact law, held-out data of the run, or the model's own fine steps."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import scoresde
from scoresde import checkpoint
from scoresde._files import write_atomically
from scoresde.compare import DataJudge, Judge, MixtureJudge, ReferenceJudge, memorisation, nearest
from scoresde.data import DataError, Dataset
from scoresde.distributions import GaussianMixture
from scoresde.mixtures import MIXTURES
from scoresde.sampling import sample
from scoresde.solvers import UniPC
from scoresde_cli import comparison_features
from scoresde_cli.comparison_features import Chosen
from scoresde_cli.material import Material, open_material
from scoresde_cli.models import GMM, Model
from scoresde_cli.pictures import npy_bytes
from scoresde_cli.progress import counted

EXACT, DATA, REFERENCE = "exact", "data", "reference"
HELD_OUT = 500  # items at most, whose distances to the training data are a yardstick
SHARE = 10  # reference samples for each sample of a seed: five floors
FINE = 200  # steps of the reference
SEED = 2**63  # of the reference: no user's samples come from it by chance


@dataclass(frozen=True)
class Truth:
    """A judge, and what identifies it.

    Args:
        kind: "exact", "data" or "reference".
        identity: what its numbers depend on, as plain values.
        law: of the data, where it is known.
        notes: what the user should know of it.
        train, held_out: model values, for the distance to training data; None without data.
    """

    judge: Judge
    kind: str
    identity: dict[str, Any]
    law: GaussianMixture | None = None
    notes: tuple[str, ...] = ()
    train: Tensor | None = None
    held_out: Tensor | None = None

    def nearness(self, samples: Tensor) -> dict[str, float]:
        """Whether samples are nearer to training data than new data are; nothing without data."""
        if self.train is None or self.held_out is None:
            return {}
        found = memorisation(samples, self.train, self.held_out, held_out_distances=self._yardstick)
        return {"ratio": found.ratio.value, "close": found.close.value}

    @functools.cached_property
    def _yardstick(self) -> Tensor | None:
        """Distances of the held-out data: once, and not for each set of samples."""
        return None if self.train is None or self.held_out is None else nearest(self.held_out, self.train)[0]


def exact(source: str) -> Truth:
    """The law of gmm:NAME."""
    law = MIXTURES[source.removeprefix(GMM)]()
    judge = MixtureJudge(law)
    return Truth(judge, EXACT, {"kind": EXACT, "law": source, "measures": _names(judge)}, law)


def of_run(
    source: str,
    model: Model,
    home: Path,
    n: int,
    batch_size: int,
    features: str | None,
    *,
    forced: bool = False,
    dry: bool = False,
) -> Truth:
    """Held-out data of a trained run; its own fine steps where it has none, or when `forced`.

    Args:
        home: where networks trained for this, and fine samples, are kept.
        n: samples of each seed; dry: write and compute nothing, and let something stand for what that would make.

    Raises:
        UsageError: features that do not go with it; Interrupted: by a signal; OSError: a file cannot be written.
    """
    material, notes = _material(source)
    chosen = comparison_features.choose(features, model.space, material, home, dry=dry)
    if material is None or chosen is None or forced or len(material.held_out) < 2:
        return _reference(model, home, n, batch_size, chosen, notes, dry)
    train, held_out = _values(material, material.train), _values(material, material.held_out)
    judge = DataJudge(chosen.features, held_out, train)
    identity = {
        "kind": DATA,
        "features": chosen.identity,
        "data": [_digest(part) for part in (material.train, material.held_out)],
        "measures": _names(judge),
    }
    some = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))[:HELD_OUT]  # files may be sorted
    return Truth(judge, DATA, identity, None, notes, train, held_out[some])


def _material(source: str) -> tuple[Material | None, tuple[str, ...]]:
    """The data of the run, or why there are none."""
    found = checkpoint.read(Path(source))
    try:
        material = open_material(found.recipe, found.space)
    except DataError as error:
        return None, (f"The run's data are not there ({error}); samples are held against its own fine steps instead.",)
    if len(material.held_out) < 2:
        words = "This run was trained without held-out data; samples are held against its own fine steps instead."
        return material, (words,)
    return material, ()


def _reference(
    model: Model, home: Path, n: int, batch_size: int, chosen: Chosen | None, notes: tuple[str, ...], dry: bool
) -> Truth:
    """Fine samples of the model, from their file or drawn."""
    identity: dict[str, Any] = {
        "kind": REFERENCE,
        "scoresde": scoresde.__version__,
        "model": dict(model.identity),
        "solver": "unipc",
        "steps": FINE,
        "seed": SEED,
        "count": SHARE * n,
    }
    path = home / f"reference-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.npy"
    reference = _read(path, (SHARE * n, *model.space.shape))
    if reference is None and dry:
        reference = torch.randn(SHARE * n, *model.space.shape)
    elif reference is None:
        reference = _fine(model, SHARE * n, batch_size)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, npy_bytes(reference.cpu().numpy()))
    features = comparison_features.of_samples(reference) if chosen is None else chosen
    judge = ReferenceJudge(features.features, reference)
    identity |= {"features": features.identity, "measures": _names(judge)}
    return Truth(judge, REFERENCE, identity, None, notes)


def _fine(model: Model, count: int, batch_size: int) -> Tensor:
    with counted("step of the reference", FINE * -(-count // batch_size)) as on_step:
        return sample(
            model.denoiser,
            UniPC(),
            steps=FINE,
            n=count,
            seed=SEED,
            batch_size=batch_size,
            shape=model.space.shape,
            on_step=on_step,
        )


def _read(path: Path, shape: tuple[int, ...]) -> Tensor | None:
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return torch.from_numpy(found) if found.shape == shape else None


def _values(material: Material, part: Dataset) -> Tensor:
    return material.fetch(part)(torch.arange(len(part)))


def _digest(part: Dataset) -> str:
    return hashlib.sha256(np.ascontiguousarray(part.array).tobytes()).hexdigest()


def _names(judge: Judge) -> list[str]:
    return [measure.name for measure in judge.measures]
