"""Log-likelihoods by the probability flow, against exact densities."""

import math

import pytest
import torch
from problems import PROCESSES, gaussian, mixture
from torch import Tensor, nn

import scoresde as sd
from scoresde.denoisers import Wrapped
from scoresde.errors import NumericalError
from scoresde.likelihood import matched_gaussian
from scoresde.likelihood.multistep import quadrature
from scoresde.sde import Level

SEEDS = 300


def exact(name: str) -> sd.GaussianMixture:
    """The named mixture in float64."""
    law = sd.MIXTURES[name]()
    return sd.GaussianMixture(law.weights, law.means, law.eigenvalues, dtype=torch.float64)


GRID25, MODES64 = exact("grid25"), exact("modes64")
SKEW = sd.GaussianMixture([0.3, 0.7], [[-1.0, 0.2], [0.8, -0.5]], [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]]])


def worst(law: sd.GaussianMixture, sde: sd.LinearSDE, n: int, **choices) -> float:
    x = law.sample(n, seed=1)
    return (sd.log_likelihood(law.denoiser(sde), x, **choices) - law.log_prob(x)).abs().max().item()


# --- the bars: defaults, and when more is asked --------------------------------------------------------


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
def test_defaults_are_within_a_thousandth_of_a_nat_in_the_plane(sde: sd.LinearSDE) -> None:
    assert worst(GRID25, sde, 256) < 1e-3


def test_defaults_are_within_a_hundredth_of_a_nat_in_64_dimensions() -> None:
    assert worst(MODES64, sd.VP(), 64) < 1e-2


@pytest.mark.parametrize("name", ["vp", "ve", "edm", "cosine", "sub-vp", "rectified-flow"])
def test_a_tolerance_is_met_by_every_sample(name: str) -> None:
    x = GRID25.sample(32, seed=1)
    # its own law at t = 1: of the matched Gaussian, 20 times as wide as the data under VE, 1e-4 nats are left
    found = sd.converged_likelihood(GRID25.denoiser(PROCESSES[name]), x, tolerance=1e-4, terminal=GRID25)
    assert bool(found.settled.all())
    assert (found.nats - GRID25.log_prob(x)).abs().max() < 1e-4
    assert (found.change <= 1e-4).all()
    assert (found.steps >= 120).all()  # one small change may be chance: two doublings at least


def test_a_tolerance_is_met_in_64_dimensions() -> None:
    x = MODES64.sample(1, seed=1)
    found = sd.converged_likelihood(MODES64.denoiser(sd.VP()), x, tolerance=1e-4, terminal=MODES64)
    assert bool(found.settled.all())
    assert (found.nats - MODES64.log_prob(x)).abs().max() < 1e-4


def test_runge_kutta_throughout_makes_do_with_fewer_steps() -> None:
    x = GRID25.sample(256, seed=1)
    adams, careful = (
        sd.flow_likelihood(GRID25.denoiser(sd.VP()), x, steps=60, runge_kutta=choice) for choice in (False, True)
    )
    errors = [(found.nats - GRID25.log_prob(x)).abs() for found in (adams, careful)]
    assert errors[1].max() < 0.25 * errors[0].max()
    assert (adams.evaluations, careful.evaluations) == (61 + 9, 61 + 180)


def test_samples_take_as_many_steps_as_each_needs() -> None:
    x = GRID25.sample(4, seed=1)
    together = sd.converged_likelihood(GRID25.denoiser(sd.VP()), x, tolerance=1e-5, batch_size=1)
    assert len(together.steps.unique()) > 1
    alone = sd.converged_likelihood(GRID25.denoiser(sd.VP()), x[2:3], tolerance=1e-5, batch_size=1)
    assert alone.nats.item() == together.nats[2].item()
    assert alone.steps.item() == together.steps[2].item()


def test_what_does_not_settle_says_so() -> None:
    x = GRID25.sample(4, seed=1)
    found = sd.converged_likelihood(GRID25.denoiser(sd.VP()), x, tolerance=1e-14, steps=20, doublings=2)
    assert not bool(found.settled.any())
    assert (found.steps == 80).all()
    assert (found.change > 1e-14).all()
    assert list(found.problems) == [0, 1, 2, 3]
    assert "sample 2 did not settle within 1e-14 nats: the last doubling, to 80 steps, leaves" in found.problems[2]


def test_what_is_not_finite_is_named_and_the_others_settle() -> None:
    class Broken(Wrapped):
        def predict(self, x: Tensor, t: Level) -> Tensor:
            return torch.where(x.abs().amax(1, keepdim=True) > 50, torch.nan, self.inner.predict(x, t))

    law = sd.GaussianMixture([1.0], [[0.0, 0.0]], [[1.0, 1.0]])
    x = torch.tensor([[0.0, 1.0], [90.0, 0.0]], dtype=torch.float64)
    found = sd.converged_likelihood(Broken(law.denoiser(sd.VP())), x, tolerance=1e-4)
    assert found.settled.tolist() == [True, False]
    assert found.nats.isfinite().tolist() == [True, False]
    assert list(found.problems) == [1]
    assert "sample 1 is not finite" in found.problems[1]
    torch.testing.assert_close(found.nats[0], law.log_prob(x)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("max_log_snr", [8.0, 4.0])
def test_a_noisier_start_has_the_density_of_data_in_that_noise(max_log_snr: float) -> None:
    # nothing has died away at that end of the integral, so that the rule's own order shows
    x, rho = GRID25.sample(64, seed=1), math.exp(-0.5 * max_log_snr)
    noisy = sd.GaussianMixture(GRID25.weights, GRID25.means, GRID25.eigenvalues + rho**2)
    for name in ("vp", "sub-vp", "edm"):
        found = sd.flow_likelihood(GRID25.denoiser(PROCESSES[name]), x, max_log_snr=max_log_snr, terminal=GRID25)
        assert found.max_log_snr == max_log_snr
        error = (found.nats - noisy.log_prob(x)).abs()
        assert error.max() < 1e-3
        assert error.median() < 5e-6


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 12])
def test_the_quadrature_is_exact_for_polynomials(steps: int) -> None:
    weights = torch.tensor(quadrature(steps), dtype=torch.float64)
    k = torch.arange(steps + 1, dtype=torch.float64)
    for power in range(4 if steps >= 5 else 2):
        assert (weights * k**power).sum().item() == pytest.approx(steps ** (power + 1) / (power + 1), rel=1e-12)


def test_the_order_of_the_walk_shows() -> None:
    errors = [worst(SKEW, sd.VP(), 50, steps=steps) for steps in (20, 40, 80)]
    assert errors[0] > 8 * errors[1] > 64 * errors[2]


def test_densities_transform_as_densities_do() -> None:
    scale, shift = 3.0, torch.tensor([0.5, -2.0], dtype=torch.float64)
    moved = sd.GaussianMixture(SKEW.weights, scale * SKEW.means + shift, scale**2 * SKEW.covariances)
    x = SKEW.sample(40, seed=2)
    before = sd.log_likelihood(SKEW.denoiser(sd.VP()), x)
    after = sd.log_likelihood(moved.denoiser(sd.VE()), scale * x + shift)
    torch.testing.assert_close(after, before - 2 * math.log(scale), rtol=0, atol=1e-3)


# --- random probes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gaussian", [False, True])
@pytest.mark.parametrize("follow", [False, True])
def test_probes_are_unbiased_and_their_standard_error_is_right(gaussian: bool, follow: bool) -> None:
    law = mixture(dim=4)
    x = law.sample(6, seed=3)
    repeated = x.repeat(SEEDS, 1)  # sample ids differ, and so do their probes
    choices = {"divergence": sd.Hutchinson(2, gaussian, follow), "steps": 60}
    found = sd.flow_likelihood(law.denoiser(sd.VP()), repeated, **choices)
    nats, error = found.nats.view(SEEDS, 6), found.standard_error.view(SEEDS, 6)
    truth = sd.log_likelihood(law.denoiser(sd.VP()), x, steps=60)
    spread = nats.std(0)
    assert ((nats.mean(0) - truth).abs() < 4.5 * spread / math.sqrt(SEEDS) + 1e-9).all()
    # the relative error of a standard deviation of 300 normal values is 4 %; products of normals have long tails
    torch.testing.assert_close(error.square().mean(0).sqrt(), spread, rtol=0.45 if gaussian else 0.25, atol=1e-9)


def test_following_a_direction_pays() -> None:
    x = MODES64.sample(16, seed=4)
    plain, followed = (
        sd.flow_likelihood(MODES64.denoiser(sd.VP()), x, divergence=sd.Hutchinson(2, follow=follow), steps=60)
        for follow in (False, True)
    )
    assert followed.standard_error.square().mean() < 0.5 * plain.standard_error.square().mean()


def test_more_probes_have_less_error_as_the_square_root() -> None:
    x = SKEW.sample(200, seed=3)
    two, eight = (
        sd.flow_likelihood(SKEW.denoiser(sd.VP()), x, divergence=sd.Hutchinson(p, follow=False), steps=40)
        for p in (2, 8)
    )
    ratio = (two.standard_error.square().mean() / eight.standard_error.square().mean()).item()
    assert 3.2 < ratio < 5.0


def test_the_exact_trace_has_no_error_of_its_own() -> None:
    found = sd.flow_likelihood(SKEW.denoiser(sd.VP()), SKEW.sample(3), divergence=sd.ExactTrace(), steps=20)
    assert (found.standard_error == 0).all()
    assert found.evaluations == 20 + 1 + 9
    assert found.products == 2 * 21


# --- samples are on their own --------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", [sd.ExactTrace(), sd.Hutchinson(), sd.Hutchinson(follow=True)], ids=str)
def test_a_sample_does_not_see_its_companions(divergence) -> None:
    denoiser, x = SKEW.denoiser(sd.VP()), SKEW.sample(7, seed=5)
    ids = torch.tensor([11, 4, 9, 2, 30, 8, 1])
    whole = sd.flow_likelihood(denoiser, x, divergence=divergence, ids=ids, batch_size=3, steps=20)
    other = sd.flow_likelihood(denoiser, x[[5, 2]], divergence=divergence, ids=[8, 9], batch_size=3, steps=20)
    assert other.nats.tolist() == whole.nats[[5, 2]].tolist()
    assert other.standard_error.tolist() == whole.standard_error[[5, 2]].tolist()


def test_probes_depend_on_the_seed_and_nothing_else() -> None:
    denoiser, x = SKEW.denoiser(sd.VP()), SKEW.sample(3, seed=5)
    a, b, c = (sd.log_likelihood(denoiser, x, divergence=sd.Hutchinson(), seed=s, steps=20) for s in (1, 1, 2))
    assert a.tolist() == b.tolist()
    assert (a != c).all()


# --- the ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
def test_the_flow_ends_where_the_exact_map_does(sde: sd.LinearSDE) -> None:
    law = gaussian()
    x = law.sample(20, seed=2)
    found = sd.flow_likelihood(law.denoiser(sde), x, steps=240)
    torch.testing.assert_close(found.x1, law.flow(x, sde, 0.0, 1.0), rtol=0, atol=5e-6 * sde.prior_std())


@pytest.mark.filterwarnings("ignore::scoresde.sde.ProcessWarning")
def test_the_priors_mismatch_is_corrected_and_told() -> None:
    sde = sd.VP(beta_max=4.0)  # alpha(1) = 0.36: the data still show
    law = sd.GaussianMixture([1.0], [[2.0, -1.0]], [[0.5, 0.1]])
    x = law.sample(50, seed=6)
    found = sd.flow_likelihood(law.denoiser(sde), x)
    torch.testing.assert_close(found.nats, law.log_prob(x), rtol=0, atol=1e-4)
    under_prior = torch.distributions.Normal(torch.zeros(2).double(), sde.prior_std()).log_prob(found.x1).sum(1)
    torch.testing.assert_close(found.prior, under_prior, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.terminal + found.divergence, found.nats, rtol=0, atol=1e-9)
    # on average the mismatch is KL(law of x(1) || prior)
    expected = sd.gaussian_kl(*_moments(law.diffuse(sde, 1.0)), torch.zeros(2).double(), _prior_covariance(sde))
    error = found.mismatch.std().item() / math.sqrt(50)
    assert found.mismatch.mean().item() == pytest.approx(float(expected), abs=4 * error)
    assert found.mismatch.mean().item() > 0.1


def _moments(law: sd.GaussianMixture) -> tuple[Tensor, Tensor]:
    return law.mean(), law.covariance()


def _prior_covariance(sde: sd.LinearSDE) -> Tensor:
    return sde.prior_std() ** 2 * torch.eye(2, dtype=torch.float64)


def test_a_terminal_law_of_the_users_own_is_taken() -> None:
    x = SKEW.sample(4000, seed=7)
    denoiser = SKEW.denoiser(sd.VP(beta_max=8.0))
    own = sd.flow_likelihood(denoiser, x[:20])
    fitted = sd.flow_likelihood(denoiser, x[:20], terminal=matched_gaussian(x))
    torch.testing.assert_close(own.nats, fitted.nats, rtol=0, atol=5e-3)
    assert (own.nats != fitted.nats).all()


# --- gradients -----------------------------------------------------------------------------------------


def test_the_gradient_is_the_score() -> None:
    x = SKEW.sample(8, seed=8).requires_grad_()
    sd.log_likelihood(SKEW.denoiser(sd.VP()), x, differentiable=True).sum().backward()
    score = torch.autograd.functional.jacobian(lambda y: SKEW.log_prob(y).sum(), x.detach())
    torch.testing.assert_close(x.grad, score, rtol=1e-3, atol=1e-3)


class Small(nn.Module):
    """A network of two layers that is told the level."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.outer(torch.tanh(self.inner(torch.cat([x, c[:, None] / 10], 1))))


def test_a_network_has_a_likelihood_with_gradients_for_its_parameters() -> None:
    denoiser = sd.NetDenoiser(Small(), sd.VP(), sd.PredictsV(), shape=(2,))
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    found = sd.flow_likelihood(denoiser, x)
    finer = sd.log_likelihood(denoiser, x, steps=480)
    torch.testing.assert_close(found.nats, finer, rtol=0, atol=2e-3)
    assert found.nats.dtype == torch.float64
    assert math.isfinite(found.max_log_snr)
    sd.log_likelihood(denoiser, x, steps=10, differentiable=True).mean().backward()
    for parameter in denoiser.parameters():
        assert bool(parameter.grad.isfinite().all())
    assert denoiser.module.inner.weight.grad.norm() > 0


def test_nothing_of_the_graph_is_kept_unless_asked() -> None:
    denoiser = sd.NetDenoiser(Small(), sd.VP(), sd.PredictsV(), shape=(2,))
    assert not sd.log_likelihood(denoiser, torch.zeros(2, 2), steps=5).requires_grad


# --- what goes wrong -----------------------------------------------------------------------------------


class Broken(nn.Module):
    """Answers nan far from the origin."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return torch.where(x.norm(dim=1, keepdim=True) > 50, torch.nan, 0.0 * x)


def test_a_sample_that_fails_is_named_and_the_rest_goes_on() -> None:
    denoiser = sd.NetDenoiser(Broken(), sd.VP(), sd.PredictsEps(), shape=(2,))
    x = torch.tensor([[0.1, 0.2], [80.0, 0.0], [0.3, 0.0]])
    found = sd.flow_likelihood(denoiser, x, steps=20)
    assert list(found.problems) == [1]
    assert "sample 1" in found.problems[1]
    assert found.nats.isfinite().tolist() == [True, False, True]
    alone = sd.flow_likelihood(denoiser, x[[0, 2]], steps=20)
    torch.testing.assert_close(found.nats[[0, 2]], alone.nats)
    with pytest.raises(NumericalError, match="sample 1"):
        sd.log_likelihood(denoiser, x, steps=20)


@pytest.mark.parametrize(
    ("x", "choices", "message"),
    [
        (torch.zeros(3), {}, "give"),
        (torch.zeros(0, 2), {}, "at least one"),
        (torch.zeros(3, 4), {}, r"shape \(4,\)"),
        (torch.tensor([[0.0, math.nan]]), {}, "sample 0"),
        (torch.zeros(3, 2), {"steps": 0}, "steps = 0"),
        (torch.zeros(3, 2), {"batch_size": 0}, "batch_size = 0"),
        (torch.zeros(3, 2), {"ids": [1, 2]}, "names 2"),
        (torch.zeros(3, 2), {"max_log_snr": -30.0}, "max_log_snr"),
        (torch.zeros(3, 2), {"terminal": MODES64}, "64 dimensions"),
    ],
)
def test_wrong_arguments_are_refused_in_words(x: Tensor, choices: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sd.flow_likelihood(SKEW.denoiser(sd.VP()), x.double(), **choices)


def test_one_probe_is_refused() -> None:
    with pytest.raises(ValueError, match="2 or more"):
        sd.Hutchinson(probes=1)


# --- grey levels ---------------------------------------------------------------------------------------


class Constant(sd.Wrapped):
    """The denoiser as it is, to be sure that a wrapped one has the same likelihood."""

    def predict(self, x: Tensor, t: Level) -> Tensor:
        return self.inner.predict(x, t)


def test_a_wrapped_denoiser_has_the_same_likelihood() -> None:
    x = SKEW.sample(4)
    inner = SKEW.denoiser(sd.VP())
    assert sd.log_likelihood(Constant(inner), x).tolist() == sd.log_likelihood(inner, x).tolist()


@pytest.mark.parametrize("pixels", [sd.Pixels(256), sd.Pixels(17), sd.Pixels(5, 0.0, 1.0)], ids=str)
def test_weighted_dequantisation_tends_to_the_mass_of_a_level(pixels: sd.Pixels) -> None:
    std, dim, draws = 0.4 * (pixels.high - pixels.low), 3, 400
    index = torch.tensor([[0, 1, 2], [3, 3, 1]])
    x = pixels.low + pixels.width * index.double()
    law = torch.distributions.Normal(0.3, std)
    exactly = (law.cdf(x + 0.5 * pixels.width) - law.cdf(x - 0.5 * pixels.width)).log().sum(1)
    nats = torch.stack([law.log_prob(pixels.dequantise(x, seed=1, draw=j)).sum(1) for j in range(draws)])
    weighted = pixels.log_probability(nats, dim)
    weights = (nats - nats.mean(0)).exp()
    error = weights.std(0) / weights.mean(0) / math.sqrt(draws)
    assert ((weighted - exactly).abs() < 4 * error).all()
    one = torch.stack([pixels.log_probability(row[None], dim) for row in nats])
    assert (one.mean(0) <= weighted).all()  # Jensen


def test_dequantised_values_stay_in_their_cell_and_depend_on_the_draw() -> None:
    pixels, x = sd.Pixels(16), torch.zeros(500, 3)
    a, again, b = (pixels.dequantise(x, draw=j) for j in (0, 0, 1))
    assert torch.equal(a, again)
    assert not torch.equal(a, b)
    assert a.abs().max() <= 0.5 * pixels.width
    assert a.std().item() == pytest.approx(pixels.width / math.sqrt(12), rel=0.05)
    assert torch.equal(pixels.dequantise(x[:2], ids=torch.tensor([7, 9])), a[[7, 9]])


def test_bits_per_dim_of_eight_bit_data_have_the_scale_term() -> None:
    nats = torch.tensor([-6.0, 3.0], dtype=torch.float64)
    expected = -nats / (12 * math.log(2.0)) + math.log2(127.5)
    torch.testing.assert_close(sd.Pixels().bits_per_dim(nats, 12), expected)
    by_probability = -sd.Pixels().log_probability(nats[None], 12) / (12 * math.log(2.0))
    torch.testing.assert_close(by_probability, expected)


@pytest.mark.parametrize(("choices", "message"), [({"levels": 1}, "levels = 1"), ({"low": 1.0}, "range")])
def test_pixels_without_levels_or_range_are_refused(choices: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sd.Pixels(**choices)
