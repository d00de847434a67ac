"""Distances between samples, against closed forms, brute force and scipy."""

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from scoresde import metrics
from scoresde.metrics import _pairs, lenet


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_covariance(D: int, rank: int, seed: int) -> torch.Tensor:
    A = normal(D, rank, seed=seed)
    return A @ A.T / rank


# Wasserstein


@pytest.mark.parametrize("p", [1, 2])
def test_a_shift_on_the_line_is_its_own_distance(p: int) -> None:
    x = normal(101, seed=0)
    assert metrics.wasserstein_1d(x, x + 0.75, p=p) == pytest.approx(0.75, rel=1e-12)
    assert metrics.wasserstein_1d(x, x.flip(0), p=p) == 0


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 4), (3, 7), (1, 5)])
def test_the_line_agrees_with_the_best_assignment_of_repeated_points(n: int, m: int, p: int) -> None:
    """Repeat x m times and y n times: both then have n m points, and the best plan is an assignment."""
    x, y = normal(n, seed=1), normal(m, seed=2)
    cost = (x.repeat_interleave(m)[:, None] - y.repeat_interleave(n)[None]).abs().numpy() ** p
    best = cost[scipy.optimize.linear_sum_assignment(cost)].mean() ** (1 / p)
    assert metrics.wasserstein_1d(x, y, p=p) == pytest.approx(best, rel=1e-12)


def test_the_line_agrees_with_scipy() -> None:
    x, y = normal(57, seed=3), 2 * normal(83, seed=4) + 1
    expected = scipy.stats.wasserstein_distance(x.numpy(), y.numpy())
    assert metrics.wasserstein_1d(x, y) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("D", [2, 5])
def test_a_shift_in_space_is_seen_through_its_projections(D: int) -> None:
    """E <theta, a>^2 = |a|^2 / D, so SW_2 = |a| / sqrt(D)."""
    x = normal(50, D, seed=5)
    shift = torch.arange(1.0, D + 1, dtype=torch.float64)
    values = metrics.sliced_wasserstein_values(x, x + shift, p=2, directions=4000)
    error = values.std().item() / math.sqrt(len(values))
    assert abs(values.mean().item() - shift.square().sum().item() / D) < 4 * error
    assert metrics.sliced_wasserstein(x, x + shift, p=2, directions=4000) == values.mean().item() ** 0.5


def test_in_the_plane_the_mean_projection_is_two_over_pi() -> None:
    """E |cos| over the circle."""
    x = normal(20, 2, seed=6)
    values = metrics.sliced_wasserstein_values(x, x + torch.tensor([3.0, 4.0]), p=1, directions=4000)
    error = values.std().item() / math.sqrt(len(values))
    assert abs(values.mean().item() - 5 * 2 / math.pi) < 4 * error


def test_each_direction_is_a_problem_on_the_line() -> None:
    """In one dimension every direction is + or - 1."""
    x, y = normal(30, 1, seed=7), normal(45, 1, seed=8)
    values = metrics.sliced_wasserstein_values(x, y, p=2, directions=7)
    exact = metrics.wasserstein_1d(x[:, 0], y[:, 0], p=2) ** 2
    torch.testing.assert_close(values, torch.full((7,), exact, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_directions_are_those_of_the_seed_and_leave_the_global_one_alone() -> None:
    x, y = normal(30, 3, seed=9), normal(40, 3, seed=10)
    before = torch.get_rng_state()
    first = metrics.sliced_wasserstein(x, y, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert metrics.sliced_wasserstein(x, y, seed=1) == first
    assert metrics.sliced_wasserstein(x, y, seed=2) != first


# Energy distance and MMD


def test_energy_distance_of_equal_samples_is_zero() -> None:
    x = normal(80, 3, seed=11)
    assert metrics.energy_distance(x, x) == 0
    assert all(0 <= metrics.energy_distance(x, x.roll(k, 0)) < 1e-10 for k in range(20))


def test_energy_distance_on_the_line_agrees_with_scipy() -> None:
    x, y = normal(57, 1, seed=12), 2 * normal(83, 1, seed=13) + 1
    expected = scipy.stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert metrics.energy_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_energy_distance_does_not_care_where_the_origin_is() -> None:
    x, y = normal(40, 3, seed=14), normal(50, 3, seed=15)
    far = 1e6 * torch.ones(3, dtype=torch.float64)
    assert metrics.energy_distance(x + far, y + far) == pytest.approx(metrics.energy_distance(x, y), rel=1e-8)


@pytest.mark.parametrize("a", [0.0, 0.8])
def test_unbiased_energy_distance_averages_to_its_exact_value(a: float) -> None:
    """X ~ N(0, 1), Y ~ N(a, 1): E|N(a, 2)| = 2/sqrt(pi) exp(-a^2/4) + a erf(a/2)."""
    exact = 2 * (2 / math.sqrt(math.pi) * math.exp(-(a**2) / 4) + a * math.erf(a / 2)) - 4 / math.sqrt(math.pi)
    values = [
        metrics.energy_distance(normal(20, 1, seed=2 * k), normal(15, 1, seed=2 * k + 1) + a, unbiased=True)
        for k in range(400)
    ]
    assert abs(np.mean(values) - exact) < 4 * np.std(values) / math.sqrt(len(values))


def test_mmd_averages_to_its_exact_value() -> None:
    """Between N(0, I) and N(a, I), E k = (h^2 / (h^2 + 2))^(D/2) exp(-|a|^2 / (2 (h^2 + 2)))."""
    D, h, a = 2, 1.3, torch.tensor([0.6, -0.4], dtype=torch.float64)
    within = (h**2 / (h**2 + 2)) ** (D / 2)
    exact = 2 * within * (1 - math.exp(-a.square().sum().item() / (2 * (h**2 + 2))))
    values = [
        metrics.mmd(normal(20, D, seed=2 * k), normal(15, D, seed=2 * k + 1) + a, bandwidth=h) for k in range(400)
    ]
    assert abs(np.mean(values) - exact) < 4 * np.std(values) / math.sqrt(len(values))


@pytest.mark.parametrize("distance", [metrics.mmd, metrics.kernel_distance])
def test_kernel_distances_average_to_zero_between_samples_of_one_law(distance) -> None:  # type: ignore[no-untyped-def]
    values = [distance(normal(12, 3, seed=2 * k), normal(18, 3, seed=2 * k + 1)) for k in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))
    assert min(values) < 0 < max(values)


def test_kernel_distance_agrees_with_its_definition() -> None:
    x, y = normal(5, 2, seed=20), normal(4, 2, seed=21)

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return (a.dot(b).item() / 2 + 1) ** 3

    xx = np.mean([k(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
    yy = np.mean([k(y[i], y[j]) for i in range(4) for j in range(4) if i != j])
    xy = np.mean([k(a, b) for a in x for b in y])
    assert metrics.kernel_distance(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-12)


def test_the_median_distance_is_that_of_the_pairs() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[10.0]])
    assert metrics.median_distance(x, y) == 9.0
    with pytest.raises(ValueError, match="coincide"):
        metrics.median_distance(torch.zeros(4, 2), torch.zeros(3, 2))


@pytest.mark.parametrize("distance", [metrics.energy_distance, metrics.mmd, metrics.sliced_wasserstein])
def test_pieces_give_the_same_as_the_whole(distance, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    x, y = normal(23, 2, seed=22), normal(31, 2, seed=23)
    whole = distance(x, y)
    monkeypatch.setattr(_pairs, "ENTRIES_AT_ONCE", 150)
    monkeypatch.setattr(metrics.wasserstein, "ENTRIES_AT_ONCE", 150)
    assert distance(x, y) == pytest.approx(whole, rel=1e-10)


# Frechet


def test_frechet_distance_of_commuting_covariances_is_that_of_the_deviations() -> None:
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([4.0, 4.0, 1.0])
    distance = metrics.frechet_distance(torch.zeros(3), a.diag(), torch.tensor([1.0, 2.0, 2.0]), b.diag())
    assert distance == pytest.approx(9 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2, rel=1e-12)


def test_frechet_distance_agrees_with_the_general_matrix_root() -> None:
    C1, C2 = random_covariance(6, 9, seed=24), random_covariance(6, 9, seed=25)
    m1, m2 = normal(6, seed=26), normal(6, seed=27)
    root = scipy.linalg.sqrtm((C1 @ C2).numpy())
    expected = (m1 - m2).square().sum().item() + (C1 + C2).trace().item() - 2 * np.trace(root).real
    assert metrics.frechet_distance(m1, C1, m2, C2) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rank", [1, 3, 20])
def test_frechet_distance_to_itself_is_zero_even_when_singular(rank: int) -> None:
    m, C = normal(20, seed=28), random_covariance(20, rank, seed=29)
    assert metrics.frechet_distance(m, C, m, C) == pytest.approx(0, abs=1e-12 * C.trace().item())


def test_frechet_distance_is_invariant_under_a_rotation() -> None:
    Q = torch.linalg.qr(normal(5, 5, seed=30)).Q
    C1, C2, m = random_covariance(5, 2, seed=31), random_covariance(5, 7, seed=32), normal(5, seed=33)
    plain = metrics.frechet_distance(m, C1, 0 * m, C2)
    turned = metrics.frechet_distance(Q @ m, Q @ C1 @ Q.T, 0 * m, Q @ C2 @ Q.T)
    assert turned == pytest.approx(plain, rel=1e-10)


def test_feature_statistics_are_those_of_numpy() -> None:
    features = normal(40, 3, seed=34).float() + 1000
    mean, cov = metrics.feature_statistics(features)
    np.testing.assert_allclose(mean, features.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(features.double().numpy().T), rtol=1e-9)


# Errors


def test_samples_that_do_not_fit_are_refused() -> None:
    x = torch.zeros(4, 2)
    broken = x.clone()
    broken[2, 1] = math.nan
    for distance in (
        metrics.energy_distance,
        metrics.mmd,
        metrics.kernel_distance,
        metrics.sliced_wasserstein,
    ):
        with pytest.raises(ValueError, match="same dimension, got 2 and 3"):
            distance(x, torch.zeros(4, 3))
        with pytest.raises(ValueError, match="sample 2 is the first"):
            distance(x, broken)
        with pytest.raises(ValueError, match="flatten each sample"):
            distance(torch.zeros(4, 1, 2), x)
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        metrics.mmd(x[:1], x)
    with pytest.raises(ValueError, match="p must be 1 or 2, got 3"):
        metrics.sliced_wasserstein(x, x, p=3)
    with pytest.raises(ValueError, match="directions must be at least 1, got 0"):
        metrics.sliced_wasserstein(x, x, directions=0)
    with pytest.raises(ValueError, match="bandwidth must be positive, got -1"):
        metrics.mmd(x, x, bandwidth=-1)


def test_matrices_that_are_no_covariances_are_refused() -> None:
    m, C = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match="cov2 must be symmetric"):
        metrics.frechet_distance(m, C, m, torch.tensor([[1.0, 0.5], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="cov1 must have no negative eigenvalue, got -1"):
        metrics.frechet_distance(m, torch.tensor([1.0, -1.0]).diag(), m, C)
    with pytest.raises(ValueError, match=r"cov2 must be \(2, 2\), got \(3, 3\)"):
        metrics.frechet_distance(m, C, m, torch.eye(3))
    with pytest.raises(ValueError, match="N >= 2"):
        metrics.feature_statistics(torch.zeros(1, 3))


# LeNet


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    """The network at random: enough for everything but its accuracy."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in lenet.SHAPES.items():
        state[f"{name}.weight"] = 0.1 * torch.randn(shape, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    torch.save(state, tmp_path / "lenet.pth")
    return tmp_path / "lenet.pth"


def read_idx(path: Path, header: int) -> torch.Tensor:
    return torch.from_numpy(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header).copy())


def test_the_features_read_mnist_as_well_as_the_published_network(shared_data: Path) -> None:
    path = shared_data / "lenet-mnist-features" / "lenet.pth"
    images = read_idx(shared_data / "mnist" / "t10k-images-idx3-ubyte.gz", 16).view(-1, 1, 28, 28) / 255
    labels = read_idx(shared_data / "mnist" / "t10k-labels-idx1-ubyte.gz", 8)
    features = metrics.load_features(path)(images)
    assert features.shape == (10_000, 84)
    accuracy = (lenet.classify(lenet.load_weights(path), features).argmax(1) == labels).double().mean().item()
    assert 0.987 <= accuracy < 0.989


def test_pictures_of_both_sizes_have_features(weights_file: Path) -> None:
    features = metrics.load_features(weights_file)
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear")
    assert torch.equal(features(images), features(large))
    assert features(images).abs().max() <= 1


def test_pictures_of_another_shape_or_range_are_refused(weights_file: Path) -> None:
    features = metrics.load_features(weights_file)
    with pytest.raises(ValueError, match=r"got \(2, 3, 32, 32\)"):
        features(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got \[-1, 0\]"):
        features(torch.stack([torch.zeros(1, 28, 28), -torch.ones(1, 28, 28)]))
    with pytest.raises(ValueError, match=r"got \[nan, nan\]"):
        features(torch.full((1, 1, 28, 28), math.nan))


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        metrics.load_features(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not tensors")
    with pytest.raises(ValueError, match="not a file of tensors"):
        metrics.load_features(tmp_path / "text.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="does not hold a LeNet-5"):
        metrics.load_features(tmp_path / "other.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="does not hold a LeNet-5"):
        metrics.load_features(tmp_path / "list.pth")
