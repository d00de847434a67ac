"""The demo's pictures and its page: what a newcomer should see, in the order in which it makes sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import scoresde
from scoresde.report import Page, density_panel, encode_png, image_grid, labelled_rows, line_plot, write_png
from scoresde_cli import demo_commands as commands
from scoresde_cli.demo_digits import DigitsStudy
from scoresde_cli.demo_mixture import MixtureStudy
from scoresde_cli.demo_restoration import SAMPLES, SHOWN, SIGMA, Restored
from scoresde_cli.demo_study import Drawn

IN_PICTURE, IN_ROW = 20, 12
SCALE, GAP = 6, 6
FONT = 20
POINTS = 1500
DISTINCT = 3.0  # standard deviations
COST = ("steps", "evaluations", "seconds")


@dataclass(frozen=True)
class Facts:
    """All that the page is made from.

    Args:
        run: folder of the trained run; files: the held-out digits that were restored.
        command: that made this; device: in words; threads: None on a GPU.
    """

    digits: DigitsStudy
    mixture: MixtureStudy
    restored: list[Restored]
    run: Path
    files: list[Path]
    command: str
    seed: int
    device: str
    threads: int | None


def write(facts: Facts, samples: Path, restored: Path, page: Path) -> tuple[Path, Path, Path]:
    """The pictures and the page; their files."""
    write_samples(samples, facts.digits)
    write_restored(restored, facts.restored)
    write_page(page, facts)
    return samples, restored, page


def write_samples(path: Path, digits: DigitsStudy) -> None:
    """Digits of the data, and samples by each solver below, in one PNG."""
    text = {each.name: f"scoresde sample RUN {each.options}" for each in digits.drawn}
    write_png(path, _rows(_samples(digits), IN_PICTURE), text)


def write_restored(path: Path, restored: Sequence[Restored]) -> None:
    """What was measured, samples, their mean, their spread and the truth, task by task, in one PNG."""
    rows = {f"{each.task}: {what}": pictures for each in restored for what, pictures in each.rows.items()}
    text = {each.task: f"scoresde restore RUN IMAGE... --simulate {each.options}" for each in restored}
    write_png(path, _rows(rows, IN_PICTURE), text)


def write_page(path: Path, facts: Facts) -> None:
    """The whole page, in one file that needs nothing else."""
    page = Page(
        "A diffusion model, from data to samples",
        "Trained, sampled and checked on this machine by scoresde demo. Every number and picture was computed then.",
    )
    _what_it_is(page)
    _data(page, facts.digits)
    _noise(page, facts.digits)
    _learning(page, facts.digits)
    _sampling(page, facts.digits, facts.device)
    _mixture(page, facts.mixture, facts.device)
    _restoration(page, facts.restored, facts.device)
    _again(page, facts)
    page.write(path)


def _what_it_is(page: Page) -> None:
    page.section("What a diffusion is")
    page.text(
        "A diffusion adds noise to data, a little at a time, until at t = 1 hardly anything but noise is left. The "
        "process can be run backwards, from noise to new data, by anybody who knows the score: the gradient of the "
        "log-density of the noisy data at each time t. A network learns the score by guessing the noise in noisy data, "
        "and a solver then follows the reverse process from t = 1 to t = 0."
    )
    page.code(
        "forward, t from 0 to 1:  dX = −½ β(t) X dt + √β(t) dW\n"
        "reverse, t from 1 to 0:  dX = [−½ β(t) X − β(t) ∇ log q(X, t)] dt + √β(t) dW"
    )
    page.text(
        "W is Brownian motion, q(x, t) the density of the noisy data and ∇ log q its score; here β(t) rises in a "
        "straight line from 0.1 to 20 (Song et al. 2021). With half the score and no noise in the reverse equation the "
        "density is the same at every t: this is the probability flow, an ordinary differential equation."
    )


def _data(page: Page, digits: DigitsStudy) -> None:
    page.section("The data")
    trained_on, held_out = digits.counts
    page.figure(
        encode_png(image_grid(digits.data, 20, scale=4, gap=4)),
        f"{len(digits.data)} of the {trained_on:,} handwritten digits that the network was trained on: 8 × 8 pixels, "
        f"17 grey levels (scikit-learn's copy of the UCI digits). {held_out} more were held out.",
        "Small grey pictures of handwritten digits.",
    )


def _noise(page: Page, digits: DigitsStudy) -> None:
    page.section("From digits to noise, and back")
    page.figure(
        encode_png(_rows(digits.forward, IN_ROW)),
        "Forward: each column is one digit x of the data as t grows from top to bottom. Shown is α(t) x + σ(t) ε with "
        "the same noise ε in all rows; what is brighter than white or darker than black is cut off.",
        "Ten digits that fade into noise from the top row to the bottom row.",
    )
    page.figure(
        encode_png(_rows(digits.backward, IN_ROW)),
        "Backward: each column is one sample as t falls from top to bottom, followed with the ancestral solver. It "
        "starts from the ε of figure 2, and ends elsewhere: noise is drawn in every step.",
        "Ten columns of noise that become digit-like pictures from the top row to the bottom row.",
    )


def _learning(page: Page, digits: DigitsStudy) -> None:
    page.section("Learning the score")
    training = digits.recipe.training
    held_out = _curve(digits.metrics, "validation_loss")
    page.figure(
        line_plot(
            {"training": _curve(digits.metrics, "loss"), "held out": held_out},
            xlabel="step",
            ylabel="mean squared error of the guessed noise",
            errors={"held out": _column(digits.metrics, "validation_loss", "standard_error")},
            size=(6.6, 3.4),
        ),
        f"The loss over {training.steps:,} steps with {training.batch_size} digits each; to guess 0 would give 1. "
        "Training: mean since the point before. Held out: digits never trained on, each time with the same noise, by "
        f"the averaged weights; the bars are the standard error over these {digits.counts[1]} digits. "
        f"The network has {digits.parameters:,} parameters.",
        "Two falling curves: the loss in training and on held-out digits.",
    )


def _sampling(page: Page, digits: DigitsStudy, device: str) -> None:
    page.section("Three solvers, side by side")
    apart = digits.apart
    page.text(
        "Three ways to follow the reverse process with the one network: ancestral sampling takes the exact kernel "
        "between two times, for the digit that the network expects; Euler-Maruyama (em) takes small steps of the "
        "reverse equation above; and ode follows the probability flow, in steps that it chooses itself."
    )
    page.figure(
        encode_png(_rows(_samples(digits), IN_ROW)),
        "Digits of the data, and samples below. All samples in a column start from the same noise at t = 1. Those by "
        "ancestral and em have the same noise in each step too, and end "
        f"{apart['ancestral', 'em']:.2f} apart (root mean square over pixels, black to white = 1); ode draws no noise "
        f"on the way, and ends {apart['ancestral', 'ode']:.2f} from ancestral.",
        "Four rows of twelve digits: data, ancestral, em, ode.",
    )
    page.text(
        "The last column is the distance, in the same unit, of a picture to the nearest digit that was trained on (the "
        "median). Copies of the data would have 0; the last row is what digits have that people wrote and the network "
        "never saw."
    )
    page.table(
        ["pictures", *COST, "nearest"],
        [
            *([each.name, *_cost(each), round(digits.nearest[each.name], 3)] for each in digits.drawn),
            ["held-out digits", None, None, None, round(digits.nearest_held_out, 3)],
        ],
        caption=f"{len(digits.drawn[0].samples)} pictures on {device}",
    )


def _mixture(page: Page, mixture: MixtureStudy, device: str) -> None:
    page.section("Where the right answer is known")
    n = len(mixture.exact)
    page.text(
        "Digits do not tell whether a solver is right, since nobody knows their density. A mixture of "
        f"{mixture.components} Gaussians in the plane has an exact score at every t, so no network is needed, and what "
        "a solver gets wrong is its own fault."
    )
    points = {each.name: each.samples[:POINTS].numpy() for each in mixture.drawn}
    page.figure(
        density_panel(
            mixture.xs,
            mixture.ys,
            mixture.density,
            {"exact density": np.empty((0, 2)), **points},
            columns=2,
            side=3.4,
        ),
        f"The exact density in blue, and above it {min(n, POINTS):,} points by each solver.",
        f"Four panels with the {mixture.components} spots of the density, one empty and three with points of a solver.",
    )
    page.text(
        f"The distance in the table is the sliced Wasserstein distance between {n:,} points and as many exact draws. "
        f"Two sets of exact draws are {mixture.floor:.4f} ± {mixture.floor_std:.4f} apart (mean and standard deviation "
        f"of {mixture.pairs} pairs); the last column counts such standard deviations above that mean."
    )
    page.table(
        ["points", *COST, "distance", "above exact"],
        [
            ["exact draws", None, None, None, mixture.floor, None],
            *([each.name, *_cost(each), mixture.distance[each.name], round(mixture.deviations(each.name), 1)]
              for each in mixture.drawn),
        ],
        caption=f"{n:,} points on {device}",
    )  # fmt: skip
    page.text(_verdict(mixture))


def _verdict(mixture: MixtureStudy) -> str:
    """What the numbers of the table say."""
    told = [each.name for each in mixture.drawn if mixture.deviations(each.name) > DISTINCT]
    if told:
        return (
            f"More than {DISTINCT:g} standard deviations above exact draws, and so told from them: {', '.join(told)}."
        )
    return (
        f"None of the three is more than {DISTINCT:g} standard deviations above: at this number of points and steps, "
        "this distance cannot tell them from exact draws."
    )


def _restoration(page: Page, restored: Sequence[Restored], device: str) -> None:
    page.section("Restoring what was damaged")
    page.text(
        "The same network restores digits that it never saw. Measured is y = A(x) + σ z: a digit x with a box of it "
        f"missing, or blurred, and with noise of standard deviation σ = {SIGMA:g} on each pixel (black to white = 1). "
        "Many x may have given this y. How likely each of them is, given y, is the posterior. Its score is that of the "
        "data, which the network knows, and the gradient of the log-likelihood of y, which a method estimates from "
        "what the network expects x to be; so a solver draws from it as from the data."
    )
    told = {"inpaint": "with a box missing, grey here,", "deblur": "blurred"}
    for each in restored:
        page.figure(
            encode_png(_rows(each.rows, IN_ROW)),
            f"Digits {told[each.task]} and with noise; below each, {SHOWN} of {SAMPLES} samples of what it may have "
            f"been, by {each.method}, then the mean and the standard deviation of all {SAMPLES}, and the truth. The "
            "standard deviation is bright where the measurement leaves open what was there, and the samples differ.",
            f"Rows of {each.digits} digits: measured, samples, mean, standard deviation, truth.",
        )
    page.text(
        "PSNR is how near a picture comes to the truth, in decibels, more being nearer. The residual chi-square is "
        "|y − A(x)|² / σ² over the number of pixels of y. For the truth it is 1 ± "
        f"{max(each.chi_square_std for each in restored):.2f} here (mean and standard deviation), and for samples of "
        "the posterior about the same: far above, they do not explain what was measured, and far below they explain "
        "its noise as well."
    )
    page.table(
        ["task", "method", "evaluations", "seconds", "PSNR of mean", "of samples", "chi-square", "at the truth"],
        [
            [
                *(each.task, each.method, each.evaluations, round(each.seconds, 1)),
                *(round(each.psnr[which], 1) for which in ("mean", "samples")),
                *(round(each.chi_square[which], 2) for which in ("samples", "truth")),
            ]
            for each in restored
        ],
        caption=f"{restored[0].digits} digits, {SAMPLES} samples of each, on {device}",
    )


def _again(page: Page, facts: Facts) -> None:
    page.section("Do it again")
    page.text(
        "Training is a function of its seed, and sample number i of the seed and i alone. On one machine with one "
        "number of threads, these commands give the same network, and the same samples, again:"
    )
    page.code(commands.again(facts.run, facts.digits.drawn, facts.restored, facts.files, facts.seed, facts.threads))
    page.text("And this, in Python, gives the last distance of the table above:")
    page.code(commands.again_in_python(len(facts.mixture.exact), facts.seed))
    page.section("What to do next")
    page.code(commands.from_here(facts.run))
    page.text(f"This page was made by scoresde {scoresde.__version__} with: {facts.command}")


# --- parts ---------------------------------------------------------------------------------------------


def _cost(drawn: Drawn) -> tuple[str | int | None, int, float]:
    return "adaptive" if drawn.steps is None else drawn.steps, drawn.evaluations, round(drawn.seconds, 1)


def _samples(digits: DigitsStudy) -> dict[str, np.ndarray]:
    return {"data": digits.data, **digits.pictures}


def _rows(rows: Mapping[str, np.ndarray], columns: int) -> np.ndarray:
    cut = {name: pictures[:columns] for name, pictures in rows.items()}
    return labelled_rows(cut, scale=SCALE, gap=GAP, font_size=FONT)


def _curve(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """(steps, values) of the records that have a value."""
    return _column(metrics, key, "step"), _column(metrics, key, key)


def _column(metrics: Sequence[Mapping[str, Any]], having: str, key: str) -> list[float]:
    return [record[key] for record in metrics if record.get(having) is not None]
