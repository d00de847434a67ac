"""Checkpoints: a folder of safetensors files and a JSON manifest, whole or not there at all.

    checkpoints/step-000123/manifest.json        format, version, step, recipe, space, sha256 of every file
                            model.safetensors    the network's parameters
                            ema-0.safetensors    their averages, one file a horizon
                            optimizer.safetensors

It is written to a temporary folder, flushed to disk and renamed. Reading checks every sha256 first, then names, shapes
and dtypes, since neither torch nor safetensors notices a flipped bit. There is no pickle and no fallback to one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from scoresde import recipe as recipes
from scoresde.denoisers import NetDenoiser
from scoresde.errors import CheckpointError
from scoresde.recipe import Recipe, Space
from scoresde.training import TrainingState

FORMAT, VERSION = "scoresde-checkpoint", 1
MANIFEST, MODEL, OPTIMIZER = "manifest.json", "model.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been found to be those that were written."""

    folder: Path
    recipe: Recipe
    space: Space
    step: int
    counters: Mapping[str, Any]

    def denoiser(self, *, average: int | None = 0, device: torch.device | str = "cpu") -> NetDenoiser:
        """The trained denoiser, in evaluation mode.

        Args:
            average: which horizon of the exponential averages; None for the parameters themselves.

        Raises:
            CheckpointError: tensors that do not fit the recipe's network.
            ValueError: no such average.
        """
        decays = self.recipe.training.ema
        if average is not None and decays and not 0 <= average < len(decays):
            raise ValueError(f"average = {average}; this run has {len(decays)} ({', '.join(map(str, decays))})")
        name = MODEL if average is None or not decays else _average(average)
        model = recipes.denoiser(self.recipe, self.space)
        wanted = dict(model.module.named_parameters()) if name != MODEL else model.module.state_dict()
        tensors = _read_tensors(self.folder / name, wanted)
        model.module.load_state_dict(tensors, strict=name == MODEL)
        return model.to(device).eval().requires_grad_(False)

    def training_state(self, device: torch.device | str = "cpu") -> TrainingState:
        """Everything that training needs to go on as if it had not stopped."""
        state = recipes.training_state(self.recipe, self.space, device)
        module = state.denoiser.module
        module.load_state_dict(_read_tensors(self.folder / MODEL, module.state_dict()))
        for i in range(len(self.recipe.training.ema)):
            averages = _read_tensors(self.folder / _average(i), state.ema.state(i))
            state.ema.load(i, averages, self.counters["ema_updates"])
        _load_optimizer(state.optimizer, _read_tensors(self.folder / OPTIMIZER, None))
        if self.counters.get("scaler"):
            state.scaler.load_state_dict(dict(self.counters["scaler"]))
        state.step = self.step
        state.skipped = self.counters["skipped"]
        state.skipped_in_a_row = self.counters["skipped_in_a_row"]
        return state


def _average(index: int) -> str:
    return f"ema-{index}.safetensors"


def load(path: str | Path, *, average: int | None = 0, device: torch.device | str = "cpu") -> NetDenoiser:
    """The denoiser of a run folder (its newest checkpoint) or of one checkpoint folder.

    It works on model values: pictures in [-1, 1], arrays scaled to unit standard deviation; `read(path).space` maps to
    the user's values.

    Raises:
        CheckpointError: not a run, or files that are missing, damaged or not ours.
    """
    return read(path).denoiser(average=average, device=device)


# --- writing -------------------------------------------------------------------------------------------


def write(folder: Path, state: TrainingState, recipe: Recipe, space: Space) -> Path:
    """Save a state as folder/step-NNNNNN, which then exists whole; on any error nothing is left behind.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{state.step:06d}"
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
    try:
        files: dict[str, Mapping[str, Tensor]] = {
            MODEL: state.denoiser.module.state_dict(),
            OPTIMIZER: _optimizer_tensors(state.optimizer),
        }
        for i in range(len(state.ema.decays)):
            files[_average(i)] = state.ema.state(i)
        digests = {name: _write_file(temporary / name, _serialised(tensors)) for name, tensors in files.items()}
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "step": state.step,
            "recipe": recipe.to_dict(),
            "space": asdict(space),
            "counters": {
                "ema_updates": state.ema.updates,
                "skipped": state.skipped,
                "skipped_in_a_row": state.skipped_in_a_row,
                "scaler": state.scaler.state_dict(),
            },
            "sha256": digests,
        }
        _write_file(temporary / MANIFEST, json.dumps(manifest, indent=2).encode())
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)
        _sync_folder(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})


def _write_file(path: Path, content: bytes) -> str:
    """Write and flush to disk; the sha256."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    return hashlib.sha256(content).hexdigest()


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be flushed
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, entries in state.items() for key, value in entries.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            # a fused optimizer walks through memory, so moments must lie there as the parameter does (channels last)
            value = torch.empty_like(parameter).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


# --- reading -------------------------------------------------------------------------------------------


def steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir())


def find(path: str | Path) -> Path:
    """The checkpoint folder that `path` means: itself, or the newest of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file; a run or checkpoint is a folder with a {MANIFEST} (scoresde never reads "
            "pickles such as .pt or .pth)"
        )
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such run; train one with `scoresde train DATA --out {path}`")
    if (path / MANIFEST).is_file():
        return path
    found = steps(path / "checkpoints") or steps(path)
    if not found:
        raise CheckpointError(f"{path} holds no checkpoint (no checkpoints/step-*/{MANIFEST})")
    return found[-1]


def read(path: str | Path) -> Checkpoint:
    """Find a checkpoint and check every file of it against its manifest.

    Raises:
        CheckpointError: missing, damaged or not ours.
    """
    folder = find(path)
    manifest = _read_manifest(folder / MANIFEST)
    for name, digest in manifest["sha256"].items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{folder / name} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise CheckpointError(
                f"{folder / name} is damaged: it is not the file that was written (sha256 differs); "
                "take an older checkpoint of the run, or train on from one"
            )
    try:
        space = dict(manifest["space"])
        space["shape"] = tuple(space["shape"])
        return Checkpoint(
            folder, Recipe.from_dict(manifest["recipe"]), Space(**space), int(manifest["step"]), manifest["counters"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / MANIFEST} does not describe a run of this version: {error}") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not the manifest of a scoresde checkpoint")
    if manifest.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has format version {manifest.get('version')}; this scoresde reads version {VERSION}"
        )
    if not isinstance(manifest.get("sha256"), dict) or MODEL not in manifest["sha256"]:
        raise CheckpointError(f"{path} is damaged: it lists no {MODEL}")
    return manifest


def _read_tensors(path: Path, wanted: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """The tensors of a file, which must have the names, shapes and dtypes of `wanted`."""
    try:
        tensors = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    if wanted is not None:
        if tensors.keys() != wanted.keys():
            odd = sorted(tensors.keys() ^ wanted.keys())[:3]
            raise CheckpointError(f"{path} does not fit the recipe's network: {', '.join(odd)} missing or too many")
        for name, tensor in tensors.items():
            if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
                raise CheckpointError(
                    f"{path}: {name} is {tuple(tensor.shape)} {tensor.dtype}, but the recipe's network has "
                    f"{tuple(wanted[name].shape)} {wanted[name].dtype}"
                )
    return tensors
