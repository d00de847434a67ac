"""Mixtures under linear measurements: the law of what is measured, and exact draws from the posterior."""

from __future__ import annotations

import pytest
import torch
from measurement_cases import FLOORED, LAW, OPERATORS, WIDE, N, above_floor
from problems import mixture
from torch import Tensor

import scoresde as sd
from scoresde.inverse import GaussianMeasurement, Problem, Run
from scoresde.inverse.mixture_posterior import MixturePosterior, pushforward
from scoresde.metrics import sliced_wasserstein
from scoresde.operators import Clip, Dense, FromFunctions


@pytest.mark.parametrize("name", OPERATORS)
def test_the_pushforward_is_the_law_of_what_is_measured(name: str) -> None:
    A = Dense(OPERATORS[name])
    law = pushforward(LAW, A)
    torch.testing.assert_close(law.mean(), A(LAW.mean()[None])[0])
    torch.testing.assert_close(law.covariance(), OPERATORS[name] @ LAW.covariance() @ OPERATORS[name].mT)
    assert sliced_wasserstein(law.sample(N), A(LAW.sample(N))) < 1e-9 + 2.0 * sliced_wasserstein(
        A(LAW.sample(N, seed=1)), A(LAW.sample(N))
    )
    with pytest.raises(ValueError, match="not linear"):
        pushforward(LAW, Clip(0.0, 1.0))


@pytest.mark.parametrize("name", OPERATORS)
def test_exact_draws_are_exact(name: str) -> None:
    A = Dense(OPERATORS[name])

    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        noise = torch.linspace(0.3, 0.9, len(OPERATORS[name]), dtype=torch.float64)
        measurement = GaussianMeasurement(A, noise)
        y = measurement.simulate(LAW.sample(1, seed=40 + seed), seed=seed)[0]
        method = MixturePosterior(LAW)
        return sd.restore(LAW.denoiser(sd.VP()), measurement, y, method=method, n=N, seed=seed), LAW.posterior(
            measurement, y
        )

    assert above_floor(draw) < FLOORED


def test_an_exact_draw_for_each_measurement() -> None:
    measurement = GaussianMeasurement(Dense(WIDE), 0.5)
    ratios = []
    for seed in range(4):
        x = LAW.sample(2 * N, seed=seed)
        y = measurement.simulate(x, seed=seed)
        drawn = sd.restore(LAW.denoiser(sd.VP()), measurement, y[:N], method=MixturePosterior(LAW), n=N, seed=seed)
        one, other, found = (torch.cat(pair, 1) for pair in ((x[N:], y[N:]), (x[:N], y[:N]), (drawn, y[:N])))
        ratios.append(sliced_wasserstein(found, one) / sliced_wasserstein(other, one))
    assert sum(ratios) / 4 < FLOORED
    again = sd.restore(LAW.denoiser(sd.VP()), measurement, y[:2], method=MixturePosterior(LAW), n=2, seed=seed)
    torch.testing.assert_close(again, drawn[:2])


def test_a_vector_law_of_a_picture() -> None:
    """A prior of flat vectors, samples of another shape, and an operator that takes that shape."""
    mask = torch.tensor([[True, False], [True, True]])
    law = mixture(4)
    operator = FromFunctions(lambda x: x.flatten(1)[:, mask.flatten()], shape=(2, 2))
    measurement = GaussianMeasurement(operator, 0.01)
    y = operator(law.sample(1, seed=3).reshape(1, 2, 2))[0]
    prior = law.denoiser(sd.VP())
    draws = MixturePosterior(law).draw(Problem(prior, measurement, y[None], (2, 2)), Run(torch.arange(5)))
    assert draws.x.shape == (5, 2, 2)
    torch.testing.assert_close(operator(draws.x), y.expand(5, 3), rtol=0, atol=0.06)
