r"""What is decided when: the one-shot estimate xhat0(x_1), and E[x0 | x_t] along the way, against where it all ends.

xhat0(x_t) at t near 1 is the mean of the data, whatever x_t. As t falls it turns into the sample: coarse structure
first, since noise of standard deviation sigma hides what has less power than sigma / alpha, and the power of pictures
falls with spatial frequency. The share that is decided at t, of a band of frequencies,

    1 - sum |F(xhat0(x_t) - x(0))|^2 / sum |F(xhat0(x_1) - x(0))|^2          F the entries of the band in Fourier space,

is 0 at the start and 1 at the end. For the whole of an array it is the same sum over its entries. It can be negative
where an estimate moved away from the end first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scoresde.denoisers import Denoiser
from scoresde.noise import CounterNoise
from scoresde.reverse import Reverse
from scoresde.sampling import sample, trajectory
from scoresde.sde import SDE
from scoresde.solvers import Solver

BAND_EDGES = (0.0, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""In cycles per pixel along the wave; the highest are 1 / sqrt(2), along the diagonal."""


@torch.no_grad()
def one_shot(denoiser: Denoiser, x1: Tensor, t: float = 1.0) -> Tensor:
    """xhat0(x_1): the prediction in one evaluation, (n, *) -> (n, *)."""
    was_training = denoiser.training
    denoiser.eval()
    try:
        return denoiser.x0(x1.to(device=denoiser.device, dtype=denoiser.dtype), t)
    finally:
        denoiser.train(was_training)


@dataclass(frozen=True, eq=False)
class Along:
    """One run seen along the way.

    Args:
        times: the levels looked at, (m,), from the start of the grid down to the last one above its end.
        states: x_t there, (m, n, *).
        estimates: E[x0 | x_t] there, (m, n, *); the first one is the one-shot prediction.
        end: x at the end of the grid, (n, *).
    """

    times: Tensor
    states: Tensor
    estimates: Tensor
    end: Tensor

    def distances(self) -> Tensor:
        """Root mean square distance of each estimate to the end, (m, n) float64."""
        return (self.estimates.double() - self.end.double()).flatten(2).square().mean(2).sqrt()


def estimates_along(
    denoiser: Denoiser,
    solver: Solver[Reverse] | Solver[SDE],
    times: Tensor,
    *,
    ids: Sequence[int] | Tensor,
    seed: int = 0,
    levels: int | None = None,
    shape: Sequence[int] | None = None,
    batch_size: int | None = None,
    on_step: Callable[[], None] | None = None,
) -> Along:
    """Follow the samples (seed, ids) along `times`; the ends are those of `sample`.

    Args:
        times: a decreasing grid.
        levels: how many of its times to look at, evenly by step and the first included; default all but the last one.
            Each costs one evaluation more.

    Raises:
        ValueError: an adaptive solver, levels out of range, or what `sample` refuses.
        NumericalError: values that are not finite.
    """
    steps = len(times) - 1
    count = steps if levels is None else levels
    if not 1 <= count <= steps:
        raise ValueError(f"levels = {levels}; a grid of {steps} steps has 1 to {steps} of them")
    if solver.adaptive:
        raise ValueError(f"{solver} chooses its own steps; the way is seen on a grid: take UniPC, Ancestral or another")
    watch = _Watch({i * steps // count for i in range(count)})
    end = sample(
        denoiser,
        solver,
        times=times,
        ids=ids,
        seed=seed,
        shape=shape,
        batch_size=batch_size,
        on_step=on_step,
        loop=watch,
    )
    states, estimates = (torch.cat(parts, 1)[:, : len(end)] for parts in (watch.states, watch.estimates))
    return Along(times[sorted(watch.steps)].double().cpu(), states, estimates, end)


@dataclass(frozen=True, eq=False)
class _Watch:
    """A loop of `sample` that keeps what it sees before each of `steps`."""

    steps: set[int]
    states: list[Tensor] = field(default_factory=list)
    estimates: list[Tensor] = field(default_factory=list)

    def __call__(
        self,
        process: Reverse,
        solver: Solver[Reverse],
        times: Tensor,
        x: Tensor,
        noise: CounterNoise,
        on_step: Callable[[], None] | None,
    ) -> Tensor:
        states, estimates = [], []
        start = (float(times[0]), x)
        ahead = ((s, state.x) for s, state in trajectory(process, solver, times, x, noise))
        for k, (t, x_t) in enumerate(itertools.chain([start], ahead)):
            if k in self.steps:
                states.append(x_t.clone())
                estimates.append(process.denoiser.x0(states[-1], t))
            if k > 0 and on_step is not None:
                on_step()
            end = x_t
        self.states.append(torch.stack(states))
        self.estimates.append(torch.stack(estimates))
        return end


# --- how much is decided -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Decided:
    """The share of the end that is decided at each level, by band.

    Args:
        times: (m,).
        bands: names, low frequencies first; for arrays one, "all".
        share: over all samples, (m, bands): 0 at the first level, 1 when nothing is open.
        per_sample: of each sample, (m, bands, n).
        power: of each band in what was open at the first level, (bands,), adding up to 1.
    """

    times: Tensor
    bands: tuple[str, ...]
    share: Tensor
    per_sample: Tensor
    power: Tensor


def decided(along: Along, edges: Sequence[float] = BAND_EDGES) -> Decided:
    """How much of the end is decided at each level: by bands of spatial frequency for pictures (n, C, H, W).

    Args:
        edges: of the bands, rising, in cycles per pixel; the last band holds all above.

    Raises:
        ValueError: fewer than two edges, or edges that do not rise from 0.
    """
    if len(edges) < 2 or edges[0] != 0 or any(b <= a for a, b in itertools.pairwise(edges)):
        raise ValueError(f"edges = {tuple(edges)}; bands need edges that rise from 0, such as {BAND_EDGES}")
    gap = along.estimates.double() - along.end.double()
    if gap.ndim == 5:
        bands, energy = _band_energy(gap, edges)
    else:
        bands, energy = ("all",), gap.flatten(2).square().sum(2)[:, None]
    total = energy.sum(2)
    return Decided(
        along.times,
        bands,
        1.0 - total / total[0],
        1.0 - energy / energy[0],
        total[0] / total[0].sum(),
    )


def _band_energy(gap: Tensor, edges: Sequence[float]) -> tuple[tuple[str, ...], Tensor]:
    """Of pictures (m, n, C, H, W): names, and energies (m, bands, n) of those bands that hold a frequency."""
    height, width = gap.shape[-2:]
    f = torch.fft.fftfreq(height, dtype=torch.float64)[:, None].square()
    radius = (f + torch.fft.fftfreq(width, dtype=torch.float64).square()).sqrt().to(gap.device)
    power = torch.fft.fft2(gap, norm="ortho").abs().square().sum(2)
    names, energies = [], []
    for low, high in itertools.pairwise(edges):
        inside = (radius >= low) & (radius < high)
        if bool(inside.any()):
            names.append(f"{low:.3g} to {min(high, 0.5**0.5):.3g}")
            energies.append(power[..., inside].sum(-1))
    return tuple(names), torch.stack(energies, 1)
