"""`scoresde sample` in trouble: interruptions, a full disk, values that are not finite, and what is refused."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from cli_cases import Call
from sample_cases import points_run, samples

from scoresde.errors import NumericalError
from scoresde_cli import drawing, gallery


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return points_run(tmp_path_factory.mktemp("points"))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_drawing_is_finished_by_the_same_command(
    call: Call, points: Path, monkeypatch: pytest.MonkeyPatch, signum: int
) -> None:
    words = ("sample", points, "--steps", 4, "-n", 9, "--batch-size", 3, "--solver", "em")
    assert call(*words, "--out", "straight")[0] == 0
    with monkeypatch.context() as patch:
        real = gallery.Gallery.add

        def add(self: Any, ids: Any, values: Any) -> None:
            if 3 in ids:
                os.kill(os.getpid(), signum)
            real(self, ids, values)

        patch.setattr(gallery.Gallery, "add", add)
        code, _, err = call(*words, "--out", "stopped")
    assert code == 128 + signum
    assert "3 of 9 samples are in stopped" in err
    assert "To go on: scoresde sample" in err
    assert call(*words, "--out", "stopped")[0] == 0
    assert samples("stopped") == samples("straight")
    assert Path("stopped/samples.npy").read_bytes() == Path("straight/samples.npy").read_bytes()


def test_a_full_disk_ends_with_73_and_leaves_no_half_a_file(
    call: Call, points: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("sample", points, "--steps", 2, "-n", 4, "--batch-size", 2, "--out", "out")
    with monkeypatch.context() as patch:
        real = os.replace

        def replace(source: Any, target: Any) -> None:
            if "sample-000002" in str(target):
                raise OSError(28, "No space left on device")
            real(source, target)

        patch.setattr(os, "replace", replace)
        code, _, err = call(*words)
    assert code == 73
    assert "No space left" in err
    assert sorted(samples("out")) == ["sample-000000.npy", "sample-000001.npy"]
    assert sorted(path.name for path in Path("out").iterdir() if path.name.startswith(".")) == []
    assert call(*words)[0] == 0
    assert len(samples("out")) == 4


def test_values_that_are_not_finite_end_with_70(call: Call, points: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise NumericalError("sample 0 of the batch is not finite")

    monkeypatch.setattr(drawing.sampling, "sample", fail)
    code, _, err = call("sample", points, "--steps", 2)
    assert code == 70
    assert "not finite" in err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--eta", 1), "--eta means nothing to unipc; it is for ddim, em, exponential-em, sa, adaptive-sde, torchsde"),
        (("--solver", "euler", "--order", 2), "--order means nothing to euler; it is for unipc, dpm, adams, dpm-sde"),
        (("--order", 4), "--order 4: for unipc it must be from 1 to 3"),
        (("--solver", "adams", "--order", 1), "--order 1: for adams it must be from 2 to 4"),
        (("--solver", "er-sde", "--order", 0), "0 is not in the range x>=1"),
        (("--solver", "sa", "--eta", -0.5), "-0.5 is not in the range x>=0"),
        (("--solver", "torchsde", "--eta", 0), "eta = 0.0; it must be positive"),
        (("--solver", "em", "--eta", "nan"), "eta = nan; it must be 0"),
        (("--solver", "pc", "--snr", 0), "0.0 is not in the range x>0"),
        (("--solver", "pc", "--snr", "inf"), "snr = inf; it must be positive and finite"),
        (("--solver", "pc", "--corrections", -1), "-1 is not in the range x>=0"),
        (("--solver", "scipy", "--method", "srk"), "method = 'srk'; scipy's solve_ivp has RK23"),
        (("--solver", "torchsde", "--method", "huen"), "Did you mean 'heun'?"),
        (("--solver", "scipy", "--steps", 3), "--steps means nothing to scipy"),
        (("--variable", "time"), "--variable means nothing to unipc; it is for adams"),
        (("--solver", "rk45", "--steps", 3), "--steps means nothing to rk45"),
        (("--solver", "rk45", "--grid", "karras"), "--grid means nothing to rk45"),
        (("--solver", "ode", "--grid", "karras"), "--grid needs --steps"),
        (("--solver", "ode", "--steps", 3, "--rtol", 1), "without --steps"),
        (("--times", "1,0.5,0", "--steps", 2), "--times is a grid already"),
        (("--times", "0,1"), "times must decrease"),
        (("--times", "1,0.5,0.5,0"), "times[1] = 0.5 and times[2] = 0.5"),
        (("--times", "1.5,0"), "outside [0, 1]"),
        (("--times", "1,x"), "not a list of numbers"),
        (("--solver", "ddim", "--eta", 2), "must lie in [0, 1]"),
        (("--grid", "trailing", "--steps", 2000), "cannot be respaced"),
        (("--clip", "static"), "--clip static is for pictures"),
        (("-n", 3, "--seeds", "1"), "give one of them"),
        (("--seeds", "4-2"), "goes down"),
        (("--average", 0), "--average is for trained runs"),
        (("--process", "cosine", "--solver", "em"), "needs a finite diffusion"),
        (("--process", "rectified-flow", "--solver", "exponential-em"), "alpha(1) = 0"),
        (("--process", "cosine", "--solver", "torchsde"), "needs a finite diffusion"),
        (("--process", "cosine", "--solver", "adams", "--variable", "noise-ratio"), "sigma / alpha is infinite"),
        (("--interpolate", "3"), "'3' is one sample; give two or more"),
        (("--interpolate", "3,3"), "goes from sample 3 to itself"),
        (("--interpolate", "3,-1"), "'-1' is not the number of a sample"),
        (("--interpolate", "3,4294967296"), "below 2^32"),
        (("--interpolate", "3,4", "--solver", "em"), "needs a solver without noise, and em draws it here; take unipc"),
        (("--interpolate", "3,4", "-n", 2), "--interpolate says which samples already"),
        (("--interpolate", "3,4", "--frames", 1), "1 is not in the range 2<=x"),
        (("--frames", 4), "--frames is for --interpolate"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_words(call: Call, words: tuple[Any, ...], hint: str) -> None:
    code, out, err = call("sample", "gmm:ring8", *words)
    assert (code, out, "Traceback" in err) == (2, "", False)
    assert hint in " ".join(err.split())
    assert list(Path().iterdir()) == []  # refused before anything was drawn


def test_solvers_are_checked_before_anything_is_loaded(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, hint in (
        (("--solver", "pc", "--snr", "inf"), "snr = inf"),
        (("--times", "0,1"), "must decrease"),
        (("--order", 9), "from 1 to 3"),
        (("--interpolate", "1,2", "--solver", "sa"), "without noise"),
    ):
        code, _, err = call("sample", "no/such/run", *words)
        assert code == 2
        assert hint in err


def test_what_a_process_lacks_at_its_end_can_be_left_out_with_times(call: Call) -> None:
    """alpha(0.99) > 0: the remedy that the message names."""
    words = ("sample", "gmm:ring8", "--process", "cosine", "--solver", "em", "-n", 2, "--times")
    assert call(*words, "0.999,0.5,0", "--out", "out")[0] == 0
    assert len(samples("out")) == 2


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--average", 3), "average = 3"),
        (("--average", "mean"), "a number from 0, or raw"),
        (("--process", "ve"), "has its own process"),
    ],
)
def test_options_that_do_not_go_with_a_run_are_refused(
    call: Call, points: Path, words: tuple[Any, ...], hint: str
) -> None:
    code, _, err = call("sample", points, *words)
    assert code == 2
    assert hint in err
