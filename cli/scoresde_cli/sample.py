"""`scoresde sample`: options, and what they set going."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scoresde_cli import names
from scoresde_cli.ids import Ids, Stops, Times
from scoresde_cli.options import (
    Choice,
    Command,
    aligned,
    average_option,
    batch_size_option,
    device_options,
    examples,
    given,
    option,
    overwrite_option,
    process_options,
    same_command,
    seed_option,
)

SOLVER, WHICH, WHERE, SPEED = "Solver", "Which samples", "Where to", "Speed"
TOLERANCE = "[default: 1e-4; 1e-6 for scipy, 1e-3 for adaptive-sde]"
DEFAULT_N = 64


def list_solvers(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the table and end."""
    if not value or ctx.resilient_parsing:
        return
    head = ("solver", "order", "evaluations", "noise", "grid", "options of its own")
    rows = [
        (name, facts.order, facts.evaluations, facts.noise, facts.grid, " ".join(own_options(facts)) or "-")
        for name, facts in names.SOLVERS.items()
    ]
    title, *lines = aligned(head, rows)
    click.echo(title)
    for line, facts in zip(lines, names.SOLVERS.values(), strict=True):
        click.echo(line)
        click.echo(f"    {facts.about}" + (f"; needs {facts.needs}" if facts.needs else ""))
    adaptive = [name for name, facts in names.SOLVERS.items() if not {*names.FIXED} & {*facts.options}]
    click.echo(
        "\nOrder in the step size (with noise: of the law) and evaluations of the network a step, by default.\n"
        f"All but {', '.join(adaptive)} take --steps, --grid and --times.\n"
        f"{names.SIGNAL} is what {' and '.join(names.WITHOUT_SIGNAL)} do not have; --times from less than 1 helps too."
    )
    ctx.exit()


def own_options(facts: names.SolverFacts) -> list[str]:
    """The options that not all solvers take, and the orders that there are."""
    own = [names.flag(option) for option in facts.options if option not in names.FIXED]
    orders = "" if facts.orders is None else f" {facts.orders[0]}-{facts.orders[1]}"
    return [word + orders if word == "--order" else word for word in own]


@click.command(
    cls=Command,
    short_help="Draw samples with any solver.",
    epilog=examples(
        "scoresde sample runs/digits --steps 20",
        "scoresde sample runs/digits --solver er-sde --steps 20    # with noise",
        "scoresde sample runs/digits --solver ancestral --steps 1000 --seeds 0-15",
        "scoresde sample runs/digits --solver ode                  # adaptive, to a tolerance",
        "scoresde sample runs/digits --solver ddim --steps 20 --eta 0.5 --clip static",
        "scoresde sample runs/digits --interpolate 3,17,3 --steps 20",
        "scoresde sample gmm:grid25 --process ve --solver em --steps 500 -n 1000",
        "scoresde sample runs/digits/checkpoints/step-001000 --average raw --out early",
    ),
)
@click.argument("model", metavar="RUN")
@option(
    "--solver",
    type=Choice(names.SOLVERS),
    metavar="NAME",
    default=names.DEFAULT_SOLVER,
    section=SOLVER,
    help=f"The method, one of {', '.join(names.SOLVERS)}; see --list-solvers.",
)
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
    help=f"How many [default: {names.DEFAULT_STEPS}]; adaptive solvers, and ode without it, choose their own.",
)
@option(
    "--grid",
    type=Choice((*names.GRIDS, names.TUNED)),
    section=SOLVER,
    help="How the steps lie in time; tuned: as `scoresde tune-grid` fitted them "
    "[default: the solver's own, see --list-solvers].",
)
@option(
    "--times", type=Times(), metavar="1,...,0", section=SOLVER, help="A grid of your own, from 1 (noise) to 0 (data)."
)
@option(
    "--order",
    type=click.IntRange(1),
    section=SOLVER,
    help=f"Of {names.takers('order')}: estimates that a step uses, its order without noise; see --list-solvers.",
)
@option(
    "--eta",
    type=click.FloatRange(0),
    section=SOLVER,
    help=f"Of {names.takers('eta')}: share of noise, 0 for none [default: 0 for ddim, 1 for others].",
)
@option(
    "--variance",
    type=Choice(names.VARIANCES),
    section=SOLVER,
    help="Of ancestral: beta-tilde (small) or beta (large) [default: small].",
)
@option(
    "--variable",
    type=Choice(names.VARIABLES),
    section=SOLVER,
    help="Of adams: what polynomials are of; noise-ratio is for processes with alpha(1) > 0 [default: squared-angle].",
)
@option(
    "--corrections",
    type=click.IntRange(0),
    section=SOLVER,
    help="Of pc: Langevin steps after each step, an evaluation each [default: 1].",
)
@option(
    "--snr",
    type=click.FloatRange(0, min_open=True),
    section=SOLVER,
    help="Of pc: signal-to-noise ratio of a Langevin step [default: 0.16].",
)
@option(
    "--langevin",
    type=Choice(names.LANGEVIN),
    section=SOLVER,
    help="Of pc: size of a Langevin step by the noise level, or by norms as Song et al. [default: level].",
)
@option(
    "--method",
    type=Choice(dict.fromkeys((*names.SCIPY_METHODS, *names.TORCHSDE_METHODS))),
    metavar="NAME",
    section=SOLVER,
    help=f"Of scipy: {', '.join(names.SCIPY_METHODS)} [default: DOP853]. "
    f"Of torchsde: {', '.join(names.TORCHSDE_METHODS)} [default: euler].",
)
@option(
    "--rtol",
    type=click.FloatRange(0, min_open=True),
    section=SOLVER,
    help=f"Of {names.takers('rtol')}: relative tolerance {TOLERANCE}.",
)
@option(
    "--atol",
    type=click.FloatRange(0, min_open=True),
    section=SOLVER,
    help=f"Of {names.takers('atol')}: absolute tolerance {TOLERANCE}.",
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
@seed_option(WHICH)
@option(
    "--interpolate",
    type=Stops(),
    metavar="A,B,...",
    section=WHICH,
    help="Go from sample A to B, ... through their latents on a sphere; for solvers without noise.",
)
@option(
    "--frames",
    type=click.IntRange(2, 10_000),
    section=WHICH,
    help=f"Of --interpolate: from one sample to the next, both included [default: {names.DEFAULT_FRAMES}].",
)
@average_option(WHICH)
@process_options("Forward process of gmm:NAME")
@option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    section=WHERE,
    help="Folder [default: RUN/samples/SOLVER-STEPS-seedSEED].",
)
@overwrite_option(WHERE)
@option(
    "--precision",
    type=Choice(names.PRECISIONS),
    default=names.PRECISIONS[0],
    section=SPEED,
    help="Of the network's arithmetic, for GPUs (not measured); states stay float32.",
)
@option(
    "--channels-last",
    is_flag=True,
    section=SPEED,
    help="Keep states in channels-last memory, as networks for pictures are, for GPUs (not measured).",
)
@option("--compile", is_flag=True, section=SPEED, help="Use torch.compile: minutes first, faster then (not measured).")
@option(
    "--cuda-graph",
    is_flag=True,
    section=SPEED,
    help="On a GPU: record the kernels of all steps once, and replay them for each batch (not measured).",
)
@batch_size_option(32)
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
    interpolate: list[int] | None,
    frames: int | None,
    average: str | None,
    out: Path | None,
    overwrite: bool,
    precision: str,
    channels_last: bool,
    compile: bool,
    cuda_graph: bool,
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
    if interpolate is None:
        if frames is not None:
            raise click.UsageError("--frames is for --interpolate; -n says how many samples")
        wanted: list[int] | tuple[list[int], int] = seeds if seeds is not None else list(range(n or DEFAULT_N))
    elif n is not None or seeds is not None:
        raise click.UsageError("--interpolate says which samples already; leave out -n and --seeds, or take --frames")
    else:
        wanted = (interpolate, frames or names.DEFAULT_FRAMES)
    options = given(ctx, solver_and_process)
    speed = {
        "precision": precision,
        "channels_last": channels_last,
        "compile": compile,
        "cuda_graph": cuda_graph,
    }
    folder = run(
        model, solver, options, clip, wanted, seed, average, out, overwrite, speed, batch_size, device, threads, ctx
    )
    click.echo(folder)


def run(
    source: str,
    solver: str,
    options: dict[str, Any],
    clip: str,
    wanted: list[int] | tuple[list[int], int],
    seed: int,
    average: str | None,
    out: Path | None,
    overwrite: bool,
    speed_options: dict[str, Any],
    batch_size: int,
    device_name: str,
    threads: int | None,
    ctx: click.Context,
) -> Path:
    """Sample; the folder that holds the samples.

    Args:
        wanted: the samples' numbers, or those to interpolate between and the number of frames.
        speed_options: the fields of a `Speed`.
    """
    from scoresde_cli import devices, drawing, models, solvers, tuned
    from scoresde_cli.interpolation import Interpolation
    from scoresde_cli.speed import Speed

    device = devices.choose(device_name, threads)
    process = {k: v for k, v in options.items() if k == "process" or k in names.PROCESS_PARAMETERS}
    wish = solvers.Wish(**{k: v for k, v in options.items() if k not in process})
    method = solvers.make(solver, wish)  # refused before anything is loaded
    way = None
    if isinstance(wanted, tuple):
        way = Interpolation(tuple(wanted[0]), wanted[1])
        wanted = list(range(way.count))
        if method.stochastic:
            quiet = [name for name, facts in names.SOLVERS.items() if facts.noise == names.NO]
            raise click.UsageError(
                f"--interpolate needs a solver without noise, and {solver} draws it here; take {', '.join(quiet)}, "
                f"or one that takes --eta 0"
            )
    model = models.open_model(source, average, process, device)
    if wish.grid == names.TUNED:
        plan = tuned.plan(source, model, solver, wish, {"average": average, **process})
    else:
        plan = solvers.plan(solver, wish, model.denoiser)
    model, speed = Speed(**speed_options).prepare(model, plan.solver, batch_size)
    drawn = drawing.Drawing(model, plan, clip, seed, batch_size, way, speed)
    return drawing.draw(drawn, wanted, out, overwrite=overwrite, again=same_command(ctx))
