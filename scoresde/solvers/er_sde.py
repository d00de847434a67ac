"""ER-SDE (Cui et al. 2023): the reverse SDE with an amount of noise of its own choice at every level.

Any increasing chi(rho) leaves the marginals as they are (`_exponential.py`; the paper's phi is our psi = rho chi).
Theirs is

    chi(rho) = exp(rho^0.3) + 10                                                        (ER-SDE 5)

which takes much noise where rho is large, and next to none near the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scoresde.solvers._exponential import Exponential
from scoresde.solvers._multistep import Correction, check_order


@dataclass(frozen=True)
class ERSDE(Exponential):
    """ER-SDE-Solver with up to `points` estimates: ER-SDE-3 by default.

    Args:
        points: 1 to 3.

    Raises:
        ValueError: another number of points.
    """

    points: int = 3
    stochastic = True

    def __post_init__(self) -> None:
        check_order(self.points, 1, 3, name="points")

    @property
    def order(self) -> int:
        return min(self.points, 2)

    @property
    def remembered(self) -> int:
        return self.points

    def corrections(self, known: int) -> Sequence[Correction]:
        return ()

    def log_chi(self, rho: np.ndarray) -> np.ndarray:
        return np.logaddexp(rho**0.3, math.log(10.0))
