r"""Predictor-corrector sampling (Song et al. 2021, Algorithms 1 to 5), on any grid of any linear process.

*Predictor*: the forward step X_t = X_s + f(X_s) + g z, reversed with its own f and g (their eq. 46),

    x_s = x_t - f(x_t) + g^2 score(x_t, t) + g z.

Here the forward step is the exact transition X_t = a X_s + sqrt(v) z (theory 4), so that f(x) = (a - 1) x, g^2 = v and

    x_s = (2 - a) x_t + v score(x_t, t) + sqrt(v) z,

which is Algorithm 3 for VP (a = sqrt(1 - beta), v = beta) and Algorithm 2 for VE (a = 1, v = sigma_t^2 - sigma_s^2).
Ancestral sampling has the mean (x_t + v score) / a and the variance sigma_s^2 v / sigma_t^2: the means differ in the
second order of 1 - a (2 - a for 1 / a), the variances in the first, so that coarse grids make modes too wide here and
too narrow there. Nothing is divided by a, so that a step from alpha(t) = 0 is defined, for networks that predict eps or
the score too. What it gets wrong, x_t + z where X_s owes x_t nothing, the next steps forget, by order 1 in the end.

*Corrector*: Langevin steps, which leave q_s as it is but for a bias that grows with epsilon,

    x <- x + epsilon score(x, s) + sqrt(2 epsilon) z.

Algorithms 4 and 5 take epsilon = 2 (snr |z| / |score|)^2. Song et al.'s code averages the norms over the batch, which
couples the samples; "norms" here takes those of the sample alone. But then epsilon depends on x and on z, and what such
steps leave as it is is no longer q_s: for N(0, I) in D dimensions they widen the variance by about 4 / D, and in the
plane, where E[1 / |score|^2] is infinite, there is no variance at all. The default, "level", is what the ratio comes to
where noise prevails, |score| = |z| / sigma_s: epsilon = 2 (snr sigma_s)^2 (Song & Ermon 2019; Song et al.'s corrector
`ald`). It is stable for every law, since no q_s is more curved than 1 / sigma_s^2, and its bias, snr^2 of the variance
where noise prevails, goes to 0 with sigma_s.

Algorithm 5 multiplies epsilon by alpha_k = 1 - beta_k for VP. That is a^2: a number of the grid and not of q_s, 1 for
VE and 1 on fine grids; it is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from scoresde._tensors import Coefficient, accumulate, combine
from scoresde.denoisers import Denoiser
from scoresde.reverse import Reverse
from scoresde.sde import Level, transition
from scoresde.solvers.base import Draw, Solver, State

LEVEL, NORMS = "level", "norms"


@dataclass(frozen=True)
class PredictorCorrector(Solver[Reverse]):
    """The reverse-diffusion predictor, then `corrections` Langevin steps at the level that it reached.

    A step costs 1 + corrections network calls; the last one, to t = 0, is x0 itself: one call, no noise, no correction.

    Args:
        corrections: Langevin steps after each predictor step.
        snr: signal-to-noise ratio of a Langevin step, r in Song et al.'s Algorithms 4 and 5.
        size: of a Langevin step: "level", epsilon = 2 (snr sigma_s)^2, right in any dimension, or "norms",
            2 (snr |z| / |score|)^2 by each sample's own norms, which is for pictures: it widens laws by some 4 / D.

    Raises:
        ValueError: corrections negative or not whole, snr not positive or not finite, another size.
    """

    corrections: int = 1
    snr: float = 0.16
    size: str = LEVEL
    order = 1
    stochastic = True

    def __post_init__(self) -> None:
        if not (0 <= self.corrections < math.inf and self.corrections == int(self.corrections)):
            raise ValueError(f"corrections = {self.corrections}; it must be a whole number, 0 (predictor only) or more")
        if not 0 < self.snr < math.inf:
            raise ValueError(f"snr = {self.snr}; it must be positive and finite, say 0.16; for none, corrections = 0")
        if self.size not in (LEVEL, NORMS):
            raise ValueError(f"size = {self.size!r}; it must be 'level' (by sigma) or 'norms' (by |z| / |score|)")

    @property
    def evaluations(self) -> int:
        """Network calls in a step, but for the last one, which takes 1."""
        return 1 + self.corrections

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=1.0)

    def init(self, process: Reverse, x: Tensor) -> State:
        return State(x)

    def step(self, process: Reverse, state: State, t: float, s: float, noise: Draw) -> State:
        denoiser, level_t, level_s, x = process.denoiser, process.at(t), process.at(s), state.x
        prediction = denoiser.predict(x, level_t)
        if s == 0:
            k, m = denoiser.parameterisation.x0(level_t)
            return State(combine(k, x, m, prediction, out=x))
        a, v = (float(c) for c in transition(level_s, level_t))
        c, d = denoiser.parameterisation.score(level_t)
        combine(2.0 - a + v * c, x, v * d, prediction, out=x).add_(noise(), alpha=math.sqrt(v))
        for k in range(1, 1 + self.corrections):
            score, z = denoiser.score(x, s), noise(k)
            epsilon = self._epsilon(level_s, score, z)
            accumulate(x, epsilon, score)
            accumulate(x, (2.0 * epsilon) ** 0.5, z)
        return State(x)

    def _epsilon(self, level: Level, score: Tensor, z: Tensor) -> Coefficient:
        if self.size == LEVEL:
            return 2.0 * (self.snr * level.sigma) ** 2
        return 2.0 * (self.snr * z.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1)) ** 2
