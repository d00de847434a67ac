"""Continuous-time diffusion: one SDE, one denoiser, any solver, each claim checked against an exact answer.

    import scoresde as sd
    prior = sd.GaussianMixture([0.3, 0.7], [[-1.0], [1.0]], [0.1, 0.2])
    denoiser = prior.denoiser(sd.VP())
    x = sd.sample(denoiser, sd.solvers.Ancestral(), steps=100, n=1000, seed=0)

Names are imported when first used, so that `import scoresde` costs nothing and a help text never waits for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "scoresde.acceleration": ("Autocast", "ChannelsLast", "CudaGraph", "compiled"),
    "scoresde.chain": ("DDPM", "Bound", "WeightedBound"),
    "scoresde.checkpoint": ("load",),
    "scoresde.data": ("DataError",),
    "scoresde.denoisers": (
        "ChainIndex",
        "Clipped",
        "Conditioning",
        "Denoiser",
        "DynamicallyClipped",
        "EpsNet",
        "LogSNR",
        "NetDenoiser",
        "Wrapped",
    ),
    "scoresde.distributions": ("Empirical", "GaussianMixture", "gaussian_kl"),
    "scoresde.errors": ("BusyError", "CheckpointError", "NumericalError"),
    "scoresde.inverse": ("GaussianMeasurement", "restore"),
    "scoresde.latents": ("slerp",),
    "scoresde.likelihood": (
        "ExactTrace",
        "FlowLikelihood",
        "Hutchinson",
        "Pixels",
        "converged_likelihood",
        "flow_likelihood",
        "log_likelihood",
    ),
    "scoresde.mixtures": ("MIXTURES",),
    "scoresde.noise": ("BrownianNoise", "CounterNoise", "Noise"),
    "scoresde.parameterisations": (
        "Parameterisation",
        "PredictsEDM",
        "PredictsEps",
        "PredictsScore",
        "PredictsV",
        "PredictsX0",
    ),
    "scoresde.processes": ("EDM", "VE", "VP", "Cosine", "GaussianPath", "RectifiedFlow", "SubVP"),
    "scoresde.rescheduled": ("Rescheduled",),
    "scoresde.reverse": ("Reverse",),
    "scoresde.sampling": ("decode", "encode", "sample", "solve", "trajectory"),
    "scoresde.sde": ("SDE", "LinearSDE", "ProcessWarning"),
    "scoresde.tuning": ("TunedGrid", "tune_grid"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = (
    "compare",
    "data",
    "grids",
    "inverse",
    "likelihood",
    "metrics",
    "nets",
    "noise",
    "operators",
    "report",
    "solvers",
    "training",
)

__all__ = [*_HOME_OF, *_MODULES]

if TYPE_CHECKING:
    from scoresde import (
        compare,
        data,
        grids,
        inverse,
        likelihood,
        metrics,
        nets,
        noise,
        operators,
        report,
        solvers,
        training,
    )
    from scoresde.acceleration import Autocast, ChannelsLast, CudaGraph, compiled
    from scoresde.chain import DDPM, Bound, WeightedBound
    from scoresde.checkpoint import load
    from scoresde.data import DataError
    from scoresde.denoisers import (
        ChainIndex,
        Clipped,
        Conditioning,
        Denoiser,
        DynamicallyClipped,
        EpsNet,
        LogSNR,
        NetDenoiser,
        Wrapped,
    )
    from scoresde.distributions import Empirical, GaussianMixture, gaussian_kl
    from scoresde.errors import BusyError, CheckpointError, NumericalError
    from scoresde.inverse import GaussianMeasurement, restore
    from scoresde.latents import slerp
    from scoresde.likelihood import (
        ExactTrace,
        FlowLikelihood,
        Hutchinson,
        Pixels,
        converged_likelihood,
        flow_likelihood,
        log_likelihood,
    )
    from scoresde.mixtures import MIXTURES
    from scoresde.noise import BrownianNoise, CounterNoise, Noise
    from scoresde.parameterisations import (
        Parameterisation,
        PredictsEDM,
        PredictsEps,
        PredictsScore,
        PredictsV,
        PredictsX0,
    )
    from scoresde.processes import EDM, VE, VP, Cosine, GaussianPath, RectifiedFlow, SubVP
    from scoresde.rescheduled import Rescheduled
    from scoresde.reverse import Reverse
    from scoresde.sampling import decode, encode, sample, solve, trajectory
    from scoresde.sde import SDE, LinearSDE, ProcessWarning
    from scoresde.tuning import TunedGrid, tune_grid


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    if name in _MODULES:
        return import_module(f"scoresde.{name}")
    raise AttributeError(f"module 'scoresde' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
