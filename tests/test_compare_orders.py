"""Orders of convergence, where they are known and where there are none; paths against the exact flow."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from problems import gaussian, mixture, normal

import scoresde as sd
from scoresde import grids
from scoresde.compare import Flow, exact_denoiser, exact_flow, fitted_order, flow_errors, starts
from scoresde.solvers import RK4, AdamsBashforth, Ancestral, DPMSolver, Euler, Heun

VP = sd.VP()
STEPS = (20, 40, 80, 160)


@pytest.fixture(scope="module")
def straight() -> tuple[Any, Flow]:
    """One Gaussian, whose orders the theory knows, and its flow."""
    denoiser = gaussian().denoiser(VP)
    return denoiser, exact_flow(denoiser, starts(denoiser, 50))


# Orders


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, 3.7])
def test_a_power_is_found_exactly(order: float) -> None:
    found = fitted_order((10, 320, 40, 20), [7.0 * k**-order for k in (10, 320, 40, 20)])
    assert found.slope.value == pytest.approx(order, rel=1e-12)
    assert found.standard_error < 1e-12
    assert found.steps == (10, 20, 40, 320)


def test_what_is_too_coarse_and_what_is_at_the_floor_is_left_out() -> None:
    steps = (5, 10, 20, 40, 80, 160, 320, 640)
    errors = [0.5, 0.45, *(3.0 / k**2 for k in (20, 40, 80, 160)), 1.1e-4, 1e-4]
    found = fitted_order(steps, errors)
    assert found.steps == (20, 40, 80, 160)
    assert found.slope.value == pytest.approx(2.0, rel=1e-10)
    shorter = fitted_order(steps, errors, floor=4e-5)
    assert shorter.steps == (20, 40, 80)


def test_a_solver_that_diverged_with_few_steps_has_an_order_with_more() -> None:
    assert fitted_order((5, 10, 20, 40), [math.inf, *(k**-1.0 for k in (10, 20, 40))]).steps == (10, 20, 40)


def test_the_interval_of_a_scattered_line_holds_its_slope_in_95_percent() -> None:
    steps = (10, 20, 40, 80, 160)
    hits = 0
    for k in range(400):
        errors = [s**-2.0 * math.exp(z) for s, z in zip(steps, 0.01 * normal(5, seed=k), strict=True)]
        found = fitted_order(steps, errors)
        hits += found.slope.low <= 2.0 <= found.slope.high
    assert abs(hits / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400)


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ([1.0, 0.9, 0.95, 0.9, 0.93], "slopes from one count to the next"),
        ([1.0, 0.1, 0.09, 0.001, 0.0009], "slopes from one count to the next"),
        ([1e-3, 1e-6, 1e-9, 1e-9, 1e-9], "2 usable step counts, 3 left out"),
        ([math.inf, math.inf, math.nan, 0.1, 0.05], "2 usable step counts, 3 left out"),
        ([0.0] * 5, "0 usable"),
    ],
)
def test_where_there_is_no_order_none_is_made_up(errors: list[float], words: str) -> None:
    found = fitted_order((10, 20, 40, 80, 160), errors, floor=1e-8)
    assert not found.seen
    assert words in str(found)
    assert str(found).startswith("no order seen: ")
    assert math.isnan(found.slope.value)
    assert found.steps == ()


def test_two_points_are_no_line() -> None:
    assert "2 usable step counts; it takes 3" in str(fitted_order((10, 20), [0.1, 0.05]))


@pytest.mark.parametrize(
    ("steps", "errors", "words"),
    [
        ((10, 20), [1.0], "2 step counts for 1 errors"),
        ((10, 10, 20), [1.0, 1.0, 0.5], "given twice"),
        ((0, 10), [1.0, 0.1], "must be 1 or more"),
        ((5, 10), [1.0, -0.1], "not negative"),
    ],
)
def test_points_that_make_no_sense_are_refused(steps: tuple[int, ...], errors: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fitted_order(steps, errors)


@pytest.mark.parametrize(
    "solver", [Euler(), sd.solvers.DDIM(), Heun(), DPMSolver(2), DPMSolver(3), RK4()], ids=lambda s: str(s)
)
def test_known_orders_come_out_on_one_gaussian(solver: Any, straight: tuple[Any, Flow]) -> None:
    denoiser, flow = straight
    errors = [flow_errors(denoiser, solver, grids.GRIDS[solver.grid](VP, k, math.inf), flow).rms.value for k in STEPS]
    found = fitted_order(STEPS, errors, floor=flow.accuracy)
    assert found.seen
    assert abs(found.slope.value - solver.order) < 0.1
    assert str(found).startswith(f"order {found.slope.value:.2f}")


def test_multistep_orders_come_out_with_more_steps(straight: tuple[Any, Flow]) -> None:
    denoiser, flow = straight
    steps = (200, 400, 800)
    errors = [
        flow_errors(denoiser, AdamsBashforth(4), grids.GRIDS[AdamsBashforth.grid](VP, k, math.inf), flow).rms.value
        for k in steps
    ]
    assert abs(fitted_order(steps, errors, floor=flow.accuracy).slope.value - 4) < 0.1


# The exact flow


def test_the_flow_of_one_gaussian_is_the_exact_one(straight: tuple[Any, Flow]) -> None:
    _, flow = straight
    error = (flow.x0 - gaussian().flow(flow.x1, VP, 1.0, 0.0)).square().mean().sqrt().item()
    assert error < 1e-9
    assert error < 2 * flow.accuracy < 1e-8


def test_the_starts_are_those_of_sample() -> None:
    denoiser = mixture(dtype=torch.float32).denoiser(VP)
    x = sd.sample(denoiser, Heun(), steps=5, n=7, seed=3)
    assert torch.equal(sd.sample(denoiser, Heun(), steps=5, x1=starts(denoiser, 7, 3)), x)


@pytest.mark.parametrize("full", [False, True])
def test_the_reference_of_a_float32_mixture_is_float64(full: bool) -> None:
    law = mixture(dtype=torch.float32) if full else sd.MIXTURES["uneven"]()
    exact = exact_denoiser(law, VP)
    assert exact.dtype == torch.float64
    x = normal(5, law.dim, seed=1)
    torch.testing.assert_close(exact(x, 0.3), law.denoiser(VP)(x.float(), 0.3).double(), rtol=1e-4, atol=1e-4)
    flow = exact_flow(exact, starts(law.denoiser(VP), 5))
    assert flow.x0.dtype == torch.float64
    assert flow.accuracy < 1e-7


def test_errors_are_those_of_each_path_and_their_summaries(straight: tuple[Any, Flow]) -> None:
    denoiser, flow = straight
    times = grids.uniform(10)
    found = flow_errors(denoiser, Euler(), times, flow, batch_size=7)
    by_hand = (sd.sample(denoiser, Euler(), times=times, x1=flow.x1) - flow.x0).square().mean(1).sqrt()
    torch.testing.assert_close(found.errors, by_hand, rtol=1e-10, atol=0)
    assert found.rms.value == pytest.approx(by_hand.square().mean().sqrt().item(), rel=1e-10)
    assert found.rms.low < found.rms.value < found.rms.high
    assert found.median.value == pytest.approx(by_hand.quantile(0.5).item(), rel=1e-10)
    assert found.median.low <= found.median.value <= found.median.high


def test_a_solver_with_noise_follows_no_flow(straight: tuple[Any, Flow]) -> None:
    with pytest.raises(ValueError, match="draws noise"):
        flow_errors(straight[0], Ancestral(), grids.uniform(10), straight[1])
    with pytest.raises(ValueError, match="give shape"):
        starts(sd.EpsNet(torch.nn.Linear(2, 2), VP), 3)
