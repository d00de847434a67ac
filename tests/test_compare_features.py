"""Feature spaces order obvious things rightly, are kept whole on disk, and memorisation is seen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from problems import normal
from torch import Tensor

from scoresde import data, metrics
from scoresde.compare import (
    DataJudge,
    FeatureNet,
    array_features,
    learn_features,
    memorisation,
    nearest,
    over_seeds,
    picture_features,
    read_features,
    write_features,
)
from scoresde.data import Dataset

N = 400


@pytest.fixture(scope="module")
def digits() -> tuple[Dataset, Dataset]:
    pytest.importorskip("sklearn")
    return data.split(data.digits(), held_out=0.4)


def pictures(part: Dataset) -> Tensor:
    return part.batch(np.arange(len(part)))


@pytest.fixture(scope="module")
def net(digits: tuple[Dataset, Dataset]) -> FeatureNet:
    return learn_features((pictures(digits[0]) + 1) / 2, steps=150)


def blurred(x: Tensor) -> Tensor:
    taps = torch.tensor([1.0, 2.0, 1.0]) / 4
    return F.conv2d(F.pad(x, (1, 1, 1, 1), value=-1.0), (taps[:, None] * taps)[None, None])


def noisy(std: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x + std * normal(*x.shape, seed=1, dtype=torch.float32)


# Learnt features


def test_distances_rise_with_what_is_wrong(net: FeatureNet, digits: tuple[Dataset, Dataset]) -> None:
    train, held_out = (pictures(part) for part in digits)
    labels = torch.from_numpy(np.asarray(digits[0].labels))
    judge = DataJudge(picture_features(net, "a small network"), held_out, train)
    orders = [torch.randperm(len(train), generator=torch.Generator().manual_seed(k)) for k in range(4)]

    def read(change: Callable[[Tensor], Tensor], classes: int = 10) -> Tensor:
        found = [judge.values(change(train[i[labels[i] < classes]][:N]), 0) for i in orders]
        return torch.tensor([[values["frechet"], values["kernel"], values["sw2"]] for values in found]).mean(0)

    right = read(lambda x: x)
    noise = [read(noisy(std)) for std in (0.3, 0.6, 1.2)]
    blur = [read(lambda x, a=a: (1 - a) * x + a * blurred(x)) for a in (0.25, 0.5, 1.0)]  # type: ignore[misc]
    missing = [read(lambda x: x, classes) for classes in (8, 6, 4)]
    for rising in ([right, *noise], [right, *blur], [right, *missing]):
        assert all(bool((a < b).all()) for a, b in itertools.pairwise(rising))


def test_features_are_standardised_over_the_training_pictures(net: FeatureNet, digits: tuple[Dataset, Dataset]) -> None:
    z = picture_features(net, "a small network")(pictures(digits[0]))
    torch.testing.assert_close(z.mean(0), torch.zeros(32).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std(0), torch.ones(32).double(), atol=1e-3, rtol=0)


def test_training_is_a_function_of_its_arguments_and_leaves_the_global_seed_alone() -> None:
    x = torch.rand(20, 1, 6, 9, generator=torch.Generator().manual_seed(0))
    before, calls = torch.get_rng_state(), []
    first = learn_features(x, seed=1, steps=3, on_step=lambda: calls.append(1))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(calls) == 3
    with torch.no_grad():
        again = learn_features(x, seed=1, steps=3)
    assert torch.equal(first(x), again(x))
    assert not torch.equal(first(x), learn_features(x, seed=2, steps=3)(x))
    assert not first(x).requires_grad


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 64, 48), (1, 1, 1), (2, 3, 100)])
def test_pictures_of_any_shape_have_features(shape: tuple[int, ...]) -> None:
    net = FeatureNet(shape)
    assert net(torch.rand(2, *shape)).shape == (2, 32)
    with pytest.raises(ValueError, match="is for pictures of shape"):
        net(torch.rand(2, *shape[:-1], shape[-1] + 1))


def test_what_cannot_be_learnt_from_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2, in"):
        learn_features(torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"in \[-1, "):
        learn_features(torch.cat([torch.rand(3, 1, 8, 8), -torch.ones(1, 1, 8, 8)]))
    with pytest.raises(ValueError, match="in \\[nan"):
        learn_features(torch.full((3, 1, 8, 8), math.nan))
    with pytest.raises(ValueError, match="not of items of shape"):
        learn_features(torch.rand(3, 64))
    with pytest.raises(ValueError, match="steps = 0"):
        learn_features(torch.rand(3, 1, 8, 8), steps=0)


def test_a_network_is_the_same_after_reading(net: FeatureNet, tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    write_features(path, net)
    found = read_features(path, (1, 8, 8))
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(found(x), net(x))
    assert read_features(path).shape == (1, 8, 8)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    net = FeatureNet((1, 8, 8))
    write_features(path, net)
    with pytest.raises(ValueError, match=r"is for pictures of shape \(1, 8, 8\), and these are \(3, 8, 8\)"):
        read_features(path, (3, 8, 8))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    (tmp_path / "flipped").write_bytes(content)
    with pytest.raises(ValueError, match="flipped is damaged"):
        read_features(tmp_path / "flipped")
    (tmp_path / "short").write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_features(tmp_path / "short")
    safetensors.torch.save_file({"weight": torch.zeros(2)}, tmp_path / "other")
    with pytest.raises(ValueError, match="no feature network of this version"):
        read_features(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        read_features(tmp_path / "absent")


# Feature spaces


def test_pictures_are_shown_to_the_function_in_0_to_1_and_in_parts() -> None:
    seen: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        seen.append(x)
        return x.flatten(1)[:, :3]

    x = torch.linspace(-1.5, 1.5, 1200 * 4).view(1200, 1, 2, 2)
    found = picture_features(function, "corner")(x)
    assert found.dtype == torch.float64
    assert max(len(part) for part in seen) <= 500
    torch.testing.assert_close(found, ((x.flatten(1)[:, :3] + 1) / 2).clamp(0, 1).double())
    shown = picture_features(function, "corner", data_range=(0.0, 10.0))(torch.full((1, 1, 2, 2), 2.5))
    assert shown.unique().tolist() == [0.25]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x.flatten(), r"must be \(3, F\), got \(12,\)"),
        (lambda x: x[:1].flatten(1), r"must be \(3, F\), got \(1, 4\)"),
        (lambda x: x.numpy(), "got ndarray"),
        (lambda x: x.flatten(1) / 0.0, "features of item 0 are not finite"),
    ],
)
def test_functions_that_answer_something_else_are_refused(function: Callable[[Tensor], Tensor], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        picture_features(function, "mine")(torch.ones(3, 1, 2, 2))


def test_short_arrays_are_their_own_features() -> None:
    train = torch.tensor([1.0, 20.0, 1.0]) * normal(1000, 3) + torch.tensor([0.0, 5.0, 0.0])
    train[:, 2] = 7.0
    features = array_features(train)
    z = features(train)
    torch.testing.assert_close(z.mean(0), torch.zeros(3).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(z[:, :2].std(0), torch.ones(2).double())
    assert features(train[:1] + torch.tensor([0.0, 0.0, 2.0]))[0, 2].item() == pytest.approx(2.0)
    assert features.headline == "sw2"
    with pytest.raises(ValueError, match="needs 2 or more"):
        array_features(train[:1])


def test_long_arrays_are_seen_through_their_principal_components() -> None:
    scale = torch.logspace(1, -3, 100, dtype=torch.float64)
    turn = torch.linalg.qr(normal(100, 100, seed=1)).Q
    train = (normal(2000, 100, seed=2) * scale) @ turn
    z = array_features(train.view(2000, 4, 25))(train.view(2000, 4, 25))
    assert z.shape == (2000, 64)
    cov = z.T.cov()
    assert (cov - cov.diagonal().diag()).abs().max() < 1e-8 * cov.abs().max()
    spectrum = cov.diagonal().sort(descending=True).values
    assert spectrum.mean().item() == pytest.approx(1.0, rel=1e-6)
    torch.testing.assert_close(
        spectrum / spectrum[0],
        torch.linalg.eigvalsh(train.T.cov()).flip(0)[:64] / torch.linalg.eigvalsh(train.T.cov())[-1],
    )


# Memorisation


def test_the_nearest_item_is_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = 1000 + normal(37, 2, 3, seed=3), 1000 + normal(53, 2, 3, seed=4)
    expected = (x[:, None] - y).square().flatten(2).mean(2).sqrt().min(1)
    monkeypatch.setattr("scoresde.compare.neighbours.ENTRIES_AT_ONCE", 200)
    distance, which = nearest(x, y)
    assert torch.equal(which, expected.indices)
    torch.testing.assert_close(distance, expected.values, rtol=1e-3, atol=1e-4)


def test_new_data_are_not_memorised_and_copies_are() -> None:
    train, held_out, fresh = normal(1000, 6, seed=5), normal(300, 6, seed=6), normal(600, 6, seed=7)
    new = memorisation(fresh, train, held_out)
    assert new.ratio.low < 1 < new.ratio.high
    assert abs(new.close.value - 0.01) < 4 * math.sqrt(0.0099 * (1 / 300 + 1 / 600))
    copies = memorisation(train[100:200], train, held_out)
    assert copies.samples.max() == 0
    assert copies.ratio.value == 0
    assert copies.close.value == 1
    assert copies.nearest.tolist() == list(range(100, 200))
    near = memorisation(train[:200] + 0.05 * normal(200, 6, seed=8), train, held_out)
    assert near.ratio.high < 0.5
    assert near.close.low > 0.9


def test_the_share_of_close_samples_has_the_interval_of_clopper_and_pearson() -> None:
    held_out = torch.linspace(1.0, 2.0, 199)[:, None]  # of 199 the second, in 200 gaps, is the 1 % quantile
    samples = torch.tensor([0.0, 0.5, 1.0, 1.02, *[1.5] * 16])[:, None]
    found = memorisation(samples, torch.zeros(1, 1), held_out)
    assert found.threshold == pytest.approx(1 + 1 / 198)
    assert found.close.value == pytest.approx(3 / 20)
    assert (found.close.low, found.close.high) == pytest.approx((0.0321, 0.3789), abs=1e-4)  # their table


@pytest.mark.parametrize("held_out", [20, 150, 500])
def test_new_data_are_too_near_as_often_as_expected(held_out: int) -> None:
    train, fresh = normal(400, 3, seed=1), normal(4000, 3, seed=2)
    found = over_seeds([memorisation(fresh, train, normal(held_out, 3, seed=k)).close.value for k in range(10, 50)])
    expected = memorisation(fresh[:1], train, fresh[:held_out]).expected
    assert expected == max(0.01, 1 / (held_out + 1))
    assert abs(found.value - expected) < 2 * (found.high - found.value)


def test_items_that_do_not_fit_are_refused() -> None:
    x = torch.zeros(4, 2)
    with pytest.raises(ValueError, match="must be alike"):
        nearest(x, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="must be alike, and some"):
        nearest(x, torch.zeros(0, 2))
    with pytest.raises(ValueError, match="the items hold values that are not finite"):
        nearest(x * torch.nan, x)
    with pytest.raises(ValueError, match="0 samples and 4 held-out"):
        memorisation(x[:0], x, x)


def test_the_lenet_fits_as_features(shared_data: Path) -> None:
    features = picture_features(metrics.load_features(shared_data / "lenet-mnist-features" / "lenet.pth"), "LeNet")
    assert features(torch.zeros(3, 1, 28, 28)).shape == (3, 84)
