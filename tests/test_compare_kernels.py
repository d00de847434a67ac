"""The exact reverse kernel of a mixture: Bayes' rule, moments, and what Gaussian kernels are off by."""

import math

import pytest
import torch
from problems import gaussian, mixture, normal

import scoresde as sd
from scoresde import grids
from scoresde.compare.kernels import KERNELS, ReverseKernel, path_kl, path_kl_by_steps, step_kernel
from scoresde.distributions import gaussian_kl
from scoresde.sde import LinearSDE, bridge, transition
from scoresde.solvers import Ancestral, EulerMaruyama

ROUND = sd.GaussianMixture([0.3, 0.7], [[0.8, 0.1], [-0.5, 0.0]], [0.04, 0.1])
LAWS = {"full": mixture(2, 3), "isotropic": ROUND, "float32": mixture(2, 3, dtype=torch.float32)}
SDES: dict[str, LinearSDE] = {"vp": sd.VP(), "ve": sd.VE(0.01, 20.0), "rf": sd.RectifiedFlow()}
BY_LAW = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS.keys())
BY_SDE = pytest.mark.parametrize("sde", SDES.values(), ids=SDES.keys())


@BY_LAW
@BY_SDE
@pytest.mark.parametrize(("s", "t"), [(0.4, 0.5), (0.0, 0.3), (0.2, 1.0)])
def test_the_kernel_obeys_bayes_rule(law: sd.GaussianMixture, sde: LinearSDE, s: float, t: float) -> None:
    """q(x_s | x_t) q(x_t) = q(x_s) N(x_t; a x_s, v I) at arbitrary points."""
    x_s = 0.7 * normal(20, 2)
    a, v = (float(c) for c in sde.transition(s, t))
    x_t = a * x_s + math.sqrt(v) * normal(20, 2, seed=1)
    forward = torch.distributions.Normal(a * x_s, math.sqrt(v)).log_prob(x_t).sum(1)
    joint = law.diffuse(sde, s).log_prob(x_s) + forward
    found = ReverseKernel(law, sde, s, t).log_prob(x_s, x_t) + law.diffuse(sde, t).log_prob(x_t)
    torch.testing.assert_close(found, joint, rtol=1e-9, atol=1e-9)


@BY_LAW
@BY_SDE
def test_its_moments_are_those_of_the_bridge_and_of_x0(law: sd.GaussianMixture, sde: LinearSDE) -> None:
    """By the tower rule: mean c_t x_t + c_0 xhat0, covariance (bridge) I + c_0^2 Cov[x_0 | x_t]."""
    s, t = 0.3, 0.6
    x_t = normal(7, 2)
    c_t, c_0, variance = (float(c) for c in bridge(sde.at(s), sde.at(t)))
    mean, covariance = ReverseKernel(law, sde, s, t).moments(x_t)
    torch.testing.assert_close(mean, c_t * x_t + c_0 * law.denoiser(sde).x0(x_t, t), rtol=1e-9, atol=1e-9)
    truth = variance * torch.eye(2, dtype=torch.float64) + c_0**2 * law.posterior_covariance(x_t, sde, t)
    torch.testing.assert_close(covariance, truth, rtol=1e-9, atol=1e-9)


def test_the_kernel_is_a_density_with_these_moments() -> None:
    kernel = ReverseKernel(sd.GaussianMixture([0.3, 0.7], [[0.8], [-0.5]], [0.04, 0.1]), sd.VP(), 0.1, 0.4)
    x = torch.linspace(-6.0, 6.0, 4001, dtype=torch.float64)[:, None]
    x_t = torch.full_like(x, 0.2)
    q = kernel.log_prob(x, x_t).exp() * 12.0 / 4000
    mean, covariance = kernel.moments(x_t[:1])
    first = (q * x[:, 0]).sum()
    assert float(q.sum()) == pytest.approx(1.0, abs=1e-9)
    assert float(first) == pytest.approx(mean.item(), abs=1e-9)
    assert float((q * x[:, 0].square()).sum() - first**2) == pytest.approx(covariance.item(), abs=1e-9)


def test_a_step_kernel_is_the_solvers_own() -> None:
    law, sde, (s, t) = mixture(2, 3), sd.VP(), (0.3, 0.4)
    denoiser, x_t = law.denoiser(sde), normal(5, 2)
    mean, small = step_kernel(Ancestral(), denoiser, x_t, t, s)
    exact, _ = ReverseKernel(law, sde, s, t).moments(x_t)
    torch.testing.assert_close(mean, exact, rtol=1e-10, atol=1e-10)  # the ancestral mean is right whatever the step
    at_s, at_t = sde.at(s), sde.at(t)
    assert small == pytest.approx(float(bridge(at_s, at_t)[2]))
    assert step_kernel(Ancestral("large"), denoiser, x_t, t, s)[1] == pytest.approx(float(transition(at_s, at_t)[1]))
    assert step_kernel(EulerMaruyama(), denoiser, x_t, t, s)[1] == pytest.approx(float(at_t.g2) * (t - s))
    assert step_kernel(Ancestral(), denoiser, x_t, t, 0.0)[1] == pytest.approx(float(sde.transition(0.0, t)[1]))


def test_one_gaussian_leaves_nothing_that_is_not_gaussian_and_lemma_4_for_the_rest() -> None:
    law, sde = gaussian(), sd.VP()
    found = path_kl(law, sde, torch.tensor([0.5, 0.3], dtype=torch.float64), n=4000)
    (step,) = found.steps
    assert max(abs(step.non_gaussian.low), abs(step.non_gaussian.high)) < 1e-12
    x_t = law.diffuse(sde, 0.5).sample(1000, seed=1)
    mean, covariance = ReverseKernel(law, sde, 0.3, 0.5).moments(x_t)
    for name, solver in KERNELS.items():
        mean_p, v_p = step_kernel(solver, law.denoiser(sde), x_t, 0.5, 0.3)
        wide = v_p * torch.eye(2, dtype=torch.float64)
        nats = [gaussian_kl(mean[i], covariance[i], mean_p[i], wide) for i in range(1000)]
        truth = torch.tensor(nats, dtype=torch.float64)
        total = step.kernels[name].total
        error = math.hypot(float(truth.std()) / math.sqrt(1000), (total.high - total.value) / 1.96)
        assert abs(total.value - float(truth.mean())) < 4 * error + 1e-12


def test_the_three_parts_are_the_whole() -> None:
    """E log q(x_s | x_t) - log p(x_s | x_t), straight from the two densities."""
    law, sde, times = LAWS["isotropic"], sd.VP(), torch.tensor([0.6, 0.3], dtype=torch.float64)
    n = 20_000
    x_s = law.diffuse(sde, 0.3).sample(n, seed=3)
    a, v = (float(c) for c in sde.transition(0.3, 0.6))
    x_t = a * x_s + math.sqrt(v) * normal(n, 2, seed=4)
    q = ReverseKernel(law, sde, 0.3, 0.6).log_prob(x_s, x_t)
    found = path_kl(law, sde, times, n=n).kernels
    for name, solver in KERNELS.items():
        mean_p, v_p = step_kernel(solver, law.denoiser(sde), x_t, 0.6, 0.3)
        ratio = q - torch.distributions.Normal(mean_p, math.sqrt(v_p)).log_prob(x_s).sum(1)
        total = found[name].total
        error = math.hypot(float(ratio.std()) / math.sqrt(n), (total.high - total.value) / 1.96)
        assert abs(float(ratio.mean()) - total.value) < 4 * error


def test_few_steps_are_not_gaussian_and_many_are() -> None:
    few, many = path_kl_by_steps(LAWS["isotropic"], sd.VP(), (4, 64), n=1000)
    assert few.non_gaussian.low > 10 * many.non_gaussian.high > 0
    assert few.kernels["Euler-Maruyama"].mean.low > 10 * many.kernels["Euler-Maruyama"].mean.high
    for path in (few, many):
        assert path.kernels["ancestral, small"].mean.high < 1e-20
        assert all(kernel.total.low > path.non_gaussian.low for kernel in path.kernels.values())
        assert len(path.steps) == len(path.times) - 1
        assert path.steps[0].t == 1.0
        assert path.steps[-1].s == 0.0
        for name, kernel in path.kernels.items():
            assert kernel.total.value == pytest.approx(
                path.non_gaussian.value + kernel.mean.value + kernel.variance.value
            )
            assert kernel.variance.value == pytest.approx(sum(s.kernels[name].variance.value for s in path.steps))


def test_the_small_variance_costs_half_of_eulers_constant_however_many_steps() -> None:
    """On data of unit variance, for which the large one is exact, under a constant beta."""
    law, flat = sd.GaussianMixture([1.0], [[0.0]], [[[1.0]]]), sd.VP(8.0, 8.0)

    def short(steps: int) -> float:
        k = torch.arange(1, steps, dtype=torch.float64)
        ratio = torch.expm1(-8.0 * k / steps) / torch.expm1(-8.0 * (k + 1) / steps)  # small over large
        return float(0.5 * (ratio.log() - 1.0 + 1.0 / ratio).sum())

    found = path_kl(law, flat, grids.uniform(50), n=2).kernels
    assert found["ancestral, small"].total.value == pytest.approx(short(50), abs=1e-9)
    assert found["ancestral, large"].total.value == pytest.approx(0.0, abs=1e-9)
    assert short(10**6) == pytest.approx(0.5 * 0.5772157, abs=1e-4)


@pytest.mark.parametrize(("name", "variance"), [("ancestral, small", "small"), ("ancestral, large", "large")])
def test_the_sum_over_a_grid_is_the_gap_of_the_variational_bound(name: str, variance: str) -> None:
    """Theory 3: E[bound] - E[-log p(x_0)], by the chain's own code, term by term another way."""
    law, sde, times, n = LAWS["isotropic"], sd.VP(), grids.uniform(20), 4000
    x0 = law.sample(n, seed=5)
    bound = sd.DDPM.from_sde(sde, times).bound(law.denoiser(sde), x0, seed=6, variance=variance).nats()
    gap = bound + law.log_prob(x0)
    found = path_kl(law, sde, times, n=n)
    total = found.kernels[name].total
    error = math.hypot(float(gap.std()) / math.sqrt(n), (total.high - total.value) / 1.96)
    assert abs(float(gap.mean()) - total.value - found.prior.value) < 4 * error


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ReverseKernel(gaussian(), sd.VP(), 0.5, 0.5), "0 <= s < t <= 1"),
        (lambda: ReverseKernel(sd.GaussianMixture([1.0], [[0.0]], [0.0]), sd.VP(), 0.0, 0.5), "no density at s = 0"),
        (lambda: path_kl(gaussian(), sd.VP(), grids.uniform(2), n=1), "at least 2 paths"),
        (lambda: path_kl(gaussian(), sd.RectifiedFlow(), grids.uniform(2)), "finite diffusion"),
    ],
)
def test_wrong_choices_are_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
