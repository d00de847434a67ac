"""Denoisers: every parameterisation converts into every other at every t, and networks are wrapped faithfully."""

import math

import pytest
import torch
from problems import BETAS, PROCESSES, mixture, normal
from torch import nn

import scoresde as sd
from scoresde._tensors import combine
from scoresde.denoisers import NetDenoiser
from scoresde.parameterisations import Parameterisation, PredictsExcess
from scoresde.sde import Level, LinearSDE

each_process = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
KINDS = {
    "eps": sd.PredictsEps(),
    "x0": sd.PredictsX0(),
    "v": sd.PredictsV(),
    "score": sd.PredictsScore(),
    "edm": sd.PredictsEDM(0.5),
    "excess": PredictsExcess(),
}
each_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


class Oracle(nn.Module):
    """Predicts whatever a parameterisation means, from the exact x0 and eps."""

    def __init__(self, law: sd.GaussianMixture, sde: LinearSDE, kind: Parameterisation) -> None:
        super().__init__()
        self.exact, self.kind = law.denoiser(sde), kind
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, y: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
        sde = self.exact.sde
        t = sde.time_of_log_snr(log_snr)
        level = sde.at(t)
        x = y / torch.as_tensor(self.kind.input_scale(level)).reshape(-1, 1)
        k, m = self.kind.target(level)
        return combine(k, self.exact.x0(x, t), m, self.exact.eps(x, t))


@each_process
@each_kind
def test_every_prediction_gives_the_exact_denoiser(sde: LinearSDE, kind: Parameterisation) -> None:
    law = mixture()
    exact, net = law.denoiser(sde), NetDenoiser(Oracle(law, sde, kind), sde, kind, condition=sd.LogSNR(-60, 60))
    for t in (1e-3, 0.3, 0.97):
        x = sde.perturb(law.sample(6), t, normal(6, 3))
        batch = torch.full((6,), t, dtype=torch.float64)
        for name in ("x0", "eps", "score", "velocity"):
            wanted = getattr(exact, name)(x, t)
            close = {"rtol": 1e-6, "atol": 1e-8 * wanted.abs().max().item()}
            torch.testing.assert_close(getattr(net, name)(x, t), wanted, **close)
            torch.testing.assert_close(getattr(net, name)(x, batch), wanted, **close)


@each_process
@each_kind
def test_the_conversions_are_those_of_theory_5(sde: LinearSDE, kind: Parameterisation) -> None:
    x0, eps = normal(5), normal(5, seed=1)
    for t in (1e-4, 0.2, 0.8):
        level = sde.at(t)
        x = level.alpha * x0 + level.sigma * eps
        k, m = kind.target(level)
        p = k * x0 + m * eps
        for (on_x, on_p), wanted in (
            (kind.x0(level), x0),
            (kind.eps(level), eps),
            (kind.score(level), -eps / level.sigma),
            (kind.linear(level, x0=-level.sigma, eps=level.alpha), level.alpha * eps - level.sigma * x0),
            (kind.linear(level, x=2.0, x0=3.0), 2 * x + 3 * x0),
        ):
            size = max(abs(on_x), abs(on_p), 1.0) * max(1.0, p.abs().max().item())
            torch.testing.assert_close(on_x * x + on_p * p, wanted, rtol=0, atol=1e-13 * size)


@each_process
def test_the_exact_score_is_the_gradient_of_the_log_density(sde: LinearSDE) -> None:
    law = mixture()
    denoiser = law.denoiser(sde)
    for t in (0.0, 1e-6, 0.3, 1.0):
        x = (sde.at(t).radius * normal(6, 3)).requires_grad_()
        (score,) = torch.autograd.grad(law.diffuse(sde, t).log_prob(x).sum(), x)
        torch.testing.assert_close(denoiser.score(x, t), score, rtol=1e-9, atol=1e-12)


@each_process
def test_limits_at_both_ends(sde: LinearSDE) -> None:
    law = mixture()
    denoiser, x = law.denoiser(sde), normal(4, 3)
    torch.testing.assert_close(denoiser.x0(x, 0.0), x, rtol=0, atol=0)
    torch.testing.assert_close(denoiser.eps(x, 0.0), torch.zeros_like(x), rtol=0, atol=0)
    if sde.at(1.0).alpha == 0:
        torch.testing.assert_close(denoiser.x0(x, 1.0), law.mean().expand(4, 3), rtol=1e-12, atol=1e-12)


def test_an_eps_network_says_nothing_where_alpha_is_zero() -> None:
    net = sd.EpsNet(nn.Identity(), sd.RectifiedFlow(), condition=sd.LogSNR())
    net.module.forward = lambda x, c: x  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="use a network that predicts x0 or v"):
        net.x0(normal(2, 3), 1.0)


class Spy(nn.Module):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.inputs: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        self.seen.append(condition)
        self.inputs.append(x)
        return torch.zeros_like(x)


def test_a_chains_network_is_told_the_zero_based_index() -> None:
    spy = Spy()
    net = sd.EpsNet(spy, sd.VP.from_betas(BETAS))
    x = normal(2, 3)
    for t, k in ((1.0, 999.0), (1 / 1000, 0.0), (0.5005, 499.5)):
        net.x0(x, t)
        torch.testing.assert_close(spy.seen[-1], torch.full((2,), k, dtype=torch.float64))
    net.x0(x, torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(spy.seen[-1], torch.tensor([999.0, 499.0], dtype=torch.float64))
    rounded = sd.EpsNet(spy, sd.VP.from_betas(BETAS), condition=sd.ChainIndex(1000, rounded=True))
    rounded.x0(x, 0.5)
    assert spy.seen[-1].tolist() == [499, 499]
    assert spy.seen[-1].dtype == torch.long


def test_a_time_off_the_trained_range_is_warned_of() -> None:
    net = sd.EpsNet(Spy(), sd.VP.from_betas(BETAS))
    with pytest.warns(sd.ProcessWarning, match="off the range"):
        net.x0(normal(2, 3), 1e-5)
    narrow = NetDenoiser(Spy(), sd.VP(), sd.PredictsV(), condition=sd.LogSNR(-5, 5))
    with pytest.warns(sd.ProcessWarning, match=r"\[-5, 5\]"):
        narrow.x0(normal(2, 3), 1.0)


@each_process
def test_a_network_sees_x_at_unit_power(sde: LinearSDE) -> None:
    spy = Spy()
    net = NetDenoiser(spy, sde, sd.PredictsV(), condition=sd.LogSNR(-99, 99))
    x0, eps = normal(20_000, 1), normal(20_000, 1, seed=1)
    for t in (0.01, 0.5, 0.99):
        net.x0(sde.perturb(x0, t, eps), t)
        assert spy.inputs[-1].std().item() == pytest.approx(1.0, abs=0.03)


def test_a_learned_variance_is_ignored_and_a_wrong_shape_refused() -> None:
    class Double(nn.Module):
        def forward(self, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, 7 * x], 1)

    class Wrong(nn.Module):
        def forward(self, x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            return x[:, :1]

    x = normal(2, 3, 4, 4)
    torch.testing.assert_close(sd.EpsNet(Double(), sd.VP()).eps(x, 0.5), x)
    with pytest.raises(ValueError, match=r"answered shape \(2, 1, 4, 4\)"):
        sd.EpsNet(Wrong(), sd.VP()).eps(x, 0.5)


def test_clipping_is_static_or_dynamic() -> None:
    denoiser = sd.GaussianMixture([1.0], torch.zeros(1, 4).double(), [9.0]).denoiser(sd.VP())
    x = 5 * normal(8, 4)
    raw = denoiser.x0(x, 0.1)
    torch.testing.assert_close(sd.Clipped(denoiser).x0(x, 0.1), raw.clamp(-1, 1))
    dynamic = sd.DynamicallyClipped(denoiser, quantile=1.0).x0(x, 0.1)
    torch.testing.assert_close(dynamic, raw / raw.abs().amax(1, keepdim=True).clamp_min(1.0))
    with pytest.raises(ValueError, match="quantile"):
        sd.DynamicallyClipped(denoiser, 0.0)


def test_clipping_goes_by_the_declared_data_range() -> None:
    class Far(nn.Module):
        def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
            return 40 * x

    x = normal(8, 4)
    net = sd.EpsNet(Far(), sd.VP(), data_range=(0.0, 1.0))
    torch.testing.assert_close(sd.Clipped(net).x0(x, 0.5), net.x0(x, 0.5).clamp(0, 1))
    dynamic = sd.DynamicallyClipped(net).x0(x, 0.5)
    assert dynamic.min() >= 0
    assert dynamic.max() <= 1
    with pytest.raises(ValueError, match=r"data_range = \(1\.0, 0\.0\) is empty"):
        sd.EpsNet(Far(), sd.VP(), data_range=(1.0, 0.0))


def test_abstract_things_cannot_be_made() -> None:
    for kind in (sd.Denoiser, Parameterisation, sd.SDE, sd.LinearSDE, sd.Conditioning, sd.solvers.Solver):
        with pytest.raises(TypeError, match="abstract"):
            kind()


def test_a_level_is_numbers_for_a_number() -> None:
    level = sd.VP().at(0.5)
    assert isinstance(level, Level)
    names = ("t", "alpha", "sigma", "log_snr", "alpha_dot", "sigma2_dot", "radius", "f", "g2")
    assert all(isinstance(getattr(level, name), float) for name in names)
    assert level.radius == pytest.approx(1.0)
    assert math.isfinite(level.g2)
