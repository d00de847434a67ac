"""`scoresde restore`: options, and what they set going."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scoresde_cli import names, restoration_options
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
    same_command,
    seed_option,
)

D = names.TASK_DEFAULTS
WIDEST_BLUR, LONGEST_MOTION = 250, 500  # pixels: kernels of some thousand entries a side take all memory
TASK, METHOD, WHICH, WHERE = "What was done", "Method", "Which samples", "Where to"


def list_methods(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Print the table and end."""
    if not value or ctx.resilient_parsing:
        return
    head = ("method", "A", "evaluations", "gradients", "steps", "--solver", "together")
    rows = [
        (
            *(name, facts.operators, facts.evaluations, facts.gradients, str(facts.steps)),
            *(names.YES if yes else names.NO for yes in (facts.solver, facts.interacting)),
        )
        for name, facts in names.METHODS.items()
    ]
    title, *lines = aligned(head, rows)
    click.echo(title)
    for line, facts in zip(lines, names.METHODS.values(), strict=True):
        click.echo(line)
        click.echo(f"    {facts.about}")
        click.echo(f"    exact: {facts.exact or 'never'}; tuning: {facts.tuning}")
    click.echo(
        "\nA: the measurements it is for: the identity, which is noise alone, masks, linear ones, those with a fast "
        "SVD, or any.\nEvaluations and gradients of the network for a sample in a step, and steps by default. Exact: "
        "the limit in which\nsamples follow the posterior. Samples made together depend on each other: all are drawn "
        "anew when one is missing."
    )
    ctx.exit()


@click.command(
    cls=Command,
    short_help="Restore pictures, or any measurement, by samples of what they may have been.",
    epilog=examples(
        "scoresde restore runs/digits noisy.png --task denoise --sigma 0.2",
        "scoresde restore runs/digits torn.png --task inpaint --mask mask.png --sigma 0.01 -n 32",
        "scoresde restore runs/faces small.png --task superres --scale 4 --sigma 0.02",
        "scoresde restore runs/faces a.png b.png --task deblur --kernel levin09.npz:3 --sigma 0.01",
        "scoresde restore runs/faces clean.png --simulate --task motion-deblur --length 9  # how well it works",
        "scoresde restore gmm:grid25 y.npy --operator mine:project --sigma 0.1 --method twisted-smc -n 500",
    ),
)
@click.argument("model", metavar="RUN")
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@option(
    "--task",
    type=Choice(names.TASKS),
    metavar="NAME",
    section=TASK,
    help="What is undone: "
    + "; ".join(f"{name} ({facts.about})" for name, facts in names.TASKS.items())
    + ". Or give --operator.",
)
@option(
    "--sigma",
    type=float,
    section=TASK,
    help="Standard deviation of the noise of the measurement, above 0: for pictures on the [0, 1] scale of the file, "
    f"black to white; for .npy in the units of the file. Must be given, but for --simulate [default: "
    f"{names.SIMULATED_SIGMA}].",
)
@option(
    "--simulate",
    is_flag=True,
    section=TASK,
    help="IMAGE is clean: degrade it, restore it, and report how near the samples come (PSNR, SSIM, coverage).",
)
@option(
    "--mask",
    metavar="box|random|text|FILE",
    section=TASK,
    help=f"Of {names.of_tasks('mask')}: what is missing. FILE is a picture (white is kept) or .npy (1 is kept).",
)
@option(
    "--keep",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    section=TASK,
    help="Of --mask box and random: the share of pixels that are kept [default: "
    + ", ".join(f"{share:g} for {mask}" for mask, share in names.KEEP.items())
    + "].",
)
@option("--text", section=TASK, help=f"Of --mask text: what is written over the picture [default: {D['text']}].")
@option(
    "--kernel",
    metavar="gaussian|FILE",
    section=TASK,
    help=f"Of {names.of_tasks('kernel')}: FILE is .npy, .mat, .npz or a picture; FILE:3 is the fourth kernel in it "
    "[default: gaussian].",
)
@option(
    "--kernel-std",
    type=click.FloatRange(0, WIDEST_BLUR, min_open=True),
    section=TASK,
    help=f"Of --kernel gaussian: in pixels [default: {D['kernel_std']:g}].",
)
@option("--angle", type=float, section=TASK, help="Of motion-deblur: degrees from the horizontal [default: 0].")
@option(
    "--length",
    type=click.FloatRange(1, LONGEST_MOTION),
    section=TASK,
    help=f"Of motion-deblur: of the movement, in pixels [default: {D['length']:g}].",
)
@option(
    "--boundary",
    type=Choice(names.BOUNDARIES),
    section=TASK,
    help=f"Of {names.of_tasks('boundary').replace(', ', ' and ')}: what lies beyond the edge of the picture "
    f"[default: {names.BOUNDARIES[0]}].",
)
@option(
    "--scale",
    type=click.IntRange(2),
    section=TASK,
    help=f"Of superres: how many times smaller it became [default: {D['scale']}].",
)
@option(
    "--shrink",
    type=Choice(names.SHRINKS),
    section=TASK,
    help=f"Of superres: how it was made smaller [default: {names.SHRINKS[0]}].",
)
@option(
    "--quality",
    type=click.IntRange(1, 100),
    section=TASK,
    help=f"Of dejpeg: of the JPEG, 1 to 100 [default: {D['quality']}].",
)
@option(
    "--levels",
    type=click.IntRange(2),
    section=TASK,
    help=f"Of dequantise: how many from black to white [default: {D['levels']}].",
)
@option(
    "--gain",
    type=click.FloatRange(0, min_open=True),
    section=TASK,
    help=f"Of hdr: how much the contrast was raised, about mid-grey [default: {D['gain']:g}].",
)
@option(
    "--operator",
    metavar="MODULE:FUNCTION",
    section=TASK,
    help="Instead of --task: your own measurement. FUNCTION without arguments returns a scoresde Operator, or "
    "FUNCTION(x) maps a batch itself, in the units of the file. MODULE is looked for in the current folder too.",
)
@option(
    "--method",
    type=Choice(names.METHODS),
    metavar="NAME",
    section=METHOD,
    help=f"One of {', '.join(names.METHODS)}; see --list-methods [default: by task, {names.default_methods()}].",
)
@option(
    "--list-methods",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=list_methods,
    section=METHOD,
    help="Show what each method is, costs and is worth.",
)
@option(
    "--steps", type=click.IntRange(1), section=METHOD, help="How many [default: the method's own, see --list-methods]."
)
@option(
    "--solver",
    type=Choice(names.SOLVERS),
    metavar="NAME",
    section=METHOD,
    help=f"Of {names.guided()}: one of those of `scoresde sample` [default: the method's own].",
)
@option(
    "--particles",
    type=click.IntRange(1),
    section=METHOD,
    help=f"Of {names.with_particles()}: from which the samples are taken, more are better "
    f"[default: {names.PARTICLES}, or -n when more].",
)
@option(
    "--twist",
    type=Choice(names.TWISTS),
    section=METHOD,
    help=f"Of {names.with_twist()}: what steers the particles [default: mmps for measurements of up to "
    f"{names.MMPS_AT_MOST} entries, pigdm for others].",
)
@option(
    "-n",
    "--n",
    type=click.IntRange(1, 100_000),
    default=names.DRAWS,
    section=WHICH,
    help="Posterior samples of each IMAGE; from 19 on the coverage is that of 90 % intervals.",
)
@seed_option(WHICH)
@average_option(WHICH)
@option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    section=WHERE,
    help="Folder; of several pictures, each has its own inside [default: RUN/restored/IMAGE-TASK-METHOD-...].",
)
@overwrite_option(WHERE)
@batch_size_option(names.DRAWS)
@device_options
@click.pass_context
def restore(
    ctx: click.Context,
    model: str,
    images: tuple[Path, ...],
    task: str | None,
    sigma: float | None,
    simulate: bool,
    operator: str | None,
    method: str | None,
    steps: int | None,
    solver: str | None,
    particles: int | None,
    twist: str | None,
    n: int,
    seed: int,
    average: str | None,
    out: Path | None,
    overwrite: bool,
    batch_size: int,
    device: str,
    threads: int | None,
    **task_options: Any,
) -> None:
    """Restore IMAGE with RUN as the prior: samples of x given the measurement y = A(x) + noise.

    IMAGE is the measurement, a picture or an array (.npy); with --simulate it is what was measured. RUN is a trained
    run, one checkpoint of it, or a mixture gmm:NAME.

    Written are the measurement, every sample, their mean and standard deviation (.png to look at, .npy as computed), a
    panel of them all, and metrics.json. Samples that are there already are kept, and what was interrupted is finished.
    The folder is printed.
    """
    options = given(ctx, task_options)
    restoration_options.check_images(images)
    restoration_options.check_task(task, operator, options, simulate)
    restoration_options.check_sigma(sigma, simulate)
    if task is not None:
        method = method or names.DEFAULT_METHODS[task]
        restoration_options.check_fits(method, task)
    if method is not None:
        restoration_options.check_method(method, solver, particles, twist)

    from scoresde_cli import restoring
    from scoresde_cli.restoration_setting import Wish

    wish = Wish(
        task=task,
        operator=operator,
        options=options,
        sigma=names.SIMULATED_SIGMA if sigma is None else sigma,
        simulate=simulate,
        method=method,
        steps=steps,
        solver=solver,
        particles=particles,
        twist=twist,
        n=n,
        seed=seed,
        batch_size=batch_size,
    )
    again = same_command(ctx)
    click.echo(
        restoring.restore(
            model, images, wish, average, out, overwrite=overwrite, device_name=device, threads=threads, again=again
        )
    )
