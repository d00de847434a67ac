"""What is decided when: the one-shot estimate, the estimates along the way, bands of spatial frequency."""

import itertools
import math

import pytest
import torch
from problems import gaussian, mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde import grids
from scoresde.compare.along import BAND_EDGES, Along, decided, estimates_along, one_shot
from scoresde.sde import Level
from scoresde.solvers import RK45, Ancestral, SASolver, UniPC

VP = sd.VP()


class Spectral(sd.Denoiser):
    """Pictures (1, 16, 16) with independent normal Fourier modes of variance 1 / (1 + (40 f)^2)^2: exact."""

    def __init__(self) -> None:
        super().__init__(VP, sd.PredictsX0(), (1, 16, 16))
        f = torch.fft.fftfreq(16, dtype=torch.float64)
        self.power = (1.0 + 1600.0 * (f[:, None].square() + f.square())) ** -2

    dtype = torch.float64
    device = torch.device("cpu")

    def predict(self, x: Tensor, t: Level) -> Tensor:
        gain = t.alpha * self.power / (t.alpha**2 * self.power + t.sigma**2)
        return torch.fft.ifft2(gain * torch.fft.fft2(x)).real


def test_one_shot_is_one_evaluation_and_near_the_mean_of_the_data() -> None:
    law = mixture()
    denoiser = law.denoiser(VP).train()
    x1 = normal(5, 3)
    assert torch.equal(one_shot(denoiser, x1), denoiser.x0(x1, 1.0))
    assert denoiser.training
    spread = law.covariance().diagonal().sqrt()
    assert ((one_shot(denoiser, x1) - law.mean()).abs() / spread).max() < 0.05


@pytest.mark.parametrize("solver", [Ancestral(), UniPC(), SASolver()], ids=str)
@pytest.mark.parametrize("batch_size", [None, 2])
def test_the_way_is_that_of_sample(solver, batch_size: int | None) -> None:
    denoiser, times = mixture(dtype=torch.float32).denoiser(VP), grids.uniform(12)
    along = estimates_along(denoiser, solver, times, ids=[4, 0, 9], seed=3, levels=4, batch_size=batch_size)
    ends = sd.sample(denoiser, solver, times=times, ids=[4, 0, 9], seed=3, batch_size=batch_size)
    assert torch.equal(along.end, ends)
    assert along.times.tolist() == [1.0, 0.75, 0.5, 0.25]
    assert along.states.shape == along.estimates.shape == (4, 3, 3)
    x1 = sd.CounterNoise(3, torch.tensor([4, 0, 9]), (3,)).start() * VP.prior_std()
    torch.testing.assert_close(along.states[0], x1)
    torch.testing.assert_close(along.estimates[0], one_shot(denoiser, x1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(along.estimates[2], denoiser.x0(along.states[2], 0.5), rtol=1e-5, atol=1e-6)
    process = solver.reverse(denoiser)
    noise = sd.CounterNoise(3, torch.tensor([4, 0, 9]), (3,))
    half = sd.solve(process, solver, times[:7], x1, noise)
    torch.testing.assert_close(along.states[2], half, rtol=1e-5, atol=1e-6)


def test_all_levels_by_default_and_progress_by_step() -> None:
    count: list[int] = []
    along = estimates_along(
        gaussian().denoiser(VP), UniPC(), grids.uniform(7), ids=range(4), on_step=lambda: count.append(1), batch_size=2
    )
    assert torch.equal(along.times, grids.uniform(7)[:-1])
    assert len(count) == 14


def test_estimates_come_nearer_to_the_end() -> None:
    """By the tower rule: along the reverse SDE E|xhat0(x_t) - x_0|^2 = tr Cov[x_0 | x_t] falls with t."""
    law = mixture(2, 3)
    times = grids.logistic(VP, 400)
    along = estimates_along(law.denoiser(VP), SASolver(), times, ids=range(2000), levels=8)
    square = along.distances().square().mean(1)
    assert (square.diff() < 0).all()
    for t, x, found in zip(along.times.tolist(), along.states, along.distances().square(), strict=True):
        truth = law.posterior_covariance(x, VP, t).diagonal(dim1=1, dim2=2).mean(1)
        error = float((found - truth).std()) / math.sqrt(2000)
        assert abs(float((found - truth).mean())) < 4 * error + 0.01 * float(truth.mean())


def test_coarse_structure_is_decided_first() -> None:
    """On pictures with a falling spectrum, in the exact order and by the exact amounts of the linear-Gaussian law."""
    denoiser = Spectral()
    along = estimates_along(denoiser, SASolver(), grids.logistic(VP, 200), ids=range(60), levels=10)
    found = decided(along)
    assert found.bands == ("0 to 0.0625", "0.0625 to 0.125", "0.125 to 0.25", "0.25 to 0.707")
    assert found.share[0].tolist() == [0.0] * 4
    middle = found.share[(found.share[:, 0] > 0.2) & (found.share[:, 0] < 0.95)]
    assert len(middle) >= 2
    assert (middle.diff(dim=1) < 0).all()
    assert float(found.power.sum()) == pytest.approx(1.0)
    f = torch.fft.fftfreq(16, dtype=torch.float64)
    radius = (f[:, None].square() + f.square()).sqrt()
    for i, t in enumerate(found.times.tolist()):
        level = VP.at(t)
        open_power = denoiser.power * level.sigma**2 / (level.alpha**2 * denoiser.power + level.sigma**2)
        for j, (low, high) in enumerate(itertools.pairwise(BAND_EDGES)):
            inside = (radius >= low) & (radius < high)
            truth = 1.0 - float(open_power[inside].sum() / denoiser.power[inside].sum())
            error = math.sqrt(2 * 2 / (60 * int(inside.sum())))
            assert abs(found.share[i, j] - truth) < 4 * error * max(1.0 - truth, 0.02)


def test_bands_share_out_all_of_the_energy() -> None:
    estimates, end = normal(3, 5, 2, 8, 6), normal(5, 2, 8, 6, seed=1)
    along = Along(torch.tensor([1.0, 0.5, 0.1]), estimates, estimates, end)
    bands = decided(along, edges=(0.0, 0.2, 1.0))
    whole = decided(along, edges=(0.0, 1.0))
    flat = decided(Along(along.times, estimates.flatten(2), estimates.flatten(2), end.flatten(1)))
    assert flat.bands == ("all",)
    torch.testing.assert_close(whole.share, flat.share)
    torch.testing.assert_close(whole.per_sample, flat.per_sample)
    torch.testing.assert_close((bands.share * bands.power).sum(1), flat.share[:, 0])
    assert bands.per_sample.shape == (3, 2, 5)
    gap = (estimates - end).square().flatten(2).sum(2)
    torch.testing.assert_close(flat.per_sample[:, 0], 1 - gap / gap[0])
    torch.testing.assert_close(along.distances(), (gap / 96).sqrt())


def test_a_wave_is_in_its_own_band() -> None:
    wave = torch.cos(2 * math.pi * 0.25 * torch.arange(16, dtype=torch.float64)).expand(1, 1, 1, 16, 16)
    along = Along(torch.tensor([1.0]), wave, wave, torch.zeros(1, 1, 16, 16))
    assert decided(along).power.tolist() == pytest.approx([0.0, 0.0, 0.0, 1.0], abs=1e-12)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda d: estimates_along(d, UniPC(), grids.uniform(5), ids=[0], levels=6), "levels = 6; .* has 1 to 5"),
        (lambda d: estimates_along(d, UniPC(), grids.uniform(5), ids=[0], levels=0), "levels = 0"),
        (lambda d: estimates_along(d, RK45(), grids.uniform(5), ids=[0]), "the way is seen on a grid"),
        (lambda d: decided(estimates_along(d, UniPC(), grids.uniform(2), ids=[0]), edges=(0.1, 0.2)), "rise from 0"),
        (lambda d: decided(estimates_along(d, UniPC(), grids.uniform(2), ids=[0]), edges=(0.0,)), "rise from 0"),
    ],
)
def test_wrong_choices_are_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(gaussian().denoiser(VP))
