"""`scoresde compare`: options, and what they set going."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scoresde_cli import names
from scoresde_cli.comparison_wishes import OWN_GRID, Asked, Grids, Numbers, Seeds, Solvers
from scoresde_cli.options import (
    Command,
    average_option,
    device_options,
    examples,
    given,
    option,
    process_options,
    same_command,
)

WHAT, TRUTH, WHICH, WHERE = "What is compared", "Against what", "Which model", "Where to"
EXACT, TRAINED = names.COMPARE_MIXTURE, names.COMPARE_RUN
SOLVERS, STEPS, TOLERANCES, GRIDS, SEEDS = Solvers(), Numbers(whole=True), Numbers(whole=False), Grids(), Seeds()


@click.command(
    cls=Command,
    short_help="Find out which solver to take, and what it costs.",
    epilog=examples(
        "scoresde compare gmm:grid25                       # against the exact law",
        "scoresde compare runs/digits --dry-run            # what would be computed",
        "scoresde compare runs/digits --solvers ancestral,em,unipc --steps 10,20,50",
        "scoresde compare runs/digits --solvers sa:eta=0.5,dpm:order=3 --grids own,karras",
        "scoresde compare runs/mnist --features lenet.pth -n 500",
        "scoresde compare gmm:modes64 --process ve --solvers em,er-sde --seeds 0-9",
    ),
)
@click.argument("model", metavar="RUN")
@option(
    "--solvers",
    type=SOLVERS,
    metavar="NAME,...",
    section=WHAT,
    help=f"Of {', '.join(names.SOLVERS)}; with options as sa:eta=0.5 "
    f"[default: {EXACT.solvers}; for a trained run {TRAINED.solvers}].",
)
@option(
    "--steps",
    type=STEPS,
    metavar="N,...",
    section=WHAT,
    help=f"Of solvers with fixed steps [default: {EXACT.steps}; for a trained run {TRAINED.steps}].",
)
@option(
    "--tolerances",
    type=TOLERANCES,
    metavar="TOL,...",
    section=WHAT,
    help=f"Absolute and relative, of those that choose their own steps: {names.takers('rtol')} "
    f"[default: {EXACT.tolerances}].",
)
@option(
    "--grids",
    type=GRIDS,
    metavar="NAME,...",
    section=WHAT,
    help=f"How steps lie in time: own is each solver's own, or {', '.join(names.GRIDS)}, {names.TUNED} [default: own].",
)
@option(
    "-n",
    "--n",
    type=click.IntRange(2, 1_000_000),
    section=WHAT,
    help=f"Samples of each seed [default: {EXACT.n}; for a trained run {TRAINED.n}].",
)
@option(
    "--seeds",
    type=SEEDS,
    metavar="0-4,7",
    section=WHAT,
    help="One set of samples for each; intervals are over sets "
    f"[default: {EXACT.seeds}; for a trained run {TRAINED.seeds}].",
)
@option(
    "--features",
    metavar="FILE|MODULE:FUNCTION",
    section=TRUTH,
    help="For pictures, the space that distances are in: a LeNet file, or your function from pictures (B, C, H, W) in "
    "[0, 1] to (B, F) [default: a small network trained on the data, once, and kept with the run].",
)
@option(
    "--reference",
    is_flag=True,
    section=TRUTH,
    help="For a trained run: against its own samples with many fine steps, instead of held-out data.",
)
@option(
    "--paths/--no-paths",
    default=True,
    section=WHAT,
    help="Whether to follow single paths too: all solvers along the same noise, the reverse kernels of mixtures, "
    "E[x0 | x_t] on the way.",
)
@average_option(WHICH)
@process_options("Forward process of gmm:NAME")
@option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    section=WHERE,
    help="Folder of the report, the results and their cells [default: RUN/compare].",
)
@option("--dry-run", is_flag=True, section=WHERE, help="Print what would be computed, and what it would cost.")
@option(
    "--batch-size",
    type=click.IntRange(1),
    help=f"Samples computed at once [default: {EXACT.batch_size}; for a trained run {TRAINED.batch_size}].",
)
@device_options
@click.pass_context
def compare(
    ctx: click.Context,
    model: str,
    solvers: list[Asked] | None,
    steps: list[int] | None,
    tolerances: list[float] | None,
    grids: list[str] | None,
    n: int | None,
    seeds: list[int] | None,
    features: str | None,
    reference: bool,
    paths: bool,
    average: str | None,
    out: Path | None,
    dry_run: bool,
    batch_size: int | None,
    device: str,
    threads: int | None,
    **process: Any,
) -> None:
    """Sample RUN with many solvers, and measure how far they are from the truth, and what they cost.

    RUN is a trained run, one checkpoint of it, or a mixture gmm:NAME, whose truth is exact. Samples of a trained run
    are held against the data that it never saw.

    Written are report.html, for a browser, results.csv and results.json. What was computed before is not computed
    again: add a solver or a seed, or go on after an interruption, with the same folder. Advice is printed, and the
    report's place.
    """
    default = EXACT if model.startswith("gmm:") else TRAINED
    asked = solvers or SOLVERS.convert(default.solvers, None, None)
    _check(asked, steps, tolerances, grids)

    from scoresde_cli.comparing import Options, run

    options = Options(
        solvers=asked,
        steps=steps or STEPS.convert(default.steps, None, None),
        tolerances=tolerances or TOLERANCES.convert(default.tolerances, None, None),
        grids=grids or [OWN_GRID],
        n=n,
        usual_n=default.n,
        seeds=seeds or SEEDS.convert(default.seeds, None, None),
        features=features,
        reference=reference,
        paths=paths,
        average=average,
        process=given(ctx, process),
        out=out,
        batch_size=batch_size or default.batch_size,
    )
    run(model, options, device, threads, dry_run=dry_run, command=same_command(ctx))


def _check(
    asked: list[Asked], steps: list[int] | None, tolerances: list[float] | None, grids: list[str] | None
) -> None:
    """Refuse options that none of the solvers takes."""
    words = ", ".join(map(str, asked))
    if all(one.adaptive for one in asked):
        for name, value in (("--steps", steps), ("--grids", grids)):
            if value is not None:
                raise click.UsageError(
                    f"{name} means nothing to {words}, which choose their own steps; --tolerances do"
                )
    elif tolerances is not None and not any(one.adaptive for one in asked):
        raise click.UsageError(f"--tolerances mean nothing to {words}; they are for {names.takers('rtol')}")
