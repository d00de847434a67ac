"""`scoresde train` and `scoresde info`: the run folder, going on bit for bit, and what happens when things go wrong."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scoresde import checkpoint, recipe
from scoresde.recipe import Recipe
from scoresde.runs import Run
from scoresde_cli import compiling, estimate, session
from scoresde_cli.main import run

Call = Callable[..., tuple[int, str, str]]
MOONS = ("moons", "--n", 300, "--preset", "tiny", "--batch-size", 16, "--validate-every", 0, "--sample-every", 0)
DIGITS = ("digits", "--n", 200, "--preset", "tiny", "--batch-size", 8, "--validate-every", 0, "--sample-every", 0)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)

    def invoke(*words: Any) -> tuple[int, str, str]:
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return invoke


@pytest.fixture
def moons(call: Call) -> Path:
    """A short run."""
    assert call("train", *MOONS, "--steps", 6, "--out", "run")[0] == 0
    return Path("run")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


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


# --- bad input -----------------------------------------------------------------------------------------


def nans() -> str:
    x = np.zeros((20, 2), np.float32)
    x[3, 1] = np.nan
    np.save("x.npy", x)
    return "x.npy"


def scalar() -> str:
    np.save("x.npy", np.float32(3.0))
    return "x.npy"


def one_picture() -> str:
    np.save("x.npy", np.zeros((16, 16, 3), np.uint8))
    return "x.npy"


def constant() -> str:
    np.save("x.npy", np.ones((16, 3), np.float32))
    return "x.npy"


def empty_folder() -> str:
    Path("empty").mkdir()
    return "empty"


def pickled() -> str:
    Path("x.npy").write_bytes(pickle.dumps([1, 2, 3]))
    return "x.npy"


def two_sizes() -> str:
    Path("two").mkdir()
    for i, side in enumerate((8, 9)):
        Image.new("L", (side, side)).save(f"two/{i}.png")
    return "two"


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (nans, "NaN or infinite"),
        (scalar, "no items"),
        (one_picture, "looks like one picture"),
        (constant, "all 48 values equal"),
        (empty_folder, "no pictures"),
        (pickled, "none of the kinds read"),
        (two_sizes, "--size"),
        (lambda: "digts", "did you mean digits"),
    ],
)
def test_bad_data_end_with_65_and_leave_no_run(call: Call, make: Callable[[], str], hint: str) -> None:
    code, _, err = call("train", make(), "--held-out", 0, "--out", "run", "--steps", 2)
    assert (code, Path("run").exists(), "Traceback" in err) == (65, False, False)
    assert hint in err


def test_one_broken_file_of_many_is_reported_and_left_out(call: Call) -> None:
    Path("many").mkdir()
    for i in range(30):
        Image.effect_noise((8, 8), 50.0).save(f"many/{i:02d}.png")
    Path("many/07.png").write_bytes(b"not a picture")
    code, _, err = call("train", "many", "--preset", "tiny", "--steps", 1, "--batch-size", 2, "--out", "run",
                        "--sample-every", 0)  # fmt: skip
    assert code == 0
    assert "1 file was left out:" in err
    assert "07.png: broken" in err
    assert "07.png" in Path("run/log.txt").read_text()


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("words", [("sample",), ("info",), ("train", "--steps", 9, "--out")])
def test_a_flipped_byte_is_found_by_every_command(call: Call, moons: Path, words: tuple[Any, ...]) -> None:
    flip_a_byte(moons / "checkpoints/step-000006/ema-0.safetensors")
    code, _, err = call(*words, moons)
    assert code == 65
    assert "ema-0.safetensors is damaged" in err


def test_a_pickle_is_never_read(call: Call, moons: Path) -> None:
    Path("model.pt").write_bytes(pickle.dumps({"weight": 1}))
    code, _, err = call("sample", "model.pt")
    assert code == 65
    assert "never reads pickles" in err
    (moons / "checkpoints/step-000006/model.safetensors").write_bytes(Path("model.pt").read_bytes())
    assert call("info", moons)[0] == 65


def test_a_missing_run_is_bad_input_with_a_way_on(call: Call) -> None:
    for name in ("sample", "info"):
        code, _, err = call(name, "runs/none")
        assert code == 65
        assert "scoresde train" in err


# --- trouble on the way --------------------------------------------------------------------------------


def test_a_full_disk_ends_with_73_and_keeps_the_last_checkpoint(
    call: Call, monkeypatch: pytest.MonkeyPatch, moons: Path
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = files(moons / "checkpoints/step-000006")
    with monkeypatch.context() as patch:
        real = session.Session._save

        def save(self: Any, show: Any) -> None:
            patch.setattr(os, "fsync", full)
            real(self, show)

        patch.setattr(session.Session, "_save", save)
        code, _, err = call("train", "--out", moons, "--steps", 8)
    assert code == 73
    assert "No space left on device; free some space" in err
    assert sorted(path.name for path in (moons / "checkpoints").iterdir()) == ["step-000006"]
    assert files(moons / "checkpoints/step-000006") == before
    assert call("train", "--out", moons, "--steps", 8)[0] == 0
    assert checkpoint.read(moons).step == 8


def test_a_run_that_another_process_writes_is_busy(call: Call, moons: Path) -> None:
    with Run(moons).locked():
        code, _, err = call("train", "--out", moons, "--steps", 8)
    assert code == 75
    assert "another process" in err


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_out_of_memory_is_75_with_a_remedy(call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(session, "train", fail)
    code, _, err = call("train", *MOONS, "--out", "run")
    assert code == 75
    assert "--batch-size" in err


def lose_finite(monkeypatch: pytest.MonkeyPatch, steps: Callable[[int], bool]) -> None:
    """Make the loss NaN in the steps, counted from 1, that `steps` says."""
    from scoresde.training import loop

    real, count = loop.denoising_loss, iter(range(1, 10_000))

    def loss(*args: Any) -> torch.Tensor:
        return real(*args) * (float("nan") if steps(next(count)) else 1.0)

    monkeypatch.setattr(loop, "denoising_loss", loss)


def test_a_loss_that_is_not_finite_is_skipped_counted_and_told(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_finite(monkeypatch, lambda step: step in (3, 4))
    code, _, err = call("train", *MOONS, "--steps", 8, "--log-every", 4, "--out", "run")
    assert code == 0
    assert "step 3: the loss or its gradient was not finite; the step was skipped (1 so far)" in err
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [record["skipped"] for record in records] == [2, 2]
    assert all(np.isfinite(record["loss"]) for record in records)
    assert "skipped    2 steps" in call("info", "run")[1]


def test_losses_that_stay_not_finite_end_with_70_and_keep_the_last_good_checkpoint(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_finite(monkeypatch, lambda step: step > 7)
    code, _, err = call("train", *MOONS, "--steps", 30, "--checkpoint-every", 3, "--out", "run")
    assert code == 70
    assert "10 steps in a row" in err
    assert "last good checkpoint is kept in run/checkpoints" in err
    assert [path.name for path in checkpoint.steps(Path("run/checkpoints"))] == ["step-000003", "step-000006"]


def test_a_bug_keeps_its_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "train", lambda *args: {}["missing"])
    code, _, err = call("train", *MOONS, "--out", "run")
    assert code == 1
    assert "KeyError" in err
    assert "This is a bug in scoresde" in err


def test_compiling_that_fails_is_told_and_done_without(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(function: Any) -> Any:
        def fail(*inputs: Any) -> Any:
            raise RuntimeError("no C++ compiler\nlong story")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    code, _, err = call("train", *MOONS, "--steps", 2, "--compile", "--out", "run")
    assert code == 0
    assert "torch.compile does not work here (no C++ compiler); going on without it" in err


def test_a_compiled_network_is_used_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def compile_(function: Any) -> Any:
        def fast(*inputs: Any) -> Any:
            used.append("fast")
            return function(*inputs)

        return fast

    class Net(torch.nn.Linear):
        def forward(self, x: torch.Tensor, condition: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(x)

    monkeypatch.setattr(torch, "compile", compile_)
    module = Net(2, 2)
    names = list(module.state_dict())
    assert compiling.compile_training(module, (2,), 3, torch.device("cpu")) is None
    used.clear()
    module.eval()(torch.zeros(1, 2), torch.zeros(1))
    assert used == []
    module.train()(torch.zeros(1, 2), torch.zeros(1))
    assert used == ["fast"]
    assert list(module.state_dict()) == names
    assert module.weight.grad is None


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
