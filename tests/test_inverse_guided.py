"""MMPS, PiGDM, TMPD, DPS and RePaint: exact where they claim to be, the published steps in numbers, and the frame."""

from __future__ import annotations

import math

import pytest
import torch
from problems import PROCESSES, mixture, normal
from torch import Tensor, nn

import scoresde as sd
from scoresde import solvers
from scoresde.inverse import MMPS, Guided, GuidedDenoiser, Method, Problem, Twisted, TwistedSMC, posterior_draws
from scoresde.inverse.dps import DPS, LikelihoodScale, PublishedScale
from scoresde.inverse.pigdm import PiGDM
from scoresde.inverse.repaint import RePaint
from scoresde.inverse.tmpd import TMPD
from scoresde.linalg import Operator
from scoresde.metrics import sliced_wasserstein
from scoresde.nets import UNet

NOISE = 0.2
EXACT = ["vp", "ve", "sub-vp", "cosine", "rectified-flow", "edm"]
each_process = pytest.mark.parametrize("process", EXACT)

GUIDED: list[Guided] = [
    MMPS(),
    PiGDM(),
    TMPD(),
    DPS(PublishedScale(0.05, chain=100)),
    DPS(LikelihoodScale()),
]
METHODS: list[Method] = [*GUIDED, RePaint(resamplings=2, jump=2)]
each_guided = pytest.mark.parametrize("method", GUIDED, ids=str)
each_method = pytest.mark.parametrize("method", METHODS, ids=str)

SOLVERS = [
    solvers.DDIM(),
    solvers.DDIM(eta=1.0),
    solvers.ERSDE(),
    solvers.RK4(),
    solvers.AdamsBashforth(),
    solvers.Ancestral(),
    solvers.DPMSolver(),
    solvers.Euler(),
    solvers.EulerMaruyama(),
    solvers.ExponentialEuler(),
    solvers.Heun(),
    solvers.PredictorCorrector(),
    solvers.SASolver(),
    solvers.TorchSDE(),
    solvers.UniPC(),
]


def correlated() -> sd.GaussianMixture:
    a = normal(4, 4, seed=1)
    return sd.GaussianMixture([1.0], normal(1, 4, seed=2), (0.3 * a @ a.mT + 0.1 * torch.eye(4))[None])


LAW = correlated()
ISOTROPIC = sd.GaussianMixture([1.0], normal(1, 4, seed=2), [0.7])
DIAGONAL = sd.GaussianMixture([1.0], normal(1, 4, seed=2), [[0.2, 1.5, 0.6, 0.9]])
WIDE, TALL = sd.operators.Dense(normal(2, 4, seed=3)), sd.operators.Dense(0.5 * normal(10, 4, seed=4))
MASK = sd.operators.Mask([True, False, True, False])
MEASUREMENT = sd.GaussianMeasurement(MASK, NOISE)
Y = MEASUREMENT.simulate(LAW.sample(1, seed=5), seed=6)

# where each method is exact: the method, the prior, A
CLAIMS = {
    "mmps": (MMPS(), LAW, WIDE),
    "mmps by gmres": (MMPS(iterations=12, tolerance=1e-13), LAW, TALL),
    "pigdm": (PiGDM(), ISOTROPIC, WIDE),
    "pigdm, tall": (PiGDM(), ISOTROPIC, TALL),
    "tmpd": (TMPD(), DIAGONAL, MASK),
}
each_claim = pytest.mark.parametrize("claim", CLAIMS)


def problem(law: sd.GaussianMixture, operator: Operator, sde: sd.LinearSDE, rows: int = 1) -> Problem:
    measurement = sd.GaussianMeasurement(operator, NOISE)
    return Problem(law.denoiser(sde), measurement, measurement.simulate(law.sample(rows, seed=5), seed=6), (law.dim,))


def exact_x0(given: Problem, law: sd.GaussianMixture, x: Tensor, t: float | Tensor) -> Tensor:
    """E[x0 | x_t, y], by the exact posterior as the prior of its own denoiser."""
    rows = []
    for i in range(len(x)):
        posterior = law.posterior(given.measurement, given.y[i % len(given.y)])
        at = t[i : i + 1] if isinstance(t, Tensor) else t
        rows.append(posterior.denoiser(given.denoiser.sde).x0(x[i : i + 1], at))
    return torch.cat(rows)


def exact_log_prob(given: Problem, law: sd.GaussianMixture, x: Tensor, t: float) -> Tensor:
    """log q_t(y | x_t) by Bayes: p(y) q_t(x_t | y) / q_t(x_t)."""
    sde, y = given.denoiser.sde, given.y[0]
    a = given.measurement.dense(law.dim)
    seen = sd.GaussianMixture(
        law.weights, law.means @ a.mT, a @ law.covariances @ a.mT + NOISE**2 * torch.eye(len(a), dtype=torch.float64)
    )
    posterior = law.posterior(given.measurement, y)
    return seen.log_prob(y[None]) + posterior.diffuse(sde, t).log_prob(x) - law.diffuse(sde, t).log_prob(x)


# --- exact where it is claimed -------------------------------------------------------------------------


@each_claim
@each_process
@pytest.mark.parametrize("rows", [1, 3], ids=["one y", "a y each"])
def test_the_guided_estimate_is_exact(claim: str, process: str, rows: int) -> None:
    method, law, operator = CLAIMS[claim]
    given = problem(law, operator, PROCESSES[process], rows)
    guided = method.denoiser(given)
    for t in (0.0, 1e-3, 0.1, 0.5, 0.9):
        level = given.denoiser.sde.at(t)
        x = level.radius * normal(3, law.dim, seed=8)
        torch.testing.assert_close(guided.x0(x, t), exact_x0(given, law, x, t), rtol=1e-9, atol=1e-9)


@each_claim
@each_process
def test_a_time_for_each_sample(claim: str, process: str) -> None:
    method, law, operator = CLAIMS[claim]
    given = problem(law, operator, PROCESSES[process])
    t = torch.tensor([0.02, 0.4, 0.8], dtype=torch.float64)
    x = normal(3, law.dim, seed=8)
    torch.testing.assert_close(method.denoiser(given).x0(x, t), exact_x0(given, law, x, t), rtol=1e-9, atol=1e-9)


@each_claim
@each_process
def test_where_no_signal_is_left_the_estimate_is_the_posterior_mean(claim: str, process: str) -> None:
    """alpha = 0 at t = 1 of some processes: 0 / 0 in the covariance, and a limit."""
    method, law, operator = CLAIMS[claim]
    given = problem(law, operator, PROCESSES[process])
    level = given.denoiser.sde.at(1.0)
    x = level.sigma * normal(3, law.dim, seed=8)
    for t in (1.0, torch.ones(3, dtype=torch.float64)):
        torch.testing.assert_close(method.denoiser(given).x0(x, t), exact_x0(given, law, x, 1.0), rtol=0.0, atol=2e-3)


@each_method
def test_every_method_is_finite_at_both_ends(method: Method) -> None:
    if not isinstance(method, Guided):
        return
    for process in EXACT:
        given = problem(LAW, MASK, PROCESSES[process])
        for t in (0.0, 1.0, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)):
            assert method.denoiser(given).x0(normal(3, 4), t).isfinite().all()


@pytest.mark.parametrize("claim", ["mmps", "pigdm", "tmpd"])
@each_process
@pytest.mark.parametrize("t", [1e-2, 0.4, 0.9])
def test_the_twist_is_exact(claim: str, process: str, t: float) -> None:
    method, law, operator = CLAIMS[claim]
    given = problem(law, operator, PROCESSES[process])
    level = given.denoiser.sde.at(t)
    x = level.radius * normal(5, law.dim, seed=8)
    twist = method.denoiser(given).twist(x, level)
    torch.testing.assert_close(twist.x0, given.denoiser.x0(x, t), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(twist.guided, exact_x0(given, law, x, t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(twist.log_prob, exact_log_prob(given, law, x, t), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", [MMPS(), PiGDM(), TMPD()], ids=str)
@pytest.mark.parametrize("operator", [WIDE, TALL, MASK], ids=["wide", "tall", "mask"])
def test_the_variance_of_the_twist_on_an_isotropic_prior(method: Twisted, operator: Operator) -> None:
    given = problem(ISOTROPIC, operator, PROCESSES["vp"])
    level = given.denoiser.sde.at(0.3)
    exact = level.sigma**2 * 0.7 / (level.sigma**2 + level.alpha**2 * 0.7)
    variance = method.denoiser(given).twist(normal(5, 4), level).variance
    torch.testing.assert_close(variance, torch.full((5,), exact, dtype=torch.float64))


def test_mmps_is_exact_with_a_noise_for_each_entry() -> None:
    std = torch.tensor([0.1, 0.5], dtype=torch.float64)
    measurement = sd.GaussianMeasurement(WIDE, std)
    given = Problem(LAW.denoiser(sd.VP()), measurement, normal(1, 2, seed=9), (4,))
    x = normal(3, 4, seed=8)
    torch.testing.assert_close(MMPS().denoiser(given).x0(x, 0.4), exact_x0(given, LAW, x, 0.4), rtol=1e-9, atol=1e-9)


def test_mmps_draws_the_posterior_of_a_gaussian() -> None:
    """KL of the Gaussian fitted to 4000 draws; 0.0018 of it is expected of 4000 exact ones."""
    given = problem(LAW, WIDE, sd.VP())
    x = posterior_draws(given.denoiser, given.measurement, given.y, n=4000, steps=150, seed=1).x
    posterior = LAW.posterior(given.measurement, given.y)
    fitted = sd.GaussianMixture([1.0], x.mean(0)[None], torch.cov(x.mT)[None])
    assert fitted.kl(posterior) < 0.005


@pytest.mark.parametrize("claim", ["mmps", "pigdm", "tmpd"])
@pytest.mark.parametrize("solver", [solvers.UniPC(), solvers.ERSDE(), solvers.Heun()], ids=str)
def test_draws_have_the_posterior_mean(claim: str, solver) -> None:  # type: ignore[no-untyped-def]
    method, law, operator = CLAIMS[claim]
    given = problem(law, operator, sd.VP())
    x = posterior_draws(
        given.denoiser, given.measurement, given.y, method=method, solver=solver, n=1500, steps=80, seed=2
    ).x
    posterior = law.posterior(given.measurement, given.y)
    std = posterior.covariance().diagonal().sqrt()
    assert ((x.mean(0) - posterior.mean()) / (std / math.sqrt(len(x)))).abs().max() < 4.0
    assert ((x.var(0) / std**2 - 1.0) / math.sqrt(2.0 / len(x))).abs().max() < 4.5


# --- the same by other ways ----------------------------------------------------------------------------


def test_mmps_by_gmres_is_mmps_written_out() -> None:
    """On a mixture, where it is not exact, for 10 entries of y: twist() writes S out, the estimate solves by GMRES."""
    law = mixture(4, 3)
    given = problem(law, TALL, sd.VP())
    level = given.denoiser.sde.at(0.3)
    guided = MMPS(iterations=10, tolerance=1e-12).denoiser(given)
    x = normal(6, 4, seed=8)
    torch.testing.assert_close(guided.guided_x0(x, level), guided.twist(x, level).guided, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("operator", [WIDE, TALL, MASK], ids=["wide", "tall", "mask"])
def test_pigdm_without_an_svd(operator: Operator) -> None:
    """A noise for each entry, all the same, leads to conjugate gradients."""
    law = mixture(4, 3)
    given = problem(law, operator, sd.VP())
    entries = given.y[0].numel()
    each = Problem(
        given.denoiser,
        sd.GaussianMeasurement(operator, torch.full((entries,), NOISE, dtype=torch.float64)),
        given.y,
        (4,),
    )
    x = normal(6, 4, seed=8)
    for t in (0.3, torch.linspace(0.1, 0.9, 6, dtype=torch.float64)):
        torch.testing.assert_close(
            PiGDM().denoiser(each).x0(x, t), PiGDM().denoiser(given).x0(x, t), rtol=1e-5, atol=1e-5
        )


def test_pigdm_takes_the_scale_of_the_data() -> None:
    given = problem(ISOTROPIC, WIDE, sd.VP())
    x = normal(3, 4, seed=8)
    told = PiGDM(data_std=math.sqrt(0.7)).denoiser(given).x0(x, 0.4)
    torch.testing.assert_close(told, PiGDM().denoiser(given).x0(x, 0.4))
    assert (PiGDM(data_std=3.0).denoiser(given).x0(x, 0.4) - told).abs().max() > 1e-2


def test_pigdm_with_hardly_any_noise() -> None:
    """What A does not see, but for rounding, is not divided by noise_std^2."""
    measurement = sd.GaussianMeasurement(WIDE, 1e-8)
    given = Problem(ISOTROPIC.denoiser(sd.VP()), measurement, measurement.simulate(ISOTROPIC.sample(1)), (4,))
    x = normal(6, 4, seed=8)
    exact = exact_x0(given, ISOTROPIC, x, 0.3)
    torch.testing.assert_close(PiGDM().denoiser(given).x0(x, 0.3), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("small", [0.0, 1e-3])
def test_pigdm_in_float32_does_not_magnify_rounding(small: float) -> None:
    """noise_std^2 is 1e-8 here, and what A hardly sees is divided by not much more."""
    u, v = torch.linalg.qr(normal(2, 2, seed=1)).Q, torch.linalg.qr(normal(4, 4, seed=2)).Q[:2]
    measurement = sd.GaussianMeasurement(
        sd.operators.Dense(u @ torch.diag(torch.tensor([1.0, small], dtype=torch.float64)) @ v), 1e-4
    )
    law = mixture(4, 3)
    y, x = measurement.simulate(law.sample(1)), normal(6, 4, seed=8)
    single = sd.GaussianMixture(law.weights, law.means, law.covariances, dtype=torch.float32)
    double, rounded = (
        PiGDM()
        .denoiser(Problem(prior.denoiser(sd.VP()), measurement, y.to(prior.dtype), (4,)))
        .x0(x.to(prior.dtype), 0.3)
        for prior in (law, single)
    )
    torch.testing.assert_close(rounded.double(), double, rtol=2e-3, atol=2e-3)


def test_tmpd_is_its_formula() -> None:
    """S of row sums, negative ones by their size, on a mixture, by dense matrices."""
    law = mixture(4, 3)
    operator = sd.operators.Dense([[1.0, -1.0, 0.3, 0.0], [-1.0, 0.2, 0.0, 0.5], [0.4, 0.1, 0.9, 0.2]])
    given = problem(law, operator, sd.VP())
    x, level = normal(6, 4, seed=8), given.denoiser.sde.at(0.4)
    A, C = operator.dense(), law.posterior_covariance(x, sd.VP(), 0.4)
    rows = (A @ C @ A.mT).sum(2)
    assert rows.min() < 0 < rows.max()
    S = NOISE**2 + rows.abs()
    x0 = given.denoiser.x0(x, 0.4)
    residual = given.y - x0 @ A.mT
    twist = TMPD().denoiser(given).twist(x, level)
    torch.testing.assert_close(twist.guided, x0 + torch.einsum("bij,bj->bi", C @ A.mT, residual / S))
    log_prob = torch.distributions.Normal(0.0, S.sqrt()).log_prob(residual).sum(1)
    torch.testing.assert_close(twist.log_prob, log_prob)
    assert (twist.variance >= 0).all()


# --- DPS -----------------------------------------------------------------------------------------------


def norm_gradient(x: Tensor, given: Problem, t: float) -> tuple[Tensor, Tensor]:
    """xhat0, and grad_x |y - A(xhat0)|, one sample at a time."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        x0 = given.denoiser.x0(x, t)
        norms = [torch.linalg.vector_norm(y - given.operator(one[None])) for one, y in zip(x0, given.y, strict=True)]
        return x0.detach(), torch.autograd.grad(sum(norms), x)[0]


@pytest.mark.parametrize("operator", [WIDE, sd.operators.Gamma(2.0)], ids=["linear", "not linear"])
def test_dps_takes_the_published_steps(operator: Operator) -> None:
    """Algorithm 1 along a chain of K steps, as it is written, with the same noise."""
    K, zeta, n = 25, 0.3, 3
    given = problem(LAW, operator, sd.VP(), n)
    chain = sd.DDPM.from_sde(sd.VP(), sd.grids.uniform(K))
    noise = sd.CounterNoise(3, torch.arange(n), (4,), torch.float64)
    x = noise.start() * sd.VP().prior_std()
    for i, k in enumerate(range(K, 0, -1)):
        x0, gradient = norm_gradient(x, given, k / K)
        mean, variance = chain.posterior(x, x0, k)
        z = noise.at(i, k / K, (k - 1) / K)()
        x = mean + (math.sqrt(variance) * z if k > 1 else 0.0) - zeta * gradient
    found = posterior_draws(
        given.denoiser,
        given.measurement,
        given.y,
        method=DPS(PublishedScale(zeta, chain=K)),
        solver=solvers.Ancestral(),
        times=sd.grids.uniform(K),
        n=n,
        seed=3,
    ).x
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", ["ve", "edm", "rectified-flow", "sub-vp"])
def test_dps_is_the_same_on_every_process(process: str) -> None:
    """At one signal-to-noise ratio x / radius is the chain's variable."""
    sde, method = PROCESSES[process], DPS(PublishedScale(0.3))
    t = 0.4
    t_vp = sd.VP().time_of_log_snr(sde.log_snr(t)).item()
    x = normal(3, 4, seed=8)
    on_vp = method.denoiser(problem(LAW, MASK, sd.VP())).x0(x, t_vp)
    there = method.denoiser(problem(LAW, MASK, sde)).x0(float(sde.at(t).radius) * x, t)
    torch.testing.assert_close(there, on_vp, rtol=1e-9, atol=1e-9)


def test_a_time_for_each_sample_in_dps() -> None:
    guided = DPS().denoiser(problem(LAW, MASK, sd.VP()))
    x, t = normal(3, 4, seed=8), torch.tensor([1e-4, 0.3, 0.9], dtype=torch.float64)
    each = torch.cat([guided.x0(x[i : i + 1], float(t[i])) for i in range(3)])
    torch.testing.assert_close(guided.x0(x, t), each, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("operator", [WIDE, sd.operators.Gamma(2.0)], ids=["linear", "not linear"])
def test_the_likelihood_scale_is_its_gradient(operator: Operator) -> None:
    given = problem(LAW, operator, sd.VP())
    level = given.denoiser.sde.at(0.4)
    x = normal(3, 4, seed=8).requires_grad_()
    x0 = given.denoiser.x0(x, 0.4)
    (gradient,) = torch.autograd.grad(given.measurement.log_likelihood(x0, given.y).sum(), x)
    expected = x0 + level.sigma**2 / level.alpha * gradient
    torch.testing.assert_close(DPS(LikelihoodScale()).denoiser(given).x0(x.detach(), 0.4), expected.detach())


def test_dps_with_no_push_is_the_prior() -> None:
    given = problem(LAW, WIDE, sd.VP())
    x = normal(3, 4, seed=8)
    guided = DPS(PublishedScale(0.0)).denoiser(given)
    assert torch.equal(guided.x0(x, 0.4), given.denoiser.x0(x, 0.4))


def test_a_residual_of_zero_has_no_direction() -> None:
    given = problem(LAW, WIDE, sd.VP())
    x = normal(1, 4, seed=8)
    met = Problem(given.denoiser, given.measurement, given.operator(given.denoiser.x0(x, 0.4)), (4,))
    assert DPS().denoiser(met).x0(x, 0.4).isfinite().all()


# --- RePaint -------------------------------------------------------------------------------------------


def test_repaint_takes_the_published_steps_when_there_is_no_noise() -> None:
    """Algorithm 1: the known entries are y, noised afresh; the others follow the ancestral kernel."""
    n, times = 4, [1.0, 0.6, 0.3, 0.0]
    kept = MASK.mask
    y = torch.tensor([0.4, -0.8], dtype=torch.float64)
    known = torch.tensor([0.4, 0.0, -0.8, 0.0], dtype=torch.float64)
    denoiser, sde = LAW.denoiser(sd.VP()), sd.VP()
    noise = sd.CounterNoise(3, torch.arange(n), (4,), torch.float64)
    x = noise.start() * sde.prior_std()
    # three steps, back up from 0, and the same again
    path = [(1.0, 0.6), (0.6, 0.3), (0.3, 0.0), None, (1.0, 0.6), (0.6, 0.3), (0.3, 0.0)]
    for k, step in enumerate(path):
        z = noise.at(k, 1.0, 0.0)()
        if step is None:
            x = sde.perturb(x, 1.0, z)
            continue
        t, s = step
        c_t, c_0, v = sde.bridge(s, t)
        unknown = c_t * x + c_0 * denoiser.x0(x, t) + v**0.5 * z
        x = torch.where(kept, sde.perturb(known.expand_as(z), s, z), unknown)
    measurement = sd.GaussianMeasurement(MASK, 1e-12)
    found = posterior_draws(denoiser, measurement, y, method=RePaint(2, 3), times=times, n=n, seed=3).x
    torch.testing.assert_close(found, x, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(MASK(found), y.expand(n, 2), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize(
    "operator",
    [MASK, sd.operators.Hadamard([False, True, True, False]), sd.operators.Identity()],
    ids=["mask", "hadamard", "identity"],
)
@pytest.mark.parametrize("noise_std", [0.02, 0.8])
def test_repaint_is_right_on_an_isotropic_gaussian(operator: Operator, noise_std: float) -> None:
    """There u given x_t and y is exact, and x_s given u too: a Gibbs sampler that is at its law from the start."""
    measurement = sd.GaussianMeasurement(operator, noise_std)
    y = measurement.simulate(ISOTROPIC.sample(1, seed=5), seed=6)
    method = RePaint(resamplings=2, jump=5)
    x = posterior_draws(ISOTROPIC.denoiser(sd.VP()), measurement, y, method=method, n=1500, steps=80, seed=4).x
    posterior = ISOTROPIC.posterior(measurement, y)
    std = posterior.covariance().diagonal().sqrt()
    assert ((x.mean(0) - posterior.mean()) / (std / math.sqrt(len(x)))).abs().max() < 4.0
    assert ((x.var(0) / std**2 - 1.0) / math.sqrt(2.0 / len(x))).abs().max() < 4.5


def test_resampling_brings_the_unseen_nearer_to_what_the_seen_says() -> None:
    law = mixture(8, 3)
    measurement = sd.GaussianMeasurement(sd.operators.Mask([True, False, False, True] + 4 * [False]), NOISE)
    y = measurement.simulate(law.sample(1, seed=200), seed=300)
    exact = law.posterior(measurement, y).sample(800)
    distances = []
    for resamplings in (1, 10):
        x = posterior_draws(law.denoiser(sd.VP()), measurement, y, method=RePaint(resamplings, 10), n=800, steps=60).x
        distances.append(sliced_wasserstein(x, exact, p=1))
    assert distances[1] < 0.75 * distances[0], distances


@pytest.mark.parametrize(
    "operator", [WIDE, sd.operators.Mask([True, True, False, False]) * 2.0], ids=["dense", "scaled"]
)
def test_repaint_refuses_rows_that_are_not_orthonormal(operator: Operator) -> None:
    given = problem(LAW, operator, sd.VP())
    with pytest.raises(ValueError, match=r"A A' must be I.*take DDNM.*or MMPS"):
        posterior_draws(given.denoiser, given.measurement, given.y, method=RePaint(), steps=2)


def test_repaint_tells_of_its_progress_once_for_each_step() -> None:
    told: list[None] = []
    posterior_draws(
        LAW.denoiser(sd.VP()),
        MEASUREMENT,
        Y,
        method=RePaint(3, 4),
        steps=10,
        on_step=lambda: told.append(None),
    )
    assert len(told) == 10


# --- every solver, every operator, and the frame -------------------------------------------------------


@each_guided
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_every_solver_takes_every_guided_method(method: Guided, solver) -> None:  # type: ignore[no-untyped-def]
    given = problem(LAW, MASK, sd.VP())
    x = posterior_draws(
        given.denoiser, given.measurement, given.y, method=method, solver=solver, n=8, steps=25, seed=1
    ).x
    assert x.shape == (8, 4)
    assert x.isfinite().all()
    assert x.abs().max() < 50.0


PICTURE = (2, 8, 8)
OPERATORS = {
    "mask": sd.operators.Mask(normal(8, 8) > 0),
    "convolution": sd.operators.Convolution(sd.operators.gaussian_kernel(0.6)),
    "downsample": sd.operators.Downsample(2),
}


def network() -> sd.NetDenoiser:
    torch.manual_seed(0)
    module = UNet(channels=2, width=8, blocks=1, multipliers=(1, 2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return sd.NetDenoiser(module, sd.VP(), sd.PredictsV(), shape=PICTURE)


PICTURE_CASES = [(m, o) for m in METHODS for o in OPERATORS if isinstance(m, Guided) or o == "mask"]


@pytest.mark.parametrize(("method", "operator"), PICTURE_CASES, ids=[f"{m}-{o}" for m, o in PICTURE_CASES])
@pytest.mark.parametrize("rows", [1, 2])
def test_pictures_in_float32(method: Method, operator: str, rows: int) -> None:
    measurement = sd.GaussianMeasurement(OPERATORS[operator], 0.1)
    y = measurement.simulate(0.5 * normal(rows, *PICTURE, dtype=torch.float32))
    x = sd.restore(network(), measurement, y, method=method, n=2, steps=4)
    assert x.shape == (2, *PICTURE)
    assert x.dtype == torch.float32
    assert x.isfinite().all()


@each_method
def test_a_sample_does_not_depend_on_its_companions(method: Method) -> None:
    """Bitwise, for one batch size, and the same y given alone and to each."""
    denoiser = mixture(4, 3).denoiser(sd.VP())

    def draw(y: Tensor = Y, **changes) -> Tensor:  # type: ignore[no-untyped-def]
        return posterior_draws(denoiser, MEASUREMENT, y, method=method, steps=6, seed=1, batch_size=4, **changes).x

    whole = draw(n=10)
    assert torch.equal(draw(ids=[9, 2, 5]), whole[[9, 2, 5]])
    assert torch.equal(draw(ids=[7]), whole[7:8])
    assert torch.equal(draw(n=10, y=Y.expand(10, -1)), whole)
    assert not torch.equal(posterior_draws(denoiser, MEASUREMENT, Y, method=method, steps=6, seed=2).x, whole[:1])


@each_method
def test_each_sample_may_have_a_measurement_of_its_own(method: Method) -> None:
    denoiser = mixture(4, 3).denoiser(sd.VP())
    y = Y + 2.0 * normal(5, 2, seed=3)
    y[2] *= 100.0  # a companion that is far off

    def draw(y: Tensor, ids: list[int] | None, size: int | None) -> Tensor:
        return posterior_draws(denoiser, MEASUREMENT, y, method=method, steps=6, ids=ids, batch_size=size).x

    together = draw(y, None, None)
    torch.testing.assert_close(draw(y, None, 2), together, rtol=1e-9, atol=1e-9)
    for i in range(5):
        torch.testing.assert_close(draw(y[i], [i], None)[0], together[i], rtol=1e-8, atol=1e-8)


def test_restore_answers_the_draws_alone() -> None:
    denoiser = LAW.denoiser(sd.VP())
    draws = posterior_draws(denoiser, MEASUREMENT, Y, n=3, steps=5, seed=2)
    assert draws.log_weights is None
    assert draws.log_evidence is None
    assert torch.equal(sd.restore(denoiser, MEASUREMENT, Y[0], n=3, steps=5, seed=2), draws.x)
    assert posterior_draws(denoiser, MEASUREMENT, Y, steps=2).x.shape == (1, 4)


def test_the_default_is_mmps_by_its_own_solver() -> None:
    denoiser = LAW.denoiser(sd.VP())
    default = posterior_draws(denoiser, MEASUREMENT, Y, steps=5).x
    spelled = posterior_draws(denoiser, MEASUREMENT, Y, method=MMPS(), solver=MMPS.default_solver, steps=5).x
    assert torch.equal(default, spelled)


def test_the_network_is_left_as_it_was() -> None:
    class Watched(nn.Module):
        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            assert not self.training
            return 0.1 * x

    denoiser = sd.NetDenoiser(Watched(), sd.VP(), sd.PredictsV(), shape=(4,)).train()
    denoiser.module.register_buffer("anything", torch.zeros(1, dtype=torch.float64))
    x = posterior_draws(denoiser, MEASUREMENT, Y, steps=3).x
    assert denoiser.training
    assert not x.requires_grad


@each_method
def test_the_last_batch_is_filled_up(method: Method) -> None:
    """A network's rounding depends on the shape of the batch."""
    sizes = set()

    class Spy(nn.Module):
        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            sizes.add(len(x))
            return 0.1 * x

    denoiser = sd.NetDenoiser(Spy(), sd.VP(), sd.PredictsV(), shape=(4,))
    assert posterior_draws(denoiser, MEASUREMENT, Y, method=method, n=5, batch_size=3, steps=3).x.shape == (5, 4)
    assert sizes == {3}


def test_progress_is_told_of_every_step_of_every_batch() -> None:
    told: list[None] = []
    posterior_draws(
        LAW.denoiser(sd.VP()), MEASUREMENT, Y, n=5, batch_size=2, steps=4, on_step=lambda: told.append(None)
    )
    assert len(told) == 12


def test_a_guided_denoiser_is_a_denoiser() -> None:
    """Its other forms follow from x0, and no graph is left behind."""
    given = problem(LAW, MASK, sd.VP())
    guided: GuidedDenoiser = MMPS().denoiser(given)
    x = normal(3, 4, seed=8)
    level = guided.sde.at(0.4)
    x0 = guided.x0(x, 0.4)
    assert not x0.requires_grad
    torch.testing.assert_close(guided.eps(x, 0.4), (x - level.alpha * x0) / level.sigma)
    posterior = LAW.posterior(MEASUREMENT, given.y)
    torch.testing.assert_close(guided.score(x, 0.4), posterior.denoiser(sd.VP()).score(x, 0.4), rtol=1e-8, atol=1e-8)
    assert guided.data_std == given.denoiser.data_std


def test_the_covariance_is_that_of_the_prior() -> None:
    law = mixture(4, 3)
    guided = MMPS().denoiser(problem(law, MASK, sd.VP()))
    x, v = normal(5, 4, seed=8), normal(5, 4, seed=9)
    for t in (0.05, 0.5):
        estimate = guided.estimate(x, guided.sde.at(t))
        exact = torch.einsum("bij,bj->bi", law.posterior_covariance(x, sd.VP(), t), v)
        torch.testing.assert_close(estimate.covariance(v), exact, rtol=1e-8, atol=1e-10)


# --- mistakes ------------------------------------------------------------------------------------------

MISTAKES = {
    "y of another shape": ({"y": torch.zeros(3)}, r"y has shape \(3,\).*the operator gives \(2,\)"),
    "no y": ({"y": torch.zeros(0, 2)}, r"y has shape \(0, 2\)"),
    "y not finite": ({"y": torch.tensor([0.0, math.nan])}, "y holds values that are not finite"),
    "y infinite": ({"y": torch.tensor([0.0, math.inf])}, "y holds values that are not finite"),
    "steps and times": ({"steps": 2, "times": [1.0, 0.0]}, "steps and times both say where to step"),
    "no steps": ({"steps": 0}, "steps = 0; it must be 1 or more"),
    "times that rise": ({"times": [0.0, 1.0]}, "times must decrease"),
    "a solver for none": ({"method": RePaint(), "solver": solvers.ERSDE()}, "makes its own steps; leave out the solv"),
    "n and y": ({"y": torch.zeros(3, 2), "n": 5}, "y holds 3 measurements, for 5 draws"),
    "ids and y": ({"y": torch.zeros(3, 2), "ids": [1, 2]}, "y holds 3 measurements, for 2 draws"),
    "n and ids": ({"n": 3, "ids": [1, 2]}, "n asks for 3 samples, but there are 2 ids"),
    "no draws": ({"n": 0}, "n = 0; it must be 1 or more"),
    "a batch of none": ({"batch_size": 0}, "batch_size = 0; it must be 1 or more"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told(changes: dict, message: str) -> None:
    given = {"y": Y[0], "method": MMPS(), **changes}
    with pytest.raises(ValueError, match=message):
        posterior_draws(LAW.denoiser(sd.VP()), MEASUREMENT, **given)


@pytest.mark.parametrize("method", [MMPS(), PiGDM(), TMPD(), RePaint()], ids=str)
def test_operators_that_are_not_linear_are_refused(method: Method) -> None:
    measurement = sd.GaussianMeasurement(sd.operators.Gamma(2.0), 0.1)
    with pytest.raises(ValueError, match="is not linear, and this needs a linear operator"):
        posterior_draws(LAW.denoiser(sd.VP()), measurement, torch.zeros(4), method=method, steps=2)


def test_the_shape_has_to_come_from_somewhere() -> None:
    denoiser = sd.NetDenoiser(nn.Identity(), sd.VP(), sd.PredictsV())
    with pytest.raises(ValueError, match="does not know the shape of a sample; give shape"):
        posterior_draws(denoiser, MEASUREMENT, torch.zeros(2))


def test_values_that_are_not_finite_are_told() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            return torch.where(condition[:, None] > 0.0, math.nan, x)

    denoiser = sd.NetDenoiser(Broken(), sd.VP(), sd.PredictsV(), shape=(4,))
    for method in METHODS:
        with pytest.raises(sd.NumericalError, match="sample 0 of the batch is not finite"):
            posterior_draws(denoiser, MEASUREMENT, Y, method=method, steps=10)


def test_particles_need_a_density_that_pigdm_has_by_the_svd_alone() -> None:
    measurement = sd.GaussianMeasurement(MASK, torch.tensor([0.1, 0.2]))
    with pytest.raises(ValueError, match=r"the SVD of A.*take twist=TMPD\(\) or MMPS\(\)"):
        posterior_draws(LAW.denoiser(sd.VP()), measurement, Y, method=TwistedSMC(twist=PiGDM()), n=4, steps=3)


@pytest.mark.parametrize("twist", [PiGDM(), TMPD()], ids=str)
def test_particles_are_steered_by_other_twists(twist: Twisted) -> None:
    """The weights mend what the twist gets wrong."""
    x = posterior_draws(
        LAW.denoiser(sd.EDM(20.0)),
        MEASUREMENT,
        Y,
        method=TwistedSMC(twist=twist, start=LAW.gaussian()),
        n=1500,
        steps=60,
    )
    weights = x.log_weights.exp()
    posterior = LAW.posterior(MEASUREMENT, Y)
    error = (weights @ x.x - posterior.mean()) / posterior.covariance().diagonal().sqrt()
    assert error.abs().max() < 0.25


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MMPS(iterations=0), "iterations = 0"),
        (lambda: MMPS(tolerance=1.0), "tolerance = 1"),
        (lambda: PiGDM(data_std=0.0), "data_std = 0.0; it must be positive"),
        (lambda: PiGDM(data_std=math.inf), "data_std = inf"),
        (lambda: PublishedScale(-1.0), "zeta = -1.0"),
        (lambda: PublishedScale(math.nan), "zeta = nan"),
        (lambda: PublishedScale(1.0, chain=0), "chain = 0"),
        (lambda: RePaint(resamplings=0), "resamplings = 0"),
        (lambda: RePaint(jump=0), "jump = 0"),
    ],
)
def test_choices_out_of_range(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()
