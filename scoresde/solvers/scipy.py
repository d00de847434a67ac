r"""The probability flow by `scipy.integrate.solve_ivp`, a black box: what our own ODE solvers are checked against.

It is handed dy/dphi = cos(phi) eps - sin(phi) x0 over the angle phi = atan(sigma / alpha), which is bounded for every
process (`_angle.py`), in float64 and one sample at a time: a shared step size would couple the samples of a batch, and
a denoiser asked for one sample at a time answers the same whatever the batch. It is as slow as that sounds.

Sources: Virtanen et al. 2020 (SciPy); Bogacki & Shampine 1989 (RK23), Dormand & Prince 1980 (RK45), Hairer, Norsett &
Wanner 1993 (DOP853), Hairer & Wanner 1996 (Radau), Shampine & Reichelt 1997 (BDF), Petzold 1983 (LSODA).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import solve_ivp
from torch import Tensor

from scoresde.denoisers import Denoiser
from scoresde.errors import NumericalError
from scoresde.reverse import Reverse
from scoresde.solvers._angle import angle_of_time, arrive, slope, time_of_angle
from scoresde.solvers.base import Draw, Solver, State

ORDERS = {"RK23": 3, "RK45": 5, "DOP853": 8, "LSODA": 12, "Radau": 5, "BDF": 5}
LOWEST_RTOL = 100 * float(np.finfo(np.float64).eps)  # scipy raises a lower one to it with a warning
MAX_EVALUATIONS = 100_000  # of one sample; solve_ivp itself would go on for ever


@dataclass(frozen=True)
class Scipy(Solver[Reverse]):
    """`solve_ivp` on the flow of each sample, in either direction, without gradients.

    Radau, BDF and LSODA take Jacobians by finite differences, each of them as many network calls as a sample has
    numbers. A float32 network answers to about 1e-7: for tolerances below 1e-6 move it to float64.

    Args:
        method: RK23, RK45, DOP853, LSODA, Radau or BDF.
        rtol: error of a step relative to y = x / sqrt(alpha^2 + sigma^2), 2.3e-14 or more.
        atol: absolute error of a step in y, added to it.

    Raises:
        ValueError: another method; a tolerance that is not positive, or an rtol below what scipy can do.
        NumericalError: a slope that is not finite, more than 100,000 network calls for one sample, or a step that
            scipy gives up; names the sample and t.
    """

    method: str = "DOP853"
    rtol: float = 1e-6
    atol: float = 1e-6
    evaluations = 0
    adaptive: ClassVar[bool] = True
    stochastic = False

    def __post_init__(self) -> None:
        if self.method not in ORDERS:
            raise ValueError(f"method = {self.method!r}; scipy's solve_ivp has {', '.join(ORDERS)}")
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} = {value}; a tolerance must be positive, say 1e-6")
        if self.rtol < LOWEST_RTOL:
            raise ValueError(f"rtol = {self.rtol:g}; float64 allows no less than {LOWEST_RTOL:.2g}")

    @property
    def order(self) -> int:
        """Of the method; the highest one of those that choose theirs (LSODA, BDF)."""
        return ORDERS[self.method]

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=0.0)

    def init(self, process: Reverse, x: Tensor) -> State:
        return State(x)

    @torch.no_grad()
    def step(self, process: Reverse, state: State, t: float, s: float, noise: Draw) -> State:
        """The state at s, to tolerance, one sample after the other."""
        x = state.x
        start, end = (angle_of_time(process.denoiser, time, x.dtype) for time in (t, s))
        for i in range(len(x)):
            one = x[i : i + 1]
            field = Field(self, process.denoiser, one, i, start)
            if not bool(one.isfinite().all()):
                raise field.error("is not finite")
            y0 = one.double().flatten().cpu().numpy() / process.at(t).radius
            tolerances = {"rtol": self.rtol, "atol": self.atol}
            # t_eval: keep the end alone, not every step
            solution = solve_ivp(field, (start, end), y0, method=self.method, t_eval=(end,), **tolerances)
            if solution.status != 0:
                raise field.error("is given up by scipy", f" ({solution.message}); take larger tolerances")
            y = solution.y[:, -1]
            y, dy = (torch.from_numpy(v).to(one.device).view_as(one) for v in (y, field(end, y)))
            one.copy_(arrive(process, y, dy, end, s))
        return State(x)


@dataclass
class Field:
    """dy/dphi of one sample for scipy: float64 in and out, the denoiser asked in its own dtype for a batch of one.

    It guards what scipy does not: on a slope that is not finite RK45 hangs for ever and LSODA reports success.
    """

    solver: Scipy
    denoiser: Denoiser
    like: Tensor
    sample: int
    phi: float
    calls: int = 0

    def __call__(self, phi: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        self.phi, self.calls = phi, self.calls + 1
        if self.calls > MAX_EVALUATIONS:
            remedy = "; take larger tolerances, or a network in float64"
            raise self.error(f"has made {MAX_EVALUATIONS:,} network calls and still is", remedy)
        dy = slope(self.denoiser, self._tensor(y, self.like.dtype).view_as(self.like), self._tensor([phi]))
        if not bool(dy.isfinite().all()):
            raise self.error("has a slope that is not finite")
        return dy.double().flatten().cpu().numpy()

    def error(self, what: str, remedy: str = "") -> NumericalError:
        """What happened to which sample, and at which t."""
        t = time_of_angle(self.denoiser, self._tensor([self.phi])).item()
        return NumericalError(f"{self.solver}: sample {self.sample} of the batch {what} at t = {t:.4g}{remedy}")

    def _tensor(self, values: ArrayLike, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.like.device)
