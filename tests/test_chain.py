"""The discrete chain: every numbered equation of theory 2 and 3, and the bridge to the SDE of theory 4."""

import math

import numpy as np
import pytest
import torch
from problems import BETAS, gaussian, mixture, normal

import scoresde as sd
from scoresde import grids
from scoresde.chain import DDPM, discretised_log_prob

K = len(BETAS)
CHAIN = DDPM(BETAS)
STEPS = (1, 2, 3, 100, 999, 1000)
INNER = STEPS[1:]


def test_tables_are_indexed_by_k() -> None:
    assert CHAIN.steps == K
    assert CHAIN.alpha_bar.shape == (K + 1,)
    assert CHAIN.alpha_bar[0] == 1
    torch.testing.assert_close(CHAIN.alpha_bar[1:], torch.cumprod(1 - BETAS, 0), rtol=1e-12, atol=0)
    torch.testing.assert_close(CHAIN.times, torch.linspace(0, 1, K + 1, dtype=torch.float64))


def test_equation_4_follows_from_equation_2() -> None:
    """Applying the kernels one after the other gives the marginal."""
    mean, variance = torch.ones(1, dtype=torch.float64), 0.0
    for k in range(1, K + 1):
        mean, beta = CHAIN.kernel(mean, k)
        variance = (1 - beta) * variance + beta
        if k in STEPS:
            wanted_mean, wanted_variance = CHAIN.marginal(torch.ones(1, dtype=torch.float64), k)
            torch.testing.assert_close(mean, wanted_mean, rtol=1e-11, atol=0)
            assert variance == pytest.approx(wanted_variance, rel=1e-11)


def test_equation_4_2_the_end_is_standard_normal() -> None:
    mean, variance = CHAIN.marginal(torch.ones(1), K)
    assert mean.item() < 0.01
    assert variance == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("k", STEPS)
def test_equations_6_and_7_are_bayes_rule(k: int) -> None:
    """q(x_{k-1} | x_k, x_0) by precisions from the kernels (2) and (4)."""
    x_k, x0 = normal(5), normal(5, seed=1)
    mean, variance = CHAIN.posterior(x_k, x0, k)
    if k == 1:
        torch.testing.assert_close(mean, x0, rtol=1e-12, atol=1e-12)
        assert variance == 0
        return
    scale, beta = CHAIN.kernel(torch.ones(1, dtype=torch.float64), k)
    before, noise = CHAIN.marginal(x0, k - 1)
    precision = 1 / noise + scale.item() ** 2 / beta
    assert variance == pytest.approx(1 / precision, rel=1e-9)
    torch.testing.assert_close(mean, (before / noise + scale * x_k / beta) / precision, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", STEPS)
def test_equation_11_the_two_forms_of_the_mean_agree(k: int) -> None:
    x0, eps = normal(5), normal(5, seed=1)
    x_k = CHAIN.perturb(x0, k, eps)
    mean, _ = CHAIN.posterior(x_k, x0, k)
    torch.testing.assert_close(CHAIN.posterior_mean_from_eps(x_k, eps, k), mean, rtol=1e-12, atol=1e-12)


def test_the_three_reverse_variances() -> None:
    for k in INNER:
        small, large = CHAIN.variance_small(k), CHAIN.variance_large(k)
        assert 0 < small < large == pytest.approx(BETAS[k - 1].item(), rel=1e-12)
        v = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        wanted = [small, math.sqrt(small * large), large]
        np.testing.assert_allclose(CHAIN.variance_learned(v, k).numpy(), wanted, rtol=1e-12)
    assert CHAIN.variance_small(1) == 0
    assert CHAIN.variance_learned(torch.zeros(1), 1).item() == pytest.approx(CHAIN.variance_small(2))


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("k", INNER)
def test_a_term_of_the_bound_is_lemma_4(k: int, large: bool) -> None:
    x0, x0_hat, x_k = normal(1, 3), normal(1, 3, seed=1), normal(1, 3, seed=2)
    mean_q, variance_q = CHAIN.posterior(x_k, x0, k)
    mean_p, _ = CHAIN.posterior(x_k, x0_hat, k)
    variance_p = CHAIN.variance_large(k) if large else variance_q
    eye = torch.eye(3, dtype=torch.float64)
    wanted = sd.gaussian_kl(mean_q[0], variance_q * eye, mean_p[0], variance_p * eye)
    assert CHAIN.step_kl(x0, x0_hat, k, large=large).item() == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("k", INNER)
def test_equations_8_and_12_the_weights_in_eps_and_in_x0_agree(k: int, large: bool) -> None:
    x0, eps, eps_hat = normal(1, 3), normal(1, 3, seed=1), normal(1, 3, seed=2)
    abar = CHAIN.alpha_bar[k].item()
    x_k = CHAIN.perturb(x0, k, eps)
    x0_hat = (x_k - math.sqrt(1 - abar) * eps_hat) / math.sqrt(abar)
    difference = CHAIN.step_kl(x0, x0_hat, k, large=large) - CHAIN.step_kl(x0, x0, k, large=large)
    wanted = CHAIN.eps_weight(k, large=large) * (eps - eps_hat).square().sum()
    assert difference.item() == pytest.approx(wanted.item(), rel=1e-7)


def test_the_prior_term_is_lemma_4() -> None:
    x0 = normal(1, 3)
    mean, variance = CHAIN.marginal(x0, K)
    eye = torch.eye(3, dtype=torch.float64)
    wanted = sd.gaussian_kl(mean[0], variance * eye, torch.zeros(3).double(), eye)
    assert CHAIN.prior_kl(x0).item() == pytest.approx(wanted, rel=1e-4, abs=1e-12)


def test_the_discretised_decoder_is_a_law_on_256_values() -> None:
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)[:, None]
    for mean, std in ((0.1, 0.02), (-0.999, 0.01), (3.0, 0.01), (0.0, 5.0)):
        log_p = discretised_log_prob(values, torch.full_like(values, mean), std, 2 / 255)
        assert torch.logsumexp(log_p, 0).item() == pytest.approx(0.0, abs=1e-9)
    # far in the tail it is a number, not log 0
    assert math.isfinite(discretised_log_prob(values[:1], torch.full((1, 1), 1.0), 0.01, 2 / 255).item())


def test_a_chain_from_an_sde_has_exactly_its_marginals() -> None:
    for sde in (sd.VP(), sd.VP(0.1, 10.0), sd.VP.from_betas(BETAS)):
        for times in (grids.uniform(7), grids.quadratic(13), grids.log_snr(sde, 10)):
            chain = DDPM.from_sde(sde, times)
            rising = times.flip(0)
            torch.testing.assert_close(chain.alpha_bar, sde.alpha(rising) ** 2, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(
        DDPM.from_sde(sd.VP(), grids.uniform(7).flip(0)).beta, DDPM.from_sde(sd.VP(), grids.uniform(7)).beta
    )


def test_a_chain_becomes_an_sde_and_comes_back() -> None:
    sde = CHAIN.sde()
    torch.testing.assert_close(sde.alpha(CHAIN.times) ** 2, CHAIN.alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(DDPM.from_sde(sde, grids.chain(K)).beta, CHAIN.beta, rtol=1e-9, atol=1e-16)


def test_the_chains_posterior_is_the_sdes_bridge() -> None:
    sde, x_k, x0 = CHAIN.sde(), normal(5), normal(5, seed=1)
    for k in STEPS:
        c_t, c_0, v = sde.bridge((k - 1) / K, k / K)
        mean, variance = CHAIN.posterior(x_k, x0, k)
        torch.testing.assert_close(c_t * x_k + c_0 * x0, mean, rtol=1e-9, atol=1e-12)
        assert v == pytest.approx(variance, rel=1e-8)


def test_song_s_first_order_chain_is_off_by_order_one_over_k() -> None:
    """N2's beta_k = beta(t_k) / K against the exact 1 - (alpha_k / alpha_{k-1})^2: abar differs by O(1/K)."""
    gaps = []
    for steps in (50, 100, 200, 400):
        t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        first_order = torch.cumprod(1 - sd.VP().beta(t) / steps, 0)
        gaps.append((first_order - DDPM.from_sde(sd.VP(), grids.uniform(steps)).alpha_bar[1:]).abs().max().item())
    np.testing.assert_allclose(np.log2(np.array(gaps[:-1]) / np.array(gaps[1:])), 1.0, atol=0.1)


def test_the_bound_is_above_the_exact_value_and_close_for_a_fine_chain() -> None:
    law = gaussian()
    x0 = law.sample(500, seed=1)
    excess = {}
    for variance in ("small", "large"):
        bound = CHAIN.bound(law.denoiser(sd.VP()), x0, seed=2, variance=variance)
        assert bound.terms.shape == (K + 1, 500)
        gap = bound.nats() + law.log_prob(x0)  # bound - (-log p)
        excess[variance], error = gap.mean().item(), gap.std().item() / math.sqrt(500)
        assert excess[variance] > -3 * error
    # the data have a spread, for which the large variance is the better one
    assert excess["large"] < 0.05 + 3 * error
    assert excess["large"] < excess["small"] < 1.5
    torch.testing.assert_close(bound.bits_per_dim(), bound.nats() / (2 * math.log(2)))
    torch.testing.assert_close(bound.terms_bits_per_dim().sum(), bound.bits_per_dim().mean())


def test_the_bound_does_not_depend_on_the_denoisers_own_process() -> None:
    law, chain = mixture(), DDPM(torch.linspace(1e-3, 0.2, 40))
    x0 = law.sample(20)
    reference = chain.bound(law.denoiser(sd.VP(0.1, 40.0)), x0, seed=3).terms
    for sde in (sd.VE(1e-3, 100.0), sd.RectifiedFlow(), sd.EDM()):
        torch.testing.assert_close(chain.bound(law.denoiser(sde), x0, seed=3).terms, reference, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore::scoresde.ProcessWarning")  # a short chain
def test_theorem_2_2_1_marginal_and_conditional_kl_differ_by_a_constant() -> None:
    """E KL(p(x_{k-1}|x_k) || p_phi) - E KL(p(x_{k-1}|x_k, x_0) || p_phi) is free of phi (1-D, two-point prior)."""
    chain, k = DDPM([0.3, 0.4, 0.5]), 2
    points, prior = torch.tensor([-1.0, 1.5]).double(), torch.tensor([0.4, 0.6]).double()
    z = torch.linspace(-7, 7, 1501, dtype=torch.float64)
    abar, noise = chain.alpha_bar[k].sqrt(), 1 - chain.alpha_bar[k]
    normal_pdf = lambda x, m, v: torch.exp(-0.5 * (x - m) ** 2 / v) / (2 * math.pi * v) ** 0.5  # noqa: E731
    joint = prior * normal_pdf(z[:, None], abar * points, noise)  # (x_k, x_0)
    p_k = joint.sum(1)
    responsibility = joint / p_k[:, None]
    means = torch.stack([chain.posterior(z, torch.full_like(z, p.item()), k)[0] for p in points], 1)
    variance = chain.variance_small(k)
    conditional = normal_pdf(z[None, :, None], means[:, None, :], variance)  # (x_k, x_{k-1}, x_0)
    marginal = (conditional * responsibility[:, None, :]).sum(2)
    dz = (z[1] - z[0]).item()
    gaps = []
    for slope, width in ((0.5, 0.3), (0.9, 0.7), (0.2, 2.0)):
        log_phi = torch.log(normal_pdf(z[None, :], slope * z[:, None], width))
        left = (marginal * (torch.log(marginal.clamp_min(1e-300)) - log_phi)).sum(1) * dz
        right = (conditional * (torch.log(conditional.clamp_min(1e-300)) - log_phi[:, :, None])).sum(1) * dz
        gaps.append(((left - (right * responsibility).sum(1)) * p_k).sum().item() * dz)
    assert gaps[0] < -0.01
    np.testing.assert_allclose(gaps, gaps[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: DDPM([0.1, 1.5]), "entry 2 is 1.5"),
        (lambda: CHAIN.kernel(torch.ones(1), 0), r"k = 0; it must lie in 1\.\.1000"),
        (lambda: CHAIN.posterior(torch.ones(1), torch.ones(1), 1001), "k = 1001"),
        (lambda: CHAIN.step_kl(torch.ones(1, 1), torch.ones(1, 1), 1), r"2\.\.1000"),
        (lambda: DDPM.from_sde(sd.VE(), grids.uniform(5)), "does not preserve the variance"),
        (lambda: DDPM.from_sde(sd.VP.cosine(), grids.uniform(5)), "alpha = 0 at t = 1"),
        (lambda: DDPM.from_sde(sd.VP(), [1.0, 0.5]), "starts from the data"),
        (lambda: CHAIN.bound(gaussian().denoiser(sd.VP()), torch.full((1, 2), math.nan)), "finite"),
        (lambda: CHAIN.bound(gaussian().denoiser(sd.VP()), torch.ones(1, 2), variance="medium"), "medium"),
    ],
)
def test_wrong_arguments_are_refused(act, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        act()
