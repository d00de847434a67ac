"""Grids fitted to a model: what they gain on starts that they never saw, what they respect, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import PROCESSES
from torch import Tensor, nn

import scoresde as sd
from scoresde import grids, tuning
from scoresde.denoisers import Denoiser
from scoresde.reverse import prior_sample
from scoresde.sde import Level

SOLVERS = {
    "heun": sd.solvers.Heun(),
    "ddim": sd.solvers.DDIM(),
    "dpm": sd.solvers.DPMSolver(order=2),
    "adams": sd.solvers.AdamsBashforth(),
    "rk4": sd.solvers.RK4(),
}


def ring(sde: sd.LinearSDE) -> Denoiser:
    return sd.MIXTURES["ring8"]().denoiser(sde)


def end_errors(denoiser: Denoiser, solver: Any, times: Tensor, n: int) -> Tensor:
    """Of samples 0 to n - 1 as users draw them, against an accurate solve."""
    noise = sd.CounterNoise(0, torch.arange(n), denoiser.shape or (), denoiser.dtype)
    x1 = prior_sample(denoiser.sde, noise.start())
    ends = sd.sample(denoiser, sd.solvers.RK45(1e-6, 1e-6), x1=x1)
    x = sd.sample(denoiser, solver, times=times, x1=x1)
    return (x - ends).double().flatten(1).square().mean(1).sqrt()


class Spy(sd.Wrapped):
    """Notes what it is asked, and may claim a cleanest level."""

    def __init__(self, inner: Denoiser, max_log_snr: float | None = None) -> None:
        super().__init__(inner)
        self.max_log_snr = inner.max_log_snr if max_log_snr is None else max_log_snr
        self.cleanest, self.largest, self.calls = -torch.inf, 0, 0

    def predict(self, x: Tensor, t: Level) -> Tensor:
        self.cleanest = max(self.cleanest, float(torch.as_tensor(t.log_snr).max()))
        self.largest, self.calls = max(self.largest, len(x)), self.calls + 1
        return self.inner.predict(x, t)


class ExactEps(nn.Module):
    """A network that is right: eps of pictures whose entries are N(0, 1/4), from the log-SNR of a VP process."""

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        alpha2, sigma2 = (torch.sigmoid(c * log_snr)[:, None, None, None] for c in (1.0, -1.0))
        return sigma2.sqrt() * x / (0.25 * alpha2 + sigma2)


# --- what is gained ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grid25() -> sd.TunedGrid:
    return sd.tune_grid(sd.MIXTURES["grid25"]().denoiser(sd.VP()), sd.solvers.UniPC(), 8)


def test_a_fitted_grid_ends_nearer_to_the_flow(grid25: sd.TunedGrid) -> None:
    before, after = grid25.held_out
    assert grid25.improved
    assert after.median < 0.2 * before.median  # measured 0.07
    assert after.mean < 0.6 * before.mean  # 0.31
    assert grid25.reference < 0.2 * after.median


def test_the_errors_are_those_of_samples_that_users_draw(grid25: sd.TunedGrid) -> None:
    denoiser = sd.MIXTURES["grid25"]().denoiser(sd.VP())
    before, after = (end_errors(denoiser, sd.solvers.UniPC(), t, 400) for t in (grid25.start, grid25.times))
    assert after.median() < 0.2 * before.median()
    assert after.mean() < 0.6 * before.mean()
    assert after.median().item() == pytest.approx(grid25.held_out.after.median, rel=0.3)
    assert before.median().item() == pytest.approx(grid25.held_out.before.median, rel=0.3)


@pytest.mark.parametrize("process", ["cosine", "betas", "sub-vp", "ve", "edm", "rectified-flow"])
def test_every_process_has_a_better_grid_than_the_default(process: str) -> None:
    found = sd.tune_grid(ring(PROCESSES[process]), sd.solvers.UniPC(), 6, n=16)
    assert found.improved
    assert found.held_out.after.median < 0.5 * found.held_out.before.median
    assert (found.times.dtype, found.times.shape) == (torch.float64, (7,))
    assert (found.times[0], found.times[-1]) == (1.0, 0.0)
    assert bool((found.times[1:] < found.times[:-1]).all())


@pytest.mark.parametrize("name", SOLVERS)
def test_every_deterministic_solver_can_be_fitted(name: str) -> None:
    denoiser, solver = ring(sd.VP()), SOLVERS[name]
    found = sd.tune_grid(denoiser, solver, 5, n=24)
    assert torch.equal(found.start, grids.GRIDS[solver.grid](denoiser.sde, 5, denoiser.max_log_snr))
    assert found.held_out.after.median < 0.6 * found.held_out.before.median


def test_two_steps_have_one_time_to_fit() -> None:
    found = sd.tune_grid(ring(sd.VP()), sd.solvers.DDIM(), 2, n=24)
    assert found.improved
    assert found.held_out.after.mean < found.held_out.before.mean


def test_a_start_of_the_users_own_is_where_fitting_begins() -> None:
    start = [1.0, 0.9, 0.8, 0.7, 0.0]
    found = sd.tune_grid(ring(sd.VP()), sd.solvers.UniPC(), 4, n=24, start=start)
    assert found.start.tolist() == start
    assert found.held_out.after.median < 0.3 * found.held_out.before.median


def test_where_nothing_is_better_the_start_comes_back() -> None:
    # x0 is known at once: any grid is exact
    point = sd.GaussianMixture([1.0], [[0.3, -0.2]], [1e-14], dtype=torch.float32)
    found = sd.tune_grid(point.denoiser(sd.VP()), sd.solvers.UniPC(), 5, n=16)
    assert not found.improved
    assert torch.equal(found.times, found.start)
    assert found.held_out.after == found.held_out.before


def test_the_start_comes_back_when_held_out_starts_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tuning._Paths.loss

    def loss(self: Any, times: Tensor, *args: Any) -> float:
        better_is_worse = -1.0 if len(self.x1) == tuning.HELD_OUT * 16 else 1.0
        return better_is_worse * real(self, times, *args)

    monkeypatch.setattr(tuning._Paths, "loss", loss)
    assert not sd.tune_grid(ring(sd.VP()), sd.solvers.UniPC(), 5, n=16).improved


# --- what it depends on, and respects ------------------------------------------------------------------


def test_it_is_a_function_of_its_arguments() -> None:
    first, again, other = (sd.tune_grid(ring(sd.VP()), sd.solvers.DDIM(), 3, n=8, seed=s) for s in (5, 5, 6))
    assert torch.equal(first.times, again.times)
    assert first.held_out == again.held_out
    assert not torch.equal(first.times, other.times)


def test_the_three_sets_of_starts_are_apart_and_none_that_users_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[set[int]] = []
    real = tuning.CounterNoise

    def noise(seed: int, ids: Tensor, *args: Any) -> Any:
        drawn.append(set(ids.tolist()))
        return real(seed, ids, *args)

    monkeypatch.setattr(tuning, "CounterNoise", noise)
    sd.tune_grid(ring(sd.VP()), sd.solvers.UniPC(), 3, n=8)
    assert [len(ids) for ids in drawn] == [8, 8, 32]
    assert len(set.union(*drawn)) == 48
    assert min(set.union(*drawn)) > 4_000_000_000


@pytest.mark.parametrize("solver", [sd.solvers.UniPC(), sd.solvers.Euler()], ids=str)
def test_no_level_cleaner_than_the_model_knows_is_asked_for(solver: Any) -> None:
    spy = Spy(sd.MIXTURES["grid25"]().denoiser(sd.VP()), max_log_snr=3.0)  # the modes take shape beyond it
    found = sd.tune_grid(spy, solver, 6, n=8)
    assert found.improved
    assert float(spy.sde.log_snr(found.times[-2])) < 3.0 + 1e-9
    if solver.grid == grids.LOGISTIC:  # Euler's own grid goes further
        assert spy.cleanest < 3.0 + 1e-5


def test_batches_bound_what_is_computed_at_once() -> None:
    spy = Spy(ring(sd.VP()))
    found = sd.tune_grid(spy, sd.solvers.UniPC(), 3, n=12, batch_size=8)
    assert spy.largest == 8
    assert found.evaluations == 8 * spy.calls  # the last of two batches is filled up
    whole = sd.tune_grid(ring(sd.VP()), sd.solvers.UniPC(), 3, n=12)
    torch.testing.assert_close(found.times, whole.times, rtol=1e-2, atol=1e-3)


def test_the_slopes_are_those_of_all_batches() -> None:
    denoiser = ring(sd.VP())
    x1 = sd.CounterNoise(0, torch.arange(12), (2,)).start()
    chart = tuning._Chart.of(denoiser.sde, 4, torch.inf)
    theta = chart.theta(grids.logistic(denoiser.sde, 4))
    found = []
    for batch_size in (5, 12):
        paths = tuning._Paths(denoiser, sd.solvers.UniPC(), x1, batch_size)
        found.append(tuning._normal_equations(paths, chart, theta, paths.residuals(chart.times(theta)), 1e-4))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)


def test_a_grid_is_found_again_from_its_free_numbers() -> None:
    chart = tuning._Chart.of(sd.VP(), 6, 15.0)
    times = grids.logistic(sd.VP(), 6, centre=0.3, max_log_snr=14.0)
    torch.testing.assert_close(chart.times(chart.theta(times)), times, rtol=1e-9, atol=1e-12)


def test_a_network_of_pictures_is_left_in_the_mode_it_was_in() -> None:
    net = sd.EpsNet(ExactEps(), sd.VP(), shape=(1, 2, 3))
    for training in (True, False):
        net.train(training)
        found = sd.tune_grid(net, sd.solvers.DDIM(), 4, n=8, batch_size=4)
        assert (net.training, net.module.training) == (training, training)
        assert found.held_out.after.median < 0.5 * found.held_out.before.median


def test_a_shape_that_the_denoiser_does_not_know_can_be_given() -> None:
    net = sd.EpsNet(ExactEps(), sd.VP())
    with pytest.raises(ValueError, match="give shape"):
        sd.tune_grid(net, sd.solvers.DDIM(), 3)
    assert sd.tune_grid(net, sd.solvers.DDIM(), 3, n=4, shape=(1, 2, 2)).improved


def test_progress_counts_evaluations() -> None:
    heard: list[tuple[int, int]] = []
    spy = Spy(ring(sd.VP()))
    sd.tune_grid(spy, sd.solvers.UniPC(), 4, n=8, on_evaluation=lambda done, expected: heard.append((done, expected)))
    assert [done for done, _ in heard] == list(range(1, spy.calls + 1))
    assert all(done <= expected for done, expected in heard)
    assert heard[-1][0] > 0.1 * heard[-1][1]


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "steps", "options", "hint"),
    [
        (sd.solvers.Ancestral(), 8, {}, "draws noise.*UniPC"),
        (sd.solvers.DDIM(eta=0.5), 8, {}, "draws noise.*eta=0"),
        (sd.solvers.RK45(), 8, {}, "chooses its own steps.*UniPC"),
        (sd.solvers.UniPC(), 1, {}, "nothing to fit; take 2 or more"),
        (sd.solvers.UniPC(), 0, {}, "steps = 0"),
        (sd.solvers.UniPC(), 4, {"n": 0}, "n = 0"),
        (sd.solvers.UniPC(), 4, {"batch_size": 0}, "batch_size = 0"),
        (sd.solvers.UniPC(), 4, {"start": [1.0, 0.5, 0.0]}, "start has 2 steps from 1 to 0; needs 4"),
        (sd.solvers.UniPC(), 2, {"start": [0.9, 0.5, 0.0]}, "from 0.9 to 0"),
        (sd.solvers.UniPC(), 2, {"start": [0.0, 0.5, 1.0]}, "times must decrease"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_words(solver: Any, steps: int, options: Any, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        sd.tune_grid(ring(sd.VP()), solver, steps, **options)


class Broken(sd.Wrapped):
    """Not finite with a scalar time, which is what solvers of fixed steps ask with."""

    def predict(self, x: Tensor, t: Level) -> Tensor:
        return self.inner.predict(x, t) * (1.0 if isinstance(t.t, Tensor) else torch.nan)


def test_values_that_are_finite_on_no_grid_are_an_error() -> None:
    with pytest.raises(sd.NumericalError, match="on no grid of 3 steps"):
        sd.tune_grid(Broken(ring(sd.VP())), sd.solvers.UniPC(), 3, n=4)
