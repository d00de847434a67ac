"""Brownian paths by counter: Levy's construction by hand, the law, one path at any resolution and in any company."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchsde
from torch import Tensor

from scoresde import brownian as tree
from scoresde.brownian import BrownianPath, rounded
from scoresde.noise import BrownianNoise, CounterNoise, normal

# Exact in float32, so that the lengths of steps are those of the path; near the data as small as grids go.
TIMES = [rounded(t) for t in (1.0, 0.91, 0.75, 0.6004, 0.5, 0.123456, 0.03, 1e-4, 3e-9, 2e-13, 0.0)]


def make(seed: int = 1, n: int = 4, shape: tuple[int, ...] = (3,), dtype=torch.float64) -> BrownianNoise:
    return BrownianNoise(seed, torch.arange(n), shape, dtype)


def increment(noise: BrownianNoise, t: float, s: float, k: int = 0) -> Tensor:
    return noise.at(0, t, s)(k) * math.sqrt(abs(s - t))


def values(path: BrownianPath, times: list[float]) -> Tensor:
    return torch.stack([path(0.0, t) for t in times])


# Levy's construction


@pytest.mark.parametrize("k", [0, 5])
def test_a_small_tree_by_hand(k: int) -> None:
    """W at 3/8 from the normals of 1, 1/2, 1/4 and 3/8, whose bits as float32 are their steps."""
    seed, ids = 2**40 + 3, torch.tensor([7, 2, 2**32 - 1])
    bits = {1: 0x3F800000, 1 / 2: 0x3F000000, 1 / 4: 0x3E800000, 3 / 8: 0x3EC00000}
    z = {m: normal(seed, ids, (5,), step=step, stream=2**32 - 1 - k).double() for m, step in bits.items()}
    w1 = z[1]
    w2 = w1 / 2 + math.sqrt(1) / 2 * z[1 / 2]
    w4 = w2 / 2 + math.sqrt(1 / 2) / 2 * z[1 / 4]
    w38 = (w4 + w2) / 2 + math.sqrt(1 / 4) / 2 * z[3 / 8]
    path = BrownianNoise(seed, ids, (5,)).path(k)
    for t, w in ((1.0, w1), (0.5, w2), (0.25, w4), (0.375, w38)):
        torch.testing.assert_close(path(t), w, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize(
    ("m", "bits"), [(1 - 2**-24, 0x3F7FFFFF), (0.5 + 2**-24, 0x3F000001), (3 * 2.0**-41, 0x2BC00000)]
)
def test_every_bit_of_a_node_counts(m: float, bits: int) -> None:
    """Down to the narrowest cells: W in the middle of one, from W at its ends."""
    path, half = make().path(), math.ldexp(m, 60)
    half = math.ldexp(int(half) & -int(half), -60)  # the last binary digit of m
    middle = (path(m - half) + path(m + half)) / 2
    z = normal(1, torch.arange(4), (3,), step=bits, stream=2**32 - 1).double()
    torch.testing.assert_close((path(m) - middle) / math.sqrt(half / 2), z, rtol=0, atol=1e-9)


@pytest.mark.parametrize("t", TIMES[1:-1])
def test_no_two_nodes_share_a_word_and_all_are_float32(t: float) -> None:
    nodes = tree.path_to(t, 0.0, 1.0)
    assert nodes[-1] == t
    assert [float(np.float32(m)) for m in nodes] == nodes
    assert len(set(nodes)) == len(nodes) <= 24 - math.frexp(t)[1]


# One path at any resolution, in any order, in any company


@pytest.mark.parametrize("coarse_first", [True, False])
def test_a_coarse_increment_is_the_sum_of_its_parts(coarse_first: bool) -> None:
    noise = make(shape=(2, 3))
    early = increment(noise, 1.0, 0.0) if coarse_first else None
    parts = sum(increment(noise, t, s) for t, s in pairwise(TIMES))
    whole = increment(noise, 1.0, 0.0) if early is None else early
    assert whole.shape == (4, 2, 3)
    assert (whole - parts).abs().max() < 1e-14


def test_a_path_does_not_depend_on_the_queries_nor_on_their_order() -> None:
    steps = [*pairwise(TIMES), *pairwise([i / 50 for i in range(50, -1, -1)]), (0.7, 0.01), (0.3, 0.300001)]
    truth = {step: make().at(0, *step)() for step in steps}
    shuffled = random.Random(0).sample(steps, len(steps))
    for order in (steps, steps[::-1], shuffled, shuffled + steps):
        noise = make()
        assert all(torch.equal(noise.at(0, *step)(), truth[step]) for step in order)


@pytest.mark.parametrize("dim", [1, 2, 5, 33, 1000])
def test_a_path_is_bitwise_the_same_in_any_company(dim: int) -> None:
    steps = [*pairwise(TIMES), (0.8, 0.2)]

    def draws(ids: list[int]) -> Tensor:
        noise = BrownianNoise(3, torch.tensor(ids), (dim,), torch.float64)
        return torch.stack([noise.at(0, *step)(1) for step in steps], 1)

    alone = torch.cat([draws([i]) for i in range(9)])
    for ids in ([*range(9)], [4, 0, 8], [7] * 3 + [2], [*range(9)] * 20):
        assert torch.equal(draws(ids), alone[ids])


def test_the_number_of_nodes_drawn_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = values(make().path(), TIMES)
    monkeypatch.setattr(tree, "AT_ONCE", 64)
    assert torch.equal(values(make().path(), TIMES), whole)


def test_a_sweep_draws_few_nodes_and_keeps_few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 23 levels, those above the length of a step are shared."""
    drawn: list[int] = []
    normals = BrownianPath._normals
    monkeypatch.setattr(
        BrownianPath, "_normals", lambda self, nodes: (drawn.append(len(nodes)), normals(self, nodes))[1]
    )
    noise, kept = make(), []
    for i in range(500, 0, -1):
        noise.at(0, i / 500, (i - 1) / 500)()
        kept.append(len(noise.path()._cells))
    assert sum(drawn) < (23 - math.log2(500) + 3) * 500
    assert max(kept) < math.log2(500) + 4


def test_both_precisions_follow_one_path_and_share_the_start_of_counter_noise() -> None:
    single, double = make(dtype=torch.float32), make()
    assert torch.equal(single.at(0, 0.9, 0.2)(), double.at(0, 0.9, 0.2)().float())
    assert torch.equal(single.start(), CounterNoise(1, torch.arange(4), (3,)).start())


# The law, in standard errors


def test_the_covariance_is_the_earlier_time() -> None:
    times = [1e-7, 1e-3, 0.3, 0.5, 0.50001, 0.9, 1.0]
    w = values(make(n=500, shape=(40,)).path(), times).flatten(1)
    n = w.shape[1]
    t = torch.tensor([rounded(time) for time in times], dtype=torch.float64)
    truth = torch.minimum(t[:, None], t)
    spread = ((t[:, None] * t + truth**2) / n).sqrt()
    assert ((w @ w.T / n - truth) / spread).abs().max() < 4
    assert (w.mean(1) / (t / n).sqrt()).abs().max() < 4


def test_disjoint_intervals_draws_samples_entries_and_seeds_are_independent_standard_normals() -> None:
    noise = make(n=500, shape=(40,))
    steps = [(1.0, 0.6), (0.6, 0.5), (0.5, 0.4999), (0.4999, 1e-9), (1e-9, 0.0)]
    draws = [noise.at(0, t, s)(k) for t, s in steps for k in (0, 1)]
    draws += [noise.start(), make(seed=2, n=500, shape=(40,)).at(0, 1.0, 0.6)()]
    draws += [BrownianNoise(1, torch.arange(500, 1000), (40,), torch.float64).at(0, 1.0, 0.6)()]
    draws += [draws[0].roll(1, dims=0), draws[0].roll(1, dims=1)]  # neighbouring samples, neighbouring entries
    z = torch.stack(draws).flatten(1)
    n = z.shape[1]
    assert (z.mean(1) * math.sqrt(n)).abs().max() < 4
    assert (((z**2).mean(1) - 1) / math.sqrt(2 / n)).abs().max() < 4
    assert (((z**4).mean(1) - 3) / math.sqrt(96 / n)).abs().max() < 4
    correlation = z @ z.T / math.sqrt(n)
    assert correlation.fill_diagonal_(0).abs().max() < 4.5  # of 105 pairs


def test_the_quadratic_variation_is_the_time() -> None:
    n = 2**12
    w = values(make(n=2, shape=(1,)).path(), [i / n for i in range(n + 1)])  # times of few digits cost little
    total = w.diff(dim=0).square().sum(0)
    assert ((total - 1) / math.sqrt(2 / n)).abs().max() < 4


# As torchsde and solvers see it


def test_a_draw_is_the_increment_of_the_path_from_t_to_s() -> None:
    noise = make()
    t, s = rounded(0.3), rounded(0.8)
    w = noise.path()(t, s) / math.sqrt(s - t)
    assert torch.allclose(noise.at(0, 0.3, 0.8)(), w, rtol=1e-15)
    assert torch.allclose(noise.at(0, 0.8, 0.3)(), -w, rtol=1e-15)


def test_a_draw_owns_its_memory() -> None:
    noise = make()
    draws = [noise.at(0, 1.0, 0.0), noise.at(0, 1.0, 0.5), noise.at(0, 0.5, 0.0)]
    kept = [draw().clone() for draw in draws]
    for draw in draws:
        draw().zero_()
    noise.path()(0.5).zero_()
    assert all(torch.equal(draw(), z) for draw, z in zip(draws, kept, strict=True))


class DriftlessUnit:
    """dx = dW, whose every Euler step is exact."""

    sde_type, noise_type = "ito", "diagonal"

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.ones_like(y)


def test_torchsde_can_follow_a_path() -> None:
    # Steps of 0.1 end a hair before 1, and so with a step that rounds to nothing.
    path, ends = make().path(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    x = torchsde.sdeint(DriftlessUnit(), torch.zeros(4, 3).double(), ends, bm=path, dt=0.1, method="euler")
    assert (x[-1] - path(0.0, 1.0)).abs().max() < 1e-14


def test_torchsdes_adaptive_steps_follow_the_same_path() -> None:
    """They go back and forth in time, and still end on W_1."""
    path, ends = make().path(), torch.tensor([0.0, 1.0], dtype=torch.float64)
    start = torch.zeros(4, 3, dtype=torch.float64)
    x = torchsde.sdeint(DriftlessUnit(), start, ends, bm=path, dt=0.1, method="milstein", adaptive=True)
    assert (x[-1] - path(0.0, 1.0)).abs().max() < 1e-14


def test_what_the_tree_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="has increments but no areas"):
        make().path()(0.0, 1.0, return_U=True)


@pytest.mark.parametrize(
    ("t", "s", "says"),
    [
        (1.5, 0.5, r"covers the times \[0, 1\], got 1.5"),
        (0.5, math.nan, r"covers the times \[0, 1\]"),
        (0.5, -0.1, r"covers the times \[0, 1\], got -0.1"),
        (0.5, 0.5, "the same in float32"),
        (0.5, 0.5 + 1e-9, r"cannot tell times 0.5 and 0.500000001 apart"),
    ],
)
def test_times_off_the_path_are_refused(t: float, s: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make().at(0, t, s)


@pytest.mark.parametrize(("n", "shape"), [(0, (3,)), (2, (0,)), (2, ()), (2, (1, 2, 2))], ids=str)
def test_shapes_are_kept(n: int, shape: tuple[int, ...]) -> None:
    assert make(n=n, shape=shape).at(0, 1.0, 0.3)().shape == (n, *shape)
