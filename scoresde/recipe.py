"""Configuration to objects: the one place where names become processes, networks and settings.

A `Recipe` is plain data, the same in a config.toml, in a checkpoint's manifest and in memory. Unknown sections, keys
and names are errors.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde import data, nets
from scoresde.data import Dataset, Options
from scoresde.denoisers import LogSNR, NetDenoiser
from scoresde.mixtures import MIXTURES
from scoresde.parameterisations import Parameterisation, PredictsEDM, PredictsEps, PredictsScore, PredictsV, PredictsX0
from scoresde.processes import EDM, VE, VP, Cosine, RectifiedFlow, SubVP
from scoresde.sde import LinearSDE
from scoresde.training import EMA, WEIGHTS, ChainTimes, ContinuousTimes, Settings, Times, TrainingState
from scoresde.training.loss import chain_vlb

PROCESSES: dict[str, Callable[..., LinearSDE]] = {
    "vp": VP,
    "cosine": Cosine,
    "sub-vp": SubVP,
    "ve": VE,
    "edm": EDM,
    "rectified-flow": RectifiedFlow,
}
PARAMETERISATIONS: dict[str, Callable[[float], Parameterisation]] = {
    "eps": lambda data_std: PredictsEps(),
    "x0": lambda data_std: PredictsX0(),
    "v": lambda data_std: PredictsV(),
    "score": lambda data_std: PredictsScore(),
    "edm": PredictsEDM,
}
TIMES: dict[str, Callable[[int], Times]] = {
    "continuous": lambda chain_steps: ContinuousTimes(),
    "chain": ChainTimes,
}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MIXTURE_POINTS = 50_000


@dataclass(frozen=True)
class DataRecipe:
    """What to train on; see `scoresde.data.Options`. `held_out` is the share kept for validation."""

    source: str = "digits"
    n: int | None = None
    size: int | None = None
    crop: int | None = None
    channels: int | None = None
    downscale: int | None = None
    held_out: float = 0.05
    flip: bool = False
    seed: int = 0


@dataclass(frozen=True)
class ProcessRecipe:
    """Which forward process, and its parameters by name, such as beta_min."""

    name: str = "vp"
    parameters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class NetworkRecipe:
    """A preset's name, and what the network predicts: eps, x0, v, score or edm."""

    preset: str = "small"
    predict: str = "eps"


@dataclass(frozen=True)
class TrainingRecipe:
    """How to train; see `scoresde.training.Settings`. `times` is "continuous" or "chain" (with `chain_steps`)."""

    steps: int = 5000
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: int = 100
    final_rate: float = 0.05
    clip: float = 1.0
    weight: str = "simple"
    times: str = "continuous"
    chain_steps: int = 1000
    low_discrepancy: bool = True
    ema: tuple[float, ...] = (0.999,)
    micro_batches: int = 1
    precision: str = "float32"
    compile: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run."""

    data: DataRecipe = DataRecipe()
    process: ProcessRecipe = ProcessRecipe()
    network: NetworkRecipe = NetworkRecipe()
    training: TrainingRecipe = TrainingRecipe()

    def __post_init__(self) -> None:
        _known("process", self.process.name, PROCESSES)
        _known("preset", self.network.preset, nets.UNET_PRESETS)
        _known("predict", self.network.predict, PARAMETERISATIONS)
        _known("weight", self.training.weight, WEIGHTS)
        _known("times", self.training.times, TIMES)
        _known("precision", self.training.precision, PRECISIONS)
        if self.training.batch_size < 1:
            raise ValueError(f"batch_size = {self.training.batch_size}; it must be 1 or more")
        process(self)
        settings(self)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Sections of plain values; what is None is left out."""
        sections = asdict(self)
        flat = sections["process"]
        sections["process"] = {"name": flat["name"], **flat["parameters"]}
        sections["training"]["ema"] = list(self.training.ema)
        return {
            name: {key: value for key, value in section.items() if value is not None}
            for name, section in sections.items()
        }

    @classmethod
    def from_dict(cls, sections: Mapping[str, Mapping[str, Any]]) -> Recipe:
        """The reverse of `to_dict`; what is left out has its default.

        Raises:
            ValueError: an unknown section or key, a value of the wrong type or out of range.
        """
        known = {f.name for f in fields(cls)}
        for name, section in sections.items():
            _known("section", name, known)
            if not isinstance(section, Mapping):
                raise ValueError(f"{name} = {section!r}; it must be a section [{name}]")
        rest = {key: value for key, value in sections.get("process", {}).items() if key != "name"}
        name = sections.get("process", {}).get("name", ProcessRecipe.name)
        return cls(
            _section(DataRecipe, sections.get("data", {})),
            ProcessRecipe(name, rest),
            _section(NetworkRecipe, sections.get("network", {})),
            _section(TrainingRecipe, sections.get("training", {})),
        )

    def with_values(self, **sections: Mapping[str, Any]) -> Recipe:
        """A copy with some values replaced: `recipe.with_values(training={"steps": 10})`."""
        changed = self.to_dict()
        for name, values in sections.items():
            _known("section", name, changed)
            changed[name] = {**changed[name], **{k: v for k, v in values.items() if v is not None}}
        return Recipe.from_dict(changed)


def _known(what: str, name: Any, names: Any) -> None:
    if name not in names:
        close = difflib.get_close_matches(str(name), list(names), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{what} {name!r} is unknown; choose from {', '.join(names)}.{hint}")


def _section(kind: type[Any], values: Mapping[str, Any]) -> Any:
    types = {f.name: str(f.type) for f in fields(kind)}
    clean: dict[str, Any] = {}
    for key, value in values.items():
        _known("key", key, types)
        clean[key] = _typed(key, value, types[key])
    return kind(**clean)


def _typed(key: str, value: Any, wanted: str) -> Any:
    """The value, when it has the type that the field is annotated with; a whole number may stand for a float."""
    if wanted.startswith("tuple"):
        if isinstance(value, list | tuple) and all(isinstance(v, float | int) for v in value):
            return tuple(float(v) for v in value)
    elif wanted.startswith("bool"):
        if isinstance(value, bool):
            return value
    elif isinstance(value, bool):
        pass
    elif wanted.startswith("int") and isinstance(value, int):
        return value
    elif wanted.startswith("float") and isinstance(value, float | int):
        return float(value)
    elif wanted.startswith("str") and isinstance(value, str):
        return value
    raise ValueError(f"{key} = {value!r}; it must be of type {wanted}")


# --- toml ----------------------------------------------------------------------------------------------


def read_toml(path: Path) -> Recipe:
    """A recipe from a config.toml.

    Raises:
        ValueError: not TOML, or not a recipe.
    """
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    try:
        return Recipe.from_dict(sections)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def to_toml(recipe: Recipe) -> str:
    """The whole recipe, defaults included, as a config.toml that can be passed back."""
    lines = []
    for name, section in recipe.to_dict().items():
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in section.items()), ""]
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)  # inf and whole numbers are TOML as Python writes them


# --- data ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Space:
    """Where a run's data live: the shape of one sample, and how model values map to the user's.

    Args:
        kind: "image" or "array".
        shape: of one sample.
        mean, std: model value = (stored value - mean) / std; pictures have their range mapped to [-1, 1].
        data_std: standard deviation of the model values of the training data.
        levels: of a stored pixel, for pictures (256 for 8 bits); None for arrays.
    """

    kind: str
    shape: tuple[int, ...]
    mean: float = 0.0
    std: float = 1.0
    data_std: float = 1.0
    levels: int | None = None

    def to_user(self, x: Tensor) -> np.ndarray:
        """Model values as the user's: uint8 (or uint16) pictures, float32 arrays."""
        if self.levels is None:
            return (x.double() * self.std + self.mean).float().cpu().numpy()
        deep = self.levels > 256
        top = 65535 if deep else 255
        scaled = ((x.double().clamp(-1.0, 1.0) + 1.0) * (0.5 * top)).round().cpu().numpy()
        return scaled.astype(np.uint16 if deep else np.uint8)

    def to_model(self, batch: Tensor) -> Tensor:
        """A batch of a `Dataset` as model values."""
        return batch if self.levels is not None else (batch - self.mean) / self.std


def open_dataset(recipe: DataRecipe) -> Dataset:
    """The data that a recipe names.

    Raises:
        DataError: data that cannot be read; ValueError: options out of range.
    """
    options = Options(
        n=recipe.n,
        size=recipe.size,
        crop=recipe.crop,
        channels=recipe.channels,
        downscale=recipe.downscale,
        seed=recipe.seed,
    )
    mixtures = {f"gmm:{name}": _mixture_source(name) for name in MIXTURES}
    return data.open_data(recipe.source, options, sources={**data.SOURCES, **mixtures})


def _mixture_source(name: str) -> Callable[[Options], Dataset]:
    def draw(options: Options) -> Dataset:
        options.refuse_all_but(("n",), f"gmm:{name}")
        x = MIXTURES[name]().sample(options.n or MIXTURE_POINTS, options.seed)
        return Dataset(x.float().numpy(), "array", f"gmm:{name}")

    return draw


def space_of(dataset: Dataset) -> Space:
    """The space of a training set: arrays are scaled to zero mean and unit standard deviation, as a whole."""
    if dataset.kind == "array":
        mean, std = data.standardise(dataset.array)
        return Space("array", dataset.shape, mean, std)
    probe = dataset.batch(np.linspace(0, len(dataset) - 1, min(len(dataset), 1000)).astype(int))
    spread = float(probe.double().std()) or 1.0
    return Space("image", dataset.shape, data_std=spread, levels=dataset.levels)


# --- objects -------------------------------------------------------------------------------------------


def process(recipe: Recipe) -> LinearSDE:
    """The forward process."""
    make = PROCESSES[recipe.process.name]
    known: list[str] = [f.name for f in fields(make)] if is_dataclass(make) else []
    for key, value in recipe.process.parameters.items():
        _known(f"parameter of the {recipe.process.name} process", key, known)
        if isinstance(value, bool) or not isinstance(value, float | int):
            raise ValueError(f"{key} = {value!r}; it must be a number")
    return make(**recipe.process.parameters)


def times(recipe: Recipe) -> Times:
    """The law of t in training."""
    return TIMES[recipe.training.times](recipe.training.chain_steps)


def settings(recipe: Recipe) -> Settings:
    """The settings of the loop."""
    training = recipe.training
    weight = WEIGHTS[training.weight]
    if training.weight == "vlb" and training.times == "chain":
        weight = chain_vlb(process(recipe), training.chain_steps)
    return Settings(
        steps=training.steps,
        learning_rate=training.learning_rate,
        warmup=training.warmup,
        final_rate=training.final_rate,
        clip=training.clip,
        weight=weight,
        times=times(recipe),
        low_discrepancy=training.low_discrepancy,
        micro_batches=training.micro_batches,
        autocast=PRECISIONS[training.precision],
    )


def denoiser(recipe: Recipe, space: Space) -> NetDenoiser:
    """The network, freshly initialised from the recipe's seed, as a denoiser."""
    sde = process(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        module = nets.build(recipe.network.preset, space.shape)
    if space.kind == "image":
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    low, high = (float(sde.log_snr(t)) for t in (1.0, times(recipe).smallest()))
    if low == -math.inf:
        low = float(sde.log_snr(1.0 - times(recipe).smallest()))
    return NetDenoiser(
        module,
        sde,
        PARAMETERISATIONS[recipe.network.predict](space.data_std),
        condition=LogSNR(low, high),
        shape=space.shape,
        data_std=space.data_std,
    )


def training_state(recipe: Recipe, space: Space, device: torch.device | str = "cpu") -> TrainingState:
    """Network, optimiser and averages at step 0, on `device`."""
    model = denoiser(recipe, space).to(device)
    optimizer = torch.optim.AdamW(
        model.module.parameters(),
        lr=recipe.training.learning_rate,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        fused=True,
    )
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=recipe.training.precision == "float16")
    return TrainingState(model, optimizer, EMA(model.module, recipe.training.ema), scaler)
