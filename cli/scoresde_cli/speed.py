"""`--precision`, `--channels-last`, `--compile` and `--cuda-graph` of `scoresde sample`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import click

from scoresde import acceleration, recipe
from scoresde_cli.models import Model
from scoresde_cli.names import flag
from scoresde_cli.progress import say
from scoresde_cli.solvers import AnySolver


@dataclass(frozen=True)
class Speed:
    """What makes sampling faster and may change its rounding; nothing of it by default."""

    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    cuda_graph: bool = False

    def deciding(self) -> dict[str, Any]:
        """What is on, as plain values; what is off is left out, as in folders from before there was any of it."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def words(self) -> list[str]:
        """What is on, for folder names."""
        return [value if isinstance(value, str) else name.replace("_", "-") for name, value in self.deciding().items()]

    def prepare(self, model: Model, solver: AnySolver, batch_size: int) -> tuple[Model, Speed]:
        """The model with its network made faster, and what of this is on: compiling may not work.

        Raises:
            UsageError: something that does not go with the model, its device or the solver.
        """
        self._check(model, solver)
        denoiser = model.denoiser
        if self.channels_last:
            denoiser = acceleration.ChannelsLast(denoiser)
        if self.precision != "float32":
            denoiser = acceleration.Autocast(denoiser, recipe.PRECISIONS[self.precision])
        on = self
        if self.compile:
            why_not = acceleration.compile_sampling(denoiser, batch_size)
            if why_not is not None:
                say(f"Warning: torch.compile does not work here ({why_not}); going on without it")
                on = replace(self, compile=False)
        return replace(model, denoiser=denoiser), on

    def loop(self) -> acceleration.CudaGraph | None:
        """What takes batches along the grid in the place of `sampling.solve`, if anything does."""
        return acceleration.CudaGraph() if self.cuda_graph else None

    def _check(self, model: Model, solver: AnySolver) -> None:
        for name in self.deciding():
            if name != "cuda_graph" and not acceleration.networks(model.denoiser):
                raise click.UsageError(f"{flag(name)} is for networks, and {model.identity['model']} is exact")
        if self.channels_last and len(model.space.shape) != 3:
            raise click.UsageError(f"--channels-last is for pictures; these samples have the shape {model.space.shape}")
        if self.cuda_graph and solver.adaptive:
            raise click.UsageError(
                "--cuda-graph replays steps that were fixed before, and this solver chooses its own; "
                "take one with --steps, such as unipc"
            )
        if self.cuda_graph and model.denoiser.device.type != "cuda":
            raise click.UsageError(f"--cuda-graph needs a GPU; this would run on the {model.denoiser.device.type}")
