"""Coupled runs: one path for all solvers, which equation a solver follows, strong errors and orders."""

import itertools
import math

import pytest
import torch
from problems import gaussian, mixture, normal

import scoresde as sd
from scoresde import grids
from scoresde.compare.coupled import (
    FLOW,
    about_law,
    coupled_ends,
    fine_solution,
    noise_law,
    path_distances,
    root_mean_square,
    strong_errors,
)
from scoresde.solvers import (
    DDIM,
    ERSDE,
    RK45,
    AdaptiveSDE,
    Ancestral,
    DPMSolver,
    EulerMaruyama,
    ExponentialEuler,
    Heun,
    PredictorCorrector,
    SASolver,
    TorchSDE,
    UniPC,
)

VP = sd.VP()
ANDERSON = (1.0, 1.0, 1.0)


# The path


@pytest.mark.parametrize("solver", [Ancestral(), SASolver(), TorchSDE("heun"), UniPC()], ids=str)
def test_an_end_is_a_function_of_seed_and_id_bit_for_bit(solver) -> None:
    denoiser, times = mixture(dtype=torch.float32).denoiser(VP), grids.logistic(VP, 12)
    four = coupled_ends(denoiser, solver, times, ids=range(4), seed=5)
    others = coupled_ends(denoiser, solver, times, ids=[3, 11, 0, 7], seed=5)
    assert torch.equal(others[[2, 0]], four[[0, 3]])
    assert (coupled_ends(denoiser, solver, times, ids=range(4), seed=6) - four).abs().min() > 0
    split = coupled_ends(denoiser, solver, times, ids=range(4), seed=5, batch_size=3)
    torch.testing.assert_close(split, four, rtol=1e-5, atol=1e-5)


def test_the_noise_is_that_of_the_brownian_path() -> None:
    """Euler-Maruyama by hand, on a grid and on half of it."""
    denoiser, noise = gaussian().denoiser(VP), sd.BrownianNoise(3, torch.arange(2), (2,), torch.float64)
    for steps in (8, 4):
        x = VP.prior_std() * noise.start()
        for k in range(steps, 0, -1):
            t, s = k / steps, (k - 1) / steps
            x = x + (s - t) * sd.Reverse(denoiser).drift(x, t) + VP.diffusion(t) * noise.path()(t, s)
        ends = coupled_ends(denoiser, EulerMaruyama(), grids.uniform(steps), ids=[0, 1], seed=3)
        torch.testing.assert_close(ends, x, rtol=1e-12, atol=1e-12)


def test_all_solvers_start_from_the_x1_that_sample_draws() -> None:
    denoiser, times = mixture().denoiser(VP), grids.logistic(VP, 20)
    ends = coupled_ends(denoiser, UniPC(), times, ids=range(5), seed=2)
    assert torch.equal(ends, sd.sample(denoiser, UniPC(), times=times, n=5, seed=2))
    free = coupled_ends(denoiser, RK45(rtol=1e-6, atol=1e-6), None, ids=range(5), seed=2)
    fine = coupled_ends(denoiser, UniPC(), grids.logistic(VP, 300), ids=range(5), seed=2)
    torch.testing.assert_close(free, fine, rtol=0, atol=1e-4)


# The equation


@pytest.mark.parametrize(
    ("solver", "law"),
    [
        *((solver, FLOW) for solver in (UniPC(), DDIM(), Heun(), RK45(), EulerMaruyama(eta=0.0))),
        *((solver, ANDERSON) for solver in (Ancestral(), Ancestral("large"), EulerMaruyama(), ExponentialEuler())),
        *((solver, ANDERSON) for solver in (SASolver(), DPMSolver(3, sde=True), DDIM(1.0), TorchSDE("srk"))),
        *((solver, (0.5, 0.5, 0.5)) for solver in (EulerMaruyama(0.5), SASolver(eta=0.5), DDIM(0.5))),
    ],
    ids=str,
)
@pytest.mark.parametrize("sde", [VP, sd.VP.cosine(), sd.EDM(20.0)], ids=["vp", "cosine", "edm"])
def test_the_noise_law_is_the_share_of_the_equation(solver, law, sde) -> None:
    assert noise_law(solver, mixture(dtype=torch.float32).denoiser(sde)) == pytest.approx(law, abs=0.011)


def test_er_sde_follows_an_equation_of_its_own() -> None:
    """eta^2 = d log chi / d log rho, with chi = exp(rho^0.3) + 10."""
    law = noise_law(ERSDE(), gaussian().denoiser(VP))
    rho = [math.exp(-0.5 * float(VP.log_snr(t))) for t in (0.2, 0.5, 0.8)]
    share = [math.sqrt(0.3 * r**0.3 * math.exp(r**0.3) / (math.exp(r**0.3) + 10)) for r in rho]
    assert law == pytest.approx(share, abs=0.011)
    assert about_law(law).startswith("a reverse process with noise share 0.2")
    assert about_law(ANDERSON) == "the reverse SDE"
    assert about_law(FLOW) == "the probability flow"
    assert about_law((0.5, 0.5, 0.5)) == "the reverse process with noise share 0.50"


@pytest.mark.parametrize(
    ("solver", "says"),
    [
        (AdaptiveSDE(), "chooses its own steps, so that it cannot read its noise off a given Brownian path"),
        (PredictorCorrector(), "does not shrink with the step"),
    ],
)
def test_solvers_without_an_equation_on_a_path_are_refused(solver, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        strong_errors(gaussian().denoiser(VP), [(solver, None)], ids=range(3), fine_steps=8)


class Still(torch.nn.Module):
    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def test_a_shape_is_needed_to_measure_a_law() -> None:
    net = sd.EpsNet(Still(), VP)
    with pytest.raises(ValueError, match="give shape"):
        noise_law(Ancestral(), net)
    assert noise_law(Ancestral(), net, shape=(1, 4, 4)) == (1.0, 1.0, 1.0)


# Strong errors


@pytest.mark.parametrize("grid", ["uniform", "logistic"])
@pytest.mark.parametrize("solver", [EulerMaruyama(), ExponentialEuler(), SASolver(), DPMSolver(2, sde=True)], ids=str)
def test_strong_order_is_one_on_one_gaussian(solver, grid: str) -> None:
    """Of the distances between ends that differ by a halving; but 1/2 where the last step is long and has no noise."""
    denoiser = gaussian().denoiser(VP)
    times = [grids.GRIDS[grid](VP, n, math.inf) for n in (100, 200, 400)]
    ends = [coupled_ends(denoiser, solver, each, ids=range(400), seed=1) for each in times]
    coarse, fine = (root_mean_square(path_distances(*pair)).value for pair in itertools.pairwise(ends))
    denoised = grid == "uniform" and solver in (SASolver(), DPMSolver(2, sde=True))
    assert math.log2(coarse / fine) == pytest.approx(0.5 if denoised else 1.0, abs=0.1)


def test_euler_maruyama_reads_strong_order_one_against_the_reference() -> None:
    denoiser = gaussian().denoiser(VP)
    runs = [(EulerMaruyama(), grids.uniform(n)) for n in (50, 100)]
    errors = strong_errors(denoiser, runs, ids=range(500), seed=1, fine_steps=800)
    assert errors[0].reference is errors[1].reference
    coarse, fine = (error.root_mean_square.value for error in errors)
    assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.06)
    assert errors[0].reference.error.value < 0.1 * fine


def test_solvers_of_one_equation_tend_to_one_solution_and_others_do_not() -> None:
    denoiser, same = gaussian().denoiser(VP), {"ids": range(200), "seed": 4}
    references = [fine_solution(denoiser, solver, steps=300, **same) for solver in (Ancestral(), ERSDE(), UniPC())]
    assert [type(reference.solver) for reference in references] == [SASolver, ERSDE, UniPC]
    truth = references[0].ends
    for solver in (EulerMaruyama(), ExponentialEuler(), Ancestral(), Ancestral("large"), DDIM(1.0), TorchSDE("euler")):
        ends = coupled_ends(denoiser, solver, grids.logistic(VP, 300), **same)
        assert root_mean_square(path_distances(ends, truth)).high < 0.015
    for other in references[1:]:
        assert root_mean_square(path_distances(other.ends, truth)).low > 0.1
        assert other.error.high < 0.02


def test_every_equation_among_the_runs_has_one_reference() -> None:
    denoiser, times = gaussian().denoiser(VP), grids.logistic(VP, 50)
    solvers = (EulerMaruyama(), DDIM(), ERSDE(), Ancestral(), Heun())
    errors = strong_errors(denoiser, [(solver, times) for solver in solvers], ids=range(50), seed=4, fine_steps=200)
    em, ddim, er, ancestral, heun = (error.reference for error in errors)
    assert em is ancestral
    assert ddim is heun
    assert [type(reference.solver) for reference in (em, ddim, er)] == [SASolver, UniPC, ERSDE]
    assert [error.solver for error in errors] == list(solvers)
    assert max(error.root_mean_square.high for error in errors) < 0.1


def test_the_flow_is_measured_against_its_exact_map() -> None:
    law = gaussian()
    denoiser = law.denoiser(VP)
    found = fine_solution(denoiser, UniPC(), ids=range(50), seed=2, steps=200)
    x1 = VP.prior_std() * sd.CounterNoise(2, torch.arange(50), (2,), torch.float64).start()
    assert path_distances(found.ends, law.flow(x1, VP, 1.0, 0.0)).max() < 1e-6
    assert found.error.value < 1e-5
    (error,) = strong_errors(denoiser, [(DDIM(), grids.logistic(VP, 50))], ids=range(50), seed=2, fine_steps=200)
    truth = path_distances(coupled_ends(denoiser, DDIM(), grids.logistic(VP, 50), ids=range(50), seed=2), found.ends)
    assert torch.equal(error.distances, truth)
    assert error.steps == 50
    assert error.root_mean_square.low < truth.square().mean().sqrt() < error.root_mean_square.high


def test_the_reference_knows_its_own_error() -> None:
    """Its stated error is at least its distance to a far finer solution, and of its size."""
    denoiser, same = gaussian().denoiser(VP), {"ids": range(300), "seed": 3}
    coarse, fine = (fine_solution(denoiser, Ancestral(), steps=n, **same) for n in (50, 800))
    true = root_mean_square(path_distances(coarse.ends, fine.ends)).value
    assert true < coarse.error.value < 4 * true


def test_on_separated_modes_a_few_paths_make_the_error() -> None:
    """They end in another mode: no order shows in the mean square, but in the median."""
    law = sd.GaussianMixture([0.5, 0.5], [[-2.0, 0.0], [2.0, 0.0]], [1e-3, 1e-3])
    runs = [(EulerMaruyama(), grids.logistic(VP, n)) for n in (50, 100)]
    coarse, fine = strong_errors(law.denoiser(VP), runs, ids=range(400), seed=1, fine_steps=800)
    assert math.log2(coarse.median.value / fine.median.value) == pytest.approx(1.0, abs=0.2)
    for error in (coarse, fine):
        assert error.root_mean_square.value > 5 * error.median.high
        assert error.distances.max() > 2


def test_distances_are_per_path_over_all_entries() -> None:
    a, b = normal(3, 2, 4, 4, dtype=torch.float32), normal(3, 2, 4, 4, seed=1, dtype=torch.float32)
    d = path_distances(a, b)
    assert d.dtype == torch.float64
    assert d[1].item() == pytest.approx(float((a[1] - b[1]).norm()) / math.sqrt(32), rel=1e-6)
    found = root_mean_square(d)
    assert found.value == pytest.approx(float((a - b).norm()) / math.sqrt(96), rel=1e-6)


def test_a_reference_needs_a_coarser_one() -> None:
    with pytest.raises(ValueError, match="needs at least 2"):
        fine_solution(gaussian().denoiser(VP), Ancestral(), ids=[0], steps=1)
