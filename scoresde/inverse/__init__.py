"""Inverse problems y = A(x) + noise: measurements, and draws from p(x | y)."""

from scoresde.inverse import problems
from scoresde.inverse.daps import DAPS
from scoresde.inverse.ddnm import DDNM
from scoresde.inverse.ddrm import DDRM
from scoresde.inverse.diffpir import DiffPIR
from scoresde.inverse.dps import DPS, LikelihoodScale, PublishedScale
from scoresde.inverse.drawing import equally_weighted, posterior_draws, restore
from scoresde.inverse.guided import Guided, GuidedDenoiser, Twisted, TwistedDenoiser
from scoresde.inverse.mcgdiff import MCGDiff
from scoresde.inverse.measurement import GaussianMeasurement
from scoresde.inverse.measurement_path import MeasurementPath
from scoresde.inverse.measurement_sde import MeasurementSDE, lift
from scoresde.inverse.mixture_posterior import MixturePosterior, pushforward
from scoresde.inverse.mmps import MMPS
from scoresde.inverse.pigdm import PiGDM
from scoresde.inverse.problem import Draws, Method, Problem, Run
from scoresde.inverse.reddiff import REDDiff
from scoresde.inverse.repaint import RePaint
from scoresde.inverse.split_gibbs import SplitGibbs
from scoresde.inverse.tmpd import TMPD
from scoresde.inverse.twisted_smc import TwistedSMC
from scoresde.inverse.units import PICTURES, ModelMeasurement, Units

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "MMPS",
    "PICTURES",
    "TMPD",
    "DiffPIR",
    "Draws",
    "GaussianMeasurement",
    "Guided",
    "GuidedDenoiser",
    "LikelihoodScale",
    "MCGDiff",
    "MeasurementPath",
    "MeasurementSDE",
    "Method",
    "MixturePosterior",
    "ModelMeasurement",
    "PiGDM",
    "Problem",
    "PublishedScale",
    "REDDiff",
    "RePaint",
    "Run",
    "SplitGibbs",
    "Twisted",
    "TwistedDenoiser",
    "TwistedSMC",
    "Units",
    "equally_weighted",
    "lift",
    "posterior_draws",
    "problems",
    "pushforward",
    "restore",
]
