"""`scoresde tune-grid`: options, and what they set going."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from scoresde_cli import names, stopping
from scoresde_cli.options import (
    SEEDS,
    Choice,
    Command,
    average_option,
    device_options,
    examples,
    given,
    option,
    process_options,
    same_command,
)

SOLVER, FITTING, WHICH = "Solver", "Fitting", "Which model"


@click.command(
    cls=Command,
    short_help="Fit a solver's time grid to a model.",
    epilog=examples(
        "scoresde tune-grid runs/digits --steps 8",
        "scoresde tune-grid runs/digits --steps 10 --solver dpm --order 2 -n 128",
        "scoresde tune-grid gmm:grid25 --process ve --steps 5",
    ),
)
@click.argument("model", metavar="RUN")
@option(
    "--solver",
    type=Choice(names.SOLVERS),
    metavar="NAME",
    default=names.DEFAULT_SOLVER,
    section=SOLVER,
    help="The method, one without noise and with fixed steps; see scoresde sample --list-solvers.",
)
@option("--steps", type=click.IntRange(2), required=True, section=SOLVER, help="How many steps the grid has.")
@option("--order", type=click.IntRange(1), section=SOLVER, help=f"Of {names.takers('order')}: as for sample.")
@option("--eta", type=click.FloatRange(0), section=SOLVER, help=f"Of {names.takers('eta')}: 0, for no noise.")
@option("--variable", type=Choice(names.VARIABLES), section=SOLVER, help="Of adams: as for sample.")
@option("--method", type=Choice(names.TORCHSDE_METHODS), section=SOLVER, help="Of torchsde: as for sample.")
@option(
    "-n",
    "--n",
    type=click.IntRange(1, 100_000),
    default=64,
    section=FITTING,
    help="Paths to fit on; as many say when to stop, and four times as many what the errors are.",
)
@option("--seed", type=SEEDS, default=0, metavar="INTEGER", section=FITTING, help="Of the paths' starts, from 0.")
@option("--again", is_flag=True, section=FITTING, help="Fit once more what is there already, and replace it.")
@average_option(WHICH)
@process_options("Forward process of gmm:NAME")
@option("--batch-size", type=click.IntRange(1), default=64, help="Paths computed at once.")
@device_options
@click.pass_context
def tune_grid(
    ctx: click.Context,
    model: str,
    solver: str,
    steps: int,
    n: int,
    seed: int,
    again: bool,
    average: str | None,
    batch_size: int,
    device: str,
    threads: int | None,
    **solver_and_process: Any,
) -> None:
    """Fit the times of a solver's steps to RUN: a trained run, one checkpoint of it, or a mixture gmm:NAME.

    The times are those on which the solver ends nearest to where the probability flow does, from the same noise. They
    are kept with the run, for `scoresde sample RUN --steps N --grid tuned` with the same solver, steps and checkpoint.
    Fitting takes as long as thousands of samples do, once.

    What is there already is kept, unless it was fitted with another -n or --seed. The file is printed, and the errors
    before and after, on starts that the times were not fitted on.
    """
    options = given(ctx, solver_and_process)
    click.echo(run(model, solver, steps, options, n, seed, again, average, batch_size, device, threads, ctx))


def run(
    source: str,
    solver: str,
    steps: int,
    options: dict[str, Any],
    n: int,
    seed: int,
    again: bool,
    average: str | None,
    batch_size: int,
    device_name: str,
    threads: int | None,
    ctx: click.Context,
) -> Path:
    """Fit and write; the file."""
    import torch

    import scoresde
    from scoresde import tuning
    from scoresde_cli import devices, models, solvers, tuned
    from scoresde_cli.progress import display, say

    device = devices.choose(device_name, threads)
    process = {k: v for k, v in options.items() if k == "process" or k in names.PROCESS_PARAMETERS}
    wish = solvers.Wish(steps=steps, **{k: v for k, v in options.items() if k not in process})
    solvers.make(solver, wish)  # refused before anything is loaded
    model = models.open_model(source, average, process, device)
    there = tuned.place(source, model, solver, wish, {"average": average, **process})
    settings = {"n": n, "seed": seed}
    if not again and there.path.exists():
        found = there.read()
        if found["settings"] == settings:
            say("It is there already; --again fits it once more.")
            say(in_words(found["held_out"], found["improved"]))
            return there.path
    command, began = same_command(ctx), time.perf_counter()
    try:
        with stopping.immediate(), display("percent", 100) as show:
            fitted = tuning.tune_grid(
                model.denoiser,
                there.plan.solver,
                steps,
                n=n,
                seed=seed,
                batch_size=batch_size,
                on_evaluation=lambda done, expected: show.update(99 * done // expected),
            )
            show.update(100)
    except stopping.Interrupted as interrupted:
        raise stopping.Interrupted(
            interrupted.signum, f"Stopped; nothing was written\nTo begin again: {command}"
        ) from None
    seconds = time.perf_counter() - began
    notes = {
        "scoresde": scoresde.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "device": device.type,
        **model.where,
        "command": command,
        "seconds": round(seconds, 3),
    }
    there.write(fitted, settings, notes)
    change = {"before": fitted.held_out.before._asdict(), "after": fitted.held_out.after._asdict()}
    say(in_words(change, fitted.improved))
    samples = fitted.evaluations // (steps * max(there.plan.solver.evaluations, 1))
    say(f"{fitted.evaluations:,} evaluations of the network, as many as {samples:,} samples take")
    return there.path


def in_words(held_out: dict[str, dict[str, float]], improved: bool) -> str:
    """The errors before and after."""
    before, after = held_out["before"], held_out["after"]
    if not improved:
        return f"No better grid was found; the solver's own is kept, with a median error of {before['median']:.3g}"
    parts = (f"{name} {before[name]:.3g} -> {after[name]:.3g}" for name in ("median", "mean", "rms"))
    return f"Error at the end, on starts held out: {', '.join(parts)}"
