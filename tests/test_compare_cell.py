"""A cell's samples are those of `sample`, and its costs what was spent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from problems import gaussian, mixture
from torch import Tensor

import scoresde as sd
from scoresde import grids
from scoresde.compare import Counted, draw, memory
from scoresde.sde import Level
from scoresde.solvers import RK45, Ancestral, EulerMaruyama, Heun, UniPC

VP = sd.VP()
MIB = 2**20


class Greedy(sd.Wrapped):
    """Needs 30 MiB to answer, in pieces that the C library keeps when they are freed."""

    def predict(self, x: Tensor, t: Level) -> Tensor:
        room = [torch.ones(MIB // 40) for _ in range(300)]
        del room
        return self.inner.predict(x, t)


class Broken(sd.Wrapped):
    """Answers with nan late on the way."""

    def predict(self, x: Tensor, t: Level) -> Tensor:
        answer = self.inner.predict(x, t)
        return answer * torch.nan if t.t < 0.5 else answer


@pytest.mark.parametrize("batch_size", [None, 4])
def test_samples_are_those_of_sample(batch_size: int | None) -> None:
    denoiser, times = mixture().denoiser(VP), grids.uniform(6)
    found = draw(denoiser, Ancestral(), times, n=10, seed=5, batch_size=batch_size)
    expected = sd.sample(denoiser, Ancestral(), times=times, n=10, seed=5, batch_size=batch_size)
    assert torch.equal(found.samples, expected)
    assert found.seconds > 0


@pytest.mark.parametrize("batch_size", [None, 4, 100])
@pytest.mark.parametrize("solver", [UniPC(), Heun(), Ancestral()], ids=str)
def test_evaluations_are_per_sample_whatever_the_batch(solver: sd.solvers.Solver, batch_size: int | None) -> None:
    found = draw(gaussian().denoiser(VP), solver, grids.uniform(6), n=10, seed=0, batch_size=batch_size)
    assert found.evaluations == 6 * solver.evaluations


def test_evaluations_of_an_adaptive_solver_are_counted() -> None:
    denoiser = gaussian().denoiser(VP)
    whole = draw(denoiser, RK45(), None, n=8, seed=0)
    halves = [Counted(denoiser), Counted(denoiser)]
    for k, counted in enumerate(halves):
        sd.sample(counted, RK45(), ids=list(range(4 * k, 4 * k + 4)), seed=0)
    parted = draw(denoiser, RK45(), None, n=8, seed=0, batch_size=4)
    assert parted.evaluations == (halves[0].calls + halves[1].calls) / 2
    assert whole.evaluations == max(counted.calls for counted in halves) > 20  # the slowest sample decides


def test_steps_are_reported_and_the_network_left_as_it_was_found() -> None:
    denoiser = gaussian().denoiser(VP)
    calls: list[int] = []
    for training in (True, False):
        denoiser.train(training)
        draw(denoiser, UniPC(), grids.uniform(6), n=5, seed=0, batch_size=3, on_step=lambda: calls.append(1))
        assert denoiser.training == training
    assert len(calls) == 2 * 12


def test_a_solver_that_diverges_says_so() -> None:
    with pytest.raises(sd.NumericalError, match=r"UniPC.* not finite"):
        draw(Broken(gaussian().denoiser(VP)), UniPC(), grids.uniform(6), n=3, seed=0)


def test_a_solver_that_cannot_start_says_so() -> None:
    with pytest.raises(ValueError, match="needs a finite diffusion"):
        draw(gaussian().denoiser(sd.VP.cosine()), EulerMaruyama(), grids.uniform(6), n=3, seed=0)
    with pytest.raises(ValueError, match="needs a grid"):
        draw(gaussian().denoiser(VP), UniPC(), None, n=3, seed=0)


# Memory


@pytest.fixture
def fresh() -> None:
    if not memory.CLEAR.exists():
        pytest.skip("this system does not tell the peak of its memory")


def test_the_peak_of_memory_is_seen_each_time(fresh: None) -> None:
    torch.ones(5 * MIB)  # freed, it makes glibc keep what is freed later, up to twice its size
    denoiser = Greedy(gaussian().denoiser(VP))
    peaks = [draw(denoiser, UniPC(), grids.uniform(3), n=3, seed=0).peak_bytes for _ in range(3)]
    assert all(peak is not None and 25 * MIB < peak < 60 * MIB for peak in peaks)
    assert (draw(denoiser.inner, UniPC(), grids.uniform(3), n=3, seed=0).peak_bytes or 0) < 20 * MIB


def test_where_the_system_does_not_tell_the_peak_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "absent" / "file")
    assert draw(gaussian().denoiser(VP), UniPC(), grids.uniform(3), n=3, seed=0).peak_bytes is None
    assert memory.watch(torch.device("meta"))() is None
