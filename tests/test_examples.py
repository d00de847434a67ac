"""The examples run, the README's Python runs as pasted, and its commands are the ones that CI calls."""

import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_first_steps_come_close_to_the_truth(capsys: pytest.CaptureFixture) -> None:
    distances = example("first_steps").main(n=1000, steps=60)
    assert all(d < 3 * distances["exact samples"] for d in distances.values())
    assert "ancestral" in capsys.readouterr().out


def test_somebody_elses_network_runs_on_three_solvers() -> None:
    errors = example("own_network").main(n=1000, steps=50)
    assert len(errors) == 3
    assert all(error < 0.1 for error in errors.values())


def test_the_mixtures_are_drawn(tmp_path: Path) -> None:
    path = example("named_mixtures").main(tmp_path / "m.png", points=50, resolution=30)
    with Image.open(path) as picture:
        assert picture.width > 3 * picture.height
    assert [p.name for p in tmp_path.iterdir()] == ["m.png"]


def test_a_solver_is_chosen(capsys: pytest.CaptureFixture) -> None:
    advice = example("which_solver").main(counts=(5, 20), n=400, seeds=range(3))
    assert advice in capsys.readouterr().out
    assert "ancestral" in advice


def test_the_readmes_python_runs_as_pasted(capsys: pytest.CaptureFixture) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    model, truth = (float(v) for v in re.findall(r"tensor\((-?[\d.]+)\)", capsys.readouterr().out))
    assert model == pytest.approx(truth, abs=0.6)


def test_ci_calls_the_readmes_test_command() -> None:
    command = next(block for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) if "pytest" in block)
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("an sdist carries no .ci")
    assert command.strip() in script.read_text()


def test_every_file_the_readme_names_is_there() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
    for path in re.findall(r"`((?:tests|examples)/[\w/.]+\.py)`", README):
        assert (ROOT / path).exists(), path
