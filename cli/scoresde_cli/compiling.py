"""`--compile`: torch.compile for the steps of training, where it works."""

from __future__ import annotations

import torch
from torch import nn

from scoresde.acceleration import compile_forward


def compile_training(module: nn.Module, shape: tuple[int, ...], batch_size: int, device: torch.device) -> str | None:
    """Compile the network as it is used in training; evaluation stays as it was, since each batch shape costs minutes.

    Args:
        shape: of one sample.

    Returns:
        Why it did not work (there may be no C++ compiler); the network is then as before.
    """
    x, level = torch.zeros(batch_size, *shape, device=device), torch.zeros(batch_size, device=device)
    module.train()
    try:
        return compile_forward([module], lambda module: module.training, lambda: module(x, level).sum().backward())
    finally:
        module.zero_grad(set_to_none=True)
