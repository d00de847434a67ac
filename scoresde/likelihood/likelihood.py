r"""log p(x) by the probability flow (theory 6; Song et al. 2021, section 4.3).

    log p_0(x_0) = log p_1(x_1) + integral of div v along the flow from x_0 to x_1

The walk is `multistep.py`'s; here its ends are put on. It starts at the cleanest level that the denoiser answers for,
rho_0: what is returned is the log density of the data with noise of standard deviation rho_0 added, at x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import grids
from scoresde._tensors import combine
from scoresde.denoisers import Denoiser
from scoresde.distributions import GaussianMixture
from scoresde.errors import NumericalError
from scoresde.likelihood.clock import Clock, clock, node
from scoresde.likelihood.divergence import Divergence, ExactTrace, Hutchinson
from scoresde.likelihood.flow import Flow, Walk
from scoresde.likelihood.multistep import STARTS, multistep
from scoresde.likelihood.terminal import Reference, known_gaussian, log_normal

STEPS = 120
SMALL = 64  # entries up to which the trace is exact unless asked otherwise


@dataclass(frozen=True)
class FlowLikelihood:
    """Log densities of n samples, in nats, and what they are made of: tensors (n,) float64.

    Attributes:
        nats: log p(x), nan where it failed: terminal + divergence.
        standard_error: of nats over probes; 0 for the exact trace.
        terminal: log density of x(1) under the Gaussian with the data's moments.
        prior: the same under N(0, sigma(1)^2 I), which sampling starts from; their difference is the prior's mismatch.
        divergence: the integral along the flow.
        x1: (n, *), where the flow ended.
        problems: sample by its row -> what is wrong with it.
        evaluations: network calls for each sample.
        products: vectors e' dP/dx for each sample, each about the cost of a call.
        max_log_snr: of the level that stands for the data.
        dim: D.
    """

    nats: Tensor
    standard_error: Tensor
    terminal: Tensor
    prior: Tensor
    divergence: Tensor
    x1: Tensor
    problems: dict[int, str]
    evaluations: int
    products: int
    max_log_snr: float
    dim: int

    @property
    def mismatch(self) -> Tensor:
        """log density of x(1) under the matched Gaussian less that under the prior, (n,)."""
        return self.terminal - self.prior

    def check(self) -> FlowLikelihood:
        """Itself.

        Raises:
            NumericalError: names the first sample whose value is not finite.
        """
        for problem in self.problems.values():
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            raise NumericalError(problem + more)
        return self


def log_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    divergence: Divergence | None = None,
    steps: int = STEPS,
    seed: int = 0,
    batch_size: int | None = None,
    differentiable: bool = False,
) -> Tensor:
    """log p(x) in nats, (n, *) -> (n,) float64: the `nats` of `flow_likelihood`, whose arguments these are.

    Raises:
        ValueError: as for `flow_likelihood`.
        NumericalError: a value that is not finite; names the sample.
    """
    found = flow_likelihood(
        denoiser,
        x,
        divergence=divergence,
        steps=steps,
        seed=seed,
        batch_size=batch_size,
        differentiable=differentiable,
    )
    return found.check().nats


def flow_likelihood(
    denoiser: Denoiser,
    x: Tensor,
    *,
    divergence: Divergence | None = None,
    steps: int = STEPS,
    seed: int = 0,
    ids: Sequence[int] | Tensor | None = None,
    batch_size: int | None = None,
    terminal: GaussianMixture | None = None,
    max_log_snr: float | None = None,
    runge_kutta: bool = False,
    differentiable: bool = False,
    on_step: Callable[[], None] | None = None,
) -> FlowLikelihood:
    """Log densities of `x` (n, *), with all that they are made of.

    A sample that fails is reported in `problems`, and the others go on; `.check()` makes it an error.

    Args:
        denoiser: exact, trained or guided.
        divergence: `ExactTrace()` or `Hutchinson(probes, gaussian)`. Default: exact up to D = 64, then `Hutchinson()`.
        steps: of the flow; a network call and a trace for each.
        seed: of the probes, in [0, 2^64); sample i's depend on (seed, ids[i]) alone.
        ids: numbers of the samples in [0, 2^32) instead of 0..n-1.
        batch_size: samples computed at once, the last batch padded; default all.
        terminal: the law of the data in the terms that matter at t = 1, usually the Gaussian of their moments:
            `matched_gaussian(data)`; or all of it. Default: an exact law's own moments; for a network, data_std only.
        max_log_snr: a noisier level to stand for the data than the cleanest that the denoiser answers for.
        runge_kutta: four calls a step instead of one, for an error as with up to twice as many steps: it pays where
            traces cost many calls.
        differentiable: keep the graph, for gradients of `nats` with respect to x or to parameters. Memory grows with
            steps x (1 + traces): for samples by the hundred, give a small batch.
        on_step: called after every step of every batch.

    Raises:
        ValueError: arguments out of range, or x of the wrong shape or not finite.
    """
    event = _check(denoiser, x, batch_size)
    dim = math.prod(event)
    way = clock(denoiser, max_log_snr)
    law = known_gaussian(denoiser, event) if terminal is None else _fitting(terminal, dim)
    traces = divergence or (ExactTrace() if dim <= SMALL else Hutchinson())
    grids.check_steps(steps)
    numbers = torch.arange(len(x)) if ids is None else torch.as_tensor(ids, dtype=torch.int64)
    if len(numbers) != len(x):
        raise ValueError(f"ids names {len(numbers)} samples, but x holds {len(x)}")
    batch = len(x) if batch_size is None else batch_size
    parts = []
    was_training = denoiser.training
    denoiser.eval()
    try:
        with torch.set_grad_enabled(differentiable):
            for start in range(0, len(x), batch):
                # the last batch is filled up with its own first entry, as in `sample`
                rows = torch.arange(start, start + batch)
                rows = torch.where(rows < len(x), rows, start)
                flow = Flow(denoiser, way, traces, Reference(law), seed, numbers[rows], event, differentiable, on_step)
                part = x.to(device=denoiser.device, dtype=denoiser.dtype)[rows.to(denoiser.device)]
                keep = min(batch, len(x) - start)
                walk = _walk(flow, part, lambda flow, y: multistep(flow, y, steps, steps if runge_kutta else STARTS))
                parts.append(walk.first(keep))
    finally:
        denoiser.train(was_training)
    return _result(way, law, parts, numbers.tolist())


def _walk(flow: Flow, x: Tensor, follow: Callable[[Flow, Tensor], Walk]) -> Walk:
    """The walk from data x to x(1), with the integral of div v of the process itself."""
    way = flow.clock
    start, end = node(way.sde, way.cleanest), node(way.sde, way.noisiest)
    level = way.sde.at(1.0)
    radius = float(level.radius)
    cos, sin = float(level.alpha) / radius, float(level.sigma) / radius
    # x stands for x(t_0) / alpha(t_0), and y is x / r: hence log cos and log r for each dimension
    walk = follow(flow, x * start.cos)
    # to t = 1 it remains to turn by an angle, 0 but for processes with alpha(1) = 0: x0 and eps hardly change any more
    turn_cos, turn_sin = cos * end.cos + sin * end.sin, sin * end.cos - cos * end.sin
    y = combine(turn_cos, walk.y, turn_sin / (end.cos * end.sin), walk.slope)
    ends = flow.reference.log_det(cos, sin) - flow.reference.log_det(float(start.cos), float(start.sin))
    scales = flow.dim * math.log(start.cos * radius)
    return walk._replace(y=radius * y, integral=walk.integral + ends + scales)


def _result(way: Clock, law: GaussianMixture, parts: list[Walk], numbers: list[int]) -> FlowLikelihood:
    """The batches put together, and the terminal densities; `numbers` are those of the samples."""
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in ("y", "integral", "variance")}
    x1, integral = joined["y"], joined["integral"]
    terminal = law.diffuse(way.sde, 1.0).log_prob(x1.flatten(1).double())
    nats = terminal + integral
    bad = ~nats.isfinite()
    failed_at = torch.cat([part.failed_at for part in parts])
    problems = {i: _problem(numbers[i], way, failed_at[i].item()) for i in bad.nonzero().flatten().tolist()}
    return FlowLikelihood(
        torch.where(bad, torch.nan, nats),
        joined["variance"].sqrt(),
        terminal,
        log_normal(x1, way.sde.prior_std()),
        integral,
        x1,
        problems,
        parts[0].evaluations,
        parts[0].products,
        -2.0 * way.cleanest,
        law.dim,
    )


def _problem(number: int, way: Clock, log_rho: float) -> str:
    where = "at t = 1" if math.isnan(log_rho) else f"near t = {float(node(way.sde, log_rho).level.t):.4g}"
    return (
        f"the likelihood of sample {number} is not finite: the flow broke {where}; check that the sample is in the "
        "range of the data, and the network there; take more steps"
    )


def _check(denoiser: Denoiser, x: Tensor, batch_size: int | None) -> tuple[int, ...]:
    """The shape of one sample."""
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x of shape {tuple(x.shape)}; give (n, *) with at least one sample")
    event = tuple(x.shape[1:])
    if denoiser.shape is not None and event != denoiser.shape:
        raise ValueError(f"samples of shape {event}; the denoiser's have {denoiser.shape}")
    ok = x.detach().flatten(1).isfinite().all(1)
    if not bool(ok.all()):
        raise ValueError(f"sample {int((~ok).nonzero()[0])} holds values that are not finite")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; it must be 1 or more")
    return event


def _fitting(law: GaussianMixture, dim: int) -> GaussianMixture:
    if law.dim != dim:
        raise ValueError(f"the terminal law has {law.dim} dimensions; a sample has {dim}")
    return law
