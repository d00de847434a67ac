r"""The Langevin step of methods for any A: x ~ N(m, r^2 I) told of y = A(x) + noise_std z, Metropolis-corrected.

    target    log pi(x) = -1/2 |y - A(x)|^2 / noise_std^2 - 1/2 |x - m|^2 / r^2
    proposal  x' = m + a (x - m) + (1 - a) r^2 A'(x)' (y - A(x)) / noise_std^2 + r sqrt(1 - a^2) z,   a = exp(-h / 2)
    accepted  with probability min(1, pi(x') q(x | x') / (pi(x) q(x' | x)))

(Roberts & Tweedie 1996, MALA), with the Gaussian factor followed exactly (Cotter et al. 2013): where A says nothing,
the proposal keeps the target whatever h is, and a large h makes it an independent draw. As h -> 0 it is MALA with step
h r^2. Accepted moves leave pi as it is, whatever the pullback of A says: one that is no derivative, such as a
straight-through one, costs acceptance and no bias.

An A without a pullback is asked for none: with no drift this is the random walk of Cotter et al. (pCN), which needs
many more steps.

h is found for each sample by log h += gain (acceptance - target): the target is 0.57, at which MALA is fastest in many
dimensions, or 0.23 for a random walk (Roberts & Rosenthal 2001). What adapts does not leave pi as it is, so h is found
first, and the draw is taken after steps with h held.
"""

from __future__ import annotations

import abc
import math
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde._tensors import expand, flat_sum
from scoresde.errors import NumericalError
from scoresde.inverse.gaussian_step import GaussianStep
from scoresde.inverse.problem import Problem, Run
from scoresde.noise import ACCEPTANCE, uniform

TARGET, TARGET_OF_WALK = 0.57, 0.23
GAIN = 2.0
SMALLEST, LARGEST = 1e-12, 20.0
"""Of h: at the largest, a = 5e-5."""
FIRST_DRAW = 1 << 20  # draw numbers of the proposals, off those of the methods


class Chain(NamedTuple):
    """Where the chains of a batch are.

    Args:
        x: (B, *).
        h: (B,) float64, the step in units of r^2.
        acceptance: (B,) float64, of the last `langevin`: the mean probability over the steps with h held, or over all
            where there were none.
    """

    x: Tensor
    h: Tensor
    acceptance: Tensor


class _Point(NamedTuple):
    """x, r^2 times the gradient of the log likelihood there, and log pi, (B,) float64."""

    x: Tensor
    drift: Tensor
    log_pi: Tensor


def begin(x: Tensor) -> Chain:
    """Chains at x that have everything to learn about their steps."""
    one = torch.ones(len(x), dtype=torch.float64, device=x.device)
    return Chain(x, one, torch.zeros_like(one))


def langevin(
    problem: Problem,
    run: Run,
    m: Tensor,
    r: float,
    chain: Chain,
    *,
    adapting: int,
    held: int,
    step: int,
    drift: bool = True,
) -> Chain:
    """`adapting` steps in which h is found, and `held` in which it stays.

    A step costs an evaluation of A and a pullback.

    Args:
        m: (B, *), with r > 0 the Gaussian factor.
        step: of the method, for the noise.
        drift: whether A is asked for its pullback.

    Raises:
        ValueError: it has none. NumericalError: A(x) is not finite where a chain is, so that nothing could be accepted.
    """
    noise, steps = run.noise(problem).at(step, 0.0, 0.0), adapting + held
    # (B, steps) at once: a draw of one number costs as much
    u = uniform(run.seed, run.ids, (steps,), step=step, stream=ACCEPTANCE, dtype=torch.float64, device=m.device)
    h, total = chain.h, torch.zeros_like(chain.h)
    at, target = _point(problem, m, r, chain.x, drift), TARGET if drift else TARGET_OF_WALK
    check_seen(problem, at.log_pi + _square(at.drift))
    for i in range(steps):
        mean = _proposal(at, m, h)
        std = r * (-torch.expm1(-h)).sqrt()
        new = _point(problem, m, r, mean + expand(std, mean) * noise(FIRST_DRAW + i), drift)
        back = _proposal(new, m, h)
        log_ratio = new.log_pi - at.log_pi + (_square(new.x - mean) - _square(at.x - back)) / (2.0 * std**2)
        probability = log_ratio.nan_to_num(nan=-math.inf).clamp_max(0.0).exp()
        accepted = u[:, i] < probability
        at = _Point(*(torch.where(expand(accepted, old) > 0, fresh, old) for fresh, old in zip(new, at, strict=True)))
        if i < adapting:
            h = (h * torch.exp(GAIN / (1.0 + i) ** 0.5 * (probability - target))).clamp(SMALLEST, LARGEST)
        if i >= adapting or held == 0:
            total = total + probability
    return Chain(at.x, h, total / (held or steps))


def check_seen(problem: Problem, value: Tensor) -> None:
    """Refuse chains that stand where the fit (B,), or its gradient, is not finite.

    Raises:
        NumericalError: one does.
    """
    bad = ~value.isfinite()
    if bool(bad.any()):
        raise NumericalError(
            f"{problem.operator}, or its gradient, is not finite for {int(bad.sum())} of {len(bad)} samples on their "
            "way: they leave the range of the data, so give an A that is finite there too"
        )


def has_pullback(problem: Problem, x: Tensor) -> bool:
    """Whether A has one at x."""
    try:
        problem.operator.pullback(x, problem.measurement.residual(x, problem.y))
    except ValueError:
        return False
    return True


def _point(problem: Problem, m: Tensor, r: float, x: Tensor, drift: bool) -> _Point:
    residual = problem.measurement.residual(x, problem.y)
    pulled = problem.operator.pullback(x, residual / problem.noise_std) if drift else torch.zeros_like(x)
    return _Point(x, r**2 * pulled, -0.5 * (_square(residual) + _square(x - m) / r**2))


def _proposal(at: _Point, m: Tensor, h: Tensor) -> Tensor:
    """Mean of the proposal."""
    a = torch.exp(-0.5 * h)
    return m + expand(a, m) * (at.x - m) + expand(-torch.expm1(-0.5 * h), m) * at.drift


def _square(x: Tensor) -> Tensor:
    """|x|^2, (B,) float64."""
    return flat_sum(x.double().square())


class LikelihoodStep(abc.ABC):
    """Draws from N(m, r^2 I) told of y, in any way."""

    @abc.abstractmethod
    def draw(self, m: Tensor, r: float, start: Tensor, step: int, *, adapt: bool = True) -> Tensor:
        """(B, *), given m (B, *) and r > 0.

        Args:
            start: (B, *), where a chain starts that cannot draw at once.
            step: of the method, for the noise.
            adapt: whether the first half of the chain's steps may change their size.
        """

    @abc.abstractmethod
    def diagnostics(self) -> dict[str, object]:
        """Of all draws so far."""


def likelihood_step(problem: Problem, run: Run, steps: int) -> LikelihoodStep:
    """The exact draw for linear A, and `steps` Langevin steps otherwise."""
    return _Exact(problem, run) if problem.operator.linear else _Metropolis(problem, run, steps)


class _Exact(LikelihoodStep):
    def __init__(self, problem: Problem, run: Run) -> None:
        self.gaussian = GaussianStep(problem)
        self.noise, self.noise_of_y = run.noise(problem), run.noise_of_y(problem)

    def draw(self, m: Tensor, r: float, start: Tensor, step: int, *, adapt: bool = True) -> Tensor:
        z_x, z_y = self.noise.at(step, 0.0, 0.0)(1), self.noise_of_y.at(step, 0.0, 0.0)(2)
        return self.gaussian.draw(m, r, z_x, z_y)

    def diagnostics(self) -> dict[str, object]:
        return {}


class _Metropolis(LikelihoodStep):
    """A chain that keeps the step sizes that it found."""

    def __init__(self, problem: Problem, run: Run, steps: int) -> None:
        self.problem, self.run, self.steps = problem, run, steps
        self.chain: Chain | None = None
        self.drift = True
        self.acceptance: list[float] = []

    def draw(self, m: Tensor, r: float, start: Tensor, step: int, *, adapt: bool = True) -> Tensor:
        if self.chain is None:
            self.chain, self.drift = begin(start), has_pullback(self.problem, start)
        adapting = self.steps // 2 if adapt else 0
        self.chain = langevin(
            self.problem,
            self.run,
            m,
            r,
            self.chain._replace(x=start),
            adapting=adapting,
            held=self.steps - adapting,
            step=step,
            drift=self.drift,
        )
        self.acceptance.append(self.chain.acceptance.mean().item())
        return self.chain.x

    def diagnostics(self) -> dict[str, object]:
        return {"acceptance": self.acceptance}
