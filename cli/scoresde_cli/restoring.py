"""Restoring: every IMAGE is checked before any is drawn; then the samples of each, batch by batch, into its folder."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scoresde_cli import devices, models, restoration_methods, restoration_tasks, stopping
from scoresde_cli import restoration_metrics as metrics
from scoresde_cli.models import Model
from scoresde_cli.progress import say
from scoresde_cli.restoration_drawing import restore_one
from scoresde_cli.restoration_folder import METRICS, write_json
from scoresde_cli.restoration_problem import Restoration, prepare, rehearse
from scoresde_cli.restoration_setting import Setting, Wish
from scoresde_cli.restoration_tasks import Task


def restore(
    source: str,
    images: Sequence[Path],
    wish: Wish,
    average: str | None,
    out: Path | None,
    *,
    overwrite: bool,
    device_name: str,
    threads: int | None,
    again: str,
) -> Path:
    """Restore them; the folder of the one, or that of all.

    Raises:
        UsageError, ValueError: what makes no sense; DataError: a file that cannot be used.
        NumericalError: values that are not finite; OSError: a file that cannot be written.
        Interrupted: by a signal; what was written stays.
    """
    device = devices.choose(device_name, threads)
    task = restoration_tasks.make(wish.task, wish.operator, wish.options, wish.seed)
    setting = choose(models.open_model(source, average, {}, device), task, wish)
    _look_at_all(setting, images)
    folders = _folders(setting, images, out)
    found: dict[str, dict[str, Any]] = {}
    with stopping.immediate():
        for place, (image, folder) in enumerate(zip(images, folders, strict=True)):
            where = f"{image.name}, {place + 1} of {len(images)}: " if len(images) > 1 else ""
            of = prepare(setting, image, looked_at=True)
            found[folder.name] = restore_one(setting, of, folder, where, overwrite=overwrite, again=again)["results"]
    home, result, which = folders[0], found[folders[0].name], ""
    if len(images) > 1:
        home, result, which = home.parent, metrics.average(list(found.values())), f"Mean of {len(images)} pictures: "
        write_json(home / METRICS, {"mean": result, "pictures": found, "command": again})
    _tell(setting, of, which, result)
    return home


def _tell(setting: Setting, of: Restoration, which: str, result: dict[str, Any]) -> None:
    """What came out, and how far it can be trusted."""
    say(which + metrics.words(result))
    doubts = metrics.doubts(result)
    if doubts is not None:
        say(doubts)
    if not setting.plan.facts.exact:
        exact = restoration_methods.exact_for(of.measurement.operator, of.shape)
        say(
            f"Note: {setting.plan.name} is not asymptotically exact: more steps do not bring its samples to the "
            f"posterior. In a limit these do: {', '.join(exact)}; see --list-methods"
        )


def choose(model: Model, task: Task, wish: Wish) -> Setting:
    """The method that is wished for, or else the one for this model and task.

    Raises:
        UsageError: they do not go together, or an option that the method does not take.
    """
    task.check_space(model.space)
    name = wish.method
    if name is None:
        name = restoration_methods.default_for(task.operator(model.space.shape), model.space.shape)
    plan = restoration_methods.plan(name, wish.steps, wish.solver, wish.particles, wish.twist, wish.n)
    return Setting(model, task, plan, wish)


def _look_at_all(setting: Setting, images: Sequence[Path]) -> None:
    """Read every file, and let the method refuse every shape, before anything is drawn; nothing is kept."""
    shapes = set()
    for image in images:
        of = prepare(setting, image)
        if of.shape not in shapes:
            rehearse(setting, of)
        shapes.add(of.shape)
    trained = setting.model.space.shape
    others = sorted(shapes - {trained})
    if others:
        say(
            f"Note: the prior was trained on samples of shape {trained}, and these have {', '.join(map(str, others))}: "
            "they are restored whole, by what it learnt at its own size"
        )


def _folders(setting: Setting, images: Sequence[Path], out: Path | None) -> list[Path]:
    """The folder of each picture: that asked for, or one of its own inside where there are several."""
    parts = list(setting.model.folder.parts)
    parts[len(parts) - 1 - parts[::-1].index("samples")] = "restored"
    home, label = Path(*parts), setting.label()
    if len(images) == 1:
        return [out if out is not None else home / f"{images[0].stem}-{label}"]
    taken: list[str] = []
    for image in images:
        names = (image.stem if k == 1 else f"{image.stem}-{k}" for k in itertools.count(1))
        taken.append(next(name for name in names if name not in taken))
    return [(out if out is not None else home / label) / name for name in taken]
