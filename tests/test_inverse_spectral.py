"""DDRM, DDNM+, DiffPIR and RED-diff: the published steps in numbers, and the properties that these methods do have."""

from __future__ import annotations

import math

import pytest
import torch
from problems import PROCESSES, gaussian, mixture, normal
from torch import Tensor, nn

import scoresde as sd
from scoresde.inverse import Method, Problem, posterior_draws
from scoresde.inverse.ddnm import DDNM
from scoresde.inverse.ddrm import DDRM
from scoresde.inverse.diffpir import Descent, DiffPIR
from scoresde.inverse.reddiff import REDDiff
from scoresde.linalg import FromFunctions
from scoresde.sde import Level

METHODS: list[Method] = [DDRM(), DDNM(), DDNM(repeats=1), DiffPIR(), REDDiff()]
SPECTRAL: list[Method] = [DDRM(), DDNM()]
LAW = mixture()
MEASUREMENT = sd.GaussianMeasurement(sd.operators.Dense(normal(2, 3, seed=3)), 0.3)
Y = MEASUREMENT.simulate(LAW.sample(1, seed=4), seed=5)[0]
MASK = sd.operators.Mask([True, False, True])
DIAGONAL = sd.GaussianMixture([1.0], [[0.5, -1.0, 0.2]], [[0.3, 0.8, 0.5]])  # independent coordinates


def name(method: Method) -> str:
    return str(method)


def standard_errors(x: Tensor, mean: Tensor | float, std: Tensor | float) -> tuple[Tensor, Tensor]:
    """How far mean and variance of draws (n, D) are from N(mean, std^2), in standard errors."""
    n, std = len(x), torch.as_tensor(std, dtype=x.dtype)
    of_mean = (x.mean(0) - mean) / (std / math.sqrt(n))
    of_variance = (x.var(0) - std**2) / (std**2 * math.sqrt(2.0 / n))
    return of_mean, of_variance


# --- one step in the papers' notation ------------------------------------------------------------------

T, S, SEED, NOISE = 0.6, 0.4, 7, 0.3
Y_MASKED = torch.tensor([0.9, -0.4], dtype=torch.float64)


class Papers:
    """A run of two steps, 1 -> t -> s, of a VP process with a mask, as the papers write it; y is H' y."""

    def __init__(self, noise_std: float) -> None:
        self.sde = sd.VP()
        self.denoiser = DIAGONAL.denoiser(self.sde)
        self.noise = sd.CounterNoise(SEED, torch.arange(4), (3,), torch.float64)
        self.noise_std = noise_std
        self.kept = torch.tensor([True, False, True])
        self.y = torch.tensor([Y_MASKED[0], 0.0, Y_MASKED[1]])

    def abar(self, t: float) -> float:
        return float(self.sde.alpha(torch.tensor(t, dtype=torch.float64))) ** 2

    def z(self, k: int) -> Tensor:
        return self.noise.at(k, 0.0, 0.0)()

    def x0(self, x: Tensor, t: float) -> Tensor:
        """The posterior mean of N(m, c) with independent coordinates."""
        m, c, abar = DIAGONAL.means[0], DIAGONAL.eigenvalues[0], self.abar(t)
        return m + math.sqrt(abar) * c / (abar * c + 1.0 - abar) * (x - math.sqrt(abar) * m)

    def draw(self, method: Method, times: list[float]) -> Tensor:
        """What the method has at the last of these times, by looking at the network's last input."""
        seen: list[Tensor] = []

        class Spy(sd.Wrapped):
            def predict(self, x: Tensor, t: Level) -> Tensor:
                seen.append(x.clone())
                return self.inner.predict(x, t)

        measurement = sd.GaussianMeasurement(MASK, self.noise_std)
        posterior_draws(Spy(self.denoiser), measurement, Y_MASKED, method=method, times=[*times, 0.0], n=4, seed=SEED)
        return seen[-1]


def ddrm(p: Papers, eta: float, eta_b: float) -> Tensor:
    """Kawar et al., (7) and (8), singular values 1: x-bar = x / sqrt(abar)."""
    bar = lambda t: math.sqrt((1 - p.abar(t)) / p.abar(t))  # noqa: E731
    start = torch.where(p.kept, p.y + math.sqrt(bar(1.0) ** 2 - p.noise_std**2) * p.noise.start(), 0.0)
    x_bar = torch.where(p.kept, start, bar(1.0) * p.noise.start())
    for k, (t, s) in enumerate([(1.0, T), (T, S)]):
        x0 = p.x0(math.sqrt(p.abar(t)) * x_bar, t)
        unknown = x0 + math.sqrt(1 - eta**2) * bar(s) * (x_bar - x0) / bar(t) + eta * bar(s) * p.z(k)
        if bar(s) < p.noise_std:
            known = x0 + math.sqrt(1 - eta**2) * bar(s) * (p.y - x0) / p.noise_std + eta * bar(s) * p.z(k)
        else:
            known = (1 - eta_b) * x0 + eta_b * p.y + math.sqrt(bar(s) ** 2 - (eta_b * p.noise_std) ** 2) * p.z(k)
        x_bar = torch.where(p.kept, known, unknown)
    return math.sqrt(p.abar(S)) * x_bar


def ddnm(p: Papers, eta: float) -> Tensor:
    """Wang et al., (17) to (19) and (51), singular values 1: Sigma_t on xhat0, Phi_t on the noise."""
    x = torch.where(
        p.kept,
        math.sqrt(p.abar(1.0)) * p.y + math.sqrt(1 - p.abar(1.0) * (1 + p.noise_std**2)) * p.noise.start(),
        math.sqrt(1 - p.abar(1.0)) * p.noise.start(),
    )
    for k, (t, s) in enumerate([(1.0, T), (T, S)]):
        a, sigma, keep = math.sqrt(p.abar(s)), math.sqrt(1 - p.abar(s)), math.sqrt(1 - eta**2)
        x0 = p.x0(x, t)
        eps = (x - math.sqrt(p.abar(t)) * x0) / math.sqrt(1 - p.abar(t))
        certain = sigma >= a * p.noise_std
        lam = 1.0 if certain else keep * sigma / (a * p.noise_std)
        phi = math.sqrt(sigma**2 - (a * p.noise_std) ** 2) if certain else eta * sigma
        known = a * (x0 - lam * (x0 - p.y)) + phi * p.z(k)
        x = torch.where(p.kept, known, a * x0 + keep * sigma * eps + eta * sigma * p.z(k))
    return x


def diffpir(p: Papers, lam: float, zeta: float) -> Tensor:
    """Zhu et al., algorithm 1: rho_t = lambda sigma_n^2 / sigma-bar_t^2, here bounded from below."""
    x = math.sqrt(1 - p.abar(1.0)) * p.noise.start()
    for k, (t, s) in enumerate([(1.0, T), (T, S)]):
        rho = p.noise_std**2 * max(lam * p.abar(t) / (1 - p.abar(t)), 1 / (10 * p.denoiser.data_std) ** 2)
        x0 = p.x0(x, t)
        x0 = torch.where(p.kept, (p.y + rho * x0) / (1 + rho), x0)
        eps = (x - math.sqrt(p.abar(t)) * x0) / math.sqrt(1 - p.abar(t))
        mixed = math.sqrt(1 - zeta) * eps + math.sqrt(zeta) * p.z(k)
        x = math.sqrt(p.abar(s)) * x0 + math.sqrt(1 - p.abar(s)) * mixed
    return x


def reddiff(p: Papers, lam: float, rate: float) -> Tensor:
    """Mardani et al., algorithm 1, by autograd and torch's Adam, with lambda_t, the rate and the start of `REDDiff`."""
    std = p.denoiser.data_std
    m = p.x0(math.sqrt(1 - p.abar(1.0)) * p.noise.start(), 1.0)
    mu = torch.where(p.kept, m + (p.y - m) / (1 + p.noise_std**2 / std**2), m).requires_grad_()
    adam = torch.optim.Adam([mu], lr=rate * std, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, 3)
    for k, t in enumerate([1.0, T]):
        alpha, sigma = math.sqrt(p.abar(t)), math.sqrt(1 - p.abar(t))
        x = alpha * mu.detach() + sigma * p.z(k)
        eps_hat = (x - alpha * p.x0(x, t)) / sigma
        lambda_t = max(lam, p.noise_std**2 * (1 / std**2 + (alpha / sigma) ** 2))
        loss = 0.5 * ((p.y - mu)[:, p.kept] ** 2).sum() + lambda_t * sigma / alpha * ((eps_hat - p.z(k)) * mu).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return math.sqrt(p.abar(S)) * mu.detach() + math.sqrt(1 - p.abar(S)) * p.z(2)


@pytest.mark.parametrize("noise_std", [0.05, 0.9, 3.0])
@pytest.mark.parametrize(
    ("method", "published"),
    [
        (DDRM(0.85, 1.0), lambda p: ddrm(p, 0.85, 1.0)),
        (DDRM(0.3, 0.6), lambda p: ddrm(p, 0.3, 0.6)),
        (DDNM(0.85, repeats=1), lambda p: ddnm(p, 0.85)),
        (DDNM(0.2, repeats=1), lambda p: ddnm(p, 0.2)),
        (DiffPIR(7.0, 0.3), lambda p: diffpir(p, 7.0, 0.3)),
        (REDDiff(0.25, 0.2), lambda p: reddiff(p, 0.25, 0.2)),
        (REDDiff(1e-9, 0.5), lambda p: reddiff(p, 1e-9, 0.5)),
    ],
    ids=["ddrm", "ddrm-eta", "ddnm", "ddnm-eta", "diffpir", "reddiff", "reddiff-noise"],
)
def test_two_steps_as_the_papers_write_them(method: Method, published, noise_std: float) -> None:
    papers = Papers(noise_std)
    torch.testing.assert_close(papers.draw(method, [1.0, T, S]), published(papers), rtol=1e-9, atol=1e-9)


def test_time_travel_goes_back_by_the_forward_kernel() -> None:
    """A stretch 1 -> t gone through twice: x_1 again = a x_t + sqrt(v) z, with the noise of its own step."""
    papers, seen = Papers(0.3), []

    class Spy(sd.Wrapped):
        def predict(self, x: Tensor, t: Level) -> Tensor:
            seen.append((t.t, x.clone()))
            return self.inner.predict(x, t)

    measurement = sd.GaussianMeasurement(MASK, 0.3)
    once, twice = DDNM(repeats=1), DDNM(travel=2, repeats=2)
    times, options = [1.0, T, S, 0.0], {"n": 4, "seed": SEED}
    posterior_draws(Spy(papers.denoiser), measurement, Y_MASKED, method=once, times=times, **options)
    x_s = seen[2][1]
    seen.clear()
    calls = []
    posterior_draws(
        Spy(papers.denoiser),
        measurement,
        Y_MASKED,
        method=twice,
        times=times,
        on_step=lambda: calls.append(0),
        **options,
    )
    # 1, T, (back from S) 1, T, then S, (back from 0) S
    assert [t for t, _ in seen] == [1.0, T, 1.0, T, S, S]
    assert len(calls) == 3
    a, v = papers.sde.transition(S, 1.0)
    torch.testing.assert_close(seen[2][1], a * x_s + v**0.5 * papers.z(2), rtol=1e-12, atol=1e-12)


# --- what they get right -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SPECTRAL, ids=name)
@pytest.mark.parametrize("sde", [sd.VP(), sd.EDM(20.0), sd.RectifiedFlow()], ids=["vp", "edm", "rf"])
def test_a_tiny_noise_pins_what_is_measured(method: Method, sde: sd.LinearSDE) -> None:
    measurement = sd.GaussianMeasurement(sd.operators.Dense(normal(2, 3, seed=3)), 1e-4)
    y = measurement.simulate(LAW.sample(1, seed=4))[0]
    x = sd.restore(LAW.denoiser(sde), measurement, y, method=method, steps=30, n=800)
    assert measurement.chi_square(x, y).mean() == pytest.approx(1.0, abs=5.0 / math.sqrt(800))
    assert x.std(0).min() > 0.05  # and nothing else is


def test_diffpir_meets_a_tiny_noise_within_it() -> None:
    measurement = sd.GaussianMeasurement(sd.operators.Dense(normal(2, 3, seed=3)), 1e-4)
    y = measurement.simulate(LAW.sample(1, seed=4))[0]
    x = sd.restore(LAW.denoiser(sd.VP()), measurement, y, method=DiffPIR(), steps=30, n=100)
    assert measurement.chi_square(x, y).max() < 1e-2  # the best point: closer than a draw


@pytest.mark.parametrize("method", SPECTRAL, ids=name)
@pytest.mark.parametrize("operator", [sd.operators.Identity(), MASK], ids=["identity", "mask"])
def test_known_entries_have_the_law_of_their_measurement(method: Method, operator: sd.operators.LinearOperator) -> None:
    """For a noise far below the prior's scale, N(y, noise_std^2)."""
    measurement = sd.GaussianMeasurement(operator, 1e-3)
    y = measurement.simulate(DIAGONAL.sample(1, seed=2))
    x = operator(sd.restore(DIAGONAL.denoiser(sd.VP()), measurement, y, method=method, steps=40, n=3000))
    for errors in standard_errors(x, y[0], 1e-3):
        assert errors.abs().max() < 4.0, errors


@pytest.mark.parametrize("method", [DDRM(eta=0.0), DDNM(eta=0.0, repeats=1)], ids=name)
def test_unseen_entries_follow_the_prior_where_coordinates_are_independent(method: Method) -> None:
    measurement = sd.GaussianMeasurement(MASK, 0.1)
    y = measurement.simulate(DIAGONAL.sample(1, seed=2))
    x = sd.restore(DIAGONAL.denoiser(sd.EDM(40.0)), measurement, y, method=method, steps=200, n=2000)[:, 1:2]
    for errors in standard_errors(x, -1.0, math.sqrt(0.8)):
        assert errors.abs().max() < 4.0, errors


@pytest.mark.parametrize("steps", [10, 50, 200])
def test_ddrm_with_fresh_noise_is_too_narrow(steps: int) -> None:
    """What its docstring says of eta > 0: a defect of the published step, whatever the grid."""
    measurement = sd.GaussianMeasurement(MASK, 0.1)
    x = sd.restore(DIAGONAL.denoiser(sd.VP()), measurement, Y_MASKED, method=DDRM(), steps=steps, n=3000)
    assert 0.5 < x[:, 1].var() / 0.8 < 0.9


def test_diffpir_without_fresh_noise_draws_from_the_prior_when_y_says_nothing() -> None:
    law = gaussian()
    measurement = sd.GaussianMeasurement(sd.operators.Identity(), 1e5)
    x = sd.restore(law.denoiser(sd.EDM(40.0)), measurement, torch.zeros(2), method=DiffPIR(zeta=0.0), steps=300, n=2000)
    for errors in standard_errors(x, law.means[0], law.covariances[0].diagonal().sqrt()):
        assert errors.abs().max() < 4.0, errors


STDS = torch.tensor([0.2, 0.7], dtype=torch.float64)


def dense_step(m: Tensor, r: float) -> Tensor:
    """argmin |(y - A x) / std|^2 + |x - m|^2 / r^2."""
    a = MEASUREMENT.dense(3) / STDS[:, None]
    return torch.linalg.solve(a.mT @ a + torch.eye(3) / r**2, (a.mT @ (Y / STDS))[:, None] + m.mT / r**2).mT


@pytest.mark.filterwarnings("ignore::scoresde.ProcessWarning")
@pytest.mark.parametrize(("t", "wide"), [(0.3, False), (1.0, True)])
def test_the_data_step_of_diffpir_is_the_dense_solution(t: float, wide: bool) -> None:
    """In the last step, s = 0, its answer is the draw: seen from outside, with noise of its own for each entry of y."""
    measurement = sd.GaussianMeasurement(MEASUREMENT.operator, STDS)
    denoiser, lam = LAW.denoiser(sd.VP()), 3.0
    x = sd.restore(denoiser, measurement, Y, method=DiffPIR(lambda_=lam), times=[t, 0.0], n=5)
    level = denoiser.sde.at(t)
    start = level.sigma * sd.CounterNoise(0, torch.arange(5), (3,), torch.float64).start()
    r, widest = level.sigma / level.alpha / math.sqrt(lam), 10.0 * denoiser.data_std
    assert (r > widest) == wide
    torch.testing.assert_close(x, dense_step(denoiser(start, t), min(r, widest)), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore::scoresde.ProcessWarning")
@pytest.mark.parametrize("r", [0.05, 1.0, 30.0])
def test_descent_finds_the_dense_solution(r: float) -> None:
    problem = Problem(LAW.denoiser(sd.VP()), sd.GaussianMeasurement(MEASUREMENT.operator, STDS), Y[None], (3,))
    m = normal(5, 3, seed=1)
    errors = [(Descent(problem, inner)(m, r) - dense_step(m, r)).norm() for inner in (1, 10, 1500)]
    assert errors[0] >= errors[1] >= errors[2]
    assert errors[2] < 1e-3


def test_descent_is_stationary_for_a_map_that_is_not_linear() -> None:
    operator = sd.operators.Callable(lambda x: x.sin() + 0.1 * x**3)
    problem = Problem(LAW.denoiser(sd.VP()), sd.GaussianMeasurement(operator, 0.3), normal(1, 3), (3,))
    m = normal(6, 3, seed=2)
    x = Descent(problem, 300)(m, 0.5).requires_grad_()
    residual = (problem.y - operator(x)) / 0.3
    value = 0.5 * residual.square().sum() + 0.5 * (x - m).square().sum() / 0.5**2
    assert torch.autograd.grad(value, x)[0].abs().max() < 1e-4


def test_reddiff_settles_at_the_penalised_least_squares_point() -> None:
    """A'(A mu - y) + lambda rho^2 (C + rho^2)^-1 (mu - m) = 0 for a Gaussian prior, t held nearly fixed."""
    law, t = gaussian(), 0.5
    measurement = sd.GaussianMeasurement(sd.operators.Dense([[1.0, -0.5]]), 0.2)
    y = torch.tensor([1.3], dtype=torch.float64)
    times = torch.linspace(t + 1e-6, t - 1e-6, 1001, dtype=torch.float64)
    x = sd.restore(law.denoiser(sd.VP()), measurement, y, method=REDDiff(0.3, 0.01), times=times, n=200)
    level, lam = sd.VP().at(t), 0.3
    assert lam > 0.2**2 * (1.0 / law.denoiser(sd.VP()).data_std ** 2 + (level.alpha / level.sigma) ** 2)
    rho2, a, C = (level.sigma / level.alpha) ** 2, measurement.dense(2), law.covariances[0]
    W = lam * rho2 * torch.linalg.inv(C + rho2 * torch.eye(2))
    point = torch.linalg.solve(a.mT @ a + W, a.mT @ y + W @ law.means[0])
    assert (x.mean(0) - point).abs().max() < 4.0 * (x.std(0) / math.sqrt(200)).max()
    assert (x.mean(0) - point).abs().max() < 0.01
    assert x.std(0).max() < 0.2 * law.posterior(measurement, y).covariances[0].diagonal().sqrt().max()  # no sampler


@pytest.mark.parametrize("noise_std", [0.1, 1.0])
def test_reddiff_finds_the_mode_for_an_isotropic_prior(noise_std: float) -> None:
    """About it, by the noise of the optimisation: the weight is the one that the noise of y calls for."""
    law = sd.GaussianMixture([1.0], [[1.0, -0.5, 0.3]], [0.5])
    measurement = sd.GaussianMeasurement(MEASUREMENT.operator, noise_std)
    x = sd.restore(law.denoiser(sd.VP()), measurement, Y, method=REDDiff(1e-6, 0.1), steps=200, n=2000)
    exact = law.posterior(measurement, Y)
    errors = (x.mean(0) - exact.means[0]) / (x.std(0) / math.sqrt(2000))
    assert errors.abs().max() < 4.0, errors
    assert (x.std(0) / exact.covariances[0].diagonal().sqrt()).max() < 0.6  # no sampler


def test_an_entry_with_much_noise_counts_for_little() -> None:
    measurement = sd.GaussianMeasurement(sd.operators.Identity(), torch.tensor([0.01, 100.0]))
    law, y = sd.GaussianMixture([1.0], [[0.0, 0.0]], [1.0]), torch.tensor([2.0, 50.0])
    for method in (DiffPIR(), REDDiff()):
        x = sd.restore(law.denoiser(sd.VP()), measurement, y, method=method, n=20)
        assert x[:, 1].abs().max() < 5.0
        assert (x[:, 0] - 2.0).abs().max() < 0.1, method  # and the other for much


# --- how they behave -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::scoresde.ProcessWarning")
@pytest.mark.parametrize("method", METHODS, ids=name)
@pytest.mark.parametrize("process", PROCESSES)
def test_every_process_gives_finite_draws_of_the_right_scale(method: Method, process: str) -> None:
    x = sd.restore(LAW.denoiser(PROCESSES[process]), MEASUREMENT, Y, method=method, steps=20, n=50)
    assert x.dtype == torch.float64
    assert x.abs().max() < 50.0


class Tiny(nn.Module):
    """A network for pictures, (B, C, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.tanh(self.layer(x)) + 0.0 * c[:, None, None, None]


OPERATORS = {
    "inpaint": sd.operators.Mask(torch.arange(64).reshape(8, 8) % 3 > 0),
    "superres": sd.operators.Downsample(2),
    "blur": sd.operators.Convolution(sd.operators.gaussian_kernel(0.6)),
}


@pytest.mark.filterwarnings("ignore::scoresde.ProcessWarning")
@pytest.mark.parametrize("method", METHODS, ids=name)
@pytest.mark.parametrize("process", ["vp", "rectified-flow", "ve"])
@pytest.mark.parametrize("task", OPERATORS)
def test_networks_on_pictures(method: Method, process: str, task: str) -> None:
    denoiser = sd.NetDenoiser(Tiny(), PROCESSES[process], sd.PredictsV(), shape=(1, 8, 8))
    measurement = sd.GaussianMeasurement(OPERATORS[task], 0.05)
    y = measurement.simulate(normal(1, 1, 8, 8, dtype=torch.float32).clamp(-1, 1))
    x = sd.restore(denoiser, measurement, y, method=method, steps=12, n=2)
    assert x.shape == (2, 1, 8, 8)
    assert x.dtype == torch.float32
    assert bool(x.isfinite().all())
    if method not in METHODS[3:]:
        assert measurement.chi_square(x, y).mean() < 4.0


@pytest.mark.parametrize("method", METHODS[3:], ids=name)
def test_maps_that_are_not_linear(method: Method) -> None:
    law = sd.GaussianMixture([1.0], [[0.5, 0.5, 0.5]], [0.02])
    measurement = sd.GaussianMeasurement(sd.operators.Callable(lambda x: x**2), 0.02)
    truth = torch.tensor([[0.4, 0.6, 0.7]], dtype=torch.float64)
    x = sd.restore(law.denoiser(sd.VP()), measurement, measurement.simulate(truth), method=method, n=10)
    assert (x - truth).abs().max() < 0.15


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_samples_depend_on_their_own_number_only(method: Method) -> None:
    options = {"method": method, "steps": 9, "batch_size": 3, "seed": 3}
    denoiser = LAW.denoiser(sd.VP())
    some = sd.restore(denoiser, MEASUREMENT, Y, ids=[5, 2, 9, 11], **options)
    alone = sd.restore(denoiser, MEASUREMENT, Y, ids=[9], **options)
    assert torch.equal(some[2:3], alone)
    assert len({tuple(row) for row in some.tolist()}) == 4
    assert not torch.equal(alone, sd.restore(denoiser, MEASUREMENT, Y, ids=[9], **{**options, "seed": 4}))


def test_descent_keeps_samples_apart() -> None:
    operator = sd.operators.Callable(lambda x: x.sin())
    problem = Problem(LAW.denoiser(sd.VP()), sd.GaussianMeasurement(operator, 0.1), normal(1, 3), (3,))
    m = normal(4, 3, seed=2) * torch.tensor([[0.1], [1.0], [10.0], [1e3]])
    torch.testing.assert_close(Descent(problem, 10)(m, 2.0)[:1], Descent(problem, 10)(m[:1], 2.0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_a_measurement_for_each_sample(method: Method) -> None:
    y = torch.stack([Y, -Y])
    options = {"method": method, "steps": 9}
    both = sd.restore(LAW.denoiser(sd.VP()), MEASUREMENT, y, **options)
    for i in range(2):
        alone = sd.restore(LAW.denoiser(sd.VP()), MEASUREMENT, y[i], ids=[i], **options)
        torch.testing.assert_close(both[i : i + 1], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_one_tick_a_step_and_no_claim_to_be_exact(method: Method) -> None:
    ticks: list[int] = []
    sd.restore(LAW.denoiser(sd.VP()), MEASUREMENT, Y, method=method, steps=7, n=2, on_step=lambda: ticks.append(0))
    assert len(ticks) == 7
    assert (method.exact, method.interacting, method.solvers) == ("", False, False)


# --- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SPECTRAL, ids=name)
def test_what_the_svd_does_not_serve_is_refused(method: Method) -> None:
    denoiser = LAW.denoiser(sd.VP())
    each = sd.GaussianMeasurement(MEASUREMENT.operator, STDS)
    with pytest.raises(ValueError, match=r"noise_std is given for each entry.*MMPS, DiffPIR"):
        sd.restore(denoiser, each, Y, method=method)
    bent = sd.GaussianMeasurement(sd.operators.Callable(lambda x: x**2), 0.1)
    with pytest.raises(ValueError, match="not linear"):
        sd.restore(denoiser, bent, torch.zeros(3), method=method)
    large = sd.GaussianMeasurement(FromFunctions(lambda x: 2.0 * x, lambda y: 2.0 * y), 0.1)
    net = sd.NetDenoiser(Tiny(), sd.VP(), sd.PredictsV(), shape=(1, 80, 80))
    with pytest.raises(ValueError, match=r"SVD of A.*\(1, 80, 80\).*do without"):
        sd.restore(net, large, torch.zeros(1, 80, 80), method=method)
    sd.restore(net, large, torch.zeros(1, 80, 80), method=DiffPIR(), steps=2)  # as the message says


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DDRM(eta=1.1), r"eta = 1.1; it must lie in \[0, 1\]"),
        (lambda: DDRM(eta_b=-0.1), "eta_b = -0.1"),
        (lambda: DDNM(eta=2.0), r"eta = 2.0; it must lie in \[0, 1\]"),
        (lambda: DDNM(travel=0), "travel = 0; it must be 1 or more"),
        (lambda: DDNM(repeats=0), "repeats = 0"),
        (lambda: DiffPIR(lambda_=0.0), "lambda_ = 0.0; it must be positive"),
        (lambda: DiffPIR(zeta=2.0), "zeta = 2.0"),
        (lambda: DiffPIR(inner=0), "inner = 0"),
        (lambda: REDDiff(lambda_=-1.0), "lambda_ = -1.0"),
        (lambda: REDDiff(rate=math.inf), "rate = inf"),
    ],
)
def test_choices_out_of_range(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_what_is_not_finite_is_named(method: Method) -> None:
    class Broken(sd.Wrapped):
        def predict(self, x: Tensor, t: Level) -> Tensor:
            answer = self.inner.predict(x, t).clone()
            answer[1] = math.nan
            return answer

    with pytest.raises(sd.NumericalError, match=r"sample 1 .*not finite"):
        sd.restore(Broken(LAW.denoiser(sd.VP())), MEASUREMENT, Y, method=method, steps=5, n=3)
