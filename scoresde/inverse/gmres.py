"""GMRES for a batch of systems that are known by their action, each with a Krylov space of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde._tensors import expand, flat_sum

RANK = 1e-6
"""Singular values of the small problem below this share of the largest count as 0."""


def gmres(S: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float) -> Tensor:
    """v with S v near b, (B, *), for each sample: of all v in span{b, S b, ...}, that with the least |S v - b|.

    Saad & Schultz 1986, without restarts. S need neither be symmetric nor have eigenvalues of one sign, as where a
    network's Jacobian stands for a covariance: the residual never grows, while that of conjugate gradients may explode.
    A sample within `tolerance` |b| is left as it is.
    """
    beta = flat_sum(b.double().square()).sqrt()
    basis = [_scaled(b, beta)]
    H = torch.zeros(len(b), iterations + 1, iterations, dtype=torch.float64, device=b.device)
    coordinates = torch.zeros(len(b), iterations, dtype=torch.float64, device=b.device)
    open_ = torch.ones(len(b), dtype=torch.bool, device=b.device)
    for k in range(iterations):
        w = S(basis[k])
        for j, q in enumerate(basis):
            H[:, j, k] = flat_sum((q * w).double())
            w = w - expand(H[:, j, k], w) * q
        H[:, k + 1, k] = flat_sum(w.double().square()).sqrt()
        basis.append(_scaled(w, H[:, k + 1, k]))
        small = H[:, : k + 2, : k + 1]
        target = torch.zeros(len(b), k + 2, 1, dtype=torch.float64, device=b.device)
        target[:, 0, 0] = beta
        c = torch.linalg.pinv(small, rtol=RANK) @ target
        # a sample that is near enough stays as it is, whatever its companions need
        coordinates[:, : k + 1] = torch.where(open_[:, None], c[..., 0], coordinates[:, : k + 1])
        open_ = open_ & ((small @ c - target).flatten(1).norm(dim=1) > tolerance * beta)
        if not bool(open_.any()):
            break
    v = torch.zeros_like(b)
    for c_j, q in zip(coordinates.unbind(1), basis, strict=False):
        v = v + expand(c_j, q) * q
    return v


def _scaled(w: Tensor, norm: Tensor) -> Tensor:
    """w / norm, and 0 where the space is exhausted."""
    return w * expand(torch.where(norm > 1e-30, 1.0 / norm.clamp_min(1e-30), 0.0), w)
