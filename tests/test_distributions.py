"""Exact laws against independent computations: autograd, quadrature, Bayes' rule, scipy."""

import math

import pytest
import scipy.stats
import torch
from problems import PROCESSES, gaussian, mixture, normal

import scoresde as sd
from scoresde.sde import LinearSDE

each_process = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())


def laws() -> dict[str, sd.GaussianMixture]:
    full = mixture()
    diagonal = 0.1 + full.eigenvalues
    return {
        "full": full,
        "diagonal": sd.GaussianMixture(full.weights, full.means, diagonal),
        "isotropic": sd.GaussianMixture(full.weights, full.means, [0.1, 0.5, 1.0, 2.0]),
    }


each_law = pytest.mark.parametrize("law", laws().values(), ids=laws().keys())


@each_law
def test_the_density_is_scipys(law: sd.GaussianMixture) -> None:
    x = 2 * normal(10, 3)
    dense = sum(
        w * scipy.stats.multivariate_normal(m, s).pdf(x.numpy())
        for w, m, s in zip(law.weights.tolist(), law.means.numpy(), law.covariances.numpy(), strict=True)
    )
    torch.testing.assert_close(law.log_prob(x), torch.as_tensor(dense).log(), rtol=1e-10, atol=1e-10)


@each_law
def test_samples_have_the_moments(law: sd.GaussianMixture) -> None:
    n = 200_000
    x = law.sample(n, seed=5)
    error = (x.mean(0) - law.mean()) / (law.covariance().diagonal() / n).sqrt()
    assert error.abs().max() < 4
    centred = x - law.mean()
    products = centred[:, :, None] * centred[:, None, :]
    error = (products.mean(0) - law.covariance()) / (products.std(0) / math.sqrt(n))
    assert error.abs().max() < 4


@each_law
@each_process
def test_the_diffused_law_is_that_of_diffused_samples(law: sd.GaussianMixture, sde: LinearSDE) -> None:
    q = law.diffuse(sde, 0.4)
    level = sde.at(0.4)
    torch.testing.assert_close(q.mean(), level.alpha * law.mean())
    torch.testing.assert_close(
        q.covariance(), level.alpha**2 * law.covariance() + level.sigma**2 * torch.eye(3, dtype=torch.float64)
    )


@each_law
@each_process
def test_the_posterior_covariance_is_the_scores_derivative(law: sd.GaussianMixture, sde: LinearSDE) -> None:
    """Cov[x0 | x_t] = sigma^2 / alpha^2 (I + sigma^2 grad score), theory 7."""
    denoiser, t = law.denoiser(sde), 0.35
    level = sde.at(t)
    x = sde.perturb(law.sample(3), t, normal(3, 3))
    jacobian = torch.func.vmap(torch.func.jacrev(lambda u: denoiser.score(u[None], t)[0]))(x)
    eye = torch.eye(3, dtype=torch.float64)
    wanted = level.sigma**2 / level.alpha**2 * (eye + level.sigma**2 * jacobian)
    torch.testing.assert_close(law.posterior_covariance(x, sde, t), wanted, rtol=1e-6, atol=1e-8)


@each_process
def test_x0_by_quadrature(sde: LinearSDE) -> None:
    """E[x0 | x_t] in 1-D, by summing over x0."""
    law = sd.GaussianMixture([0.3, 0.7], [[-1.0], [0.8]], [0.05, 0.2])
    x, t = torch.tensor([[-0.5], [0.1], [1.4]]).double(), 0.3
    level = sde.at(t)
    x0 = torch.linspace(-6, 6, 200_001, dtype=torch.float64)[None]
    log_joint = law.log_prob(x0.T)[None] - 0.5 * ((x - level.alpha * x0) / level.sigma) ** 2
    weight = torch.softmax(log_joint, 1)
    torch.testing.assert_close(law.denoiser(sde).x0(x, t)[:, 0], (weight * x0).sum(1), rtol=1e-8, atol=1e-8)


@each_law
def test_the_posterior_obeys_bayes_rule_at_any_point(law: sd.GaussianMixture) -> None:
    """log p(x | y) - log p(x) - log p(y | x) is the same at every x, and is -log p(y)."""
    a = normal(2, 3, seed=3)
    measurement = sd.GaussianMeasurement(sd.operators.Dense(a), 0.3)
    y = measurement.simulate(law.sample(1))
    posterior = law.posterior(measurement, y)
    x = 2 * normal(9, 3)
    constant = posterior.log_prob(x) - law.log_prob(x) - measurement.log_likelihood(x, y)
    evidence = sd.GaussianMixture(
        law.weights, law.means @ a.T, a @ law.covariances @ a.T + 0.09 * torch.eye(2)
    ).log_prob(y)
    torch.testing.assert_close(constant, -evidence.expand(9), rtol=1e-7, atol=1e-7)


def test_the_posterior_of_a_pinned_measurement() -> None:
    """As noise_std -> 0 the posterior holds the measured coordinate fixed."""
    law = mixture()
    posterior = law.posterior(sd.GaussianMeasurement(sd.operators.Dense([[1.0, 0.0, 0.0]]), 1e-9), [0.25])
    torch.testing.assert_close(posterior.means[:, 0], torch.full((4,), 0.25, dtype=torch.float64), rtol=0, atol=1e-7)


@each_process
def test_the_flow_map_solves_the_flow(sde: LinearSDE) -> None:
    law, x = gaussian(), normal(4, 2)
    flow = sd.Reverse(law.denoiser(sde), eta=0.0)
    t, h = 0.4705, 1e-5  # off the knots of tables
    slope = (law.flow(x, sde, t, t + h) - law.flow(x, sde, t, t - h)) / (2 * h)
    torch.testing.assert_close(flow.drift(x, t), slope, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(law.flow(law.flow(x, sde, t, 0.0), sde, 0.0, t), x)


@each_process
def test_fokker_planck_by_finite_differences(sde: LinearSDE) -> None:
    """dq/dt = -div(f q) + 1/2 g^2 Laplacian q, in 1-D (theory 4)."""
    law = sd.GaussianMixture([0.3, 0.7], [[-1.0], [0.8]], [0.05, 0.2])
    t, h, d = 0.4003, 1e-5, 1e-3
    x = float(sde.at(t).radius) * torch.linspace(-1.5, 1.5, 7, dtype=torch.float64)[:, None]
    d = d * float(sde.at(t).radius)
    q = lambda x, t: law.diffuse(sde, t).log_prob(x).exp()  # noqa: E731
    level = sde.at(t)
    left = (q(x, t + h) - q(x, t - h)) / (2 * h)
    divergence = level.f * ((x + d)[:, 0] * q(x + d, t) - (x - d)[:, 0] * q(x - d, t)) / (2 * d)
    laplacian = (q(x + d, t) - 2 * q(x, t) + q(x - d, t)) / d**2
    right = -divergence + 0.5 * level.g2 * laplacian
    torch.testing.assert_close(left, right, rtol=2e-4, atol=2e-5 * right.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [1.0, 1e2, 1e4])
def test_far_away_and_high_dimensional_points_stay_finite(dtype: torch.dtype, distance: float) -> None:
    dim = 1000
    law = sd.GaussianMixture(
        [0.5, 0.5], torch.randn(2, dim, generator=torch.Generator().manual_seed(0)), [1e-4, 1.0], dtype=dtype
    )
    x = distance * normal(3, dim).to(dtype)
    for t in (0.0, 1e-5, 0.5, 1.0):
        denoiser = law.denoiser(sd.VP())
        for value in (denoiser.x0(x, t), denoiser.score(x, t), law.diffuse(sd.VP(), t).log_prob(x)):
            assert value.dtype == dtype
            assert value.isfinite().all()


def test_float32_states_keep_their_digits_near_the_data() -> None:
    law64, law32 = gaussian(), gaussian(torch.float32)
    x = law64.sample(100)
    for t in (0.0, 1e-6, 1e-3):
        exact = law64.denoiser(sd.VP()).score(x, t)
        rounded = law32.denoiser(sd.VP()).score(x.float(), t).double()
        assert (rounded - exact).norm() < 1e-5 * exact.norm()


def test_the_kl_of_gaussians_is_lemma_4() -> None:
    p, q = gaussian(), sd.GaussianMixture([1.0], [[0.1, 0.2]], [[0.5, 0.4]])
    x = p.sample(400_000)
    difference = p.log_prob(x) - q.log_prob(x)
    error = (difference.mean() - p.kl(q)) / (difference.std() / math.sqrt(len(x)))
    assert abs(error) < 4
    assert p.kl(p) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="no closed form"):
        mixture().kl(mixture())


def test_large_batches_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    law, x = mixture(), normal(50, 3)
    whole = law.denoiser(sd.VP()).x0(x, 0.3)
    monkeypatch.setattr("scoresde.distributions.CHUNK", 60)
    torch.testing.assert_close(law.denoiser(sd.VP()).x0(x, 0.3), whole, rtol=1e-14, atol=1e-14)


@each_process
def test_the_empirical_denoiser_is_a_mixture_of_points(sde: LinearSDE) -> None:
    points = normal(7, 3)
    ideal = sd.Empirical(points).denoiser(sde)
    narrow = sd.GaussianMixture(torch.ones(7), points, torch.full((7,), 1e-14)).denoiser(sde)
    for t in (0.05, 0.5, 0.9):
        x = sde.perturb(points, t, normal(7, 3, seed=1))
        torch.testing.assert_close(ideal.x0(x, t), narrow.x0(x, t), rtol=1e-5, atol=1e-7)
        batch = torch.full((7,), t, dtype=torch.float64)
        torch.testing.assert_close(ideal.x0(x, batch), ideal.x0(x, t))


def test_samples_of_the_empirical_law_are_its_points() -> None:
    points = normal(5, 2, 2)
    x = sd.Empirical(points).sample(50)
    assert x.shape == (50, 2, 2)
    assert all(any(torch.equal(a, b) for b in points) for a in x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, -1.0], [[0.0], [1.0]], [1.0, 1.0]), r"weights\[1\] = -1"),
        (([1.0], [[0.0], [1.0]], [1.0]), r"must be \(K,\) and \(K, D\)"),
        (([1.0], [[0.0, 1.0]], [[[1.0]]]), "covariances"),
        (([1.0], [[math.nan]], [1.0]), "means holds"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "not positive semi-definite"),
        (([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.2, 1.0]]]), "symmetric"),
    ],
)
def test_wrong_parameters_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sd.GaussianMixture(*arguments)


def test_wrong_measurements_are_refused() -> None:
    law = mixture()
    measurement = sd.GaussianMeasurement(sd.operators.Dense(normal(2, 3)), 0.1)
    with pytest.raises(ValueError, match="y has 3 entries; the operator gives 2"):
        law.posterior(measurement, [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="not finite"):
        law.posterior(measurement, [0.0, math.nan])
    with pytest.raises(ValueError, match="noise_std = 0"):
        sd.GaussianMeasurement(sd.operators.Identity(), 0)
    with pytest.raises(ValueError, match="vectors of 3 entries"):
        measurement.operator(normal(2, 4))


@pytest.mark.parametrize("name", sd.MIXTURES)
def test_named_mixtures_are_about_standardised(name: str) -> None:
    law = sd.MIXTURES[name]()
    assert law.dtype == torch.float32
    assert law.mean().norm() < 0.5 * law.covariance().trace().sqrt()
    assert 0.3 < law.covariance().diagonal().mean() < 2.0
