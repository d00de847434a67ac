"""The command line as it presents itself: help, names, defaults, examples. None of it imports torch."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch

import scoresde
from scoresde import chain, data, grids, mixtures, nets, recipe, sampling, solvers, training
from scoresde.recipe import Recipe
from scoresde.solvers import adams_bashforth, ancestral, predictor_corrector, torchsde
from scoresde.solvers import scipy as scipy_solver
from scoresde_cli import drawing, names, resolve
from scoresde_cli import solvers as cli_solvers
from scoresde_cli.main import COMMANDS, cli, run

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli_run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: Any) -> tuple[int, str, str]:
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def command(name: str) -> click.Command:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return found


def test_no_help_text_imports_torch() -> None:
    words = [["--help"], ["--version"], ["sample", "--list-solvers"], *([name, "--help"] for name in COMMANDS)]
    code = (
        "import sys; from scoresde_cli.main import run\n"
        f"codes = [run(words) for words in {words}]\n"
        "heavy = {'torch', 'numpy', 'rich', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'{codes} {heavy}' if any(codes) or heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help_and_examples(name: str) -> None:
    found = command(name)
    assert found.help
    assert "scoresde" in (found.epilog or "")
    for parameter in found.params:
        assert parameter.param_type_name == "argument" or getattr(parameter, "help", ""), parameter.name


@pytest.mark.parametrize("name", ["train", "sample", "compare", "likelihood", "tune-grid", "info", "env"])
def test_examples_are_command_lines_that_parse(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.toml").write_text("")
    lines = [line for line in (command(name).epilog or "").splitlines() if line.strip().startswith("scoresde")]
    assert lines
    for line in lines:
        words = shlex.split(line.split(" > ")[0], comments=True)
        assert words[1] == name
        command(name).make_context(name, words[2:])


def test_names_are_those_of_the_library() -> None:
    assert set(names.PROCESSES) == set(recipe.PROCESSES)
    assert set(names.PREDICTIONS) == set(recipe.PARAMETERISATIONS)
    assert set(names.WEIGHTS) == set(training.WEIGHTS)
    assert set(names.TIMES) == set(recipe.TIMES)
    assert set(names.PRECISIONS) == set(recipe.PRECISIONS)
    assert set(names.PRESETS) == set(nets.UNET_PRESETS) == set(nets.MLP_PRESETS) == set(nets.PARAMETER_TABLE)
    assert set(names.GRIDS) == set(grids.GRIDS)
    assert set(names.MIXTURES) == set(mixtures.MIXTURES)
    assert set(names.SOURCES) == set(data.SOURCES)
    assert set(names.SOLVERS) == set(cli_solvers.MAKERS)
    assert set(names.VARIABLES) == set(cli_solvers.VARIABLES)
    assert {type(v) for v in cli_solvers.VARIABLES.values()} == set(adams_bashforth.Variable.__subclasses__())
    assert set(names.VARIANCES) == {ancestral.SMALL, ancestral.LARGE} == set(chain.WORDS)
    assert set(names.LANGEVIN) == {predictor_corrector.LEVEL, predictor_corrector.NORMS}
    assert tuple(scipy_solver.ORDERS) == names.SCIPY_METHODS
    assert tuple(torchsde.METHODS) == names.TORCHSDE_METHODS
    assert cli_solvers.MAKERS[names.DEFAULT_SOLVER](cli_solvers.Wish()) == solvers.UniPC()
    assert names.DEFAULT_STEPS == sampling.DEFAULT_STEPS


def test_help_texts_list_all_data_and_mixtures() -> None:
    assert all(name in (command("train").help or "") for name in names.SOURCES)
    assert all(name in (command("sample").help or "") for name in names.MIXTURES)


def test_every_parameter_of_every_process_has_an_option() -> None:
    for name, make in recipe.PROCESSES.items():
        options = {parameter for parameter, takers in names.PROCESS_PARAMETERS.items() if name in takers}
        assert options == {field.name for field in fields(make)}  # type: ignore[arg-type]
    assert set(names.PROCESS_PARAMETERS) <= {parameter.name for parameter in command("train").params}


def test_train_has_an_option_for_every_key_of_a_recipe_with_its_default() -> None:
    parsed = command("train").make_context("train", ["digits", "--out", "x"]).params
    sections = {"data": recipe.DataRecipe(), "network": recipe.NetworkRecipe(), "training": recipe.TrainingRecipe()}
    places = {place: name for name, at in resolve.PLACES.items() for place in at}
    for section, default in sections.items():
        for field in fields(default):
            if (section, field.name) != ("data", "source"):
                assert parsed[places[section, field.name]] == getattr(default, field.name), field.name
    assert parsed["process"] == Recipe().process.name


RENAMED = {"points": "order", "size": "langevin"}
"""Options that the library calls otherwise: --order and --langevin say more beside the others."""
PROVIDED = {"dpm": {"sde"}, "dpm-sde": {"sde"}}
"""What the name of a solver says already."""


@pytest.mark.parametrize("name", names.SOLVERS)
def test_the_table_of_solvers_tells_the_truth(name: str) -> None:
    facts = names.SOLVERS[name]
    both = [cli_solvers.MAKERS[name](wish) for wish in (cli_solvers.Wish(steps=10), cli_solvers.Wish())]
    different = list(dict.fromkeys(both))
    assert facts.order.split(" or ") == [str(solver.order) for solver in different]
    assert facts.evaluations.split(" or ") == [str(solver.evaluations or names.ADAPTIVE) for solver in different]
    solver = both[0]
    assert facts.grid == (names.OWN if solver.adaptive else solver.grid)
    assert solver.stochastic == (facts.noise == names.YES or (facts.noise == names.SHARE and solver.eta > 0))
    if facts.noise == names.SHARE:
        assert not replace(solver, eta=0.0).stochastic
    elif "eta" in facts.options:
        with pytest.raises(ValueError, match="eta"):
            replace(solver, eta=0.0)


@pytest.mark.parametrize("name", [name for name in names.SOLVERS if name != "ode"])
def test_every_option_of_every_solver_can_be_given(name: str) -> None:
    facts, solver = names.SOLVERS[name], cli_solvers.MAKERS[name](cli_solvers.Wish())
    theirs = {RENAMED.get(field.name, field.name) for field in fields(solver)} - PROVIDED.get(name, set())
    assert {option for option in facts.options if option not in names.FIXED} == theirs
    assert solver.adaptive == (not {*names.FIXED} & {*facts.options})
    assert theirs <= {parameter.name for parameter in command("sample").params}
    other: dict[str, Any] = {"eta": 0.5, "variance": "large", "variable": "time", "rtol": 0.1, "atol": 0.1}
    other |= {"order": 0 if facts.orders is None else facts.orders[0], "method": "RK23" if name == "scipy" else "srk"}
    other |= {"corrections": 3, "snr": 0.1, "langevin": "norms"}
    for option in theirs:
        assert cli_solvers.MAKERS[name](cli_solvers.Wish(**{option: other[option]})) != solver, option


@pytest.mark.parametrize("name", [name for name, facts in names.SOLVERS.items() if facts.orders])
def test_the_orders_are_those_that_there_are(name: str) -> None:
    low, high = names.SOLVERS[name].orders or (0, 0)
    for order in range(low, high + 1):
        cli_solvers.MAKERS[name](cli_solvers.Wish(order=order))
    for order in (low - 1, high + 1):
        with pytest.raises(ValueError, match=str(order)):
            cli_solvers.MAKERS[name](cli_solvers.Wish(order=order))


@pytest.mark.parametrize("name", names.SOLVERS)
def test_solvers_need_of_a_process_what_the_table_says(name: str) -> None:
    solver, law = cli_solvers.MAKERS[name](cli_solvers.Wish(steps=1)), mixtures.MIXTURES["ring8"]()
    refused = set()
    for process in names.PROCESSES:
        try:
            drawing.rehearse(law.denoiser(recipe.PROCESSES[process]()), solver, torch.tensor([1.0, 0.99]))
        except ValueError:
            refused.add(process)
    assert refused == (set(names.WITHOUT_SIGNAL) if names.SOLVERS[name].needs == names.SIGNAL else set())


def test_list_solvers_has_two_lines_for_each_and_fits_a_terminal(cli_run: Run) -> None:
    code, out, _ = cli_run("sample", "--list-solvers")
    assert code == 0
    table, _, notes = out.partition("\n\n")
    lines = table.splitlines()[1:]
    assert [line.split()[0] for line in lines[::2]] == list(names.SOLVERS)
    assert all(line.startswith("    ") for line in lines[1::2])
    assert all(len(line) <= 100 for line in out.splitlines())
    em = next(i for i, line in enumerate(lines) if line.startswith("em "))
    assert lines[em].split() == ["em", "1", "1", "if", "eta", ">", "0", "uniform", "--eta"]
    assert "needs alpha(1) > 0" in lines[em + 1]
    assert "All but rk45, scipy, adaptive-sde take --steps" in notes


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["sampel", "runs/x"], "Did you mean 'sample'?"),
        (["sample", "runs/x", "--solver", "huen"], "Did you mean 'heun'?"),
        (["sample", "runs/x", "--stpes", "3"], "--steps"),
        (["train", "digits", "--out", "x", "--preset", "smal"], "Did you mean 'small'?"),
        (["sample", "gmm:grid52"], "Did you mean 'grid25'?"),
        (["train", "digits", "--out", "x", "--steps", "0"], "x>=1"),
        (["train", "digits"], "--out"),
        (["train", "--out", "nowhere"], "DATA"),
        (["sample", "gmm:grid25", "--eta", "1"], "ddim, em, exponential-em, sa, adaptive-sde, torchsde"),
    ],
)
def test_a_wrong_word_is_a_usage_error_with_a_hint(cli_run: Run, words: list[str], hint: str) -> None:
    code, out, err = cli_run(*words)
    assert code == 2
    assert hint in err
    assert "Traceback" not in err
    assert out == ""


def test_version(cli_run: Run) -> None:
    assert cli_run("--version") == (0, f"scoresde, version {scoresde.__version__}\n", "")


def test_without_a_command_the_help_is_shown(cli_run: Run) -> None:
    code, out, err = cli_run()
    assert code == 2
    assert all(name in out + err for name in COMMANDS)


def test_env_names_versions(cli_run: Run) -> None:
    code, out, _ = cli_run("env")
    assert code == 0
    assert f"torch         {torch.__version__}" in out
    assert "extra demo" in out


def test_a_shell_can_complete_names(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_SCORESDE_COMPLETE", "zsh_source")
    assert run([]) == 0
    assert "compdef" in capfd.readouterr().out
    monkeypatch.setenv("_SCORESDE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "scoresde sample --solver an")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert run([]) == 0
    assert capfd.readouterr().out == "plain,ancestral\n"


def test_solver_classes_are_all_reachable() -> None:
    reachable = {type(make(cli_solvers.Wish(steps=1))).__name__ for make in cli_solvers.MAKERS.values()}
    assert reachable == set(solvers.__all__) - {"Draw", "Solver", "State"}
