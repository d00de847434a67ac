"""The adaptive SDE solver: laws with any process and tolerance, a path that rejections do not bias, no coupling."""

import math

import pytest
import torch
from problems import PROCESSES, gaussian, mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde.errors import NumericalError
from scoresde.noise import Noise
from scoresde.sde import Level, LinearSDE
from scoresde.solvers import adaptive_sde
from scoresde.solvers.adaptive_sde import AdaptiveSDE, Path


class Counting(sd.Wrapped):
    """Remembers the times of the calls."""

    def __init__(self, inner: sd.Denoiser) -> None:
        super().__init__(inner)
        self.times: list[Tensor] = []

    def predict(self, x: Tensor, t: Level) -> Tensor:
        self.times.append(torch.as_tensor(t.t, dtype=torch.float64))
        return self.inner.predict(x, t)


class NoNoise(Noise):
    """Zeros: the mean of a linear problem."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def start(self) -> Tensor:
        return self.x

    def at(self, step: int, t: float, s: float):
        return lambda k=0: torch.zeros_like(self.x)


class Redraw(Path):
    """What the paper's code does: new noise after a rejection."""

    def split(self, where: Tensor, phi: Tensor, wanted: Tensor, z_new: Tensor, eta: float) -> None:
        ends, _ = self.first(phi)
        rows = (where & (phi - ends > adaptive_sde.SLACK * wanted)).nonzero()[:, 0]
        top = self.count[rows] - 1
        self.ends[top, rows], self.z[top, rows] = (phi - wanted)[rows], z_new[rows]


class OnePath(Path):
    """Reads the noise of any stretch off one Brownian path per sample, whatever the steps."""

    KNOTS = 2048

    def __init__(self, y: Tensor) -> None:
        super().__init__(y)
        angles = torch.linspace(math.pi / 2, 1e-7, self.KNOTS, dtype=torch.float64)
        self.clock = torch.tan(angles) ** -2
        steps = torch.diff(self.clock, prepend=torch.zeros(1, dtype=torch.float64)).sqrt()
        self.w = (steps[:, None, None] * normal(self.KNOTS, *y.shape, seed=4)).cumsum(0)

    def _w(self, r: Tensor) -> Tensor:
        k = torch.searchsorted(self.clock, r).clamp(1, self.KNOTS - 1)
        share = ((r - self.clock[k - 1]) / (self.clock[k] - self.clock[k - 1]))[:, None]
        rows = torch.arange(len(r))
        return (1 - share) * self.w[k - 1, rows] + share * self.w[k, rows]

    def first(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        s, _ = super().first(phi)
        near, far = torch.tan(phi) ** -2, torch.tan(s) ** -2
        return s, (self._w(far) - self._w(near)) / (far - near).clamp_min(1e-300).sqrt()[:, None]


def whitened(x: Tensor, law: sd.GaussianMixture) -> Tensor:
    return torch.linalg.solve(torch.linalg.cholesky(law.covariance()), x.T - law.mean()[:, None]).T


@pytest.mark.parametrize(
    ("sde", "eta"),
    [*((sde, 1.0) for sde in PROCESSES.values()), (sd.VP(), 0.5), (sd.VP(), 2.0)],
    ids=[*PROCESSES, "vp-eta-0.5", "vp-eta-2"],
)
def test_a_gaussian_comes_out(sde: LinearSDE, eta: float) -> None:
    """Mean and covariance in standard errors, for every process, where g is infinite at t = 1 too."""
    law, n = gaussian(), 2000
    z = whitened(sd.sample(law.denoiser(sde), AdaptiveSDE(6e-3, 6e-3, eta), n=n, seed=1), law)
    assert (z.mean(0).abs() < 4 / math.sqrt(n)).all()
    assert ((z.T @ z / n - torch.eye(2)).abs() < 4 * math.sqrt(2 / n)).all()


def test_the_default_is_exact_for_narrow_modes() -> None:
    """25 modes of width 0.05: within-mode standard deviation within 4 standard errors (ancestral, 1000 steps: 0.92)."""
    law, n = sd.MIXTURES["grid25"](), 500
    x = sd.sample(law.denoiser(sd.VP()), AdaptiveSDE(), n=n, seed=2)
    mode = law.responsibilities(x).argmax(1)
    ratio = ((x.double() - law.means[mode]) ** 2 / law.eigenvalues[mode]).mean().sqrt().item()
    assert abs(ratio - 1) < 4 / math.sqrt(4 * n)
    share = torch.bincount(mode, minlength=25) / n
    assert ((share - law.weights).abs() < 4.5 * (law.weights / n).sqrt()).all()


@pytest.mark.parametrize(("kind", "unbiased"), [(Path, True), (Redraw, False)])
def test_rejections_do_not_bias_the_law(kind: type, unbiased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are first tried too long, so that most are rejected; new noise after a rejection is 20 errors off."""
    monkeypatch.setattr(adaptive_sde, "Path", kind)
    monkeypatch.setattr(adaptive_sde, "SAFETY", 1.5)
    monkeypatch.setattr(adaptive_sde, "FIRST_STEP", 1.0)
    law, n = gaussian(), 4000
    z = whitened(sd.sample(law.denoiser(sd.VP()), AdaptiveSDE(4e-3, 4e-3), n=n, seed=3), law)
    errors = ((z.var(0) - 1) / math.sqrt(2 / n)).abs()
    assert (errors < 4).all() if unbiased else (errors > 10).all()


@pytest.mark.parametrize("eta", [0.5, 1.0, 2.0])
def test_a_split_keeps_the_path(eta: float) -> None:
    """sqrt(r1) z1 + sqrt(r2) z2 = sqrt(r1 + r2) z to rounding, and z1, z2 are again independent and normal."""
    n = 20_000
    y, phi = torch.zeros(n, 1, dtype=torch.float64), torch.full((n,), 1.2, dtype=torch.float64)
    path, z, new = Path(y), normal(n, 1, seed=1), normal(n, 1, seed=2)
    everywhere, wanted = torch.ones(n).bool(), torch.full_like(phi, 0.1)
    path.draw(everywhere, phi - 0.5, z)
    path.split(everywhere, phi, wanted, new, eta)
    middle, z1 = path.first(phi)
    path.pop(everywhere)
    end, z2 = path.first(middle)
    assert torch.equal(end, phi - 0.5)
    torch.testing.assert_close(middle, phi - 0.1)
    r_phi, r_middle, r_end = (torch.tan(angle[:, None]) ** (-2 * eta**2) for angle in (phi, middle, end))
    whole = (r_middle - r_phi).sqrt() * z1 + (r_end - r_middle).sqrt() * z2
    torch.testing.assert_close(whole, (r_end - r_phi).sqrt() * z)
    both = torch.cat([z1, z2], 1)
    assert ((both.T @ both / n - torch.eye(2)).abs() < 4 * math.sqrt(2 / n)).all()


@pytest.mark.parametrize("kappa", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("gain", [1e-3, 1.0, 8.0])
def test_the_correction_is_exact_for_a_prediction_linear_in_1_over_snr(kappa: float, gain: float) -> None:
    """w = int (1 - u) dp / ((1 - u_s) (p_s - p_t)), p = u^-kappa, by the midpoint rule in log u."""
    log_u = -gain * (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    weight = torch.exp(-kappa * log_u)
    exact = (weight * -torch.expm1(log_u)).sum() / weight.sum() / -math.expm1(-gain)
    got = adaptive_sde._late_share(kappa, torch.tensor([gain], dtype=torch.float64))
    torch.testing.assert_close(got, exact[None], rtol=1e-7, atol=0)


def test_a_stretch_that_is_not_too_long_stays_whole() -> None:
    y, phi, wanted = torch.zeros(2, 1), torch.ones(2).double(), torch.tensor([0.29, 0.31]).double()
    path = Path(y)
    path.draw(torch.tensor([True, True]), phi - 0.4, torch.ones(2, 1))
    path.split(torch.tensor([True, True]), phi, wanted, torch.zeros(2, 1), 1.0)
    assert path.count.tolist() == [2, 1]


def test_it_converges_along_one_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """With strong order 1, the error falls like h and the difference that is controlled like h^(3/2)."""
    monkeypatch.setattr(adaptive_sde, "Path", OnePath)
    x1, denoiser = normal(20, 2), gaussian().denoiser(sd.VP())
    end = {tol: sd.sample(denoiser, AdaptiveSDE(tol, tol), x1=x1) for tol in (2e-2, 2e-3, 2e-4)}
    errors = [(end[tol] - end[2e-4]).square().mean().sqrt().item() for tol in (2e-2, 2e-3)]
    assert math.log10(errors[0] / errors[1]) == pytest.approx(2 / 3, abs=0.15)
    assert errors[1] < 0.02


@pytest.mark.parametrize("eta", [1.0, 2.0])
def test_weak_order_two(eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variance of a Gaussian without statistics: the problem is linear, so add up its responses to unit noises.

    Steps are held to a fixed share of the angle, as long as a tolerance that never binds allows.
    """
    law = sd.GaussianMixture([1.0], [[0.0]], [0.3], dtype=torch.float64)
    solver, errors = AdaptiveSDE(1e9, 1e9, eta), []
    process = solver.reverse(law.denoiser(sd.RectifiedFlow()))
    monkeypatch.setattr(adaptive_sde, "FIRST_STEP", 1.0)
    for share in (0.06, 0.03):
        monkeypatch.setattr(adaptive_sde, "LONGEST", share)
        responses = 600
        x = torch.zeros(responses, 1, dtype=torch.float64)
        x[-1] = 1.0  # to the start
        unit = lambda k=0: torch.zeros_like(x).index_fill_(0, torch.tensor(k), 1.0)  # noqa: B023, E731
        end = solver.step(process, solver.init(process, x.clone()), 1.0, 0.0, unit).x
        errors.append(end.square().sum().item() / 0.3 - 1)
    assert math.log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.15)


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
def test_calls_lie_in_the_unit_interval_and_are_one_a_trial(sde: LinearSDE) -> None:
    denoiser, solver = Counting(gaussian().denoiser(sde)), AdaptiveSDE(1e-2, 1e-2)
    process, x = sd.Reverse(denoiser), sde.prior_std() * normal(5, 2)
    noise = sd.CounterNoise(0, torch.arange(5), (2,), torch.float64)
    draws: list[int] = []

    def draw(k: int = 0) -> Tensor:
        draws.append(k)
        return noise.at(0, 1.0, 0.0)(k)

    solver.step(process, solver.init(process, x), 1.0, 0.0, draw)
    assert draws == list(range(len(draws)))
    assert len(denoiser.times) == len(draws) + 2  # the first prediction and the last one
    times = torch.cat([t.flatten() for t in denoiser.times])
    assert 0 < times.min() <= times.max() <= 1


def test_every_process_is_the_same_equation() -> None:
    """The same noise, start and tolerance: the same samples, as far as the starts have the same SNR."""
    ends = [
        sd.sample(gaussian().denoiser(sde), AdaptiveSDE(2e-2, 2e-2), x1=normal(6, 2))
        for sde in (sd.VP.cosine(), sd.RectifiedFlow(), PROCESSES["user"])
    ]
    torch.testing.assert_close(ends[1], ends[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-6)


def test_a_narrow_law_is_not_jumped_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two points 0.02 apart: everything before is easy, and steps have grown as far as they may."""
    monkeypatch.setattr(adaptive_sde, "GROW", 100.0)
    law = sd.GaussianMixture([0.5, 0.5], [[0.01], [-0.01]], [1e-6, 1e-6], dtype=torch.float64)
    n = 2000
    x = sd.sample(law.denoiser(sd.VP()), AdaptiveSDE(1e-3, 1e-3), n=n)
    assert abs(x.var().item() / law.covariance().item() - 1) < 0.05
    assert abs((x > 0).double().mean().item() - 0.5) < 2 / math.sqrt(n)


def test_the_end_is_x0_itself() -> None:
    point = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    x = sd.sample(sd.Empirical(point).denoiser(sd.VP()), AdaptiveSDE(), n=4)
    torch.testing.assert_close(x, point.expand(4, 2), rtol=0, atol=1e-6)


def test_it_can_stop_on_the_way() -> None:
    """The law at t = 0.5, from legs of a grid."""
    law, sde, n = gaussian(), sd.RectifiedFlow(), 3000
    process, noise = sd.Reverse(law.denoiser(sde)), sd.CounterNoise(0, torch.arange(n), (2,), torch.float64)
    x = sd.solve(process, AdaptiveSDE(5e-3, 5e-3), torch.tensor([1.0, 0.8, 0.5]).double(), noise.start(), noise)
    z = whitened(x, law.diffuse(sde, 0.5))
    assert (z.mean(0).abs() < 4 / math.sqrt(n)).all()
    assert ((z.var(0) - 1).abs() < 4 * math.sqrt(2 / n)).all()


def test_nothing_couples_the_samples_of_a_batch() -> None:
    """Companions a million times larger, which need other steps, change nothing, bit for bit."""
    denoiser, x1 = mixture().denoiser(sd.VP()), normal(4, 3)
    others = x1.clone()
    others[1:] *= 1e6
    calls = [Counting(denoiser), Counting(denoiser)]
    one, two = (sd.sample(d, AdaptiveSDE(3e-3, 3e-3), x1=start) for d, start in zip(calls, (x1, others), strict=True))
    assert torch.equal(one[0], two[0])
    histories = [d.times[20] for d in calls]
    assert histories[0][0] == histories[1][0]
    assert (histories[0][1:] != histories[1][1:]).all()


def test_a_sample_is_a_function_of_seed_and_id() -> None:
    denoiser, solver = mixture().denoiser(sd.VP()), AdaptiveSDE(5e-3, 5e-3)
    x = sd.sample(denoiser, solver, ids=[0, 1, 2, 3], seed=5)
    again = sd.sample(denoiser, solver, ids=[9, 3, 7, 0], seed=5)
    assert torch.equal(x[[3, 0]], again[[1, 3]])
    assert not torch.equal(x, sd.sample(denoiser, solver, ids=[0, 1, 2, 3], seed=6))


@pytest.mark.parametrize("below", [0.6, 2.0])
def test_nan_is_named(below: float) -> None:
    class Breaks(sd.Wrapped):
        def predict(self, x: Tensor, t: Level) -> Tensor:
            p = self.inner.predict(x, t).clone()
            p[2] = math.nan if float(torch.as_tensor(t.t).flatten()[-1]) < below else p[2]
            return p

    with pytest.raises(NumericalError, match=r"AdaptiveSDE: .*sample 2 of the batch is not finite near t = (0\.6|1,)"):
        sd.sample(Breaks(gaussian().denoiser(sd.VP())), AdaptiveSDE(1e-2, 1e-2), n=4)


def test_too_many_trials_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive_sde, "MAX_TRIALS", 50)
    with pytest.raises(
        NumericalError, match=r"sample \d of the batch is still at t = .* after 50 trials.*rtol = 0.001"
    ):
        sd.sample(gaussian().denoiser(sd.VP()), AdaptiveSDE(), n=4)


def test_an_eps_network_is_refused_where_alpha_is_0() -> None:
    net = sd.NetDenoiser(torch.nn.Identity(), sd.RectifiedFlow(), sd.PredictsEps(), shape=(2,))
    with pytest.raises(ValueError, match=r"alpha\(1\) = 0: a predicted eps says nothing of x0"):
        sd.sample(net, AdaptiveSDE())


def test_it_goes_from_noise_to_data_only() -> None:
    x = normal(3, 2)
    with pytest.raises(ValueError, match=r"not from t = 0.2 up to 0.5"):
        sd.solve(sd.Reverse(gaussian().denoiser(sd.VP())), AdaptiveSDE(), torch.tensor([0.2, 0.5]), x, NoNoise(x))
    with pytest.raises(ValueError, match="chooses its own steps"):
        sd.sample(gaussian().denoiser(sd.VP()), AdaptiveSDE(), steps=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rtol": 0.0}, "rtol = 0.0; a tolerance must be positive"),
        ({"rtol": math.nan}, "rtol = nan"),
        ({"atol": -1e-3}, "atol = -0.001"),
        ({"atol": math.inf}, "atol = inf"),
        ({"eta": 0.0}, "eta = 0.0; it must be positive .* without noise take RK45"),
        ({"eta": math.nan}, "eta = nan"),
    ],
)
def test_wrong_choices_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveSDE(**arguments)
