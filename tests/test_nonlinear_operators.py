"""Operators that are not linear: against closed forms, Pillow's own JPEG, and finite differences."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde.linalg import Identity, check_function
from scoresde.linalg.base import Operator
from scoresde.linalg.nonlinear import (
    CHROMINANCE,
    JPEG,
    LUMINANCE,
    Callable,
    Clip,
    Gamma,
    PhaseRetrieval,
    Quantise,
)

SMOOTH = {
    "phase retrieval": PhaseRetrieval(),
    "phase retrieval, 1.3": PhaseRetrieval(1.3),
    "clip": Clip(0.2, 0.7),
    "overexposure": Clip(gain=1.8),
    "hdr": Clip(gain=2.0, pivot=0.5),
    "gamma 0.45": Gamma(0.45),
    "gamma 2.2": Gamma(2.2),
    "callable": Callable(lambda x: (x.sin() * x.flip(-1)).flatten(1)),
}
ROUNDED = {
    "8 levels": Quantise(8),
    "3 levels": Quantise(3, -0.5, 2.0),
    "jpeg 10": JPEG(10),
    "jpeg 90": JPEG(90),
}


def pictures(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 8, 16)])
@pytest.mark.parametrize("name", SMOOTH)
def test_a_smooth_operator_passes_the_check_with_its_gradient(name: str, shape: tuple[int, ...]) -> None:
    check_function(SMOOTH[name], shape)


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 8, 16)])
@pytest.mark.parametrize("name", ROUNDED)
def test_a_rounding_operator_passes_the_check_and_pulls_back_straight_through(
    name: str, shape: tuple[int, ...]
) -> None:
    operator = ROUNDED[name]
    check_function(operator, shape)
    with pytest.raises(ValueError, match="differs from central differences"):
        check_function(operator, shape, gradient=True)
    x, v = pictures(2, *shape), pictures(2, *shape, seed=1)
    assert torch.equal(operator.pullback(x, v), v)
    leaf = x.clone().requires_grad_()
    assert torch.equal(operator(leaf), operator(x))
    (through,) = torch.autograd.grad((operator(leaf) * v).sum(), leaf)
    assert torch.equal(through, v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*SMOOTH, *ROUNDED])
def test_operators_keep_the_type_know_their_shape_and_are_not_linear(name: str, dtype: torch.dtype) -> None:
    operator: Operator = (SMOOTH | ROUNDED)[name]
    x = pictures(2, 3, 9, 10, dtype=dtype)
    y = operator(x)
    assert y.dtype == dtype
    assert operator.out_shape((3, 9, 10)) == y.shape[1:]
    assert operator.pullback(x, torch.ones_like(y)).dtype == dtype
    assert not operator.linear
    with pytest.raises(ValueError, match="is not linear"):
        operator.as_linear()
    torch.testing.assert_close(y.double(), operator(x.double()), rtol=2e-5, atol=2e-5)


# phase retrieval


@pytest.mark.parametrize(("oversampling", "size"), [(1.0, (10, 7)), (1.1, (11, 8)), (2.0, (20, 14))])
def test_magnitudes_are_those_of_the_padded_transform(oversampling: float, size: tuple[int, int]) -> None:
    x = pictures(2, 3, 10, 7)
    y = PhaseRetrieval(oversampling)(x)
    assert y.shape == (2, 3, *size)
    padded = np.zeros((2, 3, *size))
    padded[..., :10, :7] = x.numpy()
    np.testing.assert_allclose(y.numpy(), np.abs(np.fft.fft2(padded)) / math.sqrt(size[0] * size[1]), atol=1e-12)
    # orthonormal: nothing of the energy is lost
    torch.testing.assert_close(y.square().sum((1, 2, 3)), x.square().sum((1, 2, 3)))


def test_magnitudes_do_not_see_a_half_turn_or_a_shift_within_the_margin() -> None:
    x = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    x[..., 2:8, 3:9] = pictures(1, 1, 6, 6)
    A = PhaseRetrieval()
    for other in (x.flip((-2, -1)), x.roll((3, -2), (-2, -1))):
        assert (other - x).abs().max() > 0.1
        torch.testing.assert_close(A(other), A(x))


def test_the_gradient_of_a_magnitude_at_zero_is_finite() -> None:
    x = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    assert torch.equal(PhaseRetrieval().pullback(x, torch.ones(1, 1, 8, 8, dtype=torch.float64)), x)


# rounding


def test_levels_are_even_and_the_nearest_is_taken() -> None:
    x = torch.tensor([[-3.0, 0.0, 0.12, 0.13, 0.49, 0.9, 1.0, 7.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 0.0, 0.0, 0.25, 0.5, 1.0, 1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(Quantise(5)(x), expected)
    y = Quantise(4, -1.0, 2.0)(10 * pictures(1, 1000) - 5)
    assert y.unique().tolist() == [-1.0, 0.0, 1.0, 2.0]


def test_256_levels_are_eight_bits() -> None:
    x = pictures(1, 3, 20, 20)
    expected = np.rint(x.numpy() * 255).astype(np.uint8) / 255
    np.testing.assert_allclose(Quantise(256)(x).numpy(), expected, atol=1e-15)


def photograph(channels: int, height: int, width: int) -> np.ndarray:
    """Smooth shapes, an edge and some texture, (H, W, C) uint8."""
    rows, columns = np.mgrid[:height, :width] / 12
    noise = np.random.default_rng(0).normal(size=(height, width, channels))
    waves = np.stack([np.sin(rows + k) * np.cos(1.3 * columns - k) for k in range(channels)], -1)
    return (120 + 60 * waves + 50 * (rows + columns > 3)[..., None] + 8 * noise).clip(0, 255).astype(np.uint8)


def by_libjpeg(picture: np.ndarray, quality: int) -> tuple[np.ndarray, dict[int, list[int]]]:
    """A picture (H, W, C) through a file, and the tables in it."""
    stream = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(stream, "JPEG", quality=quality, subsampling=0)
    image = Image.open(stream)
    return np.asarray(image).reshape(picture.shape).astype(float), image.quantization  # type: ignore[attr-defined]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 95, 100])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 32, 48), (1, 21, 13), (3, 32, 48), (3, 5, 30)])
def test_jpeg_is_that_of_libjpeg_but_for_its_rounding_to_8_bits(
    channels: int, height: int, width: int, quality: int
) -> None:
    """In levels of 255. Rounding throws a coefficient to the other side now and then, the more so with colours."""
    picture = photograph(channels, height, width)
    decoded, tables = by_libjpeg(picture, quality)
    for k, table in enumerate((LUMINANCE, CHROMINANCE)[: len(tables)]):
        assert JPEG(quality).table(table).flatten().tolist() == list(tables[k])
    x = torch.from_numpy(picture / 255).permute(2, 0, 1)[None]
    error = 255 * JPEG(quality)(x)[0].permute(1, 2, 0).numpy() - decoded
    assert np.median(np.abs(error)) < (0.6 if channels == 1 else 1.5)
    assert rms(error) < 0.3 * rms(decoded - picture) + (0.6 if channels == 1 else 1.2)


def test_a_grey_picture_in_colour_goes_through_jpeg_as_grey() -> None:
    x = torch.from_numpy(photograph(1, 19, 24) / 255).permute(2, 0, 1)[None]
    torch.testing.assert_close(JPEG(30)(x.expand(1, 3, 19, 24)), JPEG(30)(x).expand(1, 3, 19, 24))


# saturation and tone


def test_clipping_about_a_pivot() -> None:
    x = torch.tensor([[-0.5, 0.1, 0.3, 0.5, 0.7, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(Clip(0.2, 0.6)(x), x.clamp(0.2, 0.6))
    torch.testing.assert_close(Clip(gain=2.0)(x), (2 * x).clamp(0, 1))
    # the literature's HDR, written on [-1, 1]
    torch.testing.assert_close(2 * Clip(gain=2.0, pivot=0.5)(x) - 1, (2 * (2 * x - 1)).clamp(-1, 1))


@pytest.mark.parametrize("exponent", [0.45, 1.0, 2.2])
def test_gamma_is_a_power_with_a_straight_line_through_black(exponent: float) -> None:
    x = pictures(1, 1000) * 0.999 + 0.001
    A = Gamma(exponent)
    torch.testing.assert_close(A(x), x**exponent)
    dark = torch.linspace(-1.0, 2.0**-12, 101, dtype=torch.float64)[None]
    torch.testing.assert_close(A(dark), dark * 2.0 ** (-12 * (exponent - 1)))
    slope = A.pullback(dark, torch.ones_like(dark))
    assert bool((slope > 0).all() and slope.isfinite().all())
    assert A(torch.zeros(1, 1, dtype=torch.float64)).item() == 0


# a user's own


def test_a_function_that_autograd_cannot_follow_has_no_pullback() -> None:
    A = Callable(lambda x: torch.from_numpy(np.median(x.numpy(), axis=-1)), differentiable=False)
    x = pictures(2, 5, 3).requires_grad_()
    assert A(x).shape == (2, 5)
    check_function(A, (5, 3))
    with pytest.raises(ValueError, match="not differentiable; take a method that needs no gradient of A"):
        A.pullback(x, torch.ones(2, 5))
    with pytest.raises(ValueError, match="not differentiable"):
        check_function(A, (5, 3), gradient=True)
    secretive = Callable(lambda x: torch.from_numpy(x.detach().numpy() ** 2))
    with pytest.raises(ValueError, match=r"say Callable\(\.\.\., differentiable=False\)"):
        secretive.pullback(x, torch.ones(2, 5, 3))


def test_an_operator_says_whether_its_pullback_is_its_derivative() -> None:
    square, median = Callable(torch.square), Callable(torch.square, differentiable=False)
    for operator, yes in [
        *((each, True) for each in SMOOTH.values()),
        *((each, False) for each in ROUNDED.values()),
        (square, True),
        (median, False),
        (Identity(), True),
        (square @ Identity(), True),
        (square @ median, False),
        (median @ square, False),
        (Identity() @ Quantise(4) @ Identity(), False),
    ]:
        assert operator.differentiable == yes, operator
    check_function(Identity() @ Quantise(4), (2, 3))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.numpy(), "returned ndarray, not a tensor"),
        (lambda x: torch.fft.fft2(x), "returned torch.complex128; a measurement is floating point"),
        (lambda x: x > 0.5, "returned torch.bool"),
        (lambda x: x.mean(), r"returned the shape \(\) for 3 samples"),
        (lambda x: x[:2], r"returned the shape \(2, 4, 5\) for 3 samples \(3, 4, 5\)"),
        (lambda x: x.log().clamp_min(-1) / 0, "not finite, for 3 of 3 samples"),
        (lambda x: x - x.mean(0), r"couples the samples of a batch: .* differ by"),
        (lambda x: x + torch.rand_like(x), "asked for twice: the answers differ by"),
        (lambda x: x.mul_(2), "changes its input, by"),
        (lambda x: x.repeat(1, len(x), 1), r"gives shape \(1, 4, 5\) for one sample, and \(3, 12, 5\) for 3"),
        (lambda x: x * x.detach(), "the pullback differs from central differences by 5"),
    ],
)
def test_a_function_that_is_wrong_is_refused_with_the_figure(function, message: str) -> None:
    with torch.random.fork_rng(), pytest.raises(ValueError, match=message):
        check_function(Callable(function), (4, 5))


def test_a_pullback_of_ones_own_is_checked() -> None:
    class Square(Operator):
        def __init__(self, factor: float) -> None:
            self.factor = factor

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x.square()

        def pullback(self, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return self.factor * x * v

    check_function(Square(2.0), (4, 5))
    with pytest.raises(ValueError, match=r"differs from central differences by 4\.76 %"):
        check_function(Square(2.1), (4, 5))
    with pytest.raises(ValueError, match="60 values that are not finite"):
        check_function(Square(math.nan), (4, 5))


def test_a_float32_function_is_checked_in_float32() -> None:
    weights = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    A = Callable(lambda x: torch.tanh(x @ weights))
    check_function(A, (3, 5), dtype=torch.float32)
    with pytest.raises(ValueError, match="differs from central differences"):
        check_function(Callable(lambda x: A(x) * x.detach()[..., :4]), (3, 5), dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [torch.abs, torch.relu, lambda x: x.clamp(-0.1, 0.2)])
def test_kinks_in_a_large_picture_are_no_mistakes(function, dtype: torch.dtype) -> None:
    for seed in range(5):
        check_function(Callable(lambda x: function(x - 0.5)), (1, 90, 90), dtype=dtype, seed=seed)


def test_a_function_without_values_beyond_the_range_is_refused_by_its_differences() -> None:
    edge = Callable(lambda x: torch.where((x < 0) | (x > 1), math.nan, x))
    with pytest.raises(ValueError, match="differs from central differences by nan"):
        check_function(edge, (1, 300, 300))


def test_the_check_takes_linear_operators_too() -> None:
    check_function(Identity(), (2, 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PhaseRetrieval(0.9), "oversampling = 0.9; it must be finite and 1 or more"),
        (lambda: Quantise(1), "levels = 1; it must be 2 or more"),
        (lambda: Quantise(4, 1.0, 1.0), "low = 1.0, high = 1.0"),
        (lambda: JPEG(0), "quality = 0; it must lie in 1 to 100"),
        (lambda: JPEG(101), "quality = 101"),
        (lambda: Clip(1.0, 0.0), "low = 1.0, high = 0.0"),
        (lambda: Clip(gain=-2.0), "gain = -2.0; it must be positive"),
        (lambda: Clip(pivot=math.nan), "pivot = nan"),
        (lambda: Gamma(0.0), "exponent = 0.0; it must be positive"),
        (lambda: JPEG(50)(torch.zeros(1, 2, 8, 8)), r"takes pictures \(B, 1 or 3, H, W\), not \(1, 2, 8, 8\)"),
        (lambda: PhaseRetrieval()(torch.zeros(1, 8)), r"takes pictures \(B, \*, H, W\), not \(1, 8\)"),
    ],
)
def test_choices_out_of_range_are_refused_early(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
