"""Checkpoints and run folders: whole or absent, exact on resumption, and nothing damaged is believed."""

import errno
import itertools
import json
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from problems import normal

import scoresde as sd
from scoresde import checkpoint, recipe
from scoresde.recipe import Recipe, Space
from scoresde.runs import Run
from scoresde.training import Batches, train

RECIPE = Recipe().with_values(
    data={"source": "moons"},
    network={"preset": "tiny", "predict": "v"},
    training={"steps": 20, "batch_size": 16, "ema": [0.9, 0.99]},
)
SPACE = Space("array", (2,), 0.1, 1.2)
X = normal(50, 2, dtype=torch.float32)


def advance(state, stop: int, config: Recipe = RECIPE) -> None:
    batches = Batches(lambda rows: X[rows], len(X), config.training.batch_size, seed=config.training.seed)
    for record in train(state, batches, recipe.settings(config)):
        if record.step == stop:
            return


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    state = recipe.training_state(RECIPE, SPACE)
    advance(state, 7)
    run.save(state, RECIPE, SPACE)
    return run


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir() if p.suffix == ".safetensors"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_stopping_and_going_on_equals_not_stopping_bit_for_bit(tmp_path: Path, precision: str) -> None:
    config = RECIPE.with_values(training={"precision": precision})
    straight = recipe.training_state(config, SPACE)
    advance(straight, 20, config)
    whole = files(checkpoint.write(tmp_path / "straight", straight, config, SPACE))
    state = recipe.training_state(config, SPACE)
    for stop in (3, 11, 20):
        advance(state, stop, config)
        path = checkpoint.write(tmp_path / f"{stop}", state, config, SPACE)
        state = checkpoint.read(path).training_state()
    assert files(path) == whole


def test_a_picture_network_goes_on_with_its_moments_where_they_belong(tmp_path: Path) -> None:
    """Its weights lie channels-last in memory, and the fused optimiser walks memory."""
    config = Recipe().with_values(network={"preset": "tiny"}, training={"steps": 4, "batch_size": 4, "warmup": 0})
    space, x = Space("image", (1, 4, 4), levels=256), normal(8, 1, 4, 4, dtype=torch.float32)

    def reach(state, stop: int, name: str) -> Path:
        loop = train(state, Batches(lambda rows: x[rows], 8, 4), recipe.settings(config))
        for _ in itertools.islice(loop, stop - state.step):
            pass
        return checkpoint.write(tmp_path / name, state, config, space)

    straight = reach(recipe.training_state(config, space), 4, "straight")
    half = reach(recipe.training_state(config, space), 2, "half")
    again = reach(checkpoint.read(half).training_state(), 4, "again")
    assert files(again) == files(straight)


def test_a_loaded_denoiser_is_the_averaged_one(run: Run) -> None:
    state = checkpoint.read(run.folder).training_state()
    x = normal(4, 2, dtype=torch.float32)
    for average in (0, 1):
        loaded = sd.load(run.folder, average=average)
        with state.ema.applied(average):
            torch.testing.assert_close(loaded.x0(x, 0.5), state.denoiser.x0(x, 0.5).detach(), rtol=0, atol=0)
    raw = sd.load(run.folder, average=None)
    torch.testing.assert_close(raw.x0(x, 0.5), state.denoiser.x0(x, 0.5).detach(), rtol=0, atol=0)
    assert not raw.training
    assert not any(p.requires_grad for p in raw.parameters())
    with pytest.raises(ValueError, match="average = 2; this run has 2"):
        sd.load(run.folder, average=2)


def test_everything_to_rebuild_is_in_the_folder(run: Run) -> None:
    found = checkpoint.read(run.folder)
    assert (found.recipe, found.space, found.step) == (RECIPE, SPACE, 7)
    assert checkpoint.read(found.folder).step == 7


@pytest.mark.parametrize("name", ["model.safetensors", "ema-0.safetensors", "optimizer.safetensors"])
def test_one_flipped_bit_is_noticed(run: Run, name: str) -> None:
    path = checkpoint.find(run.folder) / name
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(sd.CheckpointError, match=f"{name} is damaged"):
        sd.load(run.folder)


def test_a_missing_file_is_named(run: Run) -> None:
    (checkpoint.find(run.folder) / "ema-1.safetensors").unlink()
    with pytest.raises(sd.CheckpointError, match=r"ema-1.safetensors cannot be read"):
        sd.load(run.folder)


def test_a_renamed_pickle_is_refused_unread(run: Run, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    single = tmp_path / "model.pt"
    single.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(sd.CheckpointError, match="never reads pickles"):
        sd.load(single)
    folder = checkpoint.find(run.folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "ema-0.safetensors").write_bytes(single.read_bytes())
    manifest["sha256"]["ema-0.safetensors"] = checkpoint.hashlib.sha256(single.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(sd.CheckpointError, match="not a safetensors file"):
        sd.load(run.folder)
    assert not (tmp_path / "exploded").exists()


def reseal(folder: Path, name: str, content: bytes) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / name).write_bytes(content)
    manifest["sha256"][name] = checkpoint.hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_tensors_that_do_not_fit_the_network_are_refused(run: Run) -> None:
    folder = checkpoint.find(run.folder)
    tensors = safetensors.torch.load_file(folder / "ema-0.safetensors")
    name = next(iter(tensors))
    for odd, message in (
        ({**tensors, name: tensors[name].double()}, "torch.float64"),
        ({**tensors, name: tensors[name].flatten()[:1].clone()}, r"\(1,\)"),
        ({**tensors, "extra": torch.zeros(1)}, "extra missing or too many"),
    ):
        reseal(folder, "ema-0.safetensors", safetensors.torch.save(odd))
        with pytest.raises(sd.CheckpointError, match=message):
            sd.load(run.folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON"),
        (b"[]", "not the manifest"),
        (b'{"format": "scoresde-checkpoint", "version": 99}', "version 99"),
        (b'{"format": "scoresde-checkpoint", "version": 1}', "lists no model"),
        (b'{"format": "scoresde-checkpoint", "version": 1, "sha256": {"model.safetensors": "0"}}', "damaged"),
    ],
)
def test_a_wrong_manifest_is_refused(run: Run, content: bytes, message: str) -> None:
    (checkpoint.find(run.folder) / "manifest.json").write_bytes(content)
    with pytest.raises(sd.CheckpointError, match=message):
        sd.load(run.folder)


def test_no_run_and_an_empty_run_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(sd.CheckpointError, match="no such run"):
        sd.load(tmp_path / "nothing")
    with pytest.raises(sd.CheckpointError, match="holds no checkpoint"):
        sd.load(tmp_path)


@pytest.mark.parametrize("where", ["fsync", "rename"])
def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_else(
    run: Run, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    state = checkpoint.read(run.folder).training_state()
    advance(state, 9)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, where, full)
    with pytest.raises(OSError, match="No space left"):
        run.save(state, RECIPE, SPACE)
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before
    assert checkpoint.read(run.folder).step == 7


def test_only_the_newest_checkpoints_are_kept(run: Run) -> None:
    state = checkpoint.read(run.folder).training_state()
    for stop in (8, 9, 10):
        advance(state, stop)
        run.save(state, RECIPE, SPACE, keep=2)
    assert [p.name for p in checkpoint.steps(run.checkpoints)] == ["step-000009", "step-000010"]
    assert checkpoint.find(run.folder).name == "step-000010"


def _hold(folder: str, ready, done) -> None:
    with Run(Path(folder)).locked():
        ready.set()
        done.wait(30)


def test_a_second_writer_is_turned_away(run: Run) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(run.folder), ready, done))
    other.start()
    assert ready.wait(30)
    with pytest.raises(sd.BusyError, match="another process"), run.locked():
        pass
    done.set()
    other.join()
    with run.locked():
        pass


def test_records_later_than_the_checkpoint_are_dropped_on_resumption(run: Run) -> None:
    for step in range(1, 11):
        run.record(step=step, loss=1.0)
    with run.metrics.open("a") as stream:
        stream.write('{"step": 11, "lo')
    run.begin(RECIPE, 7)
    assert [r["step"] for r in run.read_metrics()] == list(range(1, 8))
    assert recipe.read_toml(run.config) == RECIPE
