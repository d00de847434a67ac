r"""Between two latents: spherical interpolation (Shoemake 1985), in any dimension.

A latent z ~ N(0, I) in D dimensions lies near the sphere of radius sqrt(D): |z|^2 is D, give or take sqrt(2 D). The
straight line between two of them leaves it, with |x|^2 = D / 2 in the middle, where next to no latent lies and no
network was trained. So the direction follows the great circle, and the square of the norm goes evenly from one to the
other:

    x(w) = r(w) [cos(w theta) u + sin(w theta) p],    r(w)^2 = (1 - w) |a|^2 + w |b|^2,

u the direction of a, theta the angle between a and b, p the unit vector orthogonal to u on the side of b. This is
Shoemake's [sin((1 - w) theta) a + sin(w theta) b] / sin(theta) where |a| = |b|; where they differ, his formula has no
bound near theta = pi. For independent N(0, I) ends the direction of x(w) is uniform and E|x(w)|^2 = D, so that its
mean and covariance are those of N(0, I), exactly and in every dimension from two on; in its law only the norm varies a
little less.

Between two data points, through the latents that the probability flow carries them to:

    z = sd.encode(denoiser, x)                                                                 # x is (2, *)
    frames = sd.decode(denoiser, sd.slerp(z[:1], z[1:], torch.linspace(0, 1, 9)))              # (9, *)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde._tensors import expand


def slerp(a: Tensor, b: Tensor, weights: Tensor | Sequence[float] | float) -> Tensor:
    """Latents on the way from `a` (weight 0) to `b` (weight 1), which are themselves returned there, bit for bit.

    Row i of the result is at weights[i] between a[i] and b[i]; one row, or one weight, serves for all. Opposite
    latents have no shortest way: they turn through the coordinate axis least along them.

    Args:
        a, b: (B, *) or (1, *).
        weights: in [0, 1], a number or (B,).

    Raises:
        ValueError: shapes that do not go together, another dtype for b, a weight outside [0, 1], a latent that is zero
            or not finite.
    """
    w = torch.as_tensor(weights, dtype=torch.float64).detach().to(a.device)
    rows = _rows(a, b, w)
    w = w.expand(rows)
    start, end = (x.expand(rows, *a.shape[1:]) for x in (a, b))
    u, v = (_direction(x, name) for x, name in ((a, "a"), (b, "b")))
    u, v = (x.expand(rows, -1) for x in (u, v))
    # Kahan: acos(u . v) loses half the digits of a small angle
    theta = 2.0 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))
    across = _across(u, v)
    direction = expand(torch.cos(w * theta), u) * u + expand(torch.sin(w * theta), u) * across
    squares = [x.flatten(1).double().square().sum(1) for x in (start, end)]
    radius = torch.sqrt((1.0 - w) * squares[0] + w * squares[1])
    x = (expand(radius, direction) * direction).view(start.shape).to(a.dtype)
    x = torch.where(_like(w == 0.0, x), start, x)
    return torch.where(_like(w == 1.0, x), end, x)


def _rows(a: Tensor, b: Tensor, w: Tensor) -> int:
    """How many latents come out."""
    if a.ndim < 2 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"a is {tuple(a.shape)} and b is {tuple(b.shape)}; both must be (B, *), samples of one shape")
    if a.dtype != b.dtype or not a.is_floating_point():
        raise ValueError(f"a is {a.dtype} and b is {b.dtype}; both must be of one floating-point type")
    if w.ndim > 1 or w.numel() == 0:
        raise ValueError(f"weights has shape {tuple(w.shape)}; it must be a number or (B,)")
    outside = ~((w >= 0.0) & (w <= 1.0))
    if bool(outside.any()):
        raise ValueError(f"weight {w[outside].flatten()[0].item():g}; it must lie in [0, 1], 0 for a and 1 for b")
    counts = (len(a), len(b), w.numel())
    rows = max(counts)
    if min(counts) == 0 or any(count not in (1, rows) for count in counts):
        raise ValueError(
            f"a, b and weights have {counts[0]}, {counts[1]} and {counts[2]} rows; each must be 1 or the same number"
        )
    return rows


def _direction(x: Tensor, name: str) -> Tensor:
    """x (B, *) as float64 unit vectors (B, D)."""
    flat = x.flatten(1).double()
    norm = flat.norm(dim=1, keepdim=True)
    good = norm.isfinite() & (norm > 0)
    if not bool(good.all()):
        i = int((~good[:, 0]).nonzero()[0])
        raise ValueError(f"{name}[{i}] has norm {norm[i].item():g}: it has no direction to start from")
    return flat / norm


def _across(u: Tensor, v: Tensor) -> Tensor:
    """Unit vectors orthogonal to u, towards v; where v is along u, towards the axis least along u."""
    aside = v - (u * v).sum(1, keepdim=True) * u
    axis = torch.nn.functional.one_hot(u.abs().argmin(1), u.shape[1]).to(u.dtype)
    along = aside.norm(dim=1, keepdim=True) < 1e-15
    aside = torch.where(along, axis, aside)
    aside = aside - (u * aside).sum(1, keepdim=True) * u  # once more, for what rounding left of u
    return aside / aside.norm(dim=1, keepdim=True).clamp_min(torch.finfo(aside.dtype).tiny)


def _like(mask: Tensor, x: Tensor) -> Tensor:
    return expand(mask, x).bool()
