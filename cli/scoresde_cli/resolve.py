"""From what the user gave to a recipe: the command line over a config file, or over the run that is there already."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from scoresde import recipe as recipes
from scoresde.recipe import Recipe
from scoresde_cli.names import PROCESS_PARAMETERS, flag

PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    **{key: (("data", key),) for key in ("n", "size", "crop", "channels", "downscale", "held_out", "flip")},
    **{key: (("network", key),) for key in ("preset", "predict")},
    **{
        key: (("training", key),)
        for key in (
            *("steps", "batch_size", "learning_rate", "warmup", "final_rate", "clip", "weight", "times", "chain_steps"),
            *("low_discrepancy", "ema", "micro_batches", "precision", "compile"),
        )
    },
    "seed": (("data", "seed"), ("training", "seed")),
}
"""The keys of a recipe, as (section, key), that an option sets."""


def resolve(source: str | None, given: Mapping[str, Any], config: Path | None, run: Recipe | None) -> Recipe:
    """The recipe that the user means.

    Args:
        source: DATA, when it was given.
        given: the options that were given, by their names.
        config: a config.toml to start from.
        run: the recipe of the run that is to go on; it is started from when there is no config file.

    Raises:
        UsageError: no data.
        ValueError: values out of range, or a config file that is none.
    """
    base = recipes.read_toml(config) if config is not None else run
    if base is None and source is None:
        raise click.UsageError("Missing argument 'DATA': what to train on, such as digits or a folder of pictures.")
    sections = (base or Recipe()).to_dict()
    if source is not None:
        sections["data"]["source"] = source
    for name, value in given.items():
        for section, key in PLACES.get(name, ()):
            sections[section][key] = value
    sections["process"] = _process(sections["process"], given)
    recipe = Recipe.from_dict(sections)
    _check_predicts_at_noise(recipe)
    return recipe


def process_recipe(given: Mapping[str, Any]) -> Recipe:
    """A recipe whose forward process is the one given, and all else the default."""
    return Recipe.from_dict({"process": _process({"name": "vp"}, given)})


def _process(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The section [process]; another process than the base's drops the base's parameters."""
    name = given.get("process", base["name"])
    section = dict(base) if name == base["name"] else {"name": name}
    for parameter, takers in PROCESS_PARAMETERS.items():
        if parameter in given:
            if name not in takers:
                raise click.UsageError(
                    f"{flag(parameter)} is a parameter of {' and '.join(takers)}; the process here is {name}"
                )
            section[parameter] = given[parameter]
    return section


def _check_predicts_at_noise(recipe: Recipe) -> None:
    """Refuse now what could be trained but not be sampled: eps and score say nothing of x0 where alpha = 0."""
    predict = recipe.network.predict
    try:
        recipes.PARAMETERISATIONS[predict](1.0).x0(recipes.process(recipe).at(1.0))
    except ValueError as error:
        raise click.UsageError(
            f"--process {recipe.process.name} has no signal left at t = 1, where a predicted {predict} says nothing of "
            "the data; give --predict v (or x0, edm)"
        ) from error


# --- going on ------------------------------------------------------------------------------------------


def differences(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """{section.key: (old value, new value)} of all that differs; None stands for a key that is not set."""
    flat_old, flat_new = (
        {f"{section}.{key}": value for section, values in recipe.to_dict().items() for key, value in values.items()}
        for recipe in (old, new)
    )
    keys = [*flat_old, *(key for key in flat_new if key not in flat_old)]
    return {key: (flat_old.get(key), flat_new.get(key)) for key in keys if flat_old.get(key) != flat_new.get(key)}


def check_goes_on(old: Recipe, new: Recipe, folder: Path) -> None:
    """Refuse to go on with a run by another recipe than its own; only its number of steps may grow.

    Raises:
        UsageError: anything else differs.
    """
    changed = differences(old, new)
    before, after = changed.pop("training.steps", (0, 0))
    if changed:
        listed = "\n".join(f"  {key}: {a} there, {b} here" for key, (a, b) in changed.items())
        raise click.UsageError(
            f"{folder} is a run of another recipe:\n{listed}\nTake another --out, or leave these options out to go on "
            "with that run."
        )
    if after < before:
        raise click.UsageError(
            f"{folder} is a run of {before} steps, and --steps {after} is fewer; only more steps can be asked for"
        )
