"""What is asked of a restoration, and what it is made with: the same for every IMAGE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scoresde_cli.models import Model
from scoresde_cli.restoration_methods import Plan
from scoresde_cli.restoration_tasks import Task


@dataclass(frozen=True)
class Wish:
    """What is asked for, but for the prior and the pictures.

    Args:
        task: one of `names.TASKS`, or None with an operator MODULE:FUNCTION; options: of the task, those given.
        sigma: of the noise, in the user's units.
        simulate: the files are clean.
        method: None for the default of an operator.
        solver: None for the method's own.
    """

    task: str | None
    operator: str | None
    options: Mapping[str, Any]
    sigma: float
    simulate: bool
    method: str | None
    steps: int | None
    solver: str | None
    particles: int | None
    twist: str | None
    n: int
    seed: int
    batch_size: int


@dataclass(frozen=True)
class Setting:
    """A prior, a task and a method."""

    model: Model
    task: Task
    plan: Plan
    wish: Wish

    def deciding(self, digest: str, shape: tuple[int, ...], entries: int) -> dict[str, Any]:
        """All that decides the samples, but for their numbers, as plain values for settings.json.

        Args:
            digest: of the IMAGE; shape: of x; entries: of its measurement.
        """
        wish = self.wish
        return {
            **self.model.identity,
            "image": digest,
            "simulate": wish.simulate,
            **self.task.deciding(shape),
            "sigma": wish.sigma,
            **self.plan.deciding(entries),
            **({"n": wish.n} if self.plan.facts.interacting else {}),
            "seed": wish.seed,
            "batch_size": wish.batch_size,
            "device": self.model.denoiser.device.type,
        }

    def label(self) -> str:
        """For folder names."""
        wish, plan = self.wish, self.plan
        simulated = ["simulated"] if wish.simulate else []
        together = [f"n{wish.n}", f"particles{plan.particles}"] if plan.facts.interacting else []
        how = [f"sigma{wish.sigma:g}", plan.label(), *together, f"seed{wish.seed}"]
        return "-".join([self.task.label(), *simulated, *how])

    def title(self) -> str:
        """In words, for the inside of a picture."""
        return f"{self.task.name}, {self.plan.name}, sigma {self.wish.sigma:g}, seed {self.wish.seed}"
