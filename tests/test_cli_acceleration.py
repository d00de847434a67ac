"""`scoresde sample` with what makes it faster: what is recorded of it, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import Call
from torch import Tensor

from scoresde import acceleration, solvers
from scoresde.data import read_image
from scoresde_cli.main import run
from scoresde_cli.models import open_model
from scoresde_cli.speed import Speed

TRAIN = (
    *("--preset", "tiny", "--predict", "x0", "--learning-rate", 0.01, "--warmup", 0, "--ema", 0.5),
    *("--steps", 3, "--batch-size", 8, "--validate-every", 0, "--sample-every", 0),
)
SAMPLE = ("--steps", 3, "-n", 3, "--batch-size", 2, "--seed", 1)
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on 6 x 6 pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    np.save(folder / "x.npy", np.random.default_rng(0).integers(0, 256, size=(20, 6, 6, 3), dtype=np.uint8))
    assert run(["train", str(folder / "x.npy"), "--out", str(folder / "run"), "--device", "cpu", *map(str, TRAIN)]) == 0
    return folder / "run"


def settings(folder: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    found = json.loads(Path(folder, "settings.json").read_text())
    return found["settings"], found["notes"]


def pixels(folder: Path | str) -> np.ndarray:
    return np.stack([read_image(path) for path in sorted(Path(folder).glob("sample-*"))]).astype(float)


def test_what_is_off_leaves_no_trace(call: Call, pictures: Path) -> None:
    words = ("sample", pictures, *SAMPLE, "--device", "cpu", "--out", "out")
    assert call(*words)[0] == 0
    deciding, _ = settings("out")
    assert not {"precision", "channels_last", "compile", "cuda_graph"} & deciding.keys()
    code, _, err = call(*words, "--precision", "float32")
    assert code == 0
    assert "3 of 3 samples are there already" in err


def test_what_is_on_is_recorded_and_never_mixed(call: Call, pictures: Path) -> None:
    words = ("sample", pictures, *SAMPLE, "--device", "cpu")
    assert call(*words, "--out", "plain")[0] == 0
    code, out, _ = call(*words, "--precision", "bfloat16", "--channels-last")
    assert code == 0
    assert "-bfloat16-channels-last-seed1" in out
    deciding, notes = settings(out.strip())
    assert {"precision": "bfloat16", "channels_last": True}.items() <= deciding.items()
    assert not {"compile", "cuda_graph"} & deciding.keys()
    assert notes["evaluations"] == 3
    assert 0 < np.abs(pixels(out.strip()) - pixels("plain")).max() < 16
    code, _, err = call(*words, "--precision", "bfloat16", "--out", "plain")
    assert code == 2
    assert 'precision is null there and "bfloat16" here' in err


def test_the_model_is_made_what_was_asked_for(pictures: Path) -> None:
    model = open_model(str(pictures), None, {}, torch.device("cpu"))
    asked = Speed(precision="float16", channels_last=True)
    fast, on = asked.prepare(model, solvers.Heun(), batch_size=2)
    assert on == asked
    assert fast.denoiser.memory_format == torch.channels_last
    assert {type(part) for part in fast.denoiser.modules()} >= {acceleration.Autocast, acceleration.ChannelsLast}
    same, on = Speed().prepare(model, solvers.Heun(), batch_size=2)
    assert (same.denoiser, on) == (model.denoiser, Speed())


def test_a_compiler_is_recorded_if_it_works(call: Call, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("sample", pictures, *SAMPLE, "--device", "cpu", "--compile")
    calls: list[int] = []

    def compile_(function: Any) -> Any:
        def fast(*inputs: Any) -> Any:
            calls.append(1)
            return function(*inputs)

        return fast

    def no_compiler(function: Any) -> Any:
        def fail(*inputs: Any) -> Any:
            raise RuntimeError("no C++ compiler\nlong story")

        return fail

    monkeypatch.setattr(torch, "compile", compile_)
    assert call(*words, "--out", "fast")[0] == 0
    assert len(calls) == 1 + 2 * 3
    assert settings("fast")[0]["compile"] is True
    assert settings("fast")[1]["evaluations"] == 3
    monkeypatch.setattr(torch, "compile", no_compiler)
    code, _, err = call(*words, "--out", "slow")
    assert code == 0
    assert "torch.compile does not work here (no C++ compiler); going on without it" in err
    assert "compile" not in settings("slow")[0]


def test_one_graph_serves_all_batches(call: Call, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a recorder that runs the loop again: what is special on a GPU is tested in test_acceleration.py."""
    words = ("sample", pictures, *SAMPLE, "--device", "cpu")
    graphs: list[acceleration.CudaGraph] = []

    def again(run: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
        end = run()

        def replay() -> None:
            end.copy_(run())

        return end, replay

    def graph() -> acceleration.CudaGraph:
        graphs.append(real(again))
        return graphs[-1]

    real = acceleration.CudaGraph
    monkeypatch.setattr(acceleration, "CudaGraph", graph)
    monkeypatch.setattr(Speed, "_check", lambda *args: None)
    assert call(*words, "--out", "plain")[0] == 0
    assert graphs == []
    assert call(*words, "--cuda-graph", "--out", "graph")[0] == 0
    assert [g.recordings for g in graphs] == [1]
    assert np.array_equal(pixels("graph"), pixels("plain"))
    assert settings("graph")[0]["cuda_graph"] is True
    assert settings("graph")[1]["evaluations"] == settings("plain")[1]["evaluations"] == 3


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--precision", "bfloat16"), "--precision is for networks, and gmm:ring8 is exact"),
        (("--channels-last",), "--channels-last is for networks, and gmm:ring8 is exact"),
        (("--compile",), "--compile is for networks, and gmm:ring8 is exact"),
        (("--cuda-graph",), "--cuda-graph needs a GPU; this would run on the cpu"),
        (("--cuda-graph", "--solver", "rk45"), "--cuda-graph replays steps that were fixed before"),
        (("--precision", "bf16"), "'bf16' is not one of float32, bfloat16, float16"),
    ],
)
def test_what_is_impossible_is_refused_in_words(call: Call, words: tuple[str, ...], hint: str) -> None:
    code, out, err = call("sample", "gmm:ring8", "--device", "cpu", *words)
    assert (code, out, "Traceback" in err) == (2, "", False)
    assert hint in err


def test_points_have_no_channels(call: Call, moons: Path) -> None:
    code, _, err = call("sample", moons, "--steps", 2, "--channels-last")
    assert code == 2
    assert "--channels-last is for pictures; these samples have the shape (2,)" in err


@on_a_gpu
def test_all_of_it_on_a_gpu(call: Call, pictures: Path) -> None:
    words = ("sample", pictures, *SAMPLE, "--device", "cuda")
    assert call(*words, "--out", "plain")[0] == 0
    assert call(*words, "--precision", "bfloat16", "--channels-last", "--cuda-graph", "--out", "fast")[0] == 0
    assert np.abs(pixels("fast") - pixels("plain")).max() < 16
    assert settings("fast")[1]["evaluations"] == 3
