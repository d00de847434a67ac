"""`scoresde likelihood`: options, and what they set going."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scoresde_cli import names
from scoresde_cli.options import (
    Choice,
    Command,
    average_option,
    device_options,
    examples,
    given,
    option,
    process_options,
    same_command,
    seed_option,
)

DATA, FLOW, BOUND, WHICH, WHERE = "Which data", "Probability flow", "Variational bound", "Which model", "Where to"
EXACT, TRAINED = names.LIKELIHOOD_MIXTURE, names.LIKELIHOOD_RUN


@click.command(
    cls=Command,
    short_help="Log-likelihoods and their bounds, in nats and bits per dimension.",
    epilog=examples(
        "scoresde likelihood gmm:grid25                    # beside the exact log-density",
        "scoresde likelihood runs/digits                   # of the data that it never saw",
        "scoresde likelihood runs/faces new-faces/ -n 100 --chain-steps 1000 --variance large",
        "scoresde likelihood runs/signals signals.npy --trace exact --trajectories 1",
        "scoresde likelihood gmm:grid25 --tolerance 1e-4",
        "scoresde likelihood gmm:modes64 --process ve --probes 8 --chain-steps 250 --grid logistic",
    ),
)
@click.argument("model", metavar="RUN")
@click.argument("data", required=False)
@option(
    "-n",
    "--n",
    type=click.IntRange(2, 1_000_000),
    section=DATA,
    help=f"How many of the data, chosen at random; or draws of gmm:NAME [default: {EXACT.n}; for a trained run "
    f"{TRAINED.n}, or as many as there are].",
)
@option(
    "--bits",
    type=click.IntRange(1, 16),
    section=DATA,
    help="Of pictures: depth of the stored values [default: that of the files].",
)
@option(
    "--steps", type=click.IntRange(2), section=FLOW, help="From data to noise, for each of the data [default: 120]."
)
@option(
    "--tolerance",
    type=click.FloatRange(0.0, min_open=True),
    section=FLOW,
    metavar="NATS",
    help="Instead of --steps, with the exact trace: double the steps of each of the data until its value stays within "
    "so much.",
)
@option(
    "--trace",
    type=Choice(names.TRACES),
    default=names.AUTO,
    section=FLOW,
    help="How the divergence is taken: exactly, or by random probes (Hutchinson); auto: exactly up to 64 "
    "dimensions of a mixture, and 16 of a trained run.",
)
@option("--probes", type=click.IntRange(2), section=FLOW, help="Of --trace hutchinson: at each step [default: 2].")
@option(
    "--gaussian-probes",
    is_flag=True,
    section=FLOW,
    help="Of --trace hutchinson: normal probes instead of signs, for comparison; they vary more.",
)
@option(
    "--dequantise",
    type=click.IntRange(1),
    section=FLOW,
    help=f"Of pictures: draws within a grey level, for each of the data [default: {TRAINED.dequantise}].",
)
@option(
    "--chain-steps",
    type=click.IntRange(1),
    section=BOUND,
    metavar="K",
    help=f"Of the chain that is bounded [default: {EXACT.chain_steps}; for a trained run {TRAINED.chain_steps}].",
)
@option(
    "--variance",
    type=Choice(names.BOUND_VARIANCES),
    default=names.BOUND_VARIANCES[-1],
    section=BOUND,
    help="Of the chain's steps back: beta-tilde (small), beta (large), or what is best on other data than these "
    "(optimal; Bao et al. 2022).",
)
@option(
    "--grid",
    type=Choice(names.GRIDS),
    default=names.GRIDS[0],
    section=BOUND,
    help="How the chain's steps lie in time.",
)
@option(
    "--trajectories",
    type=click.IntRange(1),
    section=BOUND,
    metavar="M",
    help="For the importance-weighted bound, of each of the data; 1 for the bound alone "
    f"[default: {EXACT.trajectories}; for a trained run {TRAINED.trajectories}].",
)
@average_option(WHICH)
@process_options("Forward process of gmm:NAME")
@seed_option(DATA)
@option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    section=WHERE,
    help="Folder of the report and the results [default: RUN/likelihood/DATA-SETTINGS].",
)
@option("--overwrite", is_flag=True, section=WHERE, help="Compute once more what is there already, and replace it.")
@option(
    "--batch-size",
    type=click.IntRange(1),
    help=f"Of the data, computed at once [default: {EXACT.batch_size}; for a trained run {TRAINED.batch_size}].",
)
@device_options
@click.pass_context
def likelihood(
    ctx: click.Context,
    model: str,
    data: str | None,
    n: int | None,
    bits: int | None,
    steps: int | None,
    tolerance: float | None,
    trace: str,
    probes: int | None,
    gaussian_probes: bool,
    dequantise: int | None,
    chain_steps: int | None,
    variance: str,
    grid: str,
    trajectories: int | None,
    average: str | None,
    seed: int,
    out: Path | None,
    overwrite: bool,
    batch_size: int | None,
    device: str,
    threads: int | None,
    **process: Any,
) -> None:
    """How likely DATA are under RUN: by the probability flow, and by the bounds that training goes by.

    RUN is a trained run, one checkpoint of it, or a mixture gmm:NAME, whose log-density is known and shown beside.
    DATA is what scoresde train takes: a folder or zip of pictures, a .npy or .npz array, an IDX file, or a name such as
    digits. Without it a trained run is judged by the data that it never saw, and a mixture by draws of its own.

    Shown are negative log-likelihoods, lower is better: the flow's, with the mismatch of the prior at t = 1; the bound
    term by term; and the importance-weighted bounds, which tighten with their trajectories. Of pictures it is the
    probability of their whole grey levels, of arrays the density.

    Written are report.html, for a browser, results.json, and likelihoods.csv with a line for each of the data. The
    table is printed, and the report's place.
    """
    for word, asked in (("--probes", probes is not None), ("--gaussian-probes", gaussian_probes)):
        if asked and (trace == names.EXACT_TRACE or tolerance is not None):
            other = "--tolerance, which random probes do not reach" if tolerance is not None else "--trace exact"
            raise click.UsageError(f"{word} means nothing to {other}")
    if tolerance is not None and (steps is not None or trace == names.HUTCHINSON):
        word = "--steps" if steps is not None else "--trace hutchinson"
        raise click.UsageError(f"{word} and --tolerance exclude each other: it takes the steps that it needs, exactly")

    from scoresde_cli.likelihood_method import Wish
    from scoresde_cli.likelihood_running import run

    mixture = model.startswith("gmm:")
    if mixture and (bits is not None or dequantise is not None):
        raise click.UsageError("--bits and --dequantise are for pictures; mixtures have densities")
    usual = EXACT if mixture else TRAINED
    wish = Wish(
        n=n,
        usual_n=usual.n,
        seed=seed,
        bits=bits,
        steps=steps,
        tolerance=tolerance,
        trace=trace,
        probes=probes,
        gaussian_probes=gaussian_probes,
        dequantise=dequantise,
        usual_dequantise=usual.dequantise,
        chain_steps=chain_steps or usual.chain_steps,
        variance=variance,
        grid=grid,
        trajectories=trajectories or usual.trajectories,
        average=average,
        process=given(ctx, process),
        batch_size=batch_size or usual.batch_size,
    )
    run(model, data, wish, out, device, threads, overwrite=overwrite, command=same_command(ctx))
