"""The bounds of a reverse chain: against integrals in one dimension, exact densities of mixtures, and themselves."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from problems import BETAS, PROCESSES, gaussian, mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde import grids
from scoresde.chain import DDPM
from scoresde.denoisers import Denoiser, Wrapped
from scoresde.errors import NumericalError
from scoresde.sde import Level

pytestmark = pytest.mark.filterwarnings("ignore::scoresde.ProcessWarning")  # short chains do not end in the prior

ODD = DDPM.from_sde(sd.VP(), [1.0, 0.83, 0.4, 0.11, 0.02, 0.0])
CHAINS = {"two": DDPM([0.4, 0.985]), "rising": DDPM([0.02, 0.3, 0.5, 0.98]), "odd": ODD, "one": DDPM([0.985])}
LINE = sd.GaussianMixture([0.3, 0.7], [[-1.0], [0.8]], [0.05, 0.2], dtype=torch.float64)
VARIANCES: dict[str, Callable[[DDPM], str | Tensor]] = {
    "small": lambda chain: "small",
    "large": lambda chain: "large",
    "table": lambda chain: 0.7 * chain.large_variances() + 0.01,
}
X = torch.linspace(-6.0, 6.0, 801, dtype=torch.float64)


def tables(chain: DDPM, variance: str | Tensor) -> Tensor:
    if isinstance(variance, Tensor):
        return variance
    return chain.small_variances() if variance == "small" else chain.large_variances()


def log_marginal(chain: DDPM, denoiser: Denoiser, x0: Tensor, variances: Tensor) -> Tensor:
    """log p(x_0) of the reverse chain, by the trapezoidal rule on X from x_K ~ N(0, 1) down, for x0 (B,)."""
    p = torch.exp(-0.5 * X.square()) / math.sqrt(2.0 * math.pi)
    for k in range(chain.steps, 0, -1):
        level = denoiser.sde.time_of_log_snr(torch.log(chain.alpha_bar[k] / (1.0 - chain.alpha_bar[k])))
        mean = chain.posterior(X, denoiser.x0(X[:, None], level)[:, 0], k)[0]
        to = X if k > 1 else x0
        kernel = torch.exp(-0.5 * (to[:, None] - mean).square() / variances[k]) / torch.sqrt(2 * math.pi * variances[k])
        p = torch.trapezoid(kernel * p, X, dim=1)
    return torch.log(p)


def standard_error(values: Tensor) -> float:
    return values.std().item() / math.sqrt(len(values))


# --- against integrals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("name", CHAINS)
def test_the_mean_weight_is_the_density_of_the_reverse_chain(name: str, variance: str) -> None:
    """E[w] = p(x_0), whatever the chain, its variances and the denoiser (1.2); here of another law than the data's."""
    chain, chosen = CHAINS[name], VARIANCES[variance](CHAINS[name])
    denoiser, points = LINE.denoiser(sd.VP()), torch.tensor([-1.2, 0.1, 0.9], dtype=torch.float64)
    x0 = points.repeat(1000)[:, None]
    found = chain.weighted_bound(denoiser, x0, trajectories=16, seed=1, variance=chosen)
    wanted = log_marginal(chain, denoiser, points, tables(chain, chosen))
    ratio = torch.exp(found.log_weights.reshape(-1, 3) - wanted)
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert (error < 0.05).all()
    assert ((ratio.mean(0) - 1.0).abs() < 4.0 * error).all()
    for m in (1, 4, 16):
        gap = found.nats(m).reshape(-1, 3) + wanted
        assert (gap.mean(0) > -4.0 * gap.std(0) / math.sqrt(len(gap))).all()


@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("name", ["two", "rising", "odd"])
def test_the_gap_on_a_mixture_is_the_kl_of_the_paths(name: str, variance: str) -> None:
    """Mean bound + log q(x_0) = KL(q_K || N) + sum_k E KL(q(x_{k-1}|x_k) || p(x_{k-1}|x_k)), by integrals."""
    chain, chosen = CHAINS[name], VARIANCES[variance](CHAINS[name])
    denoiser, variances = LINE.denoiser(sd.VP()), tables(chain, chosen)
    marginals = [LINE.log_prob(X[:, None])]
    for k in range(1, chain.steps + 1):
        diffused = LINE.diffuse(
            sd.VP(), float(sd.VP().time_of_log_snr(torch.log(chain.alpha_bar[k] / (1 - chain.alpha_bar[k]))))
        )
        marginals.append(diffused.log_prob(X[:, None]))
    log_normal = -0.5 * X.square() - 0.5 * math.log(2.0 * math.pi)
    gap = torch.trapezoid(marginals[-1].exp() * (marginals[-1] - log_normal), X)
    for k in range(1, chain.steps + 1):
        level = sd.VP().time_of_log_snr(torch.log(chain.alpha_bar[k] / (1 - chain.alpha_bar[k])))
        mean = chain.posterior(X, denoiser.x0(X[:, None], level)[:, 0], k)[0]
        log_p = -0.5 * (X - mean[:, None]).square() / variances[k] - 0.5 * torch.log(2.0 * math.pi * variances[k])
        forward, beta = chain.kernel(X, k)
        log_joint = (
            marginals[k - 1] - 0.5 * (X[:, None] - forward).square() / beta - 0.5 * math.log(2.0 * math.pi * beta)
        )
        log_q = log_joint - marginals[k][:, None]  # rows: x_k, columns: x_{k-1}
        gap = gap + torch.trapezoid(torch.trapezoid(log_joint.exp() * (log_q - log_p), X, dim=1), X)
    x0 = LINE.sample(4000, seed=3)
    found = chain.bound(denoiser, x0, seed=4, variance=chosen, draws=4).nats() + LINE.log_prob(x0)
    assert gap > 0
    assert abs(found.mean().item() - gap.item()) < 4.0 * standard_error(found)


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_with_the_discretised_decoder_the_values_have_probability_one(bits: int) -> None:
    """sum over the values of E[w] = 1 for any bit depth."""
    values = torch.linspace(-1.0, 1.0, 2**bits, dtype=torch.float64)
    chain, n = DDPM([0.1, 0.5, 0.98]), 16000 // 2**bits
    x0, width = values.repeat(n)[:, None], 2.0 / (2**bits - 1)
    weights = chain.bound(LINE.denoiser(sd.VP()), x0, seed=2, bin_width=width).nats().neg().exp().reshape(n, -1)
    error = (weights.var(0) / n).sum().sqrt().item()
    assert error < 0.03
    assert abs(weights.mean(0).sum().item() - 1.0) < 4.0 * error


# --- on mixtures, whose log-density is known -----------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 5, 30, 200])
@pytest.mark.parametrize("grid", ["uniform", "logistic", "karras", "quadratic"])
@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_bound_is_never_below_the_truth_but_by_its_error(steps: int, grid: str, variance: str) -> None:
    law = mixture()
    x0, chain = law.sample(200, seed=1), DDPM.from_sde(sd.VP(), grids.GRIDS[grid](sd.VP(), steps, math.inf))
    found = chain.weighted_bound(law.denoiser(sd.VP()), x0, trajectories=4, seed=2, variance=variance)
    for m in (1, 2, 4):
        gap = found.nats(m) + law.log_prob(x0)
        assert gap.mean().item() > -3.0 * standard_error(gap)


def test_the_gap_vanishes_like_one_over_the_steps() -> None:
    """With the large variance it is 1/4 sum_k beta_k^2 E|P_k - I|^2 where P_k is the precision of x_{k-1}: O(1/K)."""
    law = sd.GaussianMixture([1.0], [[0.0, 0.0]], [0.09], dtype=torch.float64)
    x0 = law.sample(1000, seed=1)
    for steps in (100, 400):
        chain = DDPM.from_sde(sd.VP(), grids.uniform(steps))
        variance = chain.alpha_bar * 0.09 + 1.0 - chain.alpha_bar
        predicted = 0.5 * (chain.beta[1:] * (1.0 / variance[:-1] - 1.0)).square().sum().item()
        gap = chain.bound(law.denoiser(sd.VP()), x0, seed=2, variance="large").nats() + law.log_prob(x0)
        assert gap.mean().item() == pytest.approx(predicted, abs=4.0 * standard_error(gap) + 0.1 * predicted)
        assert standard_error(gap) < 0.3 * predicted**0.5


@pytest.mark.parametrize("name", ["ring8", "gaussian"])
def test_a_thousand_steps_come_within_a_hundredth_of_a_nat(name: str) -> None:
    """Per sample of two dimensions, with the variances measured on other data, or large ones for a wide Gaussian."""
    law = gaussian() if name == "gaussian" else sd.MIXTURES[name]()
    denoiser, x0, chain = law.denoiser(sd.VP()), law.sample(1200, seed=1), DDPM(BETAS)
    measured = name != "gaussian"
    variances = chain.optimal_variances(denoiser, law.sample(300, seed=2), seed=3) if measured else "large"
    gap = chain.bound(denoiser, x0, seed=4, variance=variances).nats() + law.log_prob(x0)
    assert standard_error(gap) < 0.008
    assert -3.0 * standard_error(gap) < gap.mean().item() < 0.01 + 2.0 * standard_error(gap)


def test_optimal_variances_give_the_lowest_bound_and_its_closed_form() -> None:
    """On the very data that they are measured on, L_{k-1} is D/2 log(variance / beta-tilde) on average."""
    law, chain = mixture(), ODD
    x0, denoiser = law.sample(50, seed=1), law.denoiser(sd.VP())
    best = chain.optimal_variances(denoiser, x0, seed=2)
    terms = chain.bound(denoiser, x0, seed=2, variance=best).terms.mean(1)
    for k in range(2, chain.steps + 1):
        wanted = 0.5 * law.dim * math.log(best[k].item() / chain.variance_small(k))
        assert terms[k - 1].item() == pytest.approx(wanted, rel=1e-10)
    for factor in (0.9, 1.1):
        other = chain.bound(denoiser, x0, seed=2, variance=factor * best).terms.mean(1)
        assert (other[1:-1] > terms[1:-1]).all()
    assert best[0] == 0
    assert (best[2:] > chain.small_variances()[2:]).all()


@pytest.mark.parametrize("name", [name for name, sde in PROCESSES.items() if sde.unit_power])
def test_every_process_that_preserves_the_variance_has_a_chain_with_a_bound(name: str) -> None:
    law, sde = mixture(), PROCESSES[name]
    x0, times = law.sample(200, seed=1), torch.tensor([0.995, *grids.uniform(40)[1:].tolist()])
    gap = DDPM.from_sde(sde, times).bound(law.denoiser(sde), x0, seed=2, variance="large").nats() + law.log_prob(x0)
    assert -3.0 * standard_error(gap) < gap.mean().item() < 1.0


@pytest.mark.parametrize(("name", "grid", "steps"), [("cosine", "uniform", 2000), ("rectified-flow", "logistic", 250)])
def test_times_without_signal_are_one_step(name: str, grid: str, steps: int) -> None:
    sde = PROCESSES[name]
    chain = DDPM.from_levels(sde, grids.GRIDS[grid](sde, steps, math.inf))
    assert steps - 10 < chain.steps < steps
    assert chain.alpha_bar[-1].item() == pytest.approx(math.exp(-14.0), rel=1e-5)


@pytest.mark.parametrize("name", PROCESSES)
def test_a_chain_with_the_levels_of_any_process(name: str) -> None:
    sde, times = PROCESSES[name], grids.uniform(30)
    chain = DDPM.from_levels(sde, times)
    log_snr = torch.log(chain.alpha_bar[1:]) - torch.log1p(-chain.alpha_bar[1:])
    torch.testing.assert_close(log_snr, sde.log_snr(times.flip(0)[1:]).clamp_min(-14.0), rtol=1e-9, atol=1e-9)
    law = mixture()
    x0 = law.sample(100, seed=1)
    gap = chain.bound(law.denoiser(sde), x0, seed=2, variance="large").nats() + law.log_prob(x0)
    assert gap.mean().item() > -3.0 * standard_error(gap)
    if sde.unit_power and sde.log_snr(1.0) > -14:
        torch.testing.assert_close(chain.beta, DDPM.from_sde(sde, times).beta, rtol=1e-9, atol=1e-15)


# --- against themselves --------------------------------------------------------------------------------


def test_more_trajectories_never_loosen_the_bound() -> None:
    """For every sample, from m to each multiple of m; and at m = 1 it is the bound (5), to rounding."""
    law, chain = mixture(), DDPM.from_sde(sd.VP(), grids.uniform(8))
    x0, denoiser = law.sample(100, seed=1), law.denoiser(sd.VP())
    found = chain.weighted_bound(denoiser, x0, trajectories=16, seed=2)
    torch.testing.assert_close(
        found.nats(1), chain.bound(denoiser, x0, seed=2, draws=16).nats(), rtol=1e-12, atol=1e-12
    )
    for m in (1, 2, 4, 8):
        assert (found.nats(2 * m) <= found.nats(m) + 1e-12).all()
    means = [found.nats(m).mean().item() for m in (1, 2, 4, 8, 16)]
    assert (np.diff(means) < -0.01).all()
    assert (found.nats(12) <= found.nats(1)).any()
    torch.testing.assert_close(found.nats(5), -torch.stack(
        [torch.logsumexp(found.log_weights[i : i + 5], 0) - math.log(5) for i in (0, 5, 10)]
    ).mean(0))  # fmt: skip
    torch.testing.assert_close(found.bits_per_dim(4), found.nats(4) / (3 * math.log(2)))
    torch.testing.assert_close(found.bound.terms.sum(0), found.nats(1), rtol=1e-12, atol=1e-12)


def test_terms_have_the_means_that_equation_5_gives_them() -> None:
    """L_{k-1} by independent draws of x_k given x_0, and L_0, in units of their standard errors."""
    law, chain = mixture(), ODD
    denoiser, x0 = law.denoiser(sd.VP()), law.sample(1, seed=1).expand(20_000, -1)
    terms = chain.bound(denoiser, x0, seed=2, variance="large").terms
    torch.testing.assert_close(terms[-1], chain.prior_kl(x0))
    for k in range(1, chain.steps + 1):
        x_k = chain.perturb(x0, k, normal(*x0.shape, seed=k))
        t = float(sd.VP().time_of_log_snr(torch.log(chain.alpha_bar[k] / (1 - chain.alpha_bar[k]))))
        x0_hat = denoiser.x0(x_k, t)
        if k > 1:
            other = chain.step_kl(x0, x0_hat, k, large=True)
        else:
            beta = chain.beta[1]
            other = 0.5 * ((x0 - x0_hat).square().sum(1) / beta + law.dim * torch.log(2 * math.pi * beta))
        error = math.hypot(standard_error(terms[k - 1]), standard_error(other))
        assert abs((terms[k - 1].mean() - other.mean()).item()) < 4.0 * error


def test_standard_errors_over_draws_are_right_by_repetition() -> None:
    law, chain = mixture(), DDPM.from_sde(sd.VP(), grids.uniform(6))
    x0, denoiser = law.sample(1, seed=1).expand(400, -1), law.denoiser(sd.VP())
    found = chain.weighted_bound(denoiser, x0, trajectories=64, seed=2, variance="large")
    for m in (1, 4, 16, 64):
        spread, said = found.nats(m).std().item(), found.standard_error(m).square().mean().sqrt().item()
        assert said == pytest.approx(spread, rel=0.2), m
    assert found.bound.standard_error.square().mean().sqrt().item() == pytest.approx(
        found.nats(1).std().item(), rel=0.2
    )
    assert chain.bound(denoiser, x0[:3], seed=2).standard_error.isnan().all()
    assert chain.weighted_bound(denoiser, x0[:3], trajectories=1).standard_error().isnan().all()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_a_sample_depends_on_the_seed_and_its_number_alone(batch_size: int) -> None:
    law, chain = mixture(), ODD
    x0, denoiser = law.sample(5, seed=1), law.denoiser(sd.VP())
    whole = chain.weighted_bound(denoiser, x0, trajectories=4, seed=2)
    ids = torch.tensor([3, 1])
    part = chain.weighted_bound(denoiser, x0[ids], trajectories=6, seed=2, ids=ids, batch_size=batch_size)
    torch.testing.assert_close(part.log_weights[:4], whole.log_weights[:, ids], rtol=1e-11, atol=1e-11)
    other = chain.weighted_bound(denoiser, x0, trajectories=4, seed=3)
    assert (other.log_weights - whole.log_weights).abs().min() > 1e-6
    draws = whole.log_weights.T
    assert (draws[:, :-1] - draws[:, 1:]).abs().min() > 1e-6
    again = chain.optimal_variances(denoiser, x0, seed=2, batch_size=batch_size)
    torch.testing.assert_close(again, chain.optimal_variances(denoiser, x0, seed=2), rtol=1e-11, atol=0)


class Seen(Wrapped):
    """Notes the batches and the mode that it is asked in; breaks one sample at low noise when asked to."""

    broken: int | None = None

    def predict(self, x: Tensor, t: Level) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.batches = (*getattr(self, "batches", ()), len(x))
        found = self.inner.predict(x, t)
        if self.broken is not None and t.log_snr > 0:
            found = found.clone()
            found[self.broken] = math.nan
        return found


def test_the_batch_is_as_large_as_was_asked_and_every_evaluation_is_told() -> None:
    law, told = mixture(), [0]
    denoiser = Seen(law.denoiser(sd.VP())).train()

    def on_step() -> None:
        told[0] += 1

    ODD.weighted_bound(denoiser, law.sample(5), trajectories=3, batch_size=4, on_step=on_step)
    assert told[0] == len(denoiser.batches) == 2 * 3 * ODD.steps
    assert max(denoiser.batches) <= 4
    denoiser.batches = ()
    ODD.weighted_bound(denoiser, law.sample(5), trajectories=3, batch_size=10)
    assert set(denoiser.batches) == {10, 5}
    assert denoiser.training


def test_a_value_that_is_not_finite_is_named_by_sample_and_term() -> None:
    denoiser = Seen(mixture().denoiser(sd.VP()))
    denoiser.broken = 1
    first = int((ODD.alpha_bar > 0.5).nonzero()[-1])  # the noisiest level at which it is broken
    with pytest.raises(NumericalError, match=f"sample 9: the term L_{first - 1} of the bound"):
        ODD.bound(denoiser, mixture().sample(3), ids=[7, 9, 8])
    found = ODD.weighted_bound(denoiser, mixture().sample(3), ids=[7, 9, 8], trajectories=2, batch_size=3)
    whole = ODD.weighted_bound(denoiser.inner, mixture().sample(3), ids=[7, 9, 8], trajectories=2)
    assert list(found.problems) == [1]
    assert found.nats().isnan().tolist() == [False, True, False]
    torch.testing.assert_close(found.nats()[[0, 2]], whole.nats()[[0, 2]])
    assert found.bound.terms.isnan().all(0).tolist() == [False, True, False]
    assert whole.check() is whole
    with pytest.raises(NumericalError, match=f"error at k = {first}"):
        ODD.optimal_variances(denoiser, mixture().sample(3))


def test_a_single_precision_network_on_pictures_has_the_exact_gap() -> None:
    """The network that predicts the noise in N(0, 1/4) pixels: the gap is 1/4 sum_k beta_k^2 |P_k - I|^2 again."""
    chain = DDPM(BETAS)
    variance = 0.25 * chain.alpha_bar + 1.0 - chain.alpha_bar
    gain = ((1.0 - chain.alpha_bar).sqrt() / variance)[1:].float()

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("gain", gain)

        def forward(self, x: Tensor, k: Tensor) -> Tensor:
            return x * self.gain[k.long()][:, None, None, None]

    x0 = 0.5 * normal(100, 1, 4, 4, dtype=torch.float32)
    found = chain.bound(sd.EpsNet(Net(), chain.sde()), x0, seed=1, variance="large")
    log_p = (-2.0 * x0.double().square() - 0.5 * math.log(0.5 * math.pi)).flatten(1).sum(1)
    predicted = 4.0 * (chain.beta[1:] * (1.0 / variance[:-1] - 1.0)).square().sum().item()
    gap = found.nats() + log_p
    assert found.terms.dtype == torch.float64
    assert found.dim == 16
    assert gap.mean().item() == pytest.approx(predicted, abs=4.0 * standard_error(gap))
    assert standard_error(gap) < 2.0 * math.sqrt(2.0 * predicted / 100)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"variance": "medium"}, "variance = 'medium'; it must be 'small', 'large' or a table"),
        ({"variance": [1.0, 2.0]}, r"shape \(2,\); a table for k = 0..K has 6 entries"),
        ({"variance": [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]}, r"variance\[3\] = 0; each must be positive"),
        ({"variance": [0.0, 1.0, math.nan, 1.0, 1.0, 1.0]}, r"variance\[2\] = nan"),
        ({"trajectories": 0}, "trajectories = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"ids": [1]}, r"ids has shape \(1,\); there are 2 samples"),
    ],
)
def test_wrong_arguments_are_refused(words: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ODD.weighted_bound(mixture().denoiser(sd.VP()), torch.zeros(2, 3), **{"trajectories": 2, **words})


def test_wrong_data_and_counts_are_refused() -> None:
    denoiser = mixture().denoiser(sd.VP())
    for x0 in (torch.zeros(3), torch.zeros(0, 3), torch.full((2, 3), math.inf)):
        with pytest.raises(ValueError, match=r"must be \(B, \*\), with B >= 1, and finite"):
            ODD.optimal_variances(denoiser, x0)
    found = ODD.weighted_bound(denoiser, torch.zeros(2, 3), trajectories=4)
    for m in (0, 5):
        with pytest.raises(ValueError, match=f"trajectories = {m}; it must lie in 1..4"):
            found.nats(m)
