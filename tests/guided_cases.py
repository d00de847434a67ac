"""What the tests of guided methods share: laws with exact answers, problems, and one of each method."""

from __future__ import annotations

import pytest
import torch
from problems import normal
from torch import Tensor

import scoresde as sd
from scoresde.inverse import MMPS, Guided, Method, Problem
from scoresde.inverse.dps import DPS, LikelihoodScale, PublishedScale
from scoresde.inverse.pigdm import PiGDM
from scoresde.inverse.repaint import RePaint
from scoresde.inverse.tmpd import TMPD
from scoresde.linalg import Operator

NOISE = 0.2

GUIDED: list[Guided] = [
    MMPS(),
    PiGDM(),
    TMPD(),
    DPS(PublishedScale(0.05, chain=100)),
    DPS(LikelihoodScale()),
]
METHODS: list[Method] = [*GUIDED, RePaint(resamplings=2, jump=2)]
each_guided = pytest.mark.parametrize("method", GUIDED, ids=str)
each_method = pytest.mark.parametrize("method", METHODS, ids=str)


def correlated() -> sd.GaussianMixture:
    a = normal(4, 4, seed=1)
    return sd.GaussianMixture([1.0], normal(1, 4, seed=2), (0.3 * a @ a.mT + 0.1 * torch.eye(4))[None])


LAW = correlated()
ISOTROPIC = sd.GaussianMixture([1.0], normal(1, 4, seed=2), [0.7])
DIAGONAL = sd.GaussianMixture([1.0], normal(1, 4, seed=2), [[0.2, 1.5, 0.6, 0.9]])
WIDE, TALL = sd.operators.Dense(normal(2, 4, seed=3)), sd.operators.Dense(0.5 * normal(10, 4, seed=4))
MASK = sd.operators.Mask([True, False, True, False])
MEASUREMENT = sd.GaussianMeasurement(MASK, NOISE)
Y = MEASUREMENT.simulate(LAW.sample(1, seed=5), seed=6)


def problem(law: sd.GaussianMixture, operator: Operator, sde: sd.LinearSDE, rows: int = 1) -> Problem:
    measurement = sd.GaussianMeasurement(operator, NOISE)
    return Problem(law.denoiser(sde), measurement, measurement.simulate(law.sample(rows, seed=5), seed=6), (law.dim,))


def exact_x0(given: Problem, law: sd.GaussianMixture, x: Tensor, t: float | Tensor) -> Tensor:
    """E[x0 | x_t, y], by the exact posterior as the prior of its own denoiser."""
    rows = []
    for i in range(len(x)):
        posterior = law.posterior(given.measurement, given.y[i % len(given.y)])
        at = t[i : i + 1] if isinstance(t, Tensor) else t
        rows.append(posterior.denoiser(given.denoiser.sde).x0(x[i : i + 1], at))
    return torch.cat(rows)
