"""A file imports only lower floors, nothing imports the command line, and the lazy names are the real ones."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import scoresde

ROOT = Path(scoresde.__file__).parent
FLOORS = {
    "scoresde.__init__": 0,
    "scoresde._files": 0,
    "scoresde._philox": 0,
    "scoresde._tensors": 0,
    "scoresde.errors": 0,
    "scoresde.linalg": 1,
    "scoresde.nets": 1,
    "scoresde.data": 1,
    "scoresde.metrics": 1,
    "scoresde.report": 1,
    "scoresde.brownian": 1,
    "scoresde.noise": 2,
    "scoresde.latents": 1,
    "scoresde.sde": 2,
    "scoresde.parameterisations": 3,
    "scoresde.processes": 3,
    "scoresde.grids": 3,
    "scoresde.denoisers": 4,
    "scoresde.reverse": 5,
    "scoresde.rescheduled": 5,
    "scoresde.distributions": 5,
    "scoresde.bounds": 5,
    "scoresde.chain": 6,
    "scoresde.training": 5,
    "scoresde.mixtures": 6,
    "scoresde.solvers": 6,
    "scoresde.recipe": 7,
    "scoresde.sampling": 7,
    "scoresde.tuning": 8,
    "scoresde.acceleration": 8,
    "scoresde.checkpoint": 8,
    "scoresde.compare": 8,
    "scoresde.likelihood": 8,
    "scoresde.operators": 8,
    "scoresde.inverse": 8,
    "scoresde.runs": 9,
}


def name_of(path: Path) -> str:
    return ".".join(("scoresde", *path.relative_to(ROOT).with_suffix("").parts))


def room(module: str) -> str:
    """The file or package on the floor plan that a module belongs to."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 else "scoresde.__init__"


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            found |= {f"{module}.{a.name}" if module == "scoresde" else module for a in node.names}
    return {name for name in found if name.split(".")[0] in ("scoresde", "scoresde_cli")}


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_lower_floors(path: Path) -> None:
    own = room(name_of(path))
    for module in imports_of(path):
        assert not module.startswith("scoresde_cli"), f"{own} imports the command line"
        other = room(module)
        assert own == other or FLOORS[other] < FLOORS[own], f"{own} (floor {FLOORS[own]}) imports {module}"


def test_the_lazy_names_are_those_that_type_checkers_see() -> None:
    block = next(
        node
        for node in ast.parse((ROOT / "__init__.py").read_text()).body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    )
    declared = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert declared == set(scoresde.__all__)
    for name in scoresde.__all__:
        assert getattr(scoresde, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = scoresde.Nonsense


def test_importing_the_package_imports_no_torch() -> None:
    code = "import scoresde, sys; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
