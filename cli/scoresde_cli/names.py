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
GRIDS = ("uniform", "logistic", "quadratic", "log-snr", "karras", "leading", "trailing", "linspace")
MIXTURES = ("grid25", "two-moons", "ring8", "uneven", "modes64")
SOURCES = ("digits", "photos", "moons", "checkerboard", "swissroll", "rings")
DEVICES = ("auto", "cpu", "cuda")
VARIANCES = ("small", "large")
VARIABLES = ("squared-angle", "noise-ratio", "time")
LANGEVIN = ("level", "norms")
SCIPY_METHODS = ("RK23", "RK45", "DOP853", "LSODA", "Radau", "BDF")
TORCHSDE_METHODS = ("euler", "milstein", "euler_heun", "midpoint", "heun", "srk")
CLIPS = ("none", "static", "dynamic")
DEFAULT_STEPS = 100
TUNED = "tuned"  # the grid that tune-grid fits to a model
DEFAULT_FRAMES = 9
DEFAULT_SOLVER = "unipc"


@dataclass(frozen=True)
class SolverFacts:
    """What the table of solvers says of one of them, with its options at their defaults.

    Args:
        order: of its error in the step size.
        evaluations: of the network in a step, or adaptive: as many as the tolerance asks.
        noise: when it draws noise.
        grid: how its steps lie in time unless told otherwise; OWN where it chooses them itself.
        options: that it takes, of those that not all take.
        about: the method and its source, in a few words.
        needs: what it asks of the process, if anything.
        orders: that it has, where it takes --order.
    """

    order: str
    evaluations: str
    noise: str
    grid: str
    options: tuple[str, ...]
    about: str
    needs: str = ""
    orders: tuple[int, int] | None = None


FIXED = ("steps", "grid", "times")
TOLERANCES = ("rtol", "atol")
NO, YES, SHARE = "no", "yes", "if eta > 0"
ADAPTIVE, OWN = "adaptive", "own steps"
SIGNAL = "alpha(1) > 0"
WITHOUT_SIGNAL = ("cosine", "rectified-flow")
"""The processes with alpha(1) = 0."""

SOLVERS: dict[str, SolverFacts] = {
    "unipc": SolverFacts(
        *("3", "1", NO, "logistic", (*FIXED, "order")),
        "multistep predictor and corrector on the probability flow (Zhao et al. 2023)",
        orders=(1, 3),
    ),
    "dpm": SolverFacts(
        *("2", "1", NO, "logistic", (*FIXED, "order")),
        "DPM-Solver++ 1, 2M or 3M on the probability flow (Lu et al. 2022)",
        orders=(1, 3),
    ),
    "adams": SolverFacts(
        *("3", "1", NO, "logistic", (*FIXED, "order", "variable")),
        "Adams-Bashforth on the probability flow; DEIS in noise-ratio (Zhang & Chen 2023)",
        orders=(2, 4),
    ),
    "ddim": SolverFacts("1", "1", SHARE, "uniform", (*FIXED, "eta"), "DDIM, eta from 0 to 1 (Song, Meng & Ermon 2020)"),
    "heun": SolverFacts("2", "2", NO, "logistic", FIXED, "Heun on the probability flow (Karras et al. 2022)"),
    "rk4": SolverFacts("4", "4", NO, "logistic", FIXED, "classical Runge-Kutta on the probability flow (Kutta 1901)"),
    "euler": SolverFacts("1", "1", NO, "uniform", FIXED, "Euler on the probability flow (Song et al. 2021)"),
    "ode": SolverFacts(
        *("3 or 5", "1 or adaptive", NO, "logistic", (*FIXED, *TOLERANCES)),
        "the probability flow: unipc with --steps or --times, rk45 without",
    ),
    "rk45": SolverFacts(
        *("5", ADAPTIVE, NO, OWN, TOLERANCES),
        "Dormand & Prince (1980) on the probability flow, a step size for each sample",
    ),
    "scipy": SolverFacts(
        *("8", ADAPTIVE, NO, OWN, ("method", *TOLERANCES)),
        "scipy's solve_ivp (DOP853) on the probability flow, sample by sample; slow, for checks",
    ),
    "ancestral": SolverFacts(
        *("1", "1", YES, "uniform", (*FIXED, "variance")), "Algorithm 2 of Ho et al. (2020), on any grid"
    ),
    "em": SolverFacts(
        *("1", "1", SHARE, "uniform", (*FIXED, "eta")),
        "Euler-Maruyama on the reverse SDE (Song et al. 2021)",
        needs=SIGNAL,
    ),
    "exponential-em": SolverFacts(
        *("1", "1", SHARE, "uniform", (*FIXED, "eta")),
        "Euler-Maruyama with the drift's linear part exact (Lee et al. 2023)",
        needs=SIGNAL,
    ),
    "dpm-sde": SolverFacts(
        *("2", "1", YES, "logistic", (*FIXED, "order")),
        "DPM-Solver++ on the reverse SDE (Lu et al. 2022)",
        orders=(1, 3),
    ),
    "sa": SolverFacts(
        *("2", "1", SHARE, "logistic", (*FIXED, "order", "eta")),
        "SA-Solver: stochastic Adams, predictor and corrector (Xue et al. 2023)",
        orders=(1, 3),
    ),
    "er-sde": SolverFacts(
        *("2", "1", YES, "logistic", (*FIXED, "order")),
        "ER-SDE: multistep, with less noise near the data (Cui et al. 2023)",
        orders=(1, 3),
    ),
    "pc": SolverFacts(
        *("1", "2", YES, "uniform", (*FIXED, "corrections", "snr", "langevin")),
        "reverse diffusion, corrected by Langevin steps (Song et al. 2021)",
    ),
    "adaptive-sde": SolverFacts(
        *("2", ADAPTIVE, YES, OWN, (*TOLERANCES, "eta")),
        "improved Euler on the reverse SDE, a step size for each sample (Jolicoeur-Martineau et al. 2021)",
    ),
    "torchsde": SolverFacts(
        *("1", "1", YES, "uniform", (*FIXED, "method", "eta")),
        "torchsde's methods (euler) on the reverse SDE; for checks (Li et al. 2020)",
        needs=SIGNAL,
    ),
}


def flag(name: str) -> str:
    """The option of a parameter: beta_min -> --beta-min."""
    return "--" + name.replace("_", "-")


def takers(option: str) -> str:
    """The solvers that take an option, as words."""
    return ", ".join(name for name, facts in SOLVERS.items() if option in facts.options)
