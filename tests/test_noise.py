"""Counter-based noise: known answers, independence of company, exact laws."""

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from scoresde import _philox
from scoresde.noise import BrownianNoise, CounterNoise, Noise, normal, philox4x32, philox_word, uniform

DTYPES = [torch.float32, torch.float64]
SIZES = [1, 2, 3, 5, 7, 9, 33, 784, 1000]
BOTH = pytest.mark.parametrize("numbers", [uniform, normal])
BY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])

KNOWN_ANSWERS = {  # Random123, kat_vectors, philox4x32 10
    "zeros": ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
}


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


def block_words(seed: int, sample: int, blocks: int, step: int, stream: int) -> np.ndarray:
    """Words (blocks, 4) as exact Python integers, straight from the definition of the counter."""
    counter = (torch.arange(blocks), *(torch.tensor([word]) for word in (step, sample, stream)))
    return torch.stack(philox4x32(counter, (seed % 2**32, seed >> 32)), 1).numpy().astype(object)


def reference_normals(seed: int, sample: int, size: int, step: int, stream: int, dtype: torch.dtype) -> list[float]:
    """The documented formula, one number at a time."""
    w = block_words(seed, sample, size, step, stream)
    if dtype == torch.float32:
        polar = [((b[p] + 0.5) / 2**32, b[p + 1] / 2**32) for b in w for p in (0, 2)]
    else:
        polar = [(((b[0] << 32 | b[1]) // 2**12 + 0.5) / 2**52, (b[2] << 32 | b[3]) / 2**64) for b in w]
    pairs = [(math.sqrt(-2 * math.log(u)), 2 * math.pi * v) for u, v in polar]
    return [r * trig(a) for r, a in pairs for trig in (math.cos, math.sin)][:size]


# Words


@pytest.mark.parametrize("case", KNOWN_ANSWERS)
def test_philox_gives_the_known_answers_of_random123(case: str) -> None:
    counter, key, answer = map(words, KNOWN_ANSWERS[case])
    assert tuple(int(w) for w in philox4x32(tuple(map(torch.tensor, counter)), key)) == answer
    assert philox_word(key[1] << 32 | key[0], *counter) == answer[0] << 32 | answer[1]


def test_philox_broadcasts_its_counter() -> None:
    block, sample, zero = torch.arange(3), torch.arange(2)[:, None], torch.tensor(0)
    grid = torch.stack(philox4x32((block, zero, sample, zero), (1, 2)), -1)
    assert grid.shape == (2, 3, 4)
    assert int(grid[1, 2, 0]) << 32 | int(grid[1, 2, 1]) == philox_word(2 << 32 | 1, 2, 0, 1)


@BY_DTYPE
@pytest.mark.parametrize("size", [1, 6, 4099])
def test_normals_follow_the_documented_formula(dtype: torch.dtype, size: int) -> None:
    seed, ids = 2**63 + 12345, [0, 7, 2**32 - 1]
    z = normal(seed, torch.tensor(ids), (size,), step=2**32 - 1, stream=3, dtype=dtype)
    truth = torch.tensor([reference_normals(seed, i, size, 2**32 - 1, 3, dtype) for i in ids], dtype=torch.float64)
    assert z.dtype == dtype
    assert (z - truth).abs().max() < (2e-6 if dtype == torch.float32 else 4e-15)


def test_uniforms_follow_the_documented_formula() -> None:
    w = block_words(9, 4, 5, 6, 8)
    single = uniform(9, torch.tensor([4]), (20,), step=6, stream=8)
    double = uniform(9, torch.tensor([4]), (10,), step=6, stream=8, dtype=torch.float64)
    assert single[0].tolist() == [float(np.float32((word + 0.5) / 2**32)) for word in w.ravel()]
    assert double[0].tolist() == [((b[p] << 32 | b[p + 1]) // 2**12 + 0.5) / 2**52 for b in w for p in (0, 2)]


@BY_DTYPE
@pytest.mark.parametrize("step", [2, torch.arange(2**32 - 20, 2**32)], ids=["one", "each"])
def test_the_path_for_accelerators_agrees_with_the_one_for_the_cpu(dtype: torch.dtype, step) -> None:
    at = _philox.Address(seed=5, ids=torch.arange(40, 60), blocks=300, step=step, stream=1)
    elsewhere = _philox._box_muller(_philox._pairs(at), dtype).flatten(2)
    assert (_philox.normal_blocks(at, dtype, []) - elsewhere).abs().max() < 8 * torch.finfo(dtype).eps


# Independence of company


@BOTH
@BY_DTYPE
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_sample_is_bitwise_the_same_in_any_company(numbers, dtype, size, threads) -> None:
    draw = partial(numbers, 11, shape=(size,), step=4, dtype=dtype)
    alone = torch.cat([draw(ids=torch.tensor([i])) for i in range(17)])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for n in range(1, 18):
            assert torch.equal(draw(ids=torch.arange(n)), alone[:n])
            assert torch.equal(draw(ids=torch.arange(17 - n, 17).flip(0)), alone[17 - n :].flip(0))
        crowd = torch.arange(40_000 // size) % 17  # enough for torch to use both threads
        assert torch.equal(draw(ids=crowd), alone[crowd])
    finally:
        torch.set_num_threads(before)


@BY_DTYPE
@pytest.mark.parametrize("chunk", [64, 192, 1024])
def test_normals_do_not_depend_on_how_the_work_is_cut(monkeypatch, dtype, chunk) -> None:
    ids = torch.arange(7)
    whole = normal(0, ids, (1500,), dtype=dtype)
    monkeypatch.setattr(_philox, "CHUNK", chunk)
    assert torch.equal(normal(0, ids, (1500,), dtype=dtype), whole)


@BY_DTYPE
@pytest.mark.parametrize("size", SIZES)
def test_vector_loops_are_never_left_a_remainder(monkeypatch, dtype, size) -> None:
    lanes, fill = [], _philox._fill_polar
    monkeypatch.setattr(_philox, "_fill_polar", lambda *arrays: (lanes.append(arrays[-1].size), fill(*arrays)))
    for n in range(1, 18):
        normal(0, torch.arange(n), (size,), dtype=dtype)
    assert len(lanes) == 17
    assert not any(lane % 64 for lane in lanes)


@BOTH
@BY_DTYPE
def test_a_short_sample_is_a_prefix_of_a_long_one(numbers, dtype) -> None:
    ids = torch.arange(3)
    long = numbers(1, ids, (64,), dtype=dtype)
    assert torch.equal(numbers(1, ids, (20,), dtype=dtype), long[:, :20])
    assert torch.equal(numbers(1, ids, (4, 16), dtype=dtype), long.view(3, 4, 16))


@BY_DTYPE
@pytest.mark.parametrize("blocks", [2, 3000])
def test_a_step_for_each_sample_is_that_step(dtype: torch.dtype, blocks: int) -> None:
    ids, steps = torch.tensor([5, 9, 5]), torch.tensor([2, 2**32 - 1, 0])
    each = _philox.normal_blocks(_philox.Address(1, ids, blocks, steps, 4), dtype, [])
    for i, step in enumerate(steps.tolist()):
        alone = _philox.normal_blocks(_philox.Address(1, ids[i : i + 1], blocks, step, 4), dtype, [])
        assert torch.equal(each[i], alone[0])


def test_a_work_space_serves_draws_of_any_size() -> None:
    spare: list[np.ndarray] = []
    for blocks in (3, 5000, 40):
        at = _philox.Address(1, torch.arange(7), blocks, 0, 0)
        assert torch.equal(
            _philox.normal_blocks(at, torch.float32, spare), _philox.normal_blocks(at, torch.float32, [])
        )


@BOTH
@BY_DTYPE
@pytest.mark.parametrize(
    "other", [{"seed": 2}, {"seed": 1 + 2**32}, {"ids": torch.tensor([6])}, {"step": 3}, {"stream": 1}], ids=str
)
def test_another_seed_sample_step_or_stream_gives_other_numbers(numbers, dtype, other) -> None:
    here = {"seed": 1, "ids": torch.tensor([5]), "shape": (1000,), "step": 2, "stream": 0, "dtype": dtype}
    assert torch.isin(numbers(**here), numbers(**{**here, **other})).sum() <= 1


@BOTH
@pytest.mark.parametrize(("n", "shape"), [(3, ()), (0, (2, 3)), (3, (0,)), (3, (5,)), (2, (1, 3, 2))], ids=str)
def test_shapes_are_kept_and_results_contiguous(numbers, n, shape) -> None:
    x = numbers(0, torch.arange(n), shape)
    assert x.shape == (n, *shape)
    assert x.is_contiguous()


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    uniform(0, torch.arange(3), (5,))
    CounterNoise(0, torch.arange(3), (5,)).at(0, 1.0, 0.5)()
    BrownianNoise(0, torch.arange(3), (5,)).at(0, 1.0, 0.5)()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


# Tails


@BY_DTYPE
def test_uniforms_stay_inside_the_open_interval_at_the_extreme_words(monkeypatch, dtype) -> None:
    monkeypatch.setattr(_philox, "_pairs", lambda at: torch.tensor([[[0, -1]]]))
    u = uniform(0, torch.tensor([0]), (4 if dtype == torch.float32 else 2,), dtype=dtype)[0]
    bits, below = (32, 1 - 2**-24) if dtype == torch.float32 else (52, 1 - 2**-53)
    assert u[0] == 2 ** -(bits + 1)
    assert u[-1] == below


@BY_DTYPE
@pytest.mark.parametrize("path", ["cpu", "elsewhere"])
def test_radii_are_accurate_at_both_ends(monkeypatch, dtype, path) -> None:
    bits = 32 if dtype == torch.float32 else 52
    for word, log_u in ((0, math.log(2 ** -(bits + 1))), (-1, math.log1p(-(2 ** -(bits + 1))))):
        pair = [word << 32, word << 32] if dtype == torch.float32 else [word, 0]  # with 0 for the angle
        if path == "cpu":
            fill = np.array(pair)[:, None].view(np.uint64)
            monkeypatch.setattr(_philox, "_fill_pairs", lambda S, *rest, fill=fill: np.copyto(S, fill))
            z = normal(0, torch.tensor([0]), (2,), dtype=dtype)[0]
        else:
            z = _philox._box_muller(torch.tensor([[pair]]), dtype).flatten()[:2]
        assert z[0].item() == pytest.approx(math.sqrt(-2 * log_u), rel=4 * torch.finfo(dtype).eps)
        assert z[1] == 0


# Laws, in standard errors


@BY_DTYPE
def test_a_million_normals_have_the_normal_law(dtype: torch.dtype) -> None:
    z = normal(2024, torch.arange(1000), (1000,), dtype=dtype).double().numpy().ravel()
    n = z.size
    assert abs(z.mean()) * math.sqrt(n) < 4
    assert abs((z**2).mean() - 1) / math.sqrt(2 / n) < 4
    assert abs((z**3).mean()) / math.sqrt(15 / n) < 4
    assert abs((z**4).mean() - 3) / math.sqrt(96 / n) < 4
    assert stats.kstest(z, "norm").pvalue > 0.01


@BY_DTYPE
def test_a_million_uniforms_have_the_uniform_law(dtype: torch.dtype) -> None:
    u = uniform(2024, torch.arange(1000), (1000,), dtype=dtype).double().numpy().ravel()
    assert abs(u.mean() - 0.5) * math.sqrt(12 * u.size) < 4
    assert abs((u**2).mean() - 1 / 3) / math.sqrt(4 / 45 / u.size) < 4
    assert stats.kstest(u, "uniform").pvalue > 0.01


def correlation(a: Tensor, b: Tensor) -> float:
    """Correlation of standard normal numbers, in units of its standard error."""
    return float((a.double() * b.double()).mean()) * math.sqrt(a.numel())


@BY_DTYPE
@pytest.mark.parametrize("power", [1, 2])
def test_neighbours_are_uncorrelated(dtype: torch.dtype, power: int) -> None:
    def draw(seed: int = 3, first: int = 0, **place: int) -> Tensor:
        z = normal(seed, torch.arange(first, first + 400), (500,), dtype=dtype, **place)
        return z if power == 1 else (z**2 - 1) / math.sqrt(2)

    z = draw()
    for d in (1, 2, 3, 4, 8, 16):
        neighbours = [draw(first=d), draw(step=d), draw(stream=d), draw(seed=3 + d), draw(seed=3 + (d << 32))]
        assert max(abs(correlation(z, other)) for other in neighbours) < 4
        assert abs(correlation(z[:, d:], z[:, :-d])) < 4


# Noise objects


def test_counter_noise_draws_what_normal_gives() -> None:
    ids, shape = torch.tensor([3, 1, 4]), (2, 5)
    noise = CounterNoise(8, ids, shape, torch.float64)
    assert torch.equal(noise.start(), normal(8, ids, shape, dtype=torch.float64))
    draw = noise.at(17, 0.5, 0.25)
    assert torch.equal(draw(), normal(8, ids, shape, step=17, stream=1, dtype=torch.float64))
    assert torch.equal(draw(1), normal(8, ids, shape, step=17, stream=2, dtype=torch.float64))


def test_a_draw_owns_its_memory_and_can_be_repeated() -> None:
    draw = CounterNoise(8, torch.arange(3), (5,)).at(0, 1.0, 0.5)
    z = draw()
    kept = z.clone()
    z.zero_()
    assert torch.equal(draw(), kept)


def test_threads_may_share_one_noise() -> None:
    noise = CounterNoise(8, torch.arange(64), (784,))
    alone = [noise.at(step, 1.0, 0.5)() for step in range(40)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda step: noise.at(step, 1.0, 0.5)(), range(40)))
    assert all(map(torch.equal, alone, together))


def test_noise_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Noise()  # type: ignore[abstract]


IDS = torch.arange(2)


@pytest.mark.parametrize("make", [uniform, normal, CounterNoise, BrownianNoise])
@pytest.mark.parametrize(
    ("seed", "ids", "shape", "dtype", "error", "says"),
    [
        (-1, IDS, (2,), torch.float32, ValueError, r"seed must be in \[0, 2\^64\), got -1"),
        (2**64, IDS, (2,), torch.float32, ValueError, r"seed must be in \[0, 2\^64\)"),
        (0.5, IDS, (2,), torch.float32, TypeError, "seed must be an integer, got 0.5"),
        (0, IDS - 1, (2,), torch.float32, ValueError, r"ids must be in \[0, 2\^32\), got -1"),
        (0, IDS + 2**32, (2,), torch.float32, ValueError, r"ids must be in \[0, 2\^32\)"),
        (0, IDS.int(), (2,), torch.float32, ValueError, "ids must be a 1-D int64 tensor, got torch.int32"),
        (0, IDS[None], (2,), torch.float32, ValueError, r"ids must be a 1-D int64 tensor, .* shape \(1, 2\)"),
        (0, IDS, (2,), torch.float16, ValueError, "torch.float32 or torch.float64, got torch.float16"),
        (0, IDS, (2**35,), torch.float32, ValueError, r"at most 2\^32 blocks .* got 8589934592"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, seed, ids, shape, dtype, error, says) -> None:
    with pytest.raises(error, match=says):
        make(seed, ids, shape, dtype=dtype)


def test_steps_streams_and_counter_words_out_of_range_are_refused() -> None:
    noise = CounterNoise(0, IDS, (2,))
    with pytest.raises(ValueError, match=r"step must be in \[0, 2\^32\), got -1"):
        noise.at(-1, 1.0, 0.5)
    for other in (noise, BrownianNoise(0, IDS, (2,))):
        with pytest.raises(ValueError, match=r"draw must be in \[0, 2\^31\), got -1"):
            other.at(0, 1.0, 0.5)(-1)
    with pytest.raises(ValueError, match=r"stream must be in \[0, 2\^32\)"):
        normal(0, IDS, (2,), stream=2**32)
    with pytest.raises(ValueError, match=r"step must be in \[0, 2\^32\)"):
        normal(0, IDS, (2,), step=2**32)
    with pytest.raises(ValueError, match=r"counter word must be in \[0, 2\^32\)"):
        philox_word(0, 2**32)
    with pytest.raises(ValueError, match="at most 4 words, got 5"):
        philox_word(0, 1, 2, 3, 4, 5)
