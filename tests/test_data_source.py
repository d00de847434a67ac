"""Names and the data behind them: toys with known laws, bundled pictures, and help with mistakes."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scoresde.data import (
    SOURCES,
    DataError,
    Dataset,
    Options,
    bundled,
    checkerboard,
    digits,
    from_array,
    moons,
    open_data,
    photos,
    read_image,
    rings,
    swissroll,
)

TOYS: dict[str, Callable[..., np.ndarray]] = {
    "moons": moons,
    "checkerboard": checkerboard,
    "swissroll": swissroll,
    "rings": rings,
}


@pytest.mark.parametrize("name", TOYS)
def test_toys_have_mean_zero_and_variance_one(name: str) -> None:
    n = 40_000
    x = TOYS[name](n, seed=5).astype(np.float64)
    # both within four standard errors
    assert (np.abs(x.mean(axis=0)) < 4 * x.std(axis=0) / np.sqrt(n)).all()
    square = (x**2).mean(axis=1)
    assert abs(square.mean() - 1.0) < 4 * square.std() / np.sqrt(n)


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_repeatable_float32_points(name: str) -> None:
    data = open_data(name, Options(n=100, seed=3))
    assert (data.array.shape, data.array.dtype, data.kind) == ((100, 2), np.float32, "array")
    np.testing.assert_array_equal(data.array, TOYS[name](100, 3))
    assert (data.array != open_data(name, Options(n=100, seed=4)).array).all()


def unscaled(x: np.ndarray, mean: tuple[float, float], variance: float) -> np.ndarray:
    return x.astype(np.float64) * np.sqrt(variance) + mean


def test_the_checkerboard_is_even_on_black_and_empty_on_white() -> None:
    fields = np.floor(unscaled(checkerboard(16_000), (2.0, 2.0), 4 / 3) - 1e-9).astype(int)
    assert (fields.sum(axis=1) % 2 == 0).all()
    counts = np.bincount(4 * fields[:, 0] + fields[:, 1], minlength=16)
    assert (np.abs(counts[counts > 0] - 2000) < 4 * np.sqrt(2000)).all()
    assert (counts > 0).sum() == 8


def test_rings_without_noise_are_four_circles() -> None:
    x = unscaled(rings(4000, noise_std=0.0), (0.0, 0.0), 30 / 8)
    radius = np.hypot(*x.T)
    np.testing.assert_allclose(radius, np.rint(radius), atol=1e-5)
    assert set(np.rint(radius)) == {1, 2, 3, 4}


def test_the_swissroll_without_noise_is_a_spiral() -> None:
    mean = (2.0, 2 / (3 * np.pi))
    variance = (9.75 * np.pi**2 - mean[0] ** 2 - mean[1] ** 2) / 2
    x = unscaled(swissroll(500, noise_std=0.0), mean, variance)
    a = np.hypot(*x.T)
    assert 1.5 * np.pi - 1e-4 <= a.min()
    assert a.max() <= 4.5 * np.pi + 1e-4
    np.testing.assert_allclose(x, np.stack([a * np.cos(a), a * np.sin(a)], axis=1), atol=1e-4)


def test_the_moons_without_noise_are_two_half_circles() -> None:
    variance = (3 / 4 + 1 / 2 - (2 / np.pi) ** 2 + (2 / np.pi - 1 / 4) ** 2) / 2
    x, y = unscaled(moons(2000, noise_std=0.0), (0.5, 0.25), variance).T
    outer = (np.abs(np.hypot(x, y) - 1) < 1e-5) & (y > -1e-5)
    inner = (np.abs(np.hypot(x - 1, y - 0.5) - 1) < 1e-5) & (y < 0.5 + 1e-5)
    assert (outer | inner).all()
    assert abs(outer.sum() - 1000) < 4 * np.sqrt(500)


def test_toys_refuse_options_of_pictures_and_zero_points() -> None:
    with pytest.raises(DataError, match="moons: size, channels does not apply to this data; it takes n, seed"):
        open_data("moons", Options(size=8, channels=3))
    with pytest.raises(ValueError, match="n must be 1 or more"):
        moons(0)
    with pytest.raises(DataError, match="would take"):
        open_data("rings", Options(n=10**12))


def test_digits_are_the_known_ones_on_their_own_scale() -> None:
    data = digits()
    assert (len(data), data.shape, data.levels, data.array.dtype) == (1797, (1, 8, 8), 17, np.uint8)
    np.testing.assert_array_equal(data.array[0, 0, 0], [0, 0, 5, 13, 9, 1, 0, 0])
    assert data.labels is not None
    assert list(data.labels[:11]) == [*range(10), 0]
    assert data.class_names == tuple("0123456789")
    x = data.batch([0])
    assert (float(x.min()), float(x[0, 0, 0, 3])) == (-1.0, 13 / 8 - 1)


def test_digits_take_n_and_channels() -> None:
    data = open_data("digits", Options(n=50, channels=3))
    assert data.array.shape == (50, 3, 8, 8)
    assert data.levels == 17
    with pytest.raises(DataError, match="crop does not apply"):
        open_data("digits", Options(crop=4))


@pytest.mark.parametrize("channels", [1, 3])
def test_photo_crops_are_parts_of_the_photographs(channels: int) -> None:
    names = bundled.COLOUR_PHOTOS + (bundled.GREY_PHOTOS if channels == 1 else ())
    data = photos(n=2 * len(names), size=24, channels=channels, seed=1)
    assert data.array.shape == (2 * len(names), channels, 24, 24)
    assert data.skipped == ()
    for i, name in enumerate(sorted(names)):
        picture = read_image(bundled._photo_folder() / name, channels)
        windows = np.lib.stride_tricks.sliding_window_view(picture[0], 24, axis=1)[:, :, 0]
        first_column = np.lib.stride_tricks.sliding_window_view(picture[0], 24, axis=0)
        assert windows.shape[0] == picture.shape[1]
        y, x = np.nonzero((first_column == data.array[i, 0, :, 0]).all(axis=-1))
        parts = [picture[:, b : b + 24, a : a + 24] for b, a in zip(y, x, strict=True)]
        assert any(np.array_equal(part, data.array[i]) for part in parts)


def test_photos_follow_the_seed() -> None:
    first = photos(n=32, seed=0).array
    np.testing.assert_array_equal(photos(n=32, seed=0).array, first)
    assert (photos(n=32, seed=1).array != first).any()


def test_every_photograph_ships_with_scikit_image_and_is_large_enough() -> None:
    data = photos(n=14, size=bundled.SMALLEST_SIDE, channels=1)
    assert data.shape == (1, 300, 300)
    assert photos(n=8, size=75, downscale=4).shape == (3, 75, 75)
    with pytest.raises(DataError, match="must not exceed 300"):
        photos(size=151, downscale=2)


def test_downscaled_photos_hold_more_of_the_scene() -> None:
    # the mean absolute step between neighbours grows when more scene falls on a pixel
    near, far = (photos(n=400, size=16, channels=1, downscale=d).batch(range(400)) for d in (1, 8))
    assert float(far.diff(dim=-1).abs().mean()) > 1.5 * float(near.diff(dim=-1).abs().mean())


@pytest.mark.parametrize(("name", "module"), [("digits", "sklearn"), ("photos", "skimage")])
def test_a_missing_extra_says_how_to_install_it(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(bundled, "find_spec", lambda sought: None if sought == module else real(sought))
    with pytest.raises(DataError, match=r"pip install 'scoresde\[demo\]'"):
        open_data(name)


def test_photos_through_their_name() -> None:
    assert open_data("photos", Options(n=9, crop=20)).array.shape == (9, 3, 20, 20)
    with pytest.raises(DataError, match="size and crop mean the same"):
        open_data("photos", Options(crop=20, size=10))


@pytest.mark.parametrize(("typed", "meant"), [("moon", "moons"), ("swisroll", "swissroll"), ("digit", "digits")])
def test_a_mistyped_name_gets_a_suggestion(typed: str, meant: str) -> None:
    with pytest.raises(DataError, match=f"{typed}: no such data; did you mean {meant}.*DATA is one of digits"):
        open_data(typed)


def test_an_unknown_path_says_what_data_may_be() -> None:
    with pytest.raises(DataError, match=r"absent/folder: no such data\. DATA is one of .* IDX file"):
        open_data("absent/folder")


def test_a_caller_can_add_sources() -> None:
    def ones(options: Options) -> Dataset:
        return from_array(np.full((options.n or 3, 2), 1.0))

    assert len(open_data("gmm:ones", sources={**SOURCES, "gmm:ones": ones})) == 3


def test_a_name_wins_over_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "moons").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "moons" / "a.png")
    monkeypatch.chdir(tmp_path)
    assert open_data("moons").kind == "array"
    assert open_data("./moons").kind == "image"


def test_other_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "one.png")
    with pytest.raises(DataError, match="is one picture; put it in a folder"):
        open_data(tmp_path / "one.png")
    for content in (b"", b"some text"):
        (tmp_path / "data.txt").write_bytes(content)
        with pytest.raises(DataError, match="none of the kinds read"):
            open_data(tmp_path / "data.txt")


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 0}, {"channels": 2}, {"seed": -1}, {"size": 0}, {"crop": (4, 0)}, {"downscale": 0},
        {"background": 1.5},
    ],
)  # fmt: skip
def test_senseless_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must"):
        Options(**wrong)


def test_data_knows_nothing_of_the_rest() -> None:
    folder = Path(bundled.__file__).parent
    for file in folder.glob("*.py"):
        for line in file.read_text().splitlines():
            if line.startswith(("from scoresde", "import scoresde")):
                assert line.startswith("from scoresde.data")
