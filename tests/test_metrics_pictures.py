"""PSNR and SSIM against scikit-image, closed forms and the definition written out."""

import math

import numpy as np
import pytest
import skimage.metrics
import torch

from scoresde.metrics import psnr, ssim


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth pictures and noisy copies, so that SSIM lies well inside its range."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.linspace(0, 6, n, dtype=torch.float64) for n in shape[-2:])
    truth = 0.5 + 0.4 * torch.sin(rows[:, None] + 2 * columns) * torch.rand(
        *shape[:2], 1, 1, dtype=torch.float64, generator=generator
    )
    return truth + 0.1 * torch.randn(shape, dtype=torch.float64, generator=generator), truth


@pytest.mark.parametrize("data_range", [1.0, 2.0])
@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 33, 21), (1, 1, 11, 12), (3, 3, 11, 11)])
def test_both_are_those_of_scikit_image(shape: tuple[int, ...], data_range: float) -> None:
    x, truth = pair(*shape)
    for i, (value, similarity) in enumerate(zip(psnr(x, truth, data_range), ssim(x, truth, data_range), strict=True)):
        a, b = truth[i].numpy(), x[i].numpy()
        expected = skimage.metrics.peak_signal_noise_ratio(a, b, data_range=data_range)
        assert value.item() == pytest.approx(expected, abs=1e-10)
        expected = skimage.metrics.structural_similarity(
            a,
            b,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=data_range,
            channel_axis=0,
        )
        assert similarity.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("shape", "width"), [((1, 1, 8, 8), 7), ((2, 1, 5, 30), 5), ((1, 3, 2, 3), 1)])
def test_a_small_picture_is_seen_through_the_widest_window_that_fits(shape: tuple[int, ...], width: int) -> None:
    x, truth = pair(*shape)
    line = np.exp(-0.5 * ((np.arange(width) - width // 2) / 1.5) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    for i, similarity in enumerate(ssim(x, truth)):
        values = []
        for c in range(shape[1]):
            for row in range(shape[2] - width + 1):
                for column in range(shape[3] - width + 1):
                    a, b = (p[i, c, row : row + width, column : column + width].numpy() for p in (x, truth))
                    m, n = (window * a).sum(), (window * b).sum()
                    spread = (window * ((a - m) ** 2 + (b - n) ** 2)).sum()
                    covariance = (window * (a - m) * (b - n)).sum()
                    value = (2 * m * n + 1e-4) * (2 * covariance + 9e-4)
                    values.append(value / ((m**2 + n**2 + 1e-4) * (spread + 9e-4)))
        assert similarity.item() == pytest.approx(np.mean(values), abs=1e-12)


def test_a_constant_error_is_its_own_decibels() -> None:
    truth = torch.zeros(3, 5, dtype=torch.float64)
    errors = torch.tensor([0.1, 0.01, 1.0], dtype=torch.float64)
    torch.testing.assert_close(
        psnr(truth + errors[:, None], truth), torch.tensor([20.0, 40.0, 0.0], dtype=torch.float64)
    )


def test_a_picture_is_wholly_like_itself_and_each_of_a_batch_stands_alone() -> None:
    x, truth = pair(4, 1, 16, 16)
    assert torch.equal(psnr(truth, truth), torch.full((4,), math.inf, dtype=torch.float64))
    torch.testing.assert_close(ssim(truth, truth), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)
    for metric in (psnr, ssim):
        values = metric(x, truth[:1])
        assert len(set(values.tolist())) == 4
        for i in range(4):
            assert values[i].item() == pytest.approx(metric(x[i : i + 1], truth[:1]).item(), rel=1e-12)


def test_float32_pictures_are_compared_in_float64() -> None:
    x, truth = (t.float() for t in pair(2, 1, 24, 24))
    for metric in (psnr, ssim):
        assert torch.equal(metric(x, truth), metric(x.double(), truth.double()))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_what_cannot_be_compared_is_refused(metric) -> None:
    x = torch.zeros(2, 1, 12, 12)
    with pytest.raises(ValueError, match=r"\(2, 1, 12, 12\) and the truth \(3, 1, 12, 12\)"):
        metric(x, torch.zeros(3, 1, 12, 12))
    with pytest.raises(ValueError, match=r"the truth \(2, 1, 12, 13\)"):
        metric(x, torch.zeros(2, 1, 12, 13))
    with pytest.raises(ValueError, match="data_range = 0"):
        metric(x, x, 0.0)
    with pytest.raises(ValueError, match="finite"):
        metric(x, torch.full_like(x, math.nan))


def test_ssim_is_for_pictures() -> None:
    with pytest.raises(ValueError, match=r"not \(2, 12\)"):
        ssim(torch.zeros(2, 12), torch.zeros(2, 12))
