r"""Dormand & Prince's 5(4) pair on the probability flow, with a step size of its own for every sample.

It solves dy/dphi = cos(phi) eps - sin(phi) x0, which is the flow of every linear process in the angle
phi = atan(sigma / alpha) and y = x / sqrt(alpha^2 + sigma^2), bounded everywhere (`_angle.py`).

The error of a step is measured and the next step chosen for each sample alone (Hairer, Norsett & Wanner 1993, II.4, PI
control of Gustafsson 1991), so that no sample is changed by its companions; the batch keeps its shape throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde._tensors import expand
from scoresde.denoisers import Denoiser
from scoresde.errors import NumericalError
from scoresde.reverse import Reverse
from scoresde.solvers._angle import angle_of_time, arrive, slope, time_of_angle
from scoresde.solvers.base import Draw, Solver, State

# Dormand & Prince 1980, table 2
C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
MAX_STEPS = 20_000
FIRST_STEP = 0.01  # of the whole angle; too small costs two steps, since a step may grow fivefold


@dataclass(frozen=True)
class RK45(Solver[Reverse]):
    """Adaptive Runge-Kutta of order 5, error per sample at most about atol + rtol |y| a step.

    Raises:
        ValueError: a tolerance that is not positive.
        NumericalError: a slope that is not finite, or more than 20,000 steps; names the sample and t.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    order = 5
    evaluations = 0
    adaptive: ClassVar[bool] = True
    stochastic = False

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} = {value}; a tolerance must be positive, say 1e-4")

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=0.0)

    def init(self, process: Reverse, x: Tensor) -> State:
        return State(x)

    def step(self, process: Reverse, state: State, t: float, s: float, noise: Draw) -> State:
        """The state at s, to tolerance, in as many inner steps as each sample needs."""
        denoiser = process.denoiser
        start, end = (angle_of_time(denoiser, time, state.x.dtype) for time in (t, s))
        y, dy = self._integrate(denoiser, state.x / process.at(t).radius, start, end)
        return State(arrive(process, y, dy, end, s))

    def _integrate(self, denoiser: Denoiser, y: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
        """y at the angle `end` and the slope there, per sample."""
        phi = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
        h = torch.full_like(phi, FIRST_STEP * (end - start))
        last_error = torch.ones_like(phi)
        slopes = [slope(denoiser, y, phi)]
        for _ in range(MAX_STEPS):
            active = phi != end
            if not bool(active.any()):
                return y, slopes[0]
            # the last step lands on the end exactly
            final = (h.abs() >= (end - phi).abs() * (1 - 1e-12)) & active
            h = torch.where(final, end - phi, h)
            h = torch.where(active, h, 0.0)
            y_new, error = self._try(denoiser, y, phi, h, slopes)
            self._check(denoiser, error, phi)
            accepted = (error <= 1.0) & active
            y = torch.where(expand(accepted, y).bool(), y_new, y)
            slopes = [torch.where(expand(accepted, y).bool(), slopes[6], slopes[0])]
            phi = torch.where(accepted & final, end, torch.where(accepted, phi + h, phi))
            error = error.clamp_min(1e-10)
            # PI control: exponents 0.7 / 5 and 0.4 / 5; after a rejection only shrink
            factor = SAFETY * error ** (-0.14) * torch.where(accepted, last_error**0.08, 1.0)
            h = h * factor.clamp(SHRINK, GROW)
            last_error = torch.where(accepted, error, last_error)
        stuck = int((phi != end).nonzero()[0])
        raise NumericalError(
            f"RK45: sample {stuck} of the batch is still at t = {time_of_angle(denoiser, phi)[stuck].item():.3g} after "
            f"{MAX_STEPS} steps; take larger tolerances than rtol = {self.rtol:g}, atol = {self.atol:g}"
        )

    def _try(
        self, denoiser: Denoiser, y: Tensor, phi: Tensor, h: Tensor, slopes: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """One trial step of every sample: the new y, and the error in units of the tolerance (B,)."""
        y_new = y
        for c, weights in zip(C[1:], A[1:], strict=True):
            y_new = y + expand(h, y) * sum(w * k for w, k in zip(weights, slopes, strict=True) if w)
            slopes.append(slope(denoiser, y_new, phi + c * h))
        error = expand(h, y) * sum(w * k for w, k in zip(ERROR, slopes, strict=True) if w)
        allowed = self.atol + self.rtol * torch.maximum(y.abs(), y_new.abs())
        return y_new, (error / allowed).flatten(1).double().square().mean(1).sqrt()

    def _check(self, denoiser: Denoiser, error: Tensor, phi: Tensor) -> None:
        if not bool(error.isfinite().all()):
            i = int((~error.isfinite()).nonzero()[0])
            raise NumericalError(
                f"RK45: the slope of sample {i} of the batch is not finite near "
                f"t = {time_of_angle(denoiser, phi)[i].item():.4g}"
            )
