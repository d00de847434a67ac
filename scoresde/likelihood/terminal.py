r"""What the flow ends in: the law of x(1), as far as it is known.

Sampling starts from N(0, sigma(1)^2 I); the law of x(1) itself has mean alpha m and covariance alpha^2 C + sigma^2 I,
with m and C the data's moments. A likelihood that ends in the Gaussian of these moments is off by a third cumulant over
(sigma / alpha)^3 only, so the difference between the two is the prior's mismatch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde._tensors import Coefficient, flat_sum
from scoresde.denoisers import Denoiser
from scoresde.distributions import GaussianMixture
from scoresde.processes import RectifiedFlow
from scoresde.rescheduled import Rescheduled

FULL = 256  # entries up to which a full covariance is estimated from data
OWN = 1024  # entries up to which an exact law is asked for its own covariance
FAR = 1e4  # sigma / alpha where it is asked


def matched_gaussian(data: Tensor) -> GaussianMixture:
    """The Gaussian with the mean and covariance of `data` (n, *), of D = the product of * entries, as a terminal law.

    The covariance is diagonal for D > 256 or where there are fewer than 4 D items to tell it from.

    Raises:
        ValueError: fewer than two items, or values that are not finite.
    """
    x = data.detach().flatten(1).double().cpu()
    if data.ndim < 2 or len(x) < 2 or not bool(x.isfinite().all()):
        raise ValueError(f"data of shape {tuple(data.shape)}; give at least two items (n, *), all finite")
    n, dim = x.shape
    full = dim <= FULL and n >= 4 * dim
    covariance = torch.cov(x.mT).reshape(dim, dim)[None] if full else x.var(0)[None]
    return GaussianMixture([1.0], x.mean(0)[None], covariance, dtype=data.dtype, device=data.device)


def known_gaussian(denoiser: Denoiser, event: tuple[int, ...]) -> GaussianMixture:
    """What a denoiser tells of the data's moments when nobody else does; `event` is the shape of one sample.

    An exact law (max_log_snr infinite) is asked itself, in so much noise that m = E[x0 | x] and C = rho^2 dxhat0 / du
    to eight digits. A network is trusted with its `data_std` only, about the middle of its data range.
    """
    dim = math.prod(event)
    if math.isinf(denoiser.max_log_snr) and dim <= OWN:
        mean, covariance = _own_moments(denoiser, event)
    else:
        mean = torch.full((dim,), 0.5 * sum(denoiser.data_range), dtype=torch.float64)
        covariance = torch.full((), denoiser.data_std**2, dtype=torch.float64)
    return GaussianMixture([1.0], mean[None], covariance[None], dtype=denoiser.dtype, device=denoiser.device)


def _own_moments(denoiser: Denoiser, event: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(m, C) of an exact law, (D,) and (D, D) float64."""
    far = Rescheduled(denoiser, RectifiedFlow())
    level = far.sde.at(FAR / (1.0 + FAR))
    on_x, on_p = far.parameterisation.x0(level)
    with torch.enable_grad():
        x = torch.zeros(1, *event, dtype=far.dtype, device=far.device, requires_grad=True)
        x0 = (on_x * x + on_p * far.predict(x, level)).flatten()
        rows = [torch.autograd.grad(entry, x, retain_graph=True)[0].flatten() for entry in x0]
    # dxhat0 / dx is alpha / sigma^2 C; symmetric but for rounding and for denoisers that are no exact mean
    jacobian = torch.stack(rows).double().cpu() * (float(level.sigma) ** 2 / float(level.alpha))
    values, basis = torch.linalg.eigh(0.5 * (jacobian + jacobian.mT))
    return x0.detach().double().cpu(), (basis * values.clamp_min(0.0)) @ basis.mT


def log_normal(x: Tensor, std: float) -> Tensor:
    """log N(x; 0, std^2 I), (B, *) -> (B,) float64."""
    z = x.double() / std
    dim = x[0].numel()
    return -0.5 * flat_sum(z.square()) - dim * (math.log(std) + 0.5 * math.log(2.0 * math.pi))


class Reference:
    """How the flow's log density would change if the data were the Gaussian `law`, in closed form.

    With l the eigenvalues of its covariance and c = l cos^2 + sin^2, that of y = x / r changes by 1/2 log det c between
    two angles, at a rate of cos^2 sin^2 sum (1 - l) / c per unit of log rho.
    """

    def __init__(self, law: GaussianMixture) -> None:
        single = law if law.components == 1 else law.gaussian()
        self.eigenvalues = single.eigenvalues[0].to(law.device)

    def rate(self, cos: Coefficient, sin: Coefficient) -> Coefficient:
        """Per unit of log rho."""
        if isinstance(cos, Tensor) and isinstance(sin, Tensor):
            c = self.eigenvalues * cos[:, None] ** 2 + sin[:, None] ** 2
            return (cos * sin) ** 2 * ((1.0 - self.eigenvalues) / c).sum(1)
        c = self.eigenvalues * cos**2 + sin**2
        return (cos * sin) ** 2 * ((1.0 - self.eigenvalues) / c).sum().item()

    def log_det(self, cos: float, sin: float) -> float:
        """1/2 log det c."""
        return 0.5 * (self.eigenvalues * cos**2 + sin**2).log().sum().item()
