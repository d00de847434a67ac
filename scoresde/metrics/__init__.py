"""Distances between two sets of samples: functions of tensors, wherever these came from."""

from scoresde.metrics.energy import energy_distance
from scoresde.metrics.frechet import feature_statistics, frechet_distance
from scoresde.metrics.lenet import load_features
from scoresde.metrics.mmd import kernel_distance, median_distance, mmd
from scoresde.metrics.wasserstein import sliced_wasserstein, sliced_wasserstein_values, wasserstein_1d

__all__ = [
    "energy_distance",
    "feature_statistics",
    "frechet_distance",
    "kernel_distance",
    "load_features",
    "median_distance",
    "mmd",
    "sliced_wasserstein",
    "sliced_wasserstein_values",
    "wasserstein_1d",
]
