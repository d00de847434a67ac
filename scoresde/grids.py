"""Time grids: decreasing float64 tensors from t = 1 (noise) to t = 0 (data), made by functions.

Every grid of n steps has n + 1 times, starts at exactly 1 (`descent`: at t) and ends at exactly 0. Times stay floats:
nothing is rounded to a chain's integers unless the grid is a chain's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scoresde.sde import LinearSDE


def check_steps(steps: int) -> int:
    """`steps` itself.

    Raises:
        ValueError: fewer than one step.
    """
    if int(steps) != steps or steps < 1:
        raise ValueError(f"steps = {steps}; it must be a whole number, 1 or more")
    return int(steps)


def check_times(times: Tensor | Sequence[float]) -> Tensor:
    """A user's own grid as a float64 tensor on the CPU.

    Raises:
        ValueError: fewer than two times, a time outside [0, 1] or not finite, repeated or rising times.
    """
    grid = torch.as_tensor(times, dtype=torch.float64).detach().cpu()
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"times has shape {tuple(grid.shape)}; a grid is a list of at least two times")
    inside = (grid >= 0) & (grid <= 1)
    if not bool(inside.all()):
        i = int((~inside).nonzero()[0])
        raise ValueError(f"times[{i}] = {grid[i].item():g} is outside [0, 1]")
    fall = grid[1:] < grid[:-1]
    if not bool(fall.all()):
        i = int((~fall).nonzero()[0])
        raise ValueError(
            f"times must decrease (1 is noise, 0 is data), but times[{i}] = {grid[i].item():g} and "
            f"times[{i + 1}] = {grid[i + 1].item():g}"
        )
    return grid


def _pinned(grid: Tensor) -> Tensor:
    """The grid with its ends put at exactly 1 and 0."""
    grid[0], grid[-1] = 1.0, 0.0
    return check_times(grid)


def uniform(steps: int) -> Tensor:
    """t_i = 1 - i / n."""
    n = check_steps(steps)
    return _pinned(torch.arange(n, -1, -1, dtype=torch.float64) / n)


def quadratic(steps: int) -> Tensor:
    """t_i = (1 - i / n)^2: finer towards the data (Song et al. 2020, DDIM)."""
    n = check_steps(steps)
    return _pinned((torch.arange(n, -1, -1, dtype=torch.float64) / n) ** 2)


def log_snr(sde: LinearSDE, steps: int, *, t_min: float = 1e-3, t_max: float = 1.0 - 1e-3) -> Tensor:
    """Uniform in log-SNR over [t_min, t_max], where it is finite; the ends are moved to 1 and 0.

    Raises:
        ValueError: not 0 < t_min < t_max <= 1.
    """
    n = check_steps(steps)
    if not 0 < t_min < t_max <= 1:
        raise ValueError(f"t_min = {t_min}, t_max = {t_max}: needs 0 < t_min < t_max <= 1")
    noisy, clean = sde.log_snr(t_max), sde.log_snr(t_min)
    inner = torch.linspace(0.0, 1.0, n, dtype=torch.float64)  # n points, and 0 behind them
    return _pinned(torch.cat([sde.time_of_log_snr(noisy + inner * (clean - noisy)), torch.zeros(1).double()]))


def karras(sde: LinearSDE, steps: int, *, rho: float = 7.0, sigma_min: float = 2e-3, sigma_max: float = 80.0) -> Tensor:
    """Karras et al. 2022 (eq. 5) in the noise-to-signal ratio sigma / alpha, from min(sigma_max, its value at t = 1).

    Raises:
        ValueError: rho <= 0, or sigma_min not below the largest ratio.
    """
    n = check_steps(steps)
    top = min(sigma_max, torch.exp(-0.5 * sde.log_snr(1.0)).item())
    if rho <= 0 or not 0 < sigma_min < top:
        raise ValueError(f"rho = {rho}, sigma_min = {sigma_min}: needs rho > 0 and 0 < sigma_min < {top:g}")
    inner = torch.linspace(0.0, 1.0, n, dtype=torch.float64)
    ratio = (top ** (1 / rho) + inner * (sigma_min ** (1 / rho) - top ** (1 / rho))) ** rho
    return _pinned(torch.cat([sde.time_of_log_snr(-2.0 * torch.log(ratio)), torch.zeros(1).double()]))


def geometric(
    sde: LinearSDE, steps: int, *, sigma_min: float = 1e-2, sigma_max: float = 1e3, max_log_snr: float = math.inf
) -> Tensor:
    """Equal ratios of sigma / alpha, from min(sigma_max, its value at t = 1) to sigma_min, and 0 behind.

    As dense at high noise as near the data: for particles, whose weights are settled there.

    Args:
        sigma_min, sigma_max: ends in sigma / alpha.
        max_log_snr: the cleanest level that a denoiser may be asked about; sigma_min is raised to it.

    Raises:
        ValueError: sigma_min not below the largest ratio.
    """
    n = check_steps(steps)
    top = torch.exp(-0.5 * sde.log_snr(1.0)).item()
    high, low = min(sigma_max, top), max(sigma_min, math.exp(-0.5 * max_log_snr))
    if not 0 < low < high:
        raise ValueError(f"sigma_min = {low:g}: it must lie between 0 and the largest sigma / alpha, {high:g}")
    log_ratio = torch.linspace(math.log(high), math.log(low), n, dtype=torch.float64)
    return _pinned(torch.cat([sde.time_of_log_snr(-2.0 * log_ratio), torch.zeros(1).double()]))


def logistic(
    sde: LinearSDE, steps: int, *, centre: float = 1.0, spread: float = 1.6, max_log_snr: float = math.inf
) -> Tensor:
    """Uniform in v, the logistic distribution function of log(sigma / alpha): the default of the fast solvers.

    v = 1 / (1 + (centre alpha / sigma)^(1 / spread)) runs from about 1 (noise) to 0 (data), so that steps are dense
    where data of about unit power take shape, and neither end is cut off; with centre = spread = 1 it is rectified
    flow's own time. The probability flow in (x / alpha, sigma / alpha) is the same for every process, so one grid
    serves all.

    The defaults are a compromise, measured with `UniPC` (tests/benchmarks/solvers.py): exact mixtures do best with
    fewer steps at high noise (centre 0.7, spread 1.3), where a network that predicts eps needs more, since its error in
    x0 grows like sigma / alpha (spread 2).

    Args:
        max_log_snr: the cleanest level that a denoiser may be asked about; the last time before 0 stays at or above it.

    Raises:
        ValueError: centre or spread not positive and finite; max_log_snr noisier than t = 1.
    """
    n = check_steps(steps)
    if not (0 < centre < math.inf and 0 < spread < math.inf):
        raise ValueError(f"centre = {centre}, spread = {spread}; both must be positive")

    def v(log_snr: float) -> float:
        return float(torch.sigmoid(torch.tensor((-0.5 * log_snr - math.log(centre)) / spread, dtype=torch.float64)))

    top, low = v(float(sde.log_snr(1.0))), v(max_log_snr)
    if not low < top:
        raise ValueError(f"max_log_snr = {max_log_snr} is noisier than t = 1 of {sde}: no time is left to evaluate")
    index = torch.arange(n, dtype=torch.float64)
    inner = top * (1.0 - index / n)
    if n > 1 and inner[-1] < low:
        inner = top + (low - top) * index / (n - 1)
    log_ratio = math.log(centre) + spread * torch.logit(inner)
    return _pinned(torch.cat([sde.time_of_log_snr(-2.0 * log_ratio), torch.zeros(1).double()]))


def descent(sde: LinearSDE, t: float, steps: int, *, spread: float = 1.6, max_log_snr: float = math.inf) -> Tensor:
    """From t to 0 instead of from 1: (steps + 1,) times, spaced as those of `logistic` are, with centre 1.

    Args:
        max_log_snr: the cleanest level that a denoiser may be asked about; there are fewer steps where t is near it.

    Raises:
        ValueError: fewer than one step.
    """
    n = check_steps(steps)
    top, low = (1.0 / (1.0 + math.exp(0.5 * c / spread)) for c in (float(sde.log_snr(t)), max_log_snr))
    v = (top * torch.linspace(1.0, 0.0, n + 1, dtype=torch.float64)[1:-1]).clamp_min(low).unique().flip(0)
    log_snr = -2.0 * spread * torch.logit(v[v < top])
    return torch.cat([torch.tensor([t], dtype=torch.float64), sde.time_of_log_snr(log_snr), torch.zeros(1).double()])


def _chain(chain_steps: int, indices: Tensor) -> Tensor:
    """The times k/K of decreasing chain indices, and 0 behind them."""
    return _pinned(torch.cat([indices.double() / chain_steps, torch.zeros(1).double()]))


def _check_chain(chain_steps: int, steps: int) -> int:
    n = check_steps(steps)
    if n > check_steps(chain_steps):
        raise ValueError(f"steps = {n}; a chain of {chain_steps} steps cannot be respaced to more")
    return n


def chain(chain_steps: int) -> Tensor:
    """The chain's own times k/K, k = K..0."""
    return uniform(chain_steps)


def leading(chain_steps: int, steps: int) -> Tensor:
    """Every (K // n)-th index counted up from 1; the topmost is moved to K, where the prior is (Lin et al. 2024)."""
    n = _check_chain(chain_steps, steps)
    return _chain(chain_steps, torch.arange(n - 1, -1, -1) * (chain_steps // n) + 1)


def trailing(chain_steps: int, steps: int) -> Tensor:
    """K - i K / n, rounded: counted down from K (Lin et al. 2024)."""
    n = _check_chain(chain_steps, steps)
    return _chain(chain_steps, chain_steps - torch.round(torch.arange(n) * (chain_steps / n)))


def linspace(chain_steps: int, steps: int) -> Tensor:
    """n indices from K to 1, both included, rounded."""
    n = _check_chain(chain_steps, steps)
    return _chain(chain_steps, torch.round(torch.linspace(chain_steps, 1, n, dtype=torch.float64)))


UNIFORM, LOGISTIC, GEOMETRIC = "uniform", "logistic", "geometric"

GRIDS: dict[str, Callable[[LinearSDE, int, float], Tensor]] = {
    UNIFORM: lambda sde, steps, max_log_snr: uniform(steps),
    LOGISTIC: lambda sde, steps, max_log_snr: logistic(sde, steps, max_log_snr=max_log_snr),
    GEOMETRIC: lambda sde, steps, max_log_snr: geometric(sde, steps, max_log_snr=max_log_snr),
    "quadratic": lambda sde, steps, max_log_snr: quadratic(steps),
    "log-snr": lambda sde, steps, max_log_snr: log_snr(sde, steps),
    "karras": lambda sde, steps, max_log_snr: karras(sde, steps),
    "leading": lambda sde, steps, max_log_snr: leading(sde.chain_steps or 1000, steps),
    "trailing": lambda sde, steps, max_log_snr: trailing(sde.chain_steps or 1000, steps),
    "linspace": lambda sde, steps, max_log_snr: linspace(sde.chain_steps or 1000, steps),
}
"""Grids by name, of a process, a number of steps and the log-SNR that the denoiser goes up to.

The chain's spacings take the process's own chain, or Ho et al.'s K = 1000 when it has none.
"""
