"""Every process through every law of theory 4."""

import math
import warnings

import numpy as np
import pytest
import torch
from problems import BETAS, PROCESSES, normal

import scoresde as sd
from scoresde.sde import LinearSDE, bridge, transition

T = torch.tensor([0.0, 1e-4, 0.013, 0.21, 0.5, 0.777, 0.98, 1.0], dtype=torch.float64)
INSIDE = T[1:-1]
each = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())


def numeric_derivative(function, t: torch.Tensor) -> torch.Tensor:
    h = 1e-6
    return (function(t + h) - function(t - h)) / (2 * h)


@each
def test_data_are_at_zero_and_noise_at_one(sde: LinearSDE) -> None:
    assert sde.at(0.0).alpha == 1.0
    assert sde.at(0.0).sigma == 0.0
    assert sde.at(0.0).log_snr == math.inf
    assert sde.prior_mismatch() < 0.01


@each
def test_the_derivatives_are_those_of_the_scales(sde: LinearSDE) -> None:
    # away from the knots of tables, where the rate jumps
    t = INSIDE + 0.0003
    t = t[t < 0.99]
    torch.testing.assert_close(sde.alpha_dot(t), numeric_derivative(sde.alpha, t), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(
        sde.sigma2_dot(t), numeric_derivative(lambda u: sde.sigma(u) ** 2, t), rtol=1e-5, atol=1e-7
    )


@each
def test_drift_and_diffusion_follow_from_the_scales(sde: LinearSDE) -> None:
    x = normal(4, 3)
    for t in (0.0133, 0.5003, 0.9003):
        at = torch.tensor(t, dtype=torch.float64)
        f = float(numeric_derivative(lambda u: torch.log(sde.alpha(u)), at))
        torch.testing.assert_close(sde.drift(x, t), f * x, rtol=1e-5, atol=1e-7)
        # d log SNR / dt = -g^2 / sigma^2
        rate = float(numeric_derivative(sde.log_snr, at))
        assert sde.diffusion(t) ** 2 == pytest.approx(-rate * sde.at(t).sigma ** 2, rel=1e-5)


@each
def test_the_drift_is_differentiated_by_torch_func(sde: LinearSDE) -> None:
    x, t = normal(4, 3), 0.123456789  # a time that nothing has asked for, so that it is looked up inside the transform
    _, tangent = torch.func.jvp(lambda x: sde.drift(x, t), (x,), (x,))
    torch.testing.assert_close(tangent, sde.at(t).f * x)


@each
def test_log_snr_and_its_inverse_are_inverse(sde: LinearSDE) -> None:
    torch.testing.assert_close(sde.time_of_log_snr(sde.log_snr(INSIDE)), INSIDE, rtol=1e-9, atol=1e-13)
    assert sde.time_of_log_snr(torch.tensor(math.inf)).item() == 0.0
    lam = sde.log_snr(INSIDE)
    assert (lam[1:] < lam[:-1]).all()


@each
def test_a_number_and_a_batch_of_times_agree(sde: LinearSDE) -> None:
    batch = sde.at(T)
    for i, t in enumerate(T.tolist()):
        one = sde.at(t)
        for name in ("alpha", "sigma", "alpha_dot", "sigma2_dot", "log_snr", "f", "g2"):
            assert getattr(one, name) == getattr(batch, name)[i].item(), name
    x0, eps = normal(len(T), 2, 3), normal(len(T), 2, 3, seed=1)
    x = sde.perturb(x0, T, eps)
    for i, t in enumerate(T.tolist()):
        torch.testing.assert_close(x[i], sde.perturb(x0[i : i + 1], t, eps[i : i + 1])[0], rtol=1e-14, atol=0)


@each
def test_transitions_compose_to_the_marginal(sde: LinearSDE) -> None:
    for s, t in [(0.0, 0.3), (0.2, 0.7), (0.5, 0.5), (0.3, 1.0)]:
        a, v = sde.transition(s, t)
        level_s, level_t = sde.at(s), sde.at(t)
        assert a * level_s.alpha == pytest.approx(level_t.alpha, abs=1e-14)
        assert a**2 * level_s.sigma**2 + v == pytest.approx(level_t.sigma**2, rel=1e-12)


@each
def test_a_transition_over_a_tiny_interval_keeps_its_digits(sde: LinearSDE) -> None:
    t, h = 0.4567, 1e-9
    _, v = sde.transition(t, t + h)
    assert v == pytest.approx(float(sde.diffusion(t)) ** 2 * h, rel=1e-4)


@each
def test_the_bridge_is_bayes_rule(sde: LinearSDE) -> None:
    """Product of N(x_s; alpha_s x0, sigma_s^2) and N(x_t; a x_s, v), normalised over x_s, by precisions."""
    s, t = 0.31, 0.64
    a, v = sde.transition(s, t)
    level_s = sde.at(s)
    precision = 1 / level_s.sigma**2 + a**2 / v
    c_t, c_0, variance = sde.bridge(s, t)
    assert variance == pytest.approx(1 / precision, rel=1e-12)
    assert c_t == pytest.approx(a / v / precision, rel=1e-12)
    assert c_0 == pytest.approx(level_s.alpha / level_s.sigma**2 / precision, rel=1e-12)


@each
def test_the_bridge_has_exact_limits(sde: LinearSDE) -> None:
    assert sde.bridge(0.0, 0.5) == pytest.approx((0.0, 1.0, 0.0), abs=1e-15)
    assert sde.bridge(0.0, 0.0) == (0.0, 1.0, 0.0)
    assert sde.bridge(0.4, 0.4) == pytest.approx((1.0, 0.0, 0.0), abs=1e-15)
    c_t, c_0, v = sde.bridge(0.5, 1.0)
    assert all(math.isfinite(c) for c in (c_t, c_0, v))
    if sde.at(1.0).alpha == 0:  # x_1 says nothing then
        assert (c_t, c_0, v) == pytest.approx((0.0, sde.at(0.5).alpha, sde.at(0.5).sigma ** 2))


@each
def test_the_bridge_of_a_batch_is_that_of_each(sde: LinearSDE) -> None:
    s, t = torch.tensor([0.0, 0.1, 0.5, 0.0, 1.0]).double(), torch.tensor([0.2, 0.5, 1.0, 0.0, 1.0]).double()
    batch = bridge(sde.at(s), sde.at(t))
    for i in range(len(t)):
        one = sde.bridge(s[i].item(), t[i].item())
        assert [c[i].item() for c in batch] == pytest.approx(one, abs=1e-15)


def test_going_back_in_time_is_no_transition() -> None:
    with pytest.raises(ValueError, match=r"s = 0\.5 > t = 0\.2"):
        sd.VP().transition(0.5, 0.2)
    with pytest.raises(ValueError, match="every s must be"):
        transition(sd.VP().at(torch.tensor([0.5]).double()), sd.VP().at(torch.tensor([0.2]).double()))


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_a_time_outside_the_unit_interval_is_refused(t: float) -> None:
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        sd.VP().at(t)


def test_the_default_is_ho_et_al_in_the_limit() -> None:
    """beta(t_k) / K = beta_k for Ho et al.'s betas, and the marginals differ by O(1/K)."""
    vp, k = sd.VP(), torch.arange(1, 1001) / 1000
    torch.testing.assert_close(vp.beta(k.double()) / 1000, BETAS, rtol=0, atol=2e-5)


def test_a_table_is_passed_through_exactly() -> None:
    abar = torch.cumprod(1 - BETAS, 0)
    sde = sd.VP.from_betas(BETAS)
    k = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(sde.alpha(k) ** 2, abar, rtol=1e-12, atol=0)
    torch.testing.assert_close(sd.VP.from_alpha_bar(abar).alpha(k) ** 2, abar, rtol=1e-12, atol=0)
    np.testing.assert_allclose(sde.betas, BETAS.numpy(), rtol=1e-12)


def test_songs_convention_differs_by_order_one_over_k() -> None:
    errors = []
    for steps in (100, 200, 400, 800):
        betas = torch.linspace(0.1, 20, steps, dtype=torch.float64) / steps
        k = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        gap = sd.VP.song(betas).alpha(k) ** 2 - torch.cumprod(1 - betas, 0)
        errors.append(gap.abs().max().item())
    orders = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(orders, 1.0, atol=0.1)


def test_a_users_scales_give_the_process_they_name() -> None:
    mine = sd.GaussianPath(lambda t: 1 - t, lambda t: t)
    for t in (0.0, 0.3, 1.0):
        for name in ("alpha", "sigma", "alpha_dot", "sigma2_dot"):
            assert getattr(mine.at(t), name) == pytest.approx(getattr(sd.RectifiedFlow().at(t), name), abs=1e-8)


def test_a_rising_snr_is_warned_of() -> None:
    with pytest.warns(sd.ProcessWarning, match=r"rises after t = 0\.5"):
        sd.GaussianPath(lambda t: torch.ones_like(t), lambda t: 20 * torch.sin(math.pi * t) + 4e2 * torch.relu(t - 0.9))


def test_a_terminal_law_that_is_not_the_prior_is_warned_of_in_nats() -> None:
    with pytest.warns(sd.ProcessWarning, match=r"up to 0\.29\d* nats per dimension"):
        sd.VP(0.1, 1.9)
    assert sd.VP().prior_mismatch() == pytest.approx(0.5 * math.exp(-10.05) / (1 - math.exp(-10.05)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sd.VP(-1.0, 20.0), "beta_min = -1"),
        (lambda: sd.VP(5.0, 1.0), "beta_min <= beta_max"),
        (lambda: sd.SubVP(5.0, 1.0), "beta_min <= beta_max"),
        (lambda: sd.VE(2.0, 1.0), "sigma_min < sigma_max"),
        (lambda: sd.EDM(-1.0), "must be positive"),
        (lambda: sd.VP.cosine(-1.0), "offset = -1"),
        (lambda: sd.VP.from_betas([0.1, 1.0]), "entry 2 is 1.0"),
        (lambda: sd.VP.from_betas([]), "non-empty"),
        (lambda: sd.VP.from_alpha_bar([0.5, 0.6]), "alpha_bar_2 = 0.6"),
        (lambda: sd.GaussianPath(lambda t: 1 - 2 * t, lambda t: t), r"alpha\(0.501\)"),
        (lambda: sd.GaussianPath(lambda t: 0.5 - 0.5 * t, lambda t: t), r"alpha\(0\) = 0.5"),
        (lambda: sd.GaussianPath(lambda t: 1 - t, lambda t: t + 0.1), r"sigma\(0\) = 0.1"),
    ],
)
def test_wrong_parameters_are_refused_where_the_process_is_made(make, message: str) -> None:
    with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
        make()


@each
def test_the_forward_sde_has_the_marginals(sde: LinearSDE) -> None:
    """Euler-Maruyama on the forward SDE from x0 to t = 0.5, mean and variance in standard errors."""
    n, steps = 20_000, 400
    times = torch.linspace(0.0, 0.5, steps + 1, dtype=torch.float64)
    x0 = torch.full((n, 1), 0.7, dtype=torch.float64)
    noise = sd.CounterNoise(3, torch.arange(n), (1,), torch.float64)
    x = sd.solve(sde, sd.solvers.EulerMaruyama(), times, x0, noise)
    mean, std = sde.marginal(x0[:1], 0.5)
    bias = 2e-2 * float(std)  # Euler-Maruyama's own error at this step
    assert abs(x.mean() - mean.item()) < 4 * float(std) / math.sqrt(n) + bias
    assert abs(x.std() - float(std)) < 4 * float(std) / math.sqrt(2 * n) + bias
