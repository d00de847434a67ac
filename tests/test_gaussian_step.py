"""The exact Gaussian step and conjugate gradients against dense algebra."""

from __future__ import annotations

import math

import pytest
import torch
from problems import normal
from torch import Tensor

import scoresde as sd
from scoresde.inverse import Problem
from scoresde.inverse.conjugate_gradients import conjugate_gradients
from scoresde.inverse.gaussian_step import GaussianStep, spectral
from scoresde.linalg import FromFunctions, LinearOperator

N = 5
NOISE = 0.3


def problem(matrix: Tensor, noise_std: float | Tensor = NOISE, rows: int = 1, operator: LinearOperator | None = None):
    """y for a dense A, or for an operator with that matrix."""
    law = sd.GaussianMixture([1.0], torch.zeros(1, matrix.shape[1], dtype=torch.float64), [1.0])
    measurement = sd.GaussianMeasurement(sd.operators.Dense(matrix) if operator is None else operator, noise_std)
    y = normal(rows, len(matrix), seed=9)
    return Problem(law.denoiser(sd.VP()), measurement, y, (matrix.shape[1],))


def without_svd(matrix: Tensor) -> LinearOperator:
    """The operator of a matrix, which does not tell its SVD."""

    class Iterative(FromFunctions):
        def svd(self, shape: tuple[int, ...]):
            raise ValueError("none")

    return Iterative(lambda x: x @ matrix.to(x).mT, lambda y: y @ matrix.to(y))


MATRICES = {
    "wide": normal(2, 4, seed=1),
    "tall": normal(6, 3, seed=2),
    "square": normal(3, 3, seed=3),
    "deficient": normal(4, 2, seed=4) @ normal(2, 5, seed=5),
    "tall and deficient": normal(7, 1, seed=4) @ normal(1, 3, seed=5),
}
each_matrix = pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
each_r = pytest.mark.parametrize("r", [1e-6, 0.02, 0.7, 30.0])


def cases(matrix: Tensor, rows: int = 1) -> dict[str, Problem]:
    per_entry = 0.1 + torch.rand(len(matrix), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return {
        "svd": problem(matrix, rows=rows),
        "no svd": problem(matrix, rows=rows, operator=without_svd(matrix)),
        "noise per entry": problem(matrix, per_entry, rows=rows),
    }


PATHS = list(cases(MATRICES["wide"]))
each_path = pytest.mark.parametrize("path", PATHS)


def dense(given: Problem, m: Tensor, r: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (B, D), covariance (D, D) and log evidence (B,), by the matrix, in Kalman's form."""
    A = given.measurement.dense(given.shape)
    sigma = torch.diag(given.noise_std.expand(len(A)) ** 2)
    S = sigma + r**2 * A @ A.mT
    gain = r**2 * torch.linalg.solve(S, A).mT
    residual = given.y - m @ A.mT
    law = torch.distributions.MultivariateNormal(torch.zeros(len(A), dtype=torch.float64), S)
    # Joseph's form, which stays positive
    left = torch.eye(A.shape[1], dtype=torch.float64) - gain @ A
    covariance = r**2 * left @ left.mT + gain @ sigma @ gain.mT
    return m + residual @ gain.mT, covariance, law.log_prob(residual)


def test_which_problems_have_a_diagonal_form() -> None:
    given = cases(MATRICES["wide"])
    assert {name: spectral(case) is not None for name, case in given.items()} == {
        "svd": True,
        "no svd": False,
        "noise per entry": False,
    }
    assert spectral(problem(MATRICES["wide"], torch.tensor([0.3]))) is not None


@each_matrix
@each_path
@each_r
@pytest.mark.parametrize("rows", [1, N])
def test_the_mean_is_that_of_dense_algebra(matrix: Tensor, path: str, r: float, rows: int) -> None:
    given = cases(matrix, rows)[path]
    m = normal(N, matrix.shape[1], seed=6)
    found, (exact, _, _) = GaussianStep(given).mean(m, r), dense(given, m, r)
    # conjugate gradients stop at 1e-6 of r^2 A' Sigma^-1 (y - A m), the residual of a system with all eigenvalues >= 1
    A = given.measurement.dense(given.shape)
    force = r**2 * ((given.y - m @ A.mT) / given.noise_std**2 @ A).norm()
    slack = 1e-10 if path == "svd" else min(2e-6 * float(force), 1e-3) + 1e-9
    torch.testing.assert_close(found, exact, rtol=0.0, atol=slack)


@each_matrix
@pytest.mark.parametrize("r", [0.02, 0.7, 5.0])
@each_path
def test_draws_have_the_law_of_dense_algebra(matrix: Tensor, path: str, r: float) -> None:
    """The map from the standard normals is linear, so its matrix says the whole law, with no sampling error."""
    given = cases(matrix)[path]
    m = normal(1, matrix.shape[1], seed=6)
    D, M = matrix.shape[1], len(matrix)
    z = torch.eye(D + M, dtype=torch.float64)
    z_x, z_y = torch.cat([z[:, :D], torch.zeros(1, D)]), torch.cat([z[:, D:], torch.zeros(1, M)])
    draws = GaussianStep(given).draw(m.expand(D + M + 1, D), r, z_x, z_y)
    mean, covariance, _ = dense(given, m, r)
    columns = draws[:-1] - draws[-1]
    slack = 1e-9 if path == "svd" else 1e-4 * r
    torch.testing.assert_close(draws[-1:], mean, rtol=0.0, atol=slack)
    torch.testing.assert_close(columns.mT @ columns, covariance, rtol=0.0, atol=slack)


@each_matrix
@each_r
@pytest.mark.parametrize("rows", [1, N])
def test_the_evidence_is_that_of_dense_algebra(matrix: Tensor, r: float, rows: int) -> None:
    given = problem(matrix, rows=rows)
    m = normal(N, matrix.shape[1], seed=6)
    torch.testing.assert_close(GaussianStep(given).log_evidence(m, r), dense(given, m, r)[2], rtol=1e-8, atol=1e-8)


def test_the_evidence_integrates_to_one() -> None:
    given = problem(torch.tensor([[1.5, -0.5]]))
    grid = torch.linspace(-30.0, 30.0, 4001, dtype=torch.float64)
    on_grid = Problem(given.denoiser, given.measurement, grid[:, None], given.shape)
    log_p = GaussianStep(on_grid).log_evidence(torch.tensor([[0.2, 0.3]], dtype=torch.float64).expand(4001, 2), 1.3)
    assert torch.trapezoid(log_p.exp(), grid).item() == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("path", ["no svd", "noise per entry"])
def test_there_is_no_evidence_without_an_svd(path: str) -> None:
    step = GaussianStep(cases(MATRICES["wide"])[path])
    with pytest.raises(ValueError, match=r"needs the SVD of A.*noise_std the same for all entries"):
        step.log_evidence(torch.zeros(1, 4, dtype=torch.float64), 1.0)


def test_a_nonlinear_operator_is_refused() -> None:
    given = problem(MATRICES["square"], operator=sd.operators.Gamma(2.0))
    with pytest.raises(ValueError, match="is not linear"):
        GaussianStep(given)


@each_path
def test_ends_of_r(path: str) -> None:
    """r to 0 leaves m; r to infinity, with an A that sees all, is least squares, weighed by the noise."""
    given = cases(MATRICES["tall"])[path]
    m = normal(N, 3, seed=6)
    torch.testing.assert_close(GaussianStep(given).mean(m, 1e-9), m, rtol=0.0, atol=1e-12)
    std = given.noise_std.expand(6)
    fit = torch.linalg.lstsq(MATRICES["tall"] / std[:, None], (given.y / std).mT).solution.mT
    torch.testing.assert_close(GaussianStep(given).mean(m, 1e7), fit.expand(N, 3), rtol=0.0, atol=1e-4)


@each_path
@pytest.mark.parametrize("matrix", [MATRICES["wide"], MATRICES["tall"]], ids=["wide", "tall"])
def test_samples_do_not_depend_on_each_other(matrix: Tensor, path: str) -> None:
    """A companion that is far off, and needs more iterations, changes nothing."""
    given = cases(matrix, rows=N)[path]
    m = normal(N, matrix.shape[1], seed=6)
    m[0] *= 1e6
    whole = GaussianStep(given).mean(m, 0.8)
    for i in range(N):
        one = Problem(given.denoiser, given.measurement, given.y[i : i + 1], given.shape)
        torch.testing.assert_close(GaussianStep(one).mean(m[i : i + 1], 0.8)[0], whole[i], rtol=1e-10, atol=1e-11)


@each_path
def test_float32(path: str) -> None:
    matrix = MATRICES["wide"]
    given = cases(matrix)[path]
    single = Problem(given.denoiser, given.measurement, given.y.float(), given.shape)
    m, z_x, z_y = normal(N, 4, seed=6), normal(N, 4, seed=7), normal(N, 2, seed=8)
    found = GaussianStep(single).draw(m.float(), 0.7, z_x.float(), z_y.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), GaussianStep(given).draw(m, 0.7, z_x, z_y), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "slack"), [(torch.float32, 1e-3), (torch.float64, 1e-9)])
@pytest.mark.parametrize("matrix", [MATRICES["wide"], MATRICES["deficient"]], ids=["wide", "deficient"])
def test_what_is_not_seen_keeps_its_mean_however_small_the_noise(
    matrix: Tensor, dtype: torch.dtype, slack: float
) -> None:
    given = problem(matrix, 1e-4)
    given = Problem(given.denoiser, given.measurement, given.y.to(dtype), given.shape)
    m = normal(N, matrix.shape[1], seed=6).to(dtype)
    moved = (GaussianStep(given).mean(m, 1.0) - m).double()
    unseen = torch.eye(matrix.shape[1], dtype=torch.float64) - torch.linalg.pinv(matrix) @ matrix
    assert (moved @ unseen).abs().max() < slack


def test_the_evidence_of_single_precision_is_computed_in_double() -> None:
    """Much of y lies outside the range of A, where it counts by 1 / noise_std^2."""
    matrix = MATRICES["tall"]
    given = problem(matrix, 0.01)
    single = Problem(given.denoiser, given.measurement, 30.0 * given.y.float(), given.shape)
    double = Problem(given.denoiser, given.measurement, single.y.double(), given.shape)
    m = torch.zeros(1, 3)
    found = GaussianStep(single).log_evidence(m, 0.5)
    torch.testing.assert_close(found, dense(double, m.double(), 0.5)[2], rtol=1e-9, atol=0.0)


def test_pictures() -> None:
    """A structured SVD, channels and a measurement of another shape: the same as the matrix."""
    operator = sd.operators.Downsample(2)
    law = sd.GaussianMixture([1.0], torch.zeros(1, 1, dtype=torch.float64), [1.0])
    given = Problem(law.denoiser(sd.VP()), sd.GaussianMeasurement(operator, NOISE), normal(1, 3, 2, 3), (3, 4, 6))
    m = normal(N, 3, 4, 6, seed=6)
    A, flat = operator.dense((3, 4, 6)), given.y.flatten(1)
    S = NOISE**2 * torch.eye(len(A), dtype=torch.float64) + 0.49 * A @ A.mT
    exact = m.flatten(1) + 0.49 * (flat - m.flatten(1) @ A.mT) @ torch.linalg.solve(S, A)
    torch.testing.assert_close(GaussianStep(given).mean(m, 0.7).flatten(1), exact, rtol=0.0, atol=1e-10)
    law_y = torch.distributions.MultivariateNormal(m.flatten(1) @ A.mT, S)
    torch.testing.assert_close(GaussianStep(given).log_evidence(m, 0.7), law_y.log_prob(flat), rtol=1e-9, atol=1e-9)


# --- conjugate gradients -------------------------------------------------------------------------------


def systems() -> tuple[Tensor, Tensor]:
    a = normal(4, 6, 6, seed=1)
    return a @ a.mT + 0.5 * torch.eye(6, dtype=torch.float64), normal(4, 6, seed=2)


def apply(S: Tensor):
    return lambda v: torch.einsum("bij,bj->bi", S, v)


def test_conjugate_gradients_solve_in_as_many_steps_as_dimensions() -> None:
    S, b = systems()
    torch.testing.assert_close(
        conjugate_gradients(apply(S), b, 8, 1e-12), torch.linalg.solve(S, b), rtol=1e-8, atol=1e-8
    )


def test_a_sample_stops_at_its_own_tolerance() -> None:
    S, b = systems()
    S[0] = 3.0 * torch.eye(6, dtype=torch.float64)  # solved in one step
    calls = []

    def counted(v: Tensor) -> Tensor:
        calls.append(v)
        return apply(S)(v)

    v = conjugate_gradients(counted, b, 100, 1e-3)
    residual = (b - apply(S)(v)).norm(dim=1) / b.norm(dim=1)
    assert (residual <= 1e-3 * (1 + 1e-9)).all()
    assert residual[1:].max() > 1e-9  # and not further
    assert len(calls) < 12


def test_trouble_stays_with_its_sample() -> None:
    """A right-hand side of 0 and a matrix that is not positive leave finite answers, and the others alone."""
    S, b = systems()
    S[1], b[2] = -torch.eye(6, dtype=torch.float64), 0.0
    v = conjugate_gradients(apply(S), b, 50, 1e-10)
    assert v.isfinite().all()
    assert not v[1].any()
    assert not v[2].any()
    torch.testing.assert_close(v[[0, 3]], torch.linalg.solve(S, b)[[0, 3]], rtol=1e-7, atol=1e-7)


def test_few_iterations_are_a_partial_answer() -> None:
    """The error in the norm of S falls with each iteration."""
    S, b = systems()
    exact = torch.linalg.solve(S, b)
    errors = []
    for k in range(7):
        e = conjugate_gradients(apply(S), b, k, 1e-14) - exact
        errors.append(torch.einsum("bi,bij,bj->b", e, S, e))
    falling = torch.stack(errors)
    assert (falling[1:] < falling[:-1]).all()
    assert math.isclose(float(falling[0].sum()), float(torch.einsum("bi,bi->b", b, exact).sum()), rel_tol=1e-9)
