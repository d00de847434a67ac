"""Inverse problems y = A(x) + noise: measurements, and draws from p(x | y)."""

from scoresde.inverse.drawing import posterior_draws, restore
from scoresde.inverse.guided import Guided, GuidedDenoiser, Twisted, TwistedDenoiser
from scoresde.inverse.measurement import GaussianMeasurement
from scoresde.inverse.mmps import MMPS
from scoresde.inverse.problem import Draws, Method, Problem, Run

__all__ = [
    "MMPS",
    "Draws",
    "GaussianMeasurement",
    "Guided",
    "GuidedDenoiser",
    "Method",
    "Problem",
    "Run",
    "Twisted",
    "TwistedDenoiser",
    "posterior_draws",
    "restore",
]
