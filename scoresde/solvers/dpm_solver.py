"""DPM-Solver++ (Lu et al. 2022b): the multistep methods 2M and 3M, for the probability flow and for the reverse SDE.

The polynomial of past estimates that it integrates, and what makes the last step as good as the others, are in
`_exponential.py`. With one estimate it is DDIM, on the flow and on the SDE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scoresde.solvers._exponential import Exponential, log_chi_of_share
from scoresde.solvers._multistep import Correction, check_order, corrected


@dataclass(frozen=True)
class DPMSolver(Exponential):
    """DPM-Solver++(1, 2M, 3M), or with `sde` its stochastic form, the reverse SDE itself (noise share 1).

    The first step of order 3 is corrected when the estimate at its end is there, since a step of first order would cost
    the third; that takes no evaluation.

    Args:
        order: 1 to 3: of the error for the flow, and of the polynomial; the weak order of the SDE form is 2 at most.

    Raises:
        ValueError: another order.
    """

    order: int = 2
    sde: bool = False

    def __post_init__(self) -> None:
        check_order(self.order, 1, 3)

    @property
    def stochastic(self) -> bool:
        return self.sde

    @property
    def points(self) -> int:
        return self.order

    @property
    def remembered(self) -> int:
        return self.order

    def corrections(self, known: int) -> Sequence[Correction]:
        return corrected(1, 2) if known == 1 and self.order == 3 else ()

    def log_chi(self, rho: np.ndarray) -> np.ndarray:
        return log_chi_of_share(1.0 if self.sde else 0.0, rho)
