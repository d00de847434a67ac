"""DPS: the published steps in numbers, its gradients, and what it does at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from guided_cases import (
    LAW,
    MASK,
    NOISE,
    WIDE,
    problem,
)
from problems import PROCESSES, mixture, normal
from torch import Tensor, nn

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


@pytest.mark.parametrize("method", [DPS(), DPS(PublishedScale())], ids=str)
def test_a_time_for_each_sample_in_dps(method: DPS) -> None:
    guided = method.denoiser(problem(LAW, MASK, sd.VP()))
    x, t = normal(3, 4, seed=8), torch.tensor([1e-4, 0.3, 0.9], dtype=torch.float64)
    each = torch.cat([guided.x0(x[i : i + 1], float(t[i])) for i in range(3)])
    torch.testing.assert_close(guided.x0(x, t), each, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("noise_std", [NOISE, torch.tensor([0.1, 0.5, 0.2, 0.3], dtype=torch.float64)])
@pytest.mark.parametrize("operator", [sd.operators.Dense(normal(4, 4, seed=3)), sd.operators.Gamma(2.0)], ids=str)
def test_the_likelihood_scale_is_its_gradient_as_far_as_its_spread(operator: Operator, noise_std) -> None:  # type: ignore[no-untyped-def]
    """On a mixture, with the exact covariance and the Jacobian of A in dense form."""
    law, sde = mixture(4, 3), sd.VP()
    measurement = sd.GaussianMeasurement(operator, noise_std)
    given = Problem(law.denoiser(sde), measurement, measurement.simulate(law.sample(1, seed=5).abs(), seed=6), (4,))
    x, level = normal(3, 4, seed=8), sde.at(0.4)
    x0, C = given.denoiser.x0(x, 0.4), law.posterior_covariance(x, sde, 0.4)
    J = torch.stack([torch.autograd.functional.jacobian(lambda one: operator(one[None])[0], each) for each in x0])
    residual = given.y - operator(x0)
    S = torch.as_tensor(noise_std, dtype=torch.float64) ** 2
    v = torch.einsum("bmi,bm->bi", J, residual / S)
    push = torch.einsum("bij,bj->bi", C, v)
    q = (residual.square() / S).sum(1)
    expected = x0 + (q / (q + (v * push).sum(1)))[:, None] * push
    guided = DPS(LikelihoodScale()).denoiser(given)
    torch.testing.assert_close(guided.guided_x0(x, level), expected, rtol=1e-8, atol=1e-8)
    # no further than the first step of conjugate gradients, which is the best along this line
    M = torch.diag_embed(S.expand(4)) + J @ C @ J.mT
    u = (q / (q + (v * push).sum(1)))[:, None] * residual / S
    gradient = torch.einsum("bij,bj->bi", M, u) - residual
    assert ((gradient * residual / S).sum(1).abs() < 1e-8 * (residual.square() / S).sum(1)).all()


def test_a_push_is_bounded_whatever_a_network_has_for_a_covariance() -> None:
    """Here it is -c I: the push goes the wrong way, and no further than noise_std^2 |r| / |v| would."""

    class Falling(nn.Module):
        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            return -3.0 * x

    denoiser = sd.NetDenoiser(Falling(), sd.VP(), sd.PredictsX0(), shape=(4,))
    given = Problem(denoiser, sd.GaussianMeasurement(MASK, 1e-3), torch.full((1, 2), 5.0), (4,))
    x = normal(3, 4, seed=8, dtype=torch.float32)
    push = DPS().denoiser(given).x0(x, 0.9) - denoiser.x0(x, 0.9)
    residual = (given.y - MASK(denoiser.x0(x, 0.9))).norm(dim=1)
    assert (push.norm(dim=1) <= 1.001 * residual).all()
    assert (push.norm(dim=1) > 0.9 * residual).all()


@pytest.mark.parametrize("noise_std", [0.2, 0.02])
def test_draws_do_not_overshoot_a_measurement_of_little_noise(noise_std: float) -> None:
    measurement = sd.GaussianMeasurement(MASK, noise_std)
    y = measurement.simulate(LAW.sample(1, seed=5), seed=6)
    x = posterior_draws(LAW.denoiser(sd.VP()), measurement, y, method=DPS(), n=500, steps=60, seed=1).x
    assert 0.7 < measurement.chi_square(x, y).mean() < 1.3
    posterior = LAW.posterior(measurement, y)
    assert sd.GaussianMixture([1.0], x.mean(0)[None], torch.cov(x.mT)[None]).kl(posterior) < 0.1


def test_dps_with_no_push_is_the_prior() -> None:
    given = problem(LAW, WIDE, sd.VP())
    x = normal(3, 4, seed=8)
    guided = DPS(PublishedScale(0.0)).denoiser(given)
    assert torch.equal(guided.x0(x, 0.4), given.denoiser.x0(x, 0.4))


@pytest.mark.parametrize("method", [DPS(), DPS(PublishedScale())], ids=str)
def test_a_residual_of_zero_has_no_direction(method: DPS) -> None:
    given = problem(LAW, WIDE, sd.VP())
    x = normal(1, 4, seed=8)
    met = Problem(given.denoiser, given.measurement, given.operator(given.denoiser.x0(x, 0.4)), (4,))
    assert torch.equal(method.denoiser(met).x0(x, 0.4), given.denoiser.x0(x, 0.4))
