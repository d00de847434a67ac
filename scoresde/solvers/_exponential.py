r"""What DPM-Solver++, UniPC, ER-SDE and SA-Solver share: the linear part exactly, xhat0 as a polynomial.

Let rho = sigma / alpha. For every increasing weight psi(rho) = rho chi(rho) the reverse process with the forward
marginals

    x_s / alpha_s = (psi_s / psi_t) x_t / alpha_t + psi_s int_t^s xhat0 d(1 / psi)
                    + rho_s sqrt(1 - (chi_s / chi_t)^2) z,       z ~ N(0, I),

is the probability flow for a constant chi (Lu et al. 2022b, prop. 4.1), the reverse process with noise share eta of
theory 4 for chi = rho^(eta^2) (Xue et al. 2023, prop. 4.1), and Cui et al.'s (2023) extended one for any other chi. The
integral is exact when xhat0 is a polynomial of v, an increasing function of time.

The literature takes v = log rho, which has no end at t = 0, so that the last step falls back to first order, and none
where alpha = 0. Here

    v = log(w^2 + CORNER^2),      w = REACH atan(rho / REACH),

which is log rho where it matters and smooth at both ends: in rho^2 near the data, as xhat0 is (x_t = x0 - rho^2 / 2
score + ...), so that the last step down to 0 extrapolates with full order and never evaluates a network there; in 1 /
rho where rho is infinite. It stays a logarithm up to large rho because a network's error in xhat0 grows like rho (it
predicts eps), and estimates close in v would be extrapolated with large weights.

With v shifted and scaled to be 0 at t and 1 at s, the weights follow from the moments (`weights_of_moments`)
M_m = psi_s int_t^s v^m d(1 / psi), which are by parts M_0 = 1 - psi_s / psi_t and

    M_m = 1 - m int_0^1 (psi_s / psi) v^(m - 1) dv,

in which nothing is infinite: psi_s / psi lies in [0, 1], also where alpha_t = 0 or sigma_s = 0.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import numpy as np

from scoresde.denoisers import Denoiser
from scoresde.parameterisations import Pair, Parameterisation
from scoresde.reverse import Reverse
from scoresde.sde import Level
from scoresde.solvers._multistep import Multistep, weights_of_moments

CORNER = 0.5
"""The rho below which v turns from a logarithm into a square; 0.3 to 0.7 are about equal on mixtures."""

REACH = 100.0
"""The rho above which v levels off. With 1 a digits network ended 6 times farther off in 10 steps; 1000 is as good."""

NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(32)


class Exponential(Multistep):
    """A multistep solver that remembers xhat0; what is left to say is chi."""

    @abc.abstractmethod
    def log_chi(self, rho: np.ndarray) -> np.ndarray:
        """How much noise is put in, as log chi(rho) up to a constant: any increasing function of rho > 0."""

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=1.0 if self.stochastic else 0.0)

    def estimate(self, parameterisation: Parameterisation, t: Level) -> Pair:
        return parameterisation.x0(t)

    def keep(self, t: Level, s: Level) -> float:
        return float(s.sigma) / float(t.sigma) * self._chi_ratio(t, s)

    def spread(self, t: Level, s: Level) -> float:
        return float(s.sigma) * math.sqrt(max(0.0, 1.0 - self._chi_ratio(t, s) ** 2)) if self.stochastic else 0.0

    def quadrature(self, points: Sequence[Level], t: Level, s: Level) -> np.ndarray:
        v_t, v_s = smooth_log(reach(t)), smooth_log(reach(s))
        v = (smooth_log(np.array([reach(point) for point in points])) - v_t) / (v_s - v_t)
        return float(s.alpha) * weights_of_moments(v, self._moments(reach(t), reach(s), len(points)))

    def _moments(self, w_t: float, w_s: float, count: int) -> np.ndarray:
        """M_0..M_{count - 1}."""
        if w_s == 0.0:
            return np.ones(count)
        moments = np.full(count, 1.0 - self._psi_ratio(np.array(w_t), w_s))
        if count > 1:
            # in log w the integrand is smooth however far apart the ends are
            middle, half = 0.5 * math.log(w_t * w_s), 0.5 * math.log(w_s / w_t)
            w = np.exp(middle + half * NODES)
            v_t, v_s = smooth_log(w_t), smooth_log(w_s)
            v = (smooth_log(w) - v_t) / (v_s - v_t)
            dv = 2.0 * w**2 / (w**2 + CORNER**2) / (v_s - v_t) * half * NODE_WEIGHTS
            m = np.arange(1, count)
            moments[1:] = 1.0 - m * (v ** (m[:, None] - 1) @ (self._psi_ratio(w, w_s) * dv))
        return moments

    def _psi_ratio(self, w: np.ndarray, w_s: float) -> np.ndarray:
        """psi_s / psi = (rho_s / rho) (chi_s / chi)."""
        rho, rho_s = ratio(w), ratio(w_s)
        return rho_s / rho * np.exp(self.log_chi(rho_s) - self.log_chi(rho))

    def _chi_ratio(self, t: Level, s: Level) -> float:
        """chi_s / chi_t; it multiplies sigma_s, so that it does not matter where that is 0."""
        if s.sigma == 0.0:
            return 0.0
        return float(np.exp(self.log_chi(ratio(reach(s))) - self.log_chi(ratio(reach(t)))))


def reach(level: Level) -> float:
    """w = REACH atan(rho / REACH): finite also where alpha = 0."""
    return REACH * math.atan2(float(level.sigma), REACH * float(level.alpha))


def ratio(w: np.ndarray | float) -> np.ndarray:
    """rho = sigma / alpha of w; finite, if huge, where alpha = 0."""
    return REACH * np.tan(np.asarray(w) / REACH)


def smooth_log(w: np.ndarray | float) -> np.ndarray:
    """v(w)."""
    return np.log(np.square(w) + CORNER**2)


def log_chi_of_share(eta: float, rho: np.ndarray) -> np.ndarray:
    """log chi = eta^2 log rho: noise share eta (theory 4)."""
    return eta**2 * np.log(rho) if eta > 0 else np.zeros_like(rho)
