"""Grids: n steps, from exactly 1 to exactly 0, strictly decreasing."""

import math

import pytest
import torch
from problems import PROCESSES

import scoresde as sd
from scoresde import grids


@pytest.mark.parametrize("name", grids.GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 999])
@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
def test_every_grid_of_every_process_goes_from_noise_to_data(name: str, steps: int, sde) -> None:
    grid = grids.GRIDS[name](sde, steps, math.inf)
    assert grid.dtype == torch.float64
    assert len(grid) == steps + 1
    assert grid[0] == 1
    assert grid[-1] == 0
    assert (grid[1:] < grid[:-1]).all()


def test_log_snr_grid_is_uniform_in_log_snr() -> None:
    lam = sd.VP().log_snr(grids.log_snr(sd.VP(), 50)[1:-1])
    torch.testing.assert_close(lam.diff(), lam.diff()[:1].expand(48), rtol=1e-6, atol=0)


def test_karras_grid_is_his_formula_in_edm_time() -> None:
    grid = 80 * grids.karras(sd.EDM(80.0), 18)
    i = torch.arange(18, dtype=torch.float64)
    sigmas = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    torch.testing.assert_close(grid[:-1], sigmas, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        (grids.leading, [10, 4, 1]),  # counts 1, 4, 7 and lifts the last to 10
        (grids.trailing, [10, 7, 3]),
        (grids.linspace, [10, 6, 1]),
    ],
)
def test_respacing_a_chain_of_ten_to_three(spacing, expected: list[int]) -> None:
    indices = (10 * spacing(10, 3)).round().long().tolist()
    assert indices == [*expected, 0]


def test_logistic_grid_with_centre_and_spread_one_is_rectified_flows_own_time() -> None:
    grid = grids.logistic(sd.RectifiedFlow(), 40, centre=1.0, spread=1.0)
    torch.testing.assert_close(grid, grids.uniform(40), rtol=0, atol=1e-14)


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
def test_logistic_grid_is_uniform_in_its_distribution_function(sde) -> None:
    lam = sde.log_snr(grids.logistic(sde, 20, centre=0.5, spread=1.5)[:-1])
    v = 1.0 / (1.0 + (0.5 * torch.exp(0.5 * lam)) ** (1.0 / 1.5))
    torch.testing.assert_close(v, v[0] * (1.0 - torch.arange(20).double() / 20), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 20, 500])
def test_logistic_grid_asks_for_no_cleaner_level_than_it_may(steps: int) -> None:
    sde = sd.VP()
    times = grids.logistic(sde, steps, max_log_snr=4.0)
    assert sde.log_snr(times[:-1]).max() <= 4.0 + 1e-9
    assert times[-1] == 0
    free = grids.logistic(sde, 500)
    assert sde.log_snr(free[:-1]).max() > 4.0  # so that the limit did something


def test_a_users_list_keeps_its_digits() -> None:
    assert grids.check_times([1.0, 0.9, 0.0]).tolist() == [1.0, 0.9, 0.0]


def test_a_chain_cannot_be_respaced_to_more_steps() -> None:
    with pytest.raises(ValueError, match="chain of 10 steps"):
        grids.trailing(10, 11)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0, 0.5, 0.5, 0.0], r"times\[1\] = 0.5 and times\[2\] = 0.5"),
        ([0.0, 1.0], "must decrease"),
        ([1.2, 0.0], r"times\[0\] = 1.2 is outside"),
        ([1.0, math.nan], r"times\[1\] = nan"),
        ([1.0], "at least two"),
        ([[1.0, 0.0]], "at least two"),
    ],
)
def test_a_wrong_grid_is_refused(times: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grids.check_times(times)


@pytest.mark.parametrize("steps", [0, -3, 1.5])
def test_a_wrong_number_of_steps_is_refused(steps) -> None:
    with pytest.raises(ValueError, match="steps = "):
        grids.uniform(steps)


def test_parameters_of_grids_are_checked() -> None:
    with pytest.raises(ValueError, match="t_min"):
        grids.log_snr(sd.VP(), 10, t_min=0.0)
    with pytest.raises(ValueError, match="centre = 0"):
        grids.logistic(sd.VP(), 10, centre=0.0)
    with pytest.raises(ValueError, match="noisier than t = 1"):
        grids.logistic(sd.VP(), 10, max_log_snr=-20.0)
    with pytest.raises(ValueError, match="rho"):
        grids.karras(sd.VP(), 10, rho=0.0)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("t", [1.0, 0.4, 1e-3])
def test_a_descent_goes_down_from_t_to_0(name: str, t: float) -> None:
    times = grids.descent(PROCESSES[name], t, 6)
    assert (len(times), times[0].item(), times[-1].item()) == (7, t, 0.0)
    assert bool((times.diff() < 0).all())


def test_a_descent_stays_where_the_network_was_trained() -> None:
    sde = sd.VP()
    for t in (1.0, 0.1, 1e-5):
        times = grids.descent(sde, t, 9, max_log_snr=6.0)
        assert bool((sde.log_snr(times[1:-1]) <= 6.0 + 1e-9).all())
    assert grids.descent(sde, 1e-5, 9, max_log_snr=6.0).tolist() == [1e-5, 0.0]


@pytest.mark.parametrize("spread", [1.2, 1.6])
def test_a_descent_from_1_is_the_logistic_grid(spread: float) -> None:
    whole = grids.logistic(sd.VP(), 7, spread=spread)
    torch.testing.assert_close(grids.descent(sd.VP(), 1.0, 7, spread=spread), whole, rtol=1e-9, atol=1e-12)


def test_a_descent_takes_a_step_or_more() -> None:
    assert grids.descent(sd.VP(), 0.3, 1).tolist() == [0.3, 0.0]
    with pytest.raises(ValueError, match="steps = 0"):
        grids.descent(sd.VP(), 0.3, 0)
