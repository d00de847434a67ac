"""Bring your own noise-predicting network: declare its betas, and every solver here runs on it.

The network of this example is the exact one of a mixture, written as DDPM code writes it: eps = net(x, k) with
k = 0..K-1. Yours comes from wherever you trained it.

    python examples/own_network.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import scoresde as sd

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)


class SomebodysNetwork(nn.Module):
    """eps(x, k), trained on a chain of 1000 steps; it knows nothing of scoresde's time."""

    def __init__(self, law: sd.GaussianMixture) -> None:
        super().__init__()
        self.law, self.alpha_bar = law, torch.cumprod(1 - BETAS, 0)

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        # between two integers: log abar is interpolated, as VP.from_betas does
        low = k.floor().long().clamp(0, len(BETAS) - 1)
        high = (low + 1).clamp_max(len(BETAS) - 1)
        log_abar = torch.lerp(self.alpha_bar[low].log(), self.alpha_bar[high].log(), (k - low).double())
        t = sd.VP().time_of_log_snr(log_abar - torch.log(-torch.expm1(log_abar)))
        return self.law.denoiser(sd.VP()).eps(x, t)


def main(n: int = 1000, steps: int = 50) -> dict[str, float]:
    """Run three solvers on it; the root mean square distance of their samples' covariance to the truth."""
    law = sd.GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], [0.1, 0.05])
    net = sd.EpsNet(SomebodysNetwork(law), sd.VP.from_betas(BETAS), shape=(2,))
    errors = {}
    for solver in (sd.solvers.Ancestral(), sd.solvers.DDIM(), sd.solvers.Heun()):
        x = sd.sample(net, solver, steps=steps, n=n, seed=0).double()
        errors[repr(solver)] = (torch.cov(x.T) - law.covariance()).square().mean().sqrt().item()
        print(f"{solver!r:30s} error of the covariance: {errors[repr(solver)]:.3f}")
    return errors


if __name__ == "__main__":
    main()
