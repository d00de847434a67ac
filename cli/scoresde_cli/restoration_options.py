"""What `scoresde restore` can refuse by looking at its options alone, without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from scoresde_cli import names
from scoresde_cli.options import did_you_mean


def check_task(task: str | None, operator: str | None, options: Mapping[str, Any], simulate: bool) -> None:
    """Refuse options of tasks that make no sense together.

    Raises:
        UsageError: they do not, or a file is not there.
    """
    if task is not None and operator is not None:
        raise click.UsageError("--task and --operator both say what was done to the picture; give one of them")
    if task is None and operator is None:
        tasks = ", ".join(names.TASKS)
        raise click.UsageError(f"say what was done to the picture: give --task, one of {tasks}; or --operator")
    name = task or "--operator"
    facts = names.TASKS[task] if task else names.TaskFacts("")
    for word in options:
        if word not in facts.options:
            raise click.UsageError(f"{names.flag(word)} means nothing to {name}; it is for {names.of_tasks(word)}")
    for word in facts.needs:
        if word not in options:
            raise click.UsageError(f"{name} needs {names.flag(word)}; see --help")
    mask, kernel = options.get("mask"), options.get("kernel", names.KERNELS[0])
    if "keep" in options and mask not in names.MASKS_OF_A_SHARE:
        raise click.UsageError(f"--keep is for --mask {' and '.join(names.MASKS_OF_A_SHARE)}")
    if mask == "random" and not simulate:
        raise click.UsageError(
            "--mask random is for --simulate: of a measurement it must be said which pixels are missing, by --mask FILE"
        )
    if "text" in options and mask != "text":
        raise click.UsageError("--text is for --mask text")
    if "kernel_std" in options and kernel != names.KERNELS[0]:
        raise click.UsageError(f"--kernel-std is for --kernel {names.KERNELS[0]}; that of a file has its own width")
    for word, known in (("mask", names.MASKS), ("kernel", names.KERNELS)):
        if word in options:
            _check_file(word, options[word], known)


def _check_file(word: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known and not Path(split_index(value)[0]).is_file():
        raise click.UsageError(
            f"{names.flag(word)} {value}: there is no such file; give one, or {' or '.join(known)}."
            f"{did_you_mean(value, known)}"
        )


def split_index(value: str) -> tuple[str, int | None]:
    """FILE:3 as its two parts; a file without a number has None."""
    path, colon, index = value.rpartition(":")
    return (path, int(index)) if colon and index.isdecimal() else (value, None)


def check_sigma(sigma: float | None, simulate: bool) -> None:
    """Refuse a noise level that is not one.

    Raises:
        UsageError: it is missing, not positive or not finite.
    """
    if sigma is None and not simulate:
        raise click.UsageError(
            "--sigma is needed: the standard deviation of the measurement's noise, for pictures on the [0, 1] scale of "
            "the file. An 8-bit picture without noise that can be seen has about 0.01"
        )
    if sigma is not None and not 0 < sigma < math.inf:
        raise click.UsageError(
            f"--sigma {sigma:g}: it must be positive and finite; for a measurement without noise take a little, such "
            "as 0.001"
        )


def check_images(images: Sequence[Path]) -> None:
    """Refuse folders, among which a run may be that was given in the wrong place.

    Raises:
        UsageError: one is.
    """
    for image in images:
        if image.is_dir():
            raise click.UsageError(
                f"{image} is a folder; RUN comes first, and then pictures or .npy files: give {image}/*.png, say, for "
                "all in it"
            )


def check_fits(method: str, task: str) -> None:
    """Refuse a method that is not for this task.

    Raises:
        UsageError: it is not; names those that are.
    """
    fitting = [name for name, facts in names.METHODS.items() if task in names.FITTING[facts.operators]]
    if method not in fitting:
        tasks = names.FITTING[names.METHODS[method].operators]
        raise click.UsageError(
            f"--method {method} is for {', '.join(tasks)}, not for {task}; take one of {', '.join(fitting)}"
        )


def check_method(method: str, solver: str | None, particles: int | None, twist: str | None) -> None:
    """Refuse options that the method does not take.

    Raises:
        UsageError: it does not.
    """
    facts = names.METHODS[method]
    if solver is not None and not facts.solver:
        raise click.UsageError(
            f"--solver means nothing to {method}, which makes its own steps; it is for {names.guided()}"
        )
    if particles is not None and not facts.particles:
        raise click.UsageError(f"--particles means nothing to {method}; it is for {names.with_particles()}")
    if twist is not None and not facts.twist:
        raise click.UsageError(f"--twist means nothing to {method}; it is for {names.with_twist()}")
