"""`scoresde compare` of trained runs: held-out data, feature spaces, and what stands for data where there are none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import Call, flip_a_byte

from scoresde import compare, sampling
from scoresde.metrics import lenet
from scoresde.solvers import UniPC
from scoresde_cli import (
    comparison_features,
    comparison_paths,
    comparison_report,
    comparison_truth,
    comparison_way,
    material,
    models,
)
from scoresde_cli.main import run

TRAIN = ("--preset", "tiny", "--steps", 3, "--batch-size", 8, "--validate-every", 0, "--sample-every", 0)
FEW = ("--solvers", "ancestral,unipc", "--steps", "2,3", "-n", 8, "--seeds", "0,1", "--batch-size", 8)
WORDS = ("compare", "run", *FEW)


def trained(folder: Path, items: np.ndarray, *words: Any) -> Path:
    """A run on these items, in a folder of its own."""
    np.save(folder / "x.npy", items)
    command = ["train", folder / "x.npy", "--out", folder / "run", *TRAIN, *words]
    assert run([str(word) for word in command]) == 0
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    items = np.random.default_rng(0).integers(0, 256, size=(60, 6, 6), dtype=np.uint8)
    return trained(tmp_path_factory.mktemp("pictures"), items, "--held-out", 0.3)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Path:
    items = 100.0 + 20.0 * np.random.default_rng(0).normal(size=(60, 2))
    return trained(tmp_path_factory.mktemp("points"), items, "--held-out", 0.3)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few steps of everything that is not looked at here."""
    monkeypatch.setattr(comparison_paths, "FINE", {"exact": 20, "other": 6})
    monkeypatch.setattr(comparison_paths, "COUNT", {"exact": 20, "other": 4})
    monkeypatch.setattr(comparison_way, "STEPS", 10)
    monkeypatch.setattr(comparison_way, "FOLLOWED", 4)
    monkeypatch.setattr(comparison_truth, "FINE", 4)
    monkeypatch.setattr(comparison_features, "STEPS", 5)


@pytest.fixture
def no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page takes a second, and most tests do not read it."""
    monkeypatch.setattr(comparison_report, "write", lambda path, facts: path.write_text(facts.advice))


@pytest.fixture
def here(call: Call, pictures: Path) -> Path:
    """The run on pictures, in the folder of this test; its data stay where they were."""
    shutil.copytree(pictures / "run", "run")
    return Path("run")


def results(folder: Path | str = "run/compare") -> dict[str, Any]:
    return json.loads(Path(folder, "results.json").read_text())


def test_pictures_are_held_against_those_never_trained_on(call: Call, here: Path) -> None:
    code, out, err = call(*WORDS)
    assert (code, out.splitlines()[-1]) == (0, "run/compare/report.html")
    found = results()
    assert found["truth"]["kind"] == "data"
    (net,) = (here / "compare").glob("features-*.safetensors")
    assert net.name in found["truth"]["about"]
    model = models.open_model("run", None, {}, torch.device("cpu"))
    of = material.open_material(comparison_truth.checkpoint.read(here).recipe)
    train, held_out = (of.fetch(part)(torch.arange(len(part))) for part in (of.train, of.held_out))
    features = compare.picture_features(compare.read_features(net), "")
    judge = compare.DataJudge(features, held_out, train)
    each = []
    for seed in (0, 1):
        x = sampling.sample(model.denoiser, UniPC(), steps=3, n=8, seed=seed, batch_size=8)
        each.append((judge.values(x, seed), compare.memorisation(x, train, held_out)))
    row = next(row for row in found["rows"] if row["label"] == "unipc, 3 steps")
    for name in row["values"]:
        wanted = compare.over_seeds([values[name] for values, _ in each])
        assert row["values"][name] == pytest.approx(vars(wanted), rel=1e-6), name
    nearness = compare.over_seeds([near.ratio.value for _, near in each])
    assert row["nearness"]["ratio"] == pytest.approx(vars(nearness), rel=1e-6)
    page = (here / "compare/report.html").read_text()
    assert "Copies of the training data?" in page
    assert page.count("<img ") == 4  # three coupled samples, and the way
    assert "step of the feature network" in err
    before = net.read_bytes()
    code, _, err = call(*WORDS)
    assert (code, "0 cells computed, 8 were" in err, "feature network" in err) == (0, True, False)
    assert net.read_bytes() == before


def test_points_of_the_plane_are_their_own_features(call: Call, points: Path) -> None:
    shutil.copytree(points / "run", "run")
    assert call(*WORDS)[0] == 0
    found = results()
    assert (found["headline"], found["truth"]["kind"]) == ("sw2", "data")
    assert "the data themselves" in found["truth"]["about"]
    assert not list(Path("run/compare").glob("features-*"))
    code, _, err = call(*WORDS, "--features", "mine:f")
    assert (code, "arrays are their own features" in err) == (2, True)


def test_features_that_fail_later_or_change_are_the_users(call: Call, here: Path) -> None:
    """What fails after the first pictures is told in words; numbers that come from another file are seen to change."""
    np.save("w.npy", np.ones(36))
    Path("late_of_mine.py").write_text(
        "import numpy as np, torch\n"
        "def picky(x):\n    assert len(x) <= 10\n    return x.flatten(1)\n"
        "def read(x):\n    return x.flatten(1) * torch.from_numpy(np.load('w.npy')).float()\n"
    )
    words = ("compare", "run", "--solvers", "unipc", "--steps", 2, "-n", 8, "--seeds", "0,1", "--no-paths")
    code, _, err = call(*words, "--features", "late_of_mine:picky")
    assert (code, "Traceback" in err) == (2, False)
    assert "late_of_mine:picky fails for a batch of shape" in err
    assert call(*words, "--features", "late_of_mine:read")[0] == 0
    before = results()["rows"][0]["values"]["frechet"]
    np.save("w.npy", 2 * np.ones(36))
    _, _, err = call(*words, "--features", "late_of_mine:read")
    assert "2 cells computed" in err
    assert results()["rows"][0]["values"]["frechet"] == pytest.approx({k: 4 * v for k, v in before.items()}, rel=1e-3)


def test_adaptive_solvers_alone_make_a_page_of_pictures(call: Call, here: Path) -> None:
    code, out, _ = call("compare", "run", "--solvers", "ode", "--tolerances", 0.1, "-n", 4, "--seeds", "0,1")
    assert (code, out.splitlines()[-1]) == (0, "run/compare/report.html")


def no_held_out(folder: Path) -> None:
    items = np.random.default_rng(0).integers(0, 256, size=(20, 6, 6), dtype=np.uint8)
    trained(Path(), items, "--held-out", 0)


def data_gone(folder: Path) -> None:
    shutil.copytree(folder / "run", "run")
    for path in Path("run").rglob("*"):
        if path.suffix in (".toml", ".json"):
            path.write_text(path.read_text().replace(str(folder / "x.npy"), "gone.npy"))


def data_changed(folder: Path) -> None:
    shutil.copytree(folder / "run", "run")
    np.save("x.npy", np.random.default_rng(1).integers(0, 99, size=(20, 6, 6), dtype=np.uint8))
    for path in Path("run").rglob("*"):
        if path.suffix in (".toml", ".json"):
            path.write_text(path.read_text().replace(str(folder / "x.npy"), "x.npy"))


@pytest.mark.usefixtures("no_page")
@pytest.mark.parametrize(
    ("make", "words", "note"),
    [
        (no_held_out, (), "trained without held-out data; samples are held against its own fine steps instead"),
        (data_gone, (), "The run's data are not there (gone.npy: no such data"),
        (data_changed, (), "these are not the data that the run was trained on"),
        (lambda folder: shutil.copytree(folder / "run", "run"), ("--reference",), ""),
    ],
)
def test_fine_steps_of_the_model_stand_for_data(
    call: Call, pictures: Path, make: Callable[[Path], Any], words: tuple[str, ...], note: str
) -> None:
    make(pictures)
    code, _, err = call(*WORDS, *words)
    assert (code, note in err) == (0, True)
    found = results()
    assert found["truth"]["kind"] == "reference"
    assert note in " ".join(found["truth"]["notes"])
    assert bool(found["truth"]["notes"]) == bool(note)
    assert all(row["nearness"] == {} for row in found["rows"])
    (reference,) = Path("run/compare").glob("reference-*.npy")
    assert np.load(reference).shape == (80, 1, 6, 6)
    code, _, err = call(*WORDS, *words, "--seeds", "0-2")
    assert (code, "4 cells computed, 8 were" in err, "step of the reference" in err) == (0, True, False)


@pytest.mark.usefixtures("no_page")
def test_features_of_your_own(call: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine_of_mine.py").write_text(
        "def rows(x):\n    assert 0 <= x.min() and x.max() <= 1\n    return x.mean((1, 3))\n\n"
        "def wrong(x):\n    return x.sum()\n\ndef broken(x):\n    return x.nonsense\n\nnumber = 3\n"
    )
    assert call(*WORDS, "--features", "mine_of_mine:rows")[0] == 0
    found = results()
    assert "mine_of_mine:rows" in found["truth"]["about"]
    assert "--features mine_of_mine:rows" in found["rows"][0]["command"]
    assert "--features" not in found["rows"][0]["sample_command"]
    for name, hint in (
        ("mine_of_mine:wrong", "features of 4 items must be (4, F), got ()"),
        ("mine_of_mine:broken", "in mine_of_mine.py, line 9: AttributeError"),
        ("mine_of_mine:number", "is of type int"),
        ("mine_of_mine:row", "Did you mean 'rows'?"),
        ("nothing_of_mine:rows", "there is no module nothing_of_mine"),
        ("lenet.pth", "there is no such file"),
        (here / "config.toml", "not a file of tensors"),
    ):
        code, out, err = call(*WORDS, "--features", name)
        assert (code, out, "Traceback" in err) == (2, "", False)
        assert hint in err


def test_a_lenet_is_for_digits_of_its_size(call: Call, here: Path) -> None:
    weights = {f"{name}.weight": torch.zeros(shape) for name, shape in lenet.SHAPES.items()}
    torch.save(weights | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in lenet.SHAPES.items()}, "lenet.pth")
    code, _, err = call(*WORDS, "--features", "lenet.pth")
    assert (code, "images must be (N, 1, 28, 28)" in err) == (2, True)


@pytest.mark.usefixtures("no_page")
def test_a_damaged_feature_network_is_trained_again(call: Call, here: Path) -> None:
    assert call(*WORDS)[0] == 0
    (net,) = (here / "compare").glob("features-*.safetensors")
    before = compare.read_features(net).state_dict()
    flip_a_byte(net)
    code, _, err = call(*WORDS)
    assert (code, "it is trained again" in err) == (0, True)
    after = compare.read_features(net).state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert "0 cells computed, 8 were" in err


@pytest.mark.usefixtures("no_page")
def test_no_more_samples_than_there_are_items(call: Call, here: Path) -> None:
    code, _, err = call(*WORDS, "-n", 300)
    assert (code, "items to hold" in err) == (2, True)
    most = int(err.split("take -n ")[1].split()[0])
    assert 15 <= most <= 27  # half of the training data
    assert call("compare", "run", *FEW[:4], "--seeds", "0,1", "--batch-size", 32)[0] == 0
    assert results()["n"] == most


@pytest.mark.usefixtures("no_page")
def test_a_dry_run_trains_and_writes_nothing(call: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(Path().rglob("*"))
    for words in ((), ("--reference",)):
        code, out, err = call(*WORDS, *words, "--dry-run")
        assert (code, err) == (0, "")
        assert "8 cells of 8 samples (solver, effort, seed), 0 of them there already" in out
    assert sorted(Path().rglob("*")) == before
    assert call(*WORDS)[0] == 0
    monkeypatch.setattr(comparison_features, "learn_features", None)
    assert "8 of them there already" in call(*WORDS, "--dry-run")[1]


@pytest.mark.usefixtures("no_page")
def test_one_checkpoint_has_a_folder_of_its_own(call: Call, here: Path) -> None:
    code, out, _ = call("compare", here / "checkpoints/step-000003", *FEW, "--average", "raw")
    assert (code, out.splitlines()[-1]) == (0, "run/compare/step-000003/report.html")
    found = results("run/compare/step-000003")
    assert "--average raw" in found["rows"][0]["command"]
    assert "--average raw" in found["rows"][0]["sample_command"]
