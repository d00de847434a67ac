"""Is this operator what it claims to be? To be asked of a user's own before it is used."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde._tensors import flat_sum
from scoresde.linalg.base import Operator, Shape


def check_operator(operator: Operator, shape: Shape, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
    """Try an operator on random samples.

    Every operator: A(x) is (B, *), in the dtype of x, finite, the same when asked twice, and that of a sample does not
    depend on its companions. A linear one: A(2 x - 3 z) = 2 A(x) - 3 A(z), and A' obeys the same rules and
    <A x, y> = <x, A' y>. Figures count as equal when they differ by less than sqrt(eps) of their size.

    Args:
        shape: of one sample.
        dtype: to compute in.
        seed: of the samples.

    Raises:
        ValueError: it is not; says what was measured.
    """
    generator = torch.Generator().manual_seed(seed)
    draw = lambda like: torch.randn(like, dtype=torch.float64, generator=generator).to(dtype)  # noqa: E731
    x, z = draw((3, *shape)), draw((3, *shape))
    y = _check_map(operator, "A", x)
    if not operator.linear:
        return
    A = operator.as_linear()
    _equal(A(2 * x - 3 * z), 2 * A(x) - 3 * A(z), f"{A} is not linear: A(2 x - 3 z) and 2 A(x) - 3 A(z)")
    v = draw(tuple(y.shape))
    pulled = _check_map(A.adjoint, "A'", v)
    if pulled.shape != x.shape:
        raise ValueError(
            f"A' y has shape {tuple(pulled.shape[1:])} for one y of shape {tuple(y.shape[1:])}; it must be that of "
            f"a sample, {tuple(shape)}"
        )
    _check_adjoint(x, y, v, pulled)


def check_function(
    operator: Operator,
    shape: Shape,
    *,
    gradient: bool | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> None:
    """Try an operator on three samples of `shape`, uniform on [0, 1], and refuse it with the figure when it is wrong.

    This is `check_operator` on the values of pictures, and with the gradient where there is one.

    Args:
        gradient: also compare its pullback with central differences; by default where it is `differentiable`.
        dtype: float64, where the gradient is checked to 1 %; or float32, for a function that holds float32 weights,
            where it is to 28 %.

    Raises:
        ValueError: A changes its input; A(x) is not finite, has another number of samples or type; a sample depends on
            its companions or on chance; the pullback is not the gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, *shape, dtype=dtype, generator=generator)
    given = x.clone()
    operator(given)
    if not torch.equal(x, given):
        raise ValueError(f"{operator} changes its input, by {(x - given).abs().max():.3g}; it must leave it alone")
    y = _check_map(operator, f"{operator}", x)
    if operator.differentiable if gradient is None else gradient:
        _check_gradient(operator, x, y.shape, generator)


def _check_map(function: Callable[[Tensor], Tensor], name: str, x: Tensor) -> Tensor:
    """f(x), when f does the same to each sample of a batch and keeps to the dtype."""
    y = function(x)
    if y.ndim == 1 and len(y) == len(x):
        raise ValueError(
            f"{name} gives one number for each of a batch of shape {tuple(x.shape)}, in the shape {tuple(y.shape)}; "
            f"return ({len(x)}, 1), as with keepdim=True"
        )
    if y.ndim < 2 or len(y) != len(x):
        raise ValueError(
            f"{name} gives shape {tuple(y.shape)} for a batch of shape {tuple(x.shape)}; the first dimension must "
            f"stay {len(x)}, with a measurement for each sample"
        )
    if y.dtype != x.dtype:
        raise ValueError(f"{name} gives {y.dtype} for {x.dtype}; it must keep the dtype of its argument")
    finite = y.flatten(1).isfinite().all(1)
    if not bool(finite.all()):
        raise ValueError(f"{name} gives values that are not finite, for {int((~finite).sum())} of {len(x)} samples")
    _equal(function(x), y, f"{name} of one batch, asked for twice: the answers")
    alone = function(x[:1])
    if alone.shape != y[:1].shape:
        raise ValueError(f"{name} gives shape {tuple(alone.shape)} for one sample, and {tuple(y.shape)} for {len(x)}")
    _equal(alone, y[:1], f"{name} couples the samples of a batch: that of the first alone, and beside two others,")
    return y


def _check_adjoint(x: Tensor, y: Tensor, v: Tensor, pulled: Tensor) -> None:
    left, right = flat_sum(y * v), flat_sum(x * pulled)
    norm_x, norm_y, norm_v, norm_pulled = (a.flatten(1).norm(dim=1) for a in (x, y, v, pulled))
    wrong = (left - right).abs() > _tolerance(x) * (norm_y * norm_v + norm_x * norm_pulled)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise ValueError(f"<A x, y> = {left[i].item():.6g} but <x, A' y> = {right[i].item():.6g}: the adjoint is wrong")


def _check_gradient(operator: Operator, x: Tensor, y_shape: torch.Size, generator: torch.Generator) -> None:
    """<(dA/dx)' v, w> against <(A(x + h w) - A(x - h w)) / 2 h, v>, for a few random v and w."""
    h = torch.finfo(x.dtype).eps ** (1 / 3)
    pulled, differences = [], []
    for _ in range(4):
        v = torch.randn(y_shape, dtype=x.dtype, generator=generator)
        w = torch.randn(x.shape, dtype=x.dtype, generator=generator)
        slope = operator.pullback(x, v)
        if slope.shape != x.shape or not bool(slope.isfinite().all()):
            raise ValueError(
                f"{operator}: the pullback has shape {tuple(slope.shape)} and {int((~slope.isfinite()).sum())} values "
                f"that are not finite; it must be finite, of shape {tuple(x.shape)}"
            )
        change = (operator(x + h * w) - operator(x - h * w)) / (2 * h)
        pulled.append((slope * w).flatten(1).sum(1))
        differences.append((change * v).flatten(1).sum(1))
    a, b = torch.cat(pulled), torch.cat(differences)
    error = (a - b).norm() / torch.maximum(a.norm(), b.norm()).clamp_min(1e-300)
    # where A has a kink, as a clip has, the difference straddles it for a share h of the entries
    if not error <= 4 * h**0.5:
        raise ValueError(
            f"{operator}: the pullback differs from central differences by {100 * error:.3g} %; correct it, or say "
            "that there is no gradient"
        )


def _equal(a: Tensor, b: Tensor, what: str) -> None:
    difference, size = (a - b).norm().item(), max(a.norm().item(), b.norm().item())
    if not difference <= _tolerance(a) * size:
        raise ValueError(f"{what} differ by {difference / size:.3g} of their size")


def _tolerance(like: Tensor) -> float:
    return float(torch.finfo(like.dtype).eps ** 0.5)
