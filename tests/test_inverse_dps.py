"""DPS: the published steps in numbers, its gradients, and what it does at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from guided_cases import (
    LAW,
    MASK,
    WIDE,
    problem,
)
from problems import PROCESSES, normal
from torch import Tensor

import scoresde as sd
from scoresde import solvers
from scoresde.inverse import Problem, posterior_draws
from scoresde.inverse.dps import DPS, LikelihoodScale, PublishedScale
from scoresde.linalg import Operator


def norm_gradient(x: Tensor, given: Problem, t: float) -> tuple[Tensor, Tensor]:
    """xhat0, and grad_x |y - A(xhat0)|, one sample at a time."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        x0 = given.denoiser.x0(x, t)
        norms = [torch.linalg.vector_norm(y - given.operator(one[None])) for one, y in zip(x0, given.y, strict=True)]
        return x0.detach(), torch.autograd.grad(sum(norms), x)[0]


@pytest.mark.parametrize("operator", [WIDE, sd.operators.Gamma(2.0)], ids=["linear", "not linear"])
def test_dps_takes_the_published_steps(operator: Operator) -> None:
    """Algorithm 1 along a chain of K steps, as it is written, with the same noise."""
    K, zeta, n = 25, 0.3, 3
    given = problem(LAW, operator, sd.VP(), n)
    chain = sd.DDPM.from_sde(sd.VP(), sd.grids.uniform(K))
    noise = sd.CounterNoise(3, torch.arange(n), (4,), torch.float64)
    x = noise.start() * sd.VP().prior_std()
    for i, k in enumerate(range(K, 0, -1)):
        x0, gradient = norm_gradient(x, given, k / K)
        mean, variance = chain.posterior(x, x0, k)
        z = noise.at(i, k / K, (k - 1) / K)()
        x = mean + (math.sqrt(variance) * z if k > 1 else 0.0) - zeta * gradient
    found = posterior_draws(
        given.denoiser,
        given.measurement,
        given.y,
        method=DPS(PublishedScale(zeta, chain=K)),
        solver=solvers.Ancestral(),
        times=sd.grids.uniform(K),
        n=n,
        seed=3,
    ).x
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", ["ve", "edm", "rectified-flow", "sub-vp"])
def test_dps_is_the_same_on_every_process(process: str) -> None:
    """At one signal-to-noise ratio x / radius is the chain's variable."""
    sde, method = PROCESSES[process], DPS(PublishedScale(0.3))
    t = 0.4
    t_vp = sd.VP().time_of_log_snr(sde.log_snr(t)).item()
    x = normal(3, 4, seed=8)
    on_vp = method.denoiser(problem(LAW, MASK, sd.VP())).x0(x, t_vp)
    there = method.denoiser(problem(LAW, MASK, sde)).x0(float(sde.at(t).radius) * x, t)
    torch.testing.assert_close(there, on_vp, rtol=1e-9, atol=1e-9)


def test_a_time_for_each_sample_in_dps() -> None:
    guided = DPS().denoiser(problem(LAW, MASK, sd.VP()))
    x, t = normal(3, 4, seed=8), torch.tensor([1e-4, 0.3, 0.9], dtype=torch.float64)
    each = torch.cat([guided.x0(x[i : i + 1], float(t[i])) for i in range(3)])
    torch.testing.assert_close(guided.x0(x, t), each, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("operator", [WIDE, sd.operators.Gamma(2.0)], ids=["linear", "not linear"])
def test_the_likelihood_scale_is_its_gradient(operator: Operator) -> None:
    given = problem(LAW, operator, sd.VP())
    level = given.denoiser.sde.at(0.4)
    x = normal(3, 4, seed=8).requires_grad_()
    x0 = given.denoiser.x0(x, 0.4)
    (gradient,) = torch.autograd.grad(given.measurement.log_likelihood(x0, given.y).sum(), x)
    expected = x0 + level.sigma**2 / level.alpha * gradient
    torch.testing.assert_close(DPS(LikelihoodScale()).denoiser(given).x0(x.detach(), 0.4), expected.detach())


def test_dps_with_no_push_is_the_prior() -> None:
    given = problem(LAW, WIDE, sd.VP())
    x = normal(3, 4, seed=8)
    guided = DPS(PublishedScale(0.0)).denoiser(given)
    assert torch.equal(guided.x0(x, 0.4), given.denoiser.x0(x, 0.4))


def test_a_residual_of_zero_has_no_direction() -> None:
    given = problem(LAW, WIDE, sd.VP())
    x = normal(1, 4, seed=8)
    met = Problem(given.denoiser, given.measurement, given.operator(given.denoiser.x0(x, 0.4)), (4,))
    assert DPS().denoiser(met).x0(x, 0.4).isfinite().all()
