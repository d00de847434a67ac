"""`--features`: the space in which samples of a trained run are looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from scoresde.compare import (
    FeatureNet,
    Features,
    array_features,
    learn_features,
    picture_features,
    read_features,
    write_features,
)
from scoresde.compare.feature_net import STEPS
from scoresde.metrics import load_features
from scoresde.recipe import Space
from scoresde_cli import own_code
from scoresde_cli.material import Material
from scoresde_cli.progress import counted, say

DIGITS, TRIED = 12, 4


@dataclass(frozen=True)
class Chosen:
    """Features, and what identifies them."""

    features: Features
    identity: dict[str, Any]


def choose(wish: str | None, space: Space, material: Material | None, folder: Path, *, dry: bool) -> Chosen | None:
    """What was asked for, or the default for these data; None where there are no data to make a default of.

    Args:
        folder: where a network trained for this is kept; dry: write and train nothing, and let another stand for it.

    Raises:
        UsageError: no such file or function, or one that does not fit the data. OSError: the network cannot be kept.
    """
    if wish is not None and space.kind != "image":
        raise click.UsageError("--features is for pictures; arrays are their own features")
    if wish is not None:
        return _checked(wish, space, material)
    if material is None:
        return None
    train = material.fetch(material.train)(torch.arange(len(material.train)))
    if space.kind != "image":
        return Chosen(array_features(train), {"features": "array"})
    return _trained((train + 1.0) / 2.0, hashlib.sha256(material.train.array.tobytes()).hexdigest(), folder, dry)


def _trained(pictures: Tensor, data: str, folder: Path, dry: bool) -> Chosen:
    """A network trained on pictures (N, C, H, W) in [0, 1], read or made."""
    path = folder / f"features-{data[:DIGITS]}.safetensors"
    shape = tuple(pictures.shape[1:])
    net = _read(path, shape)
    if net is None and dry:
        net = FeatureNet(shape)
    elif net is None:
        with counted("step of the feature network", STEPS) as on_step:
            net = learn_features(pictures, steps=STEPS, on_step=on_step)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_features(path, net)
    about = f"the features of a small network trained on the data ({path.name})"
    return Chosen(picture_features(net, about), {"features": "trained", "sha256": _digest(net)})


def _digest(net: FeatureNet) -> str:
    """Of the weights: files of the same weights may differ in the order of their notes."""
    found = hashlib.sha256()
    for _, tensor in sorted(net.state_dict().items()):
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


def _read(path: Path, shape: tuple[int, ...]) -> FeatureNet | None:
    if not path.exists():
        return None
    try:
        return read_features(path, shape)
    except ValueError as error:
        say(f"{error}; it is trained again")
        return None


def of_samples(samples: Tensor) -> Chosen:
    """Where there is nothing else: the principal components of the samples themselves."""
    return Chosen(array_features(samples, "the fine samples"), {"features": "array"})


def _checked(wish: str, space: Space, material: Material | None) -> Chosen:
    """Features by a file or a function, tried on two pictures."""
    path = Path(wish)
    if path.is_file():
        try:
            function: Callable[[Tensor], Tensor] = load_features(path)
        except ValueError as error:
            raise click.UsageError(f"--features {wish}: {error}") from error
        about, digest = f"the features of the LeNet {path.name}", hashlib.sha256(path.read_bytes()).hexdigest()
        chosen = Chosen(picture_features(function, about), {"features": "lenet", "sha256": digest})
        _tried(chosen, wish, space, material)
        return chosen
    if ":" not in wish:
        raise click.UsageError(
            f"--features {wish}: there is no such file; or write MODULE:FUNCTION, such as mine:features for features "
            "in mine.py"
        )
    found = own_code.find("--features", wish)
    if not callable(found.value):
        raise click.UsageError(
            f"--features {wish} is of type {type(found.value).__name__}; a function of pictures (B, C, H, W) is needed"
        )
    own = own_code.guarded("--features", wish, found.value)
    chosen = Chosen(picture_features(own, f"the features of {wish}"), {"features": wish, "sha256": found.digest})
    return Chosen(chosen.features, {**chosen.identity, "tried": _tried(chosen, wish, space, material)})


def _tried(chosen: Chosen, wish: str, space: Space, material: Material | None) -> str:
    """The digest of the features of the first pictures there are."""
    if material is None:
        pictures = torch.zeros(TRIED, *space.shape)
    else:
        pictures = material.fetch(material.train)(torch.arange(min(TRIED, len(material.train))))
    try:
        found = chosen.features(pictures)
    except (ValueError, RuntimeError) as error:
        raise click.UsageError(f"--features {wish}: {error}") from error
    return own_code.digest(found)
