"""torchsde's methods on the reverse SDE: equal to ours where they must be, their orders and laws, what they ask for."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import PROCESSES, gaussian, mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde import grids
from scoresde.noise import BrownianNoise
from scoresde.sde import Level, LinearSDE
from scoresde.solvers import EulerMaruyama
from scoresde.solvers.torchsde import METHODS, TorchSDE

FINITE = {k: PROCESSES[k] for k in ("vp", "betas", "song", "sub-vp", "ve", "edm")}  # their g(1) is
STEEP = sd.VP(0.1, 10.0)


class Counting(sd.Wrapped):
    """Remembers the times that it was asked about."""

    def __init__(self, inner: sd.Denoiser) -> None:
        super().__init__(inner)
        self.times: list[float] = []

    def predict(self, x: Tensor, t: Level) -> Tensor:
        self.times.append(float(t.t))
        return self.inner.predict(x, t)


class FinePath(sd.Noise):
    """A Brownian path and its integral on a grid of `steps`, exact on every coarser one.

    W = sum of W_i and U = sum of U_i + (W before i) / steps over the steps of the grid in an interval; the draws are
    those that make (W, U) again: z0 = W / sqrt(h), z1 = (U - h W / 2) / sqrt(h^3 / 12).
    """

    def __init__(self, steps: int, n: int) -> None:
        self.steps, fine = steps, 1 / steps
        a, b = normal(2, steps, n, 1, seed=3)
        self.w = math.sqrt(fine) * a
        self.u = 0.5 * fine * self.w + math.sqrt(fine**3 / 12) * b

    def start(self) -> Tensor:
        return normal(*self.w.shape[1:], seed=4)

    def at(self, step: int, t: float, s: float) -> Callable[..., Tensor]:
        low, high = (round((1 - time) * self.steps) for time in (t, s))
        h, w = t - s, self.w[low:high]
        total = w.sum(0)
        integral = self.u[low:high].sum(0) + (w.cumsum(0) - w).sum(0) / self.steps
        draws = total / math.sqrt(h), (integral - 0.5 * h * total) / math.sqrt(h**3 / 12)
        return lambda k=0: draws[k]


@pytest.mark.parametrize("sde", FINITE.values(), ids=FINITE.keys())
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_euler_is_euler_maruyama(sde: LinearSDE, eta: float) -> None:
    denoiser, x1 = mixture().denoiser(sde), sde.prior_std() * normal(5, 3)
    theirs = sd.sample(denoiser, TorchSDE("euler", eta), steps=30, x1=x1, seed=2)
    ours = sd.sample(denoiser, EulerMaruyama(eta), steps=30, x1=x1, seed=2)
    torch.testing.assert_close(theirs, ours, rtol=1e-10, atol=1e-10)


def test_euler_is_euler_maruyama_forwards_too() -> None:
    """The forward process itself, from data to noise."""
    sde, x0, times = sd.VP(), normal(5, 2, 2), grids.uniform(30).flip(0)
    noise = sd.CounterNoise(2, torch.arange(5), (2, 2), torch.float64)
    theirs = sd.solve(sde, TorchSDE(), times, x0, noise)
    torch.testing.assert_close(theirs, sd.solve(sde, EulerMaruyama(), times, x0, noise), rtol=1e-10, atol=1e-10)


def weak_errors(method: str, h: float) -> np.ndarray:
    """Errors of five moments after two steps from t = 0.5, by quadrature over x(t) and the draws: no Monte Carlo."""
    law = sd.GaussianMixture([0.4, 0.6], [[-0.7], [0.6]], [[[0.1]], [[0.2]]])
    solver = TorchSDE(method)
    process = solver.reverse(law.denoiser(STEEP))
    nodes, weights = (torch.tensor(v) for v in np.polynomial.hermite_e.hermegauss(5))
    draws = 2 if method == "srk" else 1

    def density(t: float) -> tuple[Tensor, Tensor]:
        x = torch.linspace(-6.0, 6.0, 301, dtype=torch.float64)
        q = law.diffuse(STEEP, t).log_prob(x[:, None]).exp()
        return x, q / q.sum()

    def moments(x: Tensor, q: Tensor) -> np.ndarray:
        return np.array([float((q * f).sum()) for f in (x, x**2, x**3, torch.cos(2 * x), torch.sin(2 * x))])

    x, q = density(0.5)
    axes = torch.meshgrid(x, *[nodes] * (2 * draws), indexing="ij")
    for _ in range(2 * draws):
        q = q[..., None] * (weights / weights.sum())
    z = [axis.flatten()[:, None] for axis in axes]
    state = solver.init(process, z[0].clone())
    for k in range(2):
        state = solver.step(process, state, 0.5 - k * h, 0.5 - (k + 1) * h, lambda j=0, k=k: z[1 + draws * k + j])
    return np.abs(moments(state.x[:, 0], q.flatten()) - moments(*density(0.5 - 2 * h)))


@pytest.mark.parametrize("method", METHODS)
def test_the_measured_weak_order_is_the_declared_one(method: str) -> None:
    """A step's error in the law of a mixture falls like h^(order + 1); in the norm over five moments."""
    errors = [np.linalg.norm(weak_errors(method, h)) for h in (0.002, 0.001)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(TorchSDE(method).order + 1, abs=0.1)


def strong_order(noise: sd.Noise, law: sd.GaussianMixture, method: str) -> float:
    """By the root-mean-square distances between ends that differ by a halving of the step, one path for all."""
    solver = TorchSDE(method)
    process = solver.reverse(law.denoiser(STEEP))
    ends = [sd.solve(process, solver, grids.uniform(n), noise.start(), noise) for n in (64, 128, 256)]
    gaps = [(a - b).square().mean().sqrt().item() for a, b in itertools.pairwise(ends)]
    return math.log2(gaps[0] / gaps[1])


@pytest.mark.parametrize("method", ["euler", "euler_heun", "heun"])
def test_strong_order_one_along_one_brownian_path(method: str) -> None:
    noise = BrownianNoise(7, torch.arange(100), (2,), torch.float64)
    assert strong_order(noise, gaussian(), method) == pytest.approx(1.0, abs=0.1)


def test_srk_gains_a_strong_order_along_one_path_and_its_integral() -> None:
    """2 for a linear drift (1.5 in general), but 1 if the second draw did not make what torchsde means by U."""
    noise = FinePath(256, 200)
    law = sd.GaussianMixture([1.0], [[0.5]], [[[0.3]]])
    assert strong_order(noise, law, "srk") == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_the_law_of_a_gaussian(method: str) -> None:
    """Mean and covariance in their standard errors."""
    law, n = gaussian(), 2000
    x = sd.sample(law.denoiser(sd.VP()), TorchSDE(method), steps=200, n=n, seed=1)
    covariance = law.covariance()
    variance = covariance.diagonal()
    assert ((x.mean(0) - law.mean()).abs() / (variance / n).sqrt()).max() < 4
    spread = ((variance[:, None] * variance + covariance**2) / n).sqrt()
    assert ((torch.cov(x.T) - covariance).abs() / spread).max() < 4


@pytest.mark.parametrize("sde", FINITE.values(), ids=FINITE.keys())
@pytest.mark.parametrize("method", METHODS)
def test_no_call_more_than_declared_and_none_outside_the_unit_interval(method: str, sde: LinearSDE) -> None:
    denoiser = Counting(gaussian().denoiser(sde))
    x = sd.sample(denoiser, TorchSDE(method), steps=7, n=3)
    assert len(denoiser.times) == 7 * TorchSDE(method).evaluations
    assert min(denoiser.times) > 0  # a network's drift is singular at 0
    assert max(denoiser.times) == 1
    assert x.isfinite().all()


@pytest.mark.parametrize(("method", "steps"), [*itertools.product(METHODS, (1, 2, 10)), ("heun", 1000)])
def test_no_step_count_gives_nan(method: str, steps: int) -> None:
    for sde in FINITE.values() if steps < 1000 else [sd.VP()]:
        x = sd.sample(mixture(2, 3).denoiser(sde), TorchSDE(method), steps=steps, n=2)
        assert x.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
def test_the_last_step_stays_near_data_at_one_point(method: str) -> None:
    """A drift asked for at t = 0 would be thrown off by its 1 / sigma."""
    point = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    x = sd.sample(sd.Empirical(point).denoiser(sd.VP()), TorchSDE(method), steps=100, n=4)
    assert (x - point).abs().max() < 0.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_a_sample_is_a_function_of_the_seed_and_its_id(method: str, dtype: torch.dtype) -> None:
    """Bit for bit: in another order, among others, and among companions a million times larger."""
    denoiser, solver = mixture(dtype=dtype).denoiser(sd.VP()), TorchSDE(method)
    four = sd.sample(denoiser, solver, steps=10, n=4, seed=5)
    others = sd.sample(denoiser, solver, steps=10, ids=[3, 11, 0, 7], seed=5)
    assert torch.equal(others[[2, 0]], four[[0, 3]])
    x1 = normal(4, 3)
    large = torch.cat([x1[:1], 1e6 * x1[1:]])
    one, two = (sd.sample(denoiser, solver, steps=10, x1=x, seed=5) for x in (x1, large))
    assert torch.equal(one[0], two[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_state_keeps_its_shape_and_dtype(method: str) -> None:
    noise = sd.CounterNoise(0, torch.arange(3), (1, 2, 2))
    solver, law = TorchSDE(method), sd.Empirical(torch.zeros(2, 1, 2, 2))
    end = sd.solve(solver.reverse(law.denoiser(sd.VP())), solver, grids.uniform(5), noise.start(), noise)
    assert end.dtype == torch.float32
    assert end.shape == (3, 1, 2, 2)


def test_torchs_own_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    for method in METHODS:
        sd.sample(gaussian().denoiser(sd.VP()), TorchSDE(method), steps=3, n=2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: TorchSDE("log_ode"),
            r"'log_ode'; of torchsde's there are euler, milstein, euler_heun, midpoint, heun",
        ),
        (lambda: TorchSDE("reversible_heun"), "'reversible_heun'"),
        (lambda: TorchSDE(eta=0.0), "eta = 0.0; it must be positive .*Scipy"),
        (lambda: TorchSDE(eta=math.nan), "eta = nan"),
        (lambda: sd.sample(gaussian().denoiser(sd.RectifiedFlow()), TorchSDE("srk"), steps=3), r"g\(1\) is not"),
        (lambda: sd.sample(gaussian().denoiser(sd.VP.cosine()), TorchSDE(), steps=3), "finite diffusion"),
        (lambda: sd.encode(gaussian().denoiser(sd.VP()), torch.ones(1, 2), TorchSDE()), "draws noise"),
    ],
)
def test_wrong_choices_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
