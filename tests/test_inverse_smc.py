"""Twisted SMC against exact posteriors and evidences, its parts, and the mixture benchmark that it is for."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from problems import gaussian, mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde.inverse import MMPS, TwistedSMC, posterior_draws
from scoresde.inverse.drawing import equally_weighted
from scoresde.inverse.problem import Draws
from scoresde.inverse.resampling import Population, effective_number, systematic

A = normal(2, 3, seed=3)
MEASUREMENT = sd.GaussianMeasurement(sd.operators.Dense(A), 0.3)
LAW = mixture()
Y = MEASUREMENT.simulate(LAW.sample(1, seed=4), seed=5)[0]
SDE = sd.EDM(30.0)


def log_evidence(law: sd.GaussianMixture, measurement: sd.GaussianMeasurement, y: Tensor) -> float:
    """log p(y), exactly."""
    a = measurement.dense(law.dim)
    noise = measurement.noise_std**2 * torch.eye(len(a), dtype=torch.float64)
    seen = sd.GaussianMixture(law.weights, law.means @ a.mT, a @ law.covariances @ a.mT + noise)
    return seen.log_prob(y[None]).item()


def runs(count: int, n: int, steps: int, method: TwistedSMC | None = None) -> list[Draws]:
    method = TwistedSMC(start=LAW.gaussian()) if method is None else method
    denoiser = LAW.denoiser(SDE)
    return [
        posterior_draws(denoiser, MEASUREMENT, Y, method=method, steps=steps, n=n, seed=seed) for seed in range(count)
    ]


def weighted_moments(draws: Draws) -> Tensor:
    """Mean and mean square, (2 D,)."""
    w = draws.log_weights.exp()
    return torch.cat([w @ draws.x, w @ draws.x.square()])


def test_the_draws_have_the_moments_of_the_posterior() -> None:
    posterior = LAW.posterior(MEASUREMENT, Y)
    exact = torch.cat([posterior.mean(), posterior.covariance().diagonal() + posterior.mean().square()])
    found = torch.stack([weighted_moments(draws) for draws in runs(12, 200, 150)])
    errors = (found.mean(0) - exact) / (found.std(0) / math.sqrt(len(found)))
    assert errors.abs().max() < 4.0, errors


def test_the_estimate_of_the_evidence_is_unbiased() -> None:
    ratios = (
        torch.tensor([draws.log_evidence for draws in runs(16, 60, 300)]).sub(log_evidence(LAW, MEASUREMENT, Y)).exp()
    )
    assert abs(ratios.mean() - 1.0) < 4.0 * ratios.std() / math.sqrt(len(ratios))
    assert ratios.std() < 0.3  # an estimate that says something


def test_a_gaussian_prior_needs_no_weights() -> None:
    """MMPS is exact there: particles are worth nearly as many independent ones, and the evidence is exact."""
    law = gaussian()
    measurement = sd.GaussianMeasurement(sd.operators.Dense([[1.0, -0.5]]), 0.2)
    y = measurement.simulate(law.sample(1))[0]
    draws = posterior_draws(
        law.denoiser(sd.EDM(10.0)), measurement, y, method=TwistedSMC(start=law.gaussian()), steps=200, n=500
    )
    assert draws.diagnostics["resamplings"] == 0
    assert min(draws.diagnostics["ess"]) > 0.9 * 500
    assert abs(draws.log_evidence - log_evidence(law, measurement, y)) < 0.02


def test_a_tiny_noise_is_no_trouble() -> None:
    """The last kernel meets the likelihood exactly, so the measured direction is pinned and the weights live."""
    measurement = sd.GaussianMeasurement(sd.operators.Dense(A), 1e-6)
    y = measurement.simulate(LAW.sample(1, seed=4))[0]
    draws = posterior_draws(LAW.denoiser(SDE), measurement, y, method=TwistedSMC(start=LAW.gaussian()), steps=60, n=300)
    assert measurement.chi_square(draws.x, y).mean() == pytest.approx(1.0, abs=0.3)
    assert min(draws.diagnostics["ess"]) > 30


def test_diagnostics_tell_of_every_step() -> None:
    draws = runs(1, 300, 40)[0]
    assert len(draws.diagnostics["ess"]) == 41
    assert all(1.0 <= ess <= 300.0 + 1e-9 for ess in draws.diagnostics["ess"])
    assert 1 < draws.diagnostics["ancestors"] <= 300
    assert torch.logsumexp(draws.log_weights, 0).item() == pytest.approx(0.0, abs=1e-12)


def test_the_network_may_see_a_few_particles_at_once() -> None:
    denoiser = LAW.denoiser(SDE)
    method = TwistedSMC()
    whole, parts = (
        posterior_draws(denoiser, MEASUREMENT, Y, method=method, steps=20, n=100, batch_size=size)
        for size in (None, 32)
    )
    torch.testing.assert_close(whole.x, parts.x, rtol=1e-6, atol=1e-8)


def test_more_particles_than_draws() -> None:
    draws = posterior_draws(LAW.denoiser(SDE), MEASUREMENT, Y, method=TwistedSMC(particles=200), steps=20, n=10)
    assert draws.x.shape == (10, 3)
    assert draws.log_weights is None
    assert len(draws.diagnostics["ess"]) == 21


def test_long_measurements_are_refused_before_anything_is_computed() -> None:
    law = sd.GaussianMixture([1.0], torch.zeros(1, 70, dtype=torch.float64), [1.0])
    measurement = sd.GaussianMeasurement(sd.operators.Identity(), 0.1)
    with pytest.raises(ValueError, match=r"y has 70 entries.*take twist=PiGDM\(\)"):
        sd.restore(law.denoiser(sd.VP()), measurement, torch.zeros(70), method=TwistedSMC(), n=4)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"particles": 0}, "particles = 0"),
        ({"threshold": 1.5}, "threshold = 1.5"),
        ({"start": mixture()}, r"start has 4 components; give one Gaussian, such as law.gaussian\(\)"),
    ],
)
def test_wrong_choices_are_refused(choices: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TwistedSMC(**choices)


def test_one_measurement_at_a_time() -> None:
    with pytest.raises(ValueError, match="interact: it takes one measurement at a time, not 3"):
        sd.restore(LAW.denoiser(SDE), MEASUREMENT, Y.expand(3, -1), method=TwistedSMC(), n=3)


# --- weights and resampling ----------------------------------------------------------------------------


def test_systematic_resampling_rounds_each_weight_up_or_down() -> None:
    log_w = 2.0 * normal(50)
    expected = 80 * torch.softmax(log_w, 0)
    for u in (1e-9, 0.3, 1 - 1e-9):
        index = systematic(log_w, u, 80)
        counts = torch.bincount(index, minlength=50).double()
        assert bool(((counts - expected).abs() < 1.0).all())
        assert bool((index.diff() >= 0).all())


def test_systematic_resampling_is_unbiased() -> None:
    log_w = 2.0 * normal(7)
    us = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    counts = sum(torch.bincount(systematic(log_w, u, 7), minlength=7).double() for u in us.tolist()) / len(us)
    torch.testing.assert_close(counts, 7 * torch.softmax(log_w, 0), rtol=0, atol=2e-3)


def test_equal_weights_keep_every_particle() -> None:
    assert systematic(torch.zeros(9), 0.5).tolist() == list(range(9))
    assert effective_number(torch.full((9,), -800.0).double()) == pytest.approx(9.0)
    assert effective_number(torch.tensor([0.0, -1e4, -1e4])) == pytest.approx(1.0)


def test_a_population_accounts_for_what_it_threw_away() -> None:
    """The product of mean weights goes on over a resampling."""
    population = Population(4, threshold=1.0, seed=0)
    population.weigh(torch.log(torch.tensor([1.0, 2.0, 3.0, 6.0])))
    assert population.log_evidence() == pytest.approx(math.log(3.0))
    assert population.resample() is not None
    population.weigh(torch.full((4,), math.log(5.0)))
    assert population.log_evidence() == pytest.approx(math.log(15.0))
    assert population.resample() is None


def test_weighted_draws_become_equal_ones() -> None:
    draws = Draws(torch.arange(5.0)[:, None], torch.log_softmax(torch.tensor([0.0, -99.0, 0.0, -99.0, -99.0]), 0))
    assert set(equally_weighted(draws).flatten().tolist()) == {0.0, 2.0}
    assert len(equally_weighted(draws, n=8)) == 8


# --- the mixture benchmark -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).resolve().parents[1] / "examples" / "mixture_posteriors.py"
    spec = importlib.util.spec_from_file_location("mixture_posteriors", path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_reduced_coordinates_give_the_full_posterior(benchmark) -> None:
    """Mode weights and evidence are the same numbers in d = 80 and in the 5 coordinates that stand for them."""
    full, reduced = (benchmark.case(80, 2, 1, reduced=flag) for flag in (False, True))
    assert reduced.prior.dim == 5
    torch.testing.assert_close(full.y, reduced.y)
    torch.testing.assert_close(full.posterior.weights, reduced.posterior.weights, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(full.posterior.means @ reduced.basis, reduced.posterior.means[:, :-1])
    x, y = full.posterior.sample(2000, 1), full.posterior.sample(2000, 2)
    u, v = reduced.posterior.sample(2000, 3), reduced.posterior.sample(2000, 4)
    floors = [benchmark.distance(full, x, y), benchmark.distance(reduced, u, v), benchmark.distance(reduced, v, u)]
    assert max(floors) < 4 * min(floors)


@pytest.mark.parametrize("d", [8, pytest.param(80, marks=pytest.mark.slow)])
def test_reduced_coordinates_give_the_full_sampler(benchmark, d: int) -> None:
    """The guided estimate in d dimensions is the one in reduced coordinates."""
    full, reduced = (benchmark.case(d, 2, 1, reduced=flag) for flag in (False, True))
    x = 5.0 * normal(6, d)
    u = torch.cat([x @ reduced.basis, torch.zeros(6, 1, dtype=torch.float64)], 1)
    answers = []
    for case, point in ((full, x), (reduced, u)):
        problem = sd.inverse.Problem(case.prior.denoiser(case.sde), case.measurement, case.y[None], (case.prior.dim,))
        answers.append(MMPS().denoiser(problem).twist(point, case.sde.at(0.01)))
    full_x, rest = answers[0].guided, 5.0 * normal(6, d) - 5.0 * normal(6, d) @ reduced.basis @ reduced.basis.mT
    torch.testing.assert_close(full_x @ reduced.basis, answers[1].guided[:, :-1])
    # the other coordinates are N(0, 1) by themselves
    shrunk = (full_x - full_x @ reduced.basis @ reduced.basis.mT) / rest
    torch.testing.assert_close(shrunk, shrunk[:1, :1].expand_as(shrunk))
    torch.testing.assert_close(answers[0].log_prob, answers[1].log_prob)
    torch.testing.assert_close(answers[0].variance, answers[1].variance)


CELLS = [(d, dy) for d in (8, 80, 800) for dy in (1, 2, 4)]


@pytest.mark.parametrize(
    ("d", "dy"), [cell if cell == (80, 2) else pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS]
)
def test_twisted_smc_is_within_twice_the_floor(benchmark, d: int, dy: int, capsys: pytest.CaptureFixture) -> None:
    problems = 20 if (d, dy) != (80, 2) else 8
    rows = {row["method"]: row for row in benchmark.study(("floor", "twisted-smc"), [d], [dy], problems)}
    assert rows["twisted-smc"]["distance"] < 2.0 * rows["floor"]["distance"]
