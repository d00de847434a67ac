"""Spherical interpolation: its ends, its norm, its law, and what becomes of small, right and straight angles."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import mixture, normal

import scoresde as sd

WEIGHTS = torch.linspace(0.0, 1.0, 9, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (2,), (3, 4, 5)])
def test_the_ends_are_the_latents_bit_for_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    a, b = normal(6, *shape, dtype=dtype), normal(6, *shape, seed=1, dtype=dtype)
    assert torch.equal(sd.slerp(a, b, 0.0), a)
    assert torch.equal(sd.slerp(a, b, 1.0), b)
    mixed = sd.slerp(a, b, [0.0, 1.0, 0.5, 0.0, 1.0, 0.5])
    assert mixed.dtype == dtype
    assert torch.equal(mixed[[0, 3]], a[[0, 3]])
    assert torch.equal(mixed[[1, 4]], b[[1, 4]])
    assert not torch.equal(mixed[2], a[2])
    assert torch.equal(sd.slerp(a, a, 1.0), a)
    assert torch.equal(sd.slerp(a, -a, 1.0), -a)


@pytest.mark.parametrize("dim", [2, 3, 100])
def test_it_is_shoemakes_formula_for_latents_of_one_norm(dim: int) -> None:
    a, b = (3.0 * x / x.norm() for x in (normal(1, dim), normal(1, dim, seed=1)))
    theta = math.acos((a * b).sum() / 9.0)
    w = WEIGHTS[:, None]
    expected = (torch.sin((1 - w) * theta) * a + torch.sin(w * theta) * b) / math.sin(theta)
    torch.testing.assert_close(sd.slerp(a, b, WEIGHTS), expected, rtol=1e-12, atol=1e-12)


def test_the_square_of_the_norm_goes_evenly_and_the_angle_too() -> None:
    a, b = normal(1, 5), 4.0 * normal(1, 5, seed=1)
    x = sd.slerp(a, b, WEIGHTS)
    squares = (1 - WEIGHTS) * a.square().sum() + WEIGHTS * b.square().sum()
    torch.testing.assert_close(x.square().sum(1), squares, rtol=1e-13, atol=0.0)
    u = x / x.norm(dim=1, keepdim=True)
    steps = torch.acos((u[1:] * u[:-1]).sum(1))
    torch.testing.assert_close(steps, steps.mean().expand(8), rtol=1e-10, atol=0.0)
    torch.testing.assert_close(x, sd.slerp(b, a, 1 - WEIGHTS), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("exponent", [-3, -6, -9, -12])
def test_small_angles_lose_no_digits(exponent: int) -> None:
    """A turn by a known angle in a known plane; acos(u . v) would have no digits left from 1e-8 on."""
    angle = 10.0**exponent
    a = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=torch.float64)
    x = sd.slerp(a, b, WEIGHTS)
    torch.testing.assert_close(x[:, 1], torch.sin(WEIGHTS * angle), rtol=1e-14, atol=0.0)
    torch.testing.assert_close(x.norm(dim=1), torch.ones(9, dtype=torch.float64), rtol=1e-15, atol=0.0)


def test_latents_in_one_direction_keep_it() -> None:
    a = normal(1, 7)
    for b in (a, 2.5 * a):
        x = sd.slerp(a, b, WEIGHTS)
        radius = torch.sqrt((1 - WEIGHTS) * a.square().sum() + WEIGHTS * b.square().sum())[:, None]
        torch.testing.assert_close(x, radius * a / a.norm(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [-1.0, -2.5, -1.0 / 3.0])
def test_opposite_latents_turn_half_way_round_without_a_jump(factor: float, dtype: torch.dtype) -> None:
    """No shortest way, but a way of the right norms whose pieces are equal."""
    a = normal(1, 7, dtype=dtype)
    x = sd.slerp(a, factor * a, WEIGHTS).double()
    squares = (1 - WEIGHTS + WEIGHTS * factor**2) * a.double().square().sum()
    torch.testing.assert_close(x.square().sum(1), squares, rtol=1e-6, atol=0.0)
    u = x / x.norm(dim=1, keepdim=True)
    pieces = torch.acos((u[1:] * u[:-1]).sum(1))
    torch.testing.assert_close(pieces, torch.full_like(pieces, math.pi / 8), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_opposite_latents_along_an_axis_go_round_the_origin(axis: int) -> None:
    """Here rounding leaves no direction at all to turn to."""
    a = torch.eye(3)[axis : axis + 1]
    torch.testing.assert_close(sd.slerp(a, -a, WEIGHTS).norm(dim=1), torch.ones(9), rtol=1e-6, atol=0.0)


def test_nearly_opposite_latents_stay_bounded() -> None:
    """Where Shoemake's formula for unequal norms has none: it divides by sin(theta)."""
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[-2.0, 1e-9]], dtype=torch.float64)
    middle = sd.slerp(a, b, 0.5)
    torch.testing.assert_close(middle, torch.tensor([[0.0, math.sqrt(2.5)]], dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("weight", [0.25, 0.5])
@pytest.mark.parametrize("dim", [2, 10, 400])
def test_between_independent_normal_latents_the_moments_are_theirs(dim: int, weight: float) -> None:
    """Mean 0 and covariance I in standard errors; the straight line has the covariance ((1 - w)^2 + w^2) I."""
    n = 4_000_000 // dim // 10
    x = sd.slerp(normal(n, dim), normal(n, dim, seed=1), weight)
    power = x.square().mean(1)
    assert abs(power.mean() - 1.0) < 4.0 * power.std() / math.sqrt(n)
    for moment, expected in ((x.mean(0), 0.0), (x.square().mean(0), 1.0), ((x[:, :-1] * x[:, 1:]).mean(0), 0.0)):
        error = math.sqrt(2.0 / n)  # at least that of each of them
        assert (moment - expected).abs().max() < 4.5 * error


def test_in_high_dimension_the_law_is_normal() -> None:
    """By the Kolmogorov-Smirnov distance of all coordinates, 1.63 / sqrt(N) at one in a hundred."""
    x = sd.slerp(normal(500, 2000), normal(500, 2000, seed=1), 0.5).flatten().sort().values
    cdf = torch.special.ndtr(x)
    index = torch.arange(len(x), dtype=torch.float64)
    distance = torch.maximum(cdf - index / len(x), (index + 1) / len(x) - cdf).max()
    assert distance < 1.63 / math.sqrt(len(x))


def test_one_row_serves_for_all_weights_and_one_weight_for_all_rows() -> None:
    a, b = normal(4, 2, 3), normal(4, 2, 3, seed=1)
    each = torch.cat([sd.slerp(a[i : i + 1], b[i : i + 1], w) for i, w in enumerate((0.1, 0.4, 0.7, 0.9))])
    assert torch.equal(sd.slerp(a, b, [0.1, 0.4, 0.7, 0.9]), each)
    assert torch.equal(sd.slerp(a, b, 0.4)[1], each[1])
    assert torch.equal(sd.slerp(a[1:2], b[1:2], [0.2, 0.4])[1], each[1])
    assert torch.equal(sd.slerp(a[1:2], b, 0.4)[1], each[1])


def test_between_data_through_their_latents() -> None:
    """As the module's docstring has it: the ends come back, and the frames are where the flow puts them."""
    denoiser = mixture().denoiser(sd.VP())
    x = mixture().sample(2, seed=3)
    z = sd.encode(denoiser, x, sd.solvers.RK45(1e-8, 1e-8))
    frames = sd.decode(denoiser, sd.slerp(z[:1], z[1:], torch.linspace(0, 1, 5)), sd.solvers.RK45(1e-8, 1e-8))
    assert frames.shape == (5, *x.shape[1:])
    torch.testing.assert_close(frames[[0, -1]], x, rtol=1e-5, atol=1e-5)


A = torch.ones(3, 4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((A, torch.ones(3, 5), 0.5), r"a is \(3, 4\) and b is \(3, 5\)"),
        ((torch.ones(4), torch.ones(4), 0.5), r"both must be \(B, \*\)"),
        ((A, A.double(), 0.5), "of one floating-point type"),
        ((A.long(), A.long(), 0.5), "of one floating-point type"),
        ((A, A, 1.5), r"weight 1.5; it must lie in \[0, 1\]"),
        ((A, A, [0.5, -0.1, 0.2]), "weight -0.1"),
        ((A, A, math.nan), "weight nan"),
        ((A, A, []), r"weights has shape \(0,\)"),
        ((A, A, [[0.5]]), r"weights has shape \(1, 1\)"),
        ((A, A, [0.1, 0.2]), "3, 3 and 2 rows"),
        ((A, A[:2], 0.5), "3, 2 and 1 rows"),
        ((A[:0], A[:0], 0.5), "0, 0 and 1 rows"),
        ((A, torch.tensor([[1.0], [0.0], [1.0]]) * A, 0.5), r"b\[1\] has norm 0"),
        ((torch.tensor([[1.0], [1.0], [math.inf]]) * A, A, 0.5), r"a\[2\] has norm inf"),
    ],
)
def test_what_cannot_be_interpolated_is_refused_in_words(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sd.slerp(*arguments)
