"""RePaint: the published steps in numbers, a law that it has exactly, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from guided_cases import (
    ISOTROPIC,
    LAW,
    MASK,
    MEASUREMENT,
    NOISE,
    WIDE,
    Y,
    problem,
)
from problems import mixture

import scoresde as sd
from scoresde.inverse import posterior_draws
from scoresde.inverse.repaint import RePaint
from scoresde.linalg import Operator
from scoresde.metrics import sliced_wasserstein


def test_repaint_takes_the_published_steps_when_there_is_no_noise() -> None:
    """Algorithm 1: the known entries are y, noised afresh; the others follow the ancestral kernel."""
    n, times = 4, [1.0, 0.6, 0.3, 0.0]
    kept = MASK.mask
    y = torch.tensor([0.4, -0.8], dtype=torch.float64)
    known = torch.tensor([0.4, 0.0, -0.8, 0.0], dtype=torch.float64)
    denoiser, sde = LAW.denoiser(sd.VP()), sd.VP()
    noise = sd.CounterNoise(3, torch.arange(n), (4,), torch.float64)
    x = noise.start() * sde.prior_std()
    # three steps, back up from 0, and the same again
    path = [(1.0, 0.6), (0.6, 0.3), (0.3, 0.0), None, (1.0, 0.6), (0.6, 0.3), (0.3, 0.0)]
    for k, step in enumerate(path):
        z = noise.at(k, 1.0, 0.0)()
        if step is None:
            x = sde.perturb(x, 1.0, z)
            continue
        t, s = step
        c_t, c_0, v = sde.bridge(s, t)
        unknown = c_t * x + c_0 * denoiser.x0(x, t) + v**0.5 * z
        x = torch.where(kept, sde.perturb(known.expand_as(z), s, z), unknown)
    measurement = sd.GaussianMeasurement(MASK, 1e-12)
    found = posterior_draws(denoiser, measurement, y, method=RePaint(2, 3), times=times, n=n, seed=3).x
    torch.testing.assert_close(found, x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(MASK(found), y.expand(n, 2), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize(
    "operator",
    [MASK, sd.operators.Hadamard([False, True, True, False]), sd.operators.Identity()],
    ids=["mask", "hadamard", "identity"],
)
@pytest.mark.parametrize("noise_std", [0.02, 0.8])
def test_repaint_is_right_on_an_isotropic_gaussian(operator: Operator, noise_std: float) -> None:
    """There u given x_t and y is exact, and x_s given u too: a Gibbs sampler that is at its law from the start."""
    measurement = sd.GaussianMeasurement(operator, noise_std)
    y = measurement.simulate(ISOTROPIC.sample(1, seed=5), seed=6)
    method = RePaint(resamplings=2, jump=5)
    x = posterior_draws(ISOTROPIC.denoiser(sd.VP()), measurement, y, method=method, n=1500, steps=80, seed=4).x
    posterior = ISOTROPIC.posterior(measurement, y)
    std = posterior.covariance().diagonal().sqrt()
    assert ((x.mean(0) - posterior.mean()) / (std / math.sqrt(len(x)))).abs().max() < 4.0
    assert ((x.var(0) / std**2 - 1.0) / math.sqrt(2.0 / len(x))).abs().max() < 4.5


def test_resampling_brings_the_unseen_nearer_to_what_the_seen_says() -> None:
    law = mixture(8, 3)
    measurement = sd.GaussianMeasurement(sd.operators.Mask([True, False, False, True] + 4 * [False]), NOISE)
    y = measurement.simulate(law.sample(1, seed=200), seed=300)
    exact = law.posterior(measurement, y).sample(800)
    distances = []
    for resamplings in (1, 10):
        x = posterior_draws(law.denoiser(sd.VP()), measurement, y, method=RePaint(resamplings, 10), n=800, steps=60).x
        distances.append(sliced_wasserstein(x, exact, p=1))
    assert distances[1] < 0.75 * distances[0], distances


@pytest.mark.parametrize(
    "operator", [WIDE, sd.operators.Mask([True, True, False, False]) * 2.0], ids=["dense", "scaled"]
)
def test_repaint_refuses_rows_that_are_not_orthonormal(operator: Operator) -> None:
    given = problem(LAW, operator, sd.VP())
    with pytest.raises(ValueError, match=r"A A' must be I.*take DDNM.*or MMPS"):
        posterior_draws(given.denoiser, given.measurement, given.y, method=RePaint(), steps=2)


def test_repaint_tells_of_its_progress_once_for_each_step() -> None:
    told: list[None] = []
    posterior_draws(
        LAW.denoiser(sd.VP()),
        MEASUREMENT,
        Y,
        method=RePaint(3, 4),
        steps=10,
        on_step=lambda: told.append(None),
    )
    assert len(told) == 10
