"""Arrays in .npy, .npz and IDX files: what becomes a picture, what stays as it is, and what is refused."""

import gzip
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from scoresde.data import DataError, Options, from_array, open_data


def npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def random(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((5, 8, 9), None),
        ((5, 1, 8, 9), None),
        ((5, 3, 8, 9), None),
        ((5, 8, 9, 1), (0, 3, 1, 2)),
        ((5, 8, 9, 3), (0, 3, 1, 2)),
        ((5, 3, 8, 3), None),
    ],
)
def test_whole_numbers_in_the_shape_of_pictures_are_pictures(
    tmp_path: Path, dtype: type, shape: tuple[int, ...], axes: tuple[int, ...] | None
) -> None:
    array = random(shape, dtype)
    data = open_data(npy(tmp_path / "x.npy", array))
    expected = array[:, None] if array.ndim == 3 else array if axes is None else array.transpose(axes)
    assert (data.kind, data.array.dtype, data.value_range) == ("image", dtype, (0, np.iinfo(dtype).max))
    np.testing.assert_array_equal(data.array, expected)


@pytest.mark.parametrize("first", [False, True])
def test_a_fourth_channel_is_alpha(tmp_path: Path, first: bool) -> None:
    array = random((6, 8, 9, 4))
    array[0, ..., 3], array[1, ..., 3] = 0, 255
    data = open_data(npy(tmp_path / "x.npy", array.transpose(0, 3, 1, 2) if first else array))
    assert data.shape == (3, 8, 9)
    assert (data.array[0] == 255).all()
    np.testing.assert_array_equal(data.array[1], array[1, ..., :3].transpose(2, 0, 1))


def test_big_endian_and_fortran_order_make_no_difference(tmp_path: Path) -> None:
    array = random((4, 6, 5), np.uint16)
    data = open_data(npy(tmp_path / "x.npy", np.asfortranarray(array.astype(">u2"))))
    assert data.array.dtype == np.dtype(np.uint16)
    np.testing.assert_array_equal(data.array[:, 0], array)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.bool_])
@pytest.mark.parametrize("shape", [(6, 3), (6, 2, 10), (6, 8, 8), (6, 3, 8, 8), (6, 2, 2, 2, 2)])
def test_other_arrays_stay_as_they_are(tmp_path: Path, dtype: type, shape: tuple[int, ...]) -> None:
    array = (np.random.default_rng(0).standard_normal(shape) * 3).astype(dtype)
    data = open_data(npy(tmp_path / "x.npy", array))
    assert (data.kind, data.array.dtype, data.value_range) == ("array", np.float32, None)
    np.testing.assert_array_equal(data.array, array.astype(np.float32))


def test_whole_numbers_in_other_shapes_are_arrays() -> None:
    for shape in [(6, 3), (6, 5, 8, 8)]:
        assert from_array(random(shape)).kind == "array"


def test_bare_numbers_are_items_of_one_value() -> None:
    assert from_array(np.arange(5.0)).array.shape == (5, 1)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(["a", "b"]), "type <U1 are not read"),
        (np.array([1j, 2j]), "type complex128 are not read"),
        (np.float64(3.0), "no items"),
        (np.zeros((0, 3)), "no items"),
        (np.zeros((3, 0)), "no items"),
        (np.zeros((64, 48, 3), np.uint8), "looks like one picture"),
        (np.array([[2**24 + 1]]), "not exact in float32"),
        (np.array([[-(2**40)]]), "not exact in float32"),
        (np.array([[0.0, np.nan]]), r"1 values are NaN .* index \(0, 1\)"),
    ],
)
def test_what_is_no_data_set_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(npy(tmp_path / "x.npy", array))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects"):
        open_data(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", x=np.array([{}, []], dtype=object))
    with pytest.raises(DataError, match="key 'x': holds Python objects"):
        open_data(tmp_path / "x.npz")


def test_truncated_npy_files_are_refused(tmp_path: Path) -> None:
    file = npy(tmp_path / "x.npy", np.zeros((10, 10)))
    whole = file.read_bytes()
    for length in (7, 9, 50, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x\.npy"):
            open_data(file)


@pytest.mark.parametrize("shape", ["(1000000000000, 1000000000000)", "(99999, 99999)", "(-3, 2)"])
def test_headers_that_claim_the_absurd_are_refused(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(DataError, match=r"x\.npy"):
        open_data(tmp_path / "x.npy")


@pytest.mark.parametrize("key", ["x", "data", "images", "arr_0", "whatever"])
@pytest.mark.parametrize("label_key", ["y", "labels"])
@pytest.mark.parametrize("compressed", [False, True])
def test_npz_files_give_data_and_labels(tmp_path: Path, key: str, label_key: str, compressed: bool) -> None:
    array, labels = random((5, 8, 8)), np.array([0, 4, 1, 1, 2], np.uint8)
    save = np.savez_compressed if compressed else np.savez
    save(tmp_path / "x.npz", **{key: array, label_key: labels})
    data = open_data(tmp_path / "x.npz")
    np.testing.assert_array_equal(data.array[:, 0], array)
    np.testing.assert_array_equal(data.labels, labels)


def test_npz_is_known_by_its_content(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.savez(stream, x=np.ones((3, 2)))
    (tmp_path / "renamed.zip").write_bytes(stream.getvalue())
    assert open_data(tmp_path / "renamed.zip").kind == "array"


def test_npz_with_several_unknown_keys_lists_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", train=np.ones((3, 2)), test=np.ones((3, 2)))
    with pytest.raises(DataError, match="name it one of x, data, images, arr_0; found train, test"):
        open_data(tmp_path / "x.npz")


def test_known_keys_win_over_others(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", extra=np.zeros((3, 2)), x=np.ones((3, 2)))
    assert (open_data(tmp_path / "x.npz").array == 1).all()


def test_corrupt_npz_members_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    np.savez(file, x=np.full((30, 2), 7.0))
    data = bytearray(file.read_bytes())
    data[data.rfind(struct.pack("<d", 7.0)) + 7] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DataError, match="CRC"):
        open_data(file)
    file.write_bytes(bytes(data[:200]))
    with pytest.raises(DataError, match="not a whole zip"):
        open_data(file)


@pytest.mark.parametrize("labels", [np.zeros(4, np.int64), np.zeros(5), np.zeros((5, 2), np.int64)])
def test_labels_that_do_not_fit_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(DataError, match="labels must be 5 whole numbers"):
        from_array(np.ones((5, 2)), labels)


def test_labels_in_a_column_are_taken() -> None:
    data = from_array(np.ones((3, 2)), np.array([[1], [0], [2]], np.uint8))
    np.testing.assert_array_equal(data.labels, [1, 0, 2])


def test_pictures_in_arrays_obey_size_crop_channels_and_n() -> None:
    array, labels = random((40, 12, 10, 3)), np.arange(40)
    data = from_array(array, labels, options=Options(size=6, channels=1, n=7))
    assert data.array.shape == (7, 1, 6, 6)
    assert data.labels is not None
    assert (np.diff(data.labels) > 0).all()
    crops = from_array(array, labels, options=Options(crop=5, n=100))
    assert crops.array.shape == (100, 3, 5, 5)
    np.testing.assert_array_equal(crops.labels, np.arange(100) % 40)


def test_arrays_obey_n_and_refuse_the_rest() -> None:
    assert len(from_array(np.ones((9, 2)), options=Options(n=4))) == 4
    with pytest.raises(DataError, match="size does not apply"):
        from_array(np.ones((9, 8, 8)), options=Options(size=4))


def test_too_large_arrays_are_refused_before_reading(tmp_path: Path) -> None:
    file = npy(tmp_path / "x.npy", np.zeros((100, 100)))
    with pytest.raises(DataError, match="would take"):
        open_data(file, Options(memory_limit=79_999))
    assert len(open_data(file, Options(memory_limit=80_000))) == 100


CODES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def idx(array: np.ndarray, code: int = 0x08) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(CODES[code]).tobytes()


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_of_every_type_are_read_exactly(tmp_path: Path, code: int, zipped: bool) -> None:
    array = random((4, 6, 5)) // 2
    data = idx(array, code)
    # the name says nothing about the compression
    (tmp_path / "anything").write_bytes(gzip.compress(data) if zipped else data)
    opened = open_data(tmp_path / "anything")
    assert opened.kind == ("image" if code == 0x08 else "array")
    np.testing.assert_array_equal(opened.array.reshape(4, 6, 5), array)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"),
        ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"),
        ("t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"),
    ],
)
def test_labels_are_found_beside_the_images(tmp_path: Path, images: str, labels: str) -> None:
    for name, data in ((images, idx(random((3, 8, 8)))), (labels, idx(np.array([7, 0, 9])))):
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    np.testing.assert_array_equal(open_data(tmp_path / images).labels, [7, 0, 9])
    with pytest.raises(DataError, match="holds 3 labels"):
        open_data(tmp_path / labels)


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a-images-idx3-ubyte").write_bytes(idx(random((3, 8, 8))))
    (tmp_path / "a-labels-idx1-ubyte").write_bytes(idx(np.zeros(4)))
    with pytest.raises(DataError, match="labels must be 3 whole numbers"):
        open_data(tmp_path / "a-images-idx3-ubyte")


GOOD = idx(random((3, 8, 8)))


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD[:-1], "promises 192 bytes .* only 191"),
        (GOOD + b"\0", "promises 192 bytes .* there are more"),
        (GOOD[:9], "truncated within the IDX header"),
        (b"\0\0\x07" + GOOD[3:], "is not an IDX file: it starts with 00 00 07 03"),
        (b"\0\0\x08\x00" + GOOD[4:], "is not an IDX file"),
        (b"\0\0\x08\x02" + b"\xff" * 8 + b"\0", "would take"),
    ],
)
def test_wrong_idx_files_are_refused(tmp_path: Path, data: bytes, message: str, zipped: bool) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / "x")


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(GOOD)[:-20])
    with pytest.raises(DataError, match=r"x\.gz: "):
        open_data(tmp_path / "x.gz")


def test_mnist_opens_with_its_labels(shared_data: Path) -> None:
    data = open_data(shared_data / "mnist" / "t10k-images-idx3-ubyte.gz")
    assert (len(data), data.shape, data.kind) == (10_000, (1, 28, 28), "image")
    assert data.labels is not None
    # the first labels of the test set, and the share of each digit, are well known
    np.testing.assert_array_equal(data.labels[:5], [7, 2, 1, 0, 4])
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(data.labels), counts)
    assert data.array.mean() / 255 == pytest.approx(0.1325, abs=1e-4)


def test_npz_members_that_lie_about_their_size_are_refused(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (9999999, 99)}".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(DataError, match="is truncated"):
        open_data(tmp_path / "x.npz")
