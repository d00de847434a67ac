"""Theory, section 6: the likelihood by change of variables along the probability flow."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import torch
from problems import PROCESSES, mixture, normal
from torch import Tensor

import scoresde as sd
from scoresde.likelihood import ExactTrace, Hutchinson, flow_likelihood, log_likelihood
from scoresde.likelihood.divergence import Draw, Followed
from scoresde.sde import LinearSDE

each = pytest.mark.parametrize("sde", PROCESSES.values(), ids=PROCESSES.keys())
SMOOTH = {name: sde for name, sde in PROCESSES.items() if name not in ("betas", "song")}  # no knots to step over
each_smooth = pytest.mark.parametrize("sde", SMOOTH.values(), ids=SMOOTH.keys())
LAW = mixture(2, 3)


def velocity_and_divergence(process: sd.Reverse, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """v (B, D) and the exact trace of its Jacobian (B,)."""
    x = x.detach().requires_grad_()
    v = process.drift(x, t)
    rows = [torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(x.shape[1])]
    return v.detach(), torch.stack(rows).sum(0)


@each_smooth
def test_change_of_variables_along_the_flow(sde: LinearSDE) -> None:
    """log p_0(x_0) = log p_1(x_1) + integral of div v, v = f - 1/2 g^2 s, between the exact densities at both ends."""
    process, x0 = sd.Reverse(LAW.denoiser(sde), eta=0.0), LAW.sample(6, seed=2)

    def rate(t: float, y: np.ndarray) -> np.ndarray:
        v, div = velocity_and_divergence(process, torch.from_numpy(y).view(6, 3)[:, :2], t)
        return torch.cat([v, div[:, None]], 1).flatten().numpy()

    start = torch.cat([x0, torch.zeros(6, 1).double()], 1).flatten().numpy()
    end = scipy.integrate.solve_ivp(rate, (0.0, 1.0), start, "DOP853", rtol=1e-7, atol=1e-8).y[:, -1].reshape(6, 3)
    x1, integral = torch.from_numpy(end[:, :2]), torch.from_numpy(end[:, 2])
    log_p1 = LAW.diffuse(sde, 1.0).log_prob(x1)
    torch.testing.assert_close(log_p1 + integral, LAW.log_prob(x0), rtol=0, atol=3e-6)


@each
def test_the_package_s_likelihood_is_the_exact_log_density(sde: LinearSDE) -> None:
    x = LAW.sample(50, seed=3)
    error = log_likelihood(LAW.denoiser(sde), x, divergence=ExactTrace()) - LAW.log_prob(x)
    assert error.abs().max() < 1e-3


class Enumerated(Draw):
    """All 2^D signs, one after the other."""

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=like.shape[1])), dtype=torch.float64)

    def sign(self, k: int) -> Tensor:
        return self.signs[k].expand_as(self.like)

    def normal(self, k: int) -> Tensor:
        return normal(*self.like.shape, seed=k + 1)


def test_hutchinson_is_unbiased_over_all_signs() -> None:
    """The mean of e' (dP/dx) e over all e is the trace, and its variance 2 sum_{i != j} S_ij^2, S symmetrised."""
    x, A = normal(3, 4, seed=1), normal(4, 4)
    field, draw, J = lambda x: torch.sin(x @ A.mT), Enumerated(x), torch.cos(x @ A.mT)[:, :, None] * A
    trace = J.diagonal(dim1=1, dim2=2).sum(1)
    found = Hutchinson(probes=16, follow=False)(field, x, draw)
    torch.testing.assert_close(found.trace, trace, rtol=1e-12, atol=1e-12)
    S = 0.5 * (J + J.mT)
    off_diagonal = S.square().sum((1, 2)) - S.diagonal(dim1=1, dim2=2).square().sum(1)
    torch.testing.assert_close(found.variance, 2 * off_diagonal / 15, rtol=1e-10, atol=1e-12)
    q = normal(3, 4, seed=2)
    before = Followed(q / q.norm(dim=1, keepdim=True), torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64))
    followed = Hutchinson(probes=16)(field, x, draw, before)
    torch.testing.assert_close(followed.trace, trace, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ExactTrace()(field, x, draw).trace, trace, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gaussian", [False, True])
def test_hutchinson_is_unbiased_along_the_flow(gaussian: bool) -> None:
    """The log density over many seeds, in standard errors, and the error that each of them reports."""
    n, law = 1000, mixture(4, 3)
    x, denoiser = law.sample(1, seed=5).expand(n, 4), law.denoiser(sd.VP())
    found = flow_likelihood(denoiser, x, divergence=Hutchinson(gaussian=gaussian), steps=40)
    exact = flow_likelihood(denoiser, x[:1], divergence=ExactTrace(), steps=40)
    spread = found.nats.std().item()
    assert abs((found.nats.mean() - exact.nats[0]) / (spread / math.sqrt(n))) < 4
    assert found.standard_error.square().mean().sqrt().item() == pytest.approx(spread, rel=0.1)


def test_bits_per_dim_of_8_bit_data() -> None:
    """nats / (D ln 2) + log2(127.5): the mass of a grey level of width 2/255 is its density times the width."""
    chain = sd.DDPM(torch.linspace(0.05, 0.95, 8, dtype=torch.float64))
    x0 = (2 * torch.randint(60, 200, (20, 2), generator=torch.Generator().manual_seed(0)) / 255 - 1).double()
    density = chain.bound(LAW.denoiser(chain.sde()), x0, seed=1)
    mass = chain.bound(LAW.denoiser(chain.sde()), x0, seed=1, bin_width=2 / 255)
    torch.testing.assert_close(density.bits_per_dim(), density.nats() / (2 * math.log(2)), rtol=1e-14, atol=0)
    offset = mass.bits_per_dim() - density.bits_per_dim()
    torch.testing.assert_close(offset, torch.full((20,), math.log2(127.5)).double(), rtol=0, atol=2e-3)
