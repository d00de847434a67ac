"""`scoresde sample`: options, and what they set going."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scoresde_cli import names
from scoresde_cli.ids import Ids, Times
from scoresde_cli.options import (
    SEEDS,
    Choice,
    Command,
    device_options,
    examples,
    given,
    option,
    process_options,
    same_command,
)

SOLVER, WHICH, WHERE = "Solver", "Which samples", "Where to"
DEFAULT_N = 64


def list_solvers(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the table and end."""
    if not value or ctx.resilient_parsing:
        return
    head = ("solver", "order", "evaluations a step", "noise", "method", "options of its own")
    rows = [
        (
            name,
            facts.order,
            str(facts.evaluations or "adaptive"),
            facts.noise,
            facts.about,
            " ".join(names.flag(o) for o in facts.options if o not in names.FIXED) or "-",
        )
        for name, facts in names.SOLVERS.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo("\nAll but rk45 take --steps, --grid and --times.")
    ctx.exit()


@click.command(
    cls=Command,
    short_help="Draw samples with any solver.",
    epilog=examples(
        "scoresde sample runs/digits",
        "scoresde sample runs/digits --solver ancestral --steps 1000 --seeds 0-15",
        "scoresde sample runs/digits --solver ode                  # adaptive, to a tolerance",
        "scoresde sample runs/digits --solver ddim --steps 20 --eta 0.5 --clip static",
        "scoresde sample gmm:grid25 --process ve --solver em --steps 500 -n 1000",
        "scoresde sample runs/digits/checkpoints/step-001000 --average raw --out early",
    ),
)
@click.argument("model", metavar="RUN")
@option("--solver", type=Choice(names.SOLVERS), default="heun", section=SOLVER, help="The method; see --list-solvers.")
@option(
    "--list-solvers",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=list_solvers,
    section=SOLVER,
    help="Show what each solver is, costs and takes.",
)
@option(
    "--steps",
    type=click.IntRange(1),
    section=SOLVER,
    help=f"Steps [default: {names.DEFAULT_STEPS}; ode without it and rk45 choose their own].",
)
@option("--grid", type=Choice(names.GRIDS), section=SOLVER, help="How the steps lie in time [default: uniform].")
@option(
    "--times", type=Times(), metavar="1,...,0", section=SOLVER, help="A grid of your own, from 1 (noise) to 0 (data)."
)
@option(
    "--eta",
    type=click.FloatRange(0),
    section=SOLVER,
    help="Of em and ddim: share of noise, 0 for none [default: 1 for em, 0 for ddim].",
)
@option(
    "--variance",
    type=Choice(names.VARIANCES),
    section=SOLVER,
    help="Of ancestral: beta-tilde (small) or beta (large) [default: small].",
)
@option(
    "--rtol",
    type=click.FloatRange(0, min_open=True),
    section=SOLVER,
    help="Of ode and rk45: relative tolerance [default: 1e-4].",
)
@option(
    "--atol",
    type=click.FloatRange(0, min_open=True),
    section=SOLVER,
    help="Of ode and rk45: absolute tolerance [default: 1e-4].",
)
@option(
    "--clip",
    type=Choice(names.CLIPS),
    default="none",
    section=SOLVER,
    help="Clip the predicted picture to its range, or to a quantile (Saharia et al. 2022).",
)
@option("-n", "--n", type=click.IntRange(1, 1_000_000), help=f"How many [default: {DEFAULT_N}].", section=WHICH)
@option(
    "--seeds", type=Ids(), metavar="0-63,70", section=WHICH, help="Which, instead of 0 to n-1; each is always the same."
)
@option("--seed", type=SEEDS, default=0, metavar="INTEGER", section=WHICH, help="Of all noise, from 0.")
@option(
    "--average",
    metavar="INDEX|raw",
    section=WHICH,
    help="Which moving average of the weights, or raw weights [default: 0].",
)
@process_options("Forward process of gmm:NAME")
@option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    section=WHERE,
    help="Folder [default: RUN/samples/SOLVER-STEPS-seedSEED].",
)
@option("--overwrite", is_flag=True, section=WHERE, help="Replace samples made with other settings.")
@option(
    "--batch-size",
    type=click.IntRange(1),
    default=32,
    help="Samples computed at once; the last batch is filled up, so that it changes no sample.",
)
@device_options
@click.pass_context
def sample(
    ctx: click.Context,
    model: str,
    solver: str,
    clip: str,
    n: int | None,
    seeds: list[int] | None,
    seed: int,
    average: str | None,
    out: Path | None,
    overwrite: bool,
    batch_size: int,
    device: str,
    threads: int | None,
    **solver_and_process: Any,
) -> None:
    """Draw samples from RUN: a trained run, one checkpoint of it, or a mixture gmm:NAME whose score is exact.

    NAME is grid25, two-moons, ring8, uneven or modes64.

    Sample i depends on the seed and i alone. What is there already is kept, and what was interrupted is finished. The
    folder of the samples is printed.
    """
    if n is not None and seeds is not None:
        raise click.UsageError("-n and --seeds both say which samples; give one of them")
    ids = seeds if seeds is not None else list(range(n or DEFAULT_N))
    options = given(ctx, solver_and_process)
    click.echo(run(model, solver, options, clip, ids, seed, average, out, overwrite, batch_size, device, threads, ctx))


def run(
    source: str,
    solver: str,
    options: dict[str, Any],
    clip: str,
    ids: list[int],
    seed: int,
    average: str | None,
    out: Path | None,
    overwrite: bool,
    batch_size: int,
    device_name: str,
    threads: int | None,
    ctx: click.Context,
) -> Path:
    """Sample; the folder that holds the samples."""
    from scoresde_cli import devices, drawing, models, solvers

    device = devices.choose(device_name, threads)
    process = {k: v for k, v in options.items() if k == "process" or k in names.PROCESS_PARAMETERS}
    model = models.open_model(source, average, process, device)
    wish = solvers.Wish(**{k: v for k, v in options.items() if k not in process})
    drawn = drawing.Drawing(model, solvers.plan(solver, wish, model.denoiser.sde), clip, seed, batch_size)
    return drawing.draw(drawn, ids, out, overwrite=overwrite, again=same_command(ctx))
