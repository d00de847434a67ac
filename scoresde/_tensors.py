"""Broadcasting and combining: the one place that writes `x[:, None, None, None]`."""

from __future__ import annotations

import torch
from torch import Tensor

Coefficient = float | Tensor
"""A number, or one number per sample: a tensor of shape (B,)."""


def expand(c: Tensor, x: Tensor) -> Tensor:
    """`c` of shape () or (B,), in `x`'s dtype and on its device, shaped to multiply `x` of shape (B, *)."""
    c = c.to(device=x.device, dtype=x.dtype)
    return c if c.ndim == 0 else c.reshape(-1, *(1,) * (x.ndim - 1))


def scale(c: Coefficient, x: Tensor, out: Tensor | None = None) -> Tensor:
    """c x, written into `out` (which may be `x`) when given."""
    return torch.mul(x, expand(c, x) if isinstance(c, Tensor) else c, out=out)


def combine(a: Coefficient, x: Tensor, b: Coefficient, y: Tensor, out: Tensor | None = None) -> Tensor:
    """a x + b y with at most one new tensor, or none when `out` is given (it may be `x`)."""
    if out is not None and out.data_ptr() == y.data_ptr():
        y = y.clone()  # a network may answer with its own input
    z = scale(a, x, out)
    if isinstance(b, Tensor):
        return z.addcmul_(expand(b, y), y)
    return z.add_(y, alpha=b)


def accumulate(z: Tensor, c: Coefficient, x: Tensor) -> Tensor:
    """z <- z + c x, in place."""
    if isinstance(c, Tensor):
        return z.addcmul_(expand(c, x), x)
    return z.add_(x, alpha=c)


def flat_sum(x: Tensor) -> Tensor:
    """Sum over all but the first dimension: (B, *) -> (B,)."""
    return x.flatten(1).sum(1)
