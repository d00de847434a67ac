"""Distances between two sets of samples, and between a picture and the truth: functions of tensors."""

from scoresde.metrics.calibration import (
    Calibration,
    Coverage,
    calibration_tests,
    coverage,
    coverage_curve,
    holm,
    interval_coverage,
    joint_test,
    residual_test,
    sbc_ranks,
    sbc_test,
    smooth_test,
    spread_skill,
    tarp_values,
)
from scoresde.metrics.energy import energy_distance
from scoresde.metrics.frechet import feature_statistics, frechet_distance
from scoresde.metrics.lenet import load_features
from scoresde.metrics.mmd import kernel_distance, median_distance, mmd
from scoresde.metrics.pictures import psnr, ssim
from scoresde.metrics.wasserstein import sliced_wasserstein, sliced_wasserstein_values, wasserstein_1d

__all__ = [
    "Calibration",
    "Coverage",
    "calibration_tests",
    "coverage",
    "coverage_curve",
    "energy_distance",
    "feature_statistics",
    "frechet_distance",
    "holm",
    "interval_coverage",
    "joint_test",
    "kernel_distance",
    "load_features",
    "median_distance",
    "mmd",
    "psnr",
    "residual_test",
    "sbc_ranks",
    "sbc_test",
    "sliced_wasserstein",
    "sliced_wasserstein_values",
    "smooth_test",
    "spread_skill",
    "ssim",
    "tarp_values",
    "wasserstein_1d",
]
