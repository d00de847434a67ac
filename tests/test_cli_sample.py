"""`scoresde sample`: every solver, files that do not depend on companions, interruptions, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import Call
from PIL import Image

from scoresde import checkpoint, grids, sampling
from scoresde.data import read_image
from scoresde.errors import NumericalError
from scoresde.latents import slerp
from scoresde.mixtures import MIXTURES
from scoresde.noise import CounterNoise
from scoresde.processes import VP
from scoresde_cli import drawing, gallery, names, solvers
from scoresde_cli.main import run

TRAIN = ("--preset", "tiny", "--steps", 3, "--batch-size", 8, "--validate-every", 0, "--sample-every", 0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 6 x 6 pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    data = np.random.default_rng(0).integers(0, 256, size=(20, 6, 6), dtype=np.uint8)
    np.save(folder / "x.npy", data)
    assert run(["train", str(folder / "x.npy"), "--out", str(folder / "run"), *map(str, TRAIN)]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on points of the plane, far from unit scale."""
    folder = tmp_path_factory.mktemp("points")
    np.save(folder / "x.npy", 100.0 + 20.0 * np.random.default_rng(0).normal(size=(50, 2)))
    assert run(["train", str(folder / "x.npy"), "--out", str(folder / "run"), *map(str, TRAIN)]) == 0
    return folder / "run"


def settings(folder: Path | str) -> dict[str, Any]:
    found = json.loads(Path(folder, "settings.json").read_text())
    return {**found["settings"], **found["notes"]}


def samples(folder: Path | str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("sample-*")}


# --- what is written -----------------------------------------------------------------------------------

COSTS = {"heun": 8, "rk4": 4 * 3 + 3, "pc": 2 * 3 + 1}  # the last step of some is cheaper
ADAPTIVE = ("rk45", "scipy", "adaptive-sde")


def coarsely(solver: str, steps: int) -> tuple[Any, ...]:
    """Options that make a solver quick on an untrained network."""
    if solver in ADAPTIVE:
        return ("--rtol", 0.3, "--atol", 0.3, *(("--method", "RK23") if solver == "scipy" else ()))
    return ("--steps", steps)


@pytest.mark.parametrize("solver", names.SOLVERS)
def test_every_solver_draws_from_an_exact_mixture(call: Call, solver: str) -> None:
    """Near its modes, with the settings that a later run compares."""
    steps = () if solver in ADAPTIVE else ("--steps", 20)
    words = ("sample", "gmm:ring8", "--solver", solver, *steps, "-n", 8, "--batch-size", 8)
    code, out, _ = call(*words)
    assert (code, out) == (0, f"samples/gmm-ring8/{solver}{'' if solver in ADAPTIVE else '-20'}-seed0\n")
    radius = np.linalg.norm(np.load(Path(out.strip(), "samples.npy")), axis=1)
    assert radius.shape == (8,)
    assert (np.abs(radius - 1.5) < 0.9).all()
    found = settings(out.strip())
    made = solvers.MAKERS[solver](solvers.Wish(steps=None if solver in ADAPTIVE else 20))
    assert found["solver"] == {"name": solver, "method": type(made).__name__, **solvers.plain(made)}
    assert found["steps"] == (None if solver in ADAPTIVE else 20)
    assert found["grid"] == (None if solver in ADAPTIVE else made.grid)
    before = samples(out.strip())
    assert call(*words)[0] == 0
    assert samples(out.strip()) == before


OWN_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpm-2-order3": ("--solver dpm --order 3", {"method": "DPMSolver", "order": 3, "sde": False}),
    "dpm-sde-2": ("--solver dpm-sde", {"method": "DPMSolver", "order": 2, "sde": True}),
    "er-sde-2-order1": ("--solver er-sde --order 1", {"method": "ERSDE", "points": 1}),
    "sa-2-order2-eta0.5": ("--solver sa --eta 0.5 --order 2", {"method": "SASolver", "eta": 0.5, "points": 2}),
    "adams-2-order4-variablenoise-ratio": (
        "--solver adams --order 4 --variable noise-ratio",
        {"method": "AdamsBashforth", "order": 4, "variable": "noise-ratio"},
    ),
    "pc-2-corrections2-snr0.1-langevinnorms": (
        "--solver pc --corrections 2 --snr 0.1 --langevin norms",
        {"method": "PredictorCorrector", "corrections": 2, "snr": 0.1, "size": "norms"},
    ),
    "torchsde-2-methodsrk": ("--solver torchsde --method srk --eta 1", {"method": "srk", "eta": 1.0}),
    "em-2-logistic": ("--solver em --grid logistic", {"method": "EulerMaruyama", "eta": 1.0}),
    "unipc-2-uniform": ("--grid uniform", {"method": "UniPC", "order": 3}),
    "unipc-2": ("--grid logistic --order 3", {"method": "UniPC", "order": 3}),
}
"""Folder names to options, and what settings.json says of the solver."""


@pytest.mark.parametrize("label", OWN_OPTIONS)
def test_the_folder_and_the_settings_tell_the_solvers_own_options(call: Call, label: str) -> None:
    words, expected = OWN_OPTIONS[label]
    code, out, _ = call("sample", "gmm:ring8", *words.split(), "--steps", 2, "-n", 2)
    assert (code, out) == (0, f"samples/gmm-ring8/{label}-seed0\n")
    found = settings(out.strip())["solver"]
    assert {key: value for key, value in found.items() if key != "name"} == expected


def test_a_network_is_not_asked_beyond_its_range(call: Call, pictures: Path) -> None:
    denoiser = checkpoint.load(pictures)
    assert call("sample", pictures, "--steps", 300, "-n", 1, "--batch-size", 1, "--out", "out")[0] == 0
    times = settings("out")["times"]
    assert float(denoiser.sde.log_snr(times[-2])) <= denoiser.max_log_snr + 1e-9
    assert float(denoiser.sde.log_snr(grids.logistic(denoiser.sde, 300)[-2].item())) > denoiser.max_log_snr


@pytest.mark.parametrize("solver", names.SOLVERS)
def test_every_solver_writes_single_pictures_a_grid_and_its_settings(call: Call, pictures: Path, solver: str) -> None:
    how = coarsely(solver, 4)
    code, out, _ = call("sample", pictures, "--solver", solver, *how, "-n", 3, "--batch-size", 2, "--out", "out")
    assert (code, out) == (0, "out\n")
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(
        ["grid.png", "settings.json", "sha256.txt", *(f"sample-00000{i}.png" for i in range(3))]
    )
    assert read_image("out/sample-000002.png").shape == (1, 6, 6)
    with Image.open("out/grid.png") as grid:
        assert grid.size == (2 * 66 + 2, 2 * 66 + 2)
    with Image.open("out/sample-000002.png") as picture:
        many = "adaptive" if solver in ADAPTIVE else "4 steps"
        assert picture.info["scoresde"] == f"{solver}, {many}, seed 0, sample 2"
    found = settings("out")
    assert found["solver"]["name"] == solver
    assert found["seeds"] == "0-2"
    model = Path(found["checkpoint"], found["file"])
    assert found["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    if solver not in ADAPTIVE:
        assert found["evaluations"] == COSTS.get(solver, 4)
        assert len(found["times"]) == 5
        if found["grid"] == "uniform":
            assert found["times"] == [1.0, 0.75, 0.5, 0.25, 0.0]
    else:
        assert found["evaluations"] >= 7
        assert found["times"] is None


def test_ode_without_steps_is_adaptive(call: Call) -> None:
    assert call("sample", "gmm:ring8", "--solver", "ode", "-n", 2, "--out", "a")[0] == 0
    assert call("sample", "gmm:ring8", "--solver", "rk45", "-n", 2, "--out", "b")[0] == 0
    assert settings("a")["solver"]["method"] == "RK45"
    assert samples("a") == samples("b")


def test_points_come_in_the_users_units_with_a_scatter(call: Call, points: Path) -> None:
    assert (
        call("sample", points, "--solver", "heun", "--grid", "uniform", "--steps", 3, "-n", 40, "--out", "out")[0] == 0
    )
    together = np.load("out/samples.npy")
    assert together.shape == (40, 2)
    assert together.dtype == np.float32
    assert 60 < together.mean() < 140
    np.testing.assert_array_equal(np.load("out/sample-000007.npy"), together[7])
    assert Path("out/scatter.png").stat().st_size > 1000


def test_sixteen_bit_data_give_sixteen_bit_pictures(call: Call) -> None:
    np.save("x.npy", np.random.default_rng(0).integers(0, 65536, size=(9, 3, 5, 5), dtype=np.uint16))
    assert call("train", "x.npy", "--out", "run", "--predict", "x0", *TRAIN)[0] == 0
    assert call("sample", "run", "--steps", 4, "-n", 2, "--out", "out")[0] == 0
    picture = read_image("out/sample-000001.png")
    assert (picture.dtype, picture.shape) == (np.uint16, (3, 5, 5))
    assert len(np.unique(picture & 0xFF)) > 10
    assert Path("out/grid.png").exists()


def test_samples_of_an_exact_mixture_lie_where_its_density_does(call: Call) -> None:
    code, out, _ = call(*("sample", "gmm:ring8", "--solver", "ancestral", "--steps", 100, "-n", 200))
    assert code == 0
    assert out == "samples/gmm-ring8/ancestral-100-seed0\n"
    radius = np.linalg.norm(np.load(Path(out.strip(), "samples.npy")), axis=1)
    assert abs(radius.mean() - 1.5) < 0.05
    assert radius.std() < 0.2


def test_the_process_of_a_mixture_can_be_chosen(call: Call) -> None:
    words = ("sample", "gmm:uneven", "-n", 2, "--steps", 3)
    assert call(*words, "--process", "ve", "--sigma-max", 10)[1] == "samples/gmm-uneven-ve/unipc-3-seed0\n"
    assert settings("samples/gmm-uneven-ve/unipc-3-seed0")["process"] == {"name": "ve", "sigma_max": 10.0}
    assert call(*words, "--process", "ve", "--beta-min", 1)[0] == 2


def test_the_default_folder_names_what_is_not_the_default(call: Call, pictures: Path) -> None:
    words = ("sample", pictures, "-n", 1, "--steps", 2)
    _, out, _ = call(*words, "--solver", "ddim", "--eta", 0.5, "--grid", "karras", "--clip", "static", "--seed", 9)
    assert Path(out.strip()) == pictures / "samples/ddim-2-karras-eta0.5-clip-static-seed9"
    with Image.open(Path(out.strip(), "sample-000000.png")) as picture:
        assert "static clipping" in picture.info["scoresde"]
    one = pictures / "checkpoints/step-000003"
    out = call("sample", one, *words[2:], "--average", "raw")[1]
    assert Path(out.strip()) == pictures / "samples/step-000003/unipc-2-seed0"
    assert settings(out.strip())["file"] == "model.safetensors"


# --- between samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["unipc", "rk45", "sa"])
@pytest.mark.parametrize("kind", ["pictures", "points", "gmm:ring8"])
def test_an_interpolation_passes_through_the_samples_themselves(
    call: Call, request: pytest.FixtureRequest, kind: str, solver: str
) -> None:
    model = kind if kind.startswith("gmm") else request.getfixturevalue(kind)
    eta = ("--eta", 0) if solver == "sa" else ()
    words = ("sample", model, "--solver", solver, *eta, *coarsely(solver, 4), "--batch-size", 4, "--seed", 3)
    assert call(*words, "--seeds", "5,9", "--out", "plain")[0] == 0
    assert call(*words, "--interpolate", "9,5,9", "--frames", 4, "--out", "way")[0] == 0
    frames = {path.stem: path for path in Path("way").glob("frame-*")}
    assert sorted(frames) == [f"frame-{i:06d}" for i in range(7)]
    read = read_image if kind == "pictures" else np.load
    plain = {path.stem: read(path) for path in Path("plain").glob("sample-*")}
    for frame, sample in ((0, 9), (3, 5), (6, 9)):
        np.testing.assert_array_equal(read(frames[f"frame-{frame:06d}"]), plain[f"sample-{sample:06d}"])
    values = np.stack([read(frames[name]) for name in sorted(frames)]).astype(float)
    np.testing.assert_array_equal(values[1], values[5])  # there and back
    assert (values[0] != values[1]).any()
    assert (values[1] != values[2]).any()


def test_frames_are_shown_leg_by_leg_and_kept_like_samples(call: Call, pictures: Path) -> None:
    words = ("sample", pictures, "--steps", 3, "--batch-size", 4, "--interpolate", "4,1,7", "--frames", 3)
    code, out, _ = call(*words)
    folder = pictures / "samples/interpolate-4-1-7-frames3-unipc-3-seed0"
    assert (code, out) == (0, f"{folder}\n")
    found = settings(folder)
    assert (found["interpolate"], found["frames"], found["drawn"]) == ([4, 1, 7], 3, "0-4")
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (3 * 66 + 2 * 2, 2 * 66 + 2)
        shown = [np.asarray(grid)[top : top + 66, left : left + 66] for top, left in ((0, 2 * 68), (68, 0), (68, 68))]
    np.testing.assert_array_equal(shown[0], shown[1])  # the first leg ends where the second begins
    assert (shown[1] != shown[2]).any()
    with Image.open(folder / "frame-000001.png") as picture:
        assert picture.info["scoresde"] == "unipc, 3 steps, seed 0, between samples 4, 1, 7, frame 1"
    before = {path.name: path.read_bytes() for path in folder.glob("frame-*")}
    (folder / "frame-000001.png").write_bytes(b"gone wrong")
    (folder / "frame-000003.png").unlink()
    _, _, err = call(*words)
    assert "3 of 5 frames are there already" in err
    assert {path.name: path.read_bytes() for path in folder.glob("frame-*")} == before
    code, _, err = call(*words[:-3], "4,1", "--out", folder)
    assert code == 2
    assert "interpolate is [4, 1, 7] there and [4, 1] here" in err
    assert call(*words[:-3], "4,1", "--out", folder, "--overwrite")[0] == 0
    assert len(list(folder.glob("frame-*"))) == 9


def test_frames_are_what_the_library_decodes_between_latents(call: Call) -> None:
    """The command draws what the library's `slerp` and `decode` give."""
    words = ("sample", "gmm:ring8", "--steps", 20, "--interpolate", "0,1", "--frames", 5)
    _, out, _ = call(*words)
    frames = np.load(Path(out.strip(), "frames.npy"))
    assert frames.shape == (5, 2)
    denoiser = MIXTURES["ring8"]().denoiser(VP())
    ends = CounterNoise(0, torch.tensor([0, 1]), (2,)).start()
    weights = torch.linspace(0, 1, 5)
    expected = sampling.decode(denoiser, slerp(ends[:1], ends[1:], weights), steps=20)
    np.testing.assert_allclose(frames, expected.numpy(), rtol=1e-4, atol=1e-5)


# --- each sample by itself -----------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["ancestral", "unipc", "sa", "rk45", "adaptive-sde"])
@pytest.mark.parametrize("kind", ["pictures", "points"])
def test_a_sample_has_the_same_bytes_whatever_its_companions(
    call: Call, request: pytest.FixtureRequest, kind: str, solver: str
) -> None:
    model = request.getfixturevalue(kind)
    words = ("sample", model, "--solver", solver, "--batch-size", 4, *coarsely(solver, 5))
    assert call(*words, "--seeds", "0-9", "--out", "many")[0] == 0
    assert call(*words, "--seeds", "5", "--out", "one")[0] == 0
    many, one = samples("many"), samples("one")
    assert len(many) == 10
    assert one == {name: many[name] for name in one}
    assert len(one) == 1


def test_samples_that_are_there_are_kept_and_others_added(
    call: Call, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("sample", pictures, "--steps", 3, "--batch-size", 4, "--out", "out")
    assert call(*words, "--seeds", "0-3,7")[0] == 0
    first = samples("out")
    Path("out/sample-000002.png").write_bytes(b"gone wrong")
    Path("out/sample-000003.png").unlink()
    drawn: list[tuple[list[int], int]] = []
    real = sampling.sample

    def sample(*args: Any, **kwargs: Any) -> Any:
        drawn.append((kwargs["ids"], kwargs["batch_size"]))
        return real(*args, **kwargs)

    monkeypatch.setattr(sampling, "sample", sample)
    code, _, err = call(*words, "--seeds", "0-4")
    assert code == 0
    assert "2 of 5 samples are there already" in err
    assert drawn == [([2, 3, 4], 4)]  # a batch of 3, computed as one of 4
    assert {name: content for name, content in samples("out").items() if name in first} == first
    assert settings("out")["seeds"] == "0-4,7"
    drawn.clear()
    assert call(*words, "--seeds", "0-4")[0] == 0
    assert drawn == []
    for line in Path("out/sha256.txt").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256(Path("out", name).read_bytes()).hexdigest() == digest


def test_other_settings_in_the_same_folder_are_refused_by_name(call: Call, pictures: Path) -> None:
    words = ("sample", pictures, "-n", 2, "--out", "out")
    assert call(*words, "--steps", 3)[0] == 0
    before = samples("out")
    for extra, named in (
        (("--steps", 4), "steps is 3 there and 4 here"),
        (("--steps", 3, "--seed", 1), "seed is 0 there and 1 here"),
        (("--steps", 3, "--solver", "euler"), "solver is"),
        (("--steps", 3, "--average", "raw"), "sha256 is"),
        (("--steps", 3, "--grid", "karras"), 'grid is "logistic" there and "karras" here'),
    ):
        code, _, err = call(*words, *extra)
        assert code == 2
        assert named in err
        assert "--overwrite" in err
    assert samples("out") == before
    assert call(*words, "--steps", 4, "--overwrite")[0] == 0
    assert samples("out") != before
    assert settings("out")["steps"] == 4


def test_overwriting_leaves_other_files_alone(call: Call, pictures: Path) -> None:
    Path("out").mkdir()
    Path("out/sample-000000.png").write_bytes(b"a stranger's")
    Path("out/letter.txt").write_text("dear")
    words = ("sample", pictures, "-n", 1, "--steps", 2, "--out", "out")
    code, _, err = call(*words)
    assert code == 2
    assert "sample-000000.png but no settings.json" in err
    assert call(*words, "--overwrite")[0] == 0
    assert Path("out/letter.txt").read_text() == "dear"


def test_damaged_settings_are_bad_input(call: Call, pictures: Path) -> None:
    Path("out").mkdir()
    Path("out/settings.json").write_text("{")
    code, _, err = call("sample", pictures, "-n", 1, "--steps", 2, "--out", "out")
    assert code == 65
    assert "out/settings.json is damaged" in err


# --- trouble on the way --------------------------------------------------------------------------------


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
