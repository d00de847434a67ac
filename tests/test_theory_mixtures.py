"""Theory, sections 7 and 8: mixtures and posteriors against quadrature, conditional scores, the measurement SDE."""

import math

import pytest
import torch
from problems import PROCESSES, mixture, normal
from torch import Tensor
from torch.distributions import MultivariateNormal

import scoresde as sd
from scoresde.inverse import MeasurementPath, pushforward
from scoresde.operators import Dense, Identity
from scoresde.sde import LinearSDE

each = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
LAW = mixture(2, 3)
EYE = torch.eye(2, dtype=torch.float64)
AXIS = torch.linspace(-9, 9, 301, dtype=torch.float64)
NODES = torch.cartesian_prod(AXIS, AXIS)
CELL = (AXIS[1] - AXIS[0]).item() ** 2
MATRICES = {"identity": EYE, "one number": normal(1, 2, seed=3), "three numbers": normal(3, 2, seed=4)}
each_matrix = pytest.mark.parametrize("A", MATRICES.values(), ids=MATRICES.keys())
NOISE = 0.4


def log_mixture(x: Tensor, weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """log sum w_i N(x; m_i, S_i), by torch."""
    return torch.logsumexp(MultivariateNormal(means, covariances).log_prob(x[:, None]) + weights.log(), 1)


def log_prior(x: Tensor) -> Tensor:
    return log_mixture(x, LAW.weights, LAW.means, LAW.covariances)


def log_likelihood(x: Tensor, y: Tensor, A: Tensor) -> Tensor:
    """log N(y; A x, NOISE^2 I)."""
    return MultivariateNormal(y, NOISE**2 * torch.eye(len(y), dtype=torch.float64)).log_prob(x @ A.mT)


def measured(A: Tensor) -> tuple[sd.GaussianMeasurement, Tensor]:
    """A measurement and one y, (M,)."""
    measurement = sd.GaussianMeasurement(Dense(A), NOISE)
    return measurement, measurement.simulate(LAW.sample(1, seed=7), seed=1)[0]


# --- section 7 -----------------------------------------------------------------------------------------


@each
def test_q_t_is_the_prior_convolved(sde: LinearSDE) -> None:
    """q_t, its score, xhat0 and Cov[X_0 | X_t] from sums over x_0 of prior times kernel."""
    t = 0.4003
    alpha, sigma = sde.at(t).alpha, sde.at(t).sigma
    points = sde.perturb(LAW.sample(4), t, normal(4, 2))
    x = points.clone().requires_grad_()
    log_joint = log_prior(NODES) - ((x[:, None] - alpha * NODES) ** 2).sum(2) / (2 * sigma**2)
    log_q = torch.logsumexp(log_joint, 1) + math.log(CELL / (2 * math.pi * sigma**2))
    (score,) = torch.autograd.grad(log_q.sum(), x)
    weight = torch.softmax(log_joint.detach(), 1)
    mean = weight @ NODES
    spread = NODES - mean[:, None]
    covariance = torch.einsum("bn,bni,bnj->bij", weight, spread, spread)
    close = {"rtol": 1e-7, "atol": 1e-7}
    torch.testing.assert_close(LAW.diffuse(sde, t).log_prob(points), log_q.detach(), **close)
    torch.testing.assert_close(LAW.denoiser(sde).score(points, t), score, **close)
    torch.testing.assert_close(LAW.denoiser(sde).x0(points, t), mean, **close)
    torch.testing.assert_close(LAW.posterior_covariance(points, sde, t), covariance, **close)


@each
def test_the_posterior_covariance_is_the_derivative_of_the_score(sde: LinearSDE) -> None:
    """Cov[X_0 | X_t] = sigma^2 / alpha^2 (I + sigma^2 grad s), with grad s the Hessian of the plain log density."""
    for t in (0.0503, 0.4003, 0.9003):
        alpha, sigma = sde.at(t).alpha, sde.at(t).sigma
        x = sde.perturb(LAW.sample(4), t, normal(4, 2))
        components = LAW.weights, alpha * LAW.means, alpha**2 * LAW.covariances + sigma**2 * EYE
        hessian = torch.func.vmap(torch.func.hessian(lambda x, c=components: log_mixture(x[None], *c)[0]))(x)
        wanted = sigma**2 / alpha**2 * (EYE + sigma**2 * hessian)
        close = {"rtol": 1e-8, "atol": 1e-12 * (sigma / alpha) ** 2 + 1e-10}
        torch.testing.assert_close(LAW.posterior_covariance(x, sde, t), wanted, **close)


@each_matrix
def test_the_posterior_is_the_mixture_as_printed(A: Tensor) -> None:
    """S' = (S^-1 + A'A / sigma_y^2)^-1, m' = S' (S^-1 m + A'y / sigma_y^2), w' ~ w N(y; A m, A S A' + sigma_y^2 I)."""
    measurement, y = measured(A)
    found, precision = LAW.posterior(measurement, y), torch.linalg.inv(LAW.covariances)
    S = torch.linalg.inv(precision + A.mT @ A / NOISE**2)
    m = (S @ (precision @ LAW.means[..., None] + (A.mT @ y / NOISE**2)[:, None]))[..., 0]
    noise = NOISE**2 * torch.eye(len(A), dtype=torch.float64)
    evidence = MultivariateNormal(LAW.means @ A.mT, A @ LAW.covariances @ A.mT + noise)
    torch.testing.assert_close(found.covariances, S, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found.means, m, rtol=1e-9, atol=1e-11)
    weights = LAW.weights * evidence.log_prob(y).exp()
    torch.testing.assert_close(found.weights, weights / weights.sum(), rtol=1e-9, atol=0)


@each_matrix
def test_the_posterior_is_bayes_rule_by_quadrature(A: Tensor) -> None:
    """Each component's share, mean and covariance as sums over x of w_i N(x; m_i, S_i) N(y; A x, sigma_y^2 I)."""
    measurement, y = measured(A)
    found = LAW.posterior(measurement, y)
    components = MultivariateNormal(LAW.means, LAW.covariances).log_prob(NODES[:, None]).exp() * LAW.weights
    mass = components * log_likelihood(NODES, y, A).exp()[:, None]
    torch.testing.assert_close(found.weights, mass.sum(0) / mass.sum(), rtol=1e-7, atol=1e-9)
    share = mass / mass.sum(0)
    means = share.mT @ NODES
    spread = NODES[:, None] - means
    torch.testing.assert_close(found.means, means, rtol=1e-6, atol=1e-7)
    covariances = torch.einsum("nk,nki,nkj->kij", share, spread, spread)
    torch.testing.assert_close(found.covariances, covariances, rtol=1e-6, atol=1e-7)


@each
def test_the_path_of_the_posterior_is_again_a_mixture(sde: LinearSDE) -> None:
    """q_t(x | y) = sum over x_0 of p(x_0 | y) N(x; alpha x_0, sigma^2 I), by quadrature, and its score."""
    t, A = 0.4003, MATRICES["one number"]
    measurement, y = measured(A)
    posterior, alpha, sigma = LAW.posterior(measurement, y), sde.at(t).alpha, sde.at(t).sigma
    points = sde.perturb(posterior.sample(4), t, normal(4, 2))
    x = points.clone().requires_grad_()
    log_posterior = log_prior(NODES) + log_likelihood(NODES, y, A)
    log_posterior = log_posterior - torch.logsumexp(log_posterior, 0)
    log_q = torch.logsumexp(log_posterior - ((x[:, None] - alpha * NODES) ** 2).sum(2) / (2 * sigma**2), 1)
    (score,) = torch.autograd.grad(log_q.sum(), x)
    log_q = log_q.detach() - math.log(2 * math.pi * sigma**2)
    torch.testing.assert_close(posterior.diffuse(sde, t).log_prob(points), log_q, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(posterior.denoiser(sde).score(points, t), score, rtol=1e-6, atol=1e-6)


# --- section 8 -----------------------------------------------------------------------------------------


@each
@each_matrix
def test_the_conditional_score_is_the_prior_s_and_that_of_the_likelihood(sde: LinearSDE, A: Tensor) -> None:
    """grad log q_t(x | y) = s(x, t) + grad log q_t(y | x), q_t(y | x_t) = E[N(y; A X_0, sigma_y^2 I) | X_t = x_t].

    The expectation is over the law of X_0 given x_t: the same mixture's posterior for A = alpha I, in plain algebra.
    """
    measurement, y = measured(A)
    exact = LAW.posterior(measurement, y).denoiser(sde)
    for t in (0.0503, 0.4003, 0.9003):
        alpha, sigma = sde.at(t).alpha, sde.at(t).sigma
        precision = torch.linalg.inv(LAW.covariances)
        S = torch.linalg.inv(precision + alpha**2 / sigma**2 * EYE)

        def log_y_given(x: Tensor, alpha: float = alpha, sigma: float = sigma, S: Tensor = S) -> Tensor:
            m = (S @ (torch.linalg.solve(LAW.covariances, LAW.means) + alpha / sigma**2 * x)[..., None])[..., 0]
            of_x = MultivariateNormal(alpha * LAW.means, alpha**2 * LAW.covariances + sigma**2 * EYE).log_prob(x)
            noise = NOISE**2 * torch.eye(len(A), dtype=torch.float64)
            of_y = MultivariateNormal(m @ A.mT, A @ S @ A.mT + noise).log_prob(y)
            return torch.logsumexp(torch.log_softmax(of_x + LAW.weights.log(), 0) + of_y, 0)

        x = sde.perturb(LAW.sample(5), t, normal(5, 2))
        likelihood = torch.func.vmap(torch.func.grad(log_y_given))(x)
        difference = exact.score(x, t) - LAW.denoiser(sde).score(x, t)
        torch.testing.assert_close(difference, likelihood, rtol=1e-7, atol=1e-7 * likelihood.abs().max().item())


@each_matrix
@pytest.mark.parametrize("t", [0.01, 0.4, 1.0])
def test_the_measurement_as_an_sde_on_a_mixture(A: Tensor, t: float) -> None:
    """Y_t has q_t = sum w_i N(A m_i, A S_i A' + sigma_y^2 t I); grad log q_t = (E[A(X) | Y_t = y] - y) / (sigma_y^2 t).

    And the way back is dY = -sigma_y^2 grad log q_t dt + sigma_y dWbar.
    """
    path = MeasurementPath(pushforward(LAW, Dense(A)).denoiser(sd.VP()), NOISE)
    y = normal(5, len(A), seed=2)
    noise = NOISE**2 * t * torch.eye(len(A), dtype=torch.float64)
    parts = LAW.weights, LAW.means @ A.mT, A @ LAW.covariances @ A.mT + noise
    score = torch.func.vmap(torch.func.grad(lambda y: log_mixture(y[None], *parts)[0]))(y)
    torch.testing.assert_close(path.score(y, t), score, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(path.mean(y, t), y + NOISE**2 * t * score, rtol=1e-9, atol=1e-9)
    back = sd.Reverse(path.reversed, eta=1.0)
    torch.testing.assert_close(back.drift(y, t), -(NOISE**2) * score, rtol=1e-8, atol=1e-8)
    assert back.diffusion(t) == pytest.approx(NOISE, rel=1e-12)


@pytest.mark.parametrize("t", [0.01, 0.4, 1.0])
def test_the_measurement_as_an_sde_of_a_vp_network_without_retraining(t: float) -> None:
    """E[X | Y_t = y] = xhat0(sqrt(abar) y, tau) where abar(tau) = 1 / (1 + sigma_y^2 t), for any network."""
    net = sd.EpsNet(Network(), sd.VP(), condition=sd.LogSNR(), shape=(2,))
    y, abar = normal(5, 2), 1 / (1 + NOISE**2 * t)
    tau = (-0.1 + math.sqrt(0.1**2 - 2 * 19.9 * math.log(abar))) / 19.9  # B(tau) = -log abar
    eps = net.module(math.sqrt(abar) * y, torch.full((5,), math.log(abar / (1 - abar)), dtype=torch.float64))
    printed = (math.sqrt(abar) * y - math.sqrt(1 - abar) * eps) / math.sqrt(abar)
    torch.testing.assert_close(net.x0(math.sqrt(abar) * y, tau), printed, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(MeasurementPath(net, NOISE).mean(y, t), printed, rtol=1e-9, atol=1e-9)


class Network(torch.nn.Module):
    """Some function of x and the log-SNR."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(0.7, dtype=torch.float64), requires_grad=False)

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        return torch.tanh(self.w * x + 0.2 * log_snr[:, None])


def test_the_end_of_the_measurement_sde_is_a_draw_from_the_posterior() -> None:
    """From Y_1 = y down to t = 0, A = I: moments and shares of p(x | y), by quadrature, in standard errors."""
    y, n = torch.tensor([0.4, -0.2], dtype=torch.float64), 4000
    x = MeasurementPath(LAW.denoiser(sd.VP()), 1.5).sample(y, n=n, seed=2)
    likelihood = -((NODES - y) ** 2).sum(1) / (2 * 1.5**2)
    weight = torch.softmax(log_prior(NODES) + likelihood, 0)
    for feature in (lambda x: x, lambda x: x**2, lambda x: x.prod(1, keepdim=True), lambda x: (x > 0).double()):
        error = (feature(x).mean(0) - weight @ feature(NODES)) / (feature(x).std(0) / math.sqrt(n))
        assert error.abs().max() < 4
    exact = LAW.posterior(sd.GaussianMeasurement(Identity(), 1.5), y)
    torch.testing.assert_close(exact.mean(), weight @ NODES, rtol=1e-7, atol=1e-7)
