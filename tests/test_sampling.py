"""The loop: sample i is a function of (seed, i) alone, arguments are checked, bad values are named."""

import math

import pytest
import torch
from problems import gaussian, mixture, normal
from torch import Tensor, nn

import scoresde as sd
from scoresde import grids, nets
from scoresde.sde import Level
from scoresde.solvers import DDIM, RK45, Ancestral, EulerMaruyama, Heun

SOLVERS = [Ancestral(), EulerMaruyama(), Heun(), DDIM(eta=1.0), RK45()]
by_solver = pytest.mark.parametrize("solver", SOLVERS, ids=[type(s).__name__ for s in SOLVERS])


def small_network() -> sd.Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nets.build("tiny", (1, 8, 8))
        for p in module.parameters():  # its output starts at zero
            nn.init.normal_(p, std=0.05)
    return sd.EpsNet(module, sd.VP(), condition=sd.LogSNR(-11, 12), shape=(1, 8, 8))


@by_solver
def test_a_sample_is_a_function_of_seed_and_id_bit_for_bit(solver: sd.solvers.Solver) -> None:
    """Alone, in another order, in other company, in the last padded batch: with one batch size, the same bits."""
    steps = None if solver.adaptive else 5
    denoiser = small_network()
    run = lambda **which: sd.sample(denoiser, solver, steps=steps, seed=3, batch_size=4, **which)  # noqa: E731
    ten = run(n=10)
    assert torch.equal(run(ids=[7]), ten[7:8])
    assert torch.equal(run(ids=[9, 2, 5, 0, 1]), ten[[9, 2, 5, 0, 1]])
    assert torch.equal(run(n=10), ten)
    assert not torch.equal(ten[0], ten[1])
    assert not torch.equal(sd.sample(denoiser, solver, steps=steps, seed=4, batch_size=4, n=1), ten[:1])


@by_solver
def test_another_batch_size_changes_only_rounding(solver: sd.solvers.Solver) -> None:
    steps = None if solver.adaptive else 5
    denoiser = small_network()
    one = sd.sample(denoiser, solver, steps=steps, n=6)
    two = sd.sample(denoiser, solver, steps=steps, n=6, batch_size=1)
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_a_trajectory_can_be_taken_up_at_any_step() -> None:
    denoiser, solver = mixture().denoiser(sd.VP()), Ancestral()
    process, times = solver.reverse(denoiser), grids.uniform(10)
    noise = sd.CounterNoise(1, torch.arange(3), (3,), torch.float64)
    states = [s.x.clone() for _, s in sd.trajectory(process, solver, times, noise.start(), noise)]
    state = solver.init(process, states[5].clone())
    for k in range(6, 10):
        t, s = times[k].item(), times[k + 1].item()
        state = solver.step(process, state, t, s, noise.at(k, t, s))
    assert torch.equal(state.x, states[-1])


def test_the_start_is_not_altered_and_the_grid_may_be_a_list() -> None:
    denoiser, x1 = gaussian().denoiser(sd.VP()), normal(3, 2)
    kept = x1.clone()
    one = sd.sample(denoiser, times=[1.0, 0.4, 0.0], x1=x1)
    assert torch.equal(x1, kept)
    assert torch.equal(one, sd.sample(denoiser, times=torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64), x1=x1))


def test_a_start_below_one_is_drawn_at_its_own_noise_and_warned_of() -> None:
    denoiser = gaussian().denoiser(sd.VP())
    with pytest.warns(sd.ProcessWarning, match=r"at t = 0\.5 the data still show: up to 0\.04"):
        x = sd.sample(denoiser, Ancestral(), times=[0.5, 0.4999999], n=4000)
    assert x.std().item() == pytest.approx(sd.VP().prior_std(0.5), rel=0.03)
    sd.sample(gaussian().denoiser(sd.RectifiedFlow()), EulerMaruyama(), times=[0.999, 0.5, 0.0])  # no warning


def test_the_dtype_is_the_models() -> None:
    assert sd.sample(gaussian(torch.float32).denoiser(sd.VP()), steps=2).dtype == torch.float32
    assert sd.sample(gaussian().denoiser(sd.VP()), steps=2).dtype == torch.float64


def test_training_mode_is_left_as_it_was() -> None:
    denoiser = small_network()
    assert denoiser.module.training
    sd.sample(denoiser, steps=1)
    assert denoiser.module.training


def test_no_gradient_is_kept_and_the_global_seed_left_alone() -> None:
    state = torch.random.get_rng_state()
    x = sd.sample(small_network(), steps=2)
    assert not x.requires_grad
    assert torch.equal(state, torch.random.get_rng_state())


class Broken(sd.Wrapped):
    """Answers NaN for one sample from the seventh call on."""

    def __init__(self, inner: sd.Denoiser, sample: int, call: int) -> None:
        super().__init__(inner)
        self.sample, self.t_bad = sample, 1 - (call - 1) / 20

    def predict(self, x: Tensor, t: Level) -> Tensor:
        p = self.inner.predict(x, t).clone()
        late = torch.as_tensor(t.t) <= self.t_bad + 1e-9
        p[self.sample] = torch.where(late.flatten()[self.sample if late.ndim else 0], math.nan, p[self.sample])
        return p


NAMED = [Ancestral(), EulerMaruyama(), DDIM(), sd.solvers.UniPC(), sd.solvers.ERSDE(), sd.solvers.AdamsBashforth(4)]


@pytest.mark.parametrize("solver", NAMED, ids=[type(s).__name__ for s in NAMED])
def test_a_network_that_breaks_is_named_by_solver_sample_step_and_time(solver: sd.solvers.Solver) -> None:
    denoiser = Broken(mixture().denoiser(sd.VP()), sample=2, call=7)
    with pytest.raises(sd.NumericalError, match=r"sample 2 of the batch .* step 7 of 20, from t = 0\.7 to 0\.65"):
        sd.sample(denoiser, solver, times=grids.uniform(20), n=4)


def test_the_adaptive_solver_names_it_too_and_does_not_hang() -> None:
    denoiser = Broken(mixture().denoiser(sd.VP()), sample=2, call=7)
    with pytest.raises(sd.NumericalError, match=r"RK45: the slope of sample 2"):
        sd.sample(denoiser, RK45(), n=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"n": 0}, "n = 0"),
        ({"steps": 3, "times": [1.0, 0.0]}, "times has 1 steps"),
        ({"n": 3, "x1": torch.ones(2, 2)}, "x1 asks for 2 samples, but there are 3"),
        ({"x1": torch.ones(2, 5)}, r"\(2,\) and \(5,\)"),
        ({"shape": (3,)}, "contradict"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"seed": -1}, "seed"),
        ({"ids": [-1]}, "ids"),
        ({"times": [0.0, 1.0]}, "must decrease"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sd.sample(gaussian().denoiser(sd.VP()), **arguments)


def test_a_network_of_unknown_shape_needs_one() -> None:
    net = sd.EpsNet(nn.Linear(2, 2), sd.VP())
    with pytest.raises(ValueError, match="give shape="):
        sd.sample(net, steps=2)


def test_a_start_that_is_not_finite_is_named() -> None:
    with pytest.raises(sd.NumericalError, match="the start"):
        sd.sample(gaussian().denoiser(sd.VP()), steps=2, x1=torch.full((1, 2), math.nan).double())


def test_progress_is_told_after_every_step() -> None:
    calls: list[int] = []
    sd.sample(gaussian().denoiser(sd.VP()), steps=5, n=4, batch_size=2, on_step=lambda: calls.append(1))
    assert len(calls) == 10


@pytest.mark.slow
@pytest.mark.parametrize("solver", [Ancestral(), EulerMaruyama(), sd.solvers.Euler()], ids=["ancestral", "em", "ode"])
def test_a_thousand_steps_reproduce_25_modes(solver: sd.solvers.Solver) -> None:
    """Within three standard errors of the exact-versus-exact sliced Wasserstein distance."""
    from scoresde.metrics import sliced_wasserstein

    law, n = sd.MIXTURES["grid25"](), 5000
    floor = torch.tensor(
        [float(sliced_wasserstein(law.sample(n, 2 * i), law.sample(n, 2 * i + 1), p=2)) for i in range(20)]
    )
    x = sd.sample(law.denoiser(sd.VP()), solver, steps=1000, n=n, seed=1)
    distance = torch.tensor([float(sliced_wasserstein(x, law.sample(n, 100 + i), p=2)) for i in range(5)]).mean()
    assert distance < floor.mean() + 3 * floor.std()
