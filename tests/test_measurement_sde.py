"""The measurement as an SDE: its mean and score exactly, its draws at the floor, and the lift from A(X) to X."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from problems import BETAS, gaussian, mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde.denoisers import LogSNR
from scoresde.inverse import MMPS, GaussianMeasurement, Method, Problem, Run, TwistedSMC, posterior_draws
from scoresde.inverse.measurement_sde import (
    Brownian,
    MeasurementPath,
    MeasurementSDE,
    MixturePosterior,
    lift,
    pushforward,
)
from scoresde.metrics import sliced_wasserstein
from scoresde.operators import Clip, Dense, FromFunctions, Identity, LinearOperator, Mask

LAW = mixture()
WIDE, TALL = normal(2, 3, seed=3), normal(5, 3, seed=4)
OPERATORS = {
    "identity": torch.eye(3, dtype=torch.float64),
    "wide": WIDE,
    "tall": TALL,  # A(X) lies on a 3-dimensional subspace of 5
    "of rank one": torch.outer(normal(4, seed=5), normal(3, seed=6)),
}
N = 2000
FLOORED = 1.3
"""Mean ratio to the exact-versus-exact floor over 4 problems: 1 +- 0.1 for exact draws."""


def measured(operator: LinearOperator, noise_std: float, seed: int = 0) -> tuple[GaussianMeasurement, Tensor]:
    """A measurement and one y, (*)."""
    measurement = GaussianMeasurement(operator, noise_std)
    return measurement, measurement.simulate(LAW.sample(1, seed=40 + seed), seed=seed)[0]


def above_floor(draw: Callable[[int], tuple[Tensor, sd.GaussianMixture]], seeds: int = 4) -> float:
    """Sliced W1 from draws to exact ones, over that from exact ones to others, in the mean over problems."""
    found, floor = 0.0, 0.0
    for seed in range(seeds):
        x, law = draw(seed)
        exact = [law.sample(len(x), seed=4 * seed + k) for k in range(4)]
        found += sum(sliced_wasserstein(x, other, directions=50) for other in exact) / 4
        pairs = ((0, 1), (2, 3), (0, 2), (1, 3))
        floor += sum(sliced_wasserstein(exact[i], exact[j], directions=50) for i, j in pairs) / 4
    return found / floor


# --- the process ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_std", [1e-3, 0.3, 20.0])
def test_brownian_motion_spreads_at_a_constant_rate(noise_std: float) -> None:
    sde = Brownian(noise_std)
    t = torch.tensor([0.0, 1e-6, 0.3, 1.0], dtype=torch.float64)
    torch.testing.assert_close(sde.time_of_log_snr(sde.log_snr(t)), t, rtol=1e-12, atol=0)
    a, v = sde.transition(0.2, 0.7)
    assert (a, v) == (1.0, pytest.approx(0.5 * noise_std**2))
    assert (sde.at(0.4).f, sde.diffusion(0.4)) == (0.0, pytest.approx(noise_std))


@pytest.mark.parametrize("noise_std", [0.0, -1.0, math.inf, math.nan])
def test_a_noise_that_is_none_is_refused(noise_std: float) -> None:
    with pytest.raises(ValueError, match=r"noise_std = .*positive and finite"):
        MeasurementPath(LAW.denoiser(sd.VP()), noise_std)


# --- mean and score ------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise_std", [0.01, 0.3, 5.0])
@pytest.mark.parametrize("t", [1e-4, 0.3, 1.0])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_mean_is_the_exact_posterior_mean(name: str, t: float, noise_std: float) -> None:
    A = Dense(OPERATORS[name])
    path = MeasurementPath(pushforward(LAW, A).denoiser(sd.VP()), noise_std)
    measurement = GaussianMeasurement(A, noise_std * t**0.5)
    y = measurement.simulate(LAW.sample(4, seed=1), seed=2)
    exact = torch.stack([A(LAW.posterior(measurement, one).mean()[None])[0] for one in y])
    torch.testing.assert_close(path.mean(y, t), exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sde", [sd.VP(), sd.VP.from_betas(BETAS), sd.EDM(20.0), sd.RectifiedFlow()], ids=str)
@pytest.mark.parametrize("noise_std", [0.05, 0.5, 3.0])
def test_any_denoiser_of_x_is_one_of_the_measurement_where_nothing_is_in_between(
    sde: sd.LinearSDE, noise_std: float
) -> None:
    measurement, y = measured(Identity(), noise_std)
    found = MeasurementPath(LAW.denoiser(sde), noise_std).mean(y)
    torch.testing.assert_close(found[0], LAW.posterior(measurement, y).mean(), rtol=1e-8, atol=1e-8)


def test_a_network_of_a_vp_process_is_asked_as_theory_says() -> None:
    """E[X | Y_t = y] = xhat0(sqrt(abar) y, tau) with abar(tau) = 1 / (1 + noise_std^2 t)."""
    module = torch.nn.Linear(3, 3).double()
    net = sd.EpsNet(_Told(module), sd.VP(), condition=LogSNR(), shape=(3,))
    y, noise_std, t = normal(5, 3), 0.4, 0.3
    alpha_bar = 1.0 / (1.0 + noise_std**2 * t)
    tau = sd.VP().time_of_log_snr(math.log(alpha_bar / (1.0 - alpha_bar))).item()
    expected = net.x0(alpha_bar**0.5 * y, tau)
    torch.testing.assert_close(MeasurementPath(net, noise_std).mean(y, t), expected, rtol=1e-8, atol=1e-8)


class _Told(torch.nn.Module):
    """A network that uses what it is told."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return torch.sin(self.module(x)) + 0.1 * condition.reshape(-1, *(1,) * (x.ndim - 1))


@pytest.mark.parametrize("name", OPERATORS)
def test_the_score_obeys_tweedie(name: str) -> None:
    """grad log q_t(y) = (E[A(X) | Y_t = y] - y) / (noise_std^2 t), and is that of the noised law of A(X)."""
    A, noise_std, t = Dense(OPERATORS[name]), 0.6, 0.35
    law = pushforward(LAW, A)
    path = MeasurementPath(law.denoiser(sd.VP()), noise_std)
    y = GaussianMeasurement(A, noise_std).simulate(LAW.sample(5, seed=1))
    exact = law.diffuse(Brownian(noise_std), t).score(y)
    torch.testing.assert_close(path.score(y, t), exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close((path.mean(y, t) - y) / (noise_std**2 * t), exact, rtol=1e-9, atol=1e-9)


def test_at_t_0_nothing_is_left_to_do() -> None:
    path = MeasurementPath(LAW.denoiser(sd.VP()), 0.5)
    y = normal(4, 3)
    torch.testing.assert_close(path.mean(y, 0.0), y)
    torch.testing.assert_close(path.score(y, 0.0), LAW.score(y), rtol=1e-9, atol=1e-9)


# --- the way back --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise_std", "steps"), [(0.1, 50), (0.5, 20), (0.5, 50), (2.0, 50)])
def test_draws_are_at_the_floor(noise_std: float, steps: int) -> None:
    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        measurement, y = measured(Identity(), noise_std, seed)
        x = MeasurementPath(LAW.denoiser(sd.VP()), noise_std).sample(y, steps=steps, n=N, seed=seed)
        return x, LAW.posterior(measurement, y)

    assert above_floor(draw) < FLOORED


def test_only_the_time_reversal_draws_given_one_y() -> None:
    """A sampler with less noise has the right marginals, and the wrong law given y."""

    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        measurement, y = measured(Identity(), 0.5, seed)
        path = MeasurementPath(LAW.denoiser(sd.VP()), 0.5)
        x = sd.sample(path.reversed, sd.solvers.ERSDE(), steps=50, x1=y.expand(N, -1))
        return x, LAW.posterior(measurement, y)

    assert above_floor(draw, seeds=2) > 5.0


def bridged(posterior: sd.GaussianMixture, y: Tensor, s: float, noise_std: float) -> sd.GaussianMixture:
    """The law of Y_s given Y_1 = y: a Brownian bridge from a draw of the posterior to y."""
    return sd.GaussianMixture(
        posterior.weights,
        (1.0 - s) * posterior.means + s * y,
        (1.0 - s) ** 2 * posterior.covariances + s * (1.0 - s) * noise_std**2 * torch.eye(len(y)),
    )


@pytest.mark.parametrize("s", [0.05, 0.5])
def test_the_dial_has_the_law_of_the_bridge_on_its_way(s: float) -> None:
    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        measurement, y = measured(Identity(), 0.7, seed)
        z = MeasurementPath(LAW.denoiser(sd.VP()), 0.7).dial(y, s, n=N, seed=seed)
        return z, bridged(LAW.posterior(measurement, y), y, s, 0.7)

    assert above_floor(draw) < FLOORED


@pytest.mark.parametrize("s", [0.05, 0.5])
def test_turning_the_dial_twice_is_turning_it_once(s: float) -> None:
    """With the same seed too: the noise of the second turn is its own."""

    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        measurement, y = measured(Identity(), 0.7, seed)
        path = MeasurementPath(LAW.denoiser(sd.VP()), 0.7)
        x = path.dial(path.dial(y, s, n=N, seed=seed), 0.0, s, seed=seed)
        return x, LAW.posterior(measurement, y)

    assert above_floor(draw) < FLOORED


def test_a_draw_for_each_measurement_has_the_law_of_the_pair() -> None:
    """(x, y) and (a draw given y, y) are alike, jointly."""
    noise_std = 0.8
    x = LAW.sample(2 * N, seed=3)
    y = GaussianMeasurement(Identity(), noise_std).simulate(x, seed=4)
    drawn = MeasurementPath(LAW.denoiser(sd.VP()), noise_std).sample(y[:N], seed=5)
    one, other, found = (torch.cat(pair, 1) for pair in ((x[N:], y[N:]), (x[:N], y[:N]), (drawn, y[:N])))
    assert sliced_wasserstein(found, one) < 1.2 * sliced_wasserstein(other, one)


def test_a_sample_is_a_function_of_its_number() -> None:
    path = MeasurementPath(LAW.denoiser(sd.VP()), 0.5)
    y = normal(3, seed=1)
    whole = path.sample(y, steps=10, n=12, seed=7)
    torch.testing.assert_close(path.sample(y, steps=10, ids=[11, 2], seed=7), whole[[11, 2]], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path.sample(y, steps=10, n=12, seed=7, batch_size=5), whole, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(path.sample(y, steps=10, n=12, seed=8), whole)


def test_a_stop_next_to_a_grid_time_is_no_trouble() -> None:
    path = MeasurementPath(LAW.denoiser(sd.VP()), 0.5)
    t = path._times(0.0, 1.0, 20)[7].item()
    y = normal(3, seed=1)
    stops = [path.dial(y, s, steps=20, n=4) for s in (t * (1 - 1e-13), t, t * (1 + 1e-13))]
    for stop in stops[::2]:
        torch.testing.assert_close(stop, stops[1], rtol=1e-6, atol=1e-6)


# --- restore -------------------------------------------------------------------------------------------


def test_restore_denoises_without_being_told_more() -> None:
    measurement, y = measured(Identity(), 0.5)
    x = sd.restore(LAW.denoiser(sd.VP()), measurement, y, method=MeasurementSDE(), steps=30, n=8, seed=3)
    assert torch.equal(x, MeasurementPath(LAW.denoiser(sd.VP()), 0.5).sample(y, steps=30, n=8, seed=3))


def test_what_turns_and_scales_x_is_denoising_too() -> None:
    """y = 2 Q x + noise says of x what Q' y / 2 = x + noise / 2 does; a tensor of one noise_std is a number."""
    turn = torch.linalg.qr(normal(3, 3, seed=8)).Q
    y, prior = normal(3, seed=9), LAW.denoiser(sd.VP())
    noise = torch.full((3,), 0.8, dtype=torch.float64)
    turned = sd.restore(prior, GaussianMeasurement(Dense(2.0 * turn), noise), y, method=MeasurementSDE(), n=5)
    plain = sd.restore(prior, GaussianMeasurement(Identity(), 0.4), y @ turn / 2.0, method=MeasurementSDE(), n=5)
    torch.testing.assert_close(turned, plain)
    everything = GaussianMeasurement(Mask(torch.ones(3, dtype=torch.bool)), 0.4)
    masked = sd.restore(prior, everything, y @ turn / 2.0, method=MeasurementSDE(), n=5)
    torch.testing.assert_close(masked, plain)


@pytest.mark.parametrize("name", OPERATORS)
def test_of_a_mixture_it_is_exact_for_every_linear_operator(name: str) -> None:
    A = Dense(OPERATORS[name])

    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        measurement, y = measured(A, 0.5, seed)
        method = MeasurementSDE.of_mixture(LAW, A)
        return sd.restore(LAW.denoiser(sd.VP()), measurement, y, method=method, n=N, seed=seed), LAW.posterior(
            measurement, y
        )

    assert above_floor(draw) < FLOORED


def test_a_denoiser_of_what_an_injective_operator_gives_is_all_it_takes() -> None:
    A, noise_std = Dense(TALL), 0.5
    measurement, y = measured(A, noise_std)
    denoiser = pushforward(LAW, A).denoiser(sd.EDM(50.0))
    draws = posterior_draws(LAW.denoiser(sd.VP()), measurement, y, method=MeasurementSDE(denoiser), n=N)
    posterior = LAW.posterior(measurement, y)
    errors = (draws.x.mean(0) - posterior.mean()) / (draws.x.std(0) / math.sqrt(N))
    assert errors.abs().max() < 4.0
    torch.testing.assert_close(draws.x @ TALL.mT @ torch.linalg.pinv(TALL).mT, draws.x)


def test_any_operator_will_do_with_a_denoiser_of_its_own_and_a_fill() -> None:
    """A non-linear A that is undone exactly: x -> 2 x as a user's function that says nothing of its adjoint."""
    double = _Double()
    measurement = GaussianMeasurement(double, 0.6)
    y = measurement.simulate(LAW.sample(1, seed=2))[0]
    method = MeasurementSDE(pushforward(LAW, 2.0 * Identity()).denoiser(sd.VP()), fill=_Half())
    x = sd.restore(LAW.denoiser(sd.VP()), measurement, y, method=method, n=N)
    exact = LAW.posterior(GaussianMeasurement(Identity(), 0.3), y / 2.0)
    assert ((x.mean(0) - exact.mean()) / (x.std(0) / math.sqrt(N))).abs().max() < 4.0


class _Double(sd.operators.Operator):
    def __call__(self, x: Tensor) -> Tensor:
        return 2.0 * x


class _Half(Method):
    def draw(self, problem: Problem, run: Run) -> sd.inverse.Draws:
        return sd.inverse.Draws(problem.y / 2.0)


def test_pictures_in_single_precision() -> None:
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    prior = sd.NetDenoiser(_Told(net), sd.VP(), sd.PredictsV(), condition=LogSNR(), shape=(1, 8, 8))
    y = normal(1, 8, 8, dtype=torch.float32)
    ticks: list[int] = []
    x = sd.restore(
        prior,
        GaussianMeasurement(Identity(), 0.1),
        y,
        method=MeasurementSDE(),
        steps=7,
        n=3,
        on_step=lambda: ticks.append(1),
    )
    assert x.shape == (3, 1, 8, 8)
    assert x.dtype == torch.float32
    assert len(ticks) == 7
    assert 0 < (x - y).std() < 0.4


@pytest.mark.parametrize(
    ("measurement", "method", "choices", "message"),
    [
        (GaussianMeasurement(Dense(WIDE), 0.1), MeasurementSDE(), {}, r"not the identity.*give denoiser=.*MMPS"),
        (GaussianMeasurement(0.5 * Identity() + Dense(torch.eye(3).flip(0)), 0.1), MeasurementSDE(), {}, "not the ide"),
        (GaussianMeasurement(Clip(-9.0, 9.0), 0.1), MeasurementSDE(), {}, "not the identity"),
        (GaussianMeasurement(Identity(), torch.tensor([0.1, 0.2, 0.1])), MeasurementSDE(), {}, "from 0.1 to 0.2 over"),
        (
            GaussianMeasurement(Dense(WIDE), 0.1),
            MeasurementSDE(pushforward(LAW, Dense(WIDE)).denoiser(sd.VP())),
            {},
            r"leaves 1 of 3 directions of x unseen; give fill=",
        ),
        (GaussianMeasurement(Dense(WIDE), 0.1), MeasurementSDE(LAW.denoiser(sd.VP())), {}, r"denoiser of A\(X\) takes"),
        (GaussianMeasurement(Identity(), 0.1), MeasurementSDE(), {"times": [0.9, 0.1, 0.0]}, "from 0.9 to 0; y is"),
        (GaussianMeasurement(Identity(), 0.1), MeasurementSDE(), {"times": [1.0, 0.1]}, "from 1 to 0.1; y is"),
        (GaussianMeasurement(Identity(), 0.1), MeasurementSDE(), {"solver": sd.solvers.UniPC()}, "its own steps"),
    ],
    ids=str,
)
def test_what_it_is_not_for_is_refused(
    measurement: GaussianMeasurement, method: Method, choices: dict[str, object], message: str
) -> None:
    y = measurement.operator(torch.ones(1, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match=message):
        sd.restore(LAW.denoiser(sd.VP()), measurement, y, method=method, n=2, **choices)


def test_users_mistakes_on_a_path() -> None:
    path = MeasurementPath(LAW.denoiser(sd.VP()), 0.1)
    y = torch.zeros(2, 3, dtype=torch.float64)
    for to, since in ((0.5, 0.5), (0.5, 0.2), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="the dial goes down"):
            path.dial(y, to, since)
    with pytest.raises(ValueError, match="2 measurements, for 3 draws"):
        path.sample(y, n=3)
    with pytest.raises(ValueError, match=r"takes \(B, \*\) with \(3,\)"):
        path.mean(torch.zeros(2, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="interact"):
        MeasurementSDE(fill=TwistedSMC())


def test_a_network_is_not_asked_to_remove_noise_that_it_does_not_know() -> None:
    net = sd.EpsNet(_Told(torch.nn.Linear(3, 3).double()), sd.VP(), condition=LogSNR(high=4.0), shape=(3,))
    with pytest.raises(ValueError, match=r"below the cleanest level that the denoiser knows, 0.135"):
        MeasurementPath(net, 0.1).sample(torch.zeros(3))
    x = MeasurementPath(net, 0.2).sample(torch.zeros(3), steps=9)  # no warning of a level off its range
    assert x.isfinite().all()


# --- pushforward, lift and exact draws -----------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_the_pushforward_is_the_law_of_what_is_measured(name: str) -> None:
    A = Dense(OPERATORS[name])
    law = pushforward(LAW, A)
    torch.testing.assert_close(law.mean(), A(LAW.mean()[None])[0])
    torch.testing.assert_close(law.covariance(), OPERATORS[name] @ LAW.covariance() @ OPERATORS[name].mT)
    assert sliced_wasserstein(law.sample(N), A(LAW.sample(N))) < 1e-9 + 2.0 * sliced_wasserstein(
        A(LAW.sample(N, seed=1)), A(LAW.sample(N))
    )
    with pytest.raises(ValueError, match="not linear"):
        pushforward(LAW, Clip(0.0, 1.0))


def test_the_posterior_mean_of_what_is_measured_lifts_to_that_of_x() -> None:
    measurement, y = measured(Dense(TALL), 0.5)
    path = MeasurementPath(pushforward(LAW, Dense(TALL)).denoiser(sd.VP()), 0.5)
    problem = Problem(LAW.denoiser(sd.VP()), measurement, path.mean(y), (3,))
    found = lift(problem, Run(torch.arange(1)))
    torch.testing.assert_close(found[0], LAW.posterior(measurement, y).mean(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("fill", [MixturePosterior(gaussian()), MMPS()], ids=["exact", "MMPS"])
def test_the_unseen_is_filled_from_the_prior(fill: Method) -> None:
    """On one Gaussian, where MMPS is exact too: mean and spread of x given A x = v, and A x = v itself."""
    law, A = gaussian(), Dense([[1.0, 0.5]])
    v = torch.tensor([[0.8]], dtype=torch.float64)
    problem = Problem(law.denoiser(sd.EDM(20.0)), GaussianMeasurement(A, 0.1), v, (2,))
    with torch.no_grad():
        x = lift(problem, Run(torch.arange(N), steps=40), fill)
    exact = law.posterior(GaussianMeasurement(A, 1e-6), v[0])
    torch.testing.assert_close(A(x), v.expand(N, 1), rtol=0, atol=1e-3)
    errors = (x.mean(0) - exact.mean()) / (x.std(0) / math.sqrt(N))
    assert errors.abs().max() < 4.0
    variance = exact.covariance().diagonal()
    assert ((x.var(0) / variance - 1.0) * math.sqrt(N / 2.0)).abs().max() < 4.0


@pytest.mark.parametrize("name", OPERATORS)
def test_exact_draws_are_exact(name: str) -> None:
    A = Dense(OPERATORS[name])

    def draw(seed: int) -> tuple[Tensor, sd.GaussianMixture]:
        noise = torch.linspace(0.3, 0.9, len(OPERATORS[name]), dtype=torch.float64)
        measurement = GaussianMeasurement(A, noise)
        y = measurement.simulate(LAW.sample(1, seed=40 + seed), seed=seed)[0]
        method = MixturePosterior(LAW)
        return sd.restore(LAW.denoiser(sd.VP()), measurement, y, method=method, n=N, seed=seed), LAW.posterior(
            measurement, y
        )

    assert above_floor(draw) < FLOORED


def test_an_exact_draw_for_each_measurement() -> None:
    measurement = GaussianMeasurement(Dense(WIDE), 0.5)
    x = LAW.sample(2 * N, seed=3)
    y = measurement.simulate(x, seed=4)
    drawn = sd.restore(LAW.denoiser(sd.VP()), measurement, y[:N], method=MixturePosterior(LAW), n=N)
    one, other, found = (torch.cat(pair, 1) for pair in ((x[N:], y[N:]), (x[:N], y[:N]), (drawn, y[:N])))
    assert sliced_wasserstein(found, one) < 1.2 * sliced_wasserstein(other, one)
    again = sd.restore(LAW.denoiser(sd.VP()), measurement, y[:2], method=MixturePosterior(LAW), n=2)
    torch.testing.assert_close(again, drawn[:2])


def test_a_vector_law_of_a_picture() -> None:
    """A prior of flat vectors, samples of another shape, and an operator that takes that shape."""
    mask = torch.tensor([[True, False], [True, True]])
    law = mixture(4)
    operator = FromFunctions(lambda x: x.flatten(1)[:, mask.flatten()], shape=(2, 2))
    measurement = GaussianMeasurement(operator, 0.01)
    y = operator(law.sample(1, seed=3).reshape(1, 2, 2))[0]
    prior = law.denoiser(sd.VP())
    draws = MixturePosterior(law).draw(Problem(prior, measurement, y[None], (2, 2)), Run(torch.arange(5)))
    assert draws.x.shape == (5, 2, 2)
    torch.testing.assert_close(operator(draws.x), y.expand(5, 3), rtol=0, atol=0.06)
