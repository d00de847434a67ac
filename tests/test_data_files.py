"""Folders and zips of real files: what is found, in what order, with which labels, and what is refused."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scoresde.data import DataError, Options, open_data


def write(path: Path, value: int | np.ndarray, shape: tuple[int, ...] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full(shape, value, np.uint8) if isinstance(value, int) else value
    Image.fromarray(pixels).save(path)


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(folder))
    return target


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Three pictures in two class folders, with things to pass over."""
    folder = tmp_path / "set"
    write(folder / "cat" / "b.png", 20)
    write(folder / "cat" / "deep" / "a.bmp", 10)
    write(folder / "dog" / "c.PNG", 30)
    write(folder / "__MACOSX" / "cat" / "._b.png", 99)
    write(folder / ".hidden" / "d.png", 99)
    write(folder / "dog" / "._c.png", 99)
    (folder / "cat" / "notes.txt").write_text("not a picture")
    return folder


def first_pixels(data: object) -> list[int]:
    return [int(value) for value in data.array[:, 0, 0, 0]]  # type: ignore[attr-defined]


@pytest.mark.parametrize("as_zip", [False, True])
def test_pictures_come_sorted_by_path_with_their_classes(classes: Path, tmp_path: Path, as_zip: bool) -> None:
    data = open_data(zipped(classes, tmp_path / "set.zip") if as_zip else classes)
    assert (data.kind, data.shape, data.value_range) == ("image", (1, 8, 8), (0, 255))
    assert first_pixels(data) == [20, 10, 30]
    np.testing.assert_array_equal(data.labels, [0, 0, 1])
    assert data.class_names == ("cat", "dog")
    assert data.skipped == ()


def test_a_shared_leading_folder_is_no_class(classes: Path) -> None:
    assert open_data(classes.parent).class_names == ("cat", "dog")


def test_pictures_directly_in_the_folder_have_no_labels(classes: Path) -> None:
    assert open_data(classes / "dog").labels is None
    write(classes / "top.png", 1)
    assert open_data(classes).labels is None


def test_different_sizes_are_listed_and_size_brings_them_together(tmp_path: Path) -> None:
    for i, shape in enumerate([(8, 8), (8, 8), (6, 9)]):
        write(tmp_path / f"{i}.png", 50 * i, shape)
    with pytest.raises(DataError, match=r"2 sizes .*: 8x8 \(2\), 9x6 \(1\); give --size"):
        open_data(tmp_path)
    data = open_data(tmp_path, Options(size=(4, 5)))
    assert data.shape == (1, 4, 5)
    assert first_pixels(data) == [0, 50, 100]


def test_grey_and_colour_and_both_depths_become_the_larger(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.full((4, 4), 255, np.uint8))
    write(tmp_path / "b.png", np.full((4, 4, 3), (10, 20, 30), np.uint8))
    write(tmp_path / "c.png", np.full((4, 4), 4660, np.uint16))
    data = open_data(tmp_path)
    assert (data.array.dtype, data.shape, data.value_range) == (np.uint16, (3, 4, 4), (0, 65535))
    np.testing.assert_array_equal(data.array[:, :, 0, 0], [[65535] * 3, [10 * 257, 20 * 257, 30 * 257], [4660] * 3])
    assert open_data(tmp_path, Options(channels=1)).shape == (1, 4, 4)


def many(folder: Path, n: int = 30) -> None:
    for i in range(n):
        write(folder / f"{i:03d}.png", i)


@pytest.mark.parametrize("damage", ["header", "body"])
def test_a_few_broken_files_are_left_out_and_reported(tmp_path: Path, damage: str) -> None:
    many(tmp_path)
    write(tmp_path / "007.png", np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8))
    whole = (tmp_path / "007.png").read_bytes()
    (tmp_path / "007.png").write_bytes(b"broken" if damage == "header" else whole[:-60])
    data = open_data(tmp_path)
    assert first_pixels(data) == [i for i in range(30) if i != 7]
    ((file, reason),) = data.skipped
    assert file == "007.png"
    assert ("not an image" if damage == "header" else "cannot be decoded") in reason


def test_labels_stay_right_when_files_are_left_out(tmp_path: Path) -> None:
    for i in range(30):
        write(tmp_path / "abc"[i % 3] / f"{i:03d}.png", i)
    (tmp_path / "a" / "003.png").write_bytes(b"broken")
    (tmp_path / "b" / "004.png").write_bytes((tmp_path / "b" / "004.png").read_bytes()[:46])
    data = open_data(tmp_path)
    assert len(data) == 28
    assert [value % 3 for value in first_pixels(data)] == list(data.labels)


@pytest.mark.parametrize("bad", [b"broken", None])
def test_more_than_a_tenth_broken_is_an_error(tmp_path: Path, bad: bytes | None) -> None:
    many(tmp_path)
    for i in range(4):
        file = tmp_path / f"{i:03d}.png"
        file.write_bytes(bad or file.read_bytes()[:46])
    with pytest.raises(DataError, match=r"4 of 30 pictures cannot be used.* 10%.*000\.png"):
        open_data(tmp_path)


def test_links_to_nowhere_and_pipes_are_reported_not_waited_for(tmp_path: Path) -> None:
    many(tmp_path)
    os.symlink(tmp_path / "absent", tmp_path / "link.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert [file for file, _ in open_data(tmp_path).skipped] == ["link.png", "pipe.png"]


def test_a_folder_without_pictures_says_what_is_in_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pictures in it .* found nothing"):
        open_data(tmp_path)
    (tmp_path / "train.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"found train\.npy"):
        open_data(tmp_path)


def gradient(folder: Path, n: int = 3) -> np.ndarray:
    """Pictures in which each pixel tells its own place and picture."""
    y, x = np.mgrid[:20, :30].astype(np.uint8)
    for i in range(n):
        write(folder / f"{i}.png", np.stack([y, x, np.full_like(x, i)], axis=2))
    return np.stack([y, x])


def test_crops_are_whole_parts_of_the_pictures(tmp_path: Path) -> None:
    gradient(tmp_path)
    data = open_data(tmp_path, Options(crop=(5, 7), n=1000))
    assert data.array.shape == (1000, 3, 5, 7)
    np.testing.assert_array_equal(data.array[:, 2, 0, 0], np.arange(1000) % 3)
    y, x = data.array[:, 0], data.array[:, 1]
    assert (np.diff(y.astype(int), axis=1) == 1).all()
    assert (np.diff(x.astype(int), axis=2) == 1).all()
    # every corner that is possible occurs
    assert set(y[:, 0, 0]) == set(range(16))
    assert set(x[:, 0, 0]) == set(range(24))


def test_crops_follow_the_seed_and_ignore_other_files(tmp_path: Path) -> None:
    gradient(tmp_path)
    ask = Options(crop=4)
    first = open_data(tmp_path, ask).array
    np.testing.assert_array_equal(open_data(tmp_path, ask).array, first)
    assert (open_data(tmp_path, Options(crop=4, seed=1)).array != first).any()
    write(tmp_path / "0a.png", 0, (20, 30, 3))
    np.testing.assert_array_equal(open_data(tmp_path, ask).array[[0, 2, 3]], first)


def test_a_crop_as_large_as_the_picture_is_the_picture(tmp_path: Path) -> None:
    places = gradient(tmp_path, n=1)
    np.testing.assert_array_equal(open_data(tmp_path, Options(crop=(20, 30))).array[0, :2], places)


def test_crops_are_resized_when_size_is_given_too(tmp_path: Path) -> None:
    gradient(tmp_path)
    assert open_data(tmp_path, Options(crop=16, size=8, n=4)).array.shape == (4, 3, 8, 8)


def test_a_crop_too_large_is_an_error(tmp_path: Path) -> None:
    gradient(tmp_path)
    with pytest.raises(DataError, match=r"crop of 21x21 pixels does not fit 3 of 3 .* 30x20 \(3\)"):
        open_data(tmp_path, Options(crop=21))


@pytest.mark.parametrize("crop", [None, 8])
def test_a_subset_is_random_repeatable_and_in_order(tmp_path: Path, crop: int | None) -> None:
    many(tmp_path)
    chosen = first_pixels(open_data(tmp_path, Options(n=10, crop=crop)))
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 10
    assert chosen == first_pixels(open_data(tmp_path, Options(n=10, crop=crop)))
    assert chosen != first_pixels(open_data(tmp_path, Options(n=10, crop=crop, seed=1)))


def test_asking_for_more_than_there_is_is_an_error(tmp_path: Path) -> None:
    many(tmp_path)
    with pytest.raises(DataError, match=r"n = 31 items .* only 30"):
        open_data(tmp_path, Options(n=31))


def test_too_much_memory_is_refused_before_decoding(tmp_path: Path) -> None:
    many(tmp_path)
    assert len(open_data(tmp_path, Options(memory_limit=30 * 64))) == 30
    with pytest.raises(DataError, match=r"would take .* GiB"):
        open_data(tmp_path, Options(memory_limit=30 * 64 - 1))


def test_transparent_pictures_show_the_chosen_background(tmp_path: Path) -> None:
    write(tmp_path / "a.png", np.zeros((4, 4, 4), np.uint8))
    assert (open_data(tmp_path).array == 255).all()
    assert (open_data(tmp_path, Options(background=0.0)).array == 0).all()


@pytest.mark.parametrize("cut", [10, -30])
def test_truncated_zips_are_refused(classes: Path, tmp_path: Path, cut: int) -> None:
    file = zipped(classes, tmp_path / "set.zip")
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(DataError, match="not a whole zip"):
        open_data(file)


def test_encrypted_zips_are_refused(classes: Path, tmp_path: Path) -> None:
    file = zipped(classes, tmp_path / "set.zip")
    data = bytearray(file.read_bytes())
    # the flag in each entry of the central directory says so
    at = data.find(b"PK\x01\x02")
    data[at + 8] |= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match="is encrypted; unpack it first"):
        open_data(file)


def test_a_member_with_a_wrong_checksum_is_left_out(tmp_path: Path) -> None:
    many(tmp_path / "set")
    file = tmp_path / "set.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted((tmp_path / "set").iterdir()):
            archive.write(path, path.name)
    data = bytearray(file.read_bytes())
    # in the last chunk of the first picture, which decoding alone would not notice
    data[data.find(b"IEND") + 5] ^= 1
    file.write_bytes(bytes(data))
    assert [name for name, _ in open_data(file).skipped] == ["000.png"]


def test_eurosat_opens_with_its_ten_classes(shared_data: Path) -> None:
    data = open_data(shared_data / "eurosat" / "EuroSAT_RGB_first900perclass_jpg.zip", Options(n=500, size=32))
    assert (len(data), data.shape, data.skipped) == (500, (3, 32, 32), ())
    assert len(data.class_names) == 10
    assert data.class_names[0] == "AnnualCrop"
    assert data.labels is not None
    assert set(data.labels) == set(range(10))
