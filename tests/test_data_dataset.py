"""What a data set promises: exact scaling, honest checks, a split by content, and exact symmetries."""

import numpy as np
import pytest
import torch

from scoresde.data import DataError, Dataset, flip_horizontal, from_array, quarter_turns, split, standardise


def vectors(n: int = 400, seed: int = 0) -> Dataset:
    return from_array(np.random.default_rng(seed).standard_normal((n, 3)).astype(np.float32))


def ramp(dtype: type) -> Dataset:
    """One picture holding every value of the type."""
    top = np.iinfo(dtype).max
    return from_array(np.arange(top + 1, dtype=dtype).reshape(1, -1, 256))


@pytest.mark.parametrize(("dtype", "levels"), [(np.uint8, 256), (np.uint16, 65536)])
def test_pictures_are_scaled_to_plus_minus_one(dtype: type, levels: int) -> None:
    data = ramp(dtype)
    x = data.batch([0]).flatten()
    assert x.dtype == torch.float32
    assert data.levels == levels
    assert (x[0], x[-1]) == (-1.0, 1.0)
    exact = 2 * np.arange(levels, dtype=np.float64) / (levels - 1) - 1
    assert np.abs(x.double().numpy() - exact).max() < 1.2e-7


def test_every_stored_value_can_be_recovered_from_a_batch() -> None:
    data = ramp(np.uint16)
    back = torch.round((data.batch([0]).double() + 1) * 32767.5)
    np.testing.assert_array_equal(back.numpy(), data.array.astype(np.float64))


def test_a_value_range_of_its_own_is_obeyed() -> None:
    array = np.arange(17, dtype=np.uint8).reshape(1, 1, 1, 17)
    data = Dataset(array, "image", "ramp", (0, 16))
    torch.testing.assert_close(data.batch([0])[0, 0, 0], torch.arange(17) / 8 - 1, rtol=0, atol=0)
    assert data.levels == 17


def test_arrays_are_handed_out_as_they_are() -> None:
    data = vectors()
    np.testing.assert_array_equal(data.batch([5, 3, 5]).numpy(), data.array[[5, 3, 5]])
    assert data.levels is None


@pytest.mark.parametrize("indices", [[2, 0], np.array([2, 0]), torch.tensor([2, 0])])
def test_batches_take_any_kind_of_indices_and_are_copies(indices: object) -> None:
    data = vectors()
    x = data.batch(indices)
    np.testing.assert_array_equal(x.numpy(), data.array[[2, 0]])
    before = data.array.copy()
    x.zero_()
    np.testing.assert_array_equal(data.array, before)


def test_taking_items_takes_their_labels() -> None:
    data = from_array(np.arange(8.0).reshape(4, 2), np.array([3, 1, 2, 0]))
    taken = data.take([2, 0])
    np.testing.assert_array_equal(taken.array, [[4, 5], [0, 1]])
    np.testing.assert_array_equal(taken.labels, [2, 3])
    assert taken.shape == (2,)


def test_non_finite_values_are_counted_and_located() -> None:
    array = np.zeros((4, 2, 3), np.float32)
    array[2, 1, 0], array[3, 0, 0] = np.nan, np.inf
    with pytest.raises(DataError, match=r"2 values are NaN or infinite .* first at index \(2, 1, 0\)"):
        from_array(array)


def test_float64_beyond_float32_is_refused() -> None:
    with pytest.raises(DataError, match="1 values are NaN or infinite as float32"):
        from_array(np.array([[1e300, 0.0]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"array": np.zeros((2, 1, 4, 4), np.float32)}, "must be uint8 or uint16"),
        ({"array": np.zeros((2, 4, 4), np.uint8)}, "must be .N, 1 or 3, H, W."),
        ({"array": np.zeros((2, 4, 4, 4), np.uint8)}, "must be .N, 1 or 3, H, W."),
        ({"value_range": None}, "need a value range"),
        ({"labels": np.zeros(3, np.int64)}, "labels must be 2 int64"),
        ({"labels": np.array([0, -1])}, "labels must be 0 or more"),
        ({"labels": np.array([0, 2]), "class_names": ("a", "b")}, "in 0 to 1, got 0 to 2"),
    ],
)
def test_inconsistent_data_sets_cannot_be_made(change: dict[str, object], message: str) -> None:
    good = {
        "array": np.zeros((2, 1, 4, 4), np.uint8),
        "kind": "image",
        "name": "x",
        "value_range": (0, 255),
    }
    Dataset(**good)
    with pytest.raises(DataError, match=message):
        Dataset(**(good | change))


def test_standardising_numbers_are_exact() -> None:
    array = np.random.default_rng(0).normal(1000.0, 0.5, (50, 7, 2)).astype(np.float32)
    mean, std = standardise(array)
    assert mean == pytest.approx(array.astype(np.float64).mean(), rel=1e-13)
    assert std == pytest.approx(array.astype(np.float64).std(), rel=1e-10)


def test_standardising_whole_numbers_does_not_overflow() -> None:
    assert standardise(np.array([[0, 255], [255, 0]], np.uint8)) == (127.5, 127.5)


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.full((4, 2), 3.0)])
def test_what_has_no_scale_cannot_be_standardised(array: np.ndarray) -> None:
    with pytest.raises(DataError, match="cannot standardise"):
        standardise(array)


def rows(data: Dataset) -> set[bytes]:
    return {item.tobytes() for item in data.array}


def test_a_split_loses_nothing_and_shares_nothing() -> None:
    data = vectors()
    train, held_out = split(data, 0.2)
    assert len(train) + len(held_out) == len(data)
    assert rows(train) | rows(held_out) == rows(data)
    assert not rows(train) & rows(held_out)


@pytest.mark.parametrize("held_out", [0.05, 0.3, 0.9])
def test_the_held_out_share_is_as_asked_within_chance(held_out: float) -> None:
    n = 4000
    _, held = split(vectors(n), held_out)
    assert abs(len(held) - n * held_out) < 4 * np.sqrt(n * held_out * (1 - held_out))


def test_the_split_does_not_depend_on_order_or_company() -> None:
    data = vectors()
    _, held = split(data, 0.1)
    shuffled = data.take(np.random.default_rng(1).permutation(len(data)))
    assert rows(split(shuffled, 0.1)[1]) == rows(held)
    half = data.take(np.arange(200))
    assert rows(split(half, 0.1)[1]) == rows(held) & rows(half)


def test_duplicates_fall_on_one_side() -> None:
    data = vectors(50)
    doubled = data.take(np.tile(np.arange(50), 3))
    train, held_out = split(doubled, 0.3)
    assert not rows(train) & rows(held_out)
    assert len(held_out) == 3 * len(rows(held_out)) > 0


def test_another_seed_is_another_split() -> None:
    data = vectors()
    assert rows(split(data, 0.1, seed=0)[1]) != rows(split(data, 0.1, seed=1)[1])


def test_the_split_is_the_one_written_down() -> None:
    data = from_array(np.arange(40, dtype=np.float32).reshape(20, 2))
    np.testing.assert_array_equal(split(data, 0.2, seed=3)[1].array[:, 0], WRITTEN_DOWN)


# computed once by hashlib.blake2b(item, digest_size=8, key=seed as 8 little-endian bytes)
WRITTEN_DOWN = [2, 38]


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("held_out", [1e-9, 0.5, 1 - 1e-9])
def test_neither_side_is_empty_when_items_differ(n: int, held_out: float) -> None:
    train, held = split(vectors(n), held_out)
    assert len(train) >= 1
    assert len(held) >= 1
    assert len(train) + len(held) == n


@pytest.mark.parametrize("n", [1, 5])
def test_equal_items_are_all_for_training(n: int) -> None:
    train, held = split(from_array(np.ones((n, 2))), 0.5)
    assert (len(train), len(held)) == (n, 0)
    assert held.shape == (2,)


def test_labels_stay_with_their_items() -> None:
    array = np.arange(300, dtype=np.uint8).reshape(-1, 3, 1)[:100].repeat(2, axis=2)
    labels = array[:, 0, 0].astype(np.int64)
    for side in split(from_array(array, labels), 0.3):
        np.testing.assert_array_equal(side.labels, side.array[:, 0, 0, 0])


@pytest.mark.parametrize(("held_out", "seed"), [(0.0, 0), (1.0, 0), (-1, 0), (0.1, -1), (0.1, 2**64)])
def test_senseless_splits_are_refused(held_out: float, seed: int) -> None:
    with pytest.raises(ValueError, match="must lie"):
        split(vectors(5), held_out, seed)


def test_flips_mirror_the_masked_pictures_only() -> None:
    x = torch.arange(24.0).reshape(2, 1, 3, 4)
    y = flip_horizontal(x, torch.tensor([False, True]))
    assert torch.equal(y[0], x[0])
    assert torch.equal(y[1, 0, 0], torch.tensor([15.0, 14.0, 13.0, 12.0]))
    assert torch.equal(x, torch.arange(24.0).reshape(2, 1, 3, 4))


def test_quarter_turns_turn_anticlockwise() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(5, 1, 2, 2)
    y = quarter_turns(x, torch.tensor([0, 1, 2, 3, 4]))
    expected = [[[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]], [[1, 2], [3, 4]]]
    assert torch.equal(y[:, 0], torch.tensor(expected, dtype=torch.float32))


def test_symmetries_refuse_what_does_not_fit() -> None:
    x = torch.zeros(2, 1, 3, 4)
    with pytest.raises(ValueError, match="mask must be bool"):
        flip_horizontal(x, torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="mask must be bool"):
        flip_horizontal(x, torch.tensor([True]))
    with pytest.raises(ValueError, match="square"):
        quarter_turns(x, torch.tensor([1, 0]))
    with pytest.raises(ValueError, match="whole numbers"):
        quarter_turns(torch.zeros(2, 3, 3), torch.tensor([1.0, 0.0]))
