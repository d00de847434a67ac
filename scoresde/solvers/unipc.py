"""UniPC (Zhao et al. 2023): a multistep predictor, and a corrector that costs no evaluation.

The estimate at the end of a step, which the next step needs anyway, corrects the step itself: an interpolating
polynomial instead of an extrapolating one. Both go into one update of x (see `_exponential.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scoresde.solvers._exponential import Exponential, log_chi_of_share
from scoresde.solvers._multistep import Correction, check_order, corrected


@dataclass(frozen=True)
class UniPC(Exponential):
    """Predictor and corrector through `order` estimates each, on the probability flow; the default solver.

    It is UniP-p with UniC-(p - 1): the corrector is one estimate shorter than in Zhao et al., so that the first steps
    hold the order too; measured errors are the same.

    Args:
        order: 1 to 3.

    Raises:
        ValueError: another order.
    """

    order: int = 3
    stochastic = False

    def __post_init__(self) -> None:
        check_order(self.order, 1, 3)

    @property
    def points(self) -> int:
        return self.order

    @property
    def remembered(self) -> int:
        return self.order + 1

    def corrections(self, known: int) -> Sequence[Correction]:
        return corrected(min(known, self.points), min(known + 1, self.points))

    def log_chi(self, rho: np.ndarray) -> np.ndarray:
        return log_chi_of_share(0.0, rho)
