"""Points in the plane with a known shape: moons, checkerboard, swissroll, rings.

Each is centred and scaled by its exact moments, not by those of the sample, so that any two draws, of any
size, come from one law with mean 0 and, averaged over both axes, variance 1. One scale serves both axes and
keeps the shape.
"""

import math

import numpy as np

PI = math.pi


def moons(n: int, seed: int = 0, noise_std: float = 0.1) -> np.ndarray:
    """Two interleaved half circles of radius 1, blurred: (n, 2) float32.

    The outer is (cos a, sin a), the inner (1 - cos a, 1/2 - sin a), a uniform on [0, pi].
    """
    generator = _generator(n, seed)
    a = generator.uniform(0.0, PI, n)
    inner = generator.random(n) < 0.5
    x = np.where(inner, 1 - np.cos(a), np.cos(a))
    y = np.where(inner, 0.5 - np.sin(a), np.sin(a))
    points = _blurred(x, y, noise_std, generator)
    # E sin a = 2 / pi; half the squared distance of the two arcs' means adds to the variance within an arc
    variance_x = 1 / 2 + 1 / 4
    variance_y = 1 / 2 - (2 / PI) ** 2 + (2 / PI - 1 / 4) ** 2
    return _scaled(points, (0.5, 0.25), (variance_x + variance_y) / 2 + noise_std**2)


def checkerboard(n: int, seed: int = 0) -> np.ndarray:
    """Uniform on the eight black fields of a 4 x 4 board: (n, 2) float32, no noise.

    The board covers [-2, 2]^2 before scaling, and the fields with an even sum of column and row are black.
    """
    generator = _generator(n, seed)
    column = generator.integers(0, 4, n)
    row = 2 * generator.integers(0, 2, n) + column % 2
    points = np.stack([column, row], axis=1) + generator.random((n, 2))
    return _scaled(points, (2.0, 2.0), 4 / 3)


def swissroll(n: int, seed: int = 0, noise_std: float = 0.5) -> np.ndarray:
    """The spiral (a cos a, a sin a), a uniform on [3 pi / 2, 9 pi / 2], blurred: (n, 2) float32."""
    generator = _generator(n, seed)
    low, high = 1.5 * PI, 4.5 * PI
    a = generator.uniform(low, high, n)
    points = _blurred(a * np.cos(a), a * np.sin(a), noise_std, generator)
    # the integrals of a cos a and a sin a over the range are 6 pi and 2
    mean = (6 * PI / (high - low), 2 / (high - low))
    mean_square = (high**3 - low**3) / (3 * (high - low))
    return _scaled(points, mean, (mean_square - mean[0] ** 2 - mean[1] ** 2) / 2 + noise_std**2)


def rings(n: int, seed: int = 0, noise_std: float = 0.05) -> np.ndarray:
    """Four concentric circles of radius 1, 2, 3, 4, equally likely, blurred: (n, 2) float32."""
    generator = _generator(n, seed)
    radius = generator.integers(1, 5, n)
    a = generator.uniform(0.0, 2 * PI, n)
    points = _blurred(radius * np.cos(a), radius * np.sin(a), noise_std, generator)
    mean_square = (1 + 4 + 9 + 16) / 4
    return _scaled(points, (0.0, 0.0), mean_square / 2 + noise_std**2)


def _generator(n: int, seed: int) -> np.random.Generator:
    if n < 1:
        raise ValueError(f"n must be 1 or more, got {n}")
    return np.random.default_rng(seed)


def _blurred(x: np.ndarray, y: np.ndarray, noise_std: float, generator: np.random.Generator) -> np.ndarray:
    return np.stack([x, y], axis=1) + noise_std * generator.standard_normal((len(x), 2))


def _scaled(points: np.ndarray, mean: tuple[float, float], variance: float) -> np.ndarray:
    """Subtract the exact mean and divide by the root of the variance, averaged over the axes."""
    return ((points - mean) / math.sqrt(variance)).astype(np.float32)
