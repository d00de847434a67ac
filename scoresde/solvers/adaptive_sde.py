r"""Adaptive Euler and improved Euler on the reverse SDE: a step size for every sample, along one Brownian path.

Jolicoeur-Martineau et al. 2021 ("Gotta Go Fast When Generating Data with Score-Based Models", Algorithm 1) compare an
Euler-Maruyama step with a step of the stochastic improved Euler method that has the same noise, control the difference,
and go on from the second (extrapolation). They do so in t, where g may be infinite at t = 1 and a network's score is
singular at t = 0. Here the variable is chosen so that neither matters: with SNR = (alpha / sigma)^2 and

    m = p x / alpha,        p = SNR^kappa,  kappa = (1 + eta^2) / 2,        r = SNR^(eta^2),

the reverse SDE with noise share eta (theory 4) is, for every linear process, the same equation

    dm = xhat0 dp + dW_r,

a Brownian motion with r for its clock, and for drift a prediction of x0, which is bounded (for eta = 1, m = r x0 + W_r
in law: the stochastic localisation of Eldan 2013). It starts at p = 0 where alpha = 0. Steps are measured in the angle
phi = atan(sigma / alpha). With y = x / sqrt(alpha^2 + sigma^2) and z = (W_s - W_t) / sqrt(r_s - r_t), one step is

    y'  = c_y y + c_0 xhat0(y, t) + c_z z                       (for eta = 1 the ancestral step),
    y'' = y' + c_0 w (xhat0(y', s) - xhat0(y, t)),

    c_y = cos_s / cos_t * p_t / p_s,      c_0 = cos_s (1 - p_t / p_s),      c_z = sin_s sqrt(1 - r_t / r_s).

w tends to 1/2 in small steps. In large ones xhat0 learns most at small SNR while p is made at large SNR: w is exact for
an xhat0 that is linear in 1 / SNR. The next step starts from xhat0(y', s) in the place of xhat0(y'', s), a difference
of the order of the tolerance, so that a trial costs one network call and not two. No step takes more than a fifth of
the angle: a jump straight to the data lands on y' = xhat0(y, t), clean data for which xhat0(y', s) = y', and no error
would show. The angle 0 is not reached: the last 2e-3 (float32) or 5e-7 (float64) is one exact denoising step.

Their code draws new noise after a rejection. That favours the paths that are easy to follow, and biases the law. Here
the path stays (rejection sampling with memory, Rackauckas & Nie 2017): a stretch that is too long is split. By the
Brownian bridge, with rho the first part's share of r_s - r_t, the noises of the two parts are a rotation,

    z1 = sqrt(rho) z + sqrt(1 - rho) z_new,        z2 = sqrt(1 - rho) z - sqrt(rho) z_new,

independent standard normals again; the second part waits on the sample's own stack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde._tensors import accumulate, combine, expand, scale
from scoresde.denoisers import Denoiser
from scoresde.errors import NumericalError
from scoresde.reverse import Reverse
from scoresde.solvers._angle import angle_of_time, time_of_angle
from scoresde.solvers.base import Draw, Solver, State

# The difference y'' - y' falls like h^(3/2), and it is small by chance at times: hence the exponent (0.9 in the paper)
# and a step that at most doubles.
SAFETY, EXPONENT, SHRINK, GROW = 0.9, 2 / 3, 0.2, 2.0
SLACK = 1.3  # a stretch is split when it is longer than the wanted step by this factor
FIRST_STEP = 0.1  # of the whole angle
LONGEST = 0.2  # step, of the angle where it starts
MAX_TRIALS = 10_000


@dataclass(frozen=True)
class AdaptiveSDE(Solver[Reverse]):
    """The reverse SDE with noise share eta, its steps controlled for each sample alone; one network call a trial.

    A step counts when the root mean square of (y'' - y') / max(atol, rtol max(|y'|, |y'_prev|)) is at most 1.

    Raises:
        ValueError: a tolerance or eta that is not positive and finite; a step towards noise.
        NumericalError: a prediction that is not finite, or more than 10,000 trials; names the sample and t.
    """

    rtol: float = 1e-3
    atol: float = 1e-3
    eta: float = 1.0
    order = 2
    evaluations = 0
    adaptive: ClassVar[bool] = True
    stochastic = True

    def __post_init__(self) -> None:
        for name, value in (("rtol", self.rtol), ("atol", self.atol)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} = {value}; a tolerance must be positive, say 1e-3")
        if not 0 < self.eta < math.inf:
            raise ValueError(f"eta = {self.eta}; it must be positive (1 is the reverse SDE); without noise take RK45")

    def reverse(self, denoiser: Denoiser) -> Reverse:
        return Reverse(denoiser, eta=self.eta)

    def init(self, process: Reverse, x: Tensor) -> State:
        return State(x)

    def step(self, process: Reverse, state: State, t: float, s: float, noise: Draw) -> State:
        """The state at s, to tolerance, in as many inner steps as each sample needs."""
        if s > t:
            raise ValueError(f"{self} goes from noise to data, not from t = {t:g} up to {s:g}; RK45 goes both ways")
        denoiser, x = process.denoiser, state.x
        denoiser.parameterisation.x0(process.at(t))  # refuses a network that says nothing of x0 where alpha = 0
        start, end = (angle_of_time(denoiser, time, x.dtype) for time in (t, s))
        y = self._integrate(denoiser, scale(1.0 / process.at(t).radius, x, out=x), start, end, noise)
        if s == 0:
            return State(_x0(denoiser, y, torch.full((len(y),), end, dtype=torch.float64, device=y.device)))
        return State(scale(process.at(s).radius, y, out=y))

    def _integrate(self, denoiser: Denoiser, y: Tensor, start: float, end: float, noise: Draw) -> Tensor:
        """y at the angle `end`.

        Trial k of the batch offers each sample its own numbers of draw k; whether it takes them, to go on or to split,
        is a matter of its own history.
        """
        phi = torch.full((len(y),), start, dtype=torch.float64, device=y.device)
        wanted = torch.full_like(phi, FIRST_STEP * (start - end))
        path, previous, x0 = Path(y), y, _x0(denoiser, y, phi)
        for k in range(MAX_TRIALS):
            active = phi > end
            if not bool(active.any()):
                return y
            fresh = noise(k)
            path.draw(active & path.empty, (phi - torch.minimum(wanted, LONGEST * phi)).clamp_min(end), fresh)
            path.split(active, phi, wanted, fresh, self.eta)
            s, z = path.first(phi)
            ahead, x0_s, change = self._try(denoiser, y, x0, phi, s, z)
            allowed = torch.maximum(ahead.abs(), previous.abs()).mul_(self.rtol).clamp_min_(self.atol)
            error = (change / allowed).flatten(1).double().square().mean(1).sqrt()
            self._check(denoiser, error, phi, s)
            accepted = active & (error <= 1.0)
            factor = (SAFETY * error.clamp_min(1e-10) ** -EXPONENT).clamp(SHRINK, GROW)
            # after a rejection at most half, so that the stretch is split
            wanted = (phi - s) * torch.where(accepted, factor, factor.clamp_max(0.5))
            mask = expand(accepted, y).bool()
            y, previous = torch.where(mask, ahead + change, y), torch.where(mask, ahead, previous)
            phi, x0 = torch.where(accepted, s, phi), torch.where(mask, x0_s, x0)
            path.pop(accepted)
        i = int((phi > end).nonzero()[0])
        raise NumericalError(
            f"AdaptiveSDE: sample {i} of the batch is still at t = {time_of_angle(denoiser, phi)[i].item():.3g} after "
            f"{MAX_TRIALS} trials; take larger tolerances than rtol = {self.rtol:g}, atol = {self.atol:g}"
        )

    def _try(
        self, denoiser: Denoiser, y: Tensor, x0: Tensor, t: Tensor, s: Tensor, z: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """y', xhat0(y', s) and y'' - y' of a step between the angles t and s, one of each per sample."""
        kappa = 0.5 * (1.0 + self.eta**2)
        gain = 2.0 * (_log_tan(t) - _log_tan(s))  # log(SNR_s / SNR_t)
        c_y = torch.cos(s) / torch.cos(t) * torch.exp(-kappa * gain)
        c_0 = -torch.cos(s) * torch.expm1(-kappa * gain)
        c_z = torch.sin(s) * torch.sqrt(-torch.expm1(-(self.eta**2) * gain))
        ahead = accumulate(combine(c_y, y, c_z, z), c_0, x0)
        x0_s = _x0(denoiser, ahead, s)
        return ahead, x0_s, scale(c_0 * _late_share(kappa, gain), x0_s - x0)

    def _check(self, denoiser: Denoiser, error: Tensor, phi: Tensor, s: Tensor) -> None:
        if not bool(error.isfinite().all()):
            i = int((~error.isfinite()).nonzero()[0])
            near, far = (time_of_angle(denoiser, angle)[i].item() for angle in (phi, s))
            raise NumericalError(
                f"AdaptiveSDE: the prediction for sample {i} of the batch is not finite near t = {near:.4g}, "
                f"in a step to {far:.4g}"
            )


class Path:
    """The Brownian path ahead of each sample: a stack of stretches, each the angle where it ends and its noise z."""

    def __init__(self, y: Tensor) -> None:
        self.ends = torch.zeros(4, len(y), dtype=torch.float64, device=y.device)
        self.z = torch.zeros(4, *y.shape, dtype=y.dtype, device=y.device)
        self.count = torch.zeros(len(y), dtype=torch.long, device=y.device)

    @property
    def empty(self) -> Tensor:
        """Where nothing is known of the path ahead, (B,)."""
        return self.count == 0

    def first(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """End (B,) and noise (B, *) of the stretch that begins at phi; of no length where there is none."""
        top, rows = (self.count - 1).clamp_min(0), torch.arange(len(phi), device=phi.device)
        return torch.where(self.empty, phi, self.ends[top, rows]), self.z[top, rows]

    def draw(self, where: Tensor, ends: Tensor, z: Tensor) -> None:
        """Put a stretch before the others of the samples `where`."""
        if int(self.count.max()) == len(self.ends):
            self.ends = torch.cat([self.ends, torch.zeros_like(self.ends)])
            self.z = torch.cat([self.z, torch.zeros_like(self.z)])
        rows = where.nonzero()[:, 0]
        top = self.count[rows]
        self.ends[top, rows], self.z[top, rows] = ends[rows], z[rows]
        self.count[rows] += 1

    def pop(self, where: Tensor) -> None:
        """Leave the first stretch of the samples `where` behind."""
        self.count -= where.long()

    def split(self, where: Tensor, phi: Tensor, wanted: Tensor, z_new: Tensor, eta: float) -> None:
        """Split first stretches much longer than wanted: at the wanted step, but in half where it is more than that."""
        ends, z = self.first(phi)
        where = where & (phi - ends > SLACK * wanted)
        middle = phi - torch.minimum(wanted, 0.5 * (phi - ends))
        # rho = (r_middle - r_phi) / (r_end - r_phi), r = tan^(-2 eta^2)
        near, far = (2.0 * eta**2 * (_log_tan(phi) - _log_tan(angle)) for angle in (middle, ends))
        rho = torch.exp(near - far) * torch.expm1(-near) / torch.expm1(-far)
        one, two = (expand(share.clamp(0.0, 1.0).sqrt(), z) for share in (rho, 1.0 - rho))
        rows = where.nonzero()[:, 0]
        self.z[self.count[rows] - 1, rows] = (two * z - one * z_new)[rows]
        self.draw(where, middle, one * z + two * z_new)


def _log_tan(phi: Tensor) -> Tensor:
    """log tan(phi) = -log(SNR) / 2; large, not infinite, at pi / 2 in floating point."""
    return torch.log(torch.tan(phi))


def _late_share(kappa: float, gain: Tensor) -> Tensor:
    """w: how much of xhat0(s) - xhat0(t) counts in a step, xhat0 linear in u = SNR_t / SNR, from 1 to exp(-gain).

    w = int (1 - u) dp / ((1 - u_s) (p_s - p_t)) with p = u^-kappa.
    """
    gain = gain.clamp_min(1e-6)  # 1/2, as exact as doubles allow
    # int u dp / p_s = kappa (u_s - u_s^kappa) / (kappa - 1)
    excess = gain if kappa == 1 else -torch.expm1(-(kappa - 1.0) * gain) / (kappa - 1.0)
    return (1.0 + kappa * torch.exp(-gain) * excess / torch.expm1(-kappa * gain)) / -torch.expm1(-gain)


def _x0(denoiser: Denoiser, y: Tensor, phi: Tensor) -> Tensor:
    """E[x0 | y] at an angle per sample, as a new tensor."""
    level = denoiser.sde.at(time_of_angle(denoiser, phi))
    x = scale(level.radius, y)
    k, m = denoiser.parameterisation.x0(level)
    return combine(k, x, m, denoiser.predict(x, level), out=x)
