"""Theory, section 11: where the lecture notes slip, the package has the right form and would not pass with theirs."""

import math

import numpy as np
import pytest
import torch
from problems import BETAS, normal
from torch import Tensor

import scoresde as sd
from scoresde.chain import DDPM

K = 1000
CHAIN = DDPM(BETAS)
ALPHA = [1.0, *(1 - BETAS).tolist()]
ABAR = np.cumprod(ALPHA).tolist()
each_k = pytest.mark.parametrize("k", [2, 10, 100])


def tells(found: Tensor | float, right: Tensor | float, wrong: Tensor | float, by: float = 1e-3) -> None:
    """`found` is the right one to rounding, and the wrong one is off by a share `by` and more."""
    found, right, wrong = (torch.as_tensor(a, dtype=torch.float64) for a in (found, right, wrong))
    torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-11)
    assert (wrong - found).norm() > by * found.norm()


@each_k
def test_n2_from_elbo_to_mse_the_denominators_are_one_minus_abar_t(k: int) -> None:
    """Not 1 - abar_{t-1}, in mu_q and in the variance."""
    x_k, x0, beta = normal(5), normal(5, seed=1), 1 - ALPHA[k]
    mean, variance = CHAIN.posterior(x_k, x0, k)
    numerator = math.sqrt(ALPHA[k]) * (1 - ABAR[k - 1]) * x_k + math.sqrt(ABAR[k - 1]) * beta * x0
    tells(mean, numerator / (1 - ABAR[k]), numerator / (1 - ABAR[k - 1]))
    tells(variance, (1 - ABAR[k - 1]) / (1 - ABAR[k]) * beta, beta)


@each_k
def test_n2_from_elbo_to_mse_the_weight_of_x0_is_squared(k: int) -> None:
    """abar_{t-1} (1 - alpha_t)^2 / (1 - abar_t)^2, over 2 sigma_t^2."""
    x0, x0_hat, beta = normal(1, 3), normal(1, 3, seed=1), 1 - ALPHA[k]
    weight = CHAIN.step_kl(x0, x0_hat, k) / (x0 - x0_hat).square().sum() * 2 * CHAIN.variance_small(k)
    right = ABAR[k - 1] * beta**2 / (1 - ABAR[k]) ** 2
    tells(weight[0], right, math.sqrt(ABAR[k - 1]) * beta / (1 - ABAR[k]))


@each_k
def test_n2_further_objectives_3_the_middle_term_is_one_minus_alpha_and_eps_is_subtracted(k: int) -> None:
    x_k, eps, beta = normal(5), normal(5, seed=1), 1 - ALPHA[k]
    mean, factor = CHAIN.posterior_mean_from_eps(x_k, eps, k), 1 / math.sqrt(1 - ABAR[k])
    tells(mean, (x_k - beta * factor * eps) / math.sqrt(ALPHA[k]), (x_k + beta * factor * eps) / math.sqrt(ALPHA[k]))
    tells(
        mean, (x_k - beta * factor * eps) / math.sqrt(ALPHA[k]), (x_k - ALPHA[k] * factor * eps) / math.sqrt(ALPHA[k])
    )


@each_k
def test_n2_5_the_denominator_of_the_weight_of_eps_has_abar(k: int) -> None:
    """(1 - alpha_t)^2 / ((1 - abar_t) alpha_t), over 2 sigma_t^2."""
    beta = 1 - ALPHA[k]
    weight = CHAIN.eps_weight(k) * 2 * CHAIN.variance_small(k)
    tells(weight, beta**2 / ((1 - ABAR[k]) * ALPHA[k]), beta**2 / ((1 - ALPHA[k]) * ALPHA[k]))


def test_n3_writes_beta_for_a_standard_deviation() -> None:
    """Its beta_i^2 is beta_i here, its alpha_i sqrt(alpha_i), its abar_i sqrt(abar_i)."""
    their_beta = BETAS.sqrt()
    their_abar = torch.cumprod((1 - their_beta**2).sqrt(), 0)
    chain, x = DDPM(their_beta**2), normal(5)
    tells(chain.alpha_bar[1:], their_abar**2, their_abar)
    for k in (1, 500, K):
        mean, variance = chain.kernel(x, k)
        tells(mean, math.sqrt(1 - their_beta[k - 1] ** 2) * x, (1 - their_beta[k - 1] ** 2) * x, by=1e-5)
        tells(variance, their_beta[k - 1] ** 2, their_beta[k - 1])
        tells(chain.marginal(x, k)[0], their_abar[k - 1] * x, their_abar[k - 1].sqrt() * x, by=1e-5)


def test_n4_the_covariance_of_the_kernel_is_beta() -> None:
    """Not sqrt(beta): only then do the kernels one after the other give (4)."""
    right, wrong = 0.0, 0.0
    for k in range(1, K + 1):
        scale, variance = CHAIN.kernel(torch.ones(1, dtype=torch.float64), k)
        right = scale.item() ** 2 * right + variance
        wrong = scale.item() ** 2 * wrong + math.sqrt(variance)
        if k in (1, 10, 1000):
            tells(CHAIN.marginal(torch.ones(1), k)[1], right, wrong)


def test_n4_the_product_of_alphas_ends_at_alpha_1() -> None:
    """abar_k = alpha_k ... alpha_1, so that x_1 already has noise."""
    without_the_last = torch.tensor([1.0, *np.cumprod(ALPHA[2:])], dtype=torch.float64)
    tells(CHAIN.alpha_bar[1:], torch.tensor(ABAR[1:], dtype=torch.float64), without_the_last, by=5e-5)
    tells(CHAIN.marginal(torch.ones(1), 1)[1], 1 - ALPHA[1], 0.0)


def test_n5_the_marginal_has_the_product_of_alphas_under_the_root() -> None:
    """Not their sum."""
    x0 = normal(5)
    for k in (2, 10, 1000):
        tells(
            CHAIN.marginal(x0, k)[0], math.sqrt(math.prod(ALPHA[1 : k + 1])) * x0, math.sqrt(sum(ALPHA[1 : k + 1])) * x0
        )


def test_n1_the_bound_1_2_has_the_prior_once_and_q_of_the_last_latent() -> None:
    """log [p(x_K) prod p(x_{k-1} | x_k) / q(x_{1:K} | x_0)]: not p(x_K) twice, not x_1 for x_K in q(x_K | x_0)."""
    betas, x0, n = torch.linspace(0.1, 0.95, 6, dtype=torch.float64), 0.4, 20_000
    chain = DDPM(betas)
    model = sd.GaussianMixture([0.5, 0.5], [[-0.6], [1.0]], [0.2, 0.2]).denoiser(chain.sde())
    abar = np.cumprod([1.0, *(1 - betas).tolist()])
    log_normal = lambda x, m, v: -0.5 * (x - m) ** 2 / v - 0.5 * math.log(2 * math.pi * v)  # noqa: E731
    x = [torch.full((n,), x0, dtype=torch.float64)]
    log_w = torch.zeros(n, dtype=torch.float64)
    for k, beta in enumerate(betas.tolist(), start=1):
        x.append(math.sqrt(1 - beta) * x[-1] + math.sqrt(beta) * normal(n, seed=k))
        x0_hat = model.x0(x[k][:, None], k / 6)[:, 0]
        mu = math.sqrt(1 - beta) * (1 - abar[k - 1]) * x[k] + math.sqrt(abar[k - 1]) * beta * x0_hat
        variance = beta if k == 1 else (1 - abar[k - 1]) / (1 - abar[k]) * beta
        log_w += log_normal(x[k - 1], mu / (1 - abar[k]), variance)
        log_w -= log_normal(x[k], math.sqrt(1 - beta) * x[k - 1], beta)
    log_prior = log_normal(x[6], 0.0, 1.0)
    last = [log_normal(x[k], math.sqrt(abar[6]) * x0, 1 - abar[6]) for k in (6, 1)]
    copies = torch.full((500, 1), x0, dtype=torch.float64)
    found = chain.weighted_bound(model, copies, trajectories=20, seed=1, batch_size=10_000).log_weights.flatten()
    log_w = log_w + log_prior
    assert standard_errors(found.exp(), log_w.exp()) < 4
    assert standard_errors(found, log_w) < 4
    assert standard_errors(found, log_w + log_prior) > 10
    assert standard_errors(found, log_w + last[0] - last[1]) > 10


def standard_errors(a: Tensor, b: Tensor) -> float:
    """The difference of two means in units of its standard error."""
    return abs((a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)).sqrt()).item()
