"""The measurement as an SDE: its mean and score exactly, and its draws at the floor."""

from __future__ import annotations

import math

import pytest
import torch
from measurement_cases import FLOORED, LAW, OPERATORS, N, Told, above_floor, measured
from problems import BETAS, normal
from torch import Tensor

import scoresde as sd
from scoresde.denoisers import LogSNR
from scoresde.inverse import GaussianMeasurement, TwistedSMC
from scoresde.inverse.measurement_path import Brownian, MeasurementPath
from scoresde.inverse.measurement_sde import MeasurementSDE
from scoresde.inverse.mixture_posterior import pushforward
from scoresde.metrics import sliced_wasserstein
from scoresde.operators import Dense, Identity

# --- the process ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_std", [1e-3, 0.3, 20.0])
def test_brownian_motion_spreads_at_a_constant_rate(noise_std: float) -> None:
    sde = Brownian(noise_std)
    t = torch.tensor([0.0, 1e-6, 0.3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(sde.time_of_log_snr(sde.log_snr(t)), t, rtol=1e-12, atol=0)
    a, v = sde.transition(0.2, 0.7)
    assert (a, v) == (1.0, pytest.approx(0.5 * noise_std**2))
    assert (sde.at(0.4).f, sde.diffusion(0.4)) == (0.0, pytest.approx(noise_std))


@pytest.mark.parametrize("noise_std", [0.0, -1.0, math.inf, math.nan])
def test_a_noise_that_is_none_is_refused(noise_std: float) -> None:
    with pytest.raises(ValueError, match=r"noise_std = .*positive and finite"):
        MeasurementPath(LAW.denoiser(sd.VP()), noise_std)


# --- mean and score ------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_std", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("t", [1e-4, 0.3, 1.0])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_mean_is_the_exact_posterior_mean(name: str, t: float, noise_std: float) -> None:
    A = Dense(OPERATORS[name])
    path = MeasurementPath(pushforward(LAW, A).denoiser(sd.VP()), noise_std)
    measurement = GaussianMeasurement(A, noise_std * t**0.5)
    y = measurement.simulate(LAW.sample(4, seed=1), seed=2)
    exact = torch.stack([A(LAW.posterior(measurement, one).mean()[None])[0] for one in y])
    torch.testing.assert_close(path.mean(y, t), exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sde", [sd.VP(), sd.VP.from_betas(BETAS), sd.EDM(20.0), sd.RectifiedFlow()], ids=str)
@pytest.mark.parametrize("noise_std", [0.05, 0.5, 3.0])
def test_any_denoiser_of_x_is_one_of_the_measurement_where_nothing_is_in_between(
    sde: sd.LinearSDE, noise_std: float
) -> None:
    measurement, y = measured(Identity(), noise_std)
    found = MeasurementPath(LAW.denoiser(sde), noise_std).mean(y)
    torch.testing.assert_close(found[0], LAW.posterior(measurement, y).mean(), rtol=1e-8, atol=1e-8)


def test_a_network_of_a_vp_process_is_asked_as_theory_says() -> None:
    """E[X | Y_t = y] = xhat0(sqrt(abar) y, tau) with abar(tau) = 1 / (1 + noise_std^2 t)."""
    module = torch.nn.Linear(3, 3).double()
    net = sd.EpsNet(Told(module), sd.VP(), condition=LogSNR(), shape=(3,))
    y, noise_std, t = normal(5, 3), 0.4, 0.3
    alpha_bar = 1.0 / (1.0 + noise_std**2 * t)
    tau = sd.VP().time_of_log_snr(math.log(alpha_bar / (1.0 - alpha_bar))).item()
    expected = net.x0(alpha_bar**0.5 * y, tau)
    torch.testing.assert_close(MeasurementPath(net, noise_std).mean(y, t), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_score_obeys_tweedie(name: str) -> None:
    """grad log q_t(y) = (E[A(X) | Y_t = y] - y) / (noise_std^2 t), and is that of the noised law of A(X)."""
    A, noise_std, t = Dense(OPERATORS[name]), 0.6, 0.35
    law = pushforward(LAW, A)
    path = MeasurementPath(law.denoiser(sd.VP()), noise_std)
    y = GaussianMeasurement(A, noise_std).simulate(LAW.sample(5, seed=1))
    exact = law.diffuse(Brownian(noise_std), t).score(y)
    torch.testing.assert_close(path.score(y, t), exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close((path.mean(y, t) - y) / (noise_std**2 * t), exact, rtol=1e-9, atol=1e-9)


def test_at_t_0_nothing_is_left_to_do() -> None:
    path = MeasurementPath(LAW.denoiser(sd.VP()), 0.5)
    y = normal(4, 3)
    torch.testing.assert_close(path.mean(y, 0.0), y)
    torch.testing.assert_close(path.score(y, 0.0), LAW.score(y), rtol=1e-9, atol=1e-9)


# --- the way back --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise_std", "steps"), [(0.1, 50), (0.5, 20), (0.5, 50), (2.0, 50)])
def test_draws_are_at_the_floor(noise_std: float, steps: int) -> None:
    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        measurement, y = measured(Identity(), noise_std, seed)
        x = MeasurementPath(LAW.denoiser(sd.VP()), noise_std).sample(y, steps=steps, n=N, seed=seed)
        return x, LAW.posterior(measurement, y)

    assert above_floor(draw) < FLOORED


def test_only_the_time_reversal_draws_given_one_y() -> None:
    """A sampler with less noise has the right marginals, and the wrong law given y."""

    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        measurement, y = measured(Identity(), 0.5, seed)
        path = MeasurementPath(LAW.denoiser(sd.VP()), 0.5)
        x = sd.sample(path.reversed, sd.solvers.ERSDE(), steps=50, x1=y.expand(N, -1))
        return x, LAW.posterior(measurement, y)

    assert above_floor(draw, seeds=2) > 5.0


def bridged(posterior: sd.GaussianMixture, y: Tensor, s: float, noise_std: float) -> sd.GaussianMixture:
    """The law of Y_s given Y_1 = y: a Brownian bridge from a draw of the posterior to y."""
    return sd.GaussianMixture(
        posterior.weights,
        (1.0 - s) * posterior.means + s * y,
        (1.0 - s) ** 2 * posterior.covariances + s * (1.0 - s) * noise_std**2 * torch.eye(len(y)),
    )


@pytest.mark.parametrize("s", [0.05, 0.5])
def test_the_dial_has_the_law_of_the_bridge_on_its_way(s: float) -> None:
    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        measurement, y = measured(Identity(), 0.7, seed)
        z = MeasurementPath(LAW.denoiser(sd.VP()), 0.7).dial(y, s, n=N, seed=seed)
        return z, bridged(LAW.posterior(measurement, y), y, s, 0.7)

    assert above_floor(draw) < FLOORED


@pytest.mark.parametrize("s", [0.05, 0.5])
def test_turning_the_dial_twice_is_turning_it_once(s: float) -> None:
    """With the same seed too: the noise of the second turn is its own."""

    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        measurement, y = measured(Identity(), 0.7, seed)
        path = MeasurementPath(LAW.denoiser(sd.VP()), 0.7)
        x = path.dial(path.dial(y, s, n=N, seed=seed), 0.0, s, seed=seed)
        return x, LAW.posterior(measurement, y)

    assert above_floor(draw) < FLOORED


def test_a_draw_for_each_measurement_has_the_law_of_the_pair() -> None:
    """(x, y) and (a draw given y, y) are alike, jointly."""
    noise_std = 0.8
    x = LAW.sample(2 * N, seed=3)
    y = GaussianMeasurement(Identity(), noise_std).simulate(x, seed=4)
    drawn = MeasurementPath(LAW.denoiser(sd.VP()), noise_std).sample(y[:N], seed=5)
    one, other, found = (torch.cat(pair, 1) for pair in ((x[N:], y[N:]), (x[:N], y[:N]), (drawn, y[:N])))
    assert sliced_wasserstein(found, one) < 1.2 * sliced_wasserstein(other, one)


def test_a_sample_is_a_function_of_its_number() -> None:
    path = MeasurementPath(LAW.denoiser(sd.VP()), 0.5)
    y = normal(3, seed=1)
    whole = path.sample(y, steps=10, n=12, seed=7)
    torch.testing.assert_close(path.sample(y, steps=10, ids=[11, 2], seed=7), whole[[11, 2]], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path.sample(y, steps=10, n=12, seed=7, batch_size=5), whole, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(path.sample(y, steps=10, n=12, seed=8), whole)


def test_a_stop_next_to_a_grid_time_is_no_trouble() -> None:
    path = MeasurementPath(LAW.denoiser(sd.VP()), 0.5)
    t = path.times(steps=20)[7].item()
    y = normal(3, seed=1)
    stops = [path.dial(y, s, steps=20, n=4) for s in (t * (1 - 1e-13), t, t * (1 + 1e-13))]
    for stop in stops[::2]:
        torch.testing.assert_close(stop, stops[1], rtol=1e-6, atol=1e-6)


# --- mistakes ------------------------------------------------------------------------------------------


def test_users_mistakes_on_a_path() -> None:
    path = MeasurementPath(LAW.denoiser(sd.VP()), 0.1)
    y = torch.zeros(2, 3, dtype=torch.float64)
    for to, since in ((0.5, 0.5), (0.5, 0.2), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="the dial goes down"):
            path.dial(y, to, since)
    with pytest.raises(ValueError, match="2 measurements, for 3 draws"):
        path.sample(y, n=3)
    with pytest.raises(ValueError, match=r"takes \(B, \*\) with \(3,\)"):
        path.mean(torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="interact"):
        MeasurementSDE(fill=TwistedSMC())


def test_a_network_is_not_asked_to_remove_noise_that_it_does_not_know() -> None:
    net = sd.EpsNet(Told(torch.nn.Linear(3, 3).double()), sd.VP(), condition=LogSNR(high=4.0), shape=(3,))
    with pytest.raises(ValueError, match=r"below the cleanest level that the denoiser knows, 0.135"):
        MeasurementPath(net, 0.1).sample(torch.zeros(3))
    x = MeasurementPath(net, 0.2).sample(torch.zeros(3), steps=9)  # no warning of a level off its range
    assert x.isfinite().all()
