"""Theory, section 3: the variational bound, each term and each weight, its exact value, and theorem 2.2.1."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from problems import BETAS, normal
from torch import Tensor

import scoresde as sd
from scoresde.chain import DDPM, discretised_log_prob
from scoresde.training.loss import chain_vlb

SHORT = torch.linspace(0.05, 0.95, 8, dtype=torch.float64)
TABLES = {"ho": BETAS, "short": SHORT}
CHAINS = {name: DDPM(betas) for name, betas in TABLES.items()}
LAW = sd.GaussianMixture([0.3, 0.7], [[-1.0], [0.8]], [0.05, 0.2])

each_inner_k = pytest.mark.parametrize(
    ("name", "k"), [*(("ho", k) for k in (2, 3, 100, 999, 1000)), *(("short", k) for k in range(2, 9))]
)
each_variance = pytest.mark.parametrize("variance", ["small", "large"])


def plain(name: str, k: int) -> tuple[float, float, float, float]:
    """beta_k, alpha_k, abar_k and abar_{k-1}, by multiplying."""
    alphas = 1 - TABLES[name].numpy()
    return 1 - alphas[k - 1], alphas[k - 1], float(np.prod(alphas[:k])), float(np.prod(alphas[: k - 1]))


def log_normal(x: Tensor, mean: Tensor | float, variance: float) -> Tensor:
    """log N(x; mean, variance), entry by entry."""
    return -0.5 * (x - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)


# --- the terms -----------------------------------------------------------------------------------------


def expected_kl(mean_q: Tensor, cov_q: Tensor, mean_p: Tensor, cov_p: Tensor) -> float:
    """E_q[log q - log p] by Gauss-Hermite nodes: log q - log p is quadratic, so that three of them are exact."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    dim = len(mean_q)
    z = np.stack([axis.ravel() for axis in np.meshgrid(*[nodes] * dim)], 1)
    w = np.prod(np.meshgrid(*[weights / weights.sum()] * dim), 0).ravel()
    x = mean_q.numpy() + z @ np.linalg.cholesky(cov_q.numpy()).T
    q, p = (scipy.stats.multivariate_normal(m.numpy(), s.numpy()) for m, s in ((mean_q, cov_q), (mean_p, cov_p)))
    return float(w @ (q.logpdf(x) - p.logpdf(x)))


def covariance(dim: int, seed: int) -> Tensor:
    a = normal(dim, dim, seed=seed)
    return a @ a.mT + 0.1 * torch.eye(dim, dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_lemma_4_the_kl_of_gaussians(dim: int) -> None:
    """1/2 [log |S_p| / |S_q| - d + (m_q - m_p)' S_p^-1 (m_q - m_p) + tr(S_p^-1 S_q)], and its definition."""
    q, p = (normal(dim, seed=1), covariance(dim, 2)), (normal(dim, seed=3), covariance(dim, 4))
    found, difference, inverse = sd.gaussian_kl(*q, *p), q[0] - p[0], torch.linalg.inv(p[1])
    quadratic = difference @ inverse @ difference + torch.trace(inverse @ q[1])
    printed = 0.5 * (torch.logdet(p[1]) - torch.logdet(q[1]) - dim + quadratic).item()
    assert found == pytest.approx(printed, rel=1e-11)
    assert found == pytest.approx(expected_kl(*q, *p), rel=1e-10)


def test_section_9_the_kl_of_a_gaussian_vae_is_lemma_4() -> None:
    """KL(N(mu, sd^2) || N(0, I)) = 1/2 sum(mu^2 + sd^2 - 1 - log sd^2)."""
    mu, sd2 = normal(6), normal(6, seed=1) ** 2
    found = sd.gaussian_kl(mu, torch.diag(sd2), torch.zeros(6).double(), torch.eye(6).double())
    assert found == pytest.approx(0.5 * (mu**2 + sd2 - 1 - sd2.log()).sum().item(), rel=1e-12)


@pytest.mark.parametrize("name", CHAINS)
def test_the_term_l_K(name: str) -> None:
    """L_K = KL(q(x_K | x_0) || N(0, I))."""
    chain, x0, (_, _, abar, _) = CHAINS[name], normal(3, 2), plain(name, CHAINS[name].steps)
    eye = torch.eye(2, dtype=torch.float64)
    wanted = [expected_kl(math.sqrt(abar) * one, (1 - abar) * eye, 0 * one, eye) for one in x0]
    np.testing.assert_allclose(chain.prior_kl(x0), wanted, rtol=1e-7, atol=1e-13)


@each_inner_k
@each_variance
def test_the_terms_l_k(name: str, k: int, variance: str) -> None:
    """L_{k-1} = KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k)), whatever x_k is."""
    x0, x0_hat, x_k = normal(2), normal(2, seed=1), normal(2, seed=2)
    beta, alpha, abar, before = plain(name, k)
    mean = lambda clean: (math.sqrt(alpha) * (1 - before) * x_k + math.sqrt(before) * beta * clean) / (1 - abar)  # noqa: E731
    small, eye = (1 - before) / (1 - abar) * beta, torch.eye(2, dtype=torch.float64)
    wanted = expected_kl(mean(x0), small * eye, mean(x0_hat), (beta if variance == "large" else small) * eye)
    found = CHAINS[name].step_kl(x0[None], x0_hat[None], k, large=variance == "large").item()
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("mean", "std"), [(0.1, 0.02), (-0.98, 0.05), (1.3, 0.3), (0.0, 5.0)])
def test_the_term_l_0_is_hos_discretised_decoder(mean: float, std: float) -> None:
    """The mass of N(mean, std^2) in bins of width 2/255 on [-1, 1], those of -1 and 1 open; a law on 256 values."""
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    edges = np.concatenate([[-np.inf], values.numpy()[1:] - 1 / 255, [np.inf]])
    found = (
        discretised_log_prob(values[:, None], torch.full((256, 1), mean, dtype=torch.float64), std, 2 / 255)
        .exp()
        .numpy()
    )
    np.testing.assert_allclose(found, np.diff(scipy.stats.norm(mean, std).cdf(edges)), rtol=1e-9, atol=1e-14)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)


@each_inner_k
@each_variance
def test_equations_8_and_12_the_weight_in_terms_of_noise(name: str, k: int, variance: str) -> None:
    """L_{k-1} = beta_k^2 / (2 sigma_k^2 alpha_k (1 - abar_k)) |eps - eps_theta|^2 + C."""
    chain, large, (beta, alpha, abar, before) = CHAINS[name], variance == "large", plain(name, k)
    x0, eps, eps_theta = normal(1, 3), normal(1, 3, seed=1), normal(1, 3, seed=2)
    small = (1 - before) / (1 - abar) * beta
    sigma2 = beta if large else small
    C = 0.5 * 3 * (small / sigma2 - 1 - math.log(small / sigma2))
    weight = beta**2 / (2 * sigma2 * alpha * (1 - abar))
    x0_hat = x0 + math.sqrt((1 - abar) / abar) * (eps - eps_theta)  # x_k is the same
    found = chain.step_kl(x0, x0_hat, k, large=large).item()
    assert found == pytest.approx(weight * (eps - eps_theta).square().sum().item() + C, rel=1e-7)
    assert chain.eps_weight(k, large=large) == pytest.approx(weight, rel=1e-8)
    if not large:  # that of training, K times, as k is drawn uniformly
        assert float(chain_vlb(chain.sde(), chain.steps)(chain.sde().at(k / chain.steps))) == pytest.approx(
            chain.steps * weight, rel=1e-6
        )


@each_inner_k
@each_variance
def test_equations_8_and_12_the_weight_in_terms_of_x0(name: str, k: int, variance: str) -> None:
    """L_{k-1} = abar_{k-1} beta_k^2 / (2 sigma_k^2 (1 - abar_k)^2) |x_0 - xhat0|^2 + C."""
    large, (beta, _, abar, before) = variance == "large", plain(name, k)
    x0, x0_hat = normal(1, 3), normal(1, 3, seed=1)
    small = (1 - before) / (1 - abar) * beta
    sigma2 = beta if large else small
    C = 0.5 * 3 * (small / sigma2 - 1 - math.log(small / sigma2))
    weight = before * beta**2 / (2 * sigma2 * (1 - abar) ** 2)
    found = CHAINS[name].step_kl(x0, x0_hat, k, large=large).item()
    assert found == pytest.approx(weight * (x0 - x0_hat).square().sum().item() + C, rel=1e-8)


# --- the bound itself, in 1-D by quadrature ------------------------------------------------------------

Z = torch.linspace(-9, 9, 1201, dtype=torch.float64)
DZ = (Z[1] - Z[0]).item()
WRONG = sd.GaussianMixture([0.5, 0.5], [[-0.6], [1.0]], [0.2, 0.2]).denoiser(CHAINS["short"].sde())
"""A model p_theta that is not the data's."""


def reverse_step(x_k: Tensor, k: int, variance: str) -> tuple[Tensor, float]:
    """Mean (11) and variance of p_theta(x_{k-1} | x_k) for `WRONG`; beta_1 in the last step, as Ho et al. have it."""
    beta, alpha, abar, before = plain("short", k)
    x0_hat = WRONG.x0(x_k[:, None], k / len(SHORT))[:, 0]
    eps = (x_k - math.sqrt(abar) * x0_hat) / math.sqrt(1 - abar)
    mean = (x_k - beta / math.sqrt(1 - abar) * eps) / math.sqrt(alpha)
    return mean, beta if variance == "large" or k == 1 else (1 - before) / (1 - abar) * beta


def exact_log_p(x0: Tensor, variance: str) -> Tensor:
    """log p_theta(x_0) by carrying p(x_K) = N(0, 1) through the reverse kernels."""
    p = log_normal(Z, 0.0, 1.0).exp()
    for k in range(len(SHORT), 0, -1):
        mean, sigma2 = reverse_step(Z, k, variance)
        p = log_normal((Z if k > 1 else x0)[:, None], mean, sigma2).exp() @ p * DZ
    return p.log()


def expected_terms(x0: float, variance: str) -> list[float]:
    """L_0..L_K for one x_0: E over q(x_k | x_0) of Lemma 4 by quadrature."""
    terms = []
    for k in range(1, len(SHORT) + 1):
        beta, alpha, abar, before = plain("short", k)
        q = log_normal(Z, math.sqrt(abar) * x0, 1 - abar).exp() * DZ
        mean, sigma2 = reverse_step(Z, k, variance)
        if k == 1:
            terms.append(-(q @ log_normal(torch.tensor(x0), mean, sigma2)).item())
            continue
        small = (1 - before) / (1 - abar) * beta
        mu = (math.sqrt(alpha) * (1 - before) * Z + math.sqrt(before) * beta * x0) / (1 - abar)
        kl = 0.5 * (math.log(sigma2 / small) - 1 + (mu - mean) ** 2 / sigma2 + small / sigma2)
        terms.append((q @ kl).item())
    abar = plain("short", len(SHORT))[2]
    return [*terms, 0.5 * (-math.log(1 - abar) - abar + abar * x0**2)]


@each_variance
def test_equation_5_the_bound_and_its_terms(variance: str) -> None:
    """-log p(x_0) <= L_K + sum L_{k-1} + L_0, each term in expectation, at three points; and the excess is a KL."""
    n, points = 10_000, torch.tensor([-1.2, 0.1, 1.6], dtype=torch.float64)
    bound = CHAINS["short"].bound(WRONG, points.repeat_interleave(n)[:, None], seed=3, variance=variance)
    terms = bound.terms.unflatten(1, (3, n))
    wanted = torch.tensor([expected_terms(x0, variance) for x0 in points.tolist()], dtype=torch.float64).T
    error = (terms.mean(2) - wanted) / (terms.std(2) / math.sqrt(n)).clamp_min(1e-9)
    assert error.abs().max() < 4
    total = bound.nats().unflatten(0, (3, n))
    excess = (total.mean(1) + exact_log_p(points, variance)) / (total.std(1) / math.sqrt(n))
    assert excess.min() > -3
    assert excess.mean() > 3  # strict, as no Gaussian step is the posterior of this model


def test_equation_1_2_the_mean_weight_is_the_likelihood_and_its_log_tightens() -> None:
    """p_theta(x_0) = E[p(x_K) prod p_theta(x_{k-1} | x_k) / q(x_{1:K} | x_0)]; M = 1 is the bound (5)."""
    n, M, points = 128, 64, torch.tensor([-1.2, 0.1, 1.6], dtype=torch.float64)
    x0 = points.repeat_interleave(n)[:, None]
    weighted = CHAINS["short"].weighted_bound(WRONG, x0, trajectories=M, seed=4, batch_size=len(x0))
    exact = exact_log_p(points, "small")
    ratio = torch.exp(weighted.log_weights.unflatten(1, (3, n)).transpose(1, 2).flatten(0, 1) - exact)
    assert ((ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(n * M))).abs().max() < 4
    excess = [(weighted.nats(m).unflatten(0, (3, n)).mean(1) + exact).mean().item() for m in (1, 4, 16, 64)]
    assert excess == sorted(excess, reverse=True)
    assert excess[0] > 2 * excess[1] > 4 * excess[-1]
    terms = torch.tensor([sum(expected_terms(x, "small")) for x in points.tolist()], dtype=torch.float64)
    first = weighted.nats(1).unflatten(0, (3, n))
    assert ((first.mean(1) - terms) / (first.std(1) / math.sqrt(n))).abs().max() < 4


# --- theorem 2.2.1 -------------------------------------------------------------------------------------

S, T = 0.25, 0.4
NODES = torch.linspace(-6, 6, 151, dtype=torch.float64)
DX = (NODES[1] - NODES[0]).item()


def conditional_laws(beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """For x_{k-1} at time S and the given beta_k, on NODES: q(x_k, x_0), q(x_{k-1} | x_k) and q(x_{k-1} | x_k, x_0).

    Indices are (x_k, x_{k-1}, x_0). The second is Bayes' rule on the mixture's exact marginal and the kernel (2), the
    third is (6, 7).
    """
    sde = sd.VP()
    t = sde.time_of_integral(sde.integral(torch.tensor(S).double()) - math.log1p(-beta)).item()
    chain, k = DDPM.from_sde(sde, [1.0, t, S, 0.0]), 2
    assert chain.beta[k].item() == pytest.approx(beta, rel=1e-9)
    x, dims = NODES[:, None], len(NODES)
    kernel_mean, kernel_variance = chain.kernel(NODES, k)
    joint = log_normal(x, kernel_mean, kernel_variance).exp() * LAW.diffuse(sde, S).log_prob(x).exp()
    marginal = joint / LAW.diffuse(sde, t).log_prob(x).exp()[:, None]
    mean_k, variance_k = chain.marginal(NODES, k)
    pair = log_normal(x, mean_k, variance_k).exp() * LAW.log_prob(x).exp()
    mean, variance = chain.posterior(x.expand(dims, dims), NODES.expand(dims, dims), k)
    return pair, marginal, log_normal(NODES[None, :, None], mean[:, None, :], variance).exp()


def log(p: Tensor) -> Tensor:
    return p.clamp_min(1e-300).log()


@pytest.mark.parametrize("beta", [0.2, 0.6])
def test_theorem_2_2_1_marginal_and_conditional_kl_differ_by_a_constant(beta: float) -> None:
    """E KL(q(x_{k-1}|x_k) || p_phi) = E KL(q(x_{k-1}|x_k, x_0) || p_phi) - I(x_{k-1}; x_0 | x_k), whatever phi is."""
    pair, marginal, conditional = conditional_laws(beta)
    x, p_k = NODES[:, None], pair.sum(1) * DX
    candidates = [
        log_normal(NODES, 0.8 * x, 0.1),
        log_normal(NODES, torch.tanh(x), 0.5),
        torch.logaddexp(log_normal(NODES, 0.9 * x - 0.3, 0.2), log_normal(NODES, x + 0.2, 0.4)) - math.log(2),
        log(marginal),
    ]
    information = torch.einsum("ac,abc,abc->", pair, conditional, log(conditional) - log(marginal)[:, :, None])
    left, right = [], []
    for log_phi in candidates:
        left.append((p_k[:, None] * marginal * (log(marginal) - log_phi)).sum().item() * DX**2)
        excess = conditional * (log(conditional) - log_phi[:, :, None])
        right.append(torch.einsum("ac,abc->", pair, excess).item() * DX**3)
    np.testing.assert_allclose(np.subtract(right, left), information.item() * DX**3, rtol=1e-7)
    assert information.item() * DX**3 > 0.005
    assert min(right[:-1]) > right[-1] + 0.01  # the marginal kernel is the minimiser
    assert left[-1] == 0


@pytest.mark.parametrize("beta", [0.2, 0.6])
def test_theorem_2_2_1_the_minimiser_is_the_mixture_over_x0(beta: float) -> None:
    """E over x_0 given x_k of q(x_{k-1} | x_k, x_0) is q(x_{k-1} | x_k)."""
    pair, marginal, conditional = conditional_laws(beta)
    mixture = torch.einsum("ac,abc->ab", pair, conditional) / pair.sum(1)[:, None]
    likely = NODES.abs() < 4
    torch.testing.assert_close(mixture[likely], marginal[likely], rtol=1e-6, atol=1e-9)


def test_theorem_2_2_1_the_minimiser_is_gaussian_only_as_beta_falls_to_0() -> None:
    """E KL(q(x_{k-1} | x_k) || its moment-matched Gaussian) is of order beta^3: a skewness of order beta^(3/2)."""
    gaps = []
    for beta in (0.4, 0.2, 0.1, 0.05):
        pair, marginal, _ = conditional_laws(beta)
        p_k, x = pair.sum(1) * DX, NODES
        mean = (marginal * x).sum(1) * DX
        variance = (marginal * (x - mean[:, None]) ** 2).sum(1) * DX
        log_gaussian = (
            -0.5 * (x - mean[:, None]) ** 2 / variance[:, None] - 0.5 * (2 * math.pi * variance).log()[:, None]
        )
        gaps.append((p_k[:, None] * marginal * (log(marginal) - log_gaussian)).sum().item() * DX**2)
    assert gaps[0] > 1e-3
    orders = np.log2(np.array(gaps[:-1]) / gaps[1:])
    assert (np.diff(orders) > 0).all()
    assert orders[-1] == pytest.approx(3.0, abs=0.3)
