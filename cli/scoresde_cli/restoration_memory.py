"""How much memory a network needs for a picture, found without computing anything; whether it takes that size at all.

The network is run on torch's meta device, where tensors have shapes and no values. What autograd would keep of it for
a gradient is counted, or for methods without gradients the largest few tensors that it makes.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde.acceleration import networks
from scoresde.denoisers import Denoiser

LARGEST = 3  # tensors of the largest size that live at once
SHARE = 0.8  # of the memory that is free
MEMINFO = Path("/proc/meminfo")


def check(denoiser: Denoiser, shape: tuple[int, ...], batch_size: int, gradients: bool, name: str) -> None:
    """Refuse a sample of `shape` before anything is computed.

    Raises:
        UsageError: the network does not take it, or needs more memory than there is; says the figures and the remedy.
    """
    if not networks(denoiser) or shape == denoiser.shape:  # there was memory to train it on these
        return
    try:
        one = needed(denoiser, shape, gradients)
    except (ValueError, RuntimeError) as error:
        trained = denoiser.shape
        raise click.UsageError(
            f"{name} has the shape {shape}, and this network takes only what it was trained on, {trained}: {error}; "
            "only convolutional networks, which are for pictures (C, H, W), restore other sizes"
        ) from None
    free = available(denoiser.device)
    if free is None or one * batch_size <= SHARE * free:
        return
    remedy = (
        f"take --batch-size {max(1, int(SHARE * free / one))}"
        if one <= SHARE * free
        else "cut it into parts, or shrink it, and restore these"
    )
    raise click.UsageError(
        f"{name}: for samples of shape {shape} the network needs about {_gib(one)} each, {_gib(one * batch_size)} for "
        f"--batch-size {batch_size}, and {_gib(free)} are free; {remedy}"
    )


def needed(denoiser: Denoiser, shape: tuple[int, ...], gradients: bool) -> int:
    """Bytes for one evaluation of one sample, with or without a gradient.

    Raises:
        ValueError, RuntimeError: the network's own, for a shape that it does not take.
    """
    with torch.no_grad():
        model = copy.deepcopy(denoiser).to("meta")
    x = torch.empty(1, *shape, dtype=denoiser.dtype, device="meta", requires_grad=gradients)
    kept: dict[int, tuple[int, Any]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = (storage.nbytes(), storage)  # the storage too, lest its address be used again
        return tensor

    with _Largest() as largest, torch.set_grad_enabled(gradients), saved_tensors_hooks(keep, lambda tensor: tensor):
        model.predict(x, model.sde.at(0.5))
    return max(sum(size for size, _ in kept.values()), LARGEST * largest.size)


class _Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that is made."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.size = max(self.size, result.numel() * result.element_size())
        return result


def available(device: torch.device) -> int | None:
    """Bytes that are free; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if not MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text(encoding="ascii").splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None


def _gib(size: float) -> str:
    return f"{size / 2**30:.3g} GiB"
