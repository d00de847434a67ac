"""What was asked of `scoresde likelihood`, and how it is computed: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import click

from scoresde_cli.likelihood_data import Judged


@dataclass(frozen=True)
class Method:
    """How the numbers are computed; the fields are the options of that name."""

    seed: int
    steps: int | None
    tolerance: float | None
    trace: str
    probes: int | None
    gaussian_probes: bool
    dequantise: int | None
    chain_steps: int
    variance: str
    grid: str
    trajectories: int
    batch_size: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Wish:
    """What was asked for; None for a default that depends on the data. The fields are the options of that name."""

    n: int | None
    usual_n: int
    seed: int
    bits: int | None
    steps: int | None
    tolerance: float | None
    trace: str
    probes: int | None
    gaussian_probes: bool
    dequantise: int | None
    usual_dequantise: int
    chain_steps: int
    variance: str
    grid: str
    trajectories: int
    average: str | None
    process: Mapping[str, Any]
    batch_size: int

    def method(self, judged: Judged) -> Method:
        """How the numbers are computed.

        Raises:
            UsageError: options that do not go with the data.
        """
        if judged.levels is None and self.dequantise is not None:
            raise click.UsageError(f"--dequantise is for pictures; {judged.source} are arrays, which have densities")
        return Method(
            seed=self.seed,
            steps=self.steps,
            tolerance=self.tolerance,
            trace=self.trace,
            probes=self.probes,
            gaussian_probes=self.gaussian_probes,
            dequantise=None if judged.levels is None else self.dequantise or self.usual_dequantise,
            chain_steps=self.chain_steps,
            variance=self.variance,
            grid=self.grid,
            trajectories=self.trajectories,
            batch_size=self.batch_size,
        )
