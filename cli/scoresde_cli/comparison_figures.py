"""The plots and pictures of a comparison's report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from scoresde.compare import Estimate, Measure
from scoresde.report import density_panel, encode_png, labelled_rows, line_plot, way_panel
from scoresde_cli.comparison_kernels import Grid
from scoresde_cli.comparison_paths import Paths
from scoresde_cli.comparison_results import Result
from scoresde_cli.comparison_way import Way
from scoresde_cli.pictures import Density

SIZE, BESIDE = (4.9, 4.4), 3  # inches, names side by side below
FLOOR, FRONT = "floor (95 %)", "best so far"
SIDE = 2.45  # of a panel
GAP, FONT, LEAST, LINES = 6, 18, 72, 40


def by_cost(rows: Sequence[Result], measure: Measure, floor: Estimate, front: Sequence[Result]) -> Figure:
    """A measure by evaluations, one curve for each solver, with the floor's band and the best at each cost."""
    curves, errors = {}, {}
    for name, of in _curves(rows).items():
        values = [row.values[measure.name] for row in of]
        curves[name] = ([row.evaluations for row in of], [value.value for value in values])
        errors[name] = _bars(values)
    best = ([row.evaluations for row in front], [row.values[measure.name].value for row in front])
    return line_plot(
        curves,
        xlabel="evaluations of the network for a sample",
        ylabel=measure.title,
        xlog=True,
        ylog=not (measure.two_sided or measure.signed),
        errors=errors,
        bands={FLOOR: (floor.low, floor.high)} if floor.bounded else None,
        levels=None if floor.bounded else {"floor": floor.value},
        behind={FRONT: best} if len(front) > 1 else None,
        size=SIZE,
        legend_columns=BESIDE,
    )


def by_steps(paths: Sequence[Paths], evaluations: Mapping[str, float], resolution: float) -> Figure:
    """Distance to the fine solution on the same paths by evaluations, which are given by label."""
    curves: dict[str, list[Paths]] = {}
    for each in paths:
        curves.setdefault(each.entry.curve, []).append(each)
    return line_plot(
        {name: ([evaluations[p.entry.label] for p in of], [p.error.value for p in of]) for name, of in curves.items()},
        xlabel="evaluations of the network for a sample",
        ylabel="root mean square distance",
        xlog=True,
        ylog=True,
        errors={name: _bars([p.error for p in of]) for name, of in curves.items()},
        levels={"resolved": resolution} if resolution > 0 else None,
        size=SIZE,
        legend_columns=BESIDE,
    )


def coupled_pictures(paths: Sequence[Paths], number: int) -> bytes:
    """Sample `number` of one seed: a row for each solver, a column for each step count."""
    steps = sorted({p.entry.plan.steps for p in paths if p.entry.plan.steps is not None})
    rows: dict[str, np.ndarray] = {}
    for curve in dict.fromkeys(p.entry.curve for p in paths if p.entry.plan.steps is not None):
        ends = {p.entry.plan.steps: p.ends[number] for p in paths if p.entry.curve == curve}
        blank = np.full_like(next(iter(ends.values())), _white(next(iter(ends.values()))))
        rows[curve] = _eight_bits(np.stack([ends.get(n, blank) for n in steps]))
    return encode_png(labelled_rows(rows, heads=[str(n) for n in steps], gap=GAP, font_size=FONT, scale=_scale(rows)))


def coupled_points(paths: Sequence[Paths], density: Density | None) -> Figure:
    """Ends in the plane, joined from few steps to many; a panel for each solver."""
    ways = {}
    for curve in dict.fromkeys(p.entry.curve for p in paths):
        ways[curve] = np.stack([p.ends for p in paths if p.entry.curve == curve])
    return way_panel(ways, density=density, columns=2, side=SIDE)


def way_pictures(way: Way) -> bytes:
    """E[x0 | x_t] of some samples: a row for each time, the end last."""
    rows = {f"t = {t:.2g}": _eight_bits(e) for t, e in zip(way.times, way.estimates, strict=True)}
    rows["end"] = _eight_bits(way.end)
    return encode_png(labelled_rows(rows, gap=GAP, font_size=FONT, scale=_scale(rows)))


def way_points(way: Way, density: Density) -> Figure:
    """E[x0 | x_t] of some samples in the plane, at some of the times."""
    chosen = list(range(0, len(way.times), max(1, len(way.times) // 5)))
    panels = {f"t = {way.times[i]:.2g}": way.estimates[i] for i in chosen}
    return density_panel(*density, {**panels, "end": way.end}, columns=2, side=SIDE)


def ways(way: Way) -> Figure:
    """The same as lines, where the density is not known."""
    return way_panel({"E[x0 | x_t]": np.concatenate([way.estimates, way.end[None]])[:, :LINES]}, side=5.0)


def decided(way: Way) -> Figure:
    """The share that is decided, by t."""
    names = {"all": "all"} if way.bands == ("all",) else {band: f"{band} cycles a pixel" for band in way.bands}
    curves = {names[band]: (way.times, way.decided[:, i]) for i, band in enumerate(way.bands)}
    return line_plot(curves, xlabel="t", ylabel="share decided", size=(4.9, 3.8), legend_columns=1)


def kernels(grids: Sequence[Grid]) -> Figure:
    """Nats that each Gaussian kernel is off by over a grid, by its number of steps, with what no Gaussian avoids."""
    steps = [grid.steps for grid in grids]
    curves = {name: [grid.kernels[name]["total"] for grid in grids] for name in grids[0].kernels}
    curves["best Gaussian"] = [grid.non_gaussian for grid in grids]
    return line_plot(
        {name: (steps, [value.value for value in values]) for name, values in curves.items()},
        xlabel="steps",
        ylabel="KL over all steps, nats",
        xlog=True,
        ylog=True,
        errors={name: _bars(values) for name, values in curves.items()},
        size=SIZE,
        legend_columns=BESIDE,
    )


# --- parts ---------------------------------------------------------------------------------------------


def _curves(rows: Sequence[Result]) -> Mapping[str, list[Result]]:
    """The rows of each solver on each grid, by rising cost."""
    curves: dict[str, list[Result]] = {}
    for row in rows:
        if row.entry is not None and not row.error:
            curves.setdefault(row.entry.curve, []).append(row)
    return {name: sorted(of, key=lambda row: row.evaluations) for name, of in curves.items()}


def _bars(values: Sequence[Estimate]) -> np.ndarray:
    """(2, N) down and up; none where there is no interval."""
    ends = [(v.value - v.low, v.high - v.value) if v.bounded else (0.0, 0.0) for v in values]
    return np.maximum(np.array(ends).T.reshape(2, -1), 0.0)


def _eight_bits(pictures: np.ndarray) -> np.ndarray:
    return (pictures >> 8).astype(np.uint8) if pictures.dtype == np.uint16 else pictures


def _white(picture: np.ndarray) -> int:
    return int(np.iinfo(picture.dtype).max)


def _scale(rows: Mapping[str, np.ndarray]) -> int:
    side = min(next(iter(rows.values())).shape[-2:])
    return max(1, math.ceil(LEAST / side))
