"""The numbers of `scoresde likelihood`, by the library: the flow's likelihood, the bound, and its weighted kin."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

import click
from torch import Tensor

from scoresde import grids
from scoresde.chain import DDPM, WeightedBound
from scoresde.denoisers import Denoiser
from scoresde_cli import likelihood_flow
from scoresde_cli.likelihood_data import Judged
from scoresde_cli.likelihood_flow import Flow
from scoresde_cli.likelihood_method import Method
from scoresde_cli.likelihood_table import Line, Values, line
from scoresde_cli.names import OPTIMAL
from scoresde_cli.progress import counted

MEASURED = 256  # data that optimal variances are measured on, at most
EXACT = "exact"


@dataclass(frozen=True)
class Found:
    """The numbers.

    Args:
        values: for each of the data; table: their means; held_to: the line that the others are compared with.
        terms: mean of L_0..L_K over the data, nats; None for what is not finite.
        problems: sample by number -> what went wrong.
    """

    values: list[Values]
    numbers: Tensor
    table: list[Line]
    held_to: str
    terms: list[float | None]
    problems: dict[int, list[str]]
    weighted: dict[int, Values]
    flow: Flow

    def csv(self) -> str:
        """A line for each of the data, nats; the flow's standard error over probes beside it."""
        columns = {of.name: of.nats for of in self.values}
        columns |= {f"{of.name}, over draws": of.draws for of in self.values if of.draws is not None}
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["sample", *columns])
        for row, number in enumerate(self.numbers.tolist()):
            writer.writerow([number, *(f"{column[row].item():.9g}" for column in columns.values())])
        return stream.getvalue()


def compute(judged: Judged, denoiser: Denoiser, method: Method) -> Found:
    """Everything.

    Raises:
        UsageError, ValueError: options that do not go with the model.
    """
    chain = _chain(denoiser, method)
    variance = _variance(chain, judged, denoiser, method)
    flow = likelihood_flow.compute(judged, denoiser, method)
    bound = _bound(chain, judged, denoiser, method, variance)
    weighted = {m: _weighted(bound, m, judged) for m in _powers(method.trajectories) if m > 1}
    held_to, first = _held_to(judged, flow)
    rows = [*first, *flow.rows, *_terms(bound, judged), _weighted(bound, 1, judged), *weighted.values()]
    table = [line(of, None if of is held_to else held_to, judged.numbers, judged.dim) for of in rows]
    problems: dict[int, list[str]] = {}
    for of in rows:
        for row, words in (of.problems or {}).items():
            problems.setdefault(int(judged.numbers[row]), []).append(words)
    means = bound.bound.terms[:, bound.bound.terms.isfinite().all(0)].mean(1)
    return Found(
        rows,
        judged.numbers,
        table,
        held_to.name,
        [value if math.isfinite(value) else None for value in means.tolist()],
        problems,
        weighted,
        flow,
    )


def _held_to(judged: Judged, flow: Flow) -> tuple[Values, list[Values]]:
    """The exact log-density where it is known, the flow's otherwise; and the rows that this adds."""
    if judged.log_density is None:
        return flow.best, []
    exact = Values(EXACT, -judged.log_density)
    return exact, [exact]


# --- the bound -----------------------------------------------------------------------------------------


def _chain(denoiser: Denoiser, method: Method) -> DDPM:
    """The chain of K steps with the levels that the grid has under the model's process."""
    times = grids.GRIDS[method.grid](denoiser.sde, method.chain_steps, denoiser.max_log_snr)
    return DDPM.from_levels(denoiser.sde, times)


def _variance(chain: DDPM, judged: Judged, denoiser: Denoiser, method: Method) -> str | Tensor:
    if method.variance != OPTIMAL:
        return method.variance
    others = judged.others
    if others is None:
        raise click.UsageError(
            "--variance optimal is measured on data that are not judged, and those that the run was trained on are "
            "not there; take --variance large, or small"
        )
    some = others[:MEASURED]
    passes = -(-len(some) // method.batch_size)
    with counted("variances: step", passes * chain.steps) as on_step:
        return chain.optimal_variances(denoiser, some, seed=method.seed, batch_size=method.batch_size, on_step=on_step)


def _bound(chain: DDPM, judged: Judged, denoiser: Denoiser, method: Method, variance: str | Tensor) -> WeightedBound:
    count, size = len(judged.x), method.batch_size
    passes = -(-count // size) * -(-method.trajectories // max(1, size // count))
    with counted("bound: step", passes * chain.steps) as on_step:
        return chain.weighted_bound(
            denoiser,
            judged.x,
            trajectories=method.trajectories,
            seed=method.seed,
            variance=variance,
            bin_width=judged.bin_width,
            ids=judged.numbers,
            batch_size=size,
            on_step=on_step,
        )


def _terms(bound: WeightedBound, judged: Judged) -> list[Values]:
    """L_K, the sum of the L_{k-1}, and L_0."""
    terms = bound.bound.terms.cpu()
    return [
        Values("L_K, the prior", terms[-1], part=True),
        Values("L_1 + ... + L_{K-1}", terms[1:-1].sum(0), part=True),
        Values("L_0, the decoder", terms[0] + judged.log_scale, part=True),
    ]


def _weighted(bound: WeightedBound, m: int, judged: Judged) -> Values:
    name = "variational bound" if m == 1 else f"weighted bound, M = {m}"
    draws = bound.standard_error(m).cpu()
    shown = None if bool(draws.isnan().all()) else draws
    return Values(name, bound.nats(m).cpu() + judged.log_scale, shown, problems=bound.problems if m == 1 else None)


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... and the last."""
    powers = [2**i for i in range(most.bit_length()) if 2**i <= most]
    return [*powers, *([most] if powers[-1] != most else [])]
