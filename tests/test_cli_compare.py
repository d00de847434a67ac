"""`scoresde compare`: what is written, what is kept and what is computed, interruptions, and what is refused."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_cases import MOONS, Call

from scoresde import compare, sampling
from scoresde.errors import NumericalError
from scoresde.mixtures import MIXTURES
from scoresde.processes import VP
from scoresde.solvers import UniPC
from scoresde_cli import (
    comparison_cells,
    comparison_kernels,
    comparison_paths,
    comparison_report,
    comparison_study,
    comparison_way,
    names,
    solvers,
)
from scoresde_cli.comparison_wishes import Numbers, Seeds, Solvers, parse_solver
from scoresde_cli.main import run

SMALL = ("-n", 60, "--seeds", "0,1")
WORDS = ("compare", "gmm:uneven", *SMALL, "--steps", "4,8", "--solvers", "ancestral,unipc")


def results(folder: Path | str = "compare/gmm-uneven") -> dict[str, Any]:
    return json.loads(Path(folder, "results.json").read_text())


def rows(folder: Path | str = "compare/gmm-uneven") -> dict[str, dict[str, Any]]:
    return {row["label"]: row for row in results(folder)["rows"]}


def small(patch: pytest.MonkeyPatch) -> None:
    """Few fine steps, and few on the way: what they are does not matter here."""
    patch.setattr(comparison_paths, "FINE", {"exact": 20, "other": 20})
    patch.setattr(comparison_paths, "COUNT", {"exact": 20, "other": 20})
    patch.setattr(comparison_way, "STEPS", 10)
    patch.setattr(comparison_way, "POINTS", 20)
    patch.setattr(comparison_kernels, "COUNTS", (3,))
    patch.setattr(comparison_kernels, "PATHS", 20)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page takes seconds, and most tests do not read it."""
    small(monkeypatch)
    monkeypatch.setattr(comparison_report, "write", lambda path, facts: path.write_text(facts.advice))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the command of WORDS has been."""
    folder = tmp_path_factory.mktemp("uneven")
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        small(patch)
        assert run([str(word) for word in WORDS]) == 0
    return folder


@pytest.fixture
def there(call: Call, done: Path) -> Path:
    """Its results, in the folder of this test."""
    shutil.copytree(done / "compare", "compare")
    return Path("compare/gmm-uneven")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The cells that are computed from now on: (solver, steps, seed)."""
    seen: list[Any] = []
    real = comparison_study.draw

    def draw(denoiser: Any, solver: Any, times: Any, **same: Any) -> Any:
        seen.append((type(solver).__name__, None if times is None else len(times) - 1, same["seed"]))
        return real(denoiser, solver, times, **same)

    monkeypatch.setattr(comparison_study, "draw", draw)
    return seen


# --- what is written -----------------------------------------------------------------------------------


def test_every_number_is_that_of_the_library(call: Call, there: Path) -> None:
    law = MIXTURES["uneven"]()
    judge = compare.MixtureJudge(law)
    each = []
    for seed in (0, 1):
        x = sampling.sample(law.denoiser(VP()), UniPC(), steps=8, n=60, seed=seed)
        each.append(judge.values(x, seed))
    row = rows()["unipc, 8 steps"]
    assert set(row["values"]) == {measure.name for measure in judge.measures}
    for name, found in row["values"].items():
        wanted = compare.over_seeds([values[name] for values in each])
        assert found == pytest.approx(vars(wanted), rel=1e-9), name
    floor = compare.over_seeds([judge.floor_values(60, seed)["sw2"] for seed in range(20)])
    assert results()["floor_seeds"] == list(range(20))
    assert results()["floor"]["sw2"] == pytest.approx(vars(floor))
    assert row["evaluations"] == 8
    assert row["seconds"] > 0


def test_the_csv_says_what_the_json_says(call: Call, there: Path) -> None:
    content = results()
    with (there / "results.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    floor, *lines = table
    assert floor["label"] == "floor"
    assert [line["label"] for line in lines] == [row["label"] for row in content["rows"]]
    for line, row in zip(table, [content | {"values": content["floor"]}, *content["rows"]], strict=True):
        for name, estimate in row["values"].items():
            for end, column in (("value", name), ("low", f"{name}_low"), ("high", f"{name}_high")):
                assert float(line[column]) == estimate[end]
    for line, row in zip(lines, content["rows"], strict=True):
        assert (line["solver"], int(line["steps"]), line["command"]) == (row["solver"], row["steps"], row["command"])
        assert float(line["evaluations"]) == row["evaluations"]


def test_advice_is_printed_written_and_heads_the_page(call: Call, there: Path) -> None:
    page = (there / "report.html").read_text()
    code, out, _ = call(*WORDS)
    advice, report = out.splitlines()
    assert (code, report) == (0, "compare/gmm-uneven/report.html")
    assert results()["advice"] == advice
    assert f'<p class="lead">{advice}</p>' in page
    for word in ("http://", "https://"):
        assert word not in page.replace("http://www.w3.org", "")
    for heading in ("Error and cost", "All numbers", "The same start", "What one look says", "Do it again"):
        assert heading in page


def test_the_command_of_a_row_computes_it_again(call: Call, there: Path) -> None:
    for label in ("ancestral, 4 steps", "unipc, 8 steps"):
        row = rows()[label]
        code, _, err = call(*shlex.split(row["command"])[1:])
        assert (code, "2 cells computed, 0 were" in err) == (0, True)
        again = rows("again")[label]
        assert again["values"] == row["values"]
    assert set(rows()) == {f"{s}, {n} steps" for s in ("ancestral", "unipc") for n in (4, 8)}


def test_the_sample_command_of_a_row_draws_its_samples(call: Call, there: Path) -> None:
    row = rows()["ancestral, 8 steps"]
    code, out, _ = call(*shlex.split(row["sample_command"])[1:])
    assert code == 0
    x = torch.from_numpy(np.load(Path(out.strip(), "samples.npy")))
    (cell,) = [c for c in cells(there) if c["made_for"].get("steps") == 8 and named(c) == "ancestral" and seed(c) == 0]
    assert compare.MixtureJudge(MIXTURES["uneven"]()).values(x, 0) == pytest.approx(cell["found"]["values"], rel=1e-6)


def cells(folder: Path) -> list[dict[str, Any]]:
    """Those of samples."""
    found = [json.loads(path.read_text()) for path in sorted((folder / "cells").iterdir())]
    return [cell for cell in found if cell["made_for"]["kind"] == "samples"]


def named(cell: dict[str, Any]) -> str:
    return cell["made_for"]["solver"]["name"]


def seed(cell: dict[str, Any]) -> int:
    return cell["made_for"]["seed"]


# --- what is kept, and what is computed ----------------------------------------------------------------


def test_only_what_is_new_is_computed(call: Call, there: Path, drawn: list[Any]) -> None:
    before = {path.name: path.read_bytes() for path in (there / "cells").iterdir()}
    assert call(*WORDS)[0] == 0
    assert drawn == []
    assert call(*WORDS, "--solvers", "ancestral,unipc,ddim")[0] == 0
    assert drawn == [("DDIM", 4, 0), ("DDIM", 8, 0), ("DDIM", 4, 1), ("DDIM", 8, 1)]
    drawn.clear()
    assert call(*WORDS, "--seeds", "2,0")[0] == 0
    assert drawn == [(solver, n, 2) for n in (4, 8) for solver in ("Ancestral", "UniPC")]
    assert results()["seeds"] == [2, 0]
    drawn.clear()
    for words in (("--grids", "karras"), ("--batch-size", 30), ("--process", "ve", "--out", there)):
        assert call(*WORDS, *words)[0] == 0
        assert len(drawn) == 8, words
        drawn.clear()
    assert {name: (there / "cells" / name).read_bytes() for name in before} == before


def test_results_of_another_version_are_not_mixed_in(
    call: Call, there: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison_cells.scoresde, "__version__", "99")
    assert call(*WORDS)[0] == 0
    assert len(drawn) == 8


@pytest.mark.parametrize("damage", [lambda text: text[:100], lambda text: text.replace('"seed": 1', '"seed": 0')])
def test_a_damaged_cell_is_computed_again(call: Call, there: Path, drawn: list[Any], damage: Any) -> None:
    values = rows()["unipc, 4 steps"]["values"]
    (path,) = (there / "cells").glob("unipc-4-seed1-*.json")
    path.write_text(damage(path.read_text()))
    code, _, err = call(*WORDS)
    assert (code, drawn) == (0, [("UniPC", 4, 1)])
    assert str(path) in err
    assert "computed again" in err
    assert rows()["unipc, 4 steps"]["values"] == values


def test_another_checkpoint_is_another_model(call: Call, moons: Path, drawn: list[Any]) -> None:
    words = ("compare", moons, "--solvers", "unipc", "--steps", 3, "-n", 12, "--seeds", "0,1")
    assert call(*words)[0] == 0
    first = rows(moons / "compare")["unipc, 3 steps"]["values"]
    assert call("train", *MOONS, "--steps", 12, "--out", moons)[0] == 0
    assert call(*words)[0] == 0
    assert len(drawn) == 4
    assert rows(moons / "compare")["unipc, 3 steps"]["values"] != first


MANY = ("compare", "gmm:uneven", "--solvers", "ancestral", "--steps", 20, "-n", 500, "--seeds", "0-19")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_comparison_is_finished_by_the_same_command(
    call: Call, monkeypatch: pytest.MonkeyPatch, drawn: list[Any], signum: int
) -> None:
    real = comparison_study.Cells.write

    def write(*args: Any) -> Any:
        kept = real(*args)
        if len(drawn) == 3:
            os.kill(os.getpid(), signum)
        return kept

    with monkeypatch.context() as patch:
        patch.setattr(comparison_study.Cells, "write", write)
        code, out, err = call(*WORDS)
    assert (code, out) == (128 + signum, "")
    assert "Stopped; 3 of 8 cells are whole, in compare/gmm-uneven/cells" in err
    assert f"To go on: scoresde {' '.join(map(str, WORDS))}" in err
    assert not Path("compare/gmm-uneven/report.html").exists()
    drawn.clear()
    code, _, err = call(*shlex.split(err.split("To go on: scoresde ")[1]))
    assert (code, len(drawn)) == (0, 5)
    assert "5 cells computed, 3 were there already" in err


def test_a_stop_among_the_paths_leaves_the_page_of_the_samples(
    call: Call, monkeypatch: pytest.MonkeyPatch, drawn: list[Any]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(comparison_paths, "coupled_ends", lambda *a, **k: os.kill(os.getpid(), signal.SIGINT))
        code, out, err = call(*WORDS)
    assert (code, out) == (130, "")
    assert "Stopped; compare/gmm-uneven/report.html has all samples, without what follows their paths" in err
    assert (len(rows()), results()["paths"]) == (4, [])
    drawn.clear()
    assert call(*shlex.split(err.split("To go on: scoresde ")[1]))[0] == 0
    assert (drawn, len(results()["paths"])) == ([], 4)


def test_paths_can_be_left_out(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (comparison_paths, "follow"),
        (comparison_kernels, "study_kernels"),
        (comparison_way, "follow"),
    ):
        monkeypatch.setattr(module, name, lambda *a: pytest.fail("followed"))
    assert call(*WORDS, "--no-paths")[0] == 0
    assert (len(rows()), results()["paths"]) == (4, [])
    assert "coupled" not in call(*WORDS, "--no-paths", "--dry-run")[1]


def test_noise_that_does_not_shrink_is_judged_and_not_coupled(call: Call) -> None:
    words = (*WORDS, "--solvers", "pc,unipc", "--steps", 4)
    assert call(*words, "--dry-run")[0] == 0
    assert call(*words)[0] == 0
    assert set(rows()) == {"pc, 4 steps", "unipc, 4 steps"}
    assert [paths["label"] for paths in results()["paths"]] == ["unipc, 4 steps"]
    assert results()["orders"] == []


def test_an_effort_that_cannot_be_leaves_the_others(call: Call) -> None:
    words = ("compare", "gmm:uneven", "--solvers", "unipc", "--steps", "10,2000", "--grids", "trailing", *SMALL)
    out = call(*words, "--dry-run")[1]
    assert "2 cells of 60 samples" in out
    assert "unipc on trailing, 2000 steps  cannot run: " in out


def test_a_dry_run_counts_the_paths_that_are_missing(call: Call, there: Path) -> None:
    assert (
        call(*WORDS, "--dry-run")[1].splitlines()[-1]
        == "there are no coupled paths to follow that are not there already"
    )
    more = call(*WORDS, "--solvers", "ancestral,unipc,ddim", "--dry-run")[1].splitlines()[-1]
    assert more.startswith("then 20 coupled paths, about ")


def test_ctrl_c_in_a_terminal(call: Call, drawn: list[Any]) -> None:
    """A whole process, stopped where it happens to be."""
    command = [sys.executable, "-c", "from scoresde_cli.main import main; main()", *map(str, MANY)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        deadline = time.monotonic() + 60
        while not list(Path().glob("compare/gmm-uneven/cells/ancestral*.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, "Traceback" in err) == (130, "", False)
    kept = len(list(Path().glob("compare/gmm-uneven/cells/ancestral*.json")))
    assert 1 <= kept < 20
    assert call(*MANY)[0] == 0
    assert len(drawn) == 20 - kept


def test_a_full_disk_ends_with_73_and_keeps_what_was_there(
    call: Call, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}

    def replace(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", replace)
    code, out, err = call(*WORDS, "--solvers", "ddim")
    assert (code, out) == (73, "")
    assert "No space left" in err
    assert {path: path.read_bytes() for path in there.rglob("*") if path.is_file()} == before


# --- what is asked for ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", names.SOLVERS)
def test_every_solver_takes_all_its_options(name: str) -> None:
    values = {"order": str((names.SOLVERS[name].orders or (0, 0))[0]), "eta": "0.5", "variance": "large"}
    values |= {"variable": "time", "corrections": "2", "snr": "0.1"}
    values |= {"langevin": "norms", "method": "RK23" if name == "scipy" else "srk"}
    own = [o for o in names.SOLVERS[name].options if o not in (*names.FIXED, *names.TOLERANCES)]
    text = ":".join([name, *(f"{option}={values[option]}" for option in own)])
    asked = parse_solver(text)
    assert str(asked) == text
    solver = solvers.make(name, solvers.Wish(**asked.options))
    assert asked.adaptive == (solver.adaptive or name == "ode")
    assert not own or solver != solvers.make(name, solvers.Wish())


@pytest.mark.parametrize("default", [names.COMPARE_MIXTURE, names.COMPARE_RUN])
def test_the_defaults_are_what_a_user_could_write(default: names.Comparison) -> None:
    assert {one.solver for one in Solvers().convert(default.solvers, None, None)} <= set(names.SOLVERS)
    assert Numbers(whole=True).convert(default.steps, None, None)[0] >= 1
    assert Numbers(whole=False).convert(default.tolerances, None, None) == [1e-2, 1e-3, 1e-4]
    assert len(Seeds().convert(default.seeds, None, None)) > 1


def test_lists_are_put_in_the_order_of_effort() -> None:
    assert Numbers(whole=True).convert("20, 5,100", None, None) == [5, 20, 100]
    assert Numbers(whole=False).convert("1e-4,0.1", None, None) == [0.1, 1e-4]
    assert Seeds().convert("7,0-2", None, None) == [7, 0, 1, 2]


def test_options_and_grids_of_solvers_reach_them(call: Call) -> None:
    words = ("--solvers", "sa:eta=0.5,dpm:order=3,rk45", "--grids", "own,karras", "--steps", 4, "--tolerances", "0.3")
    code, _, _ = call("compare", "gmm:uneven", *words, *SMALL)
    assert code == 0
    found = rows()
    assert list(found) == [
        "sa:eta=0.5, 4 steps",
        "sa:eta=0.5 on karras, 4 steps",
        "dpm:order=3, 4 steps",
        "dpm:order=3 on karras, 4 steps",
        "rk45, tolerance 0.3",
    ]
    assert [row["grid"] for row in found.values()] == ["logistic", "karras", "logistic", "karras", None]
    assert found["rk45, tolerance 0.3"]["evaluations"] > 4
    named = {
        cell["made_for"]["solver"]["name"]: cell["made_for"]["solver"] for cell in cells(Path("compare/gmm-uneven"))
    }
    assert "--solvers sa:eta=0.5 --steps 4 --grids karras -n" in found["sa:eta=0.5 on karras, 4 steps"]["command"]
    assert "--solvers rk45 --tolerances 0.3 -n" in found["rk45, tolerance 0.3"]["command"]
    assert (named["sa"]["eta"], named["dpm"]["order"], named["rk45"]["rtol"]) == (0.5, 3, 0.3)
    assert (
        "sample gmm:uneven --solver sa --steps 4 --eta 0.5 --grid karras"
        in found["sa:eta=0.5 on karras, 4 steps"]["sample_command"]
    )


def test_what_widens_the_modes_is_not_advised(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 5 steps the distance is at the floor, and the modes are half as wide again as they should be."""
    words = ("compare", "gmm:grid25", "--solvers", "unipc", "--steps", "5,20", "-n", 1000, "--seeds", "0-2")
    out = call(*words)[1]
    assert out.startswith("For this model take unipc with 20 steps: ")
    monkeypatch.setattr("scoresde.compare.advice.OFF", 1.0)
    assert call(*words)[1].startswith("For this model take unipc with 5 steps: ")
    assert rows("compare/gmm-grid25")["unipc, 5 steps"]["values"]["width"]["value"] > 1.3


def test_a_tuned_grid_is_used_or_missed_in_words(call: Call) -> None:
    words = ("compare", "gmm:uneven", "--solvers", "unipc", "--steps", 3, "--grids", "own,tuned", *SMALL)
    code, _, err = call(*words)
    assert code == 0
    assert "Warning: unipc on tuned: there is no grid tuned for unipc with 3 steps" in err
    assert call("tune-grid", "gmm:uneven", "--steps", 3, "-n", 8)[0] == 0
    assert call(*words)[0] == 0
    found = rows()
    assert found["unipc on tuned, 3 steps"]["values"]["sw2"] != found["unipc, 3 steps"]["values"]["sw2"]


# --- what does not work --------------------------------------------------------------------------------


def test_a_solver_that_cannot_run_here_has_a_row_that_says_so(call: Call) -> None:
    words = ("compare", "gmm:uneven", "--process", "cosine", "--steps", 4, *SMALL)
    code, out, err = call(*words, "--solvers", "em,unipc")
    assert code == 0
    folder = Path("compare/gmm-uneven-cosine")
    assert "Warning: em: " in err
    found = rows(folder)
    assert "alpha" in found["em"]["error"]
    assert found["em"]["values"] == {}
    assert found["unipc, 4 steps"]["error"] is None
    code, out, err = call(*words, "--solvers", "em")
    assert (code, out, "Traceback" in err) == (70, "", False)
    assert "no solver got to the end" in err
    assert list(rows(folder)) == ["em"]


def test_a_solver_that_diverges_ends_its_row_and_no_other(
    call: Call, monkeypatch: pytest.MonkeyPatch, drawn: list[Any]
) -> None:
    real = comparison_study.draw

    def draw(denoiser: Any, solver: Any, times: Any, **same: Any) -> Any:
        found = real(denoiser, solver, times, **same)
        if solver == UniPC() and len(times) == 9:
            raise NumericalError("sample 3 of the batch is not finite after step 2")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(comparison_study, "draw", draw)
        code, _, err = call(*WORDS)
    assert code == 0
    assert "Warning: unipc, 8 steps: sample 3 of the batch is not finite" in err
    found = rows()
    assert found["unipc, 8 steps"]["error"].startswith("sample 3")
    assert [row["error"] for label, row in found.items() if label != "unipc, 8 steps"] == [None] * 3
    assert len(drawn) == 7  # the second seed of what failed is not tried
    code, _, err = call(*WORDS)
    assert (code, "unipc, 8 steps: sample 3" in err, len(drawn)) == (0, True, 7)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("--solvers", "huen"), "Did you mean 'heun'?"),
        (("--solvers", "unipc,"), "'' is not one of"),
        (("--solvers", "unipc,unipc"), "unipc is there twice"),
        (("--solvers", "sa:ea=0.5"), "Did you mean 'eta'?"),
        (("--solvers", "sa:eta=much"), "must be a number, not 'much'"),
        (("--solvers", "heun:order=2"), "it takes none"),
        (("--solvers", "ancestral:variance=smal"), "Did you mean 'small'?"),
        (("--solvers", "dpm:order=9"), "from 1 to 3"),
        (("--solvers", "ddim:eta=-1"), "eta"),
        (("--steps", "ten"), "'ten' is not a whole number"),
        (("--steps", "5,0"), "'0' is not a whole number"),
        (("--steps", "5,5"), "5 is there twice"),
        (("--tolerances", "1e-3,inf"), "'inf' is not a number above 0"),
        (("--seeds", "0-3,2"), "seed 2 is there twice"),
        (("--seeds", "3-1"), "goes down"),
        (("--seeds", "0,1700000000"), "--seeds 1700000000: the sets that samples are held against have seeds below 16"),
        (("--grids", "kerras"), "Did you mean 'karras'?"),
        (("--solvers", "rk45,ode", "--grids", "karras"), "--grids means nothing to rk45, ode"),
        (("--solvers", "rk45", "--steps", "5"), "--steps means nothing to rk45"),
        (("--solvers", "unipc", "--tolerances", "0.1"), "--tolerances mean nothing to unipc"),
        (("-n", 1), "2<=x"),
        (("--average", "raw"), "--average is for trained runs"),
        (("--reference",), "are for trained runs"),
        (("--features", "lenet.pth"), "are for trained runs"),
        (("--process", "vp", "--sigma-max", 3), "--sigma-max is a parameter of ve and edm"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(call: Call, words: tuple[Any, ...], hint: str) -> None:
    code, out, err = call("compare", "gmm:uneven", *words)
    assert (code, out, "Traceback" in err) == (2, "", False)
    assert hint in err
    assert list(Path().iterdir()) == []


def test_a_dry_run_writes_nothing_and_counts(call: Call, there: Path) -> None:
    words = ("--solvers", "ancestral,unipc,ode", "--tolerances", "0.1")
    before = sorted(there.rglob("*"))
    code, out, _ = call(*WORDS, *words, "--dry-run")
    assert code == 0
    assert "10 cells of 60 samples (solver, effort, seed), 8 of them there already" in out
    assert "ancestral  4, 8 steps" in out
    assert "ode        0.1 (tolerances)" in out
    assert sorted(there.rglob("*")) == before
