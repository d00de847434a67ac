"""The page of `scoresde likelihood`: the table first, then where the bound comes from, then what the words mean."""

from __future__ import annotations

import math

import scoresde
from scoresde.report import Page, line_plot
from scoresde.report.html import Cell
from scoresde_cli.likelihood_computing import Found
from scoresde_cli.likelihood_data import Judged
from scoresde_cli.likelihood_table import Line, heads, left_out

SIZE = (6.6, 3.6)
DIGITS = 5  # behind and before the point, beyond which numbers have a power of ten


def page(judged: Judged, found: Found, source: str, command: str, device: str) -> Page:
    """The whole page."""
    made = Page(f"Log-likelihoods of {judged.source} under {source}", _lead(judged, found))
    _table(made, judged, found, device)
    _terms(made, judged, found)
    _tightening(made, found)
    _meaning(made, judged, found)
    made.section("Do it again")
    made.text("Every number is a function of the seed and the sample's number. This command computes them:")
    made.code(command)
    made.text(f"Computed by scoresde {scoresde.__version__} on {device}.")
    return made


def _lead(judged: Judged, found: Found) -> str:
    best = next(of for of in found.table if of.name == found.held_to)
    if best.nats is None or best.bits is None:
        return f"{judged.about}. None of the likelihoods is finite."
    error = "" if best.error is None else f" ± {best.error:.3g}"
    return f"{judged.about}: {best.nats:.5g}{error} nats, {best.bits:.4g} bits per dimension ({best.name})."


def _table(made: Page, judged: Judged, found: Found, device: str) -> None:
    made.section("All in one table")
    for note in judged.notes:
        made.text(note + ".")
    made.table(
        ["negative log-likelihood", "nats", "over draws", "bits/dim", heads(found.held_to)[-2]],
        [_cells(of) for of in found.table],
        caption=f"Means over {judged.about} ± their standard errors; lower is better",
    )
    for line in left_out(found.table):
        made.text(f"{line}.")
    for number, words in found.problems.items():
        made.text(f"Sample {number}: {'; '.join(dict.fromkeys(words))}.")


def _cells(of: Line) -> list[Cell]:
    indent = "\N{NO-BREAK SPACE}\N{NO-BREAK SPACE}" if of.part else ""
    draws = of.draws if of.draws is None else float(f"{of.draws:.2g}")
    return [indent + of.name, _pair(of.nats, of.error), draws, of.bits, _pair(of.above, of.above_error)]


def _pair(value: float | None, error: float | None) -> Cell:
    """A value with its standard error, to two digits of the latter."""
    if value is None or not error:
        return value
    digits = max(0, 1 - math.floor(math.log10(error)))
    if digits > DIGITS or abs(value) >= 10**DIGITS:
        text = f"{value:.3g} ± {error:.2g}"
    else:
        text = f"{value:.{digits}f} ± {error:.{digits}f}"
    return value, text.replace("-", "\N{MINUS SIGN}")


def _terms(made: Page, judged: Judged, found: Found) -> None:
    inner = [(k, value) for k, value in enumerate(found.terms[:-1]) if k > 0 and value is not None and value > 0]
    if len(inner) < 2:
        return
    bits = judged.dim * math.log(2.0)
    made.section("The bound, term by term")
    made.figure(
        line_plot(
            {"L_k": ([k for k, _ in inner], [value / bits for _, value in inner])},
            xlabel="k, from the data (left) to noise (right)",
            ylabel="bits per dimension",
            xlog=True,
            ylog=True,
            size=SIZE,
        ),
        "L_k, k = 1..K-1: what the step from x_{k+1} to x_k costs, the divergence of its exact law given x_0 from the "
        "model's, as a mean over the data. Their sum, the prior's L_K and the decoder's L_0 are in the table.",
        "A curve of the terms of the bound by their number.",
    )


def _tightening(made: Page, found: Found) -> None:
    rows = [(1, next(of for of in found.table if of.name == "variational bound"))]
    rows += [(m, next(of for of in found.table if of.name == values.name)) for m, values in found.weighted.items()]
    shown = [(m, of.nats, of.above_error or 0.0) for m, of in rows if of.nats is not None]
    levels = {of.name: of.nats for of in found.table if of.name == found.held_to and of.nats is not None}
    if len(shown) < 2:
        return
    made.section("More trajectories")
    made.figure(
        line_plot(
            {"bound": ([m for m, _, _ in shown], [value for _, value, _ in shown])},
            xlabel="trajectories M",
            ylabel="nats",
            xlog=True,
            errors={"bound": [error for _, _, error in shown]},
            levels=levels,
            size=SIZE,
        ),
        "The importance-weighted bound with M trajectories for each of the data, all from the same ones, and what it "
        "is held to; bars are the standard error of the difference between the two.",
        "A curve that falls towards a dotted line as trajectories grow.",
    )


def _meaning(made: Page, judged: Judged, found: Found) -> None:
    made.section("What the numbers mean")
    unit = (
        "the probability of a picture's whole grey levels"
        if judged.levels is not None
        else "the density of the values as they are in the data"
    )
    made.text(
        f"All are -log of {unit}, in nats for one of the data, and in bits for one of its {judged.dim} numbers. The "
        "standard error over data says how far the mean may be from that over all such data, noise of the computation "
        "included; that over draws, how far from what infinitely many probes or trajectories would give for these "
        "data. Differences in the last column are taken item by item, so that they are much surer than either row."
    )
    made.text(
        "The probability flow carries each of the data to noise, and its log-density is that of the noise plus what "
        f"the volume changed by on the way. Here with {found.flow.about}."
        " It ends in a Gaussian with the moments of the data; the prior's mismatch is what the line would be more if "
        "it ended in the prior that sampling starts from."
        + (
            " The mean of several draws within a grey level is taken before the logarithm, as for trajectories below; "
            "the error of random probes makes that look better than it is by half of its variance."
            if len(found.flow.rows) > 2
            else ""
        )
    )
    made.text(
        "The variational bound is what the discrete chain costs, step by step: it is at least the negative "
        "log-likelihood of that chain, and on average no less than the entropy of the data. Its rows L_0 and L_1 + ... "
        "go up and down against each other from draw to draw, so that their sum is much surer than they are. With M "
        "trajectories the mean of their weights is taken before the logarithm, which brings the bound down towards the "
        "log-likelihood of the chain."
    )
