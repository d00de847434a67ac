"""Plots in one house style, made without matplotlib's global figures.

Colours are those of Okabe & Ito (2008), told apart by colour-blind readers; series differ by marker too.
The ground is transparent, and all ink is one colour that `to_svg` turns into the colour of the
surrounding text, so that an inlined plot is readable on light and dark pages alike.
"""

import io
import re
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import ArrayLike

INK = "#1f2326"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":")
FEW_DECADES = 2.5
DENSITY = LinearSegmentedColormap.from_list("density", [(*matplotlib.colors.to_rgb(PALETTE[0]), a) for a in (0, 0.55)])
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "scoresde",
}


def line_plot(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    xlabel: str,
    ylabel: str,
    title: str = "",
    xlog: bool = False,
    ylog: bool = False,
    errors: Mapping[str, ArrayLike] | None = None,
    levels: Mapping[str, float] | None = None,
    bands: Mapping[str, tuple[float, float]] | None = None,
    behind: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    size: tuple[float, float] = (6.0, 3.6),
    legend_columns: int = 0,
) -> Figure:
    """Named curves (x, y), each drawn through its points.

    `errors` gives some of them a bar of plus and minus so much, (N,), or (2, N) for minus and plus; `levels`
    are named horizontal lines, such as the floor that sampling noise sets, and `bands` (low, high) named strips
    about them; `behind` are curves drawn wide and pale below the others. `size` is in inches. The legend stands
    to the right, or below in `legend_columns`, which leaves a narrow page more room. Raises ValueError for
    lengths that differ.
    """
    with matplotlib.rc_context(STYLE):
        figure = _new_figure(*size)
        axes = figure.add_subplot(
            xlabel=xlabel, ylabel=ylabel, title=title,
            xscale="log" if xlog else "linear", yscale="log" if ylog else "linear",
        )  # fmt: skip
        drawn: list[Any] = []
        for name, (x, y) in (behind or {}).items():
            drawn += axes.plot(*_points(name, x, y), color=INK, alpha=0.18, linewidth=7, label=name, zorder=0)
        for i, (name, (x, y)) in enumerate(series.items()):
            x, y = _points(name, x, y)
            error = (errors or {}).get(name)
            drawn.append(axes.errorbar(x, y, error, label=name, elinewidth=0.8, capsize=2, **_look(i, len(x))))
        for name, level in (levels or {}).items():
            drawn.append(axes.axhline(level, color=INK, linewidth=1, linestyle=(0, (1, 1.5)), label=name))
        for name, band in (bands or {}).items():
            drawn.append(axes.axhspan(*band, color=INK, alpha=0.12, linewidth=0, label=name, zorder=0))
        for axis, log in ((axes.xaxis, xlog), (axes.yaxis, ylog)):
            if log:
                _plain_numbers(axis)
        axes.grid(color=INK, alpha=0.12, linewidth=0.5)
        axes.set_axisbelow(True)
        if len(drawn) > 1 and legend_columns:
            figure.legend(handles=drawn, loc="outside lower center", ncols=legend_columns, handlelength=1.8)
        elif len(drawn) > 1:
            axes.legend(handles=drawn, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.8)
    return figure


def density_panel(
    xs: ArrayLike,
    ys: ArrayLike,
    values: ArrayLike,
    samples: Mapping[str, ArrayLike],
    *,
    columns: int = 4,
    side: float = 2.2,
) -> Figure:
    """A panel for each name in `samples`: the density as filled contours, the samples (N, 2) as points above.

    xs (W,) and ys (H,) are the axes of the grid and values (H, W) the density on it, in any unit. All panels
    show the whole grid, at equal scales; `columns` of them in a row, each `side` inches wide. An empty (0, 2)
    shows the density alone.
    """
    xs, ys, values = np.asarray(xs), np.asarray(ys), np.asarray(values)
    if values.shape != (len(ys), len(xs)):
        raise ValueError(f"values must be (len(ys), len(xs)) = {(len(ys), len(xs))}, got {values.shape}")
    if not samples:
        raise ValueError("there must be at least one set of samples")
    columns = min(columns, len(samples))
    rows = -(-len(samples) // columns)
    with matplotlib.rc_context(STYLE):
        figure = _new_figure(columns * side, rows * (side * np.ptp(ys) / np.ptp(xs) + 0.3))
        for i, (name, points) in enumerate(samples.items()):
            points = np.asarray(points)
            if points.ndim != 2 or points.shape[1] != 2:
                raise ValueError(f"the samples of {name!r} must be (N, 2), got {points.shape}")
            axes = figure.add_subplot(rows, columns, i + 1, title=name, aspect="equal")
            axes.contourf(xs, ys, values, levels=12, cmap=DENSITY, zorder=0)
            axes.plot(*points.T, ".", color=PALETTE[1], markersize=2, markeredgewidth=0, alpha=0.9, zorder=1)
            axes.set_rasterization_zorder(2)
            axes.set(xlim=(xs.min(), xs.max()), ylim=(ys.min(), ys.max()))
            _frame_only(axes)
    return figure


def way_panel(
    ways: Mapping[str, ArrayLike],
    *,
    density: tuple[ArrayLike, ArrayLike, ArrayLike] | None = None,
    columns: int = 3,
    side: float = 2.6,
) -> Figure:
    """A panel for each name in `ways`: paths (m, n, 2) of n points over m steps, a ring at the start, a dot at the end.

    `density` is (xs, ys, values) as for `density_panel`, and its grid then what all panels show; without it they show
    all points. Raises ValueError for other shapes.
    """
    if not ways:
        raise ValueError("there must be at least one set of ways")
    arrays = {name: np.asarray(points) for name, points in ways.items()}
    for name, points in arrays.items():
        if points.ndim != 3 or points.shape[2] != 2:
            raise ValueError(f"the ways of {name!r} must be (m, n, 2), got {points.shape}")
    every = np.concatenate([points.reshape(-1, 2) for points in arrays.values()])
    xs, ys = (np.asarray(axis) for axis in density[:2]) if density is not None else every.T
    columns = min(columns, len(ways))
    rows = -(-len(ways) // columns)
    with matplotlib.rc_context(STYLE):
        figure = _new_figure(columns * side, rows * (side * np.ptp(ys) / np.ptp(xs) + 0.3))
        for i, (name, points) in enumerate(arrays.items()):
            axes = figure.add_subplot(rows, columns, i + 1, title=name, aspect="equal")
            if density is not None:
                axes.contourf(*density, levels=12, cmap=DENSITY, zorder=0)
            for k, way in enumerate(points.transpose(1, 0, 2)):
                colour = PALETTE[1 + k % (len(PALETTE) - 1)]
                axes.plot(*way.T, "-", color=colour, linewidth=0.9, alpha=0.9)
                axes.plot(*way[0], "o", color=colour, markersize=4, markerfacecolor="none", markeredgewidth=0.8)
                axes.plot(*way[-1], "o", color=colour, markersize=3, markeredgewidth=0)
            axes.set(xlim=(xs.min(), xs.max()), ylim=(ys.min(), ys.max()))
            _frame_only(axes)
    return figure


def to_png_bytes(figure: Figure, dpi: int = 200) -> bytes:
    """The figure on white, as a PNG file."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def to_svg(figure: Figure, dpi: int = 200) -> str:
    """The figure as one <svg> element for a page of HTML: its ink is the text's colour there, its font too.

    `dpi` is that of the parts with many points, which are drawn as pixels. Equal figures give equal text.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", dpi=dpi, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return svg.replace(INK, "currentColor")


def _points(name: str, x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"the points of {name!r} must be two (N,) arrays, got {x.shape} and {y.shape}")
    return x, y


def _plain_numbers(axis: Axis) -> None:
    """Numbers as people write them along a logarithmic axis: 1, 2, 5, 10 where they fit, and powers of ten."""
    low, high = axis.get_view_interval()
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    if high < low * 10**FEW_DECADES:
        axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    else:
        axis.set_minor_formatter(NullFormatter())


def _new_figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _look(index: int, points: int) -> dict[str, Any]:
    """Colour and marker by turns; the line changes only when the colours are used up."""
    colour = index % len(PALETTE)
    return {
        "color": PALETTE[colour],
        "marker": MARKERS[colour] if points <= 40 else "",
        "linestyle": DASHES[index // len(PALETTE) % len(DASHES)],
    }


def _frame_only(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(visible=True, alpha=0.3)
