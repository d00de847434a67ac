"""Tests of calibration: p-values uniform for exact posteriors, small for wrong ones, and figures in closed form."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from scoresde import metrics

REPETITIONS = 200


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def posterior(y: Tensor, L: int, seed: int, narrow: float = 1.0, shift: float = 0.0, flat: float = 1.0) -> Tensor:
    """(N, L, 3) from two modes at B y -+ 1, the upper one with chance sigmoid(3 y_0): truths and draws alike.

    With faults: modes too narrow, shifted by so many of their standard deviations, of weights too equal.
    """
    generator = torch.Generator().manual_seed(seed)
    B = torch.tensor([[0.6, -0.2], [0.1, 0.5], [0.4, 0.4]], dtype=torch.float64)
    std = torch.tensor([0.5, 0.7, 0.6], dtype=torch.float64)
    z = torch.randn(len(y), L, 3, dtype=torch.float64, generator=generator)
    upper = torch.rand(len(y), L, 1, dtype=torch.float64, generator=generator) < torch.sigmoid(
        flat * 2 * y[:, :1, None]
    )
    return (y @ B.mT)[:, None] + 2 * upper - 1 + std * (narrow * z + shift)


def problems(N: int, L: int, seed: int, **fault: float) -> tuple[Tensor, Tensor, Tensor]:
    """truth (N, 3), draws (N, L, 3), y (N, 2)."""
    y = torch.randn(N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(10 * seed))
    return posterior(y, 1, 10 * seed + 1)[:, 0], posterior(y, L, 10 * seed + 2, **fault), y


def sbc(truth: Tensor, draws: Tensor, y: Tensor, seed: int) -> float:
    """On a coordinate."""
    return float(metrics.sbc_test(metrics.sbc_ranks(truth, draws, seed=seed), draws.shape[1], seed=seed)[0])


def tarp(truth: Tensor, draws: Tensor, y: Tensor, seed: int) -> float:
    return float(metrics.smooth_test(metrics.tarp_values(truth, draws, seed=seed)))


def tarp_given(truth: Tensor, draws: Tensor, y: Tensor, seed: int) -> float:
    """References that depend on y."""
    references = torch.cat([y, y[:, :1]], 1)
    return float(metrics.smooth_test(metrics.tarp_values(truth, draws, references, seed=seed)))


def joint(truth: Tensor, draws: Tensor, y: Tensor, seed: int) -> float:
    return metrics.joint_test(truth, draws[:, :3], y, permutations=199, seed=seed)


def residual(truth: Tensor, draws: Tensor, y: Tensor, seed: int) -> float:
    """Of the standard deviations of one mode, whose residuals are normal."""
    normal = posterior(y * torch.tensor([0.0, 1.0]) + torch.tensor([1e3, 0.0]), 1, seed)
    clean = posterior(y * torch.tensor([0.0, 1.0]) + torch.tensor([1e3, 0.0]), 1, seed, narrow=0.0)
    return metrics.residual_test((normal - clean)[:, 0] / torch.tensor([0.5, 0.7, 0.6]))


TESTS = [sbc, tarp, tarp_given, joint, residual]
PValue = Callable[[Tensor, Tensor, Tensor, int], float]


@pytest.mark.parametrize("test", TESTS)
def test_p_values_of_the_exact_posterior_are_uniform(test: PValue) -> None:
    p = np.array([test(*problems(60, 7, seed), seed) for seed in range(REPETITIONS)])
    p -= uniform(REPETITIONS).numpy() / 200 if test is joint else 0.0  # permutations: p is a multiple of 1/200
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.005
    assert 0 < (p < 0.1).mean() < 0.2


FAULTS: dict[str, tuple[dict[str, float], list[PValue]]] = {
    "narrow": ({"narrow": 0.6}, [sbc, tarp, tarp_given, joint]),
    "wide": ({"narrow": 1.6}, [sbc, tarp, tarp_given, joint]),
    "shifted": ({"shift": 0.5}, [sbc, joint]),
    "equal weights": ({"flat": 0.0}, [tarp_given, joint]),
    "sure of a mode": ({"flat": 5.0}, [sbc, tarp]),
}


@pytest.mark.parametrize(
    ("fault", "test"),
    [pytest.param(f, t, id=f"{name}-{t.__name__}") for name, (f, ts) in FAULTS.items() for t in ts],
)
def test_a_wrong_posterior_is_found_out(fault: dict[str, float], test: PValue) -> None:
    assert test(*problems(300, 15, 2, **fault), 0) < 0.01
    assert test(*problems(300, 15, 2), 0) > 0.01


def test_draws_that_ignore_y_are_found_out_jointly_but_not_by_references_that_ignore_y_too() -> None:
    truth, draws, y = problems(300, 15, 2)
    prior = draws.flatten(0, 1)[uniform(300 * 15).argsort()].reshape(draws.shape)
    elsewhere = truth.roll(11, 0)
    assert joint(truth, prior, y, 0) == 1 / 200
    assert tarp_given(truth, prior, y, 0) < 1e-6
    assert float(metrics.smooth_test(metrics.tarp_values(truth, prior, elsewhere))) > 0.01


@pytest.mark.parametrize("fault", ["none", "narrow", "shifted", "equal weights"])
def test_the_battery_passes_the_exact_posterior_alone(fault: str) -> None:
    """y = x + 0.5 z of two modes at -+1.5 in two dimensions, in closed form."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, 2, dtype=torch.float64, generator=generator)  # noqa: E731
    N, L = 200, 15
    truth = 1.5 * (2 * torch.randint(2, (N, 1), generator=generator) - 1) + draw(N)
    y = truth + draw(N)
    upper = torch.rand(N, L, 1, dtype=torch.float64, generator=generator)
    odds = torch.sigmoid(1.5 * y.sum(1))[:, None, None]  # |y + m|^2 / 4 - |y - m|^2 / 4
    sign = 2.0 * (upper < (0.5 * torch.ones_like(odds) if fault == "equal weights" else odds)) - 1
    width, shift = {"narrow": (0.7, 0.0), "shifted": (1.0, 0.3)}.get(fault, (1.0, 0.0))
    draws = 0.5 * (y[:, None] + 1.5 * sign) + 0.5**0.5 * (width * draw(N, L) + shift)
    found = metrics.calibration_tests(truth, draws, y, lambda x, y: y - x)
    assert found == metrics.calibration_tests(truth, draws, y, lambda x, y: y - x)
    assert found.p == min(1.0, 4 * min(found))
    assert found.p > 0.05 if fault == "none" else found.p <= 0.004


def test_the_battery_minds_no_order_of_the_draws() -> None:
    """Resampled particles come sorted."""
    truth, draws, y = problems(300, 8, 4)
    ordered = draws.gather(1, draws[..., :1].argsort(1).expand_as(draws))
    assert metrics.calibration_tests(truth, ordered, y, lambda x, y: 0.5 + 0 * x).joint > 0.05
    assert joint(truth, ordered, y, 0) < 0.01


# Ranks and uniformity


def test_ranks_count_the_draws_below() -> None:
    truth, draws, _ = problems(20, 5, 5)
    ranks = metrics.sbc_ranks(truth, draws)
    assert ranks.dtype == torch.int64
    for i in range(20):
        for q in range(3):
            assert ranks[i, q] == sum(draws[i, k, q] < truth[i, q] for k in range(5))


def test_ties_are_broken_evenly() -> None:
    """One draw below, three equal, one above: ranks 1..4 alike."""
    draws = torch.tensor([-1.0, 0.0, 0.0, 0.0, 1.0])[None, :, None].expand(4000, 5, 1)
    counts = metrics.sbc_ranks(torch.zeros(4000, 1), draws).flatten().bincount(minlength=6)
    assert counts[[0, 5]].tolist() == [0, 0]
    assert scipy.stats.chisquare(counts[1:5].numpy()).pvalue > 0.01


def test_ranks_among_few_draws_are_spread_over_their_steps() -> None:
    """As many of each rank as can be: three points are not uniform, three steps are."""
    assert metrics.sbc_test(torch.arange(3000)[:, None] % 3, 2) > 0.01
    assert metrics.sbc_test(torch.arange(3000)[:, None] % 4, 4) < 1e-9


@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_smooth_test_is_a_chi_square_of_legendre_means(order: int) -> None:
    u = uniform(50, 2, 3) ** 1.1
    p = metrics.smooth_test(u, order)
    total = 0.0
    for k in range(1, order + 1):
        h = math.sqrt(2 * k + 1) * np.polynomial.legendre.Legendre.basis(k)(2 * u.numpy() - 1)
        total = total + 50 * h.mean(0) ** 2
    np.testing.assert_allclose(p.numpy(), scipy.stats.chi2.sf(total, order), rtol=1e-10)


def test_holm_by_hand() -> None:
    p = torch.tensor([0.04, 0.01, 0.03, 0.9], dtype=torch.float64)
    torch.testing.assert_close(metrics.holm(p), torch.tensor([0.09, 0.04, 0.09, 0.9], dtype=torch.float64))
    assert metrics.holm(torch.tensor([0.6, 0.7])).tolist() == [1.0, 1.0]


# TARP


def test_tarp_counts_the_draws_nearer_to_the_reference() -> None:
    truth, draws, y = problems(30, 9, 6)
    references = posterior(y, 1, 99)[:, 0]
    values = metrics.tarp_values(truth, draws, references)
    std = torch.cat([truth[:, None], draws], 1).flatten(0, 1).std(0)
    far = ((truth - references) / std).norm(dim=1)
    nearer = (((draws - references[:, None]) / std).norm(dim=2) < far[:, None]).sum(1)
    assert (values * 10).long().tolist() == nearer.tolist()


def test_a_draw_set_aside_is_a_draw_of_the_same_problem() -> None:
    """Problems far apart: with the draw of another one for reference, the truth and all draws were equally far."""
    offset = 1e6 * torch.arange(50.0, dtype=torch.float64)[:, None]
    truth, draws, _ = problems(50, 6, 7)
    values = metrics.tarp_values(truth + offset, draws + offset[:, None])
    for i in range(50):
        far = [(truth[i] - draws[i, a]).norm() for a in range(6)]
        options = {
            sum((draws[i, k] - draws[i, a]).norm() < far[a] for k in range(6) if k != a).item() for a in range(6)
        }
        assert int(values[i] * 6) in options


@pytest.mark.parametrize(("k", "n"), [(0, 12), (7, 12), (12, 12)])
def test_coverage_has_the_exact_binomial_interval(k: int, n: int) -> None:
    values = torch.cat([torch.full((k,), 0.5), torch.full((n - k,), 0.95)])
    found = metrics.coverage(values, 0.9)
    expected = scipy.stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert found.share == k / n
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_coverage_curve_is_the_distribution_function() -> None:
    values = torch.tensor([0.3, 0.1, 0.7, 0.7])
    levels = torch.tensor([0.0, 0.1, 0.5, 0.7, 1.0])
    assert metrics.coverage_curve(values, levels).tolist() == [0.0, 0.25, 0.5, 1.0, 1.0]


# The joint law


@pytest.mark.parametrize("L", [1, 3])
def test_the_joint_statistic_is_an_mmd(L: int) -> None:
    """Its least p-value, against the definition: truths where one draw stood, for every labelling of four problems."""
    truth, draws, y = problems(4, L, 8, shift=3.0)
    items = torch.cat([truth[:, None], draws], 1)
    scaled = items / items.flatten(0, 1).std(0)
    points = torch.cat([scaled, (y / y.std(0))[:, None].expand(-1, L + 1, -1)], 2)
    distance = torch.cdist(points.flatten(0, 1), points.flatten(0, 1))
    kernel = 1 / (1 + (4 * distance / distance.median()) ** 2)

    def statistic(labels: tuple[int, ...]) -> float:
        c = torch.full((4, L + 1), -1.0 / L, dtype=torch.float64)
        c[range(4), labels] = 1.0
        other = torch.ones(4, 4, dtype=torch.float64) - torch.eye(4, dtype=torch.float64)
        c, mask = c.flatten(), other.repeat_interleave(L + 1, 0).repeat_interleave(L + 1, 1)
        return float(c @ (kernel * mask) @ c)

    every = [statistic(labels) for labels in np.ndindex(*[L + 1] * 4)]
    share = np.mean([value >= every[0] - 1e-9 for value in every])
    p = metrics.joint_test(truth, draws, y, permutations=4000)
    assert abs(p - share) < 4 * math.sqrt(share * (1 - share) / 4000) + 1e-3


# Entry by entry


@pytest.mark.parametrize("L", [3, 4, 19])
@pytest.mark.parametrize("level", [0.4, 0.5])
def test_intervals_of_exact_draws_hold_the_truth_as_often_as_they_claim(L: int, level: float) -> None:
    truth, draws, _ = problems(4000, L, 9)
    found = metrics.interval_coverage(truth, draws, level)
    error = (found.high - found.low) / (2 * 1.96)
    assert abs(found.share - level) < 4 * error
    assert error < 0.01


def test_intervals_of_narrow_draws_hold_the_truth_less_often() -> None:
    """Normals with 0.7 of the right width: erf(1.645 * 0.7 / sqrt 2)."""
    x = torch.randn(4000, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = metrics.interval_coverage(x[:, :1], 0.7 * x[:, 1:, None], 0.9)
    expected = math.erf(1.6449 * 0.7 / math.sqrt(2))
    assert abs(found.share - expected) < 0.02
    assert found.low < expected < found.high < 0.8


def test_intervals_of_pictures_in_which_all_is_known() -> None:
    """Ties: of L + 1 equal ranks, the interval holds its own share. A truth outside of all draws is in none."""
    truth = torch.zeros(3, 1, 4, 4)
    assert metrics.interval_coverage(truth, torch.zeros(3, 9, 1, 4, 4), 0.8) == pytest.approx((0.8, 0.8, 0.8, 0.8))
    found = metrics.interval_coverage(truth[:1], torch.ones(1, 9, 1, 4, 4), 0.8)
    assert found == pytest.approx((0.8, 0.0, 0.0, 1.0), abs=1e-12)


def test_the_interval_of_a_coverage_is_over_problems_not_entries() -> None:
    """A thousand copies of one entry tell no more than the entry."""
    truth, draws, _ = problems(40, 9, 10)
    one = metrics.interval_coverage(truth[:, :1], draws[..., :1], 0.7)
    copies = metrics.interval_coverage(truth[:, :1].expand(-1, 1000), draws[..., :1].expand(-1, -1, 1000), 0.7)
    assert copies == pytest.approx(one)


@pytest.mark.parametrize("n", [3, 10])
def test_the_interval_of_a_coverage_is_students(n: int) -> None:
    """Of problems in which 8, 9 or 10 of 10 entries are inside."""
    inside = 8 + torch.arange(n) % 3
    truth = torch.where(torch.arange(10) < inside[:, None], 0.5, 2.0)
    draws = torch.linspace(0, 1, 20)[None, :, None].expand(n, 20, 10)
    found = metrics.interval_coverage(truth, draws, 0.6)
    expected = scipy.stats.t.interval(0.95, n - 1, inside.double().mean() / 10, (inside / 10.0).std() / math.sqrt(n))
    assert (found.low, min(1.0, found.high)) == pytest.approx((expected[0], min(1.0, expected[1])), abs=1e-6)


@pytest.mark.parametrize("L", [2, 10])
@pytest.mark.parametrize("narrow", [1.0, 0.5])
def test_the_spread_foretells_the_error(L: int, narrow: float) -> None:
    x = torch.randn(20000, L + 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = math.sqrt((1 + narrow**2 / L) / (narrow**2 * (1 + 1 / L)))
    assert metrics.spread_skill(x[:, 0], narrow * x[:, 1:]) == pytest.approx(expected, rel=0.02)


# Users


def test_the_global_seed_is_left_alone_and_float32_will_do() -> None:
    truth, draws, y = (a.float() for a in problems(40, 5, 11))
    before = torch.get_rng_state()
    found = metrics.calibration_tests(truth, draws, y, lambda x, y: x[:, :2] - y, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert found != metrics.calibration_tests(truth, draws, y, lambda x, y: x[:, :2] - y, seed=6)


X, XS = torch.zeros(30, 2), torch.zeros(30, 4, 2)
ERRORS: dict[str, tuple[Callable[[], object], str]] = {
    "shapes": (lambda: metrics.sbc_ranks(X, XS[:, :, :1]), r"truth \(30, 2\) and draws \(30, 4, 1\) must be"),
    "no draws axis": (lambda: metrics.spread_skill(X, X), "must be"),
    "nothing": (lambda: metrics.spread_skill(X[:0], XS[:0]), "must be"),
    "not finite": (lambda: metrics.interval_coverage(X, XS / 0, 0.5), "draws must be finite; problem 0 is"),
    "rank": (lambda: metrics.sbc_test(torch.full((30, 1), 5), 4), r"0\.\.4 .*got 5\.\.5"),
    "few": (lambda: metrics.smooth_test(torch.zeros(19)), "at least 20 values, got 19"),
    "order": (lambda: metrics.smooth_test(torch.zeros(20), 0), "order = 0"),
    "unit": (lambda: metrics.smooth_test(torch.full((20,), 1.5)), r"in \[0, 1\]"),
    "nan": (lambda: metrics.coverage(torch.full((20,), math.nan)), r"in \[0, 1\]"),
    "holm": (lambda: metrics.holm(torch.zeros(2, 2)), r"\(Q,\), got \(2, 2\)"),
    "one draw": (lambda: metrics.tarp_values(X, XS[:, :1]), "1 draws of each problem; at least 2"),
    "references": (lambda: metrics.tarp_values(X, XS, X[:1]), r"references are \(1, 2\)"),
    "y": (lambda: metrics.joint_test(X, XS, X[:4]), "30 truths and 4 measurements"),
    "y of the battery": (lambda: metrics.calibration_tests(X, XS, X[:4], lambda x, y: x), "y holds 4"),
    "permutations": (lambda: metrics.joint_test(X, XS, X, permutations=0), "permutations = 0"),
    "pairs": (lambda: metrics.joint_test(torch.zeros(300, 1), torch.zeros(300, 99, 1), torch.zeros(300, 1)), "fewer"),
    "residual": (lambda: metrics.residual_test(X / 0), "residual holds values that are not finite"),
    "level": (lambda: metrics.interval_coverage(X, XS, 1.0), r"level = 1.0; it must lie in \(0, 1\)"),
    "level of balls": (lambda: metrics.coverage(torch.zeros(20), 0.0), "level = 0.0"),
    "too few for the level": (
        lambda: metrics.interval_coverage(X, XS, 0.9),
        "4 draws .* at least 19, or .* at most 0.6",
    ),
    "no spread": (lambda: metrics.spread_skill(X, XS), "all equal"),
}


@pytest.mark.parametrize(("call", "words"), ERRORS.values(), ids=ERRORS.keys())
def test_mistakes_are_named(call: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
