"""Intervals hold what they should as often as they say, by repetition; ratios are Fieller's."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from problems import normal
from scipy import stats
from torch import Tensor

from scoresde.compare import Estimate, bootstrap, difference, median, over_seeds, ratio


def coverage(estimate: Callable[[Tensor], Estimate], draws: Tensor, truth: float) -> float:
    """How often the interval holds the truth; one without ends holds everything."""
    found = [estimate(row) for row in draws]
    return sum(not (truth < e.low or truth > e.high) for e in found) / len(found)


def error_of(count: int) -> float:
    """Of a share near 0.95."""
    return math.sqrt(0.95 * 0.05 / count)


# Means


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_the_interval_over_seeds_holds_the_mean_in_95_percent(seeds: int) -> None:
    draws = 3.0 + 0.5 * normal(2000, seeds, seed=seeds)
    assert abs(coverage(over_seeds, draws, 3.0) - 0.95) < 4 * error_of(2000)


def test_the_interval_over_seeds_is_scipys() -> None:
    values = normal(6, seed=1)
    low, high = stats.t.interval(0.95, 5, values.mean().item(), stats.sem(values.numpy()))
    found = over_seeds(values)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert found.value == pytest.approx(values.mean().item(), rel=1e-12)


def test_one_seed_has_a_value_and_no_interval() -> None:
    found = over_seeds([0.7])
    assert found.value == 0.7
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.bounded
    assert over_seeds([0.7, 0.8]).bounded


@pytest.mark.parametrize(
    ("values", "words"), [([], "one or more"), ([1.0, math.nan], "value 1 of 2 is nan"), ([[1.0]], r"shape \(1, 1\)")]
)
def test_values_that_have_no_mean_are_refused(values: list[float], words: str) -> None:
    for function in (over_seeds, lambda v: median(torch.tensor(v)), lambda v: bootstrap(torch.tensor(v), torch.mean)):
        with pytest.raises(ValueError, match=words):
            function(values)


# Ratios and differences


def test_a_ratio_of_symmetric_intervals_is_fiellers() -> None:
    """The rho at which (a - rho b)^2 = d_a^2 + rho^2 d_b^2."""
    a, b, da, db = 1.3, 0.9, 0.2, 0.25
    found = ratio(Estimate(a, a - da, a + da), Estimate(b, b - db, b + db))
    assert found.value == pytest.approx(a / b, rel=1e-12)
    for rho in (found.low, found.high):
        assert (a - rho * b) ** 2 == pytest.approx(da**2 + rho**2 * db**2, rel=1e-10)
    assert found.low < found.value < found.high


def test_a_ratio_takes_from_lopsided_intervals_the_ends_that_matter() -> None:
    found = ratio(Estimate(3.0, 3.0, 3.0), Estimate(1.0, 1.0, 1.5))
    assert (found.low, found.high) == pytest.approx((2.0, 3.0), rel=1e-12)
    found = ratio(Estimate(3.0, 2.0, 3.0), Estimate(1.0, 0.5, 1.0))
    assert (found.low, found.high) == pytest.approx((2.0, 6.0), rel=1e-12)


@pytest.mark.parametrize(("seeds", "floors"), [(3, 3), (5, 5), (5, 20)])
def test_the_interval_of_a_ratio_holds_it_in_95_percent_or_more(seeds: int, floors: int) -> None:
    count = 2000
    draws = 1 + 0.25 * normal(count, seeds + floors, seed=10 * seeds + floors)
    draws[:, :seeds] += 0.2
    share = coverage(lambda row: ratio(over_seeds(row[:seeds]), over_seeds(row[seeds:])), draws, 1.2)
    assert 0.95 - 4 * error_of(count) < share < 0.99


def test_values_against_the_same_truths_make_the_ratios_interval_wide_rather_than_narrow() -> None:
    z = normal(1000, 3, 5, seed=4)
    shared = torch.cat([1.2 + 0.15 * (z[:, 0] + z[:, 1]), 1 + 0.15 * (z[:, 0] + z[:, 2])], 1)
    assert coverage(lambda row: ratio(over_seeds(row[:5]), over_seeds(row[5:])), shared, 1.2) > 0.97


def test_a_ratio_to_what_may_be_zero_has_no_interval() -> None:
    found = ratio(Estimate(1.0, 0.9, 1.1), Estimate(0.5, -0.1, 1.1))
    assert found.value == 2.0
    assert not found.bounded
    assert math.isnan(ratio(Estimate(1.0, 0.9, 1.1), Estimate(-0.1, -0.2, 0.0)).value)
    assert not ratio(Estimate(1.0), Estimate(0.5, 0.4, 0.6)).bounded


def test_the_interval_of_a_difference_holds_it_in_95_percent() -> None:
    count = 2000
    draws = 1 + torch.tensor([0.2] * 5 + [0.05] * 5, dtype=torch.float64) * normal(count, 10, seed=6)
    draws[:, :5] += 0.3
    share = coverage(lambda row: difference(over_seeds(row[:5]), over_seeds(row[5:])), draws, 0.3)
    assert 0.95 - 4 * error_of(count) < share < 0.975


# Independent paths


def test_the_interval_of_a_median_holds_it_in_95_percent_whatever_the_law() -> None:
    count = 2000
    draws = normal(count, 40, seed=7).exp()  # skewed; the median is 1
    share = coverage(median, draws, 1.0)
    smallest = 1 - 2 * stats.binom.cdf(stats.binom.ppf(0.025, 40, 0.5) - 1, 40, 0.5)  # what these order statistics do
    assert smallest >= 0.95
    assert abs(share - smallest) < 4 * error_of(count)


def test_a_median_of_few_values_has_no_interval() -> None:
    assert not median(torch.arange(5.0)).bounded
    assert median(torch.arange(6.0)) == Estimate(2.5, 0.0, 5.0)  # the extremes hold it in 1 - 2 / 2^6 = 96.9 %


def test_the_bootstrap_interval_of_a_root_mean_square_holds_it_about_as_often_as_it_says() -> None:
    draws = normal(300, 200, seed=8)
    share = coverage(lambda row: bootstrap(row, lambda e: e.square().mean(-1).sqrt()), draws, 1.0)
    assert abs(share - 0.94) < 4 * math.sqrt(0.94 * 0.06 / 300)


def test_the_bootstrap_of_a_mean_has_its_standard_error_and_leaves_the_global_seed_alone() -> None:
    values = normal(400, seed=9)
    before = torch.get_rng_state()
    found = bootstrap(values, lambda e: e.mean(-1), seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert found == bootstrap(values, lambda e: e.mean(-1), seed=3)
    half = 1.96 * values.std().item() / 20
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)  # 1000 resamples: about 4 %
