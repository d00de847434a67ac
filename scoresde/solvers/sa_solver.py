"""SA-Solver (Xue et al. 2023): stochastic Adams, a predictor and a corrector of the reverse SDE with any noise share.

As UniPC, with noise: the corrector keeps the noise of the step that it corrects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scoresde.solvers._exponential import Exponential, log_chi_of_share
from scoresde.solvers._multistep import Correction, check_order, corrected


@dataclass(frozen=True)
class SASolver(Exponential):
    """Predictor and corrector through up to `points` estimates each; tau(t) of the paper is the constant `eta`.

    Args:
        eta: noise share, 0 (the flow: UniPC) or more; 1 is the reverse SDE.
        points: 1 to 3.

    Raises:
        ValueError: eta negative or not finite, or another number of points.
    """

    eta: float = 1.0
    points: int = 3

    def __post_init__(self) -> None:
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"eta = {self.eta}; it must be 0 (no noise) or more (1 is the reverse SDE)")
        check_order(self.points, 1, 3, name="points")

    @property
    def order(self) -> int:
        return min(self.points, 2) if self.stochastic else self.points

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def remembered(self) -> int:
        return self.points + 1

    def corrections(self, known: int) -> Sequence[Correction]:
        return corrected(min(known, self.points), min(known + 1, self.points))

    def log_chi(self, rho: np.ndarray) -> np.ndarray:
        return log_chi_of_share(self.eta, rho)
