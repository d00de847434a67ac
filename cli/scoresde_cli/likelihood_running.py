"""What `scoresde likelihood` sets going: the data, the numbers, the table, the report."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

import scoresde
from scoresde._files import write_atomically
from scoresde.data import DataError
from scoresde.errors import NumericalError
from scoresde_cli import devices, likelihood_data, likelihood_report, likelihood_table, models, stopping
from scoresde_cli.likelihood_computing import Found, compute
from scoresde_cli.likelihood_data import Judged
from scoresde_cli.likelihood_method import Method, Wish
from scoresde_cli.likelihood_table import Line
from scoresde_cli.models import GMM, Model
from scoresde_cli.names import AUTO
from scoresde_cli.pictures import npy_bytes
from scoresde_cli.progress import say

JSON, CSV, REPORT = "results.json", "likelihoods.csv", "report.html"
FORMAT, VERSION = "scoresde-likelihood", 1


def run(
    source: str,
    data: str | None,
    wish: Wish,
    out: Path | None,
    device_name: str,
    threads: int | None,
    *,
    overwrite: bool,
    command: str,
) -> None:
    """Compute, write, and print the table.

    Raises:
        UsageError, ValueError: options; DataError: data; CheckpointError: no whole run; OSError: cannot write.
        NumericalError: a likelihood is not finite, once all is written; Interrupted: nothing was written.
    """
    device = devices.choose(device_name, threads)
    model = models.open_model(source, wish.average, wish.process, device)
    if source.startswith(GMM):
        judged = likelihood_data.of_mixture(source, data, wish.n, wish.usual_n, wish.seed)
    else:
        judged = likelihood_data.of_run(source, data, wish.n, wish.usual_n, wish.seed, wish.bits)
    method = wish.method(judged)
    settings = {
        "scoresde": scoresde.__version__,
        "model": dict(model.identity),
        "data": judged.source,
        "n": len(judged.x),
        "sha256": _digest(judged.x),
        "others": None if judged.others is None else _digest(judged.others),
        "levels": judged.levels,
        **method.as_dict(),
    }
    folder = out if out is not None else _home(model) / _label(judged, method)
    there = None if overwrite else _there(folder, settings)
    for note in judged.notes:
        say(f"Note: {note}")
    if there is not None:
        say("It is there already; --overwrite computes it once more.")
        _show([likelihood_table.from_dict(of) for of in there["table"]], there["held_to"], folder)
        return
    say(f"{judged.about}, under {source}")
    began = time.perf_counter()
    try:
        with stopping.immediate():
            found = compute(judged, model.denoiser, method)
            notes = {
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
                "device": device.type,
                **model.where,
                "command": command,
                "seconds": round(time.perf_counter() - began, 3),
            }
            _write(folder, judged, found, settings, notes, source, devices.describe(device))
    except stopping.Interrupted as interrupted:
        raise stopping.Interrupted(
            interrupted.signum, f"Stopped; nothing was written\nTo begin again: {command}"
        ) from None
    _show(found.table, found.held_to, folder)


def _digest(x: Tensor) -> str:
    return hashlib.sha256(npy_bytes(x.numpy())).hexdigest()


def _show(table: list[Line], held_to: str, folder: Path) -> None:
    """Print the table and the report's place.

    Raises:
        NumericalError: a likelihood is not finite.
    """
    click.echo("\n".join(likelihood_table.printed(table, held_to)))
    click.echo(folder / REPORT)
    failed = sorted({number for of in table for number in of.failed})
    if failed:
        raise NumericalError(f"not finite for {likelihood_table.named(failed)}; the others are in {folder / JSON}")


def _home(model: Model) -> Path:
    """The folder beside that of the model's samples."""
    parts = list(model.folder.parts)
    parts[len(parts) - 1 - parts[::-1].index("samples")] = "likelihood"
    return Path(*parts)


def _label(judged: Judged, method: Method) -> str:
    dequantise = "" if method.dequantise is None else f"-dequantise{method.dequantise}"
    probes = "" if method.trace == AUTO and method.probes is None else f"-{method.trace}{method.probes or ''}"
    chain = f"K{method.chain_steps}-{method.variance}-{method.grid}-M{method.trajectories}"
    tolerance = "" if method.tolerance is None else f"-tolerance{method.tolerance:g}"
    return f"{judged.label}-n{len(judged.x)}{probes}{tolerance}{dequantise}-{chain}-seed{method.seed}"


def _there(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is in the folder, when it is the answer to this very question; None when there is nothing.

    Raises:
        UsageError: something else; DataError: a damaged file of ours.
    """
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    if not visible:
        return None
    path = folder / JSON
    if not path.exists():
        raise click.UsageError(f"{folder} holds {visible[0].name} but no {JSON}; take another --out, or --overwrite")
    try:
        found = dict(json.loads(path.read_bytes()))
        if (found["format"], found["version"]) != (FORMAT, VERSION):
            raise ValueError("not these results")
        there, table = dict(found["settings"]), list(found["table"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); take another --out, or --overwrite") from error
    wanted = json.loads(json.dumps(settings))
    for key in (*wanted, *there):
        if there.get(key) != wanted.get(key):
            raise click.UsageError(
                f"{folder} holds results with other settings: {key} is {there.get(key)} there and {wanted.get(key)} "
                "here; take another --out, or --overwrite"
            )
    return {**found, "table": table}


def _write(
    folder: Path,
    judged: Judged,
    found: Found,
    settings: Mapping[str, Any],
    notes: Mapping[str, Any],
    source: str,
    device: str,
) -> None:
    """All files; results.json, which says that they are whole, is the last."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "settings": settings,
        "held_to": found.held_to,
        "table": [of.as_dict() for of in found.table],
        "terms": found.terms,
        "problems": found.problems,
        "notes": notes,
    }
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    page = likelihood_report.page(judged, found, source, str(notes["command"]), device)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON).unlink(missing_ok=True)
    write_atomically(folder / CSV, found.csv().encode())
    page.write(folder / REPORT)
    write_atomically(folder / JSON, text.encode())
