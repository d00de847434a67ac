"""Multistep solvers: their integrals against a black box, orders on the flow, exact weak orders, identities."""

import math

import numpy as np
import pytest
import torch
from problems import PROCESSES, gaussian, mixture, normal
from scipy.integrate import quad
from torch import Tensor

import scoresde as sd
from scoresde import grids
from scoresde.noise import Noise
from scoresde.sde import LinearSDE
from scoresde.solvers import DDIM, ERSDE, AdamsBashforth, DPMSolver, SASolver, Solver, UniPC
from scoresde.solvers._exponential import Exponential, ratio, reach, smooth_log
from scoresde.solvers.adams_bashforth import NoiseRatio, SquaredAngle, Time

EXPONENTIAL: dict[str, Exponential] = {
    "flow": DPMSolver(3),
    "share-1": DPMSolver(3, sde=True),
    "share-0.5": SASolver(eta=0.5),
    "er-sde": ERSDE(),
}
FLOW: dict[str, Solver] = {
    **{f"dpm-{order}": DPMSolver(order) for order in (1, 2, 3)},
    **{f"unipc-{order}": UniPC(order) for order in (1, 2, 3)},
    **{f"adams-{order}": AdamsBashforth(order) for order in (2, 3, 4)},
}
STOCHASTIC: dict[str, Solver] = {
    **{f"dpm-sde-{order}": DPMSolver(order, sde=True) for order in (1, 2)},
    **{f"er-sde-{points}": ERSDE(points) for points in (1, 2)},
    **{f"sa-{points}": SASolver(points=points) for points in (1, 2, 3)},
    "sa-half": SASolver(eta=0.5),
}
by_process = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())


@pytest.mark.parametrize("sde", [sd.VP(), sd.VE(0.01, 20.0), sd.RectifiedFlow()], ids=["vp", "ve", "rectified-flow"])
@pytest.mark.parametrize("solver", EXPONENTIAL.values(), ids=EXPONENTIAL.keys())
def test_weights_integrate_polynomials_of_v_exactly(solver: Exponential, sde: LinearSDE) -> None:
    """psi_s int p d(1 / psi), by parts and by scipy in rho, for p = 1, v and v^2 through any three points."""
    t, s = sde.at(0.6), sde.at(0.2)
    points = [t, sde.at(0.75), sde.at(0.9)]
    got = solver.quadrature(points, t, s)
    rho_t, rho_s = ratio(reach(t)), ratio(reach(s))

    def psi_ratio(rho: float) -> float:
        return float(rho_s / rho * np.exp(solver.log_chi(np.array(rho_s)) - solver.log_chi(np.array(rho))))

    for power in range(3):
        v = lambda rho, power=power: smooth_log(100.0 * np.arctan(rho / 100.0)) ** power  # noqa: E731

        def by_parts(rho: float, v=v) -> float:
            h = 1e-6 * rho
            return psi_ratio(rho) * (v(rho + h) - v(rho - h)) / (2 * h)

        # d(p / psi) - dp / psi, both times psi_s
        expected = v(rho_s) - psi_ratio(float(rho_t)) * v(rho_t) - quad(by_parts, rho_t, rho_s, epsabs=1e-12)[0]
        values = np.array([smooth_log(reach(point)) ** power for point in points])
        assert float(got @ values) == pytest.approx(float(s.alpha) * float(expected), abs=1e-8)


@by_process
@pytest.mark.parametrize("solver", FLOW.values(), ids=FLOW.keys())
def test_the_order_on_their_own_grid_is_the_declared_one(solver: Solver, sde: LinearSDE) -> None:
    law = gaussian()
    x1 = sde.prior_std() * normal(20, 2)
    exact = law.flow(x1, sde, 1.0, 0.0)
    errors = [
        (sd.sample(law.denoiser(sde), solver, steps=n, x1=x1) - exact).square().mean().sqrt().item()
        for n in (256, 1024)
    ]
    assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(solver.order, abs=0.1)


@pytest.mark.parametrize("name", [name for name in FLOW if not name.startswith("unipc")])
@pytest.mark.parametrize("process", ["vp", "sub-vp", "ve", "rectified-flow"])
def test_predictors_keep_it_on_a_uniform_grid_too(name: str, process: str) -> None:
    """Where log rho has no end and the textbook methods fall to first order."""
    law, sde, solver = gaussian(), PROCESSES[process], FLOW[name]
    x1 = sde.prior_std() * normal(20, 2)
    exact = law.flow(x1, sde, 1.0, 0.0)
    errors = [
        (sd.sample(law.denoiser(sde), solver, times=grids.uniform(n), x1=x1) - exact).square().mean().sqrt().item()
        for n in (256, 1024)
    ]
    assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(solver.order, abs=0.1)


class Unit(Noise):
    """Row 0 has no noise, each other row a single one: at the start or in one step. A linear sampler answers each."""

    def __init__(self, steps: int) -> None:
        self.rows = steps + 2

    def _row(self, i: int) -> Tensor:
        x = torch.zeros(self.rows, 1, dtype=torch.float64)
        x[i] = 1.0
        return x

    def start(self) -> Tensor:
        return self._row(1)

    def at(self, step: int, t: float, s: float):
        return lambda k=0: self._row(2 + step)


def variance(law: sd.GaussianMixture, sde: LinearSDE, solver: Solver, steps: int) -> float:
    """Of the samples of one Gaussian, without sampling error: the sum of the squared responses to each noise."""
    noise = Unit(steps)
    times = grids.GRIDS[solver.grid](sde, steps, math.inf)
    x = sd.solve(solver.reverse(law.denoiser(sde)), solver, times, sde.prior_std() * noise.start(), noise)[:, 0]
    return (x[1:] - x[0]).square().sum().item()


@pytest.mark.parametrize("process", ["vp", "sub-vp", "cosine", "rectified-flow"])
@pytest.mark.parametrize("solver", STOCHASTIC.values(), ids=STOCHASTIC.keys())
def test_the_weak_order_on_one_gaussian_is_the_declared_one(solver: Solver, process: str) -> None:
    law = sd.GaussianMixture([1.0], [[0.5]], [0.09])
    errors = [abs(variance(law, PROCESSES[process], solver, steps) - 0.09) for steps in (256, 512)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.12)


def test_the_best_stochastic_solvers_keep_the_width_of_a_mode_in_fifty_steps() -> None:
    """Within 2 per cent, exactly computed, where ancestral sampling (DDIM with eta 1) loses much more."""
    law = sd.GaussianMixture([1.0], [[0.5]], [0.05**2])
    width = lambda solver: math.sqrt(variance(law, sd.VP(), solver, 50)) / 0.05  # noqa: E731
    assert width(ERSDE()) == pytest.approx(1.0, abs=0.02)
    assert width(SASolver()) == pytest.approx(1.0, abs=0.02)
    assert width(sd.solvers.Ancestral()) < 0.9


@by_process
def test_with_one_estimate_it_is_ddim(sde: LinearSDE) -> None:
    denoiser, x1 = mixture().denoiser(sde), sde.prior_std() * normal(5, 3)
    for one, other in ((DPMSolver(1), DDIM()), (DPMSolver(1, sde=True), DDIM(eta=1.0)), (SASolver(0.0, 1), UniPC(1))):
        runs = [sd.sample(denoiser, solver, times=grids.uniform(20), x1=x1, seed=3) for solver in (one, other)]
        torch.testing.assert_close(*runs, rtol=1e-8, atol=1e-8)


def test_sa_solver_without_noise_is_unipc() -> None:
    denoiser, x1 = mixture().denoiser(sd.VP()), normal(5, 3)
    one, other = (sd.sample(denoiser, solver, steps=12, x1=x1) for solver in (SASolver(eta=0.0), UniPC()))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("order", "weights"),
    [(2, [3 / 2, -1 / 2]), (3, [23 / 12, -16 / 12, 5 / 12]), (4, [55 / 24, -59 / 24, 37 / 24, -9 / 24])],
)
def test_adams_bashforth_has_the_textbook_weights_for_equal_steps(order: int, weights: list[float]) -> None:
    sde = sd.RectifiedFlow()
    at = [sde.at(t) for t in (0.5, 0.6, 0.7, 0.8)]
    got = AdamsBashforth(order, Time()).quadrature(at[:order], at[0], sde.at(0.4))
    np.testing.assert_allclose(got, -0.1 * np.array(weights), rtol=1e-9)


@pytest.mark.parametrize(
    "variable", [Time(), NoiseRatio(), SquaredAngle()], ids=["time", "noise-ratio", "squared-angle"]
)
def test_every_variable_follows_the_same_flow(variable) -> None:
    law, sde = gaussian(), sd.VP()
    x1 = sde.prior_std() * normal(20, 2)
    x = sd.sample(law.denoiser(sde), AdamsBashforth(3, variable), steps=1000, x1=x1)
    torch.testing.assert_close(x, law.flow(x1, sde, 1.0, 0.0), rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", [*FLOW.values(), ERSDE(), SASolver()], ids=repr)
def test_memory_is_that_of_a_few_states(solver: Solver) -> None:
    denoiser = mixture().denoiser(sd.VP())
    noise = sd.CounterNoise(0, torch.arange(4), (3,), torch.float64)
    pointers = {
        tensor.data_ptr()
        for _, state in sd.trajectory(solver.reverse(denoiser), solver, grids.uniform(30), noise.start(), noise)
        for tensor in (state.x, *state.memory)
    }
    assert len(pointers) <= 6


def test_a_network_that_answers_its_own_input_is_not_mixed_up_with_the_state() -> None:
    class Echo(torch.nn.Module):
        def __init__(self, copy: bool) -> None:
            super().__init__()
            self.copy = copy

        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            return x.clone() if self.copy else x

    x1 = normal(3, 2, dtype=torch.float32)
    for solver in (UniPC(), DPMSolver(2), AdamsBashforth(3)):
        one, two = (
            sd.sample(sd.EpsNet(Echo(copy), sd.VP(), condition=sd.LogSNR(-40, 40)), solver, steps=8, x1=x1)
            for copy in (False, True)
        )
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DPMSolver(4), "order = 4; it must be a whole number from 1 to 3"),
        (lambda: UniPC(0), "order = 0"),
        (lambda: AdamsBashforth(5), "order = 5; it must be a whole number from 2 to 4"),
        (lambda: ERSDE(7), "points = 7"),
        (lambda: SASolver(eta=-0.1), "eta = -0.1"),
        (lambda: SASolver(points=4), "points = 4"),
        (lambda: sd.encode(gaussian().denoiser(sd.VP()), torch.ones(1, 2), UniPC()), "goes from noise to data"),
        (
            lambda: sd.sample(gaussian().denoiser(sd.RectifiedFlow()), AdamsBashforth(3, NoiseRatio()), steps=3),
            "infinite at t = 1",
        ),
    ],
)
def test_wrong_choices_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
