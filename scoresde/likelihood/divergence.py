r"""The trace of a denoiser's Jacobian S = dP/dx: exactly, or with random probes, sample by sample.

Reverse mode, one vector at a time: S'e costs about as much as P itself, and was faster than forward mode (by two to ten
times) and than batches of vectors, on mixtures and on networks alike.

A probe e with E[e e'] = I gives E[e'S e] = tr S; signs (Rademacher) have the smallest variance, twice the sum of the
squares off the diagonal of S. Where a sample is between two modes one eigenvalue of S may outdo all the others: a
direction q that follows it, by one step of power iteration at each node, is taken exactly and out of the probes,

    tr S = q'S q + E[e'P (S - c I) P e] + c (D - 1),    P = I - q q',

unbiased for every q and number c that do not depend on this node's probes. c is the level of the other eigenvalues.

Sources: Hutchinson 1990 and Skilling 1989 (probes), Grathwohl et al. 2019 (FFJORD), Song et al. 2021 (section 4.3),
Meyer et al. 2021 (Hutch++, whose sketch is drawn afresh where q is carried on).
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from scoresde._tensors import expand, flat_sum


class Draw(abc.ABC):
    """The random numbers of a node: like x, independent for every k."""

    @abc.abstractmethod
    def normal(self, k: int) -> Tensor:
        """Standard normal."""

    @abc.abstractmethod
    def sign(self, k: int) -> Tensor:
        """1 or -1."""


class Followed(NamedTuple):
    """A unit vector for each sample, (B, *), and the level of the Jacobian's other eigenvalues, (B,)."""

    q: Tensor
    level: Tensor


class Trace(NamedTuple):
    """What a network says at one node: its prediction (B, *), and the trace of its Jacobian, (B,) float64.

    Attributes:
        variance: an unbiased estimate of the trace's variance over probes, (B,); 0 for the exact trace.
        followed: to be handed to the next node.
    """

    prediction: Tensor
    trace: Tensor
    variance: Tensor
    followed: Followed | None = None


class Divergence(abc.ABC):
    """A way to take the trace of dP/dx."""

    exact: ClassVar[bool]
    """Whether it has no error of its own, so that what is left is the integration's."""

    @abc.abstractmethod
    def products(self, dim: int) -> int:
        """How many vectors S'e it takes at a node, each about the cost of one network call."""

    @abc.abstractmethod
    def pull(self, pull: Callable[[Tensor], Tensor], prediction: Tensor, draw: Draw, before: Followed | None) -> Trace:
        """The trace, from e -> S'e."""

    def __call__(
        self,
        predict: Callable[[Tensor], Tensor],
        x: Tensor,
        draw: Draw,
        before: Followed | None = None,
        *,
        keep: bool = False,
    ) -> Trace:
        """At `x` (B, *); `before` comes from the node before. `keep` the graph, for what is differentiated further."""
        with torch.enable_grad():
            if not (keep and x.requires_grad):
                x = x.detach().requires_grad_()
            prediction = predict(x)
            if not prediction.requires_grad:  # it does not depend on x at all
                prediction = prediction + 0.0 * x
            answer = self.pull(
                lambda e: torch.autograd.grad(prediction, x, e, retain_graph=True, create_graph=keep)[0],
                prediction,
                draw,
                before,
            )
        return answer if keep else answer._replace(prediction=prediction.detach())


@dataclass(frozen=True)
class ExactTrace(Divergence):
    """All D diagonal entries of the Jacobian, one at a time: D backward passes at each node."""

    exact: ClassVar[bool] = True

    def products(self, dim: int) -> int:
        return dim

    def pull(self, pull: Callable[[Tensor], Tensor], prediction: Tensor, draw: Draw, before: Followed | None) -> Trace:
        trace = torch.zeros(len(prediction), dtype=torch.float64, device=prediction.device)
        for i in range(prediction[0].numel()):
            unit = torch.zeros_like(prediction).flatten(1)  # a new one: a graph that is kept holds on to it
            unit[:, i] = 1.0
            trace = trace + pull(unit.reshape(prediction.shape)).flatten(1)[:, i].double()
        return Trace(prediction, trace, torch.zeros_like(trace))


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """The mean over random probes: unbiased, and a backward pass for each.

    Args:
        probes: at each node for each sample, independent of all others; two or more, since one has no spread to tell
            its error by.
        gaussian: normal probes instead of signs, with the larger variance.
        follow: take the direction of the largest eigenvalue out of them, for one more backward pass. It halves the
            error between separate modes in many dimensions, and gains nothing on pictures, which have none such.

    Raises:
        ValueError: fewer than two probes.
    """

    probes: int = 2
    gaussian: bool = False
    follow: bool = False
    exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.probes < 2:
            raise ValueError(
                f"probes = {self.probes}; take 2 or more: with one at each node there is no spread to tell the error by"
            )

    def products(self, dim: int) -> int:
        return self.probes + self.follow

    def pull(self, pull: Callable[[Tensor], Tensor], prediction: Tensor, draw: Draw, before: Followed | None) -> Trace:
        draw_probe = draw.normal if self.gaussian else draw.sign
        probes = [draw_probe(k) for k in range(self.probes)]
        if not self.follow:
            values = torch.stack([flat_sum((pull(e) * e).double()) for e in probes])
            return Trace(prediction, values.mean(0), values.detach().var(0) / self.probes)
        if before is None:
            zero = torch.zeros(len(prediction), dtype=torch.float64, device=prediction.device)
            before = Followed(torch.zeros_like(prediction), zero)
        q, level = before
        image = pull(q)
        probes = [e - expand(flat_sum((q * e).double()), e) * q for e in probes]
        rows = [pull(e) for e in probes]
        values = torch.stack(
            [flat_sum(((row - expand(level, e) * e) * e).double()) for row, e in zip(rows, probes, strict=True)]
        )
        length2 = flat_sum(q.double().square())  # 1, or 0 where there is no direction yet
        dim = prediction[0].numel()
        rest = values.mean(0) + level * (dim - length2)
        new_level = rest.detach() / max(dim - 1, 1)
        start = expand(length2 == 0, q).bool()
        vector, image = torch.where(start, probes[0], q), torch.where(start, rows[0], image)
        return Trace(
            prediction,
            flat_sum((image * q).double()) + rest,
            values.detach().var(0) / self.probes,
            Followed(_unit((image - expand(new_level, image) * vector).detach()), new_level),
        )


def _unit(x: Tensor) -> Tensor:
    """Each sample at length 1, or 0 where it has none to speak of."""
    length = flat_sum(x.double().square()).sqrt()
    return x * expand(torch.where(length > 1e-12, 1.0 / length.clamp_min(1e-12), 0.0), x)
