"""Shared by all tests: one thread (tiny tensors run slower on two), real data when there are any, the command line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cli_cases import MOONS, Call

from scoresde_cli.main import run

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside a checkout, when there is any; tests that need it are skipped otherwise."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside this checkout")
    return folder


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    monkeypatch.chdir(tmp_path)

    def invoke(*words: Any) -> tuple[int, str, str]:
        code = run([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return invoke


@pytest.fixture
def moons(call: Call) -> Path:
    """A short run."""
    assert call("train", *MOONS, "--steps", 6, "--out", "run")[0] == 0
    return Path("run")
