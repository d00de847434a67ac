"""PiGDM: with and without an SVD, with hardly any noise, and the scale of the data."""

from __future__ import annotations

import math

import pytest
import torch
from guided_cases import (
    ISOTROPIC,
    LAW,
    MASK,
    NOISE,
    TALL,
    WIDE,
    Y,
    exact_x0,
    problem,
)
from problems import mixture, normal

import scoresde as sd
from scoresde.inverse import Problem, TwistedSMC, posterior_draws
from scoresde.inverse.pigdm import PiGDM
from scoresde.linalg import Operator


@pytest.mark.parametrize("operator", [WIDE, TALL, MASK], ids=["wide", "tall", "mask"])
def test_pigdm_without_an_svd(operator: Operator) -> None:
    """A noise for each entry, all the same, leads to conjugate gradients."""
    law = mixture(4, 3)
    given = problem(law, operator, sd.VP())
    entries = given.y[0].numel()
    each = Problem(
        given.denoiser,
        sd.GaussianMeasurement(operator, torch.full((entries,), NOISE, dtype=torch.float64)),
        given.y,
        (4,),
    )
    x = normal(6, 4, seed=8)
    for t in (0.3, torch.linspace(0.1, 0.9, 6, dtype=torch.float64)):
        torch.testing.assert_close(
            PiGDM().denoiser(each).x0(x, t), PiGDM().denoiser(given).x0(x, t), rtol=1e-5, atol=1e-5
        )


def test_pigdm_takes_the_scale_of_the_data() -> None:
    given = problem(ISOTROPIC, WIDE, sd.VP())
    x = normal(3, 4, seed=8)
    told = PiGDM(data_std=math.sqrt(0.7)).denoiser(given).x0(x, 0.4)
    torch.testing.assert_close(told, PiGDM().denoiser(given).x0(x, 0.4))
    assert (PiGDM(data_std=3.0).denoiser(given).x0(x, 0.4) - told).abs().max() > 1e-2


def test_pigdm_with_hardly_any_noise() -> None:
    """What A does not see, but for rounding, is not divided by noise_std^2."""
    measurement = sd.GaussianMeasurement(WIDE, 1e-8)
    given = Problem(ISOTROPIC.denoiser(sd.VP()), measurement, measurement.simulate(ISOTROPIC.sample(1)), (4,))
    x = normal(6, 4, seed=8)
    exact = exact_x0(given, ISOTROPIC, x, 0.3)
    torch.testing.assert_close(PiGDM().denoiser(given).x0(x, 0.3), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("small", [0.0, 1e-3])
def test_pigdm_in_float32_does_not_magnify_rounding(small: float) -> None:
    """noise_std^2 is 1e-8 here, and what A hardly sees is divided by not much more."""
    u, v = torch.linalg.qr(normal(2, 2, seed=1)).Q, torch.linalg.qr(normal(4, 4, seed=2)).Q[:2]
    measurement = sd.GaussianMeasurement(
        sd.operators.Dense(u @ torch.diag(torch.tensor([1.0, small], dtype=torch.float64)) @ v), 1e-4
    )
    law = mixture(4, 3)
    y, x = measurement.simulate(law.sample(1)), normal(6, 4, seed=8)
    single = sd.GaussianMixture(law.weights, law.means, law.covariances, dtype=torch.float32)
    double, rounded = (
        PiGDM()
        .denoiser(Problem(prior.denoiser(sd.VP()), measurement, y.to(prior.dtype), (4,)))
        .x0(x.to(prior.dtype), 0.3)
        for prior in (law, single)
    )
    torch.testing.assert_close(rounded.double(), double, rtol=2e-3, atol=2e-3)


def test_particles_need_a_density_that_pigdm_has_by_the_svd_alone() -> None:
    measurement = sd.GaussianMeasurement(MASK, torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match="needs the SVD of A: noise_std is given for each entry of y"):
        posterior_draws(LAW.denoiser(sd.VP()), measurement, Y, method=TwistedSMC(twist=PiGDM()), n=4, steps=3)
