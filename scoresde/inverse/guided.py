r"""Guided denoisers: E[x0 | x_t, y] from E[x0 | x_t] and an estimate of grad log p(y | x_t).

By Tweedie, for the conditional score grad log q_t(x) + grad log q_t(y | x) (theory 8),

    E[x0 | x_t, y] = xhat0 + (sigma^2 / alpha) grad_x log q_t(y | x_t)

so that a guided denoiser is again a denoiser, and every solver samples from it. Methods differ in their estimate of
q_t(y | x_t) = E[N(y; A(X_0), noise_std^2 I) | X_t = x_t] and in nothing else.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from scoresde._tensors import expand, flat_sum
from scoresde.denoisers import Wrapped
from scoresde.inverse.levels import regular
from scoresde.inverse.problem import Draws, Method, Problem, Run
from scoresde.parameterisations import PredictsX0, combine_prediction
from scoresde.reverse import Reverse
from scoresde.sampling import sample
from scoresde.sde import Level
from scoresde.solvers import SASolver, Solver

REACH = 5.0
Pullback = Callable[[Tensor], Tensor]


class Estimate(NamedTuple):
    """What the prior's denoiser says at x_t.

    Args:
        x0: E[x0 | x_t], (B, *).
        covariance: v -> C_t v = (sigma^2 / alpha) (d x0 / d x_t)' v, (B, *) -> (B, *): Cov[x0 | x_t] v for an exact
            denoiser; a vector-Jacobian product of the network.
    """

    x0: Tensor
    covariance: Pullback


class Twist(NamedTuple):
    """A guess of how well x_t explains y, with the estimate that it changes.

    Args:
        x0: E[x0 | x_t], (B, *).
        guided: E[x0 | x_t, y], (B, *).
        log_prob: of y given x_t, nats, normalised, (B,).
        variance: of x0 given x_t, per direction, in the mean over those that A sees, (B,).
    """

    x0: Tensor
    guided: Tensor
    log_prob: Tensor
    variance: Tensor


def line_step(residual: Tensor, u: Tensor, noise_std: Tensor, v: Tensor, push: Tensor) -> Tensor:
    """tau = u' r / (|noise_std u|^2 + |v' C_t v|), (B,): how far along a guess u of S^-1 r to go.

    With S = noise_std^2 I + J C_t J' this is the step of conjugate gradients on S u = r in the direction u, so that
    the push tau C_t v does not overshoot, and 1 where u is right. A covariance has v' C_t v >= 0. What a network has in
    its place may not: taken for 0 it would free the push.

    Args:
        residual: r = y - A(xhat0); u: in the shape of y.
        v, push: J' u and C_t v, with J = dA/dx0 at xhat0.
    """
    spread = flat_sum((noise_std * u).square()) + flat_sum(v * push).abs()
    return flat_sum(u * residual) / spread.clamp_min(torch.finfo(u.dtype).tiny)


def within_reach(push: Tensor, data_std: float) -> Tensor:
    """The push (B, *), made shorter where its root mean square is over `REACH` standard deviations of the data.

    Nothing in the data is that far from xhat0. A network's C_t is no covariance at high noise, and may be thousands of
    times too large.
    """
    size = (flat_sum(push.double().square()) / push[0].numel()).sqrt()
    return expand((REACH * data_std / size).clamp(max=1.0), push) * push


class GuidedDenoiser(Wrapped):
    """A prior's denoiser told of y. It predicts x0."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.denoiser, PredictsX0())
        self.problem = problem
        self.shape = problem.shape

    @abc.abstractmethod
    def guided_x0(self, x: Tensor, t: Level) -> Tensor:
        """E[x0 | x_t, y] as the method has it; called under `torch.no_grad`, away from alpha = 0."""

    def predict(self, x: Tensor, t: Level) -> Tensor:
        with torch.no_grad():
            return self.guided_x0(x, regular(t))

    def estimate(self, x: Tensor, t: Level) -> Estimate:
        """x0 and the covariance as a function, from one evaluation of the prior's denoiser."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            prediction = self.inner.predict(x, t)
            x0 = combine_prediction(self.inner.parameterisation.x0(t), x, prediction)
        scale = t.sigma**2 / t.alpha

        def covariance(v: Tensor) -> Tensor:
            (pulled,) = torch.autograd.grad(x0, x, v, retain_graph=True)
            return pulled * (expand(scale, pulled) if isinstance(scale, Tensor) else scale)

        return Estimate(x0.detach(), covariance)


class TwistedDenoiser(GuidedDenoiser):
    """A guided denoiser whose estimate of q_t(y | x_t) is a normalised density, so that particles can be weighed."""

    def check_twist(self) -> None:
        """Refuse a problem that `twist` is not for, before anything is computed.

        Raises:
            ValueError: it is not.
        """

    @abc.abstractmethod
    def twist(self, x: Tensor, t: Level) -> Twist:
        """x0, guided x0 and log q_t(y | x_t); called under `torch.no_grad`, away from alpha = 0."""


class Guided(Method):
    """A method that is a guided denoiser: it works with every solver."""

    solvers = True
    default_solver: ClassVar[Solver[Reverse]] = SASolver()

    @abc.abstractmethod
    def denoiser(self, problem: Problem) -> GuidedDenoiser:
        """The prior's denoiser, told of y.

        Raises:
            ValueError: the problem is not one for this method.
        """

    def draw(self, problem: Problem, run: Run) -> Draws:
        x = sample(
            self.denoiser(problem),
            self.default_solver if run.solver is None else run.solver,
            steps=run.steps,
            times=run.times,
            ids=run.ids,
            seed=run.seed,
            shape=problem.shape,
            on_step=run.on_step,
        )
        return Draws(x)


class Twisted(Guided):
    """A guided method that can steer and weigh particles."""

    @abc.abstractmethod
    def denoiser(self, problem: Problem) -> TwistedDenoiser: ...
