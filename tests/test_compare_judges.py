"""Exact or real samples read the floor; each measure sees the distortion that it is there for."""

from __future__ import annotations

import math

import pytest
import torch
from problems import mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde.compare import (
    DataJudge,
    Judge,
    MixtureJudge,
    ReferenceJudge,
    array_features,
    data_judge,
    difference,
    memorisation,
    mixture_judge,
    nearest,
    over_seeds,
)

N, SEEDS = 500, range(6)
LAW = sd.GaussianMixture([0.5, 0.3, 0.2], [[-6.0, 0.0], [0.0, 6.0], [6.0, -2.0]], [[0.5, 0.2], [0.3, 0.3], [0.2, 1.0]])
MIXTURE = MixtureJudge(LAW)


def exact(seed: int, law: sd.GaussianMixture = LAW, n: int = N) -> Tensor:
    """Seeds that no judge draws from."""
    return law.sample(n, 10**6 + seed)


def gap(judge: Judge, name: str, samples: list[Tensor]) -> tuple[float, float]:
    """Mean value less mean floor, and half of its interval."""
    values = over_seeds([judge.values(x, seed)[name] for seed, x in enumerate(samples)])
    floors = over_seeds([judge.floor_values(len(x), seed)[name] for seed, x in enumerate(samples)])
    found = difference(values, floors)
    return found.value, found.high - found.value


# The exact law


@pytest.mark.parametrize("law", [LAW, mixture()], ids=["diagonal", "full"])
def test_exact_samples_read_the_floor(law: sd.GaussianMixture) -> None:
    judge = MixtureJudge(law)
    found = {m.name: gap(judge, m.name, [exact(seed, law) for seed in SEEDS]) for m in judge.measures}
    assert set(found) == set(judge.values(exact(0, law), 0))
    for name, (value, half) in found.items():
        assert abs(value) < 1.5 * half, name


def test_a_floor_and_a_truth_are_never_one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    law = mixture()
    draw = law.sample

    def noted(n: int, seed: int) -> Tensor:
        asked.append(seed)
        return draw(n, seed)

    monkeypatch.setattr(law, "sample", noted)
    judge = MixtureJudge(law)
    for seed in (0, 1, 2, mixture_judge.SEEDS - 1):
        judge.floor_values(4, seed)
    assert len(set(asked)) == len(asked) == 9
    assert all(2**30 - 1 <= seed < 2**32 for seed in asked)  # torch's generator keeps 32 bits
    with pytest.raises(ValueError, match="must be in"):
        judge.floor_values(4, mixture_judge.SEEDS)


def test_wider_modes_read_their_width() -> None:
    mode = LAW.responsibilities(exact(0)).argmax(1)
    about = LAW.means[mode]
    found = MIXTURE.values(about + 1.2 * (exact(0) - about), 0)
    assert found["width"] == pytest.approx(1.2 * MIXTURE.values(exact(0), 0)["width"], rel=1e-6)
    assert abs(found["width"] - 1.2) < 4 * 1.2 / math.sqrt(2 * 2 * N)


def test_a_full_covariance_has_its_width_along_its_axes() -> None:
    law = sd.GaussianMixture([1.0], [[1.0, 2.0]], [[[2.0, 0.99], [0.99, 0.5]]])
    assert abs(MixtureJudge(law).values(exact(0, law), 0)["width"] - 1) < 4 / math.sqrt(4 * N)


def test_the_width_of_full_covariances_is_mahalanobis_distance() -> None:
    law = mixture()
    x = exact(0, law)
    z = x - law.means[law.responsibilities(x).argmax(1)]
    inverse = torch.linalg.inv(law.covariances)[law.responsibilities(x).argmax(1)]
    by_hand = torch.einsum("bi,bij,bj->b", z, inverse, z).mean() / law.dim
    assert MixtureJudge(law).values(x, 0)["width"] == pytest.approx(by_hand.sqrt().item(), rel=1e-9)


def test_a_shift_reads_its_length_in_spreads() -> None:
    shift = torch.tensor([3.0, -4.0], dtype=torch.float64)
    centred = exact(0) - exact(0).mean(0) + LAW.mean()
    found = MIXTURE.values(centred + shift, 0)["mean"]
    assert found == pytest.approx(5.0 / LAW.covariance().trace().sqrt().item(), rel=1e-10)
    assert MIXTURE.values(centred, 0)["mean"] < 1e-12


def test_a_missing_mode_reads_its_weight_and_raises_the_distances() -> None:
    dropped = sd.GaussianMixture([0.5, 0.3], LAW.means[:2], LAW.eigenvalues[:2])
    samples = [exact(seed, dropped) for seed in SEEDS]
    assert abs(gap(MIXTURE, "weights", samples)[0] - 0.2) < 0.03
    for name in ("sw2", "sw1", "mmd", "energy", "mean", "covariance"):
        value, half = gap(MIXTURE, name, samples)
        assert value > 2 * half, name


def test_weights_are_a_total_variation() -> None:
    other = sd.GaussianMixture([0.2, 0.3, 0.5], LAW.means, LAW.eigenvalues)
    assert abs(MIXTURE.values(exact(0, other, 4000), 0)["weights"] - 0.3) < 4 * math.sqrt(0.25 / 4000)


def test_scaled_samples_have_the_covariance_error_of_the_scale() -> None:
    x = exact(0, n=4000)
    centre = x.mean(0)
    plain = MIXTURE.values(x, 0)["covariance"]
    assert abs(MIXTURE.values(centre + 2 * (x - centre), 0)["covariance"] - 3) < 4 * plain + 1e-9


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (torch.zeros(5, 3), r"\(5, 3\); the law has 2"),
        (torch.zeros(1, 2), "n >= 2"),
        (torch.tensor([[0.0, 0.0], [0.0, math.nan]]), "sample 1 is not finite"),
    ],
)
def test_what_cannot_be_judged_is_refused(samples: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MIXTURE.values(samples, 0)


def test_axes_without_variance_do_not_count_in_the_width() -> None:
    flat = sd.GaussianMixture([0.5, 0.5], [[0.0, 0.0], [9.0, 9.0]], [[1.0, 0.0], [1.0, 0.0]])
    assert MixtureJudge(flat).values(flat.sample(4000, 5), 0)["width"] == pytest.approx(1.0, abs=0.05)
    points = sd.GaussianMixture([0.25] * 4, [[0.0, 0.0], [9.0, 9.0], [0.0, 9.0], [9.0, 0.0]], [0.0] * 4)
    assert math.isnan(MixtureJudge(points).values(points.sample(40, 5), 0)["width"])


def test_how_many_floors_there_are() -> None:
    assert MixtureJudge(LAW).floor_sets(10**9) > 10**6
    assert [judge.floor_sets(250) for judge in (DATA, REFERENCE)] == [8, 2]
    assert [judge.floor_sets(judge.most or 0) for judge in (DATA, REFERENCE)] == [2, 1]


@pytest.mark.parametrize(("count", "n"), [(20, 5), (23, 5), (7, 7)])
def test_parts_share_nothing_until_they_recur(count: int, n: int) -> None:
    whole = count // n
    parts = [data_judge.part(count, n, k).tolist() for k in range(whole + 1)]
    assert all(len(part) == n for part in parts)
    assert len({i for part in parts[:whole] for i in part}) == whole * n
    assert parts[whole] == parts[0]
    assert parts[0] != sorted(parts[0]) or n < 3


# Data, and the model's own fine steps


def normals(n: int, seed: int) -> Tensor:
    return normal(n, 4, seed=1000 + seed)


DATA = DataJudge(array_features(normals(2000, 0)), normals(500, 1), normals(2000, 0))
REFERENCE = ReferenceJudge(array_features(normals(2000, 0)), normals(1000, 2))


@pytest.mark.parametrize("name", ["frechet", "kernel", "sw2"])
@pytest.mark.parametrize("judge", [DATA, REFERENCE], ids=["data", "reference"])
def test_new_data_read_the_floor_and_noise_raises_it_in_order(judge: Judge, name: str) -> None:
    fresh = [normals(300, 10 + seed) for seed in SEEDS]
    value, half = gap(judge, name, fresh)
    assert abs(value) < 1.5 * half
    rising = [gap(judge, name, [x + noise * normals(300, 50) for x in fresh])[0] for noise in (0.0, 0.7, 1.5)]
    assert rising[0] + half < rising[1] < rising[2]


def test_of_sorted_held_out_data_a_capped_distance_sees_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_judge, "PAIRED", 100)
    real, train = normals(1000, 1)[:, :1].sort(0).values, normals(2000, 0)[:, :1]
    floor = DataJudge(array_features(train), real, train).floor_values(500, 0)["kernel"]
    assert abs(floor) < 1.0  # against the lowest 100 it is over 50


def test_a_reference_and_its_floor_share_nothing() -> None:
    judge = ReferenceJudge(array_features(normals(20, 0)), torch.arange(20.0)[:, None].expand(20, 4))
    alike = judge.values(judge.reference[data_judge.part(20, 5, 3)], 3)
    assert alike["sw2"] == pytest.approx(0.0, abs=1e-9)  # the truth of seed 3
    assert judge.floor_values(5, 0)["sw2"] > 0.1
    assert judge.floor_values(5, 0) != judge.floor_values(5, 1)


@pytest.mark.parametrize(("judge", "most"), [(DATA, 1000), (REFERENCE, 500)], ids=["data", "reference"])
def test_counts_and_shapes_are_refused_early(judge: Judge, most: int) -> None:
    assert judge.most == most
    assert judge.headline_measure.name == "sw2"
    with pytest.raises(ValueError, match=f"at most {most}"):
        judge.floor_values(most + 1, 0)
    with pytest.raises(ValueError, match="2 samples or more"):
        judge.values(normals(1, 0), 0)
    with pytest.raises(ValueError, match=r"\(5, 1\); give \(n, 4\)"):
        judge.values(torch.zeros(5, 1), 0)
    with pytest.raises(ValueError, match="seed = -1"):
        judge.floor_values(5, -1)


def test_too_few_items_are_refused_and_few_are_said() -> None:
    features = array_features(normals(20, 0))
    with pytest.raises(ValueError, match="at least 2 held-out"):
        DataJudge(features, normals(1, 0), normals(20, 0))
    with pytest.raises(ValueError, match="4 are the least"):
        ReferenceJudge(features, normals(3, 0))
    assert "too few to stand for all data" in DataJudge(features, normals(4, 1), normals(20, 0)).about
    assert "too few" not in DATA.about


# Memorisation


def test_copies_are_found_and_fresh_draws_are_not() -> None:
    train, held_out = normals(2000, 0), normals(1000, 1)
    copies = memorisation(train[:300].flip(0), train, held_out)
    assert torch.equal(copies.nearest, torch.arange(300).flip(0))
    assert copies.samples.max() == 0
    assert copies.close.value == copies.close.high == 1
    assert copies.ratio.value == 0
    fresh = memorisation(normals(1000, 2), train, held_out)
    assert fresh.ratio.low < 1 < fresh.ratio.high
    assert abs(fresh.close.value - 0.01) < 4 * math.sqrt(2 * 0.0099 / 1000)


def test_copies_are_found_where_held_out_items_are_copies_too() -> None:
    train = normals(200, 0)
    assert memorisation(train[:50], train, torch.cat([train[:5], normals(95, 1)])).close.value == 1


def test_distances_are_the_root_mean_square_of_entries() -> None:
    train, items = normals(70, 0).reshape(70, 1, 2, 2) + 100, normals(30, 1).reshape(30, 1, 2, 2) + 100
    distance, which = nearest(items.float(), train.float())
    table = (items.float().double()[:, None] - train.float().double()[None]).square().mean((2, 3, 4)).sqrt()
    torch.testing.assert_close(distance, table.amin(1), rtol=1e-4, atol=1e-5)
    assert torch.equal(which, table.argmin(1))
    with pytest.raises(ValueError, match="must be alike"):
        nearest(items, train[:, :, :1])
    with pytest.raises(ValueError, match="not finite"):
        nearest(items * math.inf, train)
