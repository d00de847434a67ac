"""Theory, section 2: the discrete chain, each numbered equation by its number.

Here and in the files of the other sections (test_theory_bound.py: 3, _sde: 4, _score: 5, _likelihood: 6, _mixtures: 7
and 8, _slips: 11) the left side is the package's and the right side is worked out in the test: from the equation as it
is printed, from joint Gaussians, by quadrature or by differentiation.
"""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from problems import BETAS, normal
from torch import Tensor, nn

import scoresde as sd
from scoresde import grids
from scoresde.chain import DDPM
from scoresde.solvers import Ancestral, State
from scoresde.training import ChainTimes, denoising_loss

SHORT = torch.linspace(0.05, 0.95, 8, dtype=torch.float64)
"""Few and large betas: nothing here is a limit."""

CASES = [*(("ho", k) for k in (1, 2, 3, 100, 999, 1000)), *(("short", k) for k in range(1, 9))]
TABLES = {"ho": BETAS, "short": SHORT}
CHAINS = {name: DDPM(betas) for name, betas in TABLES.items()}
LAW = sd.GaussianMixture([0.3, 0.7], [[-1.0], [0.8]], [0.05, 0.2])

each_k = pytest.mark.parametrize(("name", "k"), CASES)
each_inner_k = pytest.mark.parametrize(("name", "k"), [case for case in CASES if case[1] > 1])
each_variance = pytest.mark.parametrize("variance", ["small", "large"])


def plain(name: str, k: int) -> tuple[float, float, float, float]:
    """beta_k, alpha_k, abar_k and abar_{k-1}, by multiplying."""
    alphas = 1 - TABLES[name].numpy()
    return 1 - alphas[k - 1], alphas[k - 1], float(np.prod(alphas[:k])), float(np.prod(alphas[: k - 1]))


def log_normal(x: Tensor, mean: Tensor | float, variance: float) -> Tensor:
    """log N(x; mean, variance), entry by entry."""
    return -0.5 * (x - mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance)


class Net(nn.Module):
    """A noise-predicting network of a chain: some smooth function of x and the index 0..K-1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.8, dtype=torch.float64))

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        return torch.tanh(self.w * x + 0.3 * torch.sin(k)[:, None])


# --- section 2: the chain ------------------------------------------------------------------------------


@each_k
def test_equation_2_the_kernel(name: str, k: int) -> None:
    """q(x_k | x_{k-1}) = N(sqrt(1 - beta_k) x_{k-1}, beta_k I)."""
    x, beta = normal(5), TABLES[name][k - 1].item()
    mean, variance = CHAINS[name].kernel(x, k)
    torch.testing.assert_close(mean, math.sqrt(1 - beta) * x, rtol=1e-14, atol=0)
    assert variance == pytest.approx(beta, rel=1e-12)


@each_k
def test_equation_4_the_marginal(name: str, k: int) -> None:
    """x_k = sqrt(abar_k) x_0 + sqrt(1 - abar_k) eps."""
    x0, eps, (_, _, abar, _) = normal(5), normal(5, seed=1), plain(name, k)
    mean, variance = CHAINS[name].marginal(x0, k)
    torch.testing.assert_close(mean, math.sqrt(abar) * x0, rtol=1e-11, atol=0)
    assert variance == pytest.approx(1 - abar, rel=1e-11)
    x_k = math.sqrt(abar) * x0 + math.sqrt(1 - abar) * eps
    torch.testing.assert_close(CHAINS[name].perturb(x0, k, eps), x_k, rtol=1e-11, atol=1e-13)


def test_equation_4_2_the_end_is_standard_normal_in_the_limit() -> None:
    """KL(q(x_K) || N(0, 1)) -> 0 with abar_K, as 1/2 abar_K E[x_0]^2; by quadrature, Ho's table cut at K."""
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    gaps, leading = [], []
    for k in (100, 250, 500, 750, 1000):
        chain = DDPM(BETAS[:k]) if k == 1000 else CHAINS["ho"]
        log_q = LAW.diffuse(chain.sde(), k / chain.steps).log_prob(z[:, None])
        gaps.append(((log_q - log_normal(z, 0.0, 1.0)) * log_q.exp()).sum().item() * (z[1] - z[0]).item())
        leading.append(0.5 * chain.alpha_bar[k].item() * LAW.mean().item() ** 2)
    assert all(later < 0.5 * earlier for earlier, later in itertools.pairwise(gaps))
    assert gaps[-1] < 1e-5
    assert gaps[-1] == pytest.approx(leading[-1], rel=1e-2)


def test_equation_2_2_the_joint_law_is_the_product_of_the_kernels() -> None:
    """log q(x_{1:K} | x_0): the sum of log kernels is the density of N with Cov(x_j, x_k) as (4) has it, j <= k."""
    chain, abar = CHAINS["short"], np.cumprod(1 - SHORT.numpy())
    x0, x = 0.7, normal(20, len(SHORT))
    product, before = torch.zeros(20, dtype=torch.float64), torch.full((20,), x0, dtype=torch.float64)
    for k in range(1, len(SHORT) + 1):
        mean, variance = chain.kernel(before, k)
        product += log_normal(x[:, k - 1], mean, variance)
        before = x[:, k - 1]
    low, high = np.maximum.outer(abar, abar), np.minimum.outer(abar, abar)
    joint = scipy.stats.multivariate_normal(np.sqrt(abar) * x0, np.sqrt(high / low) * (1 - low))
    np.testing.assert_allclose(product, joint.logpdf(x), rtol=1e-11)


@each_inner_k
def test_equations_6_and_7_the_posterior(name: str, k: int) -> None:
    """q(x_{k-1} | x_k, x_0), conditioned from the joint Gaussian of (x_{k-1}, x_k) given x_0, and as printed."""
    x_k, x0, (beta, alpha, abar, before) = normal(5), normal(5, seed=1), *[plain(name, k)]
    mean, variance = CHAINS[name].posterior(x_k, x0, k)
    joint = np.array([[1 - before, math.sqrt(alpha) * (1 - before)], [math.sqrt(alpha) * (1 - before), 1 - abar]])
    gain = joint[0, 1] / joint[1, 1]
    torch.testing.assert_close(
        mean, math.sqrt(before) * x0 + gain * (x_k - math.sqrt(abar) * x0), rtol=1e-8, atol=1e-10
    )
    assert variance == pytest.approx(joint[0, 0] - gain * joint[0, 1], rel=1e-7)
    printed = (math.sqrt(alpha) * (1 - before) * x_k + math.sqrt(before) * beta * x0) / (1 - abar)
    torch.testing.assert_close(mean, printed, rtol=1e-9, atol=1e-12)
    assert variance == pytest.approx((1 - before) / (1 - abar) * beta, rel=1e-9)


@each_k
def test_equation_11_the_mean_in_terms_of_noise(name: str, k: int) -> None:
    """mu_k = [x_k - beta_k / sqrt(1 - abar_k) eps] / sqrt(alpha_k), which is (7) where eps and x_0 give x_k."""
    x0, eps, (beta, alpha, abar, before) = normal(5), normal(5, seed=1), *[plain(name, k)]
    x_k = math.sqrt(abar) * x0 + math.sqrt(1 - abar) * eps
    mean = CHAINS[name].posterior_mean_from_eps(x_k, eps, k)
    printed = (x_k - beta / math.sqrt(1 - abar) * eps) / math.sqrt(alpha)
    torch.testing.assert_close(mean, printed, rtol=1e-9, atol=1e-12)
    by_7 = (math.sqrt(alpha) * (1 - before) * x_k + math.sqrt(before) * beta * x0) / (1 - abar)
    torch.testing.assert_close(mean, by_7, rtol=1e-9, atol=1e-11)


@each_k
@each_variance
def test_equations_1_and_1_prime_the_reverse_model(name: str, k: int, variance: str) -> None:
    """A step draws from N(mu_theta(x_k, k), Sigma I), Sigma = beta-tilde_k or beta_k; the last one is its mean."""
    chain, net, x_k = CHAINS[name], Net(), normal(4, 3)
    beta, alpha, abar, before = plain(name, k)
    process = Ancestral(variance).reverse(sd.EpsNet(net, chain.sde(), shape=(3,)))
    step = lambda z: (  # noqa: E731
        Ancestral(variance).step(process, State(x_k.clone()), k / chain.steps, (k - 1) / chain.steps, lambda: z).x
    )
    with torch.no_grad():
        mean, ones = step(torch.zeros_like(x_k)), step(torch.ones_like(x_k))
        eps = net(x_k, torch.full((4,), k - 1.0, dtype=torch.float64))
    torch.testing.assert_close(mean, (x_k - beta / math.sqrt(1 - abar) * eps) / math.sqrt(alpha), rtol=1e-9, atol=1e-9)
    small, large = (1 - before) / (1 - abar) * beta, beta
    wanted = 0.0 if k == 1 else math.sqrt(large if variance == "large" else small)
    torch.testing.assert_close(ones - mean, torch.full_like(x_k, wanted), rtol=1e-8, atol=1e-9)


@each_inner_k
def test_equation_1_prime_the_learned_variance_interpolates_logarithms(name: str, k: int) -> None:
    beta, _, abar, before = plain(name, k)
    v = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    small = (1 - before) / (1 - abar) * beta
    torch.testing.assert_close(CHAINS[name].variance_learned(v, k), beta**v * small ** (1 - v), rtol=1e-8, atol=0)


def test_algorithm_1_the_loss_of_training() -> None:
    """|eps - eps_theta(sqrt(abar_k) x_0 + sqrt(1 - abar_k) eps, k)|^2 and its gradient, k uniform in {1..K}."""
    K, net = len(BETAS), Net()
    t = ChainTimes(K)((torch.arange(2 * K) + 0.5) / (2 * K))
    k = (K * t).round().long()
    assert (t * K - k).abs().max() < 1e-9
    assert k.bincount()[1:].tolist() == [2] * K
    x0, eps = normal(2 * K, 3), normal(2 * K, 3, seed=1)
    loss = 3 * denoising_loss(sd.EpsNet(net, sd.VP.from_betas(BETAS)), x0, t, eps)  # the package's is per dimension
    abar = torch.cumprod(1 - BETAS, 0)[k - 1, None]
    printed = (eps - net(abar.sqrt() * x0 + (1 - abar).sqrt() * eps, (k - 1).double())).square().sum(1)
    torch.testing.assert_close(loss, printed, rtol=1e-9, atol=1e-12)
    ours, theirs = (torch.autograd.grad(each.mean(), net.w)[0] for each in (loss, printed))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)


@each_variance
@pytest.mark.parametrize("name", CHAINS)
def test_algorithm_2_ancestral_sampling(name: str, variance: str) -> None:
    """x_{k-1} = (x_k - (1 - alpha_k) / sqrt(1 - abar_k) eps_theta(x_k, k)) / sqrt(alpha_k) + sigma_k z, k = K..1."""
    chain, net, K, n = CHAINS[name], Net(), CHAINS[name].steps, 3
    denoiser = sd.EpsNet(net, chain.sde(), shape=(2,))
    noise = sd.CounterNoise(5, torch.arange(n), (2,), torch.float64)
    x = x1 = noise.start()
    for k in range(K, 0, -1):
        beta, alpha, abar, before = plain(name, k)
        sigma2 = beta if variance == "large" else (1 - before) / (1 - abar) * beta
        z = noise.at(K - k, k / K, (k - 1) / K)() if k > 1 else torch.zeros_like(x)
        eps = net(x, torch.full((n,), k - 1.0, dtype=torch.float64)).detach()
        x = (x - (1 - alpha) / math.sqrt(1 - abar) * eps) / math.sqrt(alpha) + math.sqrt(sigma2) * z
    drawn = sd.sample(denoiser, Ancestral(variance), times=grids.chain(K), x1=x1, seed=5)
    torch.testing.assert_close(drawn, x, rtol=1e-8, atol=1e-9)


@each_k
def test_n3_the_step_as_an_interpolation_of_x_and_the_clean_estimate(name: str, k: int) -> None:
    """(7) with xhat0 = (x_k - sqrt(1 - abar_k) eps_theta) / sqrt(abar_k) for x_0 is (11) with eps_theta."""
    chain, x_k, net = CHAINS[name], normal(4, 3), Net()
    denoiser, (beta, alpha, abar, before) = sd.EpsNet(net, chain.sde()), plain(name, k)
    with torch.no_grad():
        x0_hat = denoiser.x0(x_k, k / chain.steps)
        eps = net(x_k, torch.full((4,), k - 1.0, dtype=torch.float64))
    interpolated = (math.sqrt(alpha) * (1 - before) * x_k + math.sqrt(before) * beta * x0_hat) / (1 - abar)
    torch.testing.assert_close(chain.posterior_mean_from_eps(x_k, eps, k), interpolated, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(
        chain.posterior(x_k, x0_hat, k)[0],
        (x_k - beta / math.sqrt(1 - abar) * eps) / math.sqrt(alpha),
        rtol=1e-8,
        atol=1e-9,
    )
