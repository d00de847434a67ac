"""`scoresde demo`: the run, the picture and the page it leaves, what they say, and stopping it at any moment."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image

import scoresde as sd
from scoresde import checkpoint
from scoresde.runs import Run
from scoresde_cli import demo_mixture, demo_report, demo_study, session
from scoresde_cli.demo_study import Drawn
from scoresde_cli.main import cli, run
from scoresde_cli.material import open_material

STEPS, PICTURE_STEPS, DIGITS = 12, 20, 32
COLUMNS, SCALE, GAP = 20, 6, 6
PITCH = 8 * SCALE + GAP
MADE = ["demo.png", "held-out", "report.html", "restored.png", "run"]
LISTS = {"--list-solvers", "--list-methods"}
RESTORED, ROWS = 2, 7  # digits of each task, and rows of pictures
Call = Callable[..., tuple[int, str, str]]


def call(*words: Any) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished demo's folder, and what it printed."""
    folder = tmp_path_factory.mktemp("here") / "my demo"
    code, out, err = call("demo", "--out", folder, "--steps", STEPS, "--quick", "--threads", 1)
    assert code == 0, err
    return folder, out


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least effort, for tests that do not look at numbers."""
    least = replace(demo_study.QUICK, pictures=16, picture_steps=5, points=100, point_steps=5, pairs=2, restore_steps=1)
    monkeypatch.setattr(demo_study, "QUICK", least)


def page_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def tables(page: str) -> list[dict[str, list[str]]]:
    """The cells behind each row's name, by table."""
    found = []
    for table in re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL):
        rows = [[unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in table.split("</tr>")]
        found.append({row[0]: row[1:] for row in rows if row})
    return found


def code_of(page: str) -> list[str]:
    return [unescape(code) for code in re.findall(r"<pre><code>(.*?)</code></pre>", page, re.DOTALL)]


def commands_of(page: str) -> list[list[str]]:
    lines = [line for code in code_of(page) for line in code.splitlines() if line.startswith("scoresde ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


# --- what it leaves ------------------------------------------------------------------------------------


def test_it_prints_where_the_run_the_picture_and_the_page_are(made: tuple[Path, str]) -> None:
    folder, out = made
    assert out.splitlines() == [str(folder / name) for name in ("run", "demo.png", "restored.png", "report.html")]
    assert sorted(path.name for path in folder.iterdir()) == MADE


def test_the_page_asks_nothing_of_the_network(made: tuple[Path, str]) -> None:
    links: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("link", "iframe", "object")
            links.extend(value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset"))

    Reader().feed(page_of(made[0]))
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)


def test_the_page_has_every_section_with_its_figures(made: tuple[Path, str]) -> None:
    page = page_of(made[0])
    parts = re.split(r"<h2[^>]*>(.*?)</h2>", page)
    figures = {
        unescape(heading): body.count("<figure>") for heading, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    assert figures == {
        "What a diffusion is": 0,
        "The data": 1,
        "From digits to noise, and back": 2,
        "Learning the score": 1,
        "Three solvers, side by side": 1,
        "Where the right answer is known": 1,
        "Restoring what was damaged": 2,
        "Do it again": 0,
        "What to do next": 0,
    }
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page)


def test_the_loss_curve_has_training_and_held_out_data(made: tuple[Path, str]) -> None:
    figure = page_of(made[0]).split("Learning the score</h2>")[1].split("</figure>")[0]
    assert ">training<" in figure
    assert ">held out<" in figure
    records = Run(made[0] / "run").read_metrics()
    assert {record["step"] for record in records if "validation_loss" in record} == set(range(1, STEPS + 1))
    assert f"The network has {parameters(made[0]):,} parameters" in figure


def digit_of(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    """The 8 x 8 pixels of a digit in demo.png, whose rows end at its right edge."""
    top, left = row * PITCH, picture.shape[1] - (COLUMNS - column) * PITCH + GAP
    return picture[top : top + SCALE * 8 : SCALE, left : left + SCALE * 8 : SCALE, 0]


def parameters(folder: Path) -> int:
    return sum(p.numel() for p in sd.load(folder / "run").module.parameters())


# --- whether it is true --------------------------------------------------------------------------------


def test_the_three_solvers_hit_the_mixture(made: tuple[Path, str]) -> None:
    table = tables(page_of(made[0]))[1]
    assert list(table) == ["exact draws", "ancestral", "em", "ode"]
    floor = float(table["exact draws"][3])
    assert floor > 0
    for name in ("ancestral", "em", "ode"):
        assert float(table[name][3]) < 2 * floor, name
        assert abs(float(table[name][4].replace("\N{MINUS SIGN}", "-"))) < 4, name
    assert [table[name][0] for name in ("ancestral", "em", "ode")] == ["1000", "1000", "adaptive"]
    assert [table[name][1] for name in ("ancestral", "em")] == ["1000", "1000"]


def test_the_python_on_the_page_prints_the_number_in_its_table(
    made: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    page = page_of(made[0])
    (code,) = (code for code in code_of(page) if code.startswith("import"))
    exec(code, {})
    assert float(capsys.readouterr().out) == pytest.approx(float(tables(page)[1]["ode"][3]), rel=1e-3)


def test_the_picture_shows_what_the_run_draws_from_one_start(made: tuple[Path, str]) -> None:
    picture = np.asarray(Image.open(made[0] / "demo.png"))
    strip = COLUMNS * PITCH - GAP
    assert picture.shape[0] == 4 * PITCH - GAP
    assert strip < picture.shape[1] < strip + 150
    cells = np.stack([[digit_of(picture, row, column) for column in range(COLUMNS)] for row in range(4)])
    denoiser, space = sd.load(made[0] / "run"), checkpoint.read(made[0] / "run").space
    for row, solver, steps in (
        (1, sd.solvers.Ancestral(), PICTURE_STEPS),
        (2, sd.solvers.EulerMaruyama(), PICTURE_STEPS),
        (3, sd.solvers.RK45(), None),
    ):
        x = sd.sample(denoiser, solver, steps=steps, n=DIGITS, seed=0, batch_size=32)
        np.testing.assert_array_equal(cells[row], space.to_user(x)[:COLUMNS, 0])
    stored = sd.data.digits().batch(range(1797)).flatten(1)
    for digit in cells[0]:
        x = torch.from_numpy(digit.copy()).flatten() / 127.5 - 1
        assert (stored - x).abs().amax(1).min() < 0.01


def test_every_command_on_the_page_is_one(made: tuple[Path, str], tmp_path: Path) -> None:
    words = commands_of(page_of(made[0]))
    assert len(words) >= 11
    for name, *arguments in words:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        ends = pytest.raises(click.exceptions.Exit) if LISTS & {*arguments} else contextlib.nullcontext()
        with ends:
            command.make_context(name, [str(tmp_path) if word == "FOLDER" else word for word in arguments])


def test_the_command_on_the_page_trains_the_same_network(made: tuple[Path, str], tmp_path: Path) -> None:
    (words,) = (words for words in commands_of(page_of(made[0])) if "--config" in words)
    words[words.index("again")] = str(tmp_path / "again")
    code, _, err = call(*words)
    assert code == 0, err
    assert_same_network(made[0] / "run", tmp_path / "again")


def assert_same_network(a: Path, b: Path) -> None:
    first, second = (sd.load(run).module.state_dict() for run in (a, b))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_commands_on_the_page_draw_the_same_digits(made: tuple[Path, str], tmp_path: Path) -> None:
    (words,) = (words for words in commands_of(page_of(made[0])) if words[0] == "sample" and "ancestral" in words)
    assert call(*words, "--out", tmp_path / "again", "--threads", 1)[0] == 0
    picture = np.asarray(Image.open(made[0] / "demo.png"))
    for column in (0, COLUMNS - 1):
        sample = np.asarray(Image.open(tmp_path / "again" / f"sample-{column:06d}.png"))
        np.testing.assert_array_equal(digit_of(picture, 1, column), sample)


def restored_rows(picture: np.ndarray) -> np.ndarray:
    """The digits of restored.png, (tasks, rows, digits, 8, 8): each row ends at its right edge."""
    assert picture.shape[0] == 2 * ROWS * PITCH - GAP
    left = picture.shape[1] - RESTORED * PITCH + GAP
    cells = [
        picture[
            row * PITCH : row * PITCH + SCALE * 8 : SCALE, left + k * PITCH : left + k * PITCH + SCALE * 8 : SCALE, 0
        ]
        for row in range(2 * ROWS)
        for k in range(RESTORED)
    ]
    return np.stack(cells).reshape(2, ROWS, RESTORED, 8, 8)


@pytest.mark.parametrize("task", [0, 1], ids=["inpaint", "deblur"])
def test_the_commands_on_the_page_restore_the_same_digits(made: tuple[Path, str], tmp_path: Path, task: int) -> None:
    """Their files are the picture, and their figures those of the table."""
    page = page_of(made[0])
    words = [words for words in commands_of(page) if words[0] == "restore" and "--simulate" in words][task]
    code, out, err = call(*words, "--out", tmp_path / "again")
    assert (code, out) == (0, f"{tmp_path / 'again'}\n"), err
    rows = restored_rows(np.asarray(Image.open(made[0] / "restored.png")))[task]
    results = json.loads((tmp_path / "again" / "metrics.json").read_text())["mean"]
    spread = []
    for digit in range(RESTORED):
        there = tmp_path / "again" / str(digit)
        for row, name in enumerate(("sample-000000", "sample-000001", "sample-000002", "mean"), 1):
            np.testing.assert_array_equal(rows[row, digit], np.asarray(Image.open(there / f"{name}.png")))
        np.testing.assert_array_equal(rows[6, digit], np.asarray(Image.open(made[0] / "held-out" / f"{digit}.png")))
        spread.append(np.load(there / "std.npy")[0])
    white = np.max(spread)
    np.testing.assert_allclose(rows[5], 255 * np.stack(spread) / white, atol=0.6)
    cells = tables(page)[2][("inpaint", "deblur")[task]]
    assert cells[0] == "mmps"
    assert float(cells[3]) == pytest.approx(results["psnr"]["mean"], abs=0.06)
    assert float(cells[4]) == pytest.approx(results["psnr"]["samples"], abs=0.06)
    assert float(cells[5]) == pytest.approx(results["chi_square"]["samples"], rel=1e-3, abs=0.006)
    assert float(cells[6]) == pytest.approx(results["chi_square"]["truth"], abs=0.006)


def test_the_restored_digits_were_not_trained_on(made: tuple[Path, str]) -> None:
    found = checkpoint.read(made[0] / "run")
    material = open_material(found.recipe, found.space)
    digits = [np.asarray(Image.open(made[0] / "held-out" / f"{i}.png")).astype(int) for i in range(RESTORED)]
    for part, expected in ((material.held_out, True), (material.train, False)):
        there = found.space.to_user(material.fetch(part)(torch.arange(len(part))))[:, 0].astype(int)
        assert all((abs(there - digit).max((1, 2)) == 0).any() == expected for digit in digits)


def test_what_is_measured_is_shown_with_its_hole_in_grey(made: tuple[Path, str]) -> None:
    rows = restored_rows(np.asarray(Image.open(made[0] / "restored.png")))
    box = rows[0, 0, :, 2:6, 2:6]
    assert ((box == 127) | (box == 128)).all()
    around = np.ones((8, 8), dtype=bool)
    around[2:6, 2:6] = False
    noise = (rows[0, 0].astype(float) - rows[0, 6])[:, around] / 255
    assert 0.02 < noise.std() < 0.06  # of 0.05, where black and white do not cut it
    blurred, truth = rows[1, 0].astype(float), rows[1, 6].astype(float)
    assert np.abs(np.diff(blurred)).mean() < 0.8 * np.abs(np.diff(truth)).mean()


def test_a_solver_far_from_exact_draws_is_named(made: tuple[Path, str]) -> None:
    empty = np.zeros((0, 2))
    drawn = [Drawn(name, 10, torch.zeros(1, 2), 10, 1.0) for name in ("ancestral", "em", "ode")]
    study = demo_mixture.MixtureStudy(
        25, empty, empty, empty, empty, drawn, {"ancestral": 0.1, "em": 0.145, "ode": 0.135}, 0.1, 0.01, 8
    )
    assert study.deviations("em") == pytest.approx(4.5)
    assert "told from them: em, ode" in demo_report._verdict(study)
    near = replace(study, distance={"ancestral": 0.1, "em": 0.12, "ode": 0.09})
    assert demo_report._verdict(near).startswith("None of the three")


# --- going on, stopping, refusing ----------------------------------------------------------------------


@pytest.mark.usefixtures("hasty")
def test_a_trained_run_is_used_again(made: tuple[Path, str]) -> None:
    folder, _ = made
    before = {path: path.read_bytes() for path in (folder / "run").rglob("*.safetensors")}
    kept = {name: (folder / name).read_bytes() for name in ("demo.png", "restored.png", "report.html")}
    code, _, err = call("demo", "--out", folder, "--quick", "--threads", 1)
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    assert code == 0, err
    assert f"is trained to step {STEPS} already" in err
    assert {path: path.read_bytes() for path in (folder / "run").rglob("*.safetensors")} == before


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = session.train

    def interrupted(*args: Any) -> Iterator[Any]:
        for record in real(*args):
            if record.step == step:
                os.kill(os.getpid(), signal.SIGINT)
            yield record

    monkeypatch.setattr(session, "train", interrupted)


@pytest.mark.usefixtures("hasty")
def test_training_that_was_stopped_goes_on_to_the_same_run(
    made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("demo", "--out", tmp_path / "demo", "--steps", STEPS, "--quick", "--threads", 1)
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        code, out, err = call(*command)
    assert (code, out) == (130, "")
    assert f"To go on: scoresde {shlex.join(map(str, command))}" in err
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["run"]
    code, _, err = call(*command)
    assert code == 0, err
    assert "Going on from step 5" in err
    assert_same_network(made[0] / "run", tmp_path / "demo" / "run")


@pytest.mark.usefixtures("hasty")
def test_stopping_while_the_page_is_written_leaves_no_part_of_it(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = made
    page = (folder / "report.html").read_bytes()
    pictures = {name: (folder / name).read_bytes() for name in ("demo.png", "restored.png")}
    flushed = 0

    def stop_at_last(descriptor: int) -> None:
        nonlocal flushed
        flushed += 1
        if flushed == RESTORED + 3:  # after the digits and two pictures
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(os, "fsync", stop_at_last)
    code, _, err = call("demo", "--out", folder, "--quick", "--threads", 1)
    stopped = {name: (folder / name).read_bytes() for name in pictures}
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    assert code == 143
    assert "To go on: scoresde demo" in err
    assert stopped["demo.png"] != pictures["demo.png"]  # the page would have been next
    assert (folder / "report.html").read_bytes() == page
    assert sorted(path.name for path in folder.iterdir()) == MADE


@pytest.mark.usefixtures("hasty")
def test_a_run_of_another_seed_or_of_more_steps_is_refused(made: tuple[Path, str]) -> None:
    code, _, err = call("demo", "--out", made[0], "--seed", 1, "--quick")
    assert code == 2
    assert "seed" in err
    code, _, err = call("demo", "--out", made[0], "--steps", STEPS - 1, "--quick")
    assert code == 2
    assert f"a run of {STEPS} steps" in err


def test_a_run_of_another_process_is_not_explained_as_the_demos(tmp_path: Path) -> None:
    words = ("--process", "ve", "--n", 100, "--preset", "tiny", "--batch-size", 4, "--steps", 1, "--sample-every", 0)
    assert call("train", "digits", *words, "--out", tmp_path / "run")[0] == 0
    code, _, err = call("demo", "--out", tmp_path)
    assert code == 2
    assert "other data or another process" in err


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    code, _, err = call("demo", "--out", tmp_path)
    assert code == 2
    assert "report.html" in err
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
