"""Predictor-corrector: Song et al.'s algorithms, laws with any process, what a Langevin step may depend on, costs."""

import math

import pytest
import torch
from problems import BETAS, PROCESSES, gaussian, mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde import grids
from scoresde.errors import NumericalError
from scoresde.noise import Noise
from scoresde.sde import Level, LinearSDE
from scoresde.solvers.predictor_corrector import PredictorCorrector

SIZES = pytest.mark.parametrize("size", ["level", "norms"])


class Counting(sd.Wrapped):
    """Remembers the times of the calls."""

    def __init__(self, inner: sd.Denoiser) -> None:
        super().__init__(inner)
        self.times: list[float] = []

    def predict(self, x: Tensor, t: Level) -> Tensor:
        self.times.append(t.t)
        return self.inner.predict(x, t)


class NoNoise(Noise):
    """Zeros: the mean of a linear problem."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def start(self) -> Tensor:
        return self.x

    def at(self, step: int, t: float, s: float):
        return lambda k=0: torch.zeros_like(self.x)


@pytest.mark.filterwarnings("ignore::scoresde.ProcessWarning")  # a short chain
def test_it_is_song_s_algorithms_3_and_5() -> None:
    """VP on its chain's grid: x = (2 - sqrt(1 - beta)) x + beta score + sqrt(beta) z, then Langevin by the norms."""
    steps, snr = 10, 0.16
    betas = torch.linspace(0.01, 0.3, steps, dtype=torch.float64)
    sde = sd.VP.from_betas(betas)
    denoiser = mixture().denoiser(sde)
    noise = sd.CounterNoise(3, torch.arange(6), (3,), torch.float64)
    x = noise.start()
    solver = PredictorCorrector(2, snr, "norms")
    got = sd.solve(sd.Reverse(denoiser), solver, grids.uniform(steps), x, noise)
    for i, k in enumerate(range(steps, 1, -1)):
        beta, t, s = betas[k - 1].item(), k / steps, (k - 1) / steps
        draw = noise.at(i, t, s)
        x = (2 - math.sqrt(1 - beta)) * x + beta * denoiser.score(x, t) + math.sqrt(beta) * draw(0)
        for j in (1, 2):
            g, z = denoiser.score(x, s), draw(j)
            epsilon = 2 * (snr * z.norm(dim=1, keepdim=True) / g.norm(dim=1, keepdim=True)) ** 2
            x = x + epsilon * g + (2 * epsilon).sqrt() * z
    torch.testing.assert_close(got, denoiser.x0(x, 1 / steps), rtol=1e-9, atol=1e-9)


def test_it_is_song_s_algorithm_2_with_the_step_of_ald() -> None:
    """VE: x = x + (sigma_t^2 - sigma_s^2) score + sqrt(sigma_t^2 - sigma_s^2) z, then epsilon = 2 (snr sigma_s)^2."""
    steps, snr, sde = 10, 0.2, sd.VE(0.01, 20.0)
    denoiser = mixture().denoiser(sde)
    noise = sd.CounterNoise(3, torch.arange(6), (3,), torch.float64)
    x = 20.0 * noise.start()
    got = sd.solve(sd.Reverse(denoiser), PredictorCorrector(1, snr), grids.uniform(steps), x, noise)
    for i, k in enumerate(range(steps, 1, -1)):
        t, s = k / steps, (k - 1) / steps
        draw, v = noise.at(i, t, s), sde.prior_std(t) ** 2 - sde.prior_std(s) ** 2
        x = x + v * denoiser.score(x, t) + math.sqrt(v) * draw(0)
        epsilon = 2 * (snr * sde.prior_std(s)) ** 2
        x = x + epsilon * denoiser.score(x, s) + math.sqrt(2 * epsilon) * draw(1)
    torch.testing.assert_close(got, denoiser.x0(x, 1 / steps), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("corrections", [0, 2])
@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
def test_a_gaussian_comes_out(sde: LinearSDE, corrections: int) -> None:
    """Mean and covariance in standard errors, plus the first-order bias of 200 steps, where alpha(1) = 0 too."""
    law, n, steps = gaussian(), 2000, 200
    grid = grids.log_snr(sde, steps) if sde.at(1.0).alpha == 1 else grids.uniform(steps)
    x = sd.sample(law.denoiser(sde), PredictorCorrector(corrections), times=grid, n=n, seed=1)
    covariance = law.covariance()
    assert ((x.mean(0) - law.mean()).abs() < 4 * (covariance.diagonal() / n).sqrt() + 0.01).all()
    whitened = torch.linalg.solve(torch.linalg.cholesky(covariance), x.T - law.mean()[:, None])
    assert ((whitened @ whitened.T / n - torch.eye(2)).abs() < 4 * math.sqrt(2 / n) + 0.05).all()


@pytest.mark.parametrize("sde", [sd.VP(), sd.SubVP(), sd.RectifiedFlow()], ids=["vp", "sub-vp", "rectified-flow"])
def test_the_predictor_has_order_one(sde: LinearSDE) -> None:
    """The reverse SDE of a Gaussian is linear: without noise it ends in E[x0 | x_t] (exactly so where a = 1)."""
    denoiser = gaussian().denoiser(sde)
    t = float(sde.time_of_log_snr(-1.0))
    x = sde.prior_std(t) * normal(20, 2)
    errors = []
    for steps in (256, 512):
        end = sd.solve(sd.Reverse(denoiser), PredictorCorrector(0), t * grids.uniform(steps), x, NoNoise(x))
        errors.append((end - denoiser.x0(x, t)).square().mean().sqrt().item())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(PredictorCorrector().order, abs=0.1)


@SIZES
def test_langevin_steps_leave_the_law_they_should(size: str) -> None:
    """One level, many corrections, noise in the plane: variance 1 / (1 - snr^2) by level, and none at all by norms."""
    law, t = sd.GaussianMixture([1.0], [[0.0, 0.0]], [1.0], dtype=torch.float64), 1.0 - 1e-6
    solver, n = PredictorCorrector(60, 0.3, size), 4000
    x = sd.sample(law.denoiser(sd.VP()), solver, times=[1.0, t, 0.0], n=n)
    x = x / float(sd.VP().alpha(torch.tensor(t, dtype=torch.float64)))  # x0 = alpha x_t for N(0, I)
    exact = 1 / (1 - 0.3**2)
    assert (abs(x.var().item() - exact) < 5 * exact / math.sqrt(n)) == (size == "level")


def test_corrections_mend_what_a_coarse_predictor_gets_wrong() -> None:
    law = gaussian()
    widths = [
        (sd.sample(law.denoiser(sd.VP()), PredictorCorrector(c), steps=40, n=4000).var(0) / law.covariance().diagonal())
        .mean()
        .item()
        for c in (0, 3)
    ]
    assert widths[0] - 1 > 2 * abs(widths[1] - 1)


@pytest.mark.parametrize("corrections", [0, 1, 2])
@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
def test_calls_are_counted_exactly_and_lie_in_the_unit_interval(sde: LinearSDE, corrections: int) -> None:
    denoiser, solver = Counting(gaussian().denoiser(sde)), PredictorCorrector(corrections)
    sd.sample(denoiser, solver, steps=7, n=3)
    assert len(denoiser.times) == 6 * solver.evaluations + 1
    assert solver.evaluations == 1 + corrections
    assert 0 < min(denoiser.times) <= max(denoiser.times) <= 1


def test_the_end_is_x0_itself() -> None:
    """Data at one point: the last step lands on it, without noise or correction."""
    point = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    for steps in (1, 2, 50):
        x = sd.sample(sd.Empirical(point).denoiser(sd.VP()), PredictorCorrector(2), steps=steps, n=4)
        torch.testing.assert_close(x, point.expand(4, 2), rtol=0, atol=1e-6)


def test_an_eps_network_runs_from_alpha_0() -> None:
    """No step but one straight to the data divides by alpha."""

    class Eps(torch.nn.Module):
        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            return 0.5 * x

    net = sd.NetDenoiser(Eps(), sd.VP.cosine(), sd.PredictsEps(), shape=(2,))
    assert sd.sample(net, PredictorCorrector(), steps=20, n=3).isfinite().all()
    with pytest.raises(ValueError, match=r"alpha\(1\) = 0"):
        sd.sample(net, PredictorCorrector(), steps=1, n=3)


@SIZES
def test_nothing_couples_the_samples_of_a_batch(size: str) -> None:
    denoiser, x1 = mixture().denoiser(sd.VP()), normal(4, 3)
    others = x1.clone()
    others[1:] *= 1e6
    solver = PredictorCorrector(2, size=size)
    one, two = (sd.sample(denoiser, solver, steps=20, x1=start) for start in (x1, others))
    assert torch.equal(one[0], two[0])


@SIZES
def test_a_sample_is_a_function_of_seed_and_id(size: str) -> None:
    denoiser, solver = mixture().denoiser(sd.VP()), PredictorCorrector(size=size)
    x = sd.sample(denoiser, solver, steps=10, ids=[0, 1, 2, 3], seed=5)
    again = sd.sample(denoiser, solver, steps=10, ids=[9, 3, 7, 0], seed=5)
    assert torch.equal(x[[3, 0]], again[[1, 3]])
    assert not torch.equal(x, sd.sample(denoiser, solver, steps=10, ids=[0, 1, 2, 3], seed=6))


def test_nan_is_named() -> None:
    class Breaks(sd.Wrapped):
        def predict(self, x: Tensor, t: Level) -> Tensor:
            p = self.inner.predict(x, t).clone()
            p[2] = math.nan if t.t < 0.55 else p[2]
            return p

    with pytest.raises(NumericalError, match=r"PredictorCorrector.*sample 2 .*step 5 of 10, from t = 0.6 to 0.5"):
        sd.sample(Breaks(gaussian().denoiser(sd.VP())), PredictorCorrector(), steps=10, n=4)


def test_a_step_works_in_place() -> None:
    denoiser, solver = mixture().denoiser(sd.VP()), PredictorCorrector(2)
    noise = sd.CounterNoise(0, torch.arange(4), (3,), torch.float64)
    walk = sd.trajectory(solver.reverse(denoiser), solver, grids.uniform(20), noise.start(), noise)
    assert len({state.x.data_ptr() for _, state in walk}) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"corrections": -1}, "corrections = -1; it must be a whole number, 0"),
        ({"corrections": 1.5}, "corrections = 1.5"),
        ({"corrections": math.nan}, "corrections = nan"),
        ({"corrections": math.inf}, "corrections = inf"),
        ({"snr": 0.0}, "snr = 0.0; it must be positive"),
        ({"snr": -0.1}, "snr = -0.1"),
        ({"snr": math.inf}, "snr = inf"),
        ({"snr": math.nan}, "snr = nan"),
        ({"size": "batch"}, "size = 'batch'; it must be 'level'"),
    ],
)
def test_wrong_choices_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PredictorCorrector(**arguments)


def test_betas_of_a_thousand_steps_run() -> None:
    """float32, a chain's own grid."""
    law = gaussian(torch.float32)
    x = sd.sample(law.denoiser(sd.VP.from_betas(BETAS)), PredictorCorrector(), steps=200, n=4)
    assert x.dtype == torch.float32
    assert x.isfinite().all()
