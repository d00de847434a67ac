"""Weights and resampling: from weighted draws to draws of equal weight."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde.noise import RESAMPLING, uniform


def systematic(log_weights: Tensor, u: float, n: int | None = None) -> Tensor:
    """(n,) indices, each as often as n times its weight, rounded up or down (Kitagawa 1996); u is uniform in (0, 1).

    Indices ascend, so that equal weights give 0..n-1.
    """
    n = len(log_weights) if n is None else n
    edges = torch.softmax(log_weights.double(), 0).cumsum(0)
    points = (torch.arange(n, dtype=torch.float64, device=edges.device) + u) / n
    return torch.searchsorted(edges, points * edges[-1]).clamp_max(len(log_weights) - 1)


def offset(seed: int, step: int) -> float:
    """The uniform number for `systematic`: a function of the seed and of which resampling it is."""
    zero = torch.zeros(1, dtype=torch.int64)
    return uniform(seed, zero, (1,), step=step, stream=RESAMPLING, dtype=torch.float64).item()


def effective_number(log_weights: Tensor) -> float:
    """(sum w)^2 / sum w^2, from 1 to N (Kong, Liu & Wong 1994)."""
    return math.exp(2.0 * torch.logsumexp(log_weights, 0).item() - torch.logsumexp(2.0 * log_weights, 0).item())


class Population:
    """Weights of N particles, when to resample them, their evidence, and where the survivors come from.

    Args:
        size: N.
        threshold: resample when the effective number is below this share of N.
        seed: of the uniform number of each resampling.
    """

    def __init__(self, size: int, threshold: float, seed: int) -> None:
        self.threshold, self.seed = threshold, seed
        self._log_w: Tensor = torch.zeros(size, dtype=torch.float64)
        self._log_evidence = 0.0
        self._ancestors = torch.arange(size)
        self._ess: list[float] = []
        self._resamplings = 0

    def weigh(self, log_w: Tensor) -> None:
        """Multiply the weights by exp(log_w), (N,)."""
        self._log_w = self._log_w + log_w.double().cpu()
        self._ess.append(effective_number(self._log_w))

    def resample(self) -> Tensor | None:
        """Indices (N,) to go on with, when the effective number asks for it; the weights are equal then."""
        if self._ess[-1] >= self.threshold * len(self._log_w):
            return None
        self._log_evidence = self.log_evidence()
        self._resamplings += 1
        kept = systematic(self._log_w, offset(self.seed, self._resamplings))
        self._log_w = torch.zeros_like(self._log_w)
        self._ancestors = self._ancestors[kept]
        return kept

    def log_weights(self) -> Tensor:
        """(N,) normalised."""
        return torch.log_softmax(self._log_w, 0)

    def log_evidence(self) -> float:
        """log of the product of the mean weights: of an unbiased estimate of p(y)."""
        return self._log_evidence + torch.logsumexp(self._log_w, 0).item() - math.log(len(self._log_w))

    def diagnostics(self) -> dict[str, object]:
        """Effective numbers after each step, resamplings, and how many of the starts have descendants."""
        return {"ess": self._ess, "resamplings": self._resamplings, "ancestors": len(self._ancestors.unique())}
