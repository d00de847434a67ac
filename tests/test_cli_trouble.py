"""What happens to `scoresde train` when things go wrong: the exit code, the words, and what is kept."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import MOONS, Call, files, flip_a_byte
from PIL import Image

from scoresde import checkpoint
from scoresde.runs import Run
from scoresde_cli import compiling, session

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
