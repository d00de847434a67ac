"""Shared by all tests: one thread (tiny tensors run slower on two) and the place of the optional real data."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside a checkout, when there is any; tests that need it are skipped otherwise."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real data beside this checkout")
    return folder
