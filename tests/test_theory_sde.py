"""Theory, section 4: continuous time. Every process through every equation."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import scipy.integrate
import torch
from problems import BETAS, PROCESSES, gaussian, mixture, normal
from torch import Tensor
from torch.distributions import Normal

import scoresde as sd
from scoresde import grids
from scoresde.chain import DDPM
from scoresde.sde import LinearSDE
from scoresde.solvers import EulerMaruyama

each = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
SMOOTH = {name: sde for name, sde in PROCESSES.items() if name not in ("betas", "song")}  # no knots to step over
each_smooth = pytest.mark.parametrize("sde", SMOOTH.values(), ids=SMOOTH.keys())
each_law = pytest.mark.parametrize("dim", [1, 2])
INSIDE = (0.0503, 0.4003, 0.9003)  # off the knots of tables
ONE = sd.GaussianMixture([0.3, 0.7], [[-1.0], [0.8]], [0.05, 0.2])
LAWS = {1: ONE, 2: mixture(2, 3)}


# --- scales, drift and diffusion -----------------------------------------------------------------------


def linear(t: float) -> float:
    """beta of the linear schedule."""
    return 0.1 + t * (20 - 0.1)


def table(t: float) -> float:
    """beta on an interval of the table: K times -log(1 - beta_k), so that B grows by it over the interval."""
    return -1000 * math.log(1 - BETAS[math.floor(1000 * t)].item())


def cosine(t: float) -> float:
    """-2 d log cos(u) / dt."""
    return math.pi / 1.008 * math.tan(0.5 * math.pi * (t + 0.008) / 1.008)


@pytest.mark.parametrize(("name", "beta"), [("vp", linear), ("cosine", cosine), ("betas", table)])
def test_vp_the_scales_are_those_of_the_integral_of_beta(name: str, beta: Callable[[float], float]) -> None:
    """f = -1/2 beta(t) X, g = sqrt(beta(t)); alpha = exp(-B/2), sigma^2 = 1 - exp(-B)."""
    sde, x = PROCESSES[name], normal(3, 2)
    for t in INSIDE:
        knots = np.append(np.arange(math.ceil(1000 * t)) / 1000, t)
        B = sum(scipy.integrate.quad(beta, a, b - 1e-14)[0] for a, b in itertools.pairwise(knots))
        level = sde.at(t)
        assert level.alpha == pytest.approx(math.exp(-B / 2), rel=1e-9)
        assert level.sigma**2 == pytest.approx(1 - math.exp(-B), rel=1e-9)
        torch.testing.assert_close(sde.drift(x, t), -0.5 * beta(t) * x, rtol=1e-9, atol=0)
        assert sde.diffusion(t) == pytest.approx(math.sqrt(beta(t)), rel=1e-9)


def test_the_linear_schedule_is_hos_betas_times_K() -> None:
    """K beta_k for beta_k from 1e-4 to 0.02 with K = 1000, at the K points from 0 to 1."""
    t = torch.arange(1000, dtype=torch.float64) / 999
    torch.testing.assert_close(sd.VP().beta(t), 1000 * BETAS, rtol=1e-12, atol=0)


class Printed(NamedTuple):
    """alpha, sigma, f and g^2 of one process, in plain numbers."""

    alpha: float
    sigma: float
    f: float
    g2: float


def sub_vp(t: float) -> Printed:
    B, beta = 0.1 * t + 0.5 * 19.9 * t * t, linear(t)
    return Printed(math.exp(-B / 2), 1 - math.exp(-B), -beta / 2, beta * (1 - math.exp(-2 * B)))


def ve(t: float) -> Printed:
    r = 20.0 / 0.01
    return Printed(1.0, 0.01 * math.sqrt(r ** (2 * t) - 1), 0.0, 2 * math.log(r) * 0.01**2 * r ** (2 * t))


def edm(t: float) -> Printed:
    return Printed(1.0, 20 * t, 0.0, 2 * 20**2 * t)


def rectified_flow(t: float) -> Printed:
    return Printed(1 - t, t, -1 / (1 - t), 2 * t / (1 - t))


def user(t: float) -> Printed:
    c, s = math.cos(math.pi * t / 2), math.sin(math.pi * t / 2)
    return Printed(c**2, s, -math.pi * s / c, math.pi * s * c + 2 * math.pi * s**3 / c)


@pytest.mark.parametrize(
    ("name", "printed"),
    [("sub-vp", sub_vp), ("ve", ve), ("edm", edm), ("rectified-flow", rectified_flow), ("user", user)],
)
def test_the_other_paths(name: str, printed: Callable[[float], Printed]) -> None:
    sde = PROCESSES[name]
    for t in INSIDE:
        level = sde.at(t)
        assert (level.alpha, level.sigma, level.f, level.g2) == pytest.approx(printed(t), rel=1e-9)


# --- transition and bridge -----------------------------------------------------------------------------


def moments(sde: LinearSDE, s: float, t: float) -> tuple[float, float]:
    """Mean and variance at t of the solution from X_s = 1: m' = f m, V' = 2 f V + g^2, by a solver of ODEs."""

    def rate(u: float, y: np.ndarray) -> list[float]:
        f, g2 = sde.at(u).f, sde.diffusion(u) ** 2
        return [f * y[0], 2 * f * y[1] + g2]

    knots = [s, *(k / 1000 for k in range(1001) if sde.chain_steps and s < k / 1000 < t), t]
    y = np.array([1.0, 0.0])
    for a, b in itertools.pairwise(knots):  # from knot to knot of a table, where the rates jump
        inside = lambda u, y, a=a, b=b: rate(min(max(u, a), b - 1e-12), y)  # noqa: E731
        y = scipy.integrate.solve_ivp(inside, (a, b), y, "DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    return y[0], y[1]


@each
def test_the_transition_is_the_solution_of_the_sde(sde: LinearSDE) -> None:
    """X_t | X_s ~ N(a X_s, v I) with a = alpha_t / alpha_s, v = sigma_t^2 - a^2 sigma_s^2; from s = 0, the marginal."""
    pairs = [(0.4503, 0.4543)] if sde.chain_steps else [(0.0, 0.3), (0.2, 0.9)]
    for s, t in pairs:
        a, v = sde.transition(s, t)
        assert (a, v) == pytest.approx(moments(sde, s, t), rel=1e-8)
        at_s, at_t = sde.at(s), sde.at(t)
        assert a == pytest.approx(at_t.alpha / at_s.alpha, rel=1e-13)
        assert v == pytest.approx(at_t.sigma**2 - a**2 * at_s.sigma**2, rel=1e-11)
        if s == 0:
            assert (a, v) == pytest.approx((at_t.alpha, at_t.sigma**2), rel=1e-13)


@each
def test_the_bridge_is_the_joint_gaussian_conditioned(sde: LinearSDE) -> None:
    """X_s | X_t, X_0 from the covariance of (X_s, X_t) given X_0, and its two coefficients and variance as printed."""
    for s, t in itertools.combinations((0.01, 0.3, 0.55, 0.9), 2):
        (alpha_s, sigma_s), (alpha_t, sigma_t) = ((sde.at(u).alpha, sde.at(u).sigma) for u in (s, t))
        covariance = alpha_t / alpha_s * sigma_s**2
        gain = covariance / sigma_t**2
        wanted = (gain, alpha_s - gain * alpha_t, sigma_s**2 - gain * covariance)
        assert sde.bridge(s, t) == pytest.approx(wanted, rel=1e-9)
        a = alpha_t / alpha_s
        v = sigma_t**2 - a**2 * sigma_s**2
        printed = (a * sigma_s**2 / sigma_t**2, alpha_s * v / sigma_t**2, sigma_s**2 * v / sigma_t**2)
        assert sde.bridge(s, t) == pytest.approx(printed, rel=1e-9)


@each
def test_the_bridge_is_6_and_7_on_any_grid_and_path(sde: LinearSDE) -> None:
    """In x / sqrt(alpha^2 + sigma^2) any path is a chain with abar = alpha^2 / (alpha^2 + sigma^2) on any grid."""
    times = (0.02, 0.1, 0.33, 0.34, 0.8, 0.97)
    levels = [sde.at(t) for t in times]
    radius = [math.hypot(level.alpha, level.sigma) for level in levels]
    abar = [(level.alpha / r) ** 2 for level, r in zip(levels, radius, strict=True)]
    for k in range(1, len(times)):
        alpha = abar[k] / abar[k - 1]
        beta = 1 - alpha
        on_x = math.sqrt(alpha) * (1 - abar[k - 1]) / (1 - abar[k]) * radius[k - 1] / radius[k]
        on_x0 = math.sqrt(abar[k - 1]) * beta / (1 - abar[k]) * radius[k - 1]
        variance = (1 - abar[k - 1]) / (1 - abar[k]) * beta * radius[k - 1] ** 2
        assert sde.bridge(times[k - 1], times[k]) == pytest.approx((on_x, on_x0, variance), rel=1e-8)


# --- a DDPM chain is the VP-SDE observed on a grid -----------------------------------------------------


@pytest.mark.parametrize("times", [[0.0, 0.1, 0.15, 0.6, 1.0], grids.uniform(5)], ids=["uneven", "uniform"])
def test_a_chain_is_the_vp_sde_on_a_grid_exactly(times: Tensor | list[float]) -> None:
    """beta_k = 1 - (alpha(t_k) / alpha(t_{k-1}))^2: each kernel is the solution of the SDE from t_{k-1} to t_k."""
    chain, sde = DDPM.from_sde(sd.VP(), times), sd.VP()
    rising = sorted(torch.as_tensor(times, dtype=torch.float64).tolist())
    for k, (s, t) in enumerate(itertools.pairwise(rising), start=1):
        mean, variance = chain.kernel(torch.ones(1, dtype=torch.float64), k)
        assert (mean.item(), variance) == pytest.approx(moments(sde, s, t), rel=1e-8)
        assert chain.beta[k].item() == pytest.approx(1 - (sde.at(t).alpha / sde.at(s).alpha) ** 2, rel=1e-12)
        assert chain.alpha_bar[k].item() == pytest.approx(sde.at(t).alpha ** 2, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_any_betas_are_a_continuous_schedule_through_every_abar(seed: int) -> None:
    """-log abar interpolated; and the chain of that SDE on the grid k/K is the one that it came from."""
    betas = 0.02 + 0.96 * torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    abar = torch.cumprod(1 - betas, 0)
    sde, k = DDPM(betas).sde(), torch.arange(1, 21, dtype=torch.float64)
    torch.testing.assert_close(sde.alpha(k / 20) ** 2, abar, rtol=1e-12, atol=0)
    torch.testing.assert_close(sde.sigma(k / 20) ** 2, 1 - abar, rtol=1e-12, atol=0)
    middle = sde.alpha((k[1:] - 0.5) / 20) ** 2
    torch.testing.assert_close(middle, (abar[1:] * abar[:-1]).sqrt(), rtol=1e-12, atol=0)
    torch.testing.assert_close(DDPM.from_sde(sde, grids.chain(20)).beta[1:], betas, rtol=1e-10, atol=0)


def test_n2_its_derivation_is_the_first_order_version() -> None:
    """beta_k = beta(t_k) / K in the place of 1 - (alpha(t_k) / alpha(t_{k-1}))^2: abar is off by O(1/K)."""
    gaps = []
    for K in (100, 200, 400, 800, 1600):
        t = torch.arange(K + 1, dtype=torch.float64) / K
        first_order = DDPM((0.1 + t[1:] * 19.9) / K).alpha_bar
        exact = DDPM.from_sde(sd.VP(), grids.uniform(K)).alpha_bar
        gaps.append((first_order - exact).abs().max().item())
    orders = np.log2(np.array(gaps[:-1]) / gaps[1:])
    assert orders[-1] == pytest.approx(1.0, abs=0.01)
    assert np.diff(np.abs(orders - 1)).max() < 0


# --- Fokker-Planck -------------------------------------------------------------------------------------


def central(function: Callable[[float], Tensor], h: float) -> tuple[Tensor, Tensor]:
    """First and second derivative at 0, of fourth order in h."""
    far, near, at, next_, last = (function(k * h) for k in (-2, -1, 0, 1, 2))
    first = (8 * (next_ - near) - (last - far)) / (12 * h)
    second = (16 * (next_ + near) - (last + far) - 30 * at) / (12 * h**2)
    return first, second


@each
@each_law
def test_fokker_planck_by_finite_differences(sde: LinearSDE, dim: int) -> None:
    """dq/dt = -div(f q) + 1/2 g^2 Laplacian q, on the exact density of a mixture in 1-D and 2-D."""
    law, t = LAWS[dim], 0.40035
    unit, level = math.hypot(sde.at(t).alpha, sde.at(t).sigma), sde.at(t)
    x = sde.perturb(law.sample(12), t, normal(12, dim))
    q = lambda x, t: law.diffuse(sde, t).log_prob(x).exp()  # noqa: E731
    rate, _ = central(lambda h: q(x, t + h), 1e-4)
    divergence, laplacian = 0.0, 0.0
    for axis in torch.eye(dim, dtype=torch.float64):
        along = lambda h, axis=axis: x + h * axis  # noqa: E731
        flux = lambda h, axis=axis, along=along: (sde.drift(along(h), t) @ axis) * q(along(h), t)  # noqa: E731
        divergence = divergence + central(flux, 2e-3 * unit)[0]
        laplacian = laplacian + central(lambda h, along=along: q(along(h), t), 2e-3 * unit)[1]
    right = -divergence + 0.5 * level.g2 * laplacian
    torch.testing.assert_close(rate, right, rtol=1e-6, atol=1e-6 * right.abs().max().item())


def log_q(law: sd.GaussianMixture, x: Tensor, alpha: Tensor, sigma2: Tensor) -> Tensor:
    """log sum w_i N(x; alpha m_i, alpha^2 S_i + sigma^2 I), by torch."""
    covariances = alpha**2 * law.covariances + sigma2 * torch.eye(law.dim, dtype=torch.float64)
    components = torch.distributions.MultivariateNormal(alpha * law.means, covariances)
    return torch.logsumexp(components.log_prob(x[:, None]) + law.weights.log(), 1)


def rate_of_log_q(law: sd.GaussianMixture, sde: LinearSDE, x: Tensor, t: float) -> Tensor:
    """d log q_t(x) / dt by the chain rule through alpha and sigma^2, whose rates are finite differences."""
    at = torch.tensor(t, dtype=torch.float64)
    scales = torch.stack([sde.alpha(at), sde.sigma(at) ** 2])
    rates = [central(lambda h: sde.alpha(at + h), 1e-5)[0], central(lambda h: sde.sigma(at + h) ** 2, 1e-5)[0]]
    by_scales = torch.func.jacrev(lambda scales: log_q(law, x, scales[0], scales[1]))(scales)
    return by_scales @ torch.stack(rates)


def divergence(field: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """div of a field (B, D) -> (B, D) that does not couple rows, exactly."""
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: field(one[None])[0]))(x)
    return jacobian.diagonal(dim1=1, dim2=2).sum(1)


@each
@each_law
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0, 2.0])
def test_every_eta_has_the_forward_marginals(sde: LinearSDE, dim: int, eta: float) -> None:
    """dX = [f - 1/2 (1 + eta^2) g^2 s] dt + eta g dWbar; eta = 1 is Anderson's, eta = 0 the probability flow.

    Its Fokker-Planck equation, run backwards: dq/dt = -div(b q) - 1/2 eta^2 g^2 Laplacian q, here divided by q.
    """
    law = LAWS[dim]
    process = sd.Reverse(law.denoiser(sde), eta=eta)
    for t in INSIDE:
        x = sde.perturb(law.sample(8), t, normal(8, dim))
        alpha, sigma2 = (torch.tensor(c, dtype=torch.float64) for c in (sde.at(t).alpha, sde.at(t).sigma ** 2))
        score = torch.func.grad(lambda x, a=alpha, s2=sigma2: log_q(law, x, a, s2).sum())
        b = lambda x, t=t: process.drift(x, t)  # noqa: E731
        s, drift = score(x), b(x)
        right = -divergence(b, x) - (drift * s).sum(1)
        right = right - 0.5 * process.diffusion(t) ** 2 * (divergence(score, x) + s.square().sum(1))
        rate = rate_of_log_q(law, sde, x, t)
        size = max(abs(sde.at(t).f), sde.at(t).g2 / sigma2.item())
        torch.testing.assert_close(right, rate, rtol=1e-7, atol=1e-7 * size)
        wanted = sde.drift(x, t) - 0.5 * (1 + eta**2) * sde.diffusion(t) ** 2 * s
        torch.testing.assert_close(drift, wanted, rtol=1e-8, atol=1e-8 * size * x.abs().max().item())
        assert process.diffusion(t) == pytest.approx(eta * sde.diffusion(t), rel=1e-12)


@pytest.mark.parametrize("eta", [0.0, 1.0, 1.5])
def test_every_eta_ends_in_the_data_by_simulation(eta: float) -> None:
    """From draws of q_1 to t = 0, moments and the weight of a mode in standard errors."""
    n, sde = 4000, sd.VP()
    x = sd.sample(
        ONE.denoiser(sde),
        EulerMaruyama(eta=eta),
        times=grids.logistic(sde, 400),
        x1=ONE.diffuse(sde, 1.0).sample(n, seed=1),
        seed=int(2 * eta),
    )[:, 0]
    at = torch.linspace(-8, 8, 100_001, dtype=torch.float64)
    weight = torch.softmax(ONE.log_prob(at[:, None]), 0)
    for feature in (lambda x: x, lambda x: x**2, lambda x: (x < -0.2).double(), lambda x: torch.cos(3 * x)):
        error = (feature(x).mean() - weight @ feature(at)) / (feature(x).std() / math.sqrt(n))
        assert abs(error) < 3.5


# --- the probability flow ------------------------------------------------------------------------------


@each
def test_the_flow_map_pushes_q_0_to_q_t(sde: LinearSDE) -> None:
    """Change of variables: log q_0(x_0) - log |det d x_t / d x_0| = log q_t(x_t), for the exact map of a Gaussian."""
    law, x0 = gaussian(), gaussian().sample(5)
    for t in (*INSIDE, 1.0):
        x_t = law.flow(x0, sde, 0.0, t)
        flow = lambda one, t=t: law.flow(one[None], sde, 0.0, t)[0]  # noqa: E731
        _, log_det = torch.linalg.slogdet(torch.func.vmap(torch.func.jacrev(flow))(x0))
        alpha, sigma2 = (torch.tensor(c, dtype=torch.float64) for c in (sde.at(t).alpha, sde.at(t).sigma ** 2))
        at_t = log_q(law, x_t, alpha, sigma2)
        torch.testing.assert_close(law.log_prob(x0) - log_det, at_t, rtol=1e-10, atol=1e-10)


@each_smooth
def test_the_flow_of_a_mixture_keeps_the_share_below_a_point(sde: LinearSDE) -> None:
    """In 1-D the flow keeps the order of points, so that it has the marginals q_t if it keeps the cdf F_t(x_t)."""
    process, s, t = sd.Reverse(ONE.denoiser(sde), eta=0.0), 0.05, 0.8
    x = sde.perturb(ONE.sample(20), s, normal(20, 1))

    def share(x: Tensor, t: float) -> Tensor:
        alpha, sigma = sde.at(t).alpha, sde.at(t).sigma
        spread = (alpha**2 * torch.tensor([0.05, 0.2], dtype=torch.float64) + sigma**2).sqrt()
        return Normal(alpha * ONE.means[:, 0], spread).cdf(x) @ ONE.weights

    rate = lambda u, x: process.drift(torch.from_numpy(x)[:, None], u)[:, 0].numpy()  # noqa: E731
    end = scipy.integrate.solve_ivp(rate, (s, t), x[:, 0].numpy(), "DOP853", rtol=1e-9, atol=1e-10).y[:, -1:]
    torch.testing.assert_close(share(torch.from_numpy(end), t), share(x, s), rtol=0, atol=1e-7)
