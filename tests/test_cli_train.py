"""`scoresde train` and `scoresde info`: the run folder, going on bit for bit, and what happens when things go wrong."""

from __future__ import annotations

import json
import os
import signal
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import DIGITS, MOONS, Call, files, flip_a_byte
from PIL import Image

from scoresde import checkpoint, recipe
from scoresde.recipe import Recipe
from scoresde_cli import estimate, session


def stop_at(step: int, signum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process a signal while it makes that step."""
    real = session.train

    def interrupted(*args: Any) -> Iterator[Any]:
        for record in real(*args):
            if record.step == step:
                os.kill(os.getpid(), signum)
            yield record

    monkeypatch.setattr(session, "train", interrupted)


# --- a run ---------------------------------------------------------------------------------------------


def test_a_run_leaves_all_that_the_design_says(call: Call) -> None:
    code, out, err = call(
        *("train", *DIGITS, "--steps", 20, "--out", "run", "--log-every", 8),
        *("--validate-every", 10, "--sample-every", 10, "--checkpoint-every", 5),
    )
    assert (code, out) == (0, "")
    assert sorted(path.name for path in Path("run").iterdir() if path.name != ".lock") == [
        "checkpoints", "config.toml", "log.txt", "metrics.jsonl", "samples"
    ]  # fmt: skip
    assert [path.name for path in checkpoint.steps(Path("run/checkpoints"))] == [
        "step-000010", "step-000015", "step-000020"
    ]  # fmt: skip
    assert sorted(path.name for path in Path("run/samples").iterdir()) == ["step-000010.png", "step-000020.png"]
    with Image.open("run/samples/step-000020.png") as picture:
        assert picture.size == (8 * 64 + 7 * 2, 8 * 64 + 7 * 2)
    assert Path("run/log.txt").read_text() == err
    assert recipe.read_toml(Path("run/config.toml")) == checkpoint.read("run").recipe
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    losses = [record for record in records if "loss" in record]
    assert [record["step"] for record in losses] == [8, 16, 20]
    keys = ["step", "loss", "gradient_norm", "learning_rate", "samples_per_second", "skipped"]
    assert all(list(record) == keys for record in losses)
    checks = [record for record in records if "validation_loss" in record]
    assert [list(record) for record in checks] == [["step", "validation_loss", "standard_error"]] * 2


def test_the_loss_of_a_line_is_the_mean_since_the_line_before(call: Call) -> None:
    for every in (1, 4):
        assert call("train", *MOONS, "--steps", 8, "--out", f"run{every}", "--log-every", every)[0] == 0
    each, means = (
        [json.loads(line)["loss"] for line in Path(f"run{every}/metrics.jsonl").read_text().splitlines()]
        for every in (1, 4)
    )
    assert means == pytest.approx([np.mean(each[:4]), np.mean(each[4:])])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("data", [MOONS, DIGITS], ids=["moons", "digits"])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(
    call: Call, monkeypatch: pytest.MonkeyPatch, signum: int, data: tuple[Any, ...]
) -> None:
    words = ("train", *data, "--steps", 30, "--warmup", 5, "--ema", 0.9, "--ema", 0.99)
    assert call(*words, "--out", "straight")[0] == 0
    with monkeypatch.context() as patch:
        stop_at(13, signum, patch)
        code, _, err = call(*words, "--out", "stopped")
    assert code == 128 + signum
    assert "Stopped at step 13 of 30; saved stopped/checkpoints/step-000013" in err
    assert err.rstrip().endswith(f"To go on: scoresde {' '.join(map(str, (*words, '--out', 'stopped')))}")
    code, _, err = call(*words, "--out", "stopped")
    assert code == 0
    assert "Going on from step 13" in err
    one, other = (files(Path(name, "checkpoints/step-000030")) for name in ("straight", "stopped"))
    assert one == other
    assert {"model.safetensors", "optimizer.safetensors", "ema-0.safetensors", "ema-1.safetensors"} < set(one)


def test_a_stopped_run_goes_on_by_its_folder_alone(call: Call, monkeypatch: pytest.MonkeyPatch, moons: Path) -> None:
    code, _, err = call("train", "--out", moons)
    assert code == 0
    assert "trained to step 6 already" in err
    code, _, err = call("train", "--out", moons, "--steps", 9)
    assert code == 0
    assert "The learning rate now falls over 9 steps instead of 6" in err
    assert checkpoint.read(moons).step == 9


def test_the_handlers_of_signals_are_put_back(moons: Path) -> None:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((*MOONS, "--learning-rate", 0.5), "training.learning_rate: 0.001 there, 0.5 here"),
        (("rings", *MOONS[1:]), "data.source: moons there, rings here"),
        ((*MOONS, "--process", "ve"), "process.name: vp there, ve here"),
        ((*MOONS, "--beta-max", 15), "process.beta_max: None there, 15.0 here"),
        ((*MOONS, "--seed", 1, "--steps", 9), "data.seed: 0 there, 1 here"),
        ((*MOONS, "--steps", 3), "--steps 3 is fewer"),
    ],
)
def test_a_run_of_another_recipe_is_refused_by_what_differs(
    call: Call, moons: Path, words: tuple[Any, ...], named: str
) -> None:
    before = files(moons / "checkpoints/step-000006")
    code, _, err = call("train", *words, "--out", moons)
    assert code == 2
    assert named in err
    assert files(moons / "checkpoints/step-000006") == before


def test_a_run_with_other_data_under_the_same_name_is_refused(call: Call) -> None:
    words = ("train", "x.npy", "--preset", "tiny", "--batch-size", 4, "--sample-every", 0, "--out", "run")
    np.save("x.npy", np.random.default_rng(0).normal(size=(50, 3)))
    assert call(*words, "--steps", 2)[0] == 0
    np.save("x.npy", np.random.default_rng(1).normal(size=(50, 3)))
    code, _, err = call(*words, "--steps", 4)
    assert code == 65
    assert "not the data that the run was trained on" in err


def test_a_folder_with_other_things_in_it_is_not_taken_for_a_run(call: Call) -> None:
    Path("home").mkdir()
    Path("home/letter.txt").write_text("dear")
    code, _, err = call("train", *MOONS, "--out", "home")
    assert code == 2
    assert "letter.txt" in err


# --- recipes -------------------------------------------------------------------------------------------


def test_options_win_over_the_config_file(call: Call) -> None:
    code, out, _ = call("train", *MOONS, "--process", "ve", "--sigma-max", 20, "--steps", 7, "--flip", "--dry-run")
    assert code == 2  # --flip is for pictures
    code, out, _ = call("train", *MOONS, "--process", "ve", "--sigma-max", 20, "--steps", 7, "--dry-run")
    assert code == 0
    assert list(Path().iterdir()) == []
    Path("config.toml").write_text(out)
    code, out, _ = call("train", "--config", "config.toml", "--steps", 8, "--seed", 5, "--dry-run")
    sections = tomllib.loads(out)
    assert sections["process"] == {"name": "ve", "sigma_max": 20.0}
    assert sections["training"]["steps"] == 8
    assert sections["training"]["seed"] == sections["data"]["seed"] == 5
    assert sections["training"]["batch_size"] == 16
    code, out, _ = call("train", "--config", "config.toml", "--process", "vp", "--dry-run")
    assert tomllib.loads(out)["process"] == {"name": "vp"}


def test_a_dry_run_says_what_it_costs(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "SECONDS", 0.1)
    code, out, _ = call("train", *DIGITS, "--dry-run", "--steps", 100, "--out", "run")
    assert code == 0
    comments = out.split("\n\n")[0]
    assert "237,313 parameters" in comments
    assert "MiB at its peak" in comments
    assert "for 100 steps" in comments
    assert Recipe.from_dict(tomllib.loads(out)).training.steps == 100
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--process", "cosine"), "--predict v"),
        (("--process", "rectified-flow", "--predict", "score"), "--predict v"),
        (("--process", "ve", "--beta-min", 1), "--beta-min is a parameter of vp and sub-vp"),
        (("--beta-min", -1), "beta_min"),
        (("--flip",), "--flip mirrors pictures"),
        (("--learning-rate", "nan"), "learning_rate"),
        (("--device", "cuda"), "no GPU"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_before_anything_is_written(
    call: Call, monkeypatch: pytest.MonkeyPatch, words: tuple[Any, ...], hint: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = call("train", *MOONS, *words, "--out", "run")
    assert (code, "Traceback" in err, Path("run").exists()) == (2, False, False)
    assert hint in err


@pytest.mark.parametrize("text", ["[training]\nstep = 3", "[training]\nsteps = 'x'", "[[["])
def test_a_config_file_with_mistakes_is_refused_by_name(call: Call, text: str) -> None:
    Path("c.toml").write_text(text)
    code, _, err = call("train", "moons", "--config", "c.toml", "--out", "run")
    assert code == 2
    assert "c.toml" in err


def test_fewer_items_than_a_batch_will_do(call: Call) -> None:
    np.save("x.npy", np.random.default_rng(0).normal(size=(3, 2, 5)).astype(np.float32))
    words = ("train", "x.npy", "--preset", "tiny", "--steps", 3, "--batch-size", 64, "--out", "run")
    code, _, err = call(*words)
    assert code == 0, err
    assert np.load("run/samples/step-000003.npy").shape == (1000, 2, 5)


# --- info ----------------------------------------------------------------------------------------------


def test_info_says_what_a_run_is(call: Call) -> None:
    words = ("--steps", 6, "--checkpoint-every", 2, "--log-every", 3, "--validate-every", 6, "--out", "run")
    assert call("train", *MOONS, *words)[0] == 0
    code, out, _ = call("info", "run")
    assert code == 0
    for words_ in ("moons: arrays of 2", "tiny MLP, 41,922 parameters, predicts eps", "6 of 6 steps of 16 samples",
                   "scoresde sample run"):  # fmt: skip
        assert words_ in out
    assert out.count("  ok  ") == 3
    found = json.loads(call("info", "run", "--json")[1])
    assert found["step"] == 6
    assert found["losses"]["loss"]["step"] == found["losses"]["validation_loss"]["step"] == 6
    assert [each["ok"] for each in found["checkpoints"]] == [True] * 3


def test_info_finds_the_damaged_among_the_whole(call: Call) -> None:
    assert call("train", *MOONS, "--steps", 4, "--checkpoint-every", 2, "--out", "run")[0] == 0
    flip_a_byte(Path("run/checkpoints/step-000004/model.safetensors"))
    code, out, err = call("info", "run")
    assert code == 65
    assert "ok       run/checkpoints/step-000002" in out
    assert "damaged  run/checkpoints/step-000004" in out
    assert "scoresde sample run/checkpoints/step-000002" in out
    assert "2 of 4 steps" in out
    assert "sha256 differs" in err
    assert call("info", "run/checkpoints/step-000002")[0] == 0
