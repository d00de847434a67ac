"""`scoresde sample`: every solver, files that do not depend on companions, and what is there already."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_cases import Call
from PIL import Image
from sample_cases import ADAPTIVE, TRAIN, coarsely, pictures_run, points_run, samples, settings

from scoresde import checkpoint, grids, sampling
from scoresde.data import read_image
from scoresde_cli import names, solvers


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures_run(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return points_run(tmp_path_factory.mktemp("points"))


# --- what is written -----------------------------------------------------------------------------------


COSTS = {"heun": 8, "rk4": 4 * 3 + 3, "pc": 2 * 3 + 1}  # the last step of some is cheaper


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
