"""The names that options accept, without torch, so that a help text is instant. The tests hold them to the library."""

from __future__ import annotations

from dataclasses import dataclass

PROCESSES = ("vp", "cosine", "sub-vp", "ve", "edm", "rectified-flow")
PROCESS_PARAMETERS: dict[str, tuple[str, ...]] = {
    "beta_min": ("vp", "sub-vp"),
    "beta_max": ("vp", "sub-vp"),
    "sigma_min": ("ve",),
    "sigma_max": ("ve", "edm"),
    "offset": ("cosine",),
}
"""Which processes take each parameter."""

PREDICTIONS = ("eps", "x0", "v", "score", "edm")
WEIGHTS = ("simple", "likelihood", "vlb", "min-snr", "edm")
TIMES = ("continuous", "chain")
PRECISIONS = ("float32", "bfloat16", "float16")
PRESETS = ("tiny", "small", "base")
GRIDS = ("uniform", "quadratic", "log-snr", "karras", "leading", "trailing", "linspace")
MIXTURES = ("grid25", "two-moons", "ring8", "uneven", "modes64")
SOURCES = ("digits", "photos", "moons", "checkerboard", "swissroll", "rings")
DEVICES = ("auto", "cpu", "cuda")
VARIANCES = ("small", "large")
CLIPS = ("none", "static", "dynamic")
DEFAULT_STEPS = 100


@dataclass(frozen=True)
class SolverFacts:
    """What the table of solvers says of one of them.

    Args:
        order: of its error in the step size.
        evaluations: of the network in a step; 0: as many as the tolerance asks.
        noise: when it draws noise.
        options: that it takes, of those that not all take.
        about: the method, in a few words.
    """

    order: str
    evaluations: int
    noise: str
    options: tuple[str, ...]
    about: str


FIXED = ("steps", "grid", "times")
TOLERANCES = ("rtol", "atol")

SOLVERS: dict[str, SolverFacts] = {
    "ancestral": SolverFacts("1", 1, "yes", (*FIXED, "variance"), "Ho et al. 2020, algorithm 2, on any grid"),
    "em": SolverFacts("1", 1, "if eta > 0", (*FIXED, "eta"), "Euler-Maruyama on the reverse SDE (eta 1)"),
    "ode": SolverFacts("1 or 5", 1, "no", (*FIXED, *TOLERANCES), "probability flow: euler with steps, rk45 without"),
    "euler": SolverFacts("1", 1, "no", FIXED, "Euler's method on the probability flow"),
    "heun": SolverFacts("2", 2, "no", FIXED, "Heun's method on the probability flow"),
    "ddim": SolverFacts("1", 1, "if eta > 0", (*FIXED, "eta"), "Song, Meng & Ermon 2020 (eta 0)"),
    "rk45": SolverFacts("5", 0, "no", TOLERANCES, "adaptive Dormand-Prince on the flow, a step per sample"),
}


def flag(name: str) -> str:
    """The option of a parameter: beta_min -> --beta-min."""
    return "--" + name.replace("_", "-")
