"""`scoresde info`: what a run is, in words or as JSON, with every checkpoint verified."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from scoresde_cli.failures import BAD_INPUT
from scoresde_cli.options import Command, examples, option


@click.command(
    cls=Command,
    short_help="Say what a run is, and whether it is whole.",
    epilog=examples("scoresde info runs/digits", "scoresde info runs/digits --json"),
)
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@option("--json", "as_json", is_flag=True, help="Print JSON instead of words.")
@click.pass_context
def info(ctx: click.Context, run_folder: Path, as_json: bool) -> None:
    """Say what RUN is: its data, process, network, progress and checkpoints, each checked for damage.

    Ends with exit code 65 when a checkpoint is damaged.
    """
    found = run(run_folder)
    click.echo(json.dumps(found, indent=2) if as_json else in_words(found))
    damaged = [c for c in found["checkpoints"] if not c["ok"]]
    if damaged:
        for each in damaged:
            click.echo(f"Error: {each['problem']}", err=True)
        ctx.exit(BAD_INPUT)


def run(path: Path) -> dict[str, Any]:
    """What is known of a run or a checkpoint, as plain values.

    Raises:
        CheckpointError: there is no checkpoint in it.
    """
    from scoresde import checkpoint
    from scoresde.errors import CheckpointError

    newest = checkpoint.find(path)
    folders = [path] if newest == path else checkpoint.steps(newest.parent)
    listed: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for folder in folders:
        try:
            facts = _facts(checkpoint.read(folder))
            listed.append({"path": str(folder), "ok": True})
        except CheckpointError as error:
            listed.append({"path": str(folder), "ok": False, "problem": str(error)})
    whole = [each["path"] for each in listed if each["ok"]]
    sample = f"scoresde sample {path if listed[-1]['ok'] else whole[-1]}" if whole else None
    return {"run": str(path), **facts, "losses": _losses(path), "checkpoints": listed, "sample": sample}


def _facts(found: Any) -> dict[str, Any]:
    from scoresde import nets, recipe

    space = found.space
    module = recipe.denoiser(found.recipe, space).module
    sections = found.recipe.to_dict()
    return {
        "data": {
            **sections["data"],
            "kind": space.kind,
            "shape": list(space.shape),
            "mean": space.mean,
            "std": space.std,
            "levels": space.levels,
        },
        "process": sections["process"],
        "network": {
            **sections["network"],
            "kind": type(module).__name__,
            "parameters": nets.parameter_count(module),
        },
        "training": sections["training"],
        "step": found.step,
        "skipped": found.counters["skipped"],
    }


def _losses(path: Path) -> dict[str, Any]:
    """The newest records of each kind."""
    from scoresde.runs import Run

    newest: dict[str, Any] = {}
    for record in Run(path).read_metrics():
        for kind in ("loss", "validation_loss"):
            if kind in record:
                newest[kind] = dict(record)
    return newest


def in_words(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [found["run"]]
    if "step" in found:
        lines += _words_of_facts(found)
    lines.append("checkpoints")
    lines += [f"  {'ok      ' if c['ok'] else 'damaged '} {c['path']}" for c in found["checkpoints"]]
    if found["sample"]:
        lines.append(f"to sample  {found['sample']}")
    return "\n".join(lines)


def _words_of_facts(found: dict[str, Any]) -> list[str]:
    data, process, network, training = (found[key] for key in ("data", "process", "network", "training"))
    shape = " x ".join(map(str, data["shape"]))
    what = f"pictures of {shape}, {data['levels']} levels" if data["kind"] == "image" else f"arrays of {shape}"
    parameters = ", ".join(f"{key} = {value:g}" for key, value in process.items() if key != "name")
    times = "continuous t" if training["times"] == "continuous" else f"a chain of {training['chain_steps']} steps"
    lines = [
        f"data       {data['source']}: {what}",
        f"process    {process['name']}{f' ({parameters})' if parameters else ''}",
        f"network    {network['preset']} {network['kind']}, {network['parameters']:,} parameters, "
        f"predicts {network['predict']}",
        f"trained    {found['step']} of {training['steps']} steps of {training['batch_size']} samples, {times}, "
        f"weight {training['weight']}, averages {', '.join(map(str, training['ema'])) or 'none'}",
    ]
    if found["skipped"]:
        lines.append(f"skipped    {found['skipped']} steps whose loss was not finite")
    losses = found["losses"]
    if "loss" in losses:
        loss = losses["loss"]["loss"]
        lines.append(f"loss       {'not finite' if loss is None else f'{loss:.4f}'} at step {losses['loss']['step']}")
    if losses.get("validation_loss", {}).get("validation_loss") is not None:
        last = losses["validation_loss"]
        lines.append(f"held out   {last['validation_loss']:.4f} +- {last['standard_error']:.4f} at step {last['step']}")
    return lines
