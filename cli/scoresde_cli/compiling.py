"""`--compile`: torch.compile for the steps of training, where it works."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def compile_training(module: nn.Module, shape: tuple[int, ...], batch_size: int, device: torch.device) -> str | None:
    """Compile the network as it is used in training; evaluation stays as it was, since each batch shape costs minutes.

    Args:
        shape: of one sample.

    Returns:
        Why it did not work (there may be no C++ compiler); the network is then as before.
    """
    plain = module.forward
    fast: Any = torch.compile(plain)

    def forward(*inputs: torch.Tensor) -> torch.Tensor:
        chosen = fast if module.training else plain
        result: torch.Tensor = chosen(*inputs)
        return result

    try:
        x = torch.zeros(batch_size, *shape, device=device)
        module.train()
        fast(x, torch.zeros(batch_size, device=device)).sum().backward()
    except Exception as error:  # a compiler fails in more ways than can be listed
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    finally:
        module.zero_grad(set_to_none=True)
    # on the instance, so that parameter names stay as they are
    module.forward = forward
    return None
