"""Drawing from a posterior: every method, solver and operator, batches, progress, and mistakes."""

from __future__ import annotations

import math

import pytest
import torch
from guided_cases import (
    LAW,
    MASK,
    MEASUREMENT,
    METHODS,
    Y,
    each_guided,
    each_method,
    problem,
)
from problems import mixture, normal
from torch import Tensor, nn

import scoresde as sd
from scoresde import solvers
from scoresde.inverse import MMPS, Guided, Method, posterior_draws
from scoresde.inverse.dps import PublishedScale
from scoresde.inverse.pigdm import PiGDM
from scoresde.inverse.repaint import RePaint
from scoresde.inverse.tmpd import TMPD
from scoresde.nets import UNet

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
