"""Restoring by the measurement as an SDE, and the lift from A(X) to X."""

from __future__ import annotations

import math

import pytest
import torch
from measurement_cases import FLOORED, LAW, OPERATORS, TALL, WIDE, N, Told, above_floor, measured
from problems import gaussian, normal
from torch import Tensor

import scoresde as sd
from scoresde.denoisers import LogSNR
from scoresde.inverse import MMPS, GaussianMeasurement, Method, Problem, Run, posterior_draws
from scoresde.inverse.measurement_path import MeasurementPath
from scoresde.inverse.measurement_sde import MeasurementSDE, lift
from scoresde.inverse.mixture_posterior import MixturePosterior, pushforward
from scoresde.operators import Clip, Dense, Identity, Mask


def test_restore_denoises_without_being_told_more() -> None:
    measurement, y = measured(Identity(), 0.5)
    x = sd.restore(LAW.denoiser(sd.VP()), measurement, y, method=MeasurementSDE(), steps=30, n=8, seed=3)
    assert torch.equal(x, MeasurementPath(LAW.denoiser(sd.VP()), 0.5).sample(y, steps=30, n=8, seed=3))


def test_what_turns_and_scales_x_is_denoising_too() -> None:
    """y = 2 Q x + noise says of x what Q' y / 2 = x + noise / 2 does; a tensor of one noise_std is a number."""
    turn = torch.linalg.qr(normal(3, 3, seed=8)).Q
    y, prior = normal(3, seed=9), LAW.denoiser(sd.VP())
    noise = torch.full((3,), 0.8, dtype=torch.float64)
    turned = sd.restore(prior, GaussianMeasurement(Dense(2.0 * turn), noise), y, method=MeasurementSDE(), n=5)
    plain = sd.restore(prior, GaussianMeasurement(Identity(), 0.4), y @ turn / 2.0, method=MeasurementSDE(), n=5)
    torch.testing.assert_close(turned, plain)
    everything = GaussianMeasurement(Mask(torch.ones(3, dtype=torch.bool)), 0.4)
    masked = sd.restore(prior, everything, y @ turn / 2.0, method=MeasurementSDE(), n=5)
    torch.testing.assert_close(masked, plain)


@pytest.mark.parametrize("name", OPERATORS)
def test_of_a_mixture_it_is_exact_for_every_linear_operator(name: str) -> None:
    A = Dense(OPERATORS[name])

    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        measurement, y = measured(A, 0.5, seed)
        method = MeasurementSDE.of_mixture(LAW, A)
        return sd.restore(LAW.denoiser(sd.VP()), measurement, y, method=method, n=N, seed=seed), LAW.posterior(
            measurement, y
        )

    assert above_floor(draw) < FLOORED


def test_a_denoiser_of_what_an_injective_operator_gives_is_all_it_takes() -> None:
    A, noise_std = Dense(TALL), 0.5
    measurement, y = measured(A, noise_std)
    denoiser = pushforward(LAW, A).denoiser(sd.EDM(50.0))
    draws = posterior_draws(LAW.denoiser(sd.VP()), measurement, y, method=MeasurementSDE(denoiser), n=N)
    posterior = LAW.posterior(measurement, y)
    errors = (draws.x.mean(0) - posterior.mean()) / (draws.x.std(0) / math.sqrt(N))
    assert errors.abs().max() < 4.0
    torch.testing.assert_close(draws.x @ TALL.mT @ torch.linalg.pinv(TALL).mT, draws.x)


class _Double(sd.operators.Operator):
    def __call__(self, x: Tensor) -> Tensor:
        return 2.0 * x


class _Half(Method):
    def draw(self, problem: Problem, run: Run) -> sd.inverse.Draws:
        return sd.inverse.Draws(problem.y / 2.0)


def test_any_operator_will_do_with_a_denoiser_of_its_own_and_a_fill() -> None:
    """A non-linear A that is undone exactly: x -> 2 x as a user's function that says nothing of its adjoint."""
    double = _Double()
    measurement = GaussianMeasurement(double, 0.6)
    y = measurement.simulate(LAW.sample(1, seed=2))[0]
    method = MeasurementSDE(pushforward(LAW, 2.0 * Identity()).denoiser(sd.VP()), fill=_Half())
    x = sd.restore(LAW.denoiser(sd.VP()), measurement, y, method=method, n=N)
    exact = LAW.posterior(GaussianMeasurement(Identity(), 0.3), y / 2.0)
    assert ((x.mean(0) - exact.mean()) / (x.std(0) / math.sqrt(N))).abs().max() < 4.0


def test_pictures_in_single_precision() -> None:
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    prior = sd.NetDenoiser(Told(net), sd.VP(), sd.PredictsV(), condition=LogSNR(), shape=(1, 8, 8))
    y = normal(1, 8, 8, dtype=torch.float32)
    ticks: list[int] = []
    x = sd.restore(
        prior,
        GaussianMeasurement(Identity(), 0.1),
        y,
        method=MeasurementSDE(),
        steps=7,
        n=3,
        on_step=lambda: ticks.append(1),
    )
    assert x.shape == (3, 1, 8, 8)
    assert x.dtype == torch.float32
    assert len(ticks) == 7
    assert 0 < (x - y).std() < 0.4


@pytest.mark.parametrize(
    ("measurement", "method", "choices", "message"),
    [
        (GaussianMeasurement(Dense(WIDE), 0.1), MeasurementSDE(), {}, r"not the identity.*give denoiser=.*MMPS"),
        (GaussianMeasurement(0.5 * Identity() + Dense(torch.eye(3).flip(0)), 0.1), MeasurementSDE(), {}, "not the ide"),
        (GaussianMeasurement(Clip(-9.0, 9.0), 0.1), MeasurementSDE(), {}, "not the identity"),
        (GaussianMeasurement(Identity(), torch.tensor([0.1, 0.2, 0.1])), MeasurementSDE(), {}, "from 0.1 to 0.2 over"),
        (
            GaussianMeasurement(Dense(WIDE), 0.1),
            MeasurementSDE(pushforward(LAW, Dense(WIDE)).denoiser(sd.VP())),
            {},
            r"leaves 1 of 3 directions of x unseen; give fill=",
        ),
        (GaussianMeasurement(Dense(WIDE), 0.1), MeasurementSDE(LAW.denoiser(sd.VP())), {}, r"denoiser of A\(X\) takes"),
        (GaussianMeasurement(Identity(), 0.1), MeasurementSDE(), {"times": [0.9, 0.1, 0.0]}, "from 0.9 to 0; y is"),
        (GaussianMeasurement(Identity(), 0.1), MeasurementSDE(), {"times": [1.0, 0.1]}, "from 1 to 0.1; y is"),
        (GaussianMeasurement(Identity(), 0.1), MeasurementSDE(), {"solver": sd.solvers.UniPC()}, "its own steps"),
    ],
    ids=str,
)
def test_what_it_is_not_for_is_refused(
    measurement: GaussianMeasurement, method: Method, choices: dict[str, object], message: str
) -> None:
    y = measurement.operator(torch.ones(1, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=message):
        sd.restore(LAW.denoiser(sd.VP()), measurement, y, method=method, n=2, **choices)


def test_the_posterior_mean_of_what_is_measured_lifts_to_that_of_x() -> None:
    measurement, y = measured(Dense(TALL), 0.5)
    path = MeasurementPath(pushforward(LAW, Dense(TALL)).denoiser(sd.VP()), 0.5)
    problem = Problem(LAW.denoiser(sd.VP()), measurement, path.mean(y), (3,))
    found = lift(problem, Run(torch.arange(1)))
    torch.testing.assert_close(found[0], LAW.posterior(measurement, y).mean(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("fill", [MixturePosterior(gaussian()), MMPS()], ids=["exact", "MMPS"])
def test_the_unseen_is_filled_from_the_prior(fill: Method) -> None:
    """On one Gaussian, where MMPS is exact too: mean and spread of x given A x = v, and A x = v itself."""
    law, A = gaussian(), Dense([[1.0, 0.5]])
    v = torch.tensor([[0.8]], dtype=torch.float64)
    problem = Problem(law.denoiser(sd.EDM(20.0)), GaussianMeasurement(A, 0.1), v, (2,))
    with torch.no_grad():
        x = lift(problem, Run(torch.arange(N), steps=40), fill)
    exact = law.posterior(GaussianMeasurement(A, 1e-6), v[0])
    torch.testing.assert_close(A(x), v.expand(N, 1), rtol=0, atol=1e-3)
    errors = (x.mean(0) - exact.mean()) / (x.std(0) / math.sqrt(N))
    assert errors.abs().max() < 4.0
    variance = exact.covariance().diagonal()
    assert ((x.var(0) / variance - 1.0) * math.sqrt(N / 2.0)).abs().max() < 4.0
