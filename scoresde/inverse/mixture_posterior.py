r"""Mixtures, whose posterior given a linear measurement is exact: the law of A X, and draws of X given y."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from scoresde.distributions import GaussianMixture
from scoresde.inverse.problem import Draws, Method, Problem, Run
from scoresde.linalg import Operator
from scoresde.noise import COMPONENTS, uniform


def pushforward(law: GaussianMixture, operator: Operator) -> GaussianMixture:
    """The law of A X for X ~ `law`: sum_i w_i N(A m_i, A S_i A'), in M dimensions; degenerate where A is.

    Raises:
        ValueError: an operator that is not linear, or does not take vectors of the law's length.
    """
    a = operator.as_linear().dense(law.dim)
    covariances = a @ law.covariances @ a.mT
    return GaussianMixture(
        law.weights, law.means @ a.mT, 0.5 * (covariances + covariances.mT), dtype=law.dtype, device=law.device
    )


@dataclass(frozen=True, eq=False)
class MixturePosterior(Method):
    """Exact draws from the posterior of a mixture, for linear A: a component by its weight, then Matheron's rule.

        x = x' + S A' (A S A' + noise_std^2 I)^-1 (y - A x' - noise_std z'),     x' ~ N(m, S)

    The prior's denoiser is not asked, and there are no steps.

    Args:
        law: the prior, of vectors of as many entries as a sample has.
    """

    law: GaussianMixture

    exact: ClassVar[str] = "always"

    def draw(self, problem: Problem, run: Run) -> Draws:
        law, a = self.law, problem.measurement.dense(problem.shape).cpu()
        std = problem.measurement.std(a).expand(problem.y.shape[1:]).flatten()
        y = problem.y.flatten(1).double().cpu()
        sa = law.covariances @ a.mT  # (K, D, M)
        factor = torch.linalg.cholesky(a @ sa + torch.diag(std**2))
        label = self._components(y, law.means @ a.mT, factor, run)
        x = law.place(run.noise(problem).start().flatten(1), label)
        z = run.noise_of_y(problem).at(0, 1.0, 0.0)().flatten(1).double().cpu()
        residual = (y - x @ a.mT - std * z)[..., None]
        x = x + (sa[label] @ torch.cholesky_solve(residual, factor[label]))[..., 0]
        return Draws(x.reshape(-1, *problem.shape).to(problem.y))

    def _components(self, y: Tensor, means: Tensor, factor: Tensor, run: Run) -> Tensor:
        """A component for each draw, (n,), by P(component | y)."""
        z = torch.linalg.solve_triangular(factor, (y[:, None] - means)[..., None], upper=False)[..., 0]
        log_w = self.law.weights.log() - 0.5 * z.square().sum(-1) - factor.diagonal(dim1=1, dim2=2).log().sum(-1)
        edges = torch.softmax(log_w, 1).cumsum(1).expand(len(run.ids), -1).contiguous()
        u = uniform(run.seed, run.ids, (1,), stream=COMPONENTS, dtype=torch.float64)
        return torch.searchsorted(edges, u * edges[:, -1:])[:, 0].clamp_max(len(self.law.weights) - 1)
