"""Guided denoisers: exact where they claim to be, and denoisers like any other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from guided_cases import (
    DIAGONAL,
    ISOTROPIC,
    LAW,
    MASK,
    MEASUREMENT,
    NOISE,
    TALL,
    WIDE,
    Y,
    each_method,
    exact_x0,
    problem,
)
from problems import PROCESSES, mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde import solvers
from scoresde.denoisers import Denoiser, Wrapped
from scoresde.inverse import MMPS, Guided, GuidedDenoiser, Method, Problem, Twisted, TwistedSMC, posterior_draws
from scoresde.inverse.dps import DPS
from scoresde.inverse.guided import REACH, line_step, within_reach
from scoresde.inverse.pigdm import PiGDM
from scoresde.inverse.tmpd import TMPD
from scoresde.linalg import Operator
from scoresde.sde import Level

EXACT = ["vp", "ve", "sub-vp", "cosine", "rectified-flow", "edm"]
each_process = pytest.mark.parametrize("process", EXACT)


# where each method is exact: the method, the prior, A
CLAIMS = {
    "mmps": (MMPS(), LAW, WIDE),
    "mmps by gmres": (MMPS(iterations=12, tolerance=1e-13), LAW, TALL),
    "pigdm": (PiGDM(), ISOTROPIC, WIDE),
    "pigdm, tall": (PiGDM(), ISOTROPIC, TALL),
    "tmpd": (TMPD(), DIAGONAL, MASK),
    "dps, one observation": (DPS(), LAW, sd.operators.Dense(normal(1, 4, seed=3))),
}
each_claim = pytest.mark.parametrize("claim", CLAIMS)


def exact_log_prob(given: Problem, law: sd.GaussianMixture, x: Tensor, t: float) -> Tensor:
    """log q_t(y | x_t) by Bayes: p(y) q_t(x_t | y) / q_t(x_t)."""
    sde, y = given.denoiser.sde, given.y[0]
    a = given.measurement.dense(law.dim)
    seen = sd.GaussianMixture(
        law.weights, law.means @ a.mT, a @ law.covariances @ a.mT + NOISE**2 * torch.eye(len(a), dtype=torch.float64)
    )
    posterior = law.posterior(given.measurement, y)
    return seen.log_prob(y[None]) + posterior.diffuse(sde, t).log_prob(x) - law.diffuse(sde, t).log_prob(x)


@each_claim
@each_process
@pytest.mark.parametrize("rows", [1, 3], ids=["one y", "a y each"])
def test_the_guided_estimate_is_exact(claim: str, process: str, rows: int) -> None:
    method, law, operator = CLAIMS[claim]
    given = problem(law, operator, PROCESSES[process], rows)
    guided = method.denoiser(given)
    for t in (0.0, 1e-3, 0.1, 0.5, 0.9):
        level = given.denoiser.sde.at(t)
        x = level.radius * normal(3, law.dim, seed=8)
        torch.testing.assert_close(guided.x0(x, t), exact_x0(given, law, x, t), rtol=1e-9, atol=1e-9)


@each_claim
@each_process
def test_a_time_for_each_sample(claim: str, process: str) -> None:
    method, law, operator = CLAIMS[claim]
    given = problem(law, operator, PROCESSES[process])
    t = torch.tensor([0.02, 0.4, 0.8], dtype=torch.float64)
    x = normal(3, law.dim, seed=8)
    torch.testing.assert_close(method.denoiser(given).x0(x, t), exact_x0(given, law, x, t), rtol=1e-9, atol=1e-9)


@each_claim
@each_process
def test_where_no_signal_is_left_the_estimate_is_the_posterior_mean(claim: str, process: str) -> None:
    """alpha = 0 at t = 1 of some processes: 0 / 0 in the covariance, and a limit."""
    method, law, operator = CLAIMS[claim]
    given = problem(law, operator, PROCESSES[process])
    level = given.denoiser.sde.at(1.0)
    x = level.sigma * normal(3, law.dim, seed=8)
    for t in (1.0, torch.ones(3, dtype=torch.float64)):
        torch.testing.assert_close(method.denoiser(given).x0(x, t), exact_x0(given, law, x, 1.0), rtol=0.0, atol=2e-3)


@each_method
def test_every_method_is_finite_at_both_ends(method: Method) -> None:
    if not isinstance(method, Guided):
        return
    for process in EXACT:
        given = problem(LAW, MASK, PROCESSES[process])
        for t in (0.0, 1.0, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)):
            assert method.denoiser(given).x0(normal(3, 4), t).isfinite().all()


@pytest.mark.parametrize("claim", ["mmps", "pigdm", "tmpd"])
@each_process
@pytest.mark.parametrize("t", [1e-2, 0.4, 0.9])
def test_the_twist_is_exact(claim: str, process: str, t: float) -> None:
    method, law, operator = CLAIMS[claim]
    given = problem(law, operator, PROCESSES[process])
    level = given.denoiser.sde.at(t)
    x = level.radius * normal(5, law.dim, seed=8)
    twist = method.denoiser(given).twist(x, level)
    torch.testing.assert_close(twist.x0, given.denoiser.x0(x, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(twist.guided, exact_x0(given, law, x, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(twist.log_prob, exact_log_prob(given, law, x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", [MMPS(), PiGDM(), TMPD()], ids=str)
@pytest.mark.parametrize("operator", [WIDE, TALL, MASK], ids=["wide", "tall", "mask"])
def test_the_variance_of_the_twist_on_an_isotropic_prior(method: Twisted, operator: Operator) -> None:
    given = problem(ISOTROPIC, operator, PROCESSES["vp"])
    level = given.denoiser.sde.at(0.3)
    exact = level.sigma**2 * 0.7 / (level.sigma**2 + level.alpha**2 * 0.7)
    variance = method.denoiser(given).twist(normal(5, 4), level).variance
    torch.testing.assert_close(variance, torch.full((5,), exact, dtype=torch.float64))


@pytest.mark.parametrize("claim", ["mmps", "pigdm", "tmpd"])
@pytest.mark.parametrize("solver", [solvers.UniPC(), solvers.ERSDE(), solvers.Heun()], ids=str)
def test_draws_have_the_posterior_mean(claim: str, solver) -> None:  # type: ignore[no-untyped-def]
    method, law, operator = CLAIMS[claim]
    given = problem(law, operator, sd.VP())
    x = posterior_draws(
        given.denoiser, given.measurement, given.y, method=method, solver=solver, n=1500, steps=80, seed=2
    ).x
    posterior = law.posterior(given.measurement, given.y)
    std = posterior.covariance().diagonal().sqrt()
    assert ((x.mean(0) - posterior.mean()) / (std / math.sqrt(len(x)))).abs().max() < 4.0
    assert ((x.var(0) / std**2 - 1.0) / math.sqrt(2.0 / len(x))).abs().max() < 4.5


def test_a_guided_denoiser_is_a_denoiser() -> None:
    """Its other forms follow from x0, and no graph is left behind."""
    given = problem(LAW, MASK, sd.VP())
    guided: GuidedDenoiser = MMPS().denoiser(given)
    x = normal(3, 4, seed=8)
    level = guided.sde.at(0.4)
    x0 = guided.x0(x, 0.4)
    assert not x0.requires_grad
    torch.testing.assert_close(guided.eps(x, 0.4), (x - level.alpha * x0) / level.sigma)
    posterior = LAW.posterior(MEASUREMENT, given.y)
    torch.testing.assert_close(guided.score(x, 0.4), posterior.denoiser(sd.VP()).score(x, 0.4), rtol=1e-8, atol=1e-8)
    assert guided.data_std == given.denoiser.data_std


def test_the_covariance_is_that_of_the_prior() -> None:
    law = mixture(4, 3)
    guided = MMPS().denoiser(problem(law, MASK, sd.VP()))
    x, v = normal(5, 4, seed=8), normal(5, 4, seed=9)
    for t in (0.05, 0.5):
        estimate = guided.estimate(x, guided.sde.at(t))
        exact = torch.einsum("bij,bj->bi", law.posterior_covariance(x, sd.VP(), t), v)
        torch.testing.assert_close(estimate.covariance(v), exact, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("twist", [PiGDM(), TMPD()], ids=str)
def test_particles_are_steered_by_other_twists(twist: Twisted) -> None:
    """The weights mend what the twist gets wrong."""
    x = posterior_draws(
        LAW.denoiser(sd.EDM(20.0)),
        MEASUREMENT,
        Y,
        method=TwistedSMC(twist=twist, start=LAW.gaussian()),
        n=1500,
        steps=60,
    )
    weights = x.log_weights.exp()
    posterior = LAW.posterior(MEASUREMENT, Y)
    error = (weights @ x.x - posterior.mean()) / posterior.covariance().diagonal().sqrt()
    assert error.abs().max() < 0.25


class NoCovariance(Wrapped):
    """Answers as the exact denoiser does, with a Jacobian that is far too large, and neither symmetric nor positive."""

    def __init__(self, inner: Denoiser, size: float) -> None:
        super().__init__(inner)
        self.wrong = size * normal(inner.shape[0], inner.shape[0], seed=3)

    def predict(self, x: Tensor, t: Level) -> Tensor:
        return self.inner.predict(x, t) + (x - x.detach()) @ self.wrong.to(x)


@pytest.mark.parametrize("size", [10.0, 1e4, 1e7])
@pytest.mark.parametrize("method", [PiGDM(), MMPS(), TMPD(), DPS()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("operator", [WIDE, TALL, MASK], ids=["wide", "tall", "mask"])
def test_a_jacobian_that_is_no_covariance_does_not_explode(operator: Operator, method: Any, size: float) -> None:
    """A network's is not, at high noise; a push without bound takes x away from y."""
    given = problem(mixture(4, 3), operator, sd.VP())
    wild = Problem(NoCovariance(given.denoiser, size), given.measurement, given.y, (4,))
    x = 2.0 * normal(50, 4, seed=8)
    before, after = given.denoiser.x0(x, 0.9), method.denoiser(wild).x0(x, 0.9)
    assert (after - before).square().mean(1).sqrt().max() < 100.0 * given.denoiser.data_std  # whatever the size


def test_the_most_likely_step_is_one_where_the_guess_is_right() -> None:
    A = WIDE.dense((4,))
    r, half, std = normal(6, len(A), seed=4), normal(4, 4, seed=5), 0.3 + normal(len(A), seed=6).abs()
    C = half @ half.mT
    u = torch.linalg.solve(A @ C @ A.mT + torch.diag(std**2), r.mT).mT
    v = u @ A
    push = v @ C
    torch.testing.assert_close(line_step(r, u, std, v, push), torch.ones(6, dtype=torch.float64))


def test_a_push_beyond_the_reach_of_the_data_is_made_shorter_and_no_other() -> None:
    push = normal(4, 3, 5, seed=1) * torch.tensor([1e-3, 1.0, 30.0, 1e9], dtype=torch.float64)[:, None, None]
    short = within_reach(push, 0.5)
    size = short.flatten(1).square().mean(1).sqrt()
    assert torch.equal(short[:2], push[:2])
    torch.testing.assert_close(size[2:], torch.full((2,), REACH * 0.5, dtype=torch.float64))
    torch.testing.assert_close(short[3] / short[3].norm(), push[3] / push[3].norm())
