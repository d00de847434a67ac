"""`scoresde demo`: train on digits, sample, check the solvers on a mixture, restore digits, and write it all up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scoresde_cli.options import SEEDS, Command, device_options, examples, given, option, same_command

if TYPE_CHECKING:
    from scoresde.recipe import Recipe
    from scoresde_cli.demo_digits import DigitsStudy
    from scoresde_cli.demo_study import Effort

RUN, HELD_OUT, PICTURE, RESTORED, REPORT = "run", "held-out", "demo.png", "restored.png", "report.html"
STEPS = 3000
SETTINGS: dict[str, Any] = {
    "preset": "small",
    "predict": "v",
    "batch_size": 64,
    "learning_rate": 2e-3,
    "ema": (0.998,),
}
"""What a new run is trained with, beside its steps and seed: chosen for 8x8 digits and two minutes."""


@click.command(
    cls=Command,
    short_help="Train, sample, check and restore, in minutes.",
    epilog=examples("scoresde demo", "scoresde demo --out runs/demo --threads 2", "scoresde sample demo/run"),
)
@option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="demo",
    help="Folder for the trained run, the pictures and the report.",
)
@option("--steps", type=click.IntRange(1), default=STEPS, help="Training steps.")
@option("--seed", type=SEEDS, default=0, metavar="INTEGER", help="Of training and all samples, from 0.")
@option("--quick", is_flag=True, hidden=True, help="A rough and fast version, for tests.")
@device_options
@click.pass_context
def demo(ctx: click.Context, out: Path, steps: int, seed: int, quick: bool, device: str, threads: int | None) -> None:
    """Train a score model on small digits, sample it with three solvers, check these against an exact density, and
    restore digits that it never saw: with a box missing, and blurred.

    Ends with two pictures and one page, report.html, that explains what is seen. It takes a few minutes on two cores.
    Ctrl-C stops; the same command goes on. A run that is trained already is used as it is.
    """
    asked = given(ctx, {"steps": steps, "seed": seed})
    for path in run(out, {"steps": steps, "seed": seed, **SETTINGS}, asked, quick, device, threads, same_command(ctx)):
        click.echo(path)


def run(
    out: Path,
    settings: dict[str, Any],
    asked: dict[str, Any],
    quick: bool,
    device_name: str,
    threads: int | None,
    again: str,
) -> tuple[Path, ...]:
    """The whole demo; the run's folder, the pictures and the page.

    Args:
        settings: of a new run; asked: those of them that the user gave, which a run that is there must agree with.

    Raises:
        UsageError: `out` holds something else, or a run of other settings.
        Interrupted: by a signal; no file is left half written.
    """
    import torch

    from scoresde.runs import Run
    from scoresde_cli import demo_report, devices, stopping
    from scoresde_cli.demo_mixture import study_mixture
    from scoresde_cli.demo_restoration import study_restoration, write_digits
    from scoresde_cli.demo_study import FULL, QUICK
    from scoresde_cli.progress import say

    # 8x8 pictures are too small to share: on two cores, two threads were half as fast as one
    device = devices.choose(device_name, threads or 1)
    effort = QUICK if quick else FULL
    folder = out / RUN
    _refuse_foreign(out)
    options = asked if Run(folder).exists() else settings
    try:
        with stopping.immediate():
            digits = _digits(folder, options, settings["seed"], effort, device, again)
            say("3/4 Three solvers on a mixture of 25 Gaussians, whose score is known exactly")
            mixture = study_mixture(effort, settings["seed"])
            say("4/4 Restoring damaged digits that the network never saw")
            files = write_digits(out / HELD_OUT, digits.held_out[: effort.restored])
            restored = study_restoration(folder, files, effort, settings["seed"], device)
            facts = demo_report.Facts(
                digits,
                mixture,
                restored,
                folder,
                files,
                again,
                settings["seed"],
                devices.describe(device),
                torch.get_num_threads() if device.type == "cpu" else None,
            )
            written = demo_report.write(facts, out / PICTURE, out / RESTORED, out / REPORT)
    except stopping.Interrupted as interrupted:
        if str(interrupted):
            raise
        raise stopping.Interrupted(interrupted.signum, f"Stopped.\nTo go on: {again}") from None
    say(f"Done. The trained run, the pictures and the page to open in a browser; for more: scoresde sample {folder}")
    return folder, *written


def _digits(folder: Path, options: dict[str, Any], seed: int, effort: Effort, device: Any, again: str) -> DigitsStudy:
    """Stages 1 and 2, with the run locked against other writers."""
    from scoresde_cli import starting
    from scoresde_cli.demo_digits import study_digits
    from scoresde_cli.progress import say
    from scoresde_cli.session import Rhythm

    say("1/4 Training a score model on digits")
    with starting.begun("digits", options, None, folder, device) as (plan, state, run):
        _check_ours(plan.recipe, folder)
        steps = plan.recipe.training.steps
        part = max(1, steps // 10)
        starting.train(
            plan, state, run, Rhythm(log=max(1, steps // 40), checkpoint=part, sample=0, validate=part), again
        )
        say("2/4 Sampling with three solvers from the same noise")
        return study_digits(run, plan.material, effort, seed, device)


def _check_ours(recipe: Recipe, folder: Path) -> None:
    """The page explains the digits and the process of the demo, and no others."""
    from scoresde.recipe import DataRecipe, ProcessRecipe

    if replace(recipe.data, seed=0) != DataRecipe() or recipe.process != ProcessRecipe():
        raise click.UsageError(
            f"{folder} was trained on other data or another process than the demo's; take another --out"
        )


def _refuse_foreign(out: Path) -> None:
    """A folder with other things in it is not written to."""
    if not out.is_dir() or (out / RUN).is_dir():
        return
    visible = [path for path in out.iterdir() if not path.name.startswith(".")]
    if visible:
        raise click.UsageError(
            f"--out {out}: this folder holds other things, such as {visible[0].name}; take a new or an empty one"
        )
