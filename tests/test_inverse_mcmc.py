"""DAPS, split Gibbs sampling and the Langevin step that they share, against exact laws."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from problems import PROCESSES, gaussian, mixture, normal
from torch import Tensor, nn

import scoresde as sd
from scoresde.inverse import Method, Problem, Run, posterior_draws
from scoresde.inverse.daps import DAPS
from scoresde.inverse.langevin import begin, langevin, likelihood_step
from scoresde.inverse.levels import noise_to_signal, spread
from scoresde.inverse.split_gibbs import SplitGibbs
from scoresde.linalg.nonlinear import Callable, Quantise

METHODS: list[Method] = [DAPS(), SplitGibbs()]
LAW = gaussian()
MEASUREMENT = sd.GaussianMeasurement(sd.operators.Dense([[1.0, -0.5]]), 0.2)
Y = torch.tensor([1.1], dtype=torch.float64)
SDE = sd.VP()
CUBE = Callable(lambda x: x[:, :1] ** 3 + x[:, 1:])
"""A curved valley in 2-D."""


def moments(x: Tensor) -> Tensor:
    """x, its squares and its product, (n, 5)."""
    return torch.stack([x[:, 0], x[:, 1], x[:, 0] ** 2, x[:, 1] ** 2, x[:, 0] * x[:, 1]], 1)


def standard_errors(x: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """How far the moments of draws (n, 2) are from those of N(mean, covariance), in their own standard errors."""
    found, outer = moments(x), covariance + mean[:, None] * mean
    exact = torch.stack([mean[0], mean[1], outer[0, 0], outer[1, 1], outer[0, 1]])
    return (found.mean(0) - exact) / (found.std(0) / math.sqrt(len(x)))


# --- the Langevin step ---------------------------------------------------------------------------------


class Grid:
    """N(m, r^2 I) told of y = A(x) + noise_std z in 2-D, by quadrature."""

    def __init__(self, measurement: sd.GaussianMeasurement, y: Tensor, m: Tensor, r: float) -> None:
        axes = [c + r * torch.linspace(-6.0, 6.0, 800, dtype=torch.float64) for c in m]
        self.x = torch.cartesian_prod(*axes)
        log_prior = -0.5 * (self.x - m).square().sum(1) / r**2
        self.w = torch.softmax(measurement.log_likelihood(self.x, y[None]) + log_prior, 0)

    def sample(self, n: int) -> Tensor:
        return self.x[torch.multinomial(self.w, n, replacement=True, generator=torch.Generator().manual_seed(0))]

    def standard_errors(self, x: Tensor) -> Tensor:
        exact = self.w @ moments(self.x)
        return (moments(x).mean(0) - exact) / (moments(x).std(0) / math.sqrt(len(x)))


M, R, N = torch.tensor([0.4, -0.2], dtype=torch.float64), 0.7, 8000
CURVED = sd.GaussianMeasurement(CUBE, 0.3)
AT_Y = torch.tensor([0.9], dtype=torch.float64)


def problem(measurement: sd.GaussianMeasurement, y: Tensor) -> Problem:
    return Problem(LAW.denoiser(SDE), measurement, y.reshape(-1, 1), (2,))


@pytest.mark.parametrize("h", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("drift", [True, False])
def test_steps_leave_the_target_as_it_is(h: float, drift: bool) -> None:
    """From exact draws, whatever the step size: without the correction, steps of 0.5 are far off."""
    target = Grid(CURVED, AT_Y, M, R)
    x = target.sample(N)
    assert target.standard_errors(x).abs().max() < 4.0
    chain = begin(x)._replace(h=torch.full((N,), h, dtype=torch.float64))
    run = Run(torch.arange(N))
    end = langevin(problem(CURVED, AT_Y), run, M.expand(N, -1), R, chain, adapting=0, held=8, step=0, drift=drift)
    assert target.standard_errors(end.x).abs().max() < 4.0
    assert bool((end.h == h).all())
    assert 0.02 < end.acceptance.mean() < 0.99
    assert (end.x != x).any(1).double().mean() > 0.1  # it has moved


def test_a_pullback_that_is_no_derivative_costs_no_bias() -> None:
    measurement = sd.GaussianMeasurement(Quantise(4, -1.0, 1.0), 0.3)
    y = torch.tensor([1 / 3, -1.0], dtype=torch.float64)
    target = Grid(measurement, y, M, R)
    at = Problem(LAW.denoiser(SDE), measurement, y[None], (2,))
    chain = begin(target.sample(N))._replace(h=torch.full((N,), 0.5, dtype=torch.float64))
    end = langevin(at, Run(torch.arange(N)), M.expand(N, -1), R, chain, adapting=0, held=8, step=0)
    assert target.standard_errors(end.x).abs().max() < 4.0


@pytest.mark.parametrize("differentiable", [True, False])
def test_a_chain_finds_its_step_and_its_target(differentiable: bool) -> None:
    """From m, far from the target; an A without a derivative is walked over."""
    measurement = sd.GaussianMeasurement(Callable(CUBE.function, differentiable=differentiable), 0.3)
    target = Grid(measurement, AT_Y, M, R)
    step = likelihood_step(problem(measurement, AT_Y), Run(torch.arange(2000)), 400 if differentiable else 1200)
    end = step.draw(M.expand(2000, -1), R, M.expand(2000, -1), 0)
    assert target.standard_errors(end).abs().max() < 4.0
    (acceptance,) = step.diagnostics()["acceptance"]
    assert acceptance == pytest.approx(0.57 if differentiable else 0.23, abs=0.15)


def test_where_a_says_nothing_a_step_is_an_independent_draw() -> None:
    measurement = sd.GaussianMeasurement(Callable(lambda x: 0.0 * x[:, :1]), 0.3)
    step = likelihood_step(problem(measurement, AT_Y), Run(torch.arange(N)), 20)
    start = torch.full((N, 2), 9.0, dtype=torch.float64)
    for k in range(2):  # the second with the steps that the first has found
        end = step.draw(M.expand(N, -1), R, start, k, adapt=k == 0)
        assert standard_errors(end, M, R**2 * torch.eye(2, dtype=torch.float64)).abs().max() < 4.0
    assert step.diagnostics()["acceptance"] == pytest.approx([1.0, 1.0])


def test_each_sample_finds_its_own_step() -> None:
    """Small where the noise matters, and that of one sample says nothing of another's."""
    y = torch.tensor([0.9, 40.0], dtype=torch.float64)
    both = langevin(
        problem(CURVED, y), Run(torch.arange(2)), M.expand(2, -1), R, begin(M.repeat(2, 1)), adapting=40, held=5, step=3
    )
    alone = langevin(
        problem(CURVED, y[1:]), Run(torch.tensor([1])), M[None], R, begin(M[None]), adapting=40, held=5, step=3
    )
    torch.testing.assert_close(both.x[1], alone.x[0], rtol=1e-12, atol=0)
    assert both.h[1] < 0.2 * both.h[0]


# --- split Gibbs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [0.6, 1.2])
def test_split_gibbs_has_the_inflated_posterior(r: float) -> None:
    """At a fixed r, x has the posterior for noise of covariance noise_std^2 I + r^2 A A'."""
    denoiser = LAW.denoiser(SDE)
    method = SplitGibbs(r_max=r, r_min=r, denoise_steps=40)
    x = posterior_draws(denoiser, MEASUREMENT, Y, method=method, steps=30, n=3000).x
    A = MEASUREMENT.dense(2)
    width = r * denoiser.data_std
    inflated = replace(MEASUREMENT, noise_std=math.sqrt(0.2**2 + width**2 * float(A @ A.mT)))
    exact = LAW.posterior(inflated, Y)
    assert standard_errors(x, exact.means[0], exact.covariances[0]).abs().max() < 4.0
    plain = LAW.posterior(MEASUREMENT, Y)
    assert standard_errors(x, plain.means[0], plain.covariances[0]).abs().max() > 7.0


@pytest.mark.parametrize("operator", [MEASUREMENT.operator, Callable(lambda x: x[:, :1] - 0.5 * x[:, 1:])])
def test_split_gibbs_goes_to_the_posterior_of_a_gaussian(operator: sd.operators.Operator) -> None:
    """As r goes to 0, exactly or by Langevin steps."""
    measurement = sd.GaussianMeasurement(operator, 0.2)
    draws = posterior_draws(LAW.denoiser(SDE), measurement, Y, method=SplitGibbs(), steps=100, n=1500)
    exact = LAW.posterior(MEASUREMENT, Y)
    kl = sd.gaussian_kl(draws.x.mean(0), draws.x.T.cov(), exact.means[0], exact.covariances[0])
    assert kl < 0.015  # 1,500 exact draws are at 0.0017 in the mean
    accepted = draws.diagnostics.get("acceptance", [])
    assert len(accepted) in (0, 100)
    assert all(0.2 < a <= 1.0 for a in accepted[10:])


def test_split_gibbs_finds_the_weights_of_modes() -> None:
    """Enough sweeps, at shares of components that are known."""
    law = mixture()
    measurement = sd.GaussianMeasurement(sd.operators.Dense(normal(2, 3, seed=3)), 1.5)
    y = measurement.simulate(law.sample(1, seed=4), seed=5)[0]
    x = posterior_draws(law.denoiser(SDE), measurement, y, method=SplitGibbs(denoise_steps=6), steps=300, n=1000).x
    posterior = law.posterior(measurement, y)
    exact = posterior.sample(200_000, seed=1)
    share, errors = law.responsibilities(exact).mean(0), law.responsibilities(x).std(0) / math.sqrt(len(x))
    assert ((law.responsibilities(x).mean(0) - share) / errors.clamp_min(1e-4)).abs().max() < 4.0
    assert 0.05 < share.max() < 0.98  # several count


def test_the_sweeps_are_where_they_are_asked_for() -> None:
    denoiser = LAW.denoiser(SDE)
    at = Problem(denoiser, MEASUREMENT, Y[None], (2,))
    times, falling = SplitGibbs(r_max=2.0, r_min=0.5, annealed=0.6)._times(at, Run(torch.arange(1), steps=10))
    r = torch.tensor([noise_to_signal(SDE.at(t)) for t in times], dtype=torch.float64) / denoiser.data_std
    assert falling == 6
    torch.testing.assert_close(r, torch.tensor([2 * 0.25 ** (k / 5) for k in range(6)] + [0.5] * 4).double())
    for choices, steps in ((SplitGibbs(annealed=0.0), 10), (SplitGibbs(), 1)):
        times, _ = choices._times(at, Run(torch.arange(1), steps=steps))
        last = noise_to_signal(SDE.at(times[-1])) / denoiser.data_std
        assert float(last) == pytest.approx(choices.r_min)
    own = torch.tensor([1.0, 0.5, 0.2, 0.0], dtype=torch.float64)
    times, falling = SplitGibbs()._times(at, Run(torch.arange(1), times=own))
    assert times == pytest.approx([1.0, 0.5, 0.2])
    assert falling == 3


# --- DAPS ----------------------------------------------------------------------------------------------


def test_daps_is_its_linear_recursion_for_a_gaussian_prior() -> None:
    """The flow is affine, and so are the Gaussian step and the noise: the law of the end is known."""
    denoiser, times, n = LAW.denoiser(SDE), sd.grids.geometric(SDE, 6), 20_000
    x = posterior_draws(
        denoiser, MEASUREMENT, Y, method=DAPS(flow_steps=40), times=times, n=n
    ).x  # 40, for the flow to be exact
    A = MEASUREMENT.dense(2)
    eye = torch.eye(2, dtype=torch.float64)
    mean, covariance = torch.zeros(2, dtype=torch.float64), float(SDE.at(1.0).sigma) ** 2 * eye
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        shift = LAW.flow(torch.zeros(1, 2, dtype=torch.float64), SDE, t, 0.0)[0]
        flow = (LAW.flow(eye, SDE, t, 0.0) - shift).mT
        mean, covariance = flow @ mean + shift, flow @ covariance @ flow.mT
        r2 = spread(SDE.at(t), denoiser.data_std) ** 2
        inverse = torch.linalg.inv(eye / r2 + A.mT @ A / 0.2**2)
        mean = inverse @ (mean / r2 + A.mT @ Y / 0.2**2)
        covariance = inverse @ (covariance / r2**2) @ inverse + inverse
        alpha, sigma = float(SDE.at(s).alpha), float(SDE.at(s).sigma)
        mean, covariance = alpha * mean, alpha**2 * covariance + sigma**2 * eye
    assert standard_errors(x, mean, covariance).abs().max() < 4.0


def test_daps_by_langevin_steps_is_daps_by_exact_ones() -> None:
    """A linear A that is not said to be: the same law, at the standard errors of two samples."""
    linear, any_a = (
        posterior_draws(
            LAW.denoiser(SDE), sd.GaussianMeasurement(A, 0.2), Y, method=DAPS(flow_steps=3), steps=12, n=4000, seed=seed
        )
        for seed, A in enumerate([MEASUREMENT.operator, Callable(lambda x: x[:, :1] - 0.5 * x[:, 1:])])
    )
    a, b = moments(linear.x), moments(any_a.x)
    assert ((a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / len(a)).sqrt()).abs().max() < 4.0
    assert linear.diagnostics == {}
    assert len(any_a.diagnostics["acceptance"]) == 12


# --- both ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("operator", [MEASUREMENT.operator, CUBE], ids=str)
def test_a_sample_depends_on_its_number_alone(method: Method, operator: Any) -> None:
    measurement = sd.GaussianMeasurement(operator, 0.2)
    draw = lambda **how: posterior_draws(LAW.denoiser(SDE), measurement, Y, method=method, steps=6, **how).x  # noqa: E731
    whole = draw(n=5)
    torch.testing.assert_close(draw(ids=[3]), whole[3:4], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(draw(n=5, batch_size=2), whole, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(draw(n=5, seed=1), whole, atol=0.01)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("operator", [MEASUREMENT.operator, CUBE], ids=str)
def test_each_sample_may_have_its_own_measurement(method: Method, operator: Any) -> None:
    measurement = sd.GaussianMeasurement(operator, 0.2)
    y = torch.tensor([[-1.0], [0.3], [2.0]], dtype=torch.float64)
    denoiser = LAW.denoiser(SDE)
    together = posterior_draws(denoiser, measurement, y, method=method, steps=6, n=3).x
    for i in range(3):
        alone = posterior_draws(denoiser, measurement, y[i], method=method, steps=6, ids=[i]).x
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_process_will_do(method: Method, name: str) -> None:
    """The law of the end is near the posterior's, if not it: within half its width."""
    draws = posterior_draws(LAW.denoiser(PROCESSES[name]), MEASUREMENT, Y, method=method, steps=40, n=500)
    exact = LAW.posterior(MEASUREMENT, Y)
    std = exact.covariances[0].diagonal().sqrt()
    assert ((draws.x.mean(0) - exact.means[0]) / std).abs().max() < 0.5
    assert (draws.x.std(0) / std - 1.0).abs().max() < 0.5


class Half(nn.Module):
    """x0 = x / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return self.factor * x


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("mask", [True, False])
def test_pictures_in_single_precision(method: Method, mask: bool) -> None:
    denoiser = sd.EpsNet(Half(), SDE, shape=(1, 4, 4))
    kept = torch.arange(16).reshape(4, 4) % 2 == 0
    operator = sd.operators.Mask(kept) if mask else Callable(lambda x: x.square())
    measurement = sd.GaussianMeasurement(operator, 0.1)
    y = measurement.simulate(torch.rand(1, 1, 4, 4), 1)
    ticks: list[int] = []
    draws = posterior_draws(denoiser, measurement, y, method=method, steps=9, n=3, on_step=lambda: ticks.append(1))
    assert draws.x.shape == (3, 1, 4, 4)
    assert draws.x.dtype == torch.float32
    assert len(ticks) == 9
    # measured as it says, but for what r_min or the last level adds
    assert measurement.chi_square(draws.x, y).max() < 12.0


@pytest.mark.parametrize(
    ("kind", "choices", "message"),
    [
        (DAPS, {"flow_steps": 0}, "flow_steps = 0"),
        (DAPS, {"langevin_steps": 1}, "langevin_steps = 1; it must be 2 or more"),
        (SplitGibbs, {"r_min": 0.0}, "needs 0 < r_min <= r_max"),
        (SplitGibbs, {"r_min": 5.0}, r"r_min = 5.0, r_max = 3.0"),
        (SplitGibbs, {"annealed": 1.2}, "annealed = 1.2"),
        (SplitGibbs, {"denoise_steps": 0}, "denoise_steps = 0"),
        (SplitGibbs, {"langevin_steps": 0}, "langevin_steps = 0"),
    ],
)
def test_wrong_choices_are_refused(kind: type[Method], choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**choices)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_what_is_not_finite_is_refused(method: Method) -> None:
    network = Half()
    network.factor.data.fill_(math.nan)
    denoiser = sd.EpsNet(network, SDE, shape=(2,))
    with pytest.raises(sd.NumericalError, match="not finite"):
        posterior_draws(denoiser, MEASUREMENT, Y, method=method, steps=4)
