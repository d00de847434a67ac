"""MCGDiff against exact posteriors and evidences, and its steps against the densities that they are made of."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import PROCESSES, gaussian, mixture, normal
from torch import Tensor, nn

import scoresde as sd
from scoresde.inverse import Draws, Problem, posterior_draws
from scoresde.inverse.mcgdiff import MCGDiff, Observed, log_normal
from scoresde.sde import bridge, transition

A = normal(2, 3, seed=3)
MEASUREMENT = sd.GaussianMeasurement(sd.operators.Dense(A), 0.3)
LAW = mixture()
Y = MEASUREMENT.simulate(LAW.sample(1, seed=6), seed=5)[0]
SDE = sd.VP()


def log_evidence(law: sd.GaussianMixture, measurement: sd.GaussianMeasurement, y: Tensor) -> float:
    """log p(y), exactly."""
    a = measurement.dense(law.dim)
    std = torch.as_tensor(measurement.noise_std, dtype=torch.float64).expand(len(a))
    seen = sd.GaussianMixture(law.weights, law.means @ a.mT, a @ law.covariances @ a.mT + torch.diag(std**2))
    return seen.log_prob(y[None]).item()


def runs(
    law: sd.GaussianMixture,
    measurement: sd.GaussianMeasurement,
    y: Tensor,
    count: int,
    n: int,
    steps: int,
    sde: sd.LinearSDE = SDE,
) -> list[Draws]:
    denoiser = law.denoiser(sde)
    return [
        posterior_draws(denoiser, measurement, y, method=MCGDiff(), steps=steps, n=n, seed=seed)
        for seed in range(count)
    ]


def in_standard_errors(found: list[Draws], posterior: sd.GaussianMixture) -> Tensor:
    """Weighted means and mean squares, over independent runs, against the exact ones."""
    exact = torch.cat([posterior.mean(), posterior.covariance().diagonal() + posterior.mean().square()])
    rows = torch.stack([torch.cat([d.log_weights.exp() @ d.x, d.log_weights.exp() @ d.x.square()]) for d in found])
    return (rows.mean(0) - exact) / (rows.std(0) / math.sqrt(len(rows)))


def evidence_error(found: list[Draws], exact: float) -> tuple[float, float]:
    """log E[p^(y)] less log p(y), and its standard error.

    log p^ is nearly normal (Berard, Del Moral & Doucet 2014), so that log E[p^] is its mean and half its variance: the
    mean of p^ itself hangs on the few largest.
    """
    logs = torch.tensor([draws.log_evidence for draws in found], dtype=torch.float64)
    variance, n = logs.var().item(), len(logs)
    return logs.mean().item() + 0.5 * variance - exact, math.sqrt(variance / n + 0.5 * variance**2 / (n - 1))


# --- against exact laws --------------------------------------------------------------------------------


def test_the_draws_have_the_moments_of_a_mixtures_posterior() -> None:
    """A posterior of several components, in 2 observed coordinates with a tau each."""
    posterior = LAW.posterior(MEASUREMENT, Y)
    assert posterior.weights.max() < 0.6
    found = runs(LAW, MEASUREMENT, Y, 10, 200, 400)
    assert in_standard_errors(found, posterior).abs().max() < 4.0
    error, standard = evidence_error(found, log_evidence(LAW, MEASUREMENT, Y))
    assert abs(error) < 4.0 * standard
    assert standard < 0.25  # an estimate that says something


ROWS = torch.tensor([[1.0, -0.5], [2.0, 0.3], [0.4, 0.8]], dtype=torch.float64)
SETTINGS: dict[str, tuple[Tensor, float | Tensor]] = {
    "one of two": (ROWS[:1], 0.2),
    "both": (ROWS[:2], 0.2),
    "more than there are": (ROWS, 0.3),  # U does not span y
    "twice the same": (ROWS[:1].repeat(2, 1), 0.3),  # a singular value of 0
    "a noise for each": (ROWS[:2], torch.tensor([0.1, 0.6])),
    "hardly any noise": (ROWS[:1], 1e-4),  # below the last noise level
    "hardly any signal": (ROWS[:2] * torch.tensor([[1.0], [1e-3]]), 0.5),  # above the first
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_gaussian_prior(setting: str) -> None:
    """Moments and evidence."""
    law = gaussian()
    matrix, noise_std = SETTINGS[setting]
    measurement = sd.GaussianMeasurement(sd.operators.Dense(matrix), noise_std)
    y = measurement.simulate(law.sample(1, seed=2), seed=8)[0]
    found = runs(law, measurement, y, 10, 200, 100, sd.EDM(20.0))
    assert in_standard_errors(found, law.posterior(measurement, y)).abs().max() < 4.5
    error, standard = evidence_error(found, log_evidence(law, measurement, y))
    assert abs(error) < 4.0 * standard
    assert standard < 0.4  # an estimate that says something


@pytest.mark.parametrize("name", PROCESSES)
def test_every_process_will_do(name: str) -> None:
    law, measurement = gaussian(), sd.GaussianMeasurement(sd.operators.Dense(ROWS[:1]), 0.2)
    y = torch.tensor([1.1], dtype=torch.float64)
    (draws,) = runs(law, measurement, y, 1, 2000, 60, PROCESSES[name])
    exact, w = law.posterior(measurement, y), draws.log_weights.exp()
    std = exact.covariances[0].diagonal().sqrt()
    assert ((w @ draws.x - exact.means[0]) / std).abs().max() < 0.2
    assert abs(draws.log_evidence - log_evidence(law, measurement, y)) < 0.3


# --- the steps -----------------------------------------------------------------------------------------


def observed() -> Observed:
    return Observed(Problem(LAW.denoiser(SDE), MEASUREMENT, Y[None], (3,)), SDE.at(1.0))


def test_coordinates_go_there_and_back() -> None:
    seen, x = observed(), normal(5, 3)
    torch.testing.assert_close(seen.back(seen.coordinates(x)), x)


def taus() -> tuple[Tensor, Tensor, list[float]]:
    """d, y_i and tau_i from a decomposition of A of our own, the largest d first."""
    U, d, _ = torch.linalg.svd(A, full_matrices=False)
    times = SDE.time_of_log_snr(2.0 * torch.log(d / 0.3)).tolist()
    return d, (U.mT @ Y) / d, times


def test_a_lead_is_the_law_of_a_noised_observation() -> None:
    """g_t in numbers, above, between and below the two tau."""
    _, y, (first, second) = taus()
    seen = observed()
    x = normal(5, 3)
    z = seen.coordinates(x)
    V = torch.linalg.svd(A, full_matrices=False)[2]
    coordinates = x @ V.mT  # up to the sign of each, as y is
    for t, active in ((0.6, [0, 1]), (0.5 * (first + second), [0]), (0.5 * first, [])):
        expected = torch.zeros(5, dtype=torch.float64)
        for i in active:
            _, v = transition(SDE.at((first, second)[i]), SDE.at(t))
            alpha = SDE.at(t).alpha
            law = torch.distributions.Normal(coordinates[:, i] / alpha, math.sqrt(v) / alpha)
            expected += law.log_prob(y[i])
        torch.testing.assert_close(seen.log_lead(z, SDE.at(t)), expected, rtol=1e-8, atol=1e-8)


def test_a_step_draws_and_weighs_by_bayes_rule() -> None:
    """p(z_s | z_t) g_s(z_s) = weight times the law of the draw, at the draw, where both tau are below s."""
    seen, t, s = observed(), SDE.at(0.7), SDE.at(0.5)
    z, x0, eps = normal(6, 3, seed=1), normal(6, 3, seed=2), normal(6, 3, seed=3)
    new, log_w = seen.step(z, x0, t, s, eps)
    c_t, c_0, w = bridge(s, t)
    mean = c_t * z + c_0 * x0
    log_p = log_normal(new - mean, torch.full((3,), w, dtype=torch.float64))
    # the draw is affine in eps, so its density is that of eps over the product of the slopes
    slope = (seen.step(z, x0, t, s, eps + 1.0)[0] - new).log().sum(1)
    log_q = log_normal(eps, torch.ones(3, dtype=torch.float64)) - slope
    torch.testing.assert_close(log_p + seen.log_lead(new, s), log_w + log_q, rtol=1e-8, atol=1e-8)


def test_a_coordinate_that_passes_its_tau_is_put_there() -> None:
    """A step over a tau is one to it and one from it, with the same estimate of x0."""
    _, y, (first, second) = taus()
    seen, z, x0 = observed(), normal(6, 3, seed=1), normal(6, 3, seed=2)
    t, s, tau = SDE.at(second + 0.1), SDE.at(0.5 * (first + second)), SDE.at(second)
    new, log_w = seen.step(z, x0, t, s, torch.zeros_like(z))
    c_t, c_0, w = bridge(tau, t)
    # its own coordinate is the one that the noise moves by the bridge from tau
    moved = seen.step(z, x0, t, s, torch.ones_like(z))[0] - new
    c_y, c_x0, v = bridge(s, tau)
    at = int((moved - math.sqrt(v)).abs().sum(0).argmin())
    torch.testing.assert_close(moved[:, at], torch.full((6,), math.sqrt(v), dtype=torch.float64))
    sign = torch.sign(seen._y[at] / y[1])
    pinned = sign * y[1] * tau.alpha
    torch.testing.assert_close(new[:, at], c_y * pinned + c_x0 * x0[:, at])
    log_pin = log_normal((pinned - c_t * z - c_0 * x0)[:, at, None], torch.tensor([w]).double(), tau.alpha)
    (other,) = {int(i) for i in seen._index} - {at}
    ahead = s.alpha * seen._y[other] - (bridge(s, t)[0] * z + bridge(s, t)[1] * x0)[:, other, None]
    variance = bridge(s, t)[2] + transition(SDE.at(first), s)[1]
    log_ahead = log_normal(ahead, torch.tensor([variance]).double(), s.alpha)
    torch.testing.assert_close(log_w, log_pin + log_ahead, rtol=1e-7, atol=1e-7)


# --- the method ----------------------------------------------------------------------------------------


def test_diagnostics_tell_of_every_step() -> None:
    (draws,) = runs(LAW, MEASUREMENT, Y, 1, 200, 40)
    assert len(draws.diagnostics["ess"]) == 41
    assert 30 < draws.diagnostics["resamplings"] <= 40  # at every step by default
    assert torch.logsumexp(draws.log_weights, 0).item() == pytest.approx(0.0, abs=1e-12)


def test_the_network_may_see_a_few_particles_at_once() -> None:
    whole, parts = (
        posterior_draws(LAW.denoiser(SDE), MEASUREMENT, Y, method=MCGDiff(), steps=20, n=100, batch_size=size)
        for size in (None, 32)
    )
    torch.testing.assert_close(whole.x, parts.x, rtol=1e-6, atol=1e-8)


def test_more_particles_than_draws() -> None:
    draws = posterior_draws(LAW.denoiser(SDE), MEASUREMENT, Y, method=MCGDiff(particles=200), steps=20, n=10)
    assert draws.x.shape == (10, 3)
    assert draws.log_weights is None


class Half(nn.Module):
    """eps = x / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.factor * x


OPERATORS: dict[str, sd.operators.LinearOperator] = {
    "mask": sd.operators.Mask(torch.arange(64).reshape(8, 8) % 3 > 0),
    "blur": sd.operators.Convolution(torch.ones(3, 3) / 9),
    "identity": sd.operators.Identity(),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("process", ["vp", "rectified-flow"])
def test_pictures_in_single_precision(name: str, process: str) -> None:
    denoiser = sd.EpsNet(Half(), PROCESSES[process], shape=(2, 8, 8))
    measurement = sd.GaussianMeasurement(OPERATORS[name], 0.1)
    y = measurement.simulate(torch.rand(1, 2, 8, 8), 1)[0]
    ticks: list[int] = []
    draws = posterior_draws(denoiser, measurement, y, method=MCGDiff(), steps=9, n=3, on_step=lambda: ticks.append(1))
    assert draws.x.shape == (3, 2, 8, 8)
    assert draws.x.dtype == torch.float32
    assert bool(draws.x.isfinite().all())
    assert len(ticks) == 9


@pytest.mark.parametrize(
    ("choices", "message"),
    [({"particles": 0}, "particles = 0"), ({"threshold": -0.1}, "threshold = -0.1; it must lie in")],
)
def test_wrong_choices_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MCGDiff(**choices)


def test_problems_that_it_is_not_for_are_refused() -> None:
    denoiser = LAW.denoiser(SDE)
    with pytest.raises(ValueError, match="is not linear"):
        posterior_draws(denoiser, sd.GaussianMeasurement(sd.operators.Gamma(2.0), 0.1), torch.ones(3), method=MCGDiff())
    with pytest.raises(ValueError, match="interact: it takes one measurement at a time, not 3"):
        posterior_draws(denoiser, MEASUREMENT, Y.expand(3, -1), method=MCGDiff(), n=3)
