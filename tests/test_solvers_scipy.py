"""scipy's solve_ivp on the flow: exact flow maps, both directions, and what happens when a network misbehaves."""

import math

import pytest
import torch
from problems import PROCESSES, gaussian, mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde.sde import Level, LinearSDE
from scoresde.solvers import RK45
from scoresde.solvers import scipy as module
from scoresde.solvers.scipy import ORDERS, Scipy


class Watched(sd.Wrapped):
    """Remembers what it was asked, and stops a solver that never does."""

    def __init__(self, inner: sd.Denoiser) -> None:
        super().__init__(inner)
        self.times: list[float] = []
        self.shapes: set[tuple[int, ...]] = set()

    def predict(self, x: Tensor, t: Level) -> Tensor:
        self.times.append(float(t.t))
        self.shapes.add(tuple(x.shape))
        assert len(self.times) < 20_000, "the solver hangs"
        return self.inner.predict(x, t)


class Broken(Watched):
    """NaN below a time, or where x is large."""

    def __init__(self, inner: sd.Denoiser, below: float = 0.0, beyond: float = math.inf) -> None:
        super().__init__(inner)
        self.below, self.beyond = below, beyond

    def predict(self, x: Tensor, t: Level) -> Tensor:
        bad = float(t.t) < self.below or float(x.abs().max()) > self.beyond
        return super().predict(x, t) * (math.nan if bad else 1.0)


class Rough(Watched):
    """Its slope turns over faster than float64 has numbers for: no step is small enough."""

    def predict(self, x: Tensor, t: Level) -> Tensor:
        return super().predict(x, t) + 1e8 * torch.sin(1e8 * (t.t + x))


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
def test_it_follows_the_exact_flow_map_both_ways(sde: LinearSDE) -> None:
    """Decoding and encoding one Gaussian, to the tolerance; and back where it came from."""
    law, solver, tolerance = gaussian(), Scipy(rtol=1e-8, atol=1e-8), 1e-8
    denoiser, x1 = law.denoiser(sde), sde.prior_std() * normal(1, 2, seed=4)
    x0 = sd.decode(denoiser, x1, solver)
    assert (x0 - law.flow(x1, sde, 1.0, 0.0)).abs().max() < 5 * tolerance
    latents = sd.encode(denoiser, x0, solver)
    assert (latents - law.flow(x0, sde, 0.0, 1.0)).abs().max() < 5 * tolerance * sde.prior_std()
    assert (latents - x1).abs().max() < 20 * tolerance * sde.prior_std()


@pytest.mark.parametrize("method", ORDERS)
def test_every_method_keeps_its_tolerance(method: str) -> None:
    """Global errors of a few tolerances; 20 for those of many steps (BDF, LSODA)."""
    law, sde = gaussian(), sd.VP()
    x1 = normal(2, 2)
    x = sd.sample(law.denoiser(sde), Scipy(method, 1e-6, 1e-6), x1=x1)
    assert (x - law.flow(x1, sde, 1.0, 0.0)).abs().max() < 20e-6


@pytest.mark.parametrize(("method", "tight"), [("RK23", 1e-8), ("RK45", 1e-13)])
def test_evaluations_grow_like_the_declared_order(method: str, tight: float) -> None:
    """As tolerance^(-1/order), once the start is forgotten."""
    counts, x1 = [], normal(1, 2)
    for tolerance in (100 * tight, tight):
        denoiser = Watched(gaussian().denoiser(sd.RectifiedFlow()))
        sd.sample(denoiser, Scipy(method, tolerance, tolerance), x1=x1)
        counts.append(len(denoiser.times))
    slope = math.log(counts[1] / counts[0]) / math.log(100)
    assert slope == pytest.approx(1 / Scipy(method).order, abs=0.03)


@pytest.mark.parametrize("name", ["vp", "ve", "rectified-flow"])
def test_it_agrees_with_our_own_solver_on_a_mixture(name: str) -> None:
    sde = PROCESSES[name]
    denoiser, x1 = mixture().denoiser(sde), sde.prior_std() * normal(1, 3)
    ours = sd.sample(denoiser, RK45(1e-8, 1e-8), x1=x1)
    torch.testing.assert_close(sd.sample(denoiser, Scipy(rtol=1e-8, atol=1e-8), x1=x1), ours, rtol=0, atol=1e-6)


def test_nothing_couples_the_samples_of_a_batch() -> None:
    """Companions a million times larger change nothing, bit for bit; neither does their number."""
    denoiser, x1 = Watched(mixture().denoiser(sd.VP())), normal(3, 3)
    others = x1.clone()
    others[1:] *= 1e6
    together = sd.sample(denoiser, Scipy(), x1=x1)
    assert torch.equal(together[0], sd.sample(denoiser, Scipy(), x1=others)[0])
    assert torch.equal(together, sd.sample(denoiser, Scipy(), x1=x1, batch_size=2))
    assert denoiser.shapes == {(1, 3)}


@pytest.mark.parametrize("sde", [sd.VP(), sd.RectifiedFlow()], ids=["vp", "rectified-flow"])
@pytest.mark.parametrize("method", ORDERS)
def test_no_call_outside_the_unit_interval(method: str, sde: LinearSDE) -> None:
    denoiser = Watched(gaussian().denoiser(sde))
    sd.encode(denoiser, sd.sample(denoiser, Scipy(method, 1e-4, 1e-4), n=1), Scipy(method, 1e-4, 1e-4))
    assert 0 < min(denoiser.times) < 1e-4  # a network's flow is singular at 0
    assert max(denoiser.times) == pytest.approx(1, abs=1e-12)
    assert max(denoiser.times) <= 1


def test_part_of_the_way_is_the_flow_map_of_that_part() -> None:
    law, sde = gaussian(), sd.VE(0.01, 20.0)
    x = 2.0 * normal(2, 2)
    solver, noise = Scipy(rtol=1e-9, atol=1e-9), sd.CounterNoise(0, torch.arange(2), (2,), torch.float64)
    end = sd.solve(solver.reverse(law.denoiser(sde)), solver, torch.tensor([0.7, 0.2], dtype=torch.float64), x, noise)
    torch.testing.assert_close(end, law.flow(x, sde, 0.7, 0.2), rtol=0, atol=1e-7)


def test_the_end_is_x0_itself() -> None:
    """The angle stops at 2e-3 in float32: what is left is one step of denoising, exact for data at one point."""
    point = torch.tensor([[0.3, -0.7]])
    x = sd.sample(sd.Empirical(point).denoiser(sd.VP()), Scipy(), n=2)
    torch.testing.assert_close(x, point.expand(2, 2), rtol=0, atol=1e-5)


def test_a_float32_network_is_asked_in_float32_and_keeps_no_graph() -> None:
    net = torch.nn.Linear(2, 2)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            assert x.dtype == torch.float32
            return torch.tanh(self.net(x))

    denoiser = sd.NetDenoiser(Net(), sd.VP(), sd.PredictsV(), shape=(2,))
    noise, solver = sd.CounterNoise(0, torch.arange(2), (2,)), Scipy(rtol=1e-5, atol=1e-5)
    x = sd.solve(solver.reverse(denoiser), solver, torch.tensor([1.0, 0.0]), noise.start(), noise)
    assert x.dtype == torch.float32
    assert not x.requires_grad
    torch.testing.assert_close(x, sd.sample(denoiser, RK45(1e-5, 1e-5), x1=noise.start()), rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ORDERS)
def test_a_slope_that_is_not_finite_is_named_and_does_not_hang(method: str) -> None:
    """At the first call solve_ivp's RK45 would loop for ever, and LSODA report success."""
    inner = gaussian().denoiser(sd.VP())
    with pytest.raises(sd.NumericalError, match=rf"{method}.*sample 0 .* not finite at t = 1$"):
        sd.sample(Broken(inner, below=2.0), Scipy(method), n=1)
    with pytest.raises(sd.NumericalError, match=rf"{method}.*sample 0 .* not finite at t = 0\.[1-4]"):
        sd.sample(Broken(inner, below=0.4), Scipy(method), n=1)


def test_the_sample_that_broke_is_named() -> None:
    x1 = torch.tensor([[1.0, 0.0], [0.0, 1.0], [50.0, 0.0]], dtype=torch.float64)
    inner = gaussian().denoiser(sd.VP())
    with pytest.raises(sd.NumericalError, match=r"sample 2 of the batch has a slope that is not finite at t = 1"):
        sd.sample(Broken(inner, beyond=40.0), Scipy(), x1=x1)
    x1[1, 0] = math.nan
    with pytest.raises(sd.NumericalError, match=r"sample 1 of the batch is not finite at t = 1"):
        sd.sample(inner, Scipy(), x1=x1)


def test_a_run_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVALUATIONS", 60)
    denoiser = Watched(gaussian().denoiser(sd.VP()))
    with pytest.raises(sd.NumericalError, match=r"sample 0 .* made 60 network calls .* at t = 0\.\d+; take larger tol"):
        sd.sample(denoiser, Scipy(rtol=1e-9, atol=1e-9), n=1)
    assert len(denoiser.times) == 60


@pytest.mark.parametrize("method", ["RK23", "RK45", "DOP853", "Radau", "BDF"])
def test_a_run_that_scipy_gives_up_is_an_error(method: str) -> None:
    """Its `status` says so, and nothing else does."""
    denoiser = Rough(gaussian().denoiser(sd.VP()))
    with pytest.raises(sd.NumericalError, match=r"sample 0 .* given up by scipy at t = .*step size.*larger tolerances"):
        sd.sample(denoiser, Scipy(method, 1e-9, 1e-9), n=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "RK4"}, r"'RK4'; scipy's solve_ivp has RK23, RK45, DOP853, LSODA, Radau, BDF"),
        ({"rtol": 0.0}, "rtol = 0"),
        ({"atol": -1e-3}, "atol = -0.001"),
        ({"atol": math.inf}, "atol = inf"),
        ({"rtol": math.nan}, "rtol = nan"),
        ({"rtol": 1e-15}, r"rtol = 1e-15; float64 allows no less than 2\.2e-14"),
    ],
)
def test_wrong_choices_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scipy(**arguments)
    assert Scipy(rtol=2.3e-14).rtol > 0  # the lowest one that scipy takes without a warning


def test_it_takes_neither_steps_nor_a_grid() -> None:
    with pytest.raises(ValueError, match="chooses its own steps"):
        sd.sample(gaussian().denoiser(sd.VP()), Scipy(), steps=3)
