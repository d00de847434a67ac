"""Tasks, masks and kernels, and the way between the user's units and the model's."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import torch
from PIL import Image

import scoresde as sd
from scoresde.data import DataError
from scoresde.inverse import GaussianMeasurement, problems
from scoresde.inverse.units import PICTURES, Units
from scoresde.linalg import Clip, Dense, Gamma, Operator, PhaseRetrieval, check_function, check_operator

SHAPE = (3, 12, 12)
KERNEL = torch.tensor([[0.0, 0.1, 0.2], [0.3, 0.4, 0.0]], dtype=torch.float64)
MASK = torch.rand(12, 12, generator=torch.Generator().manual_seed(0)) > 0.4
LINEAR = {
    "denoise": problems.denoise(),
    "inpaint": problems.inpaint(MASK),
    "deblur": problems.deblur(KERNEL),
    "deblur, zeros outside": problems.deblur(KERNEL, "zero"),
    "gaussian deblur": problems.gaussian_deblur(0.8, "reflect"),
    "motion deblur": problems.motion_deblur(5, 30),
    "superresolve": problems.superresolve(2),
    "superresolve, bicubic": problems.superresolve(3, "bicubic"),
    "colourise": problems.colourise(),
    "mri": problems.mri(MASK),
    "tomography": problems.tomography(5, 12),
}
SMOOTH = {"hdr": problems.hdr(), "retrieve phase": problems.retrieve_phase()}
ROUNDED = {"dequantise": problems.dequantise(6), "dejpeg": problems.dejpeg(20)}
TASKS: dict[str, Operator] = {**LINEAR, **SMOOTH, **ROUNDED}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_an_operator_that_passes_its_check(name: str) -> None:
    if name in LINEAR:
        check_operator(TASKS[name], SHAPE)
    check_function(TASKS[name], SHAPE, gradient=name not in ROUNDED)
    assert TASKS[name].linear == (name in LINEAR)


def test_tasks_do_what_they_say() -> None:
    u = normal(2, *SHAPE)
    assert torch.equal(TASKS["denoise"](u), u)
    assert torch.equal(TASKS["inpaint"](u), u[..., MASK])
    blurred = scipy.ndimage.convolve(u[1, 2].numpy(), KERNEL.numpy(), mode="wrap")
    np.testing.assert_allclose(TASKS["deblur"](u)[1, 2].numpy(), blurred, atol=1e-12)
    blurred = scipy.ndimage.gaussian_filter(u[0, 1].numpy(), 0.8)  # edges reflected
    np.testing.assert_allclose(TASKS["gaussian deblur"](u)[0, 1].numpy(), blurred, atol=1e-12)
    torch.testing.assert_close(TASKS["superresolve"](u), torch.nn.functional.avg_pool2d(u, 2))
    grey = 0.299 * u[:, 0] + 0.587 * u[:, 1] + 0.114 * u[:, 2]
    torch.testing.assert_close(TASKS["colourise"](u)[:, 0], grey)
    torch.testing.assert_close(TASKS["hdr"](u), (2 * u - 0.5).clamp(0, 1))
    sums = TASKS["tomography"](u)
    torch.testing.assert_close(sums[..., 0, :], u.sum(-2))  # straight down at 0 degrees
    assert sums.shape == (2, 3, 5, 12)
    with pytest.raises(ValueError, match="views = 0"):
        problems.tomography(0, 8)


# units


@pytest.mark.parametrize("units", [PICTURES, Units(2.5, -1.3), Units()])
@pytest.mark.parametrize("noise", ["one level", "a level for each entry"])
@pytest.mark.parametrize("name", TASKS)
def test_the_model_is_told_of_the_measurement_that_the_user_made(name: str, noise: str, units: Units) -> None:
    """The same densities up to a factor, the same draws, and there and back again."""
    A, x = TASKS[name], normal(3, *SHAPE)
    u = units.scale * x + units.offset
    std = (
        0.3
        if noise == "one level"
        else 0.1 + torch.rand(A.out_shape(SHAPE), generator=torch.Generator().manual_seed(1))
    )
    users = GaussianMeasurement(A, std)
    y = users.simulate(u, seed=5)
    model = units.measurement(A, std, SHAPE)
    # d y_model = d y_user / scale in each entry
    factor = y[0].numel() * math.log(units.scale) if A.linear else 0.0
    torch.testing.assert_close(
        model.measurement.log_likelihood(x, model.to_model(y)),
        users.log_likelihood(u, y) + factor,
        rtol=1e-9,
        atol=1e-7,
    )
    torch.testing.assert_close(model.to_user(model.measurement.simulate(x, seed=5)), y)
    torch.testing.assert_close(model.to_user(model.to_model(y)), y)
    assert model.to_model(y.float()).dtype == torch.float32
    torch.testing.assert_close(units.to_user(units.to_model(u)), u)


def test_a_simulated_measurement_is_a_function_of_its_seed_and_row() -> None:
    """Standard normal noise off that of whatever restores it, the same in any batch and for all 64 bits of a seed."""
    measurement, x = GaussianMeasurement(problems.denoise(), 0.3), normal(4, 5000)
    z = (measurement.simulate(x, seed=7) - x) / 0.3
    assert abs(float(z.mean())) < 4 / math.sqrt(z.numel())
    assert abs(float(z.std()) - 1) < 4 / math.sqrt(2 * z.numel())
    assert torch.equal(measurement.simulate(x[:2], seed=7), measurement.simulate(x, seed=7)[:2])
    assert torch.equal(measurement.simulate(x.float(), seed=7), x.float() + 0.3 * z.float())
    noise = sd.CounterNoise(7, torch.arange(4), (5000,), torch.float64)
    others = [noise.start(), noise.at(0, 1.0, 0.0)(), (measurement.simulate(x, seed=7 + 2**32) - x) / 0.3, z.roll(1, 0)]
    for other in others:
        assert abs(float((z * other).mean())) < 4 / math.sqrt(z.numel())
    with pytest.raises(ValueError, match="seed"):
        measurement.simulate(x, seed=2**64)


def test_a_linear_operator_keeps_its_structure_and_any_other_is_asked_in_the_users_units() -> None:
    A = problems.deblur(KERNEL)
    assert PICTURES.measurement(A, 0.1, SHAPE).measurement.operator is A
    assert PICTURES.measurement(A, 0.1, SHAPE).measurement.noise_std == pytest.approx(0.2)
    gamma = PICTURES.measurement(Gamma(2.2), 0.1, SHAPE).measurement
    check_function(gamma.operator, SHAPE)
    assert gamma.noise_std == 0.1
    assert gamma.operator.out_shape(SHAPE) == SHAPE
    assert "Gamma" in str(gamma.operator)
    x = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(gamma.operator(x), torch.tensor([[0.0, 0.5**2.2, 1.0]], dtype=torch.float64))


def test_a_posterior_does_not_depend_on_the_units() -> None:
    """A mixture in the user's units, and the same in the model's: exact posteriors, mapped onto each other."""
    units = Units(2.0, 0.7)
    means, covariance = normal(3, 2), torch.tensor([[0.5, 0.2], [0.2, 0.3]], dtype=torch.float64)
    A, y = Dense([[1.0, -0.5]]), torch.tensor([0.4], dtype=torch.float64)
    prior = sd.GaussianMixture([0.2, 0.3, 0.5], means, covariance.expand(3, 2, 2))
    users = sd.GaussianMixture([0.2, 0.3, 0.5], units.to_user(means), 4.0 * covariance.expand(3, 2, 2))
    model = units.measurement(A, 0.3, (2,))
    there = prior.posterior(model.measurement, model.to_model(y))
    here = users.posterior(GaussianMeasurement(A, 0.3), y)
    x = normal(20, 2, seed=1)
    torch.testing.assert_close(there.log_prob(x), here.log_prob(units.to_user(x)) + 2 * math.log(2.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Units(0.0, 1.0), "scale = 0.0; it must be positive"),
        (lambda: Units(1.0, math.nan), "offset = nan"),
        (lambda: PICTURES.measurement(Clip(), 0.0, SHAPE), "noise_std = 0"),
        # in the units that the user gave it
        (lambda: PICTURES.measurement(problems.denoise(), -0.1, SHAPE), r"noise_std = -0\.1;"),
        (lambda: PICTURES.measurement(problems.inpaint(MASK), 0.1, (3, 8, 8)), "the mask has shape"),
        (lambda: PICTURES.measurement(PhaseRetrieval(), 0.1, (8,)), "takes pictures"),
    ],
)
def test_units_that_are_none_and_operators_that_do_not_fit_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# masks that are drawn


def test_a_box_in_the_middle_takes_half_of_each_side() -> None:
    mask = problems.box_mask(8, 12)
    expected = torch.ones(8, 12, dtype=torch.bool)
    expected[2:6, 3:9] = False
    assert torch.equal(mask, expected)
    assert problems.box_mask(100, 60, keep=0.5).double().mean().item() == pytest.approx(0.5, abs=0.01)
    assert int((~problems.box_mask(3, 2, keep=0.99)).sum()) == 1
    given = problems.box_mask(5, 6, box=(0, 4, 3, 2))
    assert int((~given).sum()) == 6
    assert not given[:3, 4:].any()


@pytest.mark.parametrize("box", [(0, 0, 5, 6), (-1, 0, 2, 2), (0, 5, 2, 2), (4, 0, 2, 2), (1, 1, 0, 2)])
def test_a_box_that_is_none_is_refused(box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"as \(top, left, height, width\); it must lie in a picture of 5 x 6"):
        problems.box_mask(5, 6, box=box)


@pytest.mark.parametrize("keep", [0.0, 1.0, math.nan])
def test_a_share_outside_its_range_is_refused(keep: float) -> None:
    with pytest.raises(ValueError, match="keep = "):
        problems.box_mask(5, 6, keep=keep)
    if keep != 1.0:
        with pytest.raises(ValueError, match="keep = "):
            problems.random_mask(5, 6, keep)


@pytest.mark.parametrize(("keep", "count"), [(0.25, 99), (0.001, 1), (1.0, 396)])
def test_a_random_mask_keeps_exactly_its_share(keep: float, count: int) -> None:
    mask = problems.random_mask(18, 22, keep, seed=3)
    assert mask.shape == (18, 22)
    assert int(mask.sum()) == count
    assert torch.equal(mask, problems.random_mask(18, 22, keep, seed=3))


def test_every_pixel_is_as_likely_as_any_other_and_all_64_bits_of_the_seed_count() -> None:
    share = torch.stack([problems.random_mask(4, 5, 0.3, seed=k) for k in range(2000)]).double().mean(0)
    assert (share - 0.3).abs().max() < 4 * math.sqrt(0.3 * 0.7 / 2000)
    assert not torch.equal(problems.random_mask(9, 9, 0.5, seed=1), problems.random_mask(9, 9, 0.5, seed=1 + 2**32))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 28), (64, 64), (33, 200), (256, 256)])
def test_text_takes_some_pixels_all_over_the_picture(height: int, width: int) -> None:
    mask = problems.text_mask(height, width)
    assert mask.shape == (height, width)
    assert 0.05 < 1 - mask.double().mean().item() < 0.3
    third = width // 3
    assert not mask[:, :third].all()
    assert not mask[:, -third:].all()
    if height > 8:
        assert not mask[: height // 2].all()
        assert not mask[height // 2 :].all()


def test_text_is_the_words_that_are_given() -> None:
    assert not torch.equal(problems.text_mask(32, 64, "one"), problems.text_mask(32, 64, "two"))
    both = problems.text_mask(32, 64, "one\n two ")
    assert torch.equal(both, problems.text_mask(32, 64, "one two"))
    assert problems.text_mask(64, 64, size=24).double().mean() != problems.text_mask(64, 64, size=8).double().mean()
    with pytest.raises(ValueError, match="it must hold a letter"):
        problems.text_mask(32, 64, " \n")
    with pytest.raises(ValueError, match="size = 3"):
        problems.text_mask(32, 64, size=3)


def test_cartesian_columns_are_whole_and_hold_the_low_frequencies() -> None:
    mask = problems.cartesian_mask(40, 30, acceleration=4, centre=0.1, seed=2)
    assert int(mask.all(0).sum()) == int(mask.any(0).sum()) == 8  # of 30, rounded
    assert mask[:, [0, 1, -1]].all()
    assert torch.equal(mask, problems.cartesian_mask(40, 30, acceleration=4, centre=0.1, seed=2))
    assert not torch.equal(mask, problems.cartesian_mask(40, 30, acceleration=4, centre=0.1, seed=3))
    assert problems.cartesian_mask(5, 5, acceleration=1.0).all()
    with pytest.raises(ValueError, match=r"acceleration = 0\.5"):
        problems.cartesian_mask(40, 30, acceleration=0.5)
    with pytest.raises(ValueError, match=r"centre = 0\.3; it must lie in \[0, 0\.25\]"):
        problems.cartesian_mask(40, 30, centre=0.3)


@pytest.mark.parametrize("mask", [problems.cartesian_mask, problems.random_mask])
def test_masks_that_are_drawn_know_all_of_their_seed(mask) -> None:
    """Also its upper 32 bits, and there is no seed of 65."""
    drawn = [
        mask(20, 60, 0.5 if mask is problems.random_mask else 2.0, seed=seed) for seed in (1, 1 + 2**32, 2**64 - 1)
    ]
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="seed"):
        mask(20, 60, 1.0, seed=2**64)


# masks from files


def saved(path: Path, array: np.ndarray) -> Path:
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("bool.npy", MASK.numpy()),
        ("bytes.npy", 255 * MASK.numpy().astype(np.uint8)),
        ("floats.npy", MASK.numpy().astype(np.float32)),
        ("grey.png", 255 * MASK.numpy().astype(np.uint8)),
        ("soft.png", np.where(MASK.numpy(), 140, 110).astype(np.uint8)),
        ("colour.png", np.repeat(255 * MASK.numpy().astype(np.uint8)[..., None], 3, -1)),
        ("deep.png", np.where(MASK.numpy(), 40000, 30000).astype(np.uint16)),
        ("ringing.jpg", 255 * MASK.numpy().astype(np.uint8)),
        ("one-bit.png", MASK.numpy()),
    ],
)
def test_a_mask_is_read_from_an_array_or_a_picture(tmp_path: Path, name: str, array: np.ndarray) -> None:
    mask = problems.read_mask(saved(tmp_path / name, array), 12, 12)
    assert mask.dtype == torch.bool
    assert torch.equal(mask, MASK)


def test_a_mask_of_another_size_or_of_many_values_is_refused(tmp_path: Path) -> None:
    for name in ("mask.npy", "mask.png"):
        path = saved(tmp_path / name, 255 * MASK.numpy().astype(np.uint8))
        with pytest.raises(
            DataError, match=r"has the shape \(12, 12\) and the picture \(12, 16\); cut it to this size"
        ):
            problems.read_mask(path, 12, 16)
    path = saved(tmp_path / "grades.npy", np.arange(6.0).reshape(2, 3))
    with pytest.raises(DataError, match="holds 6 values from 0 to 5; a mask has two"):
        problems.read_mask(path, 2, 3)


# kernels from files


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """Every kind of file, in one folder."""
    k = KERNEL.numpy()
    np.save(tmp_path / "one.npy", k)
    np.savez(tmp_path / "one.npz", k)
    np.savez(tmp_path / "three.npz", a=k, b=k[::-1], c=2 * k)
    cells = np.empty((1, 3), dtype=object)
    cells[0, 0], cells[0, 1], cells[0, 2] = k, k.T, k[::-1]
    scipy.io.savemat(tmp_path / "cells.mat", {"kernels": cells})
    scipy.io.savemat(tmp_path / "named.mat", {"psf": k, "note": "measured", "row": k[:1]})
    scipy.io.savemat(tmp_path / "one.mat", {"psf": k.astype(np.float32)})
    Image.fromarray(np.rint(k * 500).astype(np.uint8)).save(tmp_path / "one.png")
    (tmp_path / "colon:1.npy").write_bytes((tmp_path / "one.npy").read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one.npy", KERNEL),
        ("one.npz", KERNEL),
        ("one.npz:0", KERNEL),
        ("three.npz:1", KERNEL.flip(0)),
        ("three.npz:b", KERNEL.flip(0)),
        ("cells.mat:0", KERNEL),
        ("cells.mat:1", KERNEL.mT),
        ("cells.mat:kernels[2]", KERNEL.flip(0)),
        ("named.mat:psf", KERNEL),
        ("one.mat", KERNEL),
        ("one.png", KERNEL),
        ("colon:1.npy", KERNEL),
    ],
)
def test_a_kernel_is_read_from_each_kind_of_file(kernels: Path, name: str, expected: torch.Tensor) -> None:
    kernel = problems.read_kernel(f"{kernels}/{name}")
    assert kernel.dtype == torch.float64
    torch.testing.assert_close(kernel, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.npy", "none.npy: there is no such file"),
        ("three.npz", r"holds 3 arrays \(a, b, c\); say which: three.npz:0 is the first"),
        ("three.npz:3", r"there is no 3; it holds 3 arrays \(a, b, c\), the first of which is 0"),
        ("three.npz:-1", "there is no -1"),
        ("three.npz:d", "there is no d"),
        ("three.npz:c", r"sums to 2; .* divide it by its sum and save it again, or .* normalise=True\)"),
        ("named.mat:note", "a matrix of real numbers is needed, not <U8"),
        ("named.mat:row", "sums to 0.3;"),
        ("one.png:1", "is a picture, and so one kernel; leave out :1"),
    ],
)
def test_a_kernel_that_cannot_be_chosen_or_does_not_sum_to_one_is_refused(
    kernels: Path, name: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        problems.read_kernel(f"{kernels}/{name}")


def test_a_kernel_is_normalised_when_asked_for(kernels: Path) -> None:
    torch.testing.assert_close(problems.read_kernel(f"{kernels}/three.npz:c", normalise=True), KERNEL)


def test_the_sum_of_a_kernel_is_one_to_the_rounding_of_float32(tmp_path: Path) -> None:
    for total in (1 - 5e-7, 1 + 5e-7):
        np.save(tmp_path / "k.npy", total * KERNEL.numpy())
        assert problems.read_kernel(tmp_path / "k.npy").sum().item() == pytest.approx(total, abs=1e-12)
    for total in (1 - 2e-6, 1 + 2e-6):
        np.save(tmp_path / "k.npy", total * KERNEL.numpy())
        with pytest.raises(DataError, match="with a sum of 1"):
            problems.read_kernel(tmp_path / "k.npy")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1.0, -2.0]]), "sums to -1; a blur keeps the brightness"),
        (np.zeros((3, 3)), "sums to 0;"),
        (np.array([[1.0, np.nan]]), "1 of 2 values are not finite"),
        (np.ones(4) / 4, r"a matrix of real numbers is needed, not float64 of shape \(4,\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (np.array([[0.5 + 1j, 0.5]]), "not complex128"),
        (np.array([[None]]), "cannot be decoded: .*allow_pickle"),
    ],
)
@pytest.mark.parametrize("normalise", [False, True])
def test_what_is_no_kernel_is_refused(tmp_path: Path, array: np.ndarray, message: str, normalise: bool) -> None:
    np.save(tmp_path / "k.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        problems.read_kernel(tmp_path / "k.npy", normalise=normalise)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".mat", ".png"])
def test_broken_files_are_bad_data(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"broken{suffix}"
    for content in (b"", b"nonsense", _half_of(suffix)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="broken"):
            problems.read_kernel(path)


def _half_of(suffix: str) -> bytes:
    """The first half of a good file."""
    stream, k = io.BytesIO(), np.random.default_rng(0).random((40, 40))
    if suffix == ".npy":
        np.save(stream, k)
    elif suffix == ".npz":
        np.savez(stream, k=k)
    elif suffix == ".mat":
        scipy.io.savemat(stream, {"k": k})
    else:
        Image.fromarray((255 * k).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()[: stream.tell() // 2]


def test_matlab_7_3_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "new.mat"
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(64))
    with pytest.raises(DataError, match=r"is MATLAB 7\.3, which is not read; save it with -v7, or as .npy"):
        problems.read_kernel(path)


def test_measured_kernels_and_masks_are_read(shared_data: Path) -> None:
    folder = shared_data / "blur-kernels"
    for i, size in enumerate((19, 17, 15, 27, 13, 21, 23, 23)):
        assert problems.read_kernel(f"{folder}/levin09.npz:{i}").shape == (size, size)
    assert torch.equal(
        problems.read_kernel(f"{folder}/levin09.npz:k4"), problems.read_kernel(f"{folder}/levin09.npz:3")
    )
    for i in range(12):
        kernel = problems.read_kernel(f"{folder}/kernels_12.mat:{i}")
        assert kernel.shape == (25, 25)
        assert abs(kernel.sum().item() - 1) < 1e-6
    with pytest.raises(DataError, match=r"sums to 0\.99998"):
        problems.read_kernel(f"{folder}/kernels_bicubicx234.mat:0")
    for name, share in (("lolcat_extra", 0.8507), ("lorem3", 0.8602)):
        mask = problems.read_mask(shared_data / "masks-ddrm" / f"{name}.npy", 256, 256)
        assert mask.double().mean().item() == pytest.approx(share, abs=1e-4)
