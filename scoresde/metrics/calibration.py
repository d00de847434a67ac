r"""Are draws from p(x | y) what they claim to be? Tests that can fail, on problems whose truth is known.

Draw x* from the prior and y given x*. Then, given y, the truth x* and a draw from the right posterior have the same
law and are independent: among L draws the truth is one of L + 1 that nothing tells apart. Everything here follows.

- `sbc_ranks`, `sbc_test`: simulation-based calibration. The rank of f(x*, y) among f(x_1, y)..f(x_L, y) is uniform on
  0..L, for every f (Cook et al. 2006; Talts et al. 2018, theorem 1). The caller chooses each f: coordinates,
  projections, the log-likelihood (Modrak et al. 2023: with no f that knows y, draws from the prior pass).
- `tarp_values`: so is the share of draws nearer than x* to a reference (Lemos et al. 2023): the coverage of balls.
- `joint_test`: (x*, y) and (x_l, y) have the same law; which of the L + 1 is the truth can be permuted within each
  problem, so that the test is exact for any number of problems.
- `residual_test`: for y = A(x*) + noise, |(y - A(x)) / noise_std|^2 is chi-square with M degrees of freedom.
- `interval_coverage`, `spread_skill`: the width of the draws, entry by entry.

`calibration_tests` runs the four tests. A sample (*) of any shape counts as a vector of its entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy import special
from torch import Tensor

from scoresde.metrics._pairs import ENTRIES_AT_ONCE

CONFIDENCE = 0.95  # of the intervals
DIRECTIONS = 8  # that SBC looks along
WIDTH = 0.25  # of the joint test's kernel, in median distances
JOINT_DRAWS = 2
"""Draws of each problem that `calibration_tests` gives to the joint test: more cost their square in time and memory."""


class Coverage(NamedTuple):
    """Of sets that should hold the truth with probability `level`.

    Args:
        level: the claim.
        share: how often they did.
        low, high: a 95 % confidence interval of what they do on average, in [0, 1].
    """

    level: float
    share: float
    low: float
    high: float


class Calibration(NamedTuple):
    """p-values: each is below p in a share p of all experiments, when the draws have the right law.

    Args:
        sbc: the least one over the quantities, corrected for their number.
        tarp, joint, residual: of the three other tests.
    """

    sbc: float
    tarp: float
    joint: float
    residual: float

    @property
    def p(self) -> float:
        """Of the four tests together (Bonferroni): below 0.01 in at most 1 of 100 experiments with the right law."""
        return min(1.0, len(self) * min(self))


def calibration_tests(
    truth: Tensor, draws: Tensor, y: Tensor, residual: Callable[[Tensor, Tensor], Tensor], *, seed: int = 0
) -> Calibration:
    """The four tests of draws (N, L, *) given y (N, *), for truths (N, *) from the prior; N >= 20 and L >= 2.

    SBC is along random directions and on |residual|^2. Draws of one problem need not be in random order.

    Args:
        residual: (x, y) -> (y - A(x)) / noise_std for batches x (B, *) and y (B, *), such as
            `GaussianMeasurement.residual`.
        seed: of directions, references, ties and permutations.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, too few problems or draws.
    """
    truth, draws = _check(truth, draws, least=2)
    N, L = draws.shape[:2]
    if len(y) != N:
        raise ValueError(f"y holds {len(y)} measurements for {N} truths; give one for each")
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(N, L, generator=generator).argsort(1).to(draws.device)
    draws = draws[torch.arange(N, device=draws.device)[:, None], order]
    residuals = residual(draws.flatten(0, 1), y.repeat_interleave(L, 0)).reshape(N, L, -1).double()
    far = residual(truth, y).flatten(1).double().square().sum(1)
    scale = _scale(truth, draws)
    directions = torch.randn(len(scale), DIRECTIONS, dtype=torch.float64, generator=generator).to(scale.device)
    ranks = sbc_ranks(
        torch.cat([truth.flatten(1) / scale @ directions, far[:, None]], 1),
        torch.cat([draws.flatten(2) / scale @ directions, residuals.square().sum(2, keepdim=True)], 2),
        seed=seed,
    )
    return Calibration(
        sbc=float(holm(sbc_test(ranks, L, seed=seed)).min()),
        tarp=float(smooth_test(tarp_values(truth, draws, seed=seed))),
        joint=joint_test(truth, draws[:, :JOINT_DRAWS], y, seed=seed),
        residual=residual_test(residuals[:, 0]),
    )


# Numbers that should be uniform


def smooth_test(u: Tensor, order: int = 4) -> Tensor:
    """p-values for u (N, *) in [0, 1] being uniform over N >= 20: Neyman's smooth test (1937), one for each entry: (*).

    N sum over k = 1..order of (mean of h_k(u))^2 is chi-square with `order` degrees of freedom for large N; h_k are the
    orthonormal Legendre polynomials: h_1 sees a shift, h_2 a wrong width. For N = 300 ranks among 15 draws with 0.8 of
    the right width it rejects at 0.01 in 83 % of experiments, ten bins in 58 %, Kolmogorov-Smirnov in 19 %.

    Raises:
        ValueError: values outside [0, 1], N < 20, or order < 1.
    """
    u = _check_unit(u)
    if len(u) < 20:
        raise ValueError(f"the smooth test needs at least 20 values, got {len(u)}; give more problems")
    if order < 1:
        raise ValueError(f"order = {order}; it must be 1 or more")
    x = 2.0 * u - 1.0
    before, now = torch.ones_like(x), x
    total = torch.zeros_like(x[0])
    for k in range(1, order + 1):
        total = total + len(u) * (2 * k + 1) * now.mean(0).square()
        before, now = now, ((2 * k + 1) * x * now - k * before) / (k + 1)
    return torch.special.gammaincc(torch.full_like(total, order / 2), total / 2)


def holm(p: Tensor) -> Tensor:
    """p-values (Q,) corrected for being Q (Holm 1979): rejecting those <= level errs at all with chance <= level.

    Raises:
        ValueError: not a vector of numbers in [0, 1].
    """
    if p.ndim != 1:
        raise ValueError(f"p must be (Q,), got {tuple(p.shape)}")
    p, order = _check_unit(p).sort()
    corrected = (p * torch.arange(len(p), 0, -1, device=p.device)).cummax(0).values.clamp_max(1.0)
    return torch.empty_like(p).scatter_(0, order, corrected)


# Simulation-based calibration


def sbc_ranks(truth: Tensor, draws: Tensor, *, seed: int = 0) -> Tensor:
    """How many of the draws (N, L, Q) lie below the truth (N, Q), ties broken at random: (N, Q) int64 in 0..L.

    Raises:
        ValueError: shapes that do not fit, or values that are not finite.
    """
    truth, draws = _check(truth, draws)
    below = (draws < truth[:, None]).sum(1)
    ties = (draws == truth[:, None]).sum(1)
    return below + (_uniform(ties, seed) * (ties + 1)).long()


def sbc_test(ranks: Tensor, L: int, *, seed: int = 0) -> Tensor:
    """p-values (Q,) for ranks (N, Q) among L draws being uniform on 0..L: `smooth_test` of (rank + u) / (L + 1).

    Raises:
        ValueError: ranks outside 0..L, or N < 20.
    """
    if bool(((ranks < 0) | (ranks > L)).any()):
        raise ValueError(f"ranks must lie in 0..{L} (the number of draws), got {int(ranks.min())}..{int(ranks.max())}")
    return smooth_test((ranks + _uniform(ranks, seed + 1)) / (L + 1))  # + 1: not those that broke the ties


# Coverage with random references


def tarp_values(truth: Tensor, draws: Tensor, references: Tensor | None = None, *, seed: int = 0) -> Tensor:
    """The share of draws (N, L, *) nearer to a reference than the truth (N, *) is: (N,), uniform on (0, 1) if right.

    f_i = (number of draws nearer + u) / (number of draws + 1), u uniform: exactly uniform for any L. Distances are
    Euclidean, each entry over its standard deviation.

    Args:
        references: (N, *), drawn without knowledge of the truth. They may depend on y: if they do not, draws from the
            prior pass. By default one draw of each problem, chosen at random and set aside.
        seed: of references and u.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, or no draw left.
    """
    truth, draws = _check(truth, draws, least=2 if references is None else 1)
    N, L = draws.shape[:2]
    if references is not None and references.shape != truth.shape:
        raise ValueError(f"references are {tuple(references.shape)}; one like each truth: {tuple(truth.shape)}")
    scale = _scale(truth, draws)
    x, xs = truth.flatten(1) / scale, draws.flatten(2) / scale
    if references is None:
        aside = (_uniform(xs[:, 0, 0], seed) * L).long()[:, None]
        kept = torch.arange(L, device=xs.device) != aside
        centre, xs = xs[~kept], xs[kept].reshape(N, L - 1, -1)
    else:
        centre = references.flatten(1).to(x) / scale
    truth_far = (x - centre).norm(dim=1, keepdim=True)
    draws_far = (xs - centre[:, None]).norm(dim=2)[..., None]
    ranks = sbc_ranks(truth_far, draws_far, seed=seed + 1)[:, 0]
    return (ranks + _uniform(ranks, seed + 2)) / (xs.shape[1] + 1)


def coverage_curve(values: Tensor, levels: Tensor) -> Tensor:
    """The share of `values` (N,), as of `tarp_values`, at most each of `levels` (K,): (K,), the levels if right.

    Raises:
        ValueError: values outside [0, 1].
    """
    ordered = _check_unit(values).sort().values
    return torch.searchsorted(ordered, levels.to(ordered), right=True).double() / len(ordered)


def coverage(values: Tensor, level: float = 0.9) -> Coverage:
    """Of the balls that hold a share `level` of the draws, by `values` (N,) as of `tarp_values`.

    With the binomial interval of Clopper and Pearson (1934).

    Raises:
        ValueError: level outside (0, 1), or values outside [0, 1].
    """
    if not 0 < level < 1:
        raise ValueError(f"level = {level}; it must lie in (0, 1)")
    N, k = len(_check_unit(values)), int((values <= level).sum())
    low = float(special.betaincinv(k, N - k + 1, (1 - CONFIDENCE) / 2)) if k > 0 else 0.0
    high = float(special.betaincinv(k + 1, N - k, (1 + CONFIDENCE) / 2)) if k < N else 1.0
    return Coverage(level, k / N, low, high)


# The joint law of x and y


def joint_test(truth: Tensor, draws: Tensor, y: Tensor, *, permutations: int = 999, seed: int = 0) -> float:
    """p-value for (truth, y) and (draw, y) having one law: truth (N, *), draws (N, L, *), y (N, *).

    MMD^2 between the two (Gretton et al. 2012) over pairs of different problems: T = sum over i != j of <c_i, K_ij c_j>
    with c_i = 1 at the truth and -1/L at the draws of problem i. Given y these L + 1 are exchangeable, so that T is
    compared with its values for another one of them in the truth's place. K = 1 / (1 + (d / w)^2), d the distance with
    each entry over its standard deviation and w a quarter of the median one: narrow, to see what is wrong within the
    modes, with tails that do not vanish in many dimensions. Not less than 1 / (permutations + 1).

    Raises:
        ValueError: shapes that do not fit, values that are not finite, N < 2, permutations < 1, or too many draws.
    """
    truth, draws = _check(truth, draws)
    N, L = draws.shape[:2]
    if N < 2 or len(y) != N:
        raise ValueError(f"{N} truths and {len(y)} measurements; give one for each of at least 2 problems")
    if permutations < 1:
        raise ValueError(f"permutations = {permutations}; it must be 1 or more")
    if (N * (L + 1)) ** 2 > 4 * ENTRIES_AT_ONCE:
        raise ValueError(f"N (L + 1) = {N * (L + 1)} points are too many to compare in pairs; give fewer draws")
    items = torch.cat([truth[:, None], draws], 1).flatten(2) / _scale(truth, draws)
    seen = y.flatten(1).to(items)
    seen = (seen / _scale(seen, seen[:, None]))[:, None].expand(-1, L + 1, -1)
    points = torch.cat([items, seen], 2).flatten(0, 1)
    distance = torch.cdist(points, points)
    K = 1.0 / (1.0 + (distance / (WIDTH * distance.median())).square())
    problems = torch.arange(N, device=K.device)
    K.view(N, L + 1, N, L + 1)[problems, :, problems] = 0.0
    picks = torch.randint(L + 1, (permutations, N), generator=torch.Generator().manual_seed(seed)).to(K.device)
    picks = torch.cat([torch.zeros_like(picks[:1]), picks])
    c = torch.full((permutations + 1, N, L + 1), -1.0 / L, dtype=K.dtype, device=K.device)
    c = c.scatter_(2, picks[..., None], 1.0).flatten(1)
    T = (c @ K * c).sum(1)
    ties = 1e-12 * K.sum()  # the same labels, rounded otherwise
    return (1 + int((T[1:] >= T[0] - ties).sum())) / (permutations + 1)


def residual_test(residual: Tensor) -> float:
    """p-value for |residual|^2 of (y - A(x)) / noise_std (N, *) being chi-square, by `smooth_test` over N problems.

    One draw of each problem: several would not be independent.

    Raises:
        ValueError: values that are not finite, or N < 20.
    """
    residual = residual.flatten(1).double()
    if not bool(residual.isfinite().all()):
        raise ValueError("residual holds values that are not finite")
    half = residual.square().sum(1) / 2
    return float(smooth_test(torch.special.gammainc(torch.full_like(half, residual.shape[1] / 2), half)))


# Entry by entry


def interval_coverage(truth: Tensor, draws: Tensor, level: float = 0.9) -> Coverage:
    """Of the central intervals of each entry of truth (N, *), by draws (N, L, *).

    A rank r among L draws stands for the quantiles from r / (L + 1) to (r + 1) / (L + 1), of which the interval holds a
    part (those of all ranks, for a tie): right on average, and none beyond all draws. Entries of one problem go
    together, so the confidence interval is Student's over problems, and [0, 1] for a single problem.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, level outside (0, 1), or L < 2 / (1 - level) - 1
            draws, too few to say where the interval ends.
    """
    truth, draws = _check(truth, draws)
    if not 0 < level < 1:
        raise ValueError(f"level = {level}; it must lie in (0, 1)")
    N, L = draws.shape[:2]
    least = math.ceil(2 / (1 - level) - 1 - 1e-9)
    if least > L:
        raise ValueError(
            f"{L} draws of each problem do not reach the ends of intervals of level {level:g}; give at least {least}, "
            f"or a level of at most {math.floor(100 * (1 - 2 / (L + 1)) + 1e-9) / 100:g}"
        )
    first = (draws < truth[:, None]).sum(1).double() / (L + 1)
    last = ((draws <= truth[:, None]).sum(1).double() + 1) / (L + 1)
    inside = (last.clamp_max((1 + level) / 2) - first.clamp_min((1 - level) / 2)).clamp_min(0.0) / (last - first)
    shares = inside.flatten(1).mean(1)
    share = float(shares.mean())
    if N == 1:
        return Coverage(level, share, 0.0, 1.0)
    half = float(special.stdtrit(N - 1, (1 + CONFIDENCE) / 2) * shares.std() / math.sqrt(N))
    return Coverage(level, share, max(0.0, share - half), min(1.0, share + half))


def spread_skill(truth: Tensor, draws: Tensor) -> float:
    """Root mean square error of the mean of draws (N, L, *), over the one that their spread foretells; L >= 2.

    sqrt(mean (truth - mean)^2 / ((L + 1) / L mean variance)) (Fortin et al. 2014): 1 if right, above it for draws that
    are too narrow.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, L < 2, or draws that are all equal.
    """
    truth, draws = _check(truth, draws, least=2)
    foretold = draws.var(1).mean() * (1 + 1 / draws.shape[1])
    if not foretold > 0:
        raise ValueError("the draws of each problem are all equal: they have no spread to compare with the error")
    return float(((truth - draws.mean(1)).square().mean() / foretold).sqrt())


def _uniform(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(like.shape, dtype=torch.float64, generator=generator).to(like.device)


def _scale(truth: Tensor, draws: Tensor) -> Tensor:
    """(D,) standard deviation of each entry over truths and draws alike, which favours neither; 1 where it is 0."""
    std = torch.cat([truth[:, None], draws], 1).flatten(0, 1).flatten(1).std(0)
    return torch.where(std > 0, std, 1.0)


def _check(truth: Tensor, draws: Tensor, least: int = 1) -> tuple[Tensor, Tensor]:
    """truth (N, *) and draws (N, L, *) in float64, N >= 1 and L >= least."""
    fits = truth.ndim >= 2 and draws.shape[:1] + draws.shape[2:] == truth.shape
    if not fits or truth.numel() == 0:
        raise ValueError(f"truth {tuple(truth.shape)} and draws {tuple(draws.shape)} must be (N, *) and (N, L, *)")
    if draws.shape[1] < least:
        raise ValueError(f"{draws.shape[1]} draws of each problem; at least {least} are needed")
    for name, values in (("truth", truth), ("draws", draws)):
        if not bool(values.isfinite().all()):
            index = int((~values.flatten(1).isfinite()).any(1).nonzero()[0])
            raise ValueError(f"{name} must be finite; problem {index} is the first that is not")
    return truth.double(), draws.double()


def _check_unit(u: Tensor) -> Tensor:
    """Values in [0, 1], in float64, at least one."""
    if u.ndim == 0 or u.numel() == 0 or not bool(((u >= 0) & (u <= 1)).all()):
        raise ValueError(f"values of shape {tuple(u.shape)} must be (N, *), N >= 1, in [0, 1]")
    return u.double()
