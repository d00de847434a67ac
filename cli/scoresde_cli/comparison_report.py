"""The page of a comparison: the advice first, then what it rests on, then how each number was got."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import scoresde
from scoresde.compare import OFF, Estimate, Measure
from scoresde.compare.neighbours import expected_share
from scoresde.report import Page
from scoresde.report.html import DASH, Cell
from scoresde_cli import comparison_figures as figures
from scoresde_cli import comparison_results as results
from scoresde_cli.comparison_kernels import PATHS, Grid
from scoresde_cli.comparison_paths import Paths, coupling
from scoresde_cli.comparison_results import Order, Result
from scoresde_cli.comparison_study import Study
from scoresde_cli.comparison_way import STEPS, Way

PICTURES = 3  # samples that are shown coupled
MANY_DIGITS = 6


@dataclass(frozen=True)
class Facts:
    """All that the page is made from.

    Args:
        rows: those that failed among them; front: the best at each cost.
        advice: one sentence; command: that made this; device: in words.
        paths, orders, kernels, way: of single paths; empty and None where they were not followed.
    """

    study: Study
    rows: Sequence[Result]
    floor: Mapping[str, Estimate]
    front: Sequence[Result]
    advice: str
    command: str
    device: str
    paths: Sequence[Paths] = ()
    orders: Sequence[Order] = ()
    kernels: Sequence[Grid] = ()
    way: Way | None = None

    @property
    def whole(self) -> list[Result]:
        return [row for row in self.rows if not row.error]

    @property
    def failed(self) -> list[Result]:
        return [row for row in self.rows if row.error]


def write(path: Path, facts: Facts) -> None:
    """The whole page, in one file that needs nothing else.

    Raises:
        OSError: it cannot be written.
    """
    page = Page(f"Which solver for {facts.study.source}?", facts.advice)
    _cost(page, facts)
    _table(page, facts)
    _paths(page, facts)
    _kernels(page, facts)
    _way(page, facts)
    _nearness(page, facts)
    _failed(page, facts)
    _reading(page, facts)
    _again(page, facts)
    page.write(path)


def _cost(page: Page, facts: Facts) -> None:
    study = facts.study
    judge = study.truth.judge
    page.section("Error and cost")
    page.text(judge.about)
    for note in study.truth.notes:
        page.text(note)
    page.figure(
        figures.by_cost(facts.whole, judge.headline_measure, facts.floor[judge.headline], facts.front),
        f"{judge.headline_measure.about} {study.n:,} samples for each of {len(study.seeds)} "
        f"{'seeds' if len(study.seeds) > 1 else 'seed'}; bars are 95 % intervals of the mean. The strip is "
        "the floor: to be below it means nothing. The wide line joins what nothing cheaper is better than.",
        f"Curves of {judge.headline_measure.title} that fall towards the floor as evaluations grow.",
    )
    for measure in judge.measures:
        if measure.two_sided:
            page.figure(
                figures.by_cost(facts.whole, measure, facts.floor[measure.name], ()),
                f"{measure.about} Right is {measure.ideal:g}; what is told from the floor and more than "
                f"{OFF:.0%} off is not advised, however small its distance.",
                f"Curves of {measure.title} that come to {measure.ideal:g} as evaluations grow.",
            )


def _table(page: Page, facts: Facts) -> None:
    judge = facts.study.truth.judge
    page.section("All numbers")
    page.text("A click on a head sorts. The first row is what the truth itself reads, with as many samples.")
    heads = ["solver", "steps", "calls", *(measure.title for measure in judge.measures), "seconds", "MiB"]
    top = ["floor", None, None, *_cells(judge.measures, facts.floor), None, None]
    page.table(
        heads,
        [top, *([*_effort(row), *_cells(judge.measures, row.values), *_spent(row)] for row in facts.whole)],
        sortable=True,
        caption=f"Means over {len(facts.study.seeds)} seeds ({len(facts.study.floor_seeds)} for the floor) with 95 % "
        f"intervals; calls: evaluations of the network for "
        f"a sample; steps: or the tolerance; seconds for {facts.study.n:,} samples, and the most memory they took, "
        f"on {facts.device}",
    )


def _paths(page: Page, facts: Facts) -> None:
    if not facts.paths:
        return
    of, space = coupling(facts.study), facts.study.model.space
    page.section("The same start, the same path")
    page.text(
        f"Here all solvers begin with the same {of.count} draws at t = 1, those of seed {of.seed}, and the ones with "
        "noise follow the same Brownian path at every step count. What differs is the solver's doing alone. As its "
        "steps shrink, a solver tends to the solution of its own equation on that path."
    )
    if space.kind == "image" and any(paths.entry.plan.steps is not None for paths in facts.paths):
        _pictures(page, facts)
    elif space.shape == (2,):
        page.figure(
            figures.coupled_points(facts.paths, facts.study.model.density),
            f"Where {len(facts.paths[0].ends)} paths end with few steps (rings) and with more and more (dots). A line "
            "that crosses from mode to mode is a path that few steps send astray.",
            "Panels, one for each solver, with lines from rings to dots.",
        )
    evaluations = {row.label: row.evaluations for row in facts.whole}
    exact = facts.study.truth.law is not None
    for flow in (True, False):
        chosen = [paths for paths in facts.paths if paths.flow == flow]
        if not chosen:
            continue
        fine = f"the fine solution of their equation, {of.fine_steps:,} steps on the same paths"
        page.figure(
            figures.by_steps(chosen, evaluations, max(paths.resolution for paths in chosen)),
            f"Solvers {'without' if flow else 'with'} noise: root mean square distance to "
            f"{'where the exact flow goes' if flow and exact else fine}, over {of.count} paths. Below the dotted line "
            "that itself is not known.",
            "Falling curves of the distance by evaluations.",
        )
    _orders(page, facts)


def _pictures(page: Page, facts: Facts) -> None:
    seed = coupling(facts.study).seed
    for number in range(min(PICTURES, len(facts.paths[0].ends))):
        page.figure(
            figures.coupled_pictures(facts.paths, number),
            f"Sample {number} of seed {seed}: a row for each solver, a column for each number of steps. "
            "Rows with the same equation end in the same picture.",
            "Rows of pictures that settle from left to right.",
        )


def _orders(page: Page, facts: Facts) -> None:
    if not facts.orders:
        return
    page.table(
        ["solver", "order measured", "from steps", "in theory"],
        [_order(order) for order in facts.orders],
        sortable=True,
        wrap=True,
        caption="By which power of the step the distance of the typical (median) path falls, with its 95 % interval",
    )
    page.text(
        "The root mean square shows no order where modes are separate: a few paths end in another mode after the "
        "smallest change, and make up all of it."
    )


def _order(order: Order) -> list[Cell]:
    fitted = order.fitted
    if not fitted.seen:
        return [order.curve, (math.nan, DASH), fitted.why, order.theory]
    return [order.curve, _pair(fitted.slope), f"{fitted.steps[0]} to {fitted.steps[-1]}", order.theory]


def _kernels(page: Page, facts: Facts) -> None:
    if not facts.kernels:
        return
    page.section("Where ancestral and Euler-Maruyama part, and why")
    page.text(
        "Given x_t, the exact law of x_s is known here: a mixture again. Ancestral sampling draws from a Gaussian with "
        "its mean, but with the variance of the forward process given x0, which forgets how uncertain x0 is: the small "
        "variance is too small, the large one right for data of unit variance. Euler-Maruyama's kernel is of first "
        "order in the step in both mean and variance. And with few steps the exact law is no Gaussian at all, so that "
        "no Gaussian comes nearer than the last curve. As steps shrink all of this goes to zero, but for the small "
        "variance, which keeps 0.289 nats for each dimension on a uniform grid: half of Euler's constant."
    )
    page.figure(
        figures.kernels(facts.kernels),
        "Kullback-Leibler divergence from the exact reverse kernel to that of each method, summed over the steps of "
        f"the uniform grid, over {PATHS} exact paths. It is how much the variational bound loses.",
        "Curves that fall as steps grow, but for the small variance; that of the best Gaussian lies lowest.",
    )
    page.table(
        ["kernel", "steps", "by the mean", "by the variance", "not Gaussian", "nats in all"],
        [
            [name, grid.steps, _pair(parts["mean"]), _pair(parts["variance"]), _pair(grid.non_gaussian),
             _pair(parts["total"])]
            for name in facts.kernels[0].kernels
            for grid in facts.kernels
            for parts in [grid.kernels[name]]
        ],
        sortable=True,
        caption="The same nats by cause",
    )  # fmt: skip


def _way(page: Page, facts: Facts) -> None:
    way, space, density = facts.way, facts.study.model.space, facts.study.model.density
    if way is None:
        return
    page.section("What one look says, and what is decided when")
    page.text(
        "At t = 1 the model is asked for x0 once, given noise alone: that is one-shot prediction, in truth the average "
        "of all that might come. (A network that predicts noise divides its error by alpha(1) there, and may show "
        f"little else.) Below it, E[x0 | x_t] along an ancestral run of {STEPS} steps, from there to the end."
    )
    if space.kind == "image":
        page.figure(
            figures.way_pictures(way),
            "E[x0 | x_t]: each column is one sample, from one look at the noise (top) to the end.",
            "Columns of blurred pictures that become sharp from top to bottom.",
        )
    elif space.shape == (2,):
        page.figure(
            figures.way_points(way, density) if density is not None else figures.ways(way),
            "E[x0 | x_t] of points of the plane, from one look at the noise to the end.",
            "Points that spread from the mean of all data to where they end.",
        )
    page.figure(
        figures.decided(way),
        "How much of the way from the one-shot prediction to the end is behind it at time t, as a share of the squared "
        f"distance, over {way.paths} samples" + (
            "." if way.bands == ("all",) else ", by spatial frequency: coarse structure first, detail last."
        ),
        "Curves that rise from 0 at t = 1 to 1 at t = 0.",
    )  # fmt: skip


def _nearness(page: Page, facts: Facts) -> None:
    last = {row.entry.curve: row for row in facts.whole if row.entry is not None and row.nearness}
    held_out = facts.study.truth.held_out
    if not last or held_out is None:
        return
    new, expected = len(held_out), expected_share(len(held_out))
    page.section("Copies of the training data?")
    page.text(
        "Distances of samples to the nearest picture (or item) that was trained on, beside those of items that never "
        "were. A model that hands out its training data has samples much nearer than new data are."
    )
    page.table(
        ["solver", "steps", "calls", "distance", "share too near"],
        [[*_effort(row), _pair(row.nearness["ratio"]), _pair(row.nearness["close"])] for row in last.values()],
        sortable=True,
        caption=f"Distance: the median over that of {new} held-out items, 1 for samples like these, less for copies. "
        f"Share too near: of samples as near as the nearest {expected:.2g} of such items; for samples like them it is "
        "that too. Of each solver its most careful row.",
    )


def _failed(page: Page, facts: Facts) -> None:
    if facts.failed:
        page.section("What did not work")
        page.table(["solver", "why"], [[row.label, row.error] for row in facts.failed], wrap=True)


def _reading(page: Page, facts: Facts) -> None:
    measures = facts.study.truth.judge.measures
    page.section("What the numbers mean")
    page.table(["measure", "right is", "what it is"], [[m.title, m.ideal, m.about] for m in measures], wrap=True)


def _again(page: Page, facts: Facts) -> None:
    study = facts.study
    page.section("Do it again")
    page.text("Sample i is a function of its seed and i alone. This command makes this page:")
    page.code(facts.command)
    page.text(
        f"With a solver or a seed more it computes only what is new. Each of the following computes one row afresh, in "
        f"the folder {results.AGAIN}; a click selects a command."
    )
    page.table(
        ["row", "command"],
        [[row.label, results.command(study, row)] for row in facts.rows if row.entry is not None],
        code=("command",),
        folded="Commands, one for each row",
    )
    first = next(row for row in facts.rows if row.entry is not None)
    page.text(f"The samples themselves, here those of seed {study.seeds[0]} for the first row, are drawn by")
    page.code(results.sample_command(study, first))
    page.text(f"Computed by scoresde {scoresde.__version__} on {facts.device}.")


# --- cells ---------------------------------------------------------------------------------------------


def _effort(row: Result) -> list[Cell]:
    entry = row.entry
    if entry is None:
        return [row.label, None, None]
    effort = entry.plan.steps if entry.tolerance is None else f"{entry.tolerance:g}"
    return [entry.curve, effort, round(row.evaluations, 1)]


def _spent(row: Result) -> list[Cell]:
    return [
        float(f"{row.seconds:.3g}"),
        None if row.peak_bytes is None else round(row.peak_bytes / 2**20, 1),
    ]


def _cells(measures: Sequence[Measure], values: Mapping[str, Estimate]) -> list[tuple[float, str]]:
    return [_pair(values[measure.name]) for measure in measures]


def _pair(of: Estimate) -> tuple[float, str]:
    return of.value, _interval(of)


def _interval(of: Estimate) -> str:
    """A value with half its interval, to two digits of the latter."""
    if not math.isfinite(of.value):
        return str(of.value)
    if not of.bounded:
        return f"{of.value:.4g}"
    half = max(of.high - of.value, of.value - of.low)
    if half <= 0:
        return f"{of.value:.4g}"
    digits = max(0, 1 - math.floor(math.log10(half)))
    text = f"{of.value:.2g} ± {half:.2g}" if digits > MANY_DIGITS else f"{of.value:.{digits}f} ± {half:.{digits}f}"
    if float(text.split()[0]) == 0:
        text = text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}")
