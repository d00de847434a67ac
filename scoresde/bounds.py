r"""Bounds of -log p(x_0) under a reverse chain p(x_K) prod_k p(x_{k-1} | x_k): theory 3, (5) and (1.2).

With a trajectory x_{1:K} ~ q( . | x_0) its weight is w = p(x_{0:K}) / q(x_{1:K} | x_0), and E[w] = p(x_0), so that

    -log p(x_0) <= E[-log mean of M weights],                                          (1.2; Burda et al. 2016)

which falls with M; for M = 1 it is the variational bound (5). Since q(x_{1:K} | x_0) is also
q(x_K | x_0) prod_{k>=2} q(x_{k-1} | x_k, x_0), the weight is a product over steps, and

    -log w = log q(x_K|x_0)/p(x_K) + sum_{k>=2} log q(x_{k-1}|x_k, x_0)/p(x_{k-1}|x_k) - log p(x_0|x_1).

The expectation of each part given what comes before it is a KL of Gaussians, L_K or L_{k-1} of (5), in closed form.
What the parts differ from these by has mean zero, but it is not to be dropped: for a perfect reverse chain w is p(x_0)
for every trajectory, while the KL along one go up and down by a nat and more.

A trajectory is drawn from x_K to x_1, as it is weighed. Sums are float64, states of the denoiser's dtype.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde._tensors import combine, flat_sum
from scoresde.denoisers import Denoiser
from scoresde.errors import NumericalError
from scoresde.noise import CounterNoise

Draw = Callable[[int], Tensor]
"""k -> the standard normals (B, *) that x_k is drawn with."""
OnStep = Callable[[], None]


@dataclass(frozen=True)
class Step:
    """The step from x_k to x_{k-1} of a chain, in numbers.

    Args:
        k: 1..K.
        signal, noise: x_k | x_0 ~ N(signal x_0, noise I).
        on_x, on_x0, small: x_{k-1} | x_k, x_0 ~ N(on_x x_k + on_x0 x_0, small I), eq. (6, 7); small = 0 for k = 1.
        variance: x_{k-1} | x_k ~ N(on_x x_k + on_x0 xhat0, variance I) in the model.
    """

    k: int
    signal: float
    noise: float
    on_x: float
    on_x0: float
    small: float
    variance: float

    def kl(self, dim: int, error2: Tensor) -> Tensor:
        """L_{k-1} from |x_0 - xhat0|^2, (B,), for k >= 2 (Lemma 4)."""
        ratio = self.small / self.variance
        gap2 = self.on_x0**2 / self.variance * error2
        return 0.5 * (dim * (ratio - 1.0 - math.log(ratio)) + gap2)

    def log_density(self, dim: int, error2: Tensor) -> Tensor:
        """log p(x_0 | x_1) from |x_0 - xhat0|^2, (B,), for k = 1, where the mean is xhat0 itself."""
        return -0.5 * (dim * math.log(2.0 * math.pi * self.variance) + error2 / self.variance)

    def surplus(self, dim: int, error: Tensor, z: Tensor) -> Tensor:
        """log q(x_{k-1}|x_k, x_0)/p(x_{k-1}|x_k) less its mean `kl`, (B,), where x_{k-1} was drawn with z."""
        ratio = self.small / self.variance
        cross = self.on_x0 * math.sqrt(self.small) / self.variance
        return 0.5 * (ratio - 1.0) * (squares(z) - dim) + cross * flat_sum(z.double() * error)


def squares(x: Tensor) -> Tensor:
    """|x|^2 of each sample, (B,) float64."""
    return flat_sum(x.double().square())


def prior_kl(mean: Tensor, variance: float, log_variance: float) -> Tensor:
    """KL(N(mean, variance I) || N(0, I)) in nats, (B,)."""
    return 0.5 * (mean[0].numel() * (variance - 1.0 - log_variance) + squares(mean))


@dataclass(frozen=True)
class Bound:
    """The terms of the bound (5).

    Args:
        terms: L_0..L_K, (K + 1, B), nats, each averaged over the draws. L_K and L_1..L_{K-1} are KL; L_0 is
            -log p(x_0 | x_1), with what has mean zero in all the others, so that their sum is -log w.
        dim: D, of one sample.
        standard_error: of the sum over draws, (B,), nats; nan when there was one.
    """

    terms: Tensor
    dim: int
    standard_error: Tensor

    def nats(self) -> Tensor:
        """The bound per sample, (B,): an upper bound of -log p(x_0) on average over the draws."""
        return self.terms.sum(0)

    def bits_per_dim(self) -> Tensor:
        """Per sample, (B,)."""
        return self.nats() / (self.dim * math.log(2.0))

    def terms_bits_per_dim(self) -> Tensor:
        """Each L_k averaged over the batch, (K + 1,)."""
        return self.terms.mean(1) / (self.dim * math.log(2.0))


@dataclass(frozen=True)
class WeightedBound:
    """The importance-weighted bounds with 1..M trajectories, all from the same M of them.

    Args:
        log_weights: log w of each trajectory, (M, B), nats; nan for a sample that failed.
        bound: the bound (5), averaged over the trajectories, term by term: `nats(1)`.
        problems: sample by its row -> what is wrong with it.
    """

    log_weights: Tensor
    bound: Bound
    problems: Mapping[int, str]

    @property
    def trajectories(self) -> int:
        """M."""
        return len(self.log_weights)

    def check(self) -> WeightedBound:
        """Itself.

        Raises:
            NumericalError: names the first sample with a term that is not finite.
        """
        for problem in self.problems.values():
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            raise NumericalError(problem + more)
        return self

    def nats(self, trajectories: int | None = None) -> Tensor:
        """The bound with m trajectories per sample, (B,); default M.

        It is the mean over as many groups of m as there are, so that it cannot rise from m to a multiple of m.

        Raises:
            ValueError: m is not in 1..M.
        """
        return -self._groups(trajectories).mean(0)

    def bits_per_dim(self, trajectories: int | None = None) -> Tensor:
        """Per sample, (B,)."""
        return self.nats(trajectories) / (self.bound.dim * math.log(2.0))

    def standard_error(self, trajectories: int | None = None) -> Tensor:
        """Of `nats` over draws, (B,): from the spread of the groups, or of the weights when there is one group.

        The latter holds for many weights of which none dominates; nan for a single trajectory.
        """
        groups = self._groups(trajectories)
        if len(groups) > 1:
            return _error_of_mean(groups)
        m = self.trajectories if trajectories is None else trajectories
        weights = torch.softmax(self.log_weights[:m], 0)  # over m times their mean
        return _error_of_mean(weights) * len(weights)

    def _groups(self, trajectories: int | None) -> Tensor:
        """log mean w of each group of m trajectories, (M // m, B)."""
        m = self.trajectories if trajectories is None else trajectories
        if not 1 <= m <= self.trajectories:
            raise ValueError(f"trajectories = {m}; it must lie in 1..{self.trajectories}")
        whole = self.log_weights[: self.trajectories // m * m]
        return torch.logsumexp(whole.unflatten(0, (-1, m)), 1) - math.log(m)


def _error_of_mean(values: Tensor) -> Tensor:
    """The standard error of the mean over the first dimension; nan for a single value."""
    if len(values) == 1:
        return torch.full_like(values[0], math.nan)
    return values.std(0) / math.sqrt(len(values))


# --- computing them ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Walk:
    """The way from x_K to x_1 that trajectories take, and the model's steps that they are weighed by.

    Args:
        steps: K..1.
        times: of the denoiser's own process, at which it has the noise level of each step.
        log_noise: log of the variance of x_K | x_0.
        bin_width: of the discretised decoder; None for a density.
    """

    steps: Sequence[Step]
    times: Sequence[float]
    log_noise: float
    bin_width: float | None = None

    def start(self, x0: Tensor, z: Tensor) -> Tensor:
        """x_K | x_0."""
        return combine(self.steps[0].signal, x0, math.sqrt(self.steps[0].noise), z)

    def follow(self, denoiser: Denoiser, x0: Tensor, draw: Draw) -> Iterator[tuple[Step, Tensor, Tensor]]:
        """For k = K..1: the step, xhat0(x_k) of each x0 (B, *), and z, with which x_{k-1} is drawn (for k > 1)."""
        x = self.start(x0, draw(len(self.steps)))
        for step, t in zip(self.steps, self.times, strict=True):
            # same SNR, another radius, when the denoiser's process is not variance preserving
            x0_hat = denoiser.x0(x * float(denoiser.sde.at(t).radius), t)
            z = draw(step.k - 1)
            yield step, x0_hat, z
            x = combine(step.on_x, x, step.on_x0, x0).add_(z, alpha=math.sqrt(step.small))

    def weigh(self, denoiser: Denoiser, x0: Tensor, draw: Draw, on_step: OnStep) -> Tensor:
        """The terms of one trajectory of each x0 (B, *), (K + 1, B); their sum is -log w."""
        dim, last = x0[0].numel(), len(self.steps)
        terms = torch.empty(last + 1, len(x0), dtype=torch.float64, device=x0.device)
        terms[last] = prior_kl(self.steps[0].signal * x0.double(), self.steps[0].noise, self.log_noise)
        z = draw(last)
        surplus = 0.5 * (squares(self.start(x0, z)) - squares(z) - dim * self.log_noise) - terms[last]
        for step, x0_hat, z in self.follow(denoiser, x0, draw):
            error = x0.double() - x0_hat.double()
            if step.k > 1:
                terms[step.k - 1] = step.kl(dim, squares(error))
                surplus += step.surplus(dim, error, z)
            elif self.bin_width is None:
                terms[0] = surplus - step.log_density(dim, squares(error))
            else:
                terms[0] = surplus - discretised_log_prob(x0, x0_hat, math.sqrt(step.variance), self.bin_width)
            on_step()
        return terms


def weigh(
    walk: Walk,
    denoiser: Denoiser,
    x0: Tensor,
    *,
    trajectories: int,
    seed: int,
    ids: Tensor,
    batch_size: int,
    on_step: OnStep,
) -> WeightedBound:
    """M trajectories of each x0 (n, *), `batch_size` of them at once."""
    problems: dict[int, str] = {}
    count, dim = len(x0), x0[0].numel()
    log_weights = torch.empty(trajectories, count, dtype=torch.float64, device=x0.device)
    mean_terms = torch.zeros(len(walk.steps) + 1, count, dtype=torch.float64, device=x0.device)
    for rows, numbers in passes(count, trajectories, batch_size):
        draw = draws(seed, ids[rows], x0, numbers)
        x = x0[rows].repeat(len(numbers), *(1 for _ in x0.shape[1:]))
        with evaluating(denoiser):
            terms = walk.weigh(denoiser, x, draw, on_step).unflatten(1, (len(numbers), -1))
        problems |= _problems(terms, rows.start, ids)
        log_weights[numbers.start : numbers.stop, rows] = -terms.sum(0)
        mean_terms[:, rows] += terms.sum(1) / trajectories
    for bad in problems:
        log_weights[:, bad] = mean_terms[:, bad] = math.nan
    return WeightedBound(log_weights, Bound(mean_terms, dim, _error_of_mean(log_weights)), problems)


def mean_error2(
    walk: Walk, denoiser: Denoiser, x0: Tensor, *, seed: int, ids: Tensor, batch_size: int, on_step: OnStep
) -> Tensor:
    """E |x_0 - xhat0(x_k)|^2 / D for k = 0..K, (K + 1,), over one trajectory of each x0; 0 for k = 0."""
    total = torch.zeros(len(walk.steps) + 1, dtype=torch.float64)
    for rows, numbers in passes(len(x0), 1, batch_size):
        draw = draws(seed, ids[rows], x0, numbers)
        with evaluating(denoiser):
            for step, x0_hat, _ in walk.follow(denoiser, x0[rows], draw):
                total[step.k] += float(squares(x0[rows].double() - x0_hat.double()).sum())
                on_step()
    if not bool(total.isfinite().all()):
        raise NumericalError(f"the denoiser's error at k = {int((~total.isfinite()).nonzero()[-1])} is not finite")
    return total / x0.numel()


def passes(count: int, trajectories: int, batch_size: int) -> Iterator[tuple[slice, range]]:
    """Which rows of the data and which of their trajectories are computed together, at most `batch_size` in all."""
    at_once = max(1, batch_size // count)
    for first in range(0, count, batch_size):
        rows = slice(first, min(first + batch_size, count))
        for number in range(0, trajectories, at_once):
            yield rows, range(number, min(number + at_once, trajectories))


def draws(seed: int, ids: Tensor, x0: Tensor, numbers: range) -> Draw:
    """Of k: the normals of these trajectories of the samples `ids`, one trajectory after the other."""
    noise = CounterNoise(seed, ids, tuple(x0.shape[1:]), x0.dtype, x0.device)

    def draw(k: int) -> Tensor:
        at = noise.at(k, 1.0, 0.0)  # times do not matter to fresh noise
        return torch.cat([at(number) for number in numbers])

    return draw


@contextlib.contextmanager
def evaluating(denoiser: Denoiser) -> Iterator[None]:
    """The denoiser in evaluation mode, without gradients."""
    was_training = denoiser.training
    denoiser.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        denoiser.train(was_training)


def _problems(terms: Tensor, first: int, ids: Tensor) -> dict[int, str]:
    """By row, from `first` on: what is not finite in terms (K + 1, M, B), the first of them to be computed."""
    bad = (~terms.isfinite()).any(1)
    return {
        first + row: f"sample {int(ids[first + row])}: the term L_{int(bad[:, row].nonzero()[-1])} of the bound is not "
        "finite; check that the sample is in the range of the data, and the network at that noise level"
        for row in bad.any(0).nonzero().flatten().tolist()
    }


def discretised_log_prob(x: Tensor, mean: Tensor, std: float, width: float) -> Tensor:
    """log of the mass that N(mean, std^2) gives to the bin of each entry of x, summed over a sample, (B,).

    Bins of `width` centred on the values, on [-1, 1], open at both ends (Ho et al. 2020, eq. 13).
    """
    x, mean = x.double(), mean.double()
    upper, lower = (x + 0.5 * width - mean) / std, (x - 0.5 * width - mean) / std
    upper = torch.where(x > 1.0 - 0.5 * width, math.inf, upper)
    lower = torch.where(x < -1.0 + 0.5 * width, -math.inf, lower)
    # mirror to the left tail, where the normal's log cdf is accurate
    flip = lower + upper > 0
    upper, lower = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return flat_sum(log_upper + torch.log(-torch.expm1(log_lower - log_upper)))
