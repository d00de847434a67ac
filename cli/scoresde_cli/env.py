"""`scoresde env`: what is installed and what it runs on, for bug reports."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

import click

from scoresde import __version__
from scoresde_cli.options import Command, examples, option

DEPENDENCIES = (
    *("torch", "torchsde", "scipy", "numpy", "einops", "click", "safetensors", "pillow", "rich", "matplotlib"),
    *("scikit-learn", "scikit-image"),
)
EXTRAS = {"demo": ("scikit-learn", "scikit-image")}


@click.command(
    cls=Command, short_help="Print versions, for bug reports.", epilog=examples("scoresde env", "scoresde env --json")
)
@option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def env(as_json: bool) -> None:
    """Print the versions and the machine, to be pasted into a bug report."""
    found = run()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    for name, value in found.items():
        click.echo(f"{name:<{width}}  {value}")


def run() -> dict[str, Any]:
    """Names and values, in the order to print them."""
    versions = {name: _version(name) for name in DEPENDENCIES}
    return {
        "scoresde": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **versions,
        **_machine(),
        **{
            f"extra {name}": "there" if all(versions[p] != MISSING for p in parts) else MISSING
            for name, parts in EXTRAS.items()
        },
        "executable": sys.executable,
    }


MISSING = "not installed"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return MISSING


def _machine() -> dict[str, Any]:
    """What torch computes on; a torch that cannot be imported is worth knowing too."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        import torch
    except Exception as error:
        return {"cores": cores, "device": f"torch cannot be imported: {error}"}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"cores": cores, "threads": torch.get_num_threads(), "cuda": torch.version.cuda or "no", "device": device}
