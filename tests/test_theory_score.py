"""Theory, section 5: score matching. The identities of eps, x0, score and v, the losses and their weights."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import BETAS, PROCESSES, normal
from torch import Tensor, nn

import scoresde as sd
from scoresde.denoisers import NetDenoiser
from scoresde.parameterisations import Parameterisation
from scoresde.sde import Level, LinearSDE
from scoresde.training import WEIGHTS, denoising_loss
from scoresde.training.loss import chain_vlb

each = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
TIMES = (1e-3, 0.0503, 0.4003, 0.9003, 0.99)
LAW = sd.GaussianMixture([0.3, 0.7], [[-1.0], [0.8]], [0.05, 0.2])
STD = 0.7

PRINTED: dict[str, tuple[Parameterisation, Callable[[Level, Tensor, Tensor], Tensor]]] = {
    "eps": (sd.PredictsEps(), lambda at, x0, eps: eps),
    "x0": (sd.PredictsX0(), lambda at, x0, eps: x0),
    "score": (sd.PredictsScore(), lambda at, x0, eps: -eps / at.sigma),
    "v": (sd.PredictsV(), lambda at, x0, eps: (at.alpha * eps - at.sigma * x0) / math.hypot(at.alpha, at.sigma)),
    # Karras et al. 2022, table 1, at their sigma: D = c_skip (x / alpha) + c_out F
    "edm": (sd.PredictsEDM(STD), lambda at, x0, eps: karras(at.sigma / at.alpha, x0, x0 + at.sigma / at.alpha * eps)),
}
"""Each parameterisation and what it predicts, as printed."""
each_kind = pytest.mark.parametrize(("kind", "meaning"), PRINTED.values(), ids=PRINTED.keys())


def karras(sigma: float, x0: Tensor, x: Tensor) -> Tensor:
    """F such that c_skip x + c_out F = x0."""
    c_skip, c_out = STD**2 / (sigma**2 + STD**2), sigma * STD / math.sqrt(sigma**2 + STD**2)
    return (x0 - c_skip * x) / c_out


class Answer(nn.Module):
    """A network that answers with a given tensor, or with a function of what it is told."""

    def __init__(self, answer: Tensor | Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.answer, self.size = answer, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.answer if isinstance(self.answer, Tensor) else self.answer(x, condition)


def network(answer: Tensor | Callable[[Tensor, Tensor], Tensor], sde: LinearSDE, kind: Parameterisation) -> NetDenoiser:
    return NetDenoiser(Answer(answer), sde, kind, condition=sd.LogSNR(-60, 60))


# --- identities ----------------------------------------------------------------------------------------


@each
def test_the_score_of_the_kernel(sde: LinearSDE) -> None:
    """grad log q(x_t | x_0) = -eps / sigma(t), by differentiating the density of N(alpha x_0, sigma^2 I)."""
    x0, eps = normal(5, 3), normal(5, 3, seed=1)
    for t in TIMES:
        mean, std = sde.marginal(x0, t)
        x = sde.perturb(x0, t, eps).requires_grad_()
        (score,) = torch.autograd.grad(torch.distributions.Normal(mean, std).log_prob(x).sum(), x)
        torch.testing.assert_close(score, -eps / sde.at(t).sigma, rtol=1e-8, atol=1e-12)


@each
@each_kind
def test_the_four_parameterisations_convert_at_every_t(
    sde: LinearSDE, kind: Parameterisation, meaning: Callable[[Level, Tensor, Tensor], Tensor]
) -> None:
    """xhat0 = (x - sigma eps) / alpha = (x + sigma^2 s) / alpha, s = -eps / sigma, v = alpha eps - sigma x_0."""
    x0, eps = normal(5, 3), normal(5, 3, seed=1)
    for t in TIMES:
        at = sde.at(t)
        net, x = network(meaning(at, x0, eps), sde, kind), at.alpha * x0 + at.sigma * eps
        with torch.no_grad():
            found = {"x0": net.x0(x, t), "eps": net.eps(x, t), "score": net.score(x, t), "v": net.velocity(x, t)}
        wanted = {"x0": x0, "eps": eps, "score": -eps / at.sigma, "v": at.alpha * eps - at.sigma * x0}
        # one of x0 and eps is a difference of x and the other: rounding is larger by their sizes in it
        lost = max(at.alpha / at.sigma, at.sigma / at.alpha, 1.0)
        for name in found:
            size = lost * wanted[name].abs().max().item()
            torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-14 * size, msg=f"{name} at {t}")


def test_a_chains_score_is_minus_eps_over_root_one_minus_abar() -> None:
    x, abar = normal(5, 3), torch.cumprod(1 - BETAS, 0)
    net = sd.EpsNet(Answer(lambda x, k: torch.sin(x + k[:, None])), sd.VP.from_betas(BETAS))
    for k in (1, 10, 500, 1000):
        eps = torch.sin(x + k - 1)
        torch.testing.assert_close(net.score(x, k / 1000), -eps / (1 - abar[k - 1]).sqrt(), rtol=1e-9, atol=1e-9)


@each
def test_tweedie(sde: LinearSDE) -> None:
    """xhat0 = (x + sigma^2 s) / alpha, with the score by differentiation, is E[X_0 | X_t = x], by quadrature."""
    nodes = torch.linspace(-5, 5, 20_001, dtype=torch.float64)[:, None]
    for t in TIMES[1:]:
        at = sde.at(t)
        x = sde.perturb(LAW.sample(6), t, normal(6, 1)).requires_grad_()
        spread = (at.alpha**2 * torch.tensor([0.05, 0.2], dtype=torch.float64) + at.sigma**2).sqrt()
        components = torch.distributions.Normal(at.alpha * LAW.means[:, 0], spread).log_prob(x)
        (score,) = torch.autograd.grad(torch.logsumexp(components + LAW.weights.log(), 1).sum(), x)
        found, x = LAW.denoiser(sde).x0(x.detach(), t), x.detach()
        close = {"rtol": 1e-8, "atol": 1e-11 * (at.sigma / at.alpha) ** 2 + 1e-10}
        torch.testing.assert_close(found, (x + at.sigma**2 * score) / at.alpha, **close)
        log_joint = LAW.log_prob(nodes) - 0.5 * ((x - at.alpha * nodes[:, 0]) / at.sigma) ** 2
        torch.testing.assert_close(found, torch.softmax(log_joint, 1) @ nodes, rtol=1e-8, atol=1e-9)


# --- losses --------------------------------------------------------------------------------------------


@each
@each_kind
def test_the_noise_mse_is_denoising_score_matching_with_weight_sigma_squared(
    sde: LinearSDE, kind: Parameterisation, meaning: Callable[[Level, Tensor, Tensor], Tensor]
) -> None:
    """|eps - eps_theta|^2 = sigma^2 |grad log q(x_t | x_0) - s_theta|^2."""
    x0, eps = normal(6, 3), normal(6, 3, seed=1)
    net = network(lambda x, lam: torch.tanh(x + 0.1 * lam[:, None]), sde, kind)
    for t in TIMES:
        level, times = sde.at(t), torch.full((6,), t, dtype=torch.float64)
        x = level.alpha * x0 + level.sigma * eps
        difference = -eps / level.sigma - net.score(x, t)
        wanted = level.sigma**2 * difference.square().sum(1)
        lost = max(level.alpha / level.sigma, level.sigma / level.alpha)
        torch.testing.assert_close(3 * denoising_loss(net, x0, times, eps), wanted, rtol=1e-12 * lost, atol=0)


def hermite(law: sd.GaussianMixture, count: int = 60) -> tuple[Tensor, Tensor]:
    """Nodes (n, 1) and weights (n,) for expectations under a mixture in 1-D."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(count))
    at = law.means + law.covariances[:, 0].sqrt() * nodes
    return at.reshape(-1, 1), (law.weights[:, None] * weights / weights.sum()).flatten()


@each
def test_score_matching_explicit_and_denoising_differ_by_a_constant(sde: LinearSDE) -> None:
    """E|s_theta - grad log q(x_t | x_0)|^2 - E|s_theta - grad log q_t|^2 is free of theta (Vincent 2011).

    The first is the training loss over sigma^2, the second takes the mixture's exact score; both by quadrature.
    """
    t = 0.4003
    level = sde.at(t)
    x0, w0 = hermite(LAW)
    eps, w1 = hermite(sd.GaussianMixture([1.0], [[0.0]], [1.0]))
    x_t, w_t = hermite(LAW.diffuse(sde, t))
    n = len(eps)
    pairs = x0.repeat_interleave(n, 0), eps.repeat(len(x0), 1)
    weight = w0.repeat_interleave(n) * w1.repeat(len(x0))
    times = torch.full((len(weight),), t, dtype=torch.float64)
    constants = []
    for answer in (lambda x, _: 0 * x, lambda x, _: -0.5 * x, lambda x, _: torch.sin(x) - 0.3 * x):
        net = network(answer, sde, sd.PredictsScore())
        with torch.no_grad():
            denoising = weight @ denoising_loss(net, pairs[0], times, pairs[1]) / level.sigma**2
            explicit = w_t @ (net.score(x_t, t) - LAW.denoiser(sde).score(x_t, t)).square()[:, 0]
        constants.append((denoising - explicit).item())
    exact = 1 / level.sigma**2 - (w_t @ LAW.denoiser(sde).score(x_t, t).square()[:, 0]).item()
    assert constants == pytest.approx([constants[0]] * 3, rel=1e-5)
    assert constants[0] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("sde", [sd.VE(0.01, 20.0), sd.EDM(20.0)], ids=str)
@pytest.mark.parametrize("t", [0.05, 0.3])
def test_a_denoising_autoencoder_is_the_score_at_one_noise_level(sde: LinearSDE, t: float) -> None:
    """r(x) - x = sigma^2 s(x) where alpha = 1; r is the minimiser of E|r(x) - x_0|^2: its error is orthogonal to h(x).

    (Vincent 2011.)
    """
    level, r = sde.at(t), LAW.denoiser(sde)
    x = sde.perturb(LAW.sample(6), t, normal(6, 1)).requires_grad_()
    density = torch.distributions.Normal(LAW.means[:, 0], (LAW.covariances[:, 0, 0] + level.sigma**2).sqrt())
    (score,) = torch.autograd.grad(torch.logsumexp(density.log_prob(x) + LAW.weights.log(), 1).sum(), x)
    torch.testing.assert_close(r.x0(x.detach(), t) - x.detach(), level.sigma**2 * score, rtol=1e-9, atol=1e-9)
    x0, w0 = hermite(LAW)
    eps, w1 = hermite(sd.GaussianMixture([1.0], [[0.0]], [1.0]))
    noisy = (x0 + level.sigma * eps[:, 0]).reshape(-1, 1)
    error = (x0 - r.x0(noisy, t).reshape(len(x0), -1)) * w0[:, None] * w1
    for h in (torch.ones_like, torch.sin, lambda x: x):
        assert abs((error * h(noisy).reshape(error.shape)).sum().item()) < 1e-6


# --- weights -------------------------------------------------------------------------------------------


@each
def test_the_weights_of_training(sde: LinearSDE) -> None:
    """On |eps - eps_theta|^2: 1; g^2 on the score; half of it; min(SNR, 5) / SNR; and EDM's lambda on D(x / alpha)."""
    for t in TIMES:
        level = sde.at(t)
        ratio = level.sigma / level.alpha
        g2 = float(sde.diffusion(t)) ** 2
        x0_from_eps = ratio**2  # |x_0 - xhat0|^2 = (sigma / alpha)^2 |eps - eps_theta|^2
        edm = (ratio**2 + 0.5**2) / (ratio * 0.5) ** 2  # Karras et al. 2022, table 1
        printed = {
            "simple": 1.0,
            "likelihood": g2 / level.sigma**2,
            "vlb": 0.5 * g2 / level.sigma**2,
            "min-snr": min(ratio**-2, 5.0) / ratio**-2,
            "edm": edm * x0_from_eps,
        }
        assert printed.keys() == WEIGHTS.keys()
        for name, weight in WEIGHTS.items():
            assert float(weight(level)) == pytest.approx(printed[name], rel=1e-9), name


@each
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weighted_loss_is_the_weight_times_the_noise_mse(sde: LinearSDE, name: str) -> None:
    x0, eps, t = normal(5, 3), normal(5, 3, seed=1), torch.tensor(TIMES, dtype=torch.float64)
    for kind, _ in PRINTED.values():
        net = network(lambda x, _: torch.tanh(x), sde, kind)
        level = sde.at(t)
        x = level.alpha[:, None] * x0 + level.sigma[:, None] * eps
        weight = torch.as_tensor(WEIGHTS[name](level), dtype=torch.float64)
        wanted = weight * (eps - net.eps(x, t)).square().mean(1)
        torch.testing.assert_close(denoising_loss(net, x0, t, eps, WEIGHTS[name]), wanted, rtol=1e-7, atol=0)


@pytest.mark.parametrize("sde", [sd.VP(), sd.SubVP(), sd.VE(0.01, 20.0)], ids=str)
def test_the_chains_vlb_weight_becomes_the_likelihood_weight(sde: LinearSDE) -> None:
    """K beta_k^2 / (2 btilde_k alpha_k (1 - abar_k)) -> 1/2 g^2 / sigma^2 as K grows, with an error of O(1/K)."""
    level = sde.at(0.5)
    gaps = [float(chain_vlb(sde, K)(level)) / (0.5 * level.g2 / level.sigma**2) - 1 for K in (100, 200, 400, 800)]
    orders = np.log2(np.array(gaps[:-1]) / gaps[1:])
    assert orders[-1] == pytest.approx(1.0, abs=0.05)
