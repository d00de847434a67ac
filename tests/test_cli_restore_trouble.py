"""`scoresde restore` when it is interrupted, asked for what makes no sense, or given what cannot be used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import restore_cases as cases
from cli_cases import Call
from PIL import Image

from scoresde import inverse
from scoresde_cli import names, restoration_memory
from scoresde_cli.gallery import Gallery
from scoresde_cli.main import run as run_words

QUICK = ("--steps", 3, "-n", 3, "--batch-size", 2, "--threads", 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.digits_run(tmp_path_factory.mktemp("restore"))


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on points of the plane, whose network is a perceptron."""
    folder = tmp_path_factory.mktemp("points")
    np.save(folder / "x.npy", np.random.default_rng(0).normal(3.0, 2.0, size=(50, 2)))
    words = ("--preset", "tiny", "--steps", 3, "--batch-size", 8, "--validate-every", 0, "--sample-every", 0)
    assert run_words(["train", str(folder / "x.npy"), "--out", str(folder / "run"), *map(str, words)]) == 0
    return folder / "run"


# --- what is there -------------------------------------------------------------------------------------


def test_overwrite_replaces_other_settings_and_keeps_the_same(call: Call, run: Path) -> None:
    """The command that goes on after an interruption is the one that was typed, with its --overwrite."""
    cases.picture("x.png")
    words = ("restore", run, "x.png", "--task", "denoise", "--sigma", 0.1, *QUICK, "--out", "out", "--overwrite")
    assert call(*words)[0] == 0
    before = cases.contents("out")
    code, _, err = call(*words)
    assert (code, "3 of 3 samples are there already" in err) == (0, True)
    assert cases.contents("out") == before
    assert call(*words, "--seed", 1)[0] == 0
    assert cases.contents("out") != before


def test_a_text_is_no_path(call: Call, run: Path) -> None:
    cases.picture("x.png")
    words = ("--task", "inpaint", "--mask", "text", "--text", "../../../../zz q" + "x" * 300, "--simulate")
    code, out, err = call("restore", run, "x.png", *words, *QUICK)
    assert code == 0, err
    assert Path(out.strip()).parent == run / "restored"


def test_whole_numbers_of_an_array_are_numbers(call: Call) -> None:
    np.save("u.npy", np.array([100, 200], dtype=np.uint8))
    assert call("restore", "gmm:grid25", "u.npy", "--task", "denoise", "--sigma", 5, *QUICK, "--out", "out")[0] == 0
    assert np.load("out/measurement.npy").tolist() == [100, 200]


def test_channels_come_first(call: Call, run: Path) -> None:
    np.save("hwc.npy", np.zeros((8, 8, 1)))
    code, _, err = call("restore", run, "hwc.npy", "--task", "denoise", "--sigma", 0.1, *QUICK)
    assert (code, "x.transpose(2, 0, 1)" in err) == (2, True)


# --- going on ------------------------------------------------------------------------------------------


def test_samples_that_are_there_are_kept_and_others_added(
    call: Call, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.picture("x.png")
    words = ("restore", run, "x.png", "--task", "denoise", "--method", "mmps", "--sigma", 0.1, *QUICK, "--out", "out")
    assert call(*words)[0] == 0
    first, effort = cases.contents("out"), cases.metrics("out")["effort"]
    drawn: list[list[int]] = []
    real = inverse.posterior_draws

    def posterior_draws(*args: Any, **kwargs: Any) -> Any:
        drawn.append(kwargs["ids"])
        return real(*args, **kwargs)

    monkeypatch.setattr(inverse, "posterior_draws", posterior_draws)
    Path("out/sample-000001.npy").write_bytes(b"gone wrong")
    Path("out/sample-000002.npy").unlink()
    code, _, err = call(*words, "-n", 5)
    assert code == 0
    assert "1 of 5 samples are there already" in err
    assert drawn == [[0], [1, 2], [3, 4]]  # the first is a rehearsal without the network
    assert {name: cases.contents("out")[name] for name in first} == first
    drawn.clear()
    assert call(*words, "-n", 5)[0] == 0
    assert drawn == [[0]]
    assert cases.metrics("out")["effort"]["drawn"] == 4
    assert effort["evaluations"] == 3.0
    assert effort["gradients"] > 0


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (("--sigma", 0.2), "sigma is 0.1 there and 0.2 here"),
        (("--sigma", 0.1, "--seed", 1), "seed is 0 there and 1 here"),
        (("--sigma", 0.1, "--steps", 4), "steps is 3 there and 4 here"),
        (("--sigma", 0.1, "--method", "mmps"), "method is"),
        (("--sigma", 0.1, "--simulate"), "simulate is false there and true here"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(
    call: Call, run: Path, extra: tuple[Any, ...], named: str
) -> None:
    cases.picture("x.png")
    words = ("restore", run, "x.png", "--task", "denoise", *QUICK, "--out", "out")
    assert call(*words, "--sigma", 0.1)[0] == 0
    before = cases.contents("out")
    code, _, err = call(*words, *extra)
    assert code == 2
    assert named in err
    assert "--overwrite" in err
    assert cases.contents("out") == before
    Path("out/letter.txt").write_text("dear")
    assert call(*words, *extra, "--overwrite")[0] == 0
    assert cases.contents("out") != before
    assert Path("out/letter.txt").exists()


def test_another_picture_in_the_same_folder_is_refused(call: Call, run: Path) -> None:
    cases.picture("x.png")
    words = ("restore", run, "x.png", "--task", "denoise", "--sigma", 0.1, *QUICK, "--out", "out")
    assert call(*words)[0] == 0
    cases.picture("x.png", 6)
    code, _, err = call(*words)
    assert code == 2
    assert "image is" in err


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_restoration_is_finished_by_the_same_command(
    call: Call, run: Path, monkeypatch: pytest.MonkeyPatch, signum: int
) -> None:
    cases.picture("x.png")
    words = ("restore", run, "x.png", "--task", "denoise", "--sigma", 0.1, *QUICK, "-n", 5)
    assert call(*words, "--out", "straight")[0] == 0
    with monkeypatch.context() as patch:
        real = Gallery.add

        def add(self: Any, ids: Any, values: Any) -> None:
            if 2 in ids:
                os.kill(os.getpid(), signum)
            real(self, ids, values)

        patch.setattr(Gallery, "add", add)
        code, _, err = call(*words, "--out", "stopped")
    assert code == 128 + signum
    assert "2 of 5 samples are in stopped" in err
    assert "To go on: scoresde restore" in err
    assert not Path("stopped/metrics.json").exists()
    assert call(*words, "--out", "stopped")[0] == 0
    assert cases.contents("stopped") == cases.contents("straight")
    assert Path("stopped/mean.npy").read_bytes() == Path("straight/mean.npy").read_bytes()


def test_ctrl_c_leaves_whole_files_and_says_how_to_go_on(call: Call, run: Path) -> None:
    """As a process of its own, stopped from outside when a sample is there."""
    cases.picture("x.png")
    words = ["restore", run, "x.png", "--task", "denoise", "--sigma", 0.1, "--steps", 9, "-n", 500, "--out", "out"]
    code = "from scoresde_cli.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, words), "--batch-size", "1", "--threads", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        deadline = time.monotonic() + 60
        while not Path("out/sample-000000.png").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "of 500 samples are in out" in err
    assert "To go on: scoresde restore" in err
    assert not list(Path("out").glob(".*"))
    for path in Path("out").glob("sample-*.npy"):
        assert np.isfinite(np.load(path)).all()


def test_a_full_disk_ends_with_73_and_leaves_no_half_a_file(
    call: Call, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.picture("x.png")
    with monkeypatch.context() as patch:
        real = os.replace

        def replace(source: Any, target: Any) -> None:
            if "std.npy" in str(target):
                raise OSError(28, "No space left on device")
            real(source, target)

        patch.setattr(os, "replace", replace)
        code, _, err = call("restore", run, "x.png", "--task", "denoise", "--sigma", 0.1, *QUICK, "--out", "out")
    assert code == 73
    assert "No space left" in err
    assert not list(Path("out").glob(".*"))


# --- options -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ((), "give --task, one of denoise, inpaint"),
        (("--task", "denoise", "--operator", "a:b"), "--task and --operator both say what was done"),
        (("--task", "denose"), "Did you mean 'denoise'?"),
        (("--task", "denoise"), "--sigma is needed"),
        (("--task", "denoise", "--sigma", 0), "--sigma 0: it must be positive"),
        (("--task", "denoise", "--sigma", -1), "--sigma -1: it must be positive"),
        (("--task", "denoise", "--sigma", "nan"), "--sigma nan: it must be positive"),
        (("--task", "denoise", "--sigma", 1, "--scale", 2), "--scale means nothing to denoise; it is for superres"),
        (("--task", "inpaint", "--sigma", 1), "inpaint needs --mask"),
        (("--task", "inpaint", "--sigma", 1, "--mask", "boxx"), "Did you mean 'box'?"),
        (("--task", "inpaint", "--sigma", 1, "--mask", "text", "--keep", 0.3), "--keep is for --mask box and random"),
        (("--task", "inpaint", "--sigma", 1, "--mask", "box", "--text", "x"), "--text is for --mask text"),
        (("--task", "inpaint", "--sigma", 1, "--mask", "random"), "which pixels are missing"),
        (("--task", "deblur", "--sigma", 1, "--kernel", "k.npy"), "there is no such file"),
        (("--task", "deblur", "--sigma", 1, "--kernel", "x.png", "--kernel-std", 1), "for --kernel gaussian"),
        (("--task", "deblur", "--sigma", 1), "13 x 13, is larger than the picture, 8 x 8; take a smaller --kernel-std"),
        (
            ("--task", "motion-deblur", "--sigma", 1, "--length", 30),
            "larger than the picture, 8 x 8; take a smaller --l",
        ),
        (
            ("--task", "deblur", "--sigma", 1, "--method", "repaint"),
            "--method repaint is for denoise, inpaint, not for",
        ),
        (("--task", "superres", "--sigma", 1, "--method", "measurement-sde"), "is for denoise, not for superres; take"),
        (
            ("--task", "hdr", "--sigma", 1, "--method", "ddrm"),
            "not for hdr; take one of dps, diffpir, reddiff, daps, s",
        ),
        (("--task", "denoise", "--sigma", 1e-4), "--sigma 0.0001: the network was trained on noise from 0.0005 on"),
        (("--task", "denoise", "--sigma", 1, "--method", "mmsp"), "Did you mean 'mmps'?"),
        (("--task", "denoise", "--sigma", 1, "--solver", "huen"), "Did you mean 'heun'?"),
        (("--task", "superres", "--sigma", 1, "--particles", 3), "--particles means nothing to mmps"),
        (("--task", "superres", "--sigma", 1, "--solver", "rk45", "--steps", 3), "--steps means nothing to rk45"),
        (("--task", "denoise", "--sigma", 1, "--average", 7), "average = 7"),
        (("--task", "colourise", "--sigma", 1), "needs a prior of colour pictures; this one is of 1 channel"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_words(
    call: Call, run: Path, words: tuple[Any, ...], hint: str
) -> None:
    cases.picture("x.png")
    code, out, err = call("restore", run, "x.png", *words, "--out", "out")
    assert (code, out, "Traceback" in err) == (2, "", False)
    assert hint in " ".join(err.split())
    assert [path.name for path in Path().iterdir()] == ["x.png"]  # refused before anything was written


def test_options_are_checked_before_anything_is_loaded(call: Call) -> None:
    Path("x.png").write_bytes(b"")
    for words, hint in (
        (("--task", "denoise"), "--sigma is needed"),
        (("--task", "denoise", "--sigma", 1, "--particles", 1), "--particles means nothing"),
        (("--operator", "nowhere:f", "--sigma", 1), "no module nowhere"),
    ):
        code, _, err = call("restore", "no/such/run", "x.png", *words)
        assert code == 2
        assert hint in err


# --- files ---------------------------------------------------------------------------------------------


def colour() -> tuple[Any, ...]:
    Image.new("RGB", (8, 8)).save("x.png")
    return ("--task", "denoise")


def empty_mask() -> tuple[Any, ...]:
    Image.new("L", (8, 8)).save("mask.png")
    return ("--task", "inpaint", "--mask", "mask.png")


def mask_of_another_size() -> tuple[Any, ...]:
    Image.new("L", (9, 8), 255).save("mask.png")
    return ("--task", "inpaint", "--mask", "mask.png")


def kernel_of_sum_2() -> tuple[Any, ...]:
    np.save("kernel.npy", np.full((2, 2), 0.5))
    return ("--task", "deblur", "--kernel", "kernel.npy")


def kernel_with_nan() -> tuple[Any, ...]:
    np.save("kernel.npy", np.full((2, 2), np.nan))
    return ("--task", "deblur", "--kernel", "kernel.npy")


def not_finite() -> tuple[Any, ...]:
    y = np.zeros((8, 8))
    y[3, 4] = np.inf
    np.save("x.npy", y)
    return ("--task", "denoise")


def of_another_shape() -> tuple[Any, ...]:
    np.save("x.npy", np.zeros(5))
    return ("--task", "denoise")


def kept_entries_of_another_number() -> tuple[Any, ...]:
    np.save("x.npy", np.zeros((1, 5)))
    return ("--task", "inpaint", "--mask", "box")


def words_in_an_array() -> tuple[Any, ...]:
    np.save("x.npy", np.array(["a", "b"]))
    return ("--task", "denoise")


def pickled() -> tuple[Any, ...]:
    np.save("x.npy", np.array([{}], dtype=object), allow_pickle=True)
    return ("--task", "denoise")


def broken() -> tuple[Any, ...]:
    Path("x.png").write_bytes(Path("x.png").read_bytes()[:60])
    return ("--task", "denoise")


def not_to_be_made_smaller() -> tuple[Any, ...]:
    cases.picture("x.png", size=(9, 9))
    return ("--task", "superres", "--simulate")


def of_255() -> tuple[Any, ...]:
    np.save("x.npy", 255.0 * np.eye(8))
    return ("--task", "denoise")


def archive() -> tuple[Any, ...]:
    np.savez("x.npz", np.zeros((8, 8)))
    return ("--task", "denoise")


def folder() -> tuple[Any, ...]:
    Path("x").mkdir()
    return ("--task", "denoise")


def kernel_larger_than_the_picture() -> tuple[Any, ...]:
    np.save("kernel.npy", np.full((9, 9), 1 / 81))
    return ("--task", "deblur", "--kernel", "kernel.npy")


@pytest.mark.parametrize(
    ("make", "code", "hint"),
    [
        (colour, 2, "x.png is colour (3 channels), and the prior was trained on pictures that are grey (1 channel)"),
        (empty_mask, 65, "mask.png: keeps nothing; in a mask what is kept is white, or 1"),
        (mask_of_another_size, 65, "a mask is never resized"),
        (kernel_of_sum_2, 65, "sums to 2"),
        (kernel_with_nan, 65, "not finite"),
        (not_finite, 65, "1 of 64 values are not finite, the first at (3, 4)"),
        (of_another_shape, 2, "x would have the shape (5,), and the prior is of samples of shape (1, 8, 8)"),
        (kept_entries_of_another_number, 65, "has the shape (1, 5)"),
        (words_in_an_array, 65, "real numbers are needed"),
        (pickled, 65, "cannot be read as a NumPy array"),
        (broken, 65, "x.png"),
        (of_255, 65, "x.npy: holds values from 0 to 255, and pictures are on the scale [0, 1]; divide them by 255"),
        (archive, 65, "x.npz: of arrays only .npy files are read; save the one that you mean with numpy.save"),
        (folder, 2, "x is a folder; RUN comes first, and then pictures or .npy files: give x/*.png, say"),
        (kernel_larger_than_the_picture, 2, "kernel of deblur, 9 x 9, is larger than the picture, 8 x 8; crop what is"),
        (not_to_be_made_smaller, 2, "cannot be made smaller by 2: crop it to 8 x 8"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_words(
    call: Call, run: Path, make: Callable[[], tuple[Any, ...]], code: int, hint: str
) -> None:
    cases.picture("x.png")
    words = make()
    image = next(name for name in ("x.npy", "x.npz", "x", "x.png") if Path(name).exists())
    found, out, err = call("restore", run, image, *words, "--sigma", 0.1, *QUICK, "--out", "out")
    assert hint in " ".join(err.split())
    assert (found, out, "Traceback" in err) == (code, "", False)
    assert not Path("out").exists()


def test_one_bad_file_of_several_is_found_before_any_is_restored(call: Call, run: Path) -> None:
    cases.picture("a.png")
    Path("b.png").write_bytes(b"not a picture")
    code, _, err = call("restore", run, "a.png", "b.png", "--task", "denoise", "--sigma", 0.1, *QUICK, "--out", "out")
    assert code == 65
    assert "b.png" in err
    assert not Path("out").exists()


def test_a_network_for_one_size_says_so(call: Call, points: Path) -> None:
    np.save("x.npy", np.zeros(3))
    code, _, err = call("restore", points, "x.npy", "--task", "denoise", "--sigma", 0.1, *QUICK)
    assert code == 2
    assert "x would have the shape (3,), and the prior is of samples of shape (2,)" in err
    cases.picture("x.png")
    code, _, err = call("restore", points, "x.png", "--task", "denoise", "--sigma", 0.1, *QUICK)
    assert code == 2
    assert "this prior is of arrays of shape (2,); save what you have as .npy" in err
    np.save("x.npy", np.zeros(2))
    code, _, err = call("restore", points, "x.npy", "--task", "superres", "--sigma", 0.1, *QUICK)
    assert code == 2
    assert "--task superres is for pictures" in err
    assert call("restore", points, "x.npy", "--task", "denoise", "--sigma", 0.1, *QUICK, "--out", "out")[0] == 0
    assert cases.samples("out").shape == (3, 2)


def test_a_picture_of_60_megapixels_is_refused_with_the_figures(call: Call, run: Path) -> None:
    Image.new("L", (8000, 7500)).save("x.png", compress_level=1)
    began = time.process_time()
    code, _, err = call("restore", run, "x.png", "--task", "denoise", "--sigma", 0.1, *QUICK, "--out", "out")
    assert code == 2
    assert "samples of shape (1, 7500, 8000) the network needs about" in err
    assert "cut it into parts, or shrink it" in err
    assert not Path("out").exists()
    assert time.process_time() - began < 30  # it was not even read


def test_a_batch_too_large_for_the_memory_is_refused_with_one_that_fits(
    call: Call, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.picture("x.png", size=(16, 16))
    words = (
        "restore",
        run,
        "x.png",
        "--task",
        "denoise",
        "--method",
        "mmps",
        "--sigma",
        0.1,
        *QUICK[:-4],
        "--out",
        "out",
    )
    monkeypatch.setattr(restoration_memory, "available", lambda device: 6_000_000)
    code, _, err = call(*words, "--batch-size", 64)
    assert code == 2
    remedy = err.partition("take --batch-size ")[2].split()[0]
    assert 1 < int(remedy) < 64
    assert call(*words, "--batch-size", remedy)[0] == 0


def test_a_method_without_a_fast_way_refuses_before_anything_is_written(call: Call, run: Path) -> None:
    """DDRM needs an SVD, and that of a blur with a reflecting edge is dense."""
    cases.picture("x.png", size=(72, 72))
    words = ("restore", run, "x.png", "--task", "deblur", "--boundary", "reflect", "--sigma", 0.1, *QUICK)
    code, _, err = call(*words, "--method", "ddrm", "--out", "out")
    assert code == 2
    assert "none that is fast enough for samples of shape (1, 72, 72)" in err
    assert not Path("out").exists()
    assert "ddrm" in names.METHODS
