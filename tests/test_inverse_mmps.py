"""MMPS: the posterior of a Gaussian, and one estimate by two ways."""

from __future__ import annotations

import torch
from guided_cases import (
    LAW,
    TALL,
    WIDE,
    exact_x0,
    problem,
)
from problems import mixture, normal

import scoresde as sd
from scoresde.inverse import MMPS, Problem, posterior_draws


def test_mmps_is_exact_with_a_noise_for_each_entry() -> None:
    std = torch.tensor([0.1, 0.5], dtype=torch.float64)
    measurement = sd.GaussianMeasurement(WIDE, std)
    given = Problem(LAW.denoiser(sd.VP()), measurement, normal(1, 2, seed=9), (4,))
    x = normal(3, 4, seed=8)
    torch.testing.assert_close(MMPS().denoiser(given).x0(x, 0.4), exact_x0(given, LAW, x, 0.4), rtol=1e-9, atol=1e-9)


def test_mmps_draws_the_posterior_of_a_gaussian() -> None:
    """KL of the Gaussian fitted to 4000 draws; 0.0018 of it is expected of 4000 exact ones."""
    given = problem(LAW, WIDE, sd.VP())
    x = posterior_draws(given.denoiser, given.measurement, given.y, n=4000, steps=150, seed=1).x
    posterior = LAW.posterior(given.measurement, given.y)
    fitted = sd.GaussianMixture([1.0], x.mean(0)[None], torch.cov(x.mT)[None])
    assert fitted.kl(posterior) < 0.005


def test_mmps_by_gmres_is_mmps_written_out() -> None:
    """On a mixture, where it is not exact, for 10 entries of y: twist() writes S out, the estimate solves by GMRES."""
    law = mixture(4, 3)
    given = problem(law, TALL, sd.VP())
    level = given.denoiser.sde.at(0.3)
    guided = MMPS(iterations=10, tolerance=1e-12).denoiser(given)
    x = normal(6, 4, seed=8)
    torch.testing.assert_close(guided.guided_x0(x, level), guided.twist(x, level).guided, rtol=1e-7, atol=1e-7)
