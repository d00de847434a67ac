"""Every linear operator through every law; each against an independent implementation; and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from PIL import Image
from problems import normal
from torch import Tensor

import scoresde as sd
from scoresde.inverse.problems import cartesian_mask
from scoresde.linalg import base
from scoresde.linalg.base import Shape
from scoresde.operators import (
    Clip,
    Convolution,
    Dense,
    Downsample,
    Fourier,
    FromFunctions,
    Grey,
    Hadamard,
    Identity,
    LinearOperator,
    Mask,
    Operator,
    Quantise,
    Radon,
    SeparableBlur,
    check_operator,
    gaussian_kernel,
    gaussian_taps,
    motion_kernel,
)

EPS = torch.finfo(torch.float64).eps
PADDINGS = {"circular": "wrap", "zero": "constant", "reflect": "reflect"}  # as scipy.ndimage has them


def bernoulli(*shape: int, share: float = 0.5, seed: int = 0) -> Tensor:
    mask = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share
    mask.view(-1)[0] = True
    return mask


def lopsided(*shape: int) -> Tensor:
    """A kernel without symmetry, and with an inverse: 1 in the middle, and noise."""
    k = 0.15 * normal(*shape)
    k[tuple(n // 2 for n in shape)] += 1.0
    return k


@dataclass(frozen=True)
class Case:
    operator: LinearOperator
    shape: Shape
    out_shape: Shape

    def condition(self) -> float:
        """What dividing A' y or V z by the singular values makes of rounding errors."""
        values = self.operator.svd(self.shape).values
        seen = values[values > 1e-10 * values.max()]
        return float(seen.max() / seen.min()) if len(seen) else 1.0


LOW_RANK = normal(5, 2) @ normal(2, 7, seed=1)
TAPS = [0.5, 0.3, 0.15, 0.05]
VECTOR_MASK, MASK, COLOUR_MASK = bernoulli(9), bernoulli(5, 7), bernoulli(3, 5, 4)
CASES: dict[str, Case] = {
    "identity": Case(Identity(), (3, 5, 4), (3, 5, 4)),
    "dense-wide": Case(Dense(normal(3, 7)), (7,), (3,)),
    "dense-tall": Case(Dense(normal(9, 4)), (4,), (9,)),
    "dense-low-rank": Case(Dense(LOW_RANK), (7,), (5,)),
    "dense-rows": Case(Dense(normal(3, 7)), (2, 7), (2, 3)),
    "mask-vector": Case(Mask(VECTOR_MASK), (9,), (int(VECTOR_MASK.sum()),)),
    "mask": Case(Mask(MASK), (5, 7), (int(MASK.sum()),)),
    "mask-channels": Case(Mask(MASK), (3, 5, 7), (3, int(MASK.sum()))),
    "mask-entries": Case(Mask(COLOUR_MASK), (3, 5, 4), (int(COLOUR_MASK.sum()),)),
    "mask-all": Case(Mask(torch.ones(5, 7)), (5, 7), (35,)),
    "grey": Case(Grey(), (3, 5, 4), (1, 5, 4)),
    "grey-two": Case(Grey([1.0, -2.0]), (2, 3, 5), (1, 3, 5)),
    "hadamard": Case(Hadamard(bernoulli(8, 4)), (3, 8, 4), (3, int(bernoulli(8, 4).sum()))),
    "hadamard-vector": Case(Hadamard(bernoulli(16)), (16,), (int(bernoulli(16).sum()),)),
    "fourier": Case(Fourier(MASK), (2, 5, 7), (2, 2, int(MASK.sum()))),
    "fourier-even": Case(Fourier(bernoulli(6, 4)), (6, 4), (2, int(bernoulli(6, 4).sum()))),
    "fourier-lines": Case(Fourier(cartesian_mask(6, 9, 2, 0.25)), (1, 6, 9), (1, 2, 24)),
    "radon": Case(Radon([0.0, 30.0, 97.0, 145.0], 9), (2, 9, 9), (2, 4, 9)),
    "radon-even": Case(Radon([10.0, 90.0, 200.0], 6), (6, 6), (3, 6)),
    "functions": Case(FromFunctions(lambda x: x.cumsum(1), lambda y: y.flip(1).cumsum(1).flip(1)), (6,), (6,)),
    "functions-autograd": Case(FromFunctions(lambda x: x[:, 1:] - x[:, :-1], shape=(5, 3)), (5, 3), (4, 3)),
    "product": Case(Downsample(2) @ Convolution(normal(3, 3)), (2, 6, 8), (2, 3, 4)),
    "sum": Case(Dense(normal(3, 7)) + 0.5 * Dense(normal(3, 7, seed=1)), (7,), (3,)),
    "difference": Case(Identity() - SeparableBlur([0.2, 0.5, 0.3]), (2, 5, 4), (2, 5, 4)),
    "scaled": Case(-2.5 * SeparableBlur([0.2, 0.5, 0.3]), (2, 5, 4), (2, 5, 4)),
    "scaled-to-zero": Case(0.0 * Identity(), (5,), (5,)),
    "divided": Case(Mask(MASK) / 4.0, (5, 7), (int(MASK.sum()),)),
    "negative": Case(-Downsample(3), (1, 3, 6), (1, 1, 2)),
    "transposed": Case(Mask(MASK).T, (int(MASK.sum()),), (5, 7)),
    "transposed-dense": Case(Dense(normal(3, 7)).T, (3,), (7,)),
}
for padding in PADDINGS:
    CASES |= {
        f"convolution-{padding}": Case(Convolution(lopsided(3, 5), padding), (2, 7, 9), (2, 7, 9)),
        f"convolution-even-{padding}": Case(Convolution(lopsided(4, 2), padding), (6, 8), (6, 8)),
        f"convolution-whole-{padding}": Case(Convolution(lopsided(5, 4), padding), (1, 5, 4), (1, 5, 4)),
        f"convolution-mixed-{padding}": Case(Convolution(lopsided(1, 3), padding), (2, 5, 6), (2, 5, 6)),
        f"separable-{padding}": Case(SeparableBlur([0.2, 0.5, 0.4], TAPS, padding), (2, 7, 5), (2, 7, 5)),
        f"separable-even-{padding}": Case(SeparableBlur(TAPS, padding=padding), (4, 6), (4, 6)),
        f"gaussian-{padding}": Case(Convolution(gaussian_kernel(1.0, 7), padding), (1, 9, 8), (1, 9, 8)),
    }
for kernel in ("average", "bicubic"):
    CASES |= {
        f"downsample-{kernel}-2": Case(Downsample(2, kernel), (3, 6, 10), (3, 3, 5)),
        f"downsample-{kernel}-3": Case(Downsample(3, kernel), (9, 15), (3, 5)),
        f"downsample-{kernel}-all": Case(Downsample(4, kernel), (1, 4, 4), (1, 1, 1)),
        f"downsample-{kernel}-1": Case(Downsample(1, kernel), (1, 4, 3), (1, 4, 3)),
    }

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


# the laws


@every
def test_the_adjoint_is_the_adjoint(case: Case) -> None:
    A = case.operator
    x, y = normal(4, *case.shape), normal(4, *case.out_shape, seed=1)
    Ax, Aty = A(x), A.adjoint(y)
    assert Aty.shape == x.shape
    left, right = (Ax * y).flatten(1).sum(1), (x * Aty).flatten(1).sum(1)
    size = Ax.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1)
    assert bool(((left - right).abs() <= 20 * EPS * size).all())


@every
def test_the_matrix_is_the_operator_and_its_transpose_the_adjoint(case: Case) -> None:
    A = case.operator
    x, y = normal(3, *case.shape), normal(3, *case.out_shape, seed=1)
    matrix = A.dense(case.shape)
    assert matrix.shape == (math.prod(case.out_shape), math.prod(case.shape))
    assert matrix.dtype == torch.float64
    torch.testing.assert_close(x.flatten(1) @ matrix.mT, A(x).flatten(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y.flatten(1) @ matrix, A.adjoint(y).flatten(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y.flatten(1) @ matrix, A.T(y).flatten(1), rtol=1e-12, atol=1e-12)


@every
def test_the_svd_is_one_of_the_matrix(case: Case) -> None:
    A, size = case.operator, math.prod(case.shape)
    svd, matrix = A.svd(case.shape), A.dense(case.shape)
    V = svd.v(torch.eye(size, dtype=torch.float64).reshape(size, *svd.vt(normal(1, *case.shape)).shape[1:]))
    V = V.reshape(size, size).mT  # columns
    torch.testing.assert_close(V.mT @ V, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-13)
    values = svd.values.expand(svd.vt(normal(1, *case.shape)).shape[1:]).flatten()
    assert bool((values >= 0).all())
    torch.testing.assert_close(
        V @ torch.diag(values**2) @ V.mT, matrix.mT @ matrix, rtol=0, atol=1e-12 * max(1.0, float(values.max()) ** 2)
    )
    exact = torch.linalg.svdvals(matrix)
    exact = torch.cat([exact, exact.new_zeros(max(0, size - len(exact)))])
    torch.testing.assert_close(values.sort(descending=True).values, exact, rtol=1e-12, atol=1e-7 * float(exact[0]) ** 2)
    seen = exact > 1e-6 * exact[0]
    torch.testing.assert_close(values.sort(descending=True).values[seen], exact[seen], rtol=1e-9, atol=0)


@every
def test_the_bases_are_orthogonal_and_give_back_the_operator(case: Case) -> None:
    svd, x = case.operator.svd(case.shape), normal(3, *case.shape)
    z = svd.vt(x)
    assert z.shape[0] == 3
    assert z[0].numel() == x[0].numel()
    torch.testing.assert_close(svd.v(z), x, rtol=0, atol=1e-13)
    torch.testing.assert_close(z.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-13, atol=0)
    Ax = case.operator(x)
    condition = case.condition()
    rounding = 100 * EPS * condition
    torch.testing.assert_close(svd.u(svd.values * z), Ax, rtol=0, atol=1e-12)
    torch.testing.assert_close(svd.ut(Ax), svd.values * z, rtol=0, atol=rounding)
    seen = (svd.values > svd.cutoff).to(z)
    torch.testing.assert_close(svd.ut(svd.u(z)), seen * z, rtol=0, atol=condition * rounding)
    u_norm = svd.u(z).flatten(1).norm(dim=1)
    torch.testing.assert_close(u_norm, (seen * z).flatten(1).norm(dim=1), rtol=rounding, atol=1e-12)


@every
def test_the_pseudo_inverse_and_the_null_space(case: Case) -> None:
    A, svd = case.operator, case.operator.svd(case.shape)
    matrix = A.dense(case.shape)
    x, y = normal(3, *case.shape), normal(3, *case.out_shape, seed=1)
    exact = torch.linalg.pinv(matrix, rtol=1e-10)
    atol = 100 * EPS * case.condition() * max(1.0, float(exact.abs().max()))
    torch.testing.assert_close(svd.pinv(y).flatten(1), y.flatten(1) @ exact.mT, rtol=0, atol=atol)
    across = svd.null(x)
    torch.testing.assert_close(A(across), torch.zeros_like(y), rtol=0, atol=1e-8)
    torch.testing.assert_close(across + svd.pinv(A(x)), x, rtol=0, atol=atol)


@every
def test_linear_and_each_sample_on_its_own(case: Case) -> None:
    check_operator(case.operator, case.shape)
    A, x = case.operator, normal(4, *case.shape)
    torch.testing.assert_close(A(x)[2:3], A(x[2:3]), rtol=0, atol=1e-13)
    svd = A.svd(case.shape)
    torch.testing.assert_close(svd.vt(x)[2:3], svd.vt(x[2:3]), rtol=0, atol=1e-13)


@every
def test_float32_stays_float32_and_is_as_precise(case: Case) -> None:
    A, svd = case.operator, case.operator.svd(case.shape)
    x, y = normal(2, *case.shape), normal(2, *case.out_shape, seed=1)
    x32, y32 = x.float(), y.float()
    scale = max(1.0, float(svd.values.max()))
    for single, double in (
        (A(x32), A(x)),
        (A.adjoint(y32), A.adjoint(y)),
        (svd.vt(x32), svd.vt(x)),
        (svd.v(svd.vt(x32)), x),
        (svd.null(x32), svd.null(x)),
    ):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5 * scale)
    assert svd.pinv(y32).dtype == svd.u(svd.vt(x32)).dtype == torch.float32
    # by the norm of u and ut, however small the values: rounding of the argument, and no more
    for single, double in ((svd.ut(y32), svd.ut(y)), (svd.u(svd.vt(x32)), svd.u(svd.vt(x)))):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=0, atol=2e-6)


@every
def test_the_shape_of_a_measurement(case: Case) -> None:
    A = case.operator
    assert A.out_shape(case.shape) == tuple(A(normal(2, *case.shape)).shape[1:]) == case.out_shape
    assert A.linear
    assert A.as_linear() is A
    v = normal(2, *case.out_shape, seed=1)
    assert torch.equal(A.pullback(normal(2, *case.shape), v), A.adjoint(v))
    assert repr(A)
    if A.in_shape is not None:
        assert case.shape[len(case.shape) - len(A.in_shape) :] == A.in_shape
        torch.testing.assert_close(A.dense(), A.dense(A.in_shape), rtol=0, atol=0)


@every
def test_gradients_go_through(case: Case) -> None:
    """Also through the adjoint, which methods put between a network and its loss."""
    A, x = case.operator, normal(2, *case.shape).requires_grad_()
    v = normal(2, *case.out_shape, seed=1)
    (gradient,) = torch.autograd.grad((A(x) * v).sum(), x)
    torch.testing.assert_close(gradient, A.adjoint(v), rtol=0, atol=1e-12)
    y = v.clone().requires_grad_()
    w = normal(2, *case.shape, seed=2)
    (gradient,) = torch.autograd.grad((A.adjoint(y) * w).sum(), y)
    torch.testing.assert_close(gradient, A(w), rtol=0, atol=1e-12)


# against other implementations


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(3, 3), (5, 3), (4, 4), (2, 5), (6, 8), (1, 1)])
def test_convolution_is_scipys(padding: str, size: tuple[int, int]) -> None:
    x, k = normal(2, 3, 6, 9), normal(*size, seed=1)
    expected = [
        scipy.ndimage.convolve(channel, k.numpy(), mode=PADDINGS[padding], cval=0.0)
        for channel in x.flatten(0, 1).numpy()
    ]
    blurred = Convolution(k, padding)(x).flatten(0, 1)
    np.testing.assert_allclose(blurred.numpy(), np.stack(expected), rtol=0, atol=1e-13)


@pytest.mark.parametrize("padding", PADDINGS)
def test_the_separable_blur_is_the_convolution_with_the_outer_product(padding: str) -> None:
    rows, columns, x = normal(4), normal(3, seed=1), normal(2, 3, 7, 6, seed=2)
    expected = Convolution(rows[:, None] * columns, padding)(x)
    torch.testing.assert_close(SeparableBlur(rows, columns, padding)(x), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("kernel", "scale"), [(k, s) for k in ("average", "bicubic") for s in (1, 2, 3, 4, 5)])
def test_downsampling_is_pillows(kernel: str, scale: int) -> None:
    x = normal(1, 5 * scale, 7 * scale, dtype=torch.float32)
    resample = {"average": Image.Resampling.BOX, "bicubic": Image.Resampling.BICUBIC}[kernel]
    expected = np.asarray(Image.fromarray(x[0].numpy()).resize((7, 5), resample))
    np.testing.assert_allclose(Downsample(scale, kernel)(x.double())[0].numpy(), expected, rtol=0, atol=2e-6)


def test_averages_of_blocks() -> None:
    x = normal(2, 3, 6, 9)
    torch.testing.assert_close(Downsample(3)(x), torch.nn.functional.avg_pool2d(x, 3), rtol=0, atol=1e-15)


@pytest.mark.parametrize("kernel", ["average", "bicubic"])
def test_downsampling_keeps_a_constant(kernel: str) -> None:
    x = torch.full((1, 8, 12), 0.7, dtype=torch.float64)
    torch.testing.assert_close(Downsample(4, kernel)(x), torch.full((1, 2, 3), 0.7, dtype=torch.float64))


def test_grey_is_pillows_up_to_its_rounding() -> None:
    pixels = (255 * torch.rand(1, 3, 5, 4, generator=torch.Generator().manual_seed(0))).round().double()
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy().astype(np.uint8)).convert("L")
    np.testing.assert_allclose(Grey()(pixels)[0, 0].numpy(), np.asarray(picture), rtol=0, atol=0.51)


def test_hadamard_is_scipys() -> None:
    mask, x = bernoulli(16), normal(3, 16)
    matrix = scipy.linalg.hadamard(16) / 4.0
    expected = x @ torch.from_numpy(matrix).mT
    torch.testing.assert_close(Hadamard(mask)(x), expected[:, mask], rtol=0, atol=1e-14)
    x = normal(2, 4, 8)
    two = (
        torch.from_numpy(scipy.linalg.hadamard(4) / 2.0) @ x @ torch.from_numpy(scipy.linalg.hadamard(8) / math.sqrt(8))
    )
    torch.testing.assert_close(Hadamard(torch.ones(4, 8))(x), two.flatten(1), rtol=0, atol=1e-14)


def test_fourier_is_numpys() -> None:
    x = normal(2, 3, 5, 7)
    expected = np.fft.fft2(x.numpy(), norm="ortho")[..., MASK.numpy()]
    y = Fourier(MASK)(x).numpy()
    np.testing.assert_allclose(y[..., 0, :] + 1j * y[..., 1, :], expected, rtol=0, atol=1e-14)


def test_fourier_sees_a_mirrored_pair_of_frequencies_twice() -> None:
    """Singular values sqrt((m_k + m_-k) / 2): 1 for both of a pair and for its own mirror image, sqrt(1/2) for one."""
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[0, 0] = mask[1, 2] = mask[3, 3] = mask[2, 1] = True  # (1, 2) and (3, 3) mirror each other; (2, 1) and (2, 4)
    values = Fourier(mask).svd((4, 5)).values
    half = math.sqrt(0.5)
    expected = {(0, 0): 1.0, (1, 2): 1.0, (3, 3): 1.0, (2, 1): half, (2, 4): half}
    for at in np.ndindex(4, 5):
        assert values[at].item() == pytest.approx(expected.get(at, 0.0), abs=1e-15)


@pytest.mark.parametrize("size", [32, 33])
def test_radon_is_scikit_images(size: int) -> None:
    transform = pytest.importorskip("skimage.transform")
    angles = np.array([0.0, 17.0, 45.0, 90.0, 133.0, 180.0])
    at = np.arange(size) - size // 2
    disk = 1.0 / (1.0 + np.exp(np.hypot(at[:, None] - 3, at[None, :] + 2) - size / 4))  # a smooth edge
    disk[np.hypot(at[:, None], at[None, :]) > size // 2 - 1] = 0.0
    expected = transform.radon(disk, angles, circle=True).T
    sums = Radon(angles, size)(torch.from_numpy(disk)[None])[0]
    np.testing.assert_allclose(sums.numpy(), expected, rtol=0, atol=1e-10 * expected.max())


def test_radon_sums_columns_at_0_and_keeps_the_mass() -> None:
    x = torch.zeros(1, 15, 15, dtype=torch.float64)
    x[0, 5:10, 4:9] = normal(5, 5).abs()
    sums = Radon([0.0, 30.0, 45.0, 90.0], 15)(x)[0]
    torch.testing.assert_close(sums[0], x[0].sum(0), rtol=0, atol=1e-13)
    torch.testing.assert_close(sums.sum(1), x.sum().expand(4), rtol=0.03, atol=0)  # interpolation: a few per cent


def test_a_mask_keeps_the_entries_in_their_order_and_fills_holes() -> None:
    mask = np.array([[True, False, True], [False, False, True]])
    x = torch.arange(12.0).reshape(2, 2, 3)
    A = Mask(mask)
    assert A(x).tolist() == [[0, 2, 5], [6, 8, 11]]
    assert A.adjoint(A(x))[0].tolist() == [[0, 0, 2], [0, 0, 5]]
    assert A.fill(A(x), -1.0)[1].tolist() == [[6, -1, 8], [-1, -1, 11]]


def test_operators_keep_what_they_were_given() -> None:
    """Their own copy, in whatever order the array lies in memory."""
    mask, kernel = np.eye(3, dtype=bool), normal(3, 3).numpy()
    A, B = Mask(mask), Convolution(kernel[::-1, ::-1])
    expected = torch.from_numpy(kernel.copy()).flip(0, 1)
    mask[:], kernel[:] = False, 0.0
    assert torch.equal(A.mask, torch.eye(3).bool())
    assert torch.equal(B.kernel, expected)


def test_noise_counts_real_measurements_only() -> None:
    x = normal(1, 3, 5, 7)
    measurement = sd.GaussianMeasurement(Mask(MASK), 0.1)
    y = measurement.simulate(x, seed=1)
    M = 3 * int(MASK.sum())
    assert y[0].numel() == M
    assert measurement.chi_square(x, y).item() == pytest.approx(1.0, abs=4 * math.sqrt(2 / M))


# kernels


@pytest.mark.parametrize("std", [0.4, 1.0, 2.3])
def test_the_gaussian_kernel_is_scipys(std: float) -> None:
    x = normal(31, 29)
    expected = scipy.ndimage.gaussian_filter(x.numpy(), std, mode="reflect")
    blurred = Convolution(gaussian_kernel(std), "reflect")(x[None])[0]
    np.testing.assert_allclose(blurred.numpy(), expected, rtol=0, atol=1e-13)
    assert gaussian_kernel(std, 5).shape == (5, 5)
    assert gaussian_taps(std, 5).sum().item() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_a_motion_along_an_axis_is_a_box(length: int) -> None:
    """An even length ends in the middle of two pixels."""
    line = (
        torch.ones(length)
        if length % 2
        else torch.cat([torch.tensor([0.5]), torch.ones(length - 1), torch.tensor([0.5])])
    )
    line = line.double() / length
    torch.testing.assert_close(motion_kernel(length, 0.0), line[None], rtol=0, atol=1e-15)
    torch.testing.assert_close(motion_kernel(length, 90.0), line[:, None], rtol=0, atol=1e-15)
    torch.testing.assert_close(motion_kernel(length, 180.0), line[None], rtol=0, atol=1e-15)


@pytest.mark.parametrize("angle", [10.0, 30.0, 45.0, 100.0, 200.0])
def test_a_motion_has_the_length_and_direction_asked_for(angle: float) -> None:
    """The covariance of a rectangle of length L and width 1, each pixel adding its own 1/12."""
    length = 25.0
    k = motion_kernel(length, angle)
    assert k.sum().item() == pytest.approx(1.0, abs=1e-14)
    assert all(n % 2 == 1 for n in k.shape)
    torch.testing.assert_close(k, k.flip(0, 1), rtol=0, atol=1e-15)
    x = (torch.arange(k.shape[1]) - k.shape[1] // 2).double()
    y = -(torch.arange(k.shape[0]) - k.shape[0] // 2).double()[:, None]
    along = torch.tensor([math.cos(math.radians(angle)), math.sin(math.radians(angle))], dtype=torch.float64)
    measured = torch.stack([(k * x * x).sum(), (k * x * y).sum(), (k * y * y).sum()])
    inner = (length**2 - 1) / 12
    exact = torch.stack([along[0] ** 2, along[0] * along[1], along[1] ** 2]) * inner
    exact = exact + torch.tensor([1 / 12 + 1 / 12, 0.0, 1 / 12 + 1 / 12], dtype=torch.float64)
    torch.testing.assert_close(measured, exact, rtol=0.01, atol=0.1)


# structure


FAST = {
    "convolution": (Convolution(motion_kernel(21, 30.0)), (3, 127, 101)),
    "separable": (SeparableBlur(gaussian_taps(2.0), padding="zero"), (3, 127, 101)),
    "downsample": (3.0 * Downsample(4, "bicubic"), (3, 128, 96)),
    "mask": (-Mask(bernoulli(127, 101)), (3, 127, 101)),
    "grey": (Grey(), (3, 127, 101)),
    "hadamard": (Hadamard(bernoulli(64, 128)), (64, 128)),
    "fourier": (Fourier(bernoulli(127, 101)), (1, 127, 101)),
    "identity": (2.0 * Identity(), (3, 127, 101)),
}


@pytest.mark.parametrize(("operator", "shape"), FAST.values(), ids=FAST)
def test_structured_operators_have_an_svd_where_a_dense_one_is_out_of_reach(
    operator: LinearOperator, shape: Shape
) -> None:
    assert math.prod(shape) > base.DENSE_AT_MOST
    svd, x = operator.svd(shape), normal(1, *shape)
    z = svd.vt(x)
    torch.testing.assert_close(svd.v(z), x, rtol=0, atol=1e-12)
    torch.testing.assert_close(operator(x).norm(), (svd.values * z).norm(), rtol=1e-12, atol=0)
    torch.testing.assert_close(operator.adjoint(operator(x)), svd.v(svd.values**2 * z), rtol=0, atol=1e-11)


def test_a_dense_svd_is_refused_beyond_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Convolution(normal(3, 3), "zero")
    with pytest.raises(ValueError, match=r"Convolution\(3 x 3, zero\) has no fast SVD.*at most 4096 entries, not 4160"):
        operator.svd((1, 65, 64))
    with pytest.raises(ValueError, match="not 4608"):
        Radon(torch.arange(72), 64).svd((64, 64))  # more measurements than that, and 4096 unknowns
    monkeypatch.setattr(base, "DENSE_AT_MOST", 20)
    assert operator.svd((4, 5)).values.shape == (20,)
    with pytest.raises(ValueError, match="at most 20 entries, not 21"):
        operator.svd((3, 7))


def test_operators_combine() -> None:
    A, B, x = Dense(normal(3, 4)), Dense(normal(4, 5, seed=1)), normal(2, 5, seed=2)
    C = Dense(normal(3, 5, seed=3))
    a, b, c = A.dense(), B.dense(), C.dense()
    for operator, matrix in (
        (A @ B, a @ b),
        (A @ B + C, a @ b + c),
        (C - A @ B, c - a @ b),
        (2.0 * C * 3.0, 6.0 * c),
        (-C / 4.0, -c / 4.0),
        ((A @ B).T.T, a @ b),
        (B.T @ A.T, (a @ b).mT),
    ):
        torch.testing.assert_close(operator.dense(), matrix, rtol=0, atol=1e-14)
    assert Identity().T.dense(2).tolist() == [[1, 0], [0, 1]]
    assert repr(2.0 * (A @ B) + C.T) == "(2 * (Dense(3 x 4) @ Dense(4 x 5)) + Dense(5 x 3))"
    torch.testing.assert_close((A @ B)(x), A(B(x)), rtol=0, atol=0)


def test_operators_that_are_not_linear_combine_too() -> None:
    x, v = normal(2, 1, 4, 4), normal(2, 1, 2, 2, seed=1)
    blur, clip = Downsample(2), Clip(0.0, 1.0)
    chain = clip @ blur
    assert not chain.linear
    torch.testing.assert_close(chain(x), blur(x).clamp(0, 1), rtol=0, atol=0)
    torch.testing.assert_close(chain.pullback(x, v), Operator.pullback(chain, x, v), rtol=0, atol=1e-15)
    assert not (blur @ Quantise(8)).linear
    assert not (chain @ Quantise(8)).linear
    # the pullback of each, where autograd sees nothing
    assert torch.equal((blur @ Quantise(8)).pullback(x, v), blur.adjoint(v))
    with pytest.raises(ValueError, match="is not linear"):
        chain.as_linear()


def test_a_small_singular_value_does_not_magnify_the_rounding_of_float32() -> None:
    """A blur whose values go down to 1e-9 of the largest: U' y is right to the rounding of y."""
    A = Convolution(gaussian_kernel(1.9, 15))
    svd = A.svd((1, 24, 24))
    values = svd.values.flatten()
    assert ((values > svd.cutoff) & (values < 1e-8)).sum() > 10
    y = normal(2, 1, 24, 24)
    torch.testing.assert_close(svd.ut(y.float()).double(), svd.ut(y.float().double()), rtol=0, atol=1e-6)
    assert svd.ut(y).flatten(1).norm(dim=1).max() <= y.flatten(1).norm(dim=1).max() * (1 + 1e-6)


# what is refused


def refused(words: str):
    return pytest.raises(ValueError, match=words)


NAN, X = math.nan, normal(2, 3, 8, 6)
REFUSED = {
    "dense-vector": (lambda: Dense([1.0, 2.0]), r"A has shape \(2,\); a matrix \(M, D\) is needed"),
    "dense-empty": (lambda: Dense(torch.zeros(0, 3)), r"A has shape \(0, 3\); a matrix"),
    "dense-nan": (lambda: Dense([[1.0, NAN]]), "A holds values that are not finite"),
    "dense-length": (lambda: Dense(normal(2, 5))(normal(1, 4)), "A is 2 x 5: vectors of 5 entries.* not 4"),
    "dense-adjoint": (lambda: Dense(normal(2, 5)).adjoint(normal(1, 4)), "A is 2 x 5: vectors of 2 entries.* not 4"),
    "dense-no-shape": (lambda: Convolution(normal(3, 3)).dense(), r"takes samples of any shape; .*dense\(shape\)"),
    "mask-nothing": (lambda: Mask(torch.zeros(8, 6)), r"the mask of shape \(8, 6\) keeps nothing"),
    "mask-pixels": (lambda: Mask([[0, 255]]), "values from 0 to 255; True .* mask > 127.5"),
    "mask-shape": (lambda: Mask(torch.ones(6, 8))(X), r"the mask has shape \(6, 8\), and the samples \(3, 8, 6\)"),
    "mask-no-batch": (lambda: Mask(torch.ones(8, 6))(X[0, 0]), r"the mask has shape \(8, 6\), and the samples \(6,\)"),
    "mask-svd": (lambda: Mask(torch.ones(6, 8)).svd((3, 8, 6)), r"the mask has shape \(6, 8\), and the samples"),
    "mask-adjoint": (lambda: Mask([1, 0, 1]).adjoint(normal(2, 3)), r"keeps 2 entries; .* has shape \(2, 3\)"),
    "kernel-vector": (lambda: Convolution(normal(3)), r"the kernel has shape \(3,\); a kernel \(kh, kw\) is needed"),
    "kernel-nan": (lambda: Convolution([[1.0, NAN]]), "the kernel holds values that are not finite"),
    "kernel-size": (lambda: Convolution(normal(9, 3))(X), "the kernel, 9 x 3, is larger than the picture, 8 x 6"),
    "kernel-size-adjoint": (lambda: Convolution(normal(3, 7)).adjoint(X), "kernel, 3 x 7, is larger .*, 8 x 6"),
    "kernel-size-svd": (lambda: Convolution(normal(9, 3)).svd((3, 8, 6)), "kernel, 9 x 3, is larger .*, 8 x 6"),
    "kernel-padding": (lambda: Convolution(normal(3, 3), "mirror"), "padding = 'mirror'; .* circular, zero, reflect"),
    "kernel-vectors": (lambda: Convolution(normal(1, 1))(normal(2, 9)), r"takes pictures .* not shape \(2, 9\)"),
    "blur-matrix": (lambda: SeparableBlur(normal(3, 3)), r"kernel of the rows has shape \(3, 3\); a kernel \(kh,\)"),
    "blur-nan": (lambda: SeparableBlur([1.0], [NAN]), "the kernel of the columns holds values that are not finite"),
    "blur-padding": (lambda: SeparableBlur([1.0], padding="none"), "padding = 'none'"),
    "blur-size": (lambda: SeparableBlur(normal(7))(X), "the kernel, 7 x 7, is larger than the picture, 8 x 6"),
    "scale-zero": (lambda: Downsample(0), "scale = 0; it must be a whole number"),
    "scale-half": (lambda: Downsample(1.5), "scale = 1.5; it must be a whole number"),  # type: ignore[arg-type]
    "scale-kernel": (lambda: Downsample(2, "lanczos"), "kernel = 'lanczos'; .* average, bicubic"),
    "scale-size": (lambda: Downsample(4)(X), "8 x 6 cannot be made smaller by 4: crop it to 8 x 4"),
    "scale-large": (lambda: Downsample(7)(X), "8 x 6 cannot be made smaller by 7: take a smaller"),
    "grey-zero": (lambda: Grey([0.0, 0.0]), "all weights are 0"),
    "grey-nan": (lambda: Grey([NAN, 0.0]), "weights holds values that are not finite"),
    "grey-channels": (lambda: Grey()(X[:, :1]), r"needs pictures of 3 channels, \(B, 3, H, W\), not shape \(2, 1, 8"),
    "grey-adjoint": (lambda: Grey().adjoint(X), "needs pictures of 1 channel, "),
    "hadamard-size": (lambda: Hadamard(torch.ones(28, 28)), "784 entries; .* power of two: .*1024 .* 512"),
    "hadamard-shape": (lambda: Hadamard(torch.ones(4, 4))(X), r"the mask has shape \(4, 4\), and the samples"),
    "fourier-vector": (lambda: Fourier([1, 0]), r"the mask has shape \(2,\); frequencies \(H, W\) are needed"),
    "fourier-shape": (
        lambda: Fourier(torch.ones(6, 6))(X),
        r"the mask has shape \(6, 6\), and the samples \(3, 8, 6\)",
    ),
    "fourier-svd": (lambda: Fourier(torch.ones(6, 6)).svd((3, 8, 6)), r"the mask has shape \(6, 6\)"),
    "fourier-adjoint": (
        lambda: Fourier(torch.ones(2, 2)).adjoint(normal(2, 4)),
        "real and imaginary parts .* are needed",
    ),
    "radon-angles": (lambda: Radon([[0.0]], 8), r"angles has shape \(1, 1\); a vector of degrees is needed"),
    "radon-nan": (lambda: Radon([NAN], 8), "angles holds values that are not finite"),
    "radon-size": (lambda: Radon([0.0], 0), "size = 0; it must be 1 or more"),
    "radon-shape": (lambda: Radon([0.0], 8)(X), r"needs shape \(B, \*, 8, 8\) here, not \(2, 3, 8, 6\)"),
    "gaussian-std": (lambda: gaussian_kernel(0.0), "std = 0 pixels; it must be positive and finite"),
    "gaussian-size": (lambda: gaussian_kernel(1.0, 4), "size = 4; it must be odd and positive"),
    "motion-length": (lambda: motion_kernel(0.5), "length = 0.5 pixels; it must be finite and 1 or more"),
    "motion-angle": (lambda: motion_kernel(3.0, math.inf), "angle = inf degrees; it must be finite"),
    "scaled-nan": (lambda: NAN * Identity(), "an operator is scaled by nan; a finite number is needed"),
    "sum-shapes": (
        lambda: (Grey() + Identity())(X),
        r"measurements of shape \(1, 8, 6\) and \(3, 8, 6\) cannot be added",
    ),
    "functions-alone": (lambda: FromFunctions(lambda x: x), "without its adjoint; give adjoint=, or shape="),
    "functions-detached": (
        lambda: FromFunctions(lambda x: x.detach(), shape=(3,)).adjoint(normal(1, 3)),
        "autograd finds no way through the function; give its adjoint=",
    ),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_mistakes_are_refused_in_words(make, words: str) -> None:
    with refused(words):
        make()


def test_a_kernel_need_not_sum_to_one() -> None:
    x = torch.ones(1, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(Convolution([[1.0, 2.0]])(x), 3 * x, rtol=0, atol=1e-14)


# a user's own operator


class Wrong(Operator):
    """A map that is an operator by name only."""

    def __init__(self, function) -> None:
        self.function = function

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


def own(forward, adjoint=lambda y: 2 * y) -> LinearOperator:
    return FromFunctions(forward, adjoint)


double = lambda x: 2 * x  # noqa: E731
counter = torch.Generator().manual_seed(0)
WRONG = {
    "adjoint": (own(double, lambda y: 3 * y), r"<A x, y> = (\S+) but <x, A' y> = (\S+): the adjoint is wrong"),
    "adjoint-slightly": (own(double, lambda y: 2.000001 * y), "the adjoint is wrong"),
    "adjoint-shifted": (own(lambda x: x.roll(1, -1), lambda y: y.roll(1, -1)), "the adjoint is wrong"),
    "adjoint-shape": (own(lambda x: x[..., :3], double), r"A' y has shape \(4, 3\) .* that of a sample, \(4, 5\)"),
    "adjoint-nan": (own(double, lambda y: 0 * y / 0), "A' gives values that are not finite, for 3 of 3 samples"),
    "adjoint-coupled": (own(double, lambda y: 2 * y - y.mean(0)), "A' couples the samples"),
    "adjoint-dtype": (own(double, lambda y: 2 * y.float()), "A' gives torch.float32 for torch.float64"),
    "affine": (own(lambda x: 2 * x + 1), "is not linear: .* differ by"),
    "quadratic": (own(lambda x: x * x.abs()), "is not linear"),
    "nan": (Wrong(lambda x: x.clamp_min(0).log()), "A gives values that are not finite, for 3 of 3"),
    "random": (Wrong(lambda x: x + torch.randn(x.shape, generator=counter)), "asked for twice: the answers differ by"),
    "coupled": (Wrong(lambda x: x - x.mean(0)), "A couples the samples of a batch: that of the first alone"),
    "neighbours": (Wrong(lambda x: x + (x[1:2] if len(x) > 1 else 0 * x)), "A couples the samples"),
    "batch-lost": (Wrong(lambda x: x.flatten(0, 1)), r"A gives shape \(12, 5\) for a batch of shape \(3, 4, 5\)"),
    "batch-summed": (Wrong(lambda x: x.flatten(1).sum(1)), r"A gives one number for each of a batch"),
    "batch-squeezed": (
        Wrong(lambda x: x.squeeze(0) if len(x) == 1 else x),
        r"\(4, 5\) for one sample, and \(3, 4, 5\)",
    ),
    "dtype": (Wrong(lambda x: x.float()), "A gives torch.float32 for torch.float64"),
    "complex": (Wrong(lambda x: torch.fft.fft(x)), "A gives torch.complex128 for torch.float64"),
}


@pytest.mark.parametrize(("operator", "words"), WRONG.values(), ids=WRONG)
def test_an_operator_that_is_wrong_is_refused_with_the_figure(operator: Operator, words: str) -> None:
    with refused(words):
        check_operator(operator, (4, 5))


def test_the_figure_is_the_measured_one() -> None:
    with refused("the adjoint is wrong") as caught:
        check_operator(own(double, lambda y: 3 * y), (4, 5))
    left, right = (
        float(word) for word in str(caught.value).replace(" but", "").replace(":", "").split() if "." in word
    )
    assert left / right == pytest.approx(2 / 3, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(5))
def test_right_operators_pass(dtype: torch.dtype, seed: int) -> None:
    check_operator(own(double), (4, 5), dtype=dtype, seed=seed)
    check_operator(Convolution(gaussian_kernel(1.0, 5), "reflect"), (1, 8, 9), dtype=dtype, seed=seed)
    check_operator(0.0 * Identity(), (3,), dtype=dtype, seed=seed)
    check_operator(Clip(-0.5, 0.5), (4, 5), dtype=dtype, seed=seed)
