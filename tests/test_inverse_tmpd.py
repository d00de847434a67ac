"""TMPD: its formula, by dense matrices."""

from __future__ import annotations

import torch
from guided_cases import (
    NOISE,
    problem,
)
from problems import mixture, normal

import scoresde as sd
from scoresde.inverse.tmpd import TMPD


def test_tmpd_is_its_formula() -> None:
    """S of row sums, negative ones by their size, on a mixture, by dense matrices."""
    law = mixture(4, 3)
    operator = sd.operators.Dense([[1.0, -1.0, 0.3, 0.0], [-1.0, 0.2, 0.0, 0.5], [0.4, 0.1, 0.9, 0.2]])
    given = problem(law, operator, sd.VP())
    x, level = normal(6, 4, seed=8), given.denoiser.sde.at(0.4)
    A, C = operator.dense(), law.posterior_covariance(x, sd.VP(), 0.4)
    rows = (A @ C @ A.mT).sum(2)
    assert rows.min() < 0 < rows.max()
    S = NOISE**2 + rows.abs()
    x0 = given.denoiser.x0(x, 0.4)
    residual = given.y - x0 @ A.mT
    twist = TMPD().denoiser(given).twist(x, level)
    u = residual / S
    whole = NOISE**2 * torch.eye(3, dtype=torch.float64) + A @ C @ A.mT
    tau = (u * residual).sum(1) / torch.einsum("bi,bij,bj->b", u, whole, u)
    torch.testing.assert_close(twist.guided, x0 + tau[:, None] * torch.einsum("bij,bj->bi", C @ A.mT, u))
    log_prob = torch.distributions.Normal(0.0, S.sqrt()).log_prob(residual).sum(1)
    torch.testing.assert_close(twist.log_prob, log_prob)
    assert (twist.variance >= 0).all()
