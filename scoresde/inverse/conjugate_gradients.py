"""Conjugate gradients for a batch of systems that are known by their action."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde._tensors import expand, flat_sum


def conjugate_gradients(S: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float) -> Tensor:
    """v with S v = b for each sample of a batch, S positive definite (Hestenes & Stiefel 1952).

    A sample that has converged, or meets a direction that S does not curve upwards along, stays as it is.
    """
    v, r = torch.zeros_like(b), b.clone()
    p, r2 = r.clone(), flat_sum(r.square())
    target = tolerance**2 * r2
    for _ in range(iterations):
        Sp = S(p)
        curvature = flat_sum(p * Sp)
        active = (r2 > target) & (curvature > 0)
        if not bool(active.any()):
            break
        step = torch.where(active, r2 / torch.where(active, curvature, 1.0), 0.0)
        v = v + expand(step, v) * p
        r = r - expand(step, r) * Sp
        new = flat_sum(r.square())
        p = r + expand(torch.where(active, new / r2.clamp_min(1e-300), 0.0), p) * p
        r2 = torch.where(active, new, r2)
    return v
