"""Where to compute, and with how many threads."""

from __future__ import annotations

import click
import torch


def choose(device: str, threads: int | None) -> torch.device:
    """The device that a name means here, with the number of threads set.

    Raises:
        UsageError: cuda where there is none.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise click.UsageError("--device cuda: torch finds no GPU here; take --device cpu, or auto")
    if device == "cpu" or not available:
        return torch.device("cpu")
    torch.backends.cudnn.deterministic = True  # a run that was stopped must go on bit for bit
    return torch.device("cuda")


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"cpu, {threads} {'thread' if threads == 1 else 'threads'}"
