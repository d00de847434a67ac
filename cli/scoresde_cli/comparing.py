"""What `scoresde compare` sets going: cells, results, report, and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from scoresde._files import write_atomically
from scoresde.errors import NumericalError
from scoresde_cli import (
    comparison_estimate,
    comparison_kernels,
    comparison_paths,
    comparison_plan,
    comparison_report,
    comparison_results,
    comparison_study,
    comparison_truth,
    comparison_way,
    devices,
    models,
    stopping,
)
from scoresde_cli.comparison_report import Facts
from scoresde_cli.comparison_study import Study
from scoresde_cli.comparison_wishes import Asked
from scoresde_cli.models import GMM, Model
from scoresde_cli.names import flag
from scoresde_cli.progress import say

JSON, CSV, REPORT = "results.json", "results.csv", "report.html"


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Args:
        process: the options of forward processes that were given.
        n: None for `usual_n`, or as many as there are data to hold them against.
        paths: whether to follow single paths too.
        out: None for the run's own folder.
    """

    solvers: Sequence[Asked]
    steps: Sequence[int]
    tolerances: Sequence[float]
    grids: Sequence[str]
    n: int | None
    usual_n: int
    seeds: Sequence[int]
    features: str | None
    reference: bool
    paths: bool
    average: str | None
    process: Mapping[str, Any]
    out: Path | None
    batch_size: int


def run(source: str, options: Options, device: str, threads: int | None, *, dry_run: bool, command: str) -> None:
    """Compare, write, and print the advice.

    Raises:
        UsageError, ValueError: options; CheckpointError: no whole run; OSError: a file cannot be written.
        NumericalError: no solver got to the end; Interrupted: by a signal; what is whole stays.
    """
    chosen = devices.choose(device, threads)
    study = None
    try:
        with stopping.immediate():
            study = open_study(source, options, chosen, dry=dry_run)
            for note in study.truth.notes:
                say(note)
            if dry_run:
                click.echo("\n".join(comparison_estimate.lines(study)))
            else:
                _finish(study, command)
    except stopping.Interrupted as interrupted:
        kept = str(interrupted) or _kept(study)
        raise stopping.Interrupted(interrupted.signum, f"{kept}\nTo go on: {command}") from None


def _kept(study: Study | None) -> str:
    if study is None:
        return "Stopped"
    total = len(study.entries) * len(study.seeds)
    return f"Stopped; {comparison_study.there(study)} of {total} cells are whole, in {study.cells().folder}"


def _finish(study: Study, command: str) -> None:
    """Compute what is missing, write everything, and say what is in it."""
    filled = comparison_study.fill(study, command)
    rows, floor = comparison_results.rows(study, filled), comparison_results.floor(study, filled)
    for row in rows:
        if row.error:
            say(f"Warning: {row.label}: {row.error}")
    study.folder.mkdir(parents=True, exist_ok=True)
    if all(row.error for row in rows):
        _write(study, comparison_results.document(study, rows, floor, {"command": command}))
        raise NumericalError(f"no solver got to the end; {study.folder / JSON} says why")
    front, advice = comparison_results.advice(study, rows, floor)
    device = devices.describe(study.model.denoiser.device)
    facts = Facts(study, rows, floor, front, advice, command, device)
    _publish(facts)
    if study.with_paths:
        try:
            facts = _with_paths(facts)
        except stopping.Interrupted as interrupted:
            kept = f"Stopped; {study.folder / REPORT} has all samples, without what follows their paths"
            raise stopping.Interrupted(interrupted.signum, kept) from None
        _publish(facts)
    say(f"{filled.computed} cells computed, {comparison_study.there(study) - filled.computed} were there already")
    click.echo(advice)
    click.echo(study.folder / REPORT)


def _with_paths(facts: Facts) -> Facts:
    study, command = facts.study, facts.command
    paths = comparison_paths.follow(study, [row.entry for row in facts.whole if row.entry is not None], command)
    try:
        way = comparison_way.follow(study, command)
    except NumericalError as error:
        say(f"Warning: E[x0 | x_t] along the way: {error}")
        way = None
    return replace(
        facts,
        paths=paths,
        orders=comparison_results.orders(paths),
        kernels=comparison_kernels.study_kernels(study, command),
        way=way,
    )


def _publish(facts: Facts) -> None:
    """The results and the page."""
    rest = {
        "advice": facts.advice,
        "front": [row.label for row in facts.front],
        "paths": [comparison_paths.as_dict(each) for each in facts.paths],
        "orders": [order.as_dict() for order in facts.orders],
        "command": facts.command,
    }
    _write(facts.study, comparison_results.document(facts.study, facts.rows, facts.floor, rest))
    comparison_report.write(facts.study.folder / REPORT, facts)


def _write(study: Study, found: dict[str, Any]) -> None:
    write_atomically(study.folder / JSON, comparison_results.as_json(found))
    write_atomically(study.folder / CSV, comparison_results.as_csv(found))


def open_study(source: str, options: Options, device: torch.device, *, dry: bool) -> Study:
    """The model, the truth and the entries.

    Args:
        dry: write and compute nothing.

    Raises:
        UsageError, ValueError: options; CheckpointError: no whole run; OSError: a file cannot be written.
    """
    exact = source.startswith(GMM)
    if exact and (options.features is not None or options.reference):
        raise click.UsageError(f"--features and --reference are for trained runs; the truth of {source} is exact")
    model = models.open_model(source, options.average, options.process, device)
    deciding = {"average": options.average, **options.process}
    entries, refused = comparison_plan.entries(
        source, model, options.solvers, options.steps, options.tolerances, options.grids, deciding
    )
    n, home = options.n or options.usual_n, _folder(source, model)
    if exact:
        truth = comparison_truth.exact(source)
    else:
        truth = comparison_truth.of_run(
            *(source, model, home, n, options.batch_size, options.features), forced=options.reference, dry=dry
        )
    if truth.judge.most is not None and n > truth.judge.most:
        if options.n is not None:
            raise click.UsageError(
                f"-n {n}: there are items to hold {truth.judge.most} samples against at most; take -n "
                f"{truth.judge.most} or less"
            )
        n = truth.judge.most
    if max(options.seeds) >= truth.judge.seeds:
        raise click.UsageError(
            f"--seeds {max(options.seeds)}: the sets that samples are held against have seeds below {truth.judge.seeds}"
        )
    words = [word for name, value in deciding.items() if value is not None for word in (flag(name), str(value))]
    words += [] if device.type == "cpu" else ["--device", device.type]
    truth_words = ["--reference"] if options.reference else []
    truth_words += [] if options.features is None else ["--features", options.features]
    return Study(
        *(source, model, truth, entries, refused, n, options.seeds, min(options.batch_size, n)),
        *(options.out or home, words, truth_words, options.paths),
    )


def _folder(source: str, model: Model) -> Path:
    """For the results of a model, beside the folder of its samples."""
    if source.startswith(GMM):
        return Path("compare", model.folder.name)
    run = model.grids.parent
    return run / "compare" / model.folder.relative_to(run / "samples")
