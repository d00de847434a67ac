"""`scoresde tune-grid`, and `sample --grid tuned`: exactly those times, for that checkpoint, or words about why not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from cli_cases import MOONS, Call

import scoresde as sd
from scoresde import tuning
from scoresde_cli import tuned
from scoresde_cli.main import run

RING = ("tune-grid", "gmm:ring8", "--steps", 4, "-n", 8)


def content(path: str | Path) -> dict[str, Any]:
    return json.loads(Path(str(path).strip()).read_text())


def settings(folder: str) -> dict[str, Any]:
    return json.loads(Path(folder.strip(), "settings.json").read_text())["settings"]


def change(path: Path, **values: Any) -> None:
    """Rewrite a tuned grid with other values, as whole as before."""
    found = {**content(path), **values}
    found.pop("sha256")
    path.write_text(json.dumps({**found, "sha256": tuned._digest(found)}))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command of RING has been."""
    folder = tmp_path_factory.mktemp("ring")
    with contextlib.chdir(folder):
        assert run([str(word) for word in RING]) == 0
    return folder


@pytest.fixture
def ring(call: Call, fitted: Path) -> Path:
    """Its tuned grid of four steps, in the folder of this test."""
    shutil.copytree(fitted / "grids", "grids")
    (path,) = Path("grids").rglob("*.json")
    return path


def test_a_grid_is_fitted_kept_and_sampled_with(call: Call) -> None:
    code, out, err = call(*RING)
    assert code == 0
    assert re.fullmatch(r"grids/gmm-ring8/unipc-4-[0-9a-f]{12}\.json\n", out)
    *_, errors, cost = err.splitlines()
    assert re.search(r"held out: median \S+ -> \S+, mean \S+ -> \S+, rms \S+ -> \S+$", errors)
    assert re.fullmatch(r"[\d,]+ evaluations of the network, as many as [\d,]+ samples take", cost)
    found = content(out)
    assert found["held_out"]["after"]["median"] < found["held_out"]["before"]["median"]
    assert found["settings"] == {"n": 8, "seed": 0}
    denoiser = sd.MIXTURES["ring8"]().denoiser(sd.VP())
    assert found["times"] == sd.tune_grid(denoiser, sd.solvers.UniPC(), 4, n=8).times.tolist()
    assert found["notes"]["command"] == "scoresde tune-grid gmm:ring8 --steps 4 -n 8"
    code, out, _ = call("sample", "gmm:ring8", "--steps", 4, "--grid", "tuned", "-n", 3)
    assert (code, out) == (0, "samples/gmm-ring8/unipc-4-tuned-seed0\n")
    assert settings(out)["times"] == found["times"]
    assert settings(out)["grid"] == "tuned"


def test_what_is_there_is_kept_until_asked_again_or_for_something_else(
    call: Call, ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []
    real = tuning.tune_grid

    def tune_grid(*args: Any, **kwargs: Any) -> Any:
        fitted.append(kwargs["seed"])
        return real(*args, **kwargs)

    monkeypatch.setattr(tuning, "tune_grid", tune_grid)
    before = ring.read_bytes()
    code, out, err = call(*RING)
    assert (code, out, fitted) == (0, f"{ring}\n", [])
    assert "there already; --again" in err
    assert "median" in err
    assert ring.read_bytes() == before
    assert call(*RING, "--again")[0] == 0
    assert fitted == [0]
    assert content(ring)["times"] == json.loads(before)["times"]
    assert call(*RING, "--seed", 3)[0] == 0
    assert fitted == [0, 3]
    assert content(ring)["settings"]["seed"] == 3


def test_options_of_the_solver_and_the_process_have_grids_of_their_own(call: Call) -> None:
    words = ("tune-grid", "gmm:ring8", "--steps", 3, "-n", 4)
    dpm = call(*words, "--solver", "dpm", "--order", 3)[1]
    assert Path(dpm).name.startswith("dpm-3-order3-")
    rf = call(*words, "--solver", "dpm", "--order", 3, "--process", "rectified-flow")[1]
    assert Path(rf).parent == Path("grids/gmm-ring8-rectified-flow")
    sample = ("sample", "gmm:ring8", "--steps", 3, "--grid", "tuned", "-n", 1, "--solver", "dpm")
    assert settings(call(*sample, "--order", 3)[1])["times"] == content(dpm)["times"]
    assert call(*sample, "--order", 2)[0] == 2
    assert call(*sample, "--order", 3, "--process", "cosine")[0] == 2


def test_a_grid_that_is_missing_is_refused_with_the_command_that_makes_it(call: Call) -> None:
    words = ("--solver", "adams", "--order", 2, "--process", "ve", "--sigma-max", 20, "--steps", 3)
    code, out, err = call("sample", "gmm:ring8", "--grid", "tuned", "-n", 1, *words)
    assert (code, out) == (2, "")
    assert "no grid tuned for adams with 3 steps and this model; make it" in err
    command = shlex.split(err.split("make it with: ")[1])
    assert call(*command[1:], "-n", 4)[0] == 0
    assert call("sample", "gmm:ring8", "--grid", "tuned", "-n", 1, *words)[0] == 0


def test_another_checkpoint_is_noticed(call: Call, moons: Path) -> None:
    words = ("--steps", 3, "--average", "raw")
    code, out, _ = call("tune-grid", moons, *words, "-n", 4)
    assert code == 0
    path = Path(out.strip())
    assert path.parent == moons / "grids"
    assert content(path)["notes"]["checkpoint"] == "run/checkpoints/step-000006"
    sample = ("--grid", "tuned", "-n", 1, *words)
    assert settings(call("sample", moons, *sample)[1])["times"] == content(path)["times"]
    assert call("sample", moons, *sample[:-2])[0] == 2  # the averages are another model
    assert call("train", *MOONS, "--steps", 8, "--out", moons)[0] == 0
    code, _, err = call("sample", moons, *sample)
    assert code == 2
    assert f"only one for another (moons, step 6): {path}; make it with" in err
    assert "scoresde tune-grid run --solver unipc --steps 3 --average raw" in err
    old = moons / "checkpoints/step-000006"
    assert settings(call("sample", old, *sample)[1])["times"] == content(path)["times"]


@pytest.mark.parametrize(
    ("damage", "hint"),
    [
        (lambda path: path.write_text(path.read_text()[:300]), "is damaged"),
        (lambda path: path.write_text(path.read_text().replace('"steps": 4', '"steps": 5')), "not the file that was"),
        (lambda path: path.write_text("[]"), "is damaged"),
        (lambda path: path.write_text("{}"), "is damaged"),
        (lambda path: change(path, version=2), "format version 2; this scoresde reads version 1"),
        (lambda path: change(path, made_for={}), "is for something else"),
        (lambda path: change(path, format="other"), "not a tuned grid"),
    ],
)
def test_a_damaged_file_is_bad_input_with_a_remedy(call: Call, ring: Path, damage: Any, hint: str) -> None:
    damage(ring)
    for words in (("sample", "gmm:ring8", "--steps", 4, "--grid", "tuned", "-n", 1), RING):
        code, out, err = call(*words)
        assert (code, out) == (65, "")
        assert hint in err
        assert str(ring) in err


def test_the_remedy_for_a_damaged_file_is_one(call: Call, ring: Path) -> None:
    ring.write_text("{")
    err = call(*RING)[2]
    command = shlex.split(err.split("make it again with: ")[1])
    assert call(*command[1:])[0] == 0
    assert call("sample", "gmm:ring8", "--steps", 4, "--grid", "tuned", "-n", 1)[0] == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(call: Call, monkeypatch: pytest.MonkeyPatch, signum: int) -> None:
    monkeypatch.setattr(tuning, "_refined", lambda *args: os.kill(os.getpid(), signum))
    code, out, err = call(*RING)
    assert (code, out) == (128 + signum, "")
    assert "Stopped; nothing was written\nTo begin again: scoresde tune-grid gmm:ring8" in err
    assert list(Path().rglob("*")) == []


def test_a_full_disk_ends_with_73_and_leaves_what_was_there(
    call: Call, ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    before = ring.read_bytes()
    monkeypatch.setattr(os, "replace", replace)
    code, out, err = call(*RING, "--again")
    assert (code, out) == (73, "")
    assert "No space left" in err
    assert list(ring.parent.iterdir()) == [ring]
    assert ring.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("tune-grid", "gmm:ring8"), "--steps"),
        (("tune-grid", "gmm:ring8", "--steps", 1), "x>=2"),
        (("tune-grid", "gmm:ring8", "--steps", 3, "--solver", "ancestral"), "draws noise"),
        (("tune-grid", "gmm:ring8", "--steps", 3, "--solver", "rk45"), "--steps means nothing to rk45"),
        (("tune-grid", "gmm:ring8", "--steps", 3, "--eta", 0), "--eta means nothing to unipc"),
        (("sample", "gmm:ring8", "--grid", "tuned", "--solver", "em"), "is for solvers without noise"),
        (("sample", "gmm:ring8", "--grid", "tuned", "--solver", "rk45"), "--grid means nothing to rk45"),
        (("sample", "gmm:ring8", "--grid", "tuned", "--solver", "ode"), "--grid needs --steps"),
        (("sample", "gmm:ring8", "--grid", "tuned", "--times", "1,0"), "--times is a grid already"),
        (("sample", "gmm:ring8", "--grid", "tuned"), "unipc with 100 steps"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(call: Call, words: tuple[Any, ...], hint: str) -> None:
    code, out, err = call(*words)
    assert (code, out, "Traceback" in err) == (2, "", False)
    assert hint in err
