"""Solvers: declared orders against exact flow maps, laws, evaluation counts, and no coupling of samples."""

import math

import numpy as np
import pytest
import torch
from problems import PROCESSES, gaussian, mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde import grids
from scoresde.noise import BrownianNoise
from scoresde.sde import Level, LinearSDE
from scoresde.solvers import (
    DDIM,
    ERSDE,
    RK4,
    RK45,
    AdamsBashforth,
    Ancestral,
    DPMSolver,
    Euler,
    EulerMaruyama,
    ExponentialEuler,
    Heun,
    SASolver,
    Solver,
    UniPC,
)

FLOW = {
    "euler": Euler(),
    "heun": Heun(),
    "ddim": DDIM(),
    "em-0": EulerMaruyama(eta=0.0),
    "exponential-0": ExponentialEuler(eta=0.0),
    "rk4": RK4(),
}
MULTISTEP = {"dpm-2": DPMSolver(2), "dpm-3": DPMSolver(3), "unipc": UniPC(), "adams-3": AdamsBashforth(3)}
STOCHASTIC = {
    "ancestral": Ancestral(),
    "ancestral-large": Ancestral("large"),
    "em": EulerMaruyama(),
    "em-0.5": EulerMaruyama(eta=0.5),
    "ddim-1": DDIM(eta=1.0),
    "ddim-0.5": DDIM(eta=0.5),
    "exponential": ExponentialEuler(),
    "dpm-sde": DPMSolver(2, sde=True),
    "er-sde": ERSDE(),
    "sa": SASolver(),
}
SOLVERS: dict[str, Solver] = {**FLOW, **MULTISTEP, **STOCHASTIC, "rk45": RK45()}
ONE_CALL_FEWER_AT_THE_END = ("rk4",)
ORDER_PROCESSES = {k: v for k, v in PROCESSES.items() if k in ("vp", "ve", "sub-vp", "cosine", "rectified-flow")}


def runs(solver: Solver, sde: LinearSDE) -> bool:
    """Euler-Maruyama cannot start where g is infinite, its exponential form not where alpha = 0."""
    if isinstance(solver, ExponentialEuler):
        return math.isfinite(sde.at(1.0).g2)
    return not isinstance(solver, EulerMaruyama) or solver.eta == 0 or math.isfinite(sde.at(1.0).g2)


class Counting(sd.Wrapped):
    """Counts the calls, and remembers their times."""

    def __init__(self, inner: sd.Denoiser) -> None:
        super().__init__(inner)
        self.times: list = []

    def predict(self, x: Tensor, t: Level) -> Tensor:
        self.times.append(t.t)
        return self.inner.predict(x, t)


@pytest.mark.parametrize("sde", ORDER_PROCESSES.values(), ids=ORDER_PROCESSES.keys())
@pytest.mark.parametrize("solver", FLOW.values(), ids=FLOW.keys())
def test_the_measured_order_is_the_declared_one(solver: Solver, sde: LinearSDE) -> None:
    if not runs(solver, sde):
        pytest.skip("needs a positive alpha at t = 1")
    law = gaussian()
    x1 = sde.prior_std() * normal(50, 2)
    exact = law.flow(x1, sde, 1.0, 0.0)
    errors = []
    for steps in (256, 512, 1024):
        x = sd.sample(law.denoiser(sde), solver, times=grids.uniform(steps), x1=x1)
        errors.append((x - exact).square().mean().sqrt().item())
    slope = math.log2(errors[0] / errors[-1]) / 2
    assert slope == pytest.approx(solver.order, abs=0.1)


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
def test_the_adaptive_solver_keeps_its_tolerance(sde: LinearSDE) -> None:
    law = gaussian()
    x1 = sde.prior_std() * normal(50, 2)
    exact = law.flow(x1, sde, 1.0, 0.0)
    for tolerance in (1e-3, 1e-5, 1e-8):
        x = sd.sample(law.denoiser(sde), RK45(tolerance, tolerance), x1=x1)
        assert (x - exact).abs().max() < 5 * tolerance


def test_the_adaptive_solver_has_order_five() -> None:
    """Evaluations grow like tolerance^(-1/5) once the start is forgotten."""
    counts = []
    x1 = normal(1, 2)
    for tolerance in (1e-10, 1e-12):
        denoiser = Counting(gaussian().denoiser(sd.RectifiedFlow()))
        sd.sample(denoiser, RK45(tolerance, tolerance), x1=x1)
        counts.append(len(denoiser.times))
    slope = math.log(counts[1] / counts[0]) / math.log(100)
    assert slope == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
def test_data_encode_and_decode_again(sde: LinearSDE) -> None:
    law = gaussian()
    denoiser, x0 = law.denoiser(sde), law.sample(20)
    latents = sd.encode(denoiser, x0, RK45(1e-8, 1e-8))
    exact = law.flow(x0, sde, 0.0, 1.0)
    torch.testing.assert_close(latents, exact, rtol=1e-5, atol=1e-6 * sde.prior_std())
    torch.testing.assert_close(sd.decode(denoiser, latents, RK45(1e-8, 1e-8)), x0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", [Euler(), Heun(), DDIM(), RK4()], ids=["euler", "heun", "ddim", "rk4"])
def test_fixed_steps_encode_with_their_order(solver: Solver) -> None:
    law, sde = gaussian(), sd.VP()
    x0 = law.sample(20)
    exact = law.flow(x0, sde, 0.0, 1.0)
    errors = [
        (sd.encode(law.denoiser(sde), x0, solver, times=grids.uniform(n)) - exact).square().mean().sqrt().item()
        for n in (256, 1024)
    ]
    assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("sde", ORDER_PROCESSES.values(), ids=ORDER_PROCESSES.keys())
def test_heuns_last_step_to_the_data_is_of_second_order_too(sde: LinearSDE) -> None:
    """Its error falls like h^3: the midpoint rule, where an Euler step would leave h^2."""
    law, x0 = gaussian(), gaussian().sample(20)
    errors = []
    for h in (0.04, 0.02):
        start = law.flow(x0, sde, 0.0, h)
        end = sd.sample(law.denoiser(sde), Heun(), times=[h, 0.0], x1=start)
        errors.append((end - x0).square().mean().sqrt().item())
    assert math.log2(errors[0] / errors[1]) > 2.6


def test_strong_order_one_of_euler_maruyama_along_one_brownian_path() -> None:
    """The reverse SDE of one Gaussian, along one path seen at several resolutions."""
    law, n = gaussian(), 200
    process = sd.Reverse(law.denoiser(sd.VP(0.1, 10.0)), eta=1.0)
    noise = BrownianNoise(7, torch.arange(n), (2,), torch.float64)
    x1 = noise.start()
    ends = {
        steps: sd.solve(process, EulerMaruyama(), grids.uniform(steps), x1, noise)
        for steps in (64, 128, 256, 512, 4096)
    }
    errors = [(ends[k] - ends[4096]).square().mean().sqrt().item() for k in (64, 128, 256, 512)]
    # the reference's own error is 1/8 of the last one: subtract it in the fit by differences of successive levels
    steps = [(ends[k] - ends[2 * k]).square().mean().sqrt().item() for k in (64, 128, 256)]
    slopes = np.log2(np.array(steps[:-1]) / np.array(steps[1:]))
    np.testing.assert_allclose(slopes, 1.0, atol=0.1)
    assert errors[0] > errors[1] > errors[2] > errors[3]


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("solver", STOCHASTIC.values(), ids=STOCHASTIC.keys())
def test_stochastic_solvers_reproduce_a_gaussian(solver: Solver, sde: LinearSDE) -> None:
    """Mean and covariance in standard errors, plus a first-order bias that shrinks with the step."""
    if not runs(solver, sde):
        pytest.skip("needs a finite g at t = 1")
    law, n, steps = gaussian(), 4000, 300
    grid = grids.log_snr(sde, steps) if sde.at(1.0).alpha == 1 else grids.uniform(steps)
    x = sd.sample(law.denoiser(sde), solver, times=grid, n=n, seed=1)
    variance = law.covariance().diagonal()
    assert ((x.mean(0) - law.mean()).abs() < 4 * (variance / n).sqrt() + 0.02).all()
    assert ((x.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / n) + 0.05).all()


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
@pytest.mark.parametrize("name", SOLVERS)
def test_no_call_more_than_declared_and_none_outside_the_unit_interval(name: str, sde: LinearSDE) -> None:
    solver = SOLVERS[name]
    if not runs(solver, sde):
        pytest.skip("needs a finite g at t = 1")
    denoiser = Counting(gaussian().denoiser(sde))
    steps = None if solver.adaptive else 7
    sd.sample(denoiser, solver, steps=steps, n=3)
    if steps:
        assert len(denoiser.times) == steps * solver.evaluations - (name in ONE_CALL_FEWER_AT_THE_END)
    times = torch.cat([torch.as_tensor(t, dtype=torch.float64).flatten() for t in denoiser.times])
    assert times.min() > 0  # a network's flow is singular at 0
    assert times.max() <= 1


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 1000, 2000])
@pytest.mark.parametrize("name", [*FLOW, *MULTISTEP, *STOCHASTIC])
def test_no_step_count_gives_nan(name: str, steps: int) -> None:
    for sde in PROCESSES.values() if steps < 1000 else (sd.VP(), sd.RectifiedFlow()):
        if not runs(SOLVERS[name], sde):
            continue
        x = sd.sample(mixture(2, 3).denoiser(sde), SOLVERS[name], steps=steps, n=2)
        assert x.isfinite().all()


@pytest.mark.parametrize("name", SOLVERS)
def test_the_end_is_x0_itself(name: str) -> None:
    """Data at one point: whatever the noise did before, the last step must land on it."""
    point = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    denoiser = sd.Empirical(point).denoiser(sd.VP())
    solver = SOLVERS[name]
    x = sd.sample(denoiser, solver, steps=None if solver.adaptive else 50, n=4)
    plain = ("euler", "heun", "em", "em-0", "em-0.5", "rk4", "exponential", "exponential-0", "adams-3")
    if name not in plain:
        torch.testing.assert_close(x, point.expand(4, 2), rtol=0, atol=1e-6)
    else:  # the others take a plain step of first or second order to t = 0
        assert (x - point).abs().max() < 0.3


@pytest.mark.parametrize("name", SOLVERS)
def test_nothing_couples_the_samples_of_a_batch(name: str) -> None:
    """Companions a million times larger change nothing, bit for bit."""
    solver, denoiser = SOLVERS[name], mixture().denoiser(sd.VP())
    steps = None if solver.adaptive else 20
    x1 = normal(4, 3)
    others = x1.clone()
    others[1:] *= 1e6
    one = sd.sample(denoiser, solver, steps=steps, x1=x1)
    two = sd.sample(denoiser, solver, steps=steps, x1=others)
    assert torch.equal(one[0], two[0])


@pytest.mark.filterwarnings("ignore::scoresde.ProcessWarning")  # a short chain
def test_ancestral_on_the_chains_grid_is_algorithm_2() -> None:
    """x_{k-1} = (x_k - beta_k / sqrt(1 - abar_k) eps) / sqrt(alpha_k) + sqrt(beta-tilde_k) z, z = 0 at k = 1."""
    chain = sd.DDPM(torch.linspace(1e-3, 0.2, 20))
    sde = chain.sde()
    denoiser = mixture().denoiser(sde)
    noise = sd.CounterNoise(5, torch.arange(6), (3,), torch.float64)
    x = noise.start() * sde.prior_std()
    got = sd.solve(sd.Reverse(denoiser), Ancestral(), grids.chain(20), x, noise)
    for i, k in enumerate(range(20, 0, -1)):
        mean = chain.posterior_mean_from_eps(x, denoiser.eps(x, k / 20), k)
        z = noise.at(i, 0.0, 0.0)() if k > 1 else torch.zeros_like(x)
        x = mean + math.sqrt(chain.variance_small(k)) * z
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)


def test_ddim_with_eta_one_has_the_ancestral_variance() -> None:
    denoiser, x1 = mixture().denoiser(sd.VP()), normal(5, 3)
    one = sd.sample(denoiser, DDIM(eta=1.0), steps=30, x1=x1, seed=2)
    two = sd.sample(denoiser, Ancestral(), steps=30, x1=x1, seed=2)
    torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8)


def test_euler_maruyama_without_noise_is_euler() -> None:
    denoiser, x1 = mixture().denoiser(sd.VP()), normal(5, 3)
    one = sd.sample(denoiser, EulerMaruyama(eta=0.0), steps=30, x1=x1)
    assert torch.equal(one, sd.sample(denoiser, Euler(), steps=30, x1=x1))


def test_a_step_reuses_its_memory() -> None:
    """The state's tensors at the end are those of the start: 1000 steps need no more memory than one."""
    denoiser = mixture().denoiser(sd.VP())
    for solver in (Ancestral(), EulerMaruyama(), ExponentialEuler(), Euler(), Heun(), RK4(), DDIM()):
        process = solver.reverse(denoiser)
        noise = sd.CounterNoise(0, torch.arange(4), (3,), torch.float64)
        pointers = {
            tuple(tensor.data_ptr() for tensor in (state.x, *state.memory))
            for _, state in sd.trajectory(process, solver, grids.uniform(20), noise.start(), noise)
        }
        assert len(pointers) == 1, solver


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ancestral("medium"), "'medium'"),
        (lambda: DDIM(eta=1.5), r"eta = 1.5; for DDIM it must lie in \[0, 1\]"),
        (lambda: DDIM(eta=math.nan), "eta = nan"),
        (lambda: EulerMaruyama(eta=-1.0), "eta = -1"),
        (lambda: RK45(rtol=0.0), "rtol = 0"),
        (lambda: RK45(atol=-1e-3), "atol = -0.001"),
        (lambda: sd.Reverse(gaussian().denoiser(sd.VP()), eta=-0.1), "eta = -0.1"),
        (lambda: sd.sample(gaussian().denoiser(sd.RectifiedFlow()), EulerMaruyama(), steps=3), "finite diffusion"),
        (lambda: sd.sample(gaussian().denoiser(sd.VP()), RK45(), steps=3), "chooses its own steps"),
        (lambda: sd.encode(gaussian().denoiser(sd.VP()), torch.ones(1, 2), Ancestral()), "draws noise"),
    ],
)
def test_wrong_choices_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
