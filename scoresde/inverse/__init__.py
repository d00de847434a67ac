"""Measurements of data: y = A(x) + noise."""

from scoresde.inverse.measurement import GaussianMeasurement

__all__ = ["GaussianMeasurement"]
