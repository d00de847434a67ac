r"""How alike two pictures are: peak signal-to-noise ratio and structural similarity.

    PSNR = 10 log10(data_range^2 / mean (x - truth)^2)                                                  in dB

    SSIM = mean of  (2 m_x m_y + C_1)(2 s_xy + C_2) / ((m_x^2 + m_y^2 + C_1)(s_x^2 + s_y^2 + C_2))      in [-1, 1]

(Wang et al. 2004, eq. 13), with C_1 = (0.01 data_range)^2, C_2 = (0.03 data_range)^2, and the local means m, variances
s^2 and covariance s_xy under a Gaussian window of standard deviation 1.5, 11 pixels wide. The mean is over the pixels
whose window lies in the picture, and over channels. These are the numbers of scikit-image's `structural_similarity`
with `gaussian_weights=True, sigma=1.5, use_sample_covariance=False`, computed in float64.
"""

import torch
from torch import Tensor

SIGMA = 1.5
RADIUS = 5  # 3.5 sigma, rounded


def psnr(x: Tensor, truth: Tensor, data_range: float = 1.0) -> Tensor:
    """PSNR of each of a batch (B, *) to the truth, (B, *) or (1, *): (B,) float64, in dB; infinite where equal.

    Args:
        data_range: the distance from black to white: 1 on the scale [0, 1], 2 on [-1, 1].

    Raises:
        ValueError: shapes that differ, values that are not finite, or a data_range that is not positive.
    """
    x, truth = _checked(x, truth, data_range)
    error = (x - truth).square().flatten(1).mean(1)
    return 10 * torch.log10(data_range**2 / error)


def ssim(x: Tensor, truth: Tensor, data_range: float = 1.0) -> Tensor:
    """SSIM of each picture (B, C, H, W) to the truth, of the same shape or (1, C, H, W): (B,) float64; 1 where equal.

    A picture with fewer than 11 pixels on a side, where scikit-image refuses, is seen through the widest window of odd
    width that fits it, the same Gaussian cut shorter. That number depends on the size, and compares with no published
    one.

    Args:
        data_range: as for `psnr`.

    Raises:
        ValueError: as for `psnr`; no pictures.
    """
    x, truth = _checked(x, truth, data_range)
    if x.ndim != 4 or 0 in x.shape:
        raise ValueError(f"SSIM is for pictures (B, C, H, W), not {tuple(x.shape)}")
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = _local_mean(x), _local_mean(truth)
    var_x = _local_mean(x * x) - mean_x**2
    var_y = _local_mean(truth * truth) - mean_y**2
    covariance = _local_mean(x * truth) - mean_x * mean_y
    values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    values = values / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return values.flatten(1).mean(1)


def _local_mean(x: Tensor) -> Tensor:
    """Gaussian means of each plane (B, C, H, W), where the window lies in it: (B, C, H - 2 r, W - 2 r)."""
    radius = min(RADIUS, (min(x.shape[-2:]) - 1) // 2)
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype)
    window = torch.softmax(-0.5 * (offsets / SIGMA) ** 2, 0).tolist()
    for axis in (-2, -1):
        # a sum of shifted pictures: for float64 many times as fast as torch's convolution
        kept = x.shape[axis] - 2 * radius
        total = torch.zeros_like(x.narrow(axis, 0, kept))
        for shift, weight in enumerate(window):
            total.add_(x.narrow(axis, shift, kept), alpha=weight)
        x = total
    return x


def _checked(x: Tensor, truth: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Both in float64, of one shape."""
    if not 0 < data_range < float("inf"):
        raise ValueError(f"data_range = {data_range}; it must be positive and finite")
    if x.ndim < 2 or x.shape[1:] != truth.shape[1:] or len(truth) not in (1, len(x)):
        raise ValueError(
            f"x has shape {tuple(x.shape)} and the truth {tuple(truth.shape)}; both must be (B, *), or the truth (1, *)"
        )
    if not bool(x.isfinite().all() and truth.isfinite().all()):
        raise ValueError("x and the truth must be finite")
    return x.double(), truth.to(x.device).double().expand(len(x), *truth.shape[1:])
