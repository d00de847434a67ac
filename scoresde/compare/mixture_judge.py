r"""The judge of samples whose law is known: a Gaussian mixture.

The truth of a seed is a fresh set of as many exact samples as there are to be judged, the floor a second set against
the same first one. Exact sets come from torch's generator with the seeds 2 k (truth) and 2 k + 1 (floor) for k = seed +
FIRST, in [2^30, 2^32); the samplers' noise is Philox's, which shares nothing with it. torch's generator keeps 32 bits
of a seed, so that k must stay below 2^31.

Measures that need no second set are read off the law itself: with r the responsibilities and w the weights, the
mode-weight error is sum_i |mean r_i - w_i| / 2 (total variation); the width, sqrt(mean over samples and entries of
z^2 / l) with z the coordinates about the mean of the most likely mode, along its axes, and l the variances there, is 1
for separate modes sampled rightly. Errors of mean and covariance are in units of the law's own spread.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde.compare.judge import Judge, Measure
from scoresde.distributions import GaussianMixture
from scoresde.metrics import energy_distance, median_distance, mmd, sliced_wasserstein

FIRST = 2**29
SEEDS = 2**31 - FIRST
PAIRED = 2000  # points of each set whose pairs are taken, for MMD and energy distance: O(n^2)

MEASURES = (
    Measure("sw2", "sliced W2", "Sliced 2-Wasserstein distance to as many exact samples, in the data's units."),
    Measure("sw1", "sliced W1", "Sliced 1-Wasserstein distance to as many exact samples, in the data's units."),
    Measure(
        "mmd",
        "MMD^2",
        f"Squared maximum mean discrepancy, Gaussian kernel of the law's median distance, unbiased and so at times "
        f"negative; at most {PAIRED} samples. It sees the weights of modes rather than their widths.",
        signed=True,
    ),
    Measure(
        "energy",
        "energy distance",
        f"Energy distance (its square, D^2), unbiased and so at times negative, in the data's units; at most {PAIRED} "
        "samples.",
        signed=True,
    ),
    Measure("weights", "mode weights", "Total variation between the weights of the modes as sampled and as they are."),
    Measure(
        "width",
        "width in modes",
        "Standard deviation within modes over the true one, pooled; below 1 the modes are too narrow.",
        ideal=1.0,
        two_sided=True,
    ),
    Measure("mean", "mean error", "Norm of the error of the mean, over the root of the covariance's trace."),
    Measure(
        "covariance", "covariance error", "Frobenius norm of the error of the covariance, over that of the covariance."
    ),
)


class MixtureJudge(Judge):
    """Holds samples (n, D), n >= 2, against a Gaussian mixture.

    Args:
        law: the truth.
    """

    measures = MEASURES
    headline = "sw2"
    seeds = SEEDS

    def __init__(self, law: GaussianMixture) -> None:
        self.law = law
        self.about = (
            f"Against exact samples of a Gaussian mixture of {law.components} components in {law.dim} dimensions, and "
            "against its exact weights and moments. The floor is what as many exact samples read."
        )
        self._mean, self._covariance = law.mean(), law.covariance()
        typical = law.sample(PAIRED, 2 * FIRST - 1).double()
        self._bandwidth = median_distance(typical[::2], typical[1::2])

    def values(self, samples: Tensor, seed: int) -> dict[str, float]:
        x = samples.double().to(self.law.device)
        if x.ndim != 2 or x.shape[1] != self.law.dim or len(x) < 2:
            raise ValueError(
                f"samples are {tuple(x.shape)}; the law has {self.law.dim} dimensions: give (n, D), n >= 2"
            )
        if not bool(x.isfinite().all()):
            i = int((~x.isfinite()).any(1).nonzero()[0])
            raise ValueError(f"sample {i} is not finite")
        truth = self.law.sample(len(x), self._generator_seed(seed)).double()
        near, near_truth = x[:PAIRED], truth[:PAIRED]
        return {
            "sw2": sliced_wasserstein(x, truth, p=2, seed=seed),
            "sw1": sliced_wasserstein(x, truth, p=1, seed=seed),
            "mmd": mmd(near, near_truth, bandwidth=self._bandwidth),
            "energy": energy_distance(near, near_truth, unbiased=True),
            **self._against_the_law(x),
        }

    def floor_values(self, n: int, seed: int) -> dict[str, float]:
        return self.values(self.law.sample(n, self._generator_seed(seed) + 1), seed)

    def floor_sets(self, n: int) -> int:
        return SEEDS

    def _against_the_law(self, x: Tensor) -> dict[str, float]:
        r = torch.cat([self.law.responsibilities(part) for part in x.split(1000)])
        weights, mean, covariance = (a.to(x) for a in (self.law.weights, self._mean, self._covariance))
        return {
            "weights": 0.5 * (r.mean(0) - weights).abs().sum().item(),
            "width": self._width(x, r.argmax(1)),
            "mean": ((x.mean(0) - mean).norm() / covariance.trace().sqrt()).item(),
            "covariance": ((x.mT.cov().reshape(covariance.shape) - covariance).norm() / covariance.norm()).item(),
        }

    def _width(self, x: Tensor, mode: Tensor) -> float:
        """Root mean square distance to the most likely mode's mean, along its axes in its standard deviations.

        Axes along which a mode has no variance are left out; nan if there are no others.
        """
        total, count = 0.0, 0
        for i in mode.unique().tolist():
            z = x[mode == i] - self.law.means[i].to(x)
            if self.law.basis is not None:
                z = z @ self.law.basis[i].to(x)
            variance = self.law.eigenvalues[i].to(x)
            wide = variance > 0
            total += (z[:, wide].square() / variance[wide]).sum().item()
            count += len(z) * int(wide.sum())
        return (total / count) ** 0.5 if count else math.nan

    def _generator_seed(self, seed: int) -> int:
        if not 0 <= seed < SEEDS:
            raise ValueError(f"seed = {seed}; it must be in [0, {SEEDS})")
        return 2 * (FIRST + seed)
