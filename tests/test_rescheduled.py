"""One prior under any process: exact laws stay exact, and a network answers as it does under its own process."""

from __future__ import annotations

import pytest
import torch
from problems import BETAS, PROCESSES, mixture, normal
from torch import Tensor, nn

import scoresde as sd
from scoresde.denoisers import LogSNR
from scoresde.inverse import MMPS, Problem
from scoresde.parameterisations import Parameterisation, PredictsEDM, PredictsEps, PredictsScore, PredictsV, PredictsX0
from scoresde.rescheduled import Rescheduled

LAW = mixture()
X = normal(6, 3)
TIMES = (0.0, 1e-8, 1e-3, 0.3, 0.9, 1.0, torch.tensor([0.0, 1e-6, 0.2, 0.5, 0.99, 1.0], dtype=torch.float64))


class Net(nn.Module):
    """A small network of random weights that sees x and the condition; it remembers what it was told."""

    def __init__(self, dim: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim + 1, 16), nn.Tanh(), nn.Linear(16, dim)).double()
        for i, parameter in enumerate(self.parameters()):
            parameter.data = 0.5 * normal(*parameter.shape, seed=i)
        self.told: Tensor | None = None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        self.told = condition
        return self.layers(torch.cat([x, 0.1 * condition[:, None]], 1))


@pytest.mark.parametrize("new", PROCESSES)
@pytest.mark.parametrize("old", PROCESSES)
def test_an_exact_law_is_exact_under_every_process(old: str, new: str) -> None:
    moved, exact = Rescheduled(LAW.denoiser(PROCESSES[old]), PROCESSES[new]), LAW.denoiser(PROCESSES[new])
    for t in TIMES:
        for what in ("x0", "eps", "score", "velocity"):
            torch.testing.assert_close(
                getattr(moved, what)(X, t), getattr(exact, what)(X, t), rtol=1e-10, atol=1e-10, msg=f"{what} at {t}"
            )


def test_an_exact_law_is_exact_beyond_the_noise_of_its_own_process() -> None:
    moved, exact = Rescheduled(LAW.denoiser(sd.EDM(20.0)), sd.EDM(2000.0)), LAW.denoiser(sd.EDM(2000.0))
    x = 1000.0 * X
    torch.testing.assert_close(moved.x0(x, 0.9), exact.x0(x, 0.9), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(moved.eps(x, 0.9), exact.eps(x, 0.9), rtol=1e-10, atol=1e-10)


PARAMETERISATIONS = (PredictsEps(), PredictsX0(), PredictsV(), PredictsEDM(0.7))


@pytest.mark.parametrize("parameterisation", PARAMETERISATIONS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("new", ["vp", "sub-vp", "ve", "edm", "rectified-flow"])
def test_a_network_answers_as_one_made_for_the_new_process(new: str, parameterisation: Parameterisation) -> None:
    """It is told the log-SNR and sees x at unit power (or at EDM's), so one network serves every schedule."""
    module, sde = Net(), PROCESSES[new]
    moved = Rescheduled(sd.NetDenoiser(module, sd.EDM(40.0), parameterisation, condition=LogSNR()), sde)
    direct = sd.NetDenoiser(module, sde, parameterisation, condition=LogSNR())
    for t in (0.01, 0.3, 0.97, torch.linspace(0.001, 0.999, 6, dtype=torch.float64)):
        for what in ("x0", "eps"):
            torch.testing.assert_close(getattr(moved, what)(X, t), getattr(direct, what)(X, t), rtol=1e-9, atol=1e-9)
    assert moved.max_log_snr == direct.max_log_snr


def test_a_predicted_score_is_that_of_the_other_scale() -> None:
    """x_new = x_vp / k has k times the score."""
    inner = sd.NetDenoiser(Net(), sd.VP(), PredictsScore(), condition=LogSNR())
    moved = Rescheduled(inner, sd.EDM(20.0))
    t = 0.2
    level = moved.sde.at(t)
    tau = sd.VP().time_of_log_snr(level.log_snr).item()
    k = (1.0 + level.sigma**2) ** -0.5
    torch.testing.assert_close(moved.score(X, t), k * inner.score(k * X, tau), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(moved.x0(X, t), inner.x0(k * X, tau), rtol=1e-9, atol=1e-9)


def test_a_network_of_a_chain_is_told_its_own_index() -> None:
    module, chain = Net(), sd.VP.from_betas(BETAS)
    moved = Rescheduled(sd.EpsNet(module, chain), sd.RectifiedFlow())
    t = sd.RectifiedFlow().time_of_log_snr(chain.log_snr(0.3)).item()  # k / K = 300 / 1000
    moved.x0(X, t)
    torch.testing.assert_close(module.told, torch.full((6,), 299.0, dtype=torch.float64), rtol=0, atol=1e-8)
    assert moved.max_log_snr == pytest.approx(float(chain.log_snr(0.001)))


def test_predicted_noise_says_nothing_where_there_is_no_signal() -> None:
    moved = Rescheduled(sd.EpsNet(Net(), sd.VP(), condition=LogSNR()), sd.RectifiedFlow())
    with pytest.raises(ValueError, match="a predicted eps says nothing of x0"):
        moved.x0(X, 1.0)


@pytest.mark.parametrize("t", [0.05, 0.2, 0.7, 1.0])
def test_the_target_is_what_is_predicted(t: float) -> None:
    """P = k x0 + m eps for what an exact denoiser says."""
    moved = Rescheduled(sd.NetDenoiser(Net(), sd.VP(), PredictsV(), condition=LogSNR()), sd.SubVP())
    k, m = moved.parameterisation.target(moved.sde.at(t))
    predicted = moved.predict(X, moved.sde.at(t))
    torch.testing.assert_close(k * moved.x0(X, t) + m * moved.eps(X, t), predicted, rtol=1e-9, atol=1e-9)


def test_samples_are_those_of_the_other_process() -> None:
    moved, exact = Rescheduled(LAW.denoiser(sd.VP()), sd.EDM(40.0)), LAW.denoiser(sd.EDM(40.0))
    for solver in (sd.solvers.UniPC(), sd.solvers.Ancestral()):
        torch.testing.assert_close(
            sd.sample(moved, solver, steps=20, n=8, seed=1), sd.sample(exact, solver, steps=20, n=8, seed=1)
        )


def test_it_may_be_moved_twice_and_guided() -> None:
    twice = Rescheduled(Rescheduled(LAW.denoiser(sd.VP()), sd.RectifiedFlow()), sd.EDM(40.0))
    exact = LAW.denoiser(sd.EDM(40.0))
    torch.testing.assert_close(twice.score(X, 0.01), exact.score(X, 0.01), rtol=1e-10, atol=1e-10)
    measurement = sd.GaussianMeasurement(sd.operators.Dense(normal(2, 3, seed=3)), 0.3)
    guided = [
        MMPS().denoiser(Problem(denoiser, measurement, normal(1, 2, seed=4), (3,))).x0(X, 0.02)
        for denoiser in (twice, exact)
    ]
    torch.testing.assert_close(*guided)


def test_what_it_says_of_itself_is_what_inner_says() -> None:
    inner = sd.EpsNet(
        Net().float(), sd.VP(), condition=LogSNR(high=7.0), shape=(3,), data_range=(0.0, 1.0), data_std=0.2
    )
    moved = Rescheduled(inner, sd.EDM(40.0))
    assert (moved.shape, moved.max_log_snr, moved.data_range, moved.data_std) == ((3,), 7.0, (0.0, 1.0), 0.2)
    assert moved.dtype == torch.float32
    assert moved(X.float(), 0.5).dtype == torch.float32
    assert moved.sde == sd.EDM(40.0)
