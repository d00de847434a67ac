"""Training: the loss has its known value and minimum, every draw is a function of (seed, step), EMA is its formula."""

import itertools
import math

import pytest
import torch
from problems import PROCESSES, gaussian, mixture, normal
from torch import Tensor, nn

import scoresde as sd
from scoresde.denoisers import NetDenoiser
from scoresde.nets import MLP
from scoresde.sde import LinearSDE
from scoresde.training import (
    EMA,
    WEIGHTS,
    Batches,
    ChainTimes,
    ContinuousTimes,
    Settings,
    TrainingState,
    denoising_loss,
    train,
    validation_loss,
)
from scoresde.training.loss import chain_vlb, low_discrepancy

each_process = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())


def state_for(
    sde: LinearSDE, *, seed: int = 0, predict=None, ema: tuple[float, ...] = (0.99,), lr: float = 3e-3
) -> TrainingState:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = MLP((2,), width=64, depth=2)
    net = NetDenoiser(module, sde, predict or sd.PredictsEps(), condition=sd.LogSNR(-11, 13), shape=(2,))
    optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=0.0, fused=True)
    return TrainingState(net, optimizer, EMA(module, ema), torch.amp.GradScaler("cpu", enabled=False))


def batches_of(x: Tensor, batch_size: int = 128, **options) -> Batches:
    return Batches(lambda rows: x[rows], len(x), batch_size, **options)


# --- the loss ------------------------------------------------------------------------------------------


@each_process
@pytest.mark.parametrize("weight", WEIGHTS)
def test_the_loss_is_the_weighted_eps_error(sde: LinearSDE, weight: str) -> None:
    law = mixture()
    denoiser, x0, eps = law.denoiser(sde), law.sample(6), normal(6, 3)
    t = torch.tensor([1e-4, 0.1, 0.3, 0.5, 0.7, 0.97], dtype=torch.float64)
    x_t = sde.perturb(x0, t, eps)
    wanted = WEIGHTS[weight](sde.at(t)) * (denoiser.eps(x_t, t) - eps).square().mean(1)
    torch.testing.assert_close(denoising_loss(denoiser, x0, t, eps, WEIGHTS[weight]), wanted, rtol=1e-5, atol=1e-12)


@each_process
def test_the_noise_error_is_score_matching_with_weight_sigma_squared(sde: LinearSDE) -> None:
    """|eps - epshat|^2 = sigma^2 |grad log q(x_t|x_0) - s|^2 (theory 5)."""
    law, t = mixture(), 0.4
    denoiser, x0, eps = law.denoiser(sde), law.sample(6), normal(6, 3)
    x_t, sigma = sde.perturb(x0, t, eps), sde.at(t).sigma
    matching = sigma**2 * (-eps / sigma - denoiser.score(x_t, t)).square().mean(1)
    torch.testing.assert_close(
        denoising_loss(denoiser, x0, torch.full((6,), t, dtype=torch.float64), eps), matching, rtol=1e-9, atol=0
    )


def test_the_weights_are_their_formulas() -> None:
    for sde in PROCESSES.values():
        level = sde.at(0.37)
        snr, rate = (level.alpha / level.sigma) ** 2, level.g2 / level.sigma**2
        wanted = {
            "simple": 1.0,
            "likelihood": rate,
            "vlb": 0.5 * rate,
            "min-snr": min(snr, 5.0) / snr,
            "edm": 1 + level.sigma**2 / (0.25 * level.alpha**2),
        }
        for name, value in wanted.items():
            assert WEIGHTS[name](level) == pytest.approx(value, rel=1e-10), name


@pytest.mark.parametrize("k", [2, 10, 40])
def test_the_chains_weight_is_that_of_the_bound(k: int) -> None:
    chain = sd.DDPM(torch.linspace(1e-3, 0.3, 40))
    weight = chain_vlb(chain.sde(), 40)(chain.sde().at(k / 40))
    assert float(weight) == pytest.approx(40 * chain.eps_weight(k), rel=1e-9)
    first = float(chain_vlb(chain.sde(), 40)(chain.sde().at(1 / 40)))
    assert first == pytest.approx(40 * 0.5 / chain.alpha_bar[1].item())


@each_process
def test_the_exact_denoisers_loss_is_its_posterior_variance(sde: LinearSDE) -> None:
    """E|eps - E[eps|x_t]|^2 = (alpha/sigma)^2 E tr Cov[x0|x_t], and no denoiser does better."""
    law, t, n = mixture(), 0.4, 20_000
    level = sde.at(t)
    x0, eps, times = law.sample(n, 1), normal(n, 3), torch.full((n,), t, dtype=torch.float64)
    exact = denoising_loss(law.denoiser(sde), x0, times, eps)
    trace = torch.einsum("bii->b", law.posterior_covariance(sde.perturb(x0, t, eps), sde, t))
    gap = exact - (level.alpha / level.sigma) ** 2 * trace / 3
    assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(n)
    worse = denoising_loss(gaussian_like(law).denoiser(sde), x0, times, eps)
    assert worse.mean() > exact.mean() + 4 * (worse - exact).std() / math.sqrt(n)


def gaussian_like(law: sd.GaussianMixture) -> sd.GaussianMixture:
    return sd.GaussianMixture([1.0], law.mean()[None], law.covariance()[None])


# --- times and data order ------------------------------------------------------------------------------


def test_low_discrepancy_times_cover_every_bin_once() -> None:
    for u in (0.0, 0.3, 0.999):
        points = low_discrepancy(torch.tensor(u), 50)
        assert (points * 50 + 1e-6).floor().sort().values.tolist() == list(range(50))


def test_chain_times_are_the_indices_of_algorithm_1() -> None:
    k = ChainTimes(10)(torch.arange(1000, dtype=torch.float64) / 1000) * 10
    assert sorted(k.round().unique().tolist()) == list(range(1, 11))
    assert ContinuousTimes()(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([1e-5, 1 - 1e-5])


def test_each_epoch_visits_every_item_once_in_an_order_of_its_own() -> None:
    batches = batches_of(torch.arange(10)[:, None].float(), 4, seed=1)
    seen = torch.cat([batches.at(step)[0].flatten() for step in range(5)]).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    x = normal(10, 2)
    ordered, jumping = batches_of(x, 4, seed=1, flip=True), batches_of(x, 4, seed=1, flip=True)
    wanted = [ordered.at(step)[0] for step in range(9)]
    for step in (8, 2, 5, 0):
        assert torch.equal(jumping.at(step)[0], wanted[step])
    assert not torch.equal(batches_of(x, 4, seed=2).at(0)[0], batches_of(x, 4, seed=1).at(0)[0])


def test_flips_mirror_about_half_of_the_items() -> None:
    x = torch.tensor([[0.0, 1.0]]).expand(1000, 2)
    flipped = batches_of(x, 1000, flip=True).at(0)[0][:, 0]
    assert 440 < flipped.sum() < 560


def test_data_smaller_than_a_batch_is_repeated() -> None:
    x, _ = batches_of(normal(3, 2), 8).at(0)
    assert x.shape == (8, 2)


# --- averages ------------------------------------------------------------------------------------------


def test_the_average_is_its_formula_at_every_horizon() -> None:
    module = nn.Linear(2, 1)
    ema = EMA(module, (0.5, 0.99))
    wanted = [module.weight.detach().clone()] * 2
    for n in range(30):
        with torch.no_grad():
            module.weight.add_(1.0)
        ema.update()
        decays = [min(d, (1 + n) / (10 + n)) for d in (0.5, 0.99)]
        wanted = [d * w + (1 - d) * module.weight.detach() for d, w in zip(decays, wanted, strict=True)]
    for i in range(2):
        torch.testing.assert_close(ema.state(i)["weight"], wanted[i])
    live = module.weight.detach().clone()
    with ema.applied(1):
        torch.testing.assert_close(module.weight, wanted[1])
    assert torch.equal(module.weight, live)


# --- the loop ------------------------------------------------------------------------------------------


def test_training_approaches_the_known_optimum() -> None:
    """On one Gaussian the best loss is known; a small network comes within five per cent of it."""
    law = gaussian(torch.float32)
    x = law.sample(20_000, 1)
    sde, times = sd.VP(), ContinuousTimes()
    state = state_for(sde, ema=(0.99,))
    before = validation_loss(state, lambda rows: x[rows], len(x), seed=0, times=times)
    for _ in train(state, batches_of(x, 256), Settings(steps=600, learning_rate=3e-3, warmup=20)):
        pass
    after = validation_loss(state, lambda rows: x[rows], len(x), seed=0, times=times)
    exact = TrainingState(state.denoiser, state.optimizer, EMA(nn.Linear(1, 1), ()), state.scaler)
    exact.denoiser = law.denoiser(sde)  # type: ignore[assignment]
    optimum = validation_loss(exact, lambda rows: x[rows], len(x), seed=0, times=times)
    assert optimum.loss < after.loss < 1.05 * optimum.loss < before.loss


@pytest.mark.parametrize(
    "kind", [sd.PredictsEps(), sd.PredictsX0(), sd.PredictsV(), sd.PredictsEDM(0.5)], ids=["eps", "x0", "v", "edm"]
)
@pytest.mark.parametrize("process", ["vp", "ve", "rectified-flow"])
def test_every_parameterisation_learns_under_every_kind_of_process(kind, process: str) -> None:
    state = state_for(PROCESSES[process], predict=kind)
    x = gaussian(torch.float32).sample(5000, 1)
    times = ContinuousTimes(1e-3)
    weight = WEIGHTS["min-snr"] if isinstance(kind, sd.PredictsX0) else WEIGHTS["simple"]
    settings = Settings(steps=150, learning_rate=3e-3, warmup=10, times=times, weight=weight)
    score = lambda: validation_loss(state, lambda rows: x[rows], len(x), seed=0, times=ContinuousTimes(0.05)).loss  # noqa: E731
    before = score()
    records = list(train(state, batches_of(x, 256), settings))
    assert len(records) == 150
    assert not any(r.skipped for r in records)
    assert score() < 0.95 * before


def test_micro_batches_take_the_same_step() -> None:
    x = gaussian(torch.float32).sample(500)
    states = [state_for(sd.VP()), state_for(sd.VP())]
    for state, parts in zip(states, (1, 3), strict=True):
        for _ in train(state, batches_of(x, 64), Settings(steps=3, micro_batches=parts)):
            pass
    for a, b in zip(*(s.denoiser.module.parameters() for s in states), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_rate_warms_up_and_decays() -> None:
    settings = Settings(steps=110, learning_rate=1.0, warmup=10, final_rate=0.1)
    assert settings.rate(0) == pytest.approx(0.1)
    assert settings.rate(9) == pytest.approx(1.0)
    assert settings.rate(60) == pytest.approx(0.55)
    assert settings.rate(110) == pytest.approx(0.1)


def test_the_gradient_is_clipped_to_its_limit() -> None:
    state = state_for(sd.VP())
    x = 50 * gaussian(torch.float32).sample(500)
    seen = []
    step = state.optimizer.step
    module = state.denoiser.module
    state.optimizer.step = lambda: (
        seen.append(torch.nn.utils.get_total_norm([p.grad for p in module.parameters()]).item()),
        step(),
    )  # type: ignore[assignment,func-returns-value,misc]
    records = list(train(state, batches_of(x, 64), Settings(steps=3, clip=1e-3)))
    assert all(r.gradient_norm > 1e-3 for r in records)
    assert seen == pytest.approx([1e-3] * 3, rel=1e-4)


def test_steps_that_are_not_finite_are_skipped_counted_and_at_last_an_error() -> None:
    x = gaussian(torch.float32).sample(500)
    poison = {"on": False}

    def fetch(rows: Tensor) -> Tensor:
        return x[rows] * (math.nan if poison["on"] else 1.0)

    state = state_for(sd.VP())
    settings = Settings(steps=100, max_skipped=4)
    loop = train(state, Batches(fetch, len(x), 32), settings)
    for _ in itertools.islice(loop, 3):
        pass
    kept = [p.detach().clone() for p in state.denoiser.module.parameters()]
    poison["on"] = True
    assert next(loop).skipped
    assert all(torch.equal(a, b) for a, b in zip(kept, state.denoiser.module.parameters(), strict=True))
    poison["on"] = False
    assert not next(loop).skipped
    assert (state.skipped, state.skipped_in_a_row) == (1, 0)
    poison["on"] = True
    with pytest.raises(sd.NumericalError, match="4 steps in a row, up to step 9"):
        list(loop)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_learns(dtype: torch.dtype) -> None:
    state = state_for(sd.VP())
    state.scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16)
    x = gaussian(torch.float32).sample(2000)
    losses = [r.loss for r in train(state, batches_of(x, 128), Settings(steps=150, learning_rate=3e-3, autocast=dtype))]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps = 0"),
        ({"steps": 1, "learning_rate": 0.0}, "learning_rate = 0"),
        ({"steps": 1, "clip": 0.0}, "clip = 0"),
        ({"steps": 1, "final_rate": 2.0}, "final_rate = 2"),
        ({"steps": 1, "micro_batches": 0}, "micro_batches = 0"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**arguments)


def test_wrong_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="EMA decay = 1"):
        EMA(nn.Linear(1, 1), (1.0,))
    with pytest.raises(ValueError, match="0 items"):
        Batches(lambda rows: rows, 0, 4)
    with pytest.raises(ValueError, match="t_min = 0"):
        ContinuousTimes(0.0)
    with pytest.raises(ValueError, match="steps = 0"):
        ChainTimes(0)
