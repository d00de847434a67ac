"""The names that options accept, without torch, so that a help text is instant. The tests hold them to the library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
GRIDS = ("uniform", "logistic", "geometric", "quadratic", "log-snr", "karras", "leading", "trailing", "linspace")
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


# --- compare -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """What `scoresde compare` compares by default; lists as people write them."""

    solvers: str
    steps: str
    tolerances: str
    n: int
    seeds: str
    batch_size: int


COMPARE_MIXTURE = Comparison(
    "ancestral,em,er-sde,sa,ddim,heun,dpm,unipc,ode", "5,10,20,50,100,250,1000", "1e-2,1e-3,1e-4", 2000, "0-4", 1000
)
COMPARE_RUN = Comparison("ancestral,em,er-sde,ddim,unipc,ode", "5,10,20,50,100", "1e-2,1e-3,1e-4", 100, "0-4", 100)


# --- likelihood ----------------------------------------------------------------------------------------

OPTIMAL = "optimal"
BOUND_VARIANCES = (*VARIANCES, OPTIMAL)
AUTO, EXACT_TRACE, HUTCHINSON = "auto", "exact", "hutchinson"
TRACES = (AUTO, EXACT_TRACE, HUTCHINSON)


@dataclass(frozen=True)
class Judgement:
    """What `scoresde likelihood` computes by default."""

    n: int
    chain_steps: int
    trajectories: int
    batch_size: int
    dequantise: int = 4


LIKELIHOOD_MIXTURE = Judgement(n=500, chain_steps=1000, trajectories=8, batch_size=2000)
LIKELIHOOD_RUN = Judgement(n=64, chain_steps=250, trajectories=4, batch_size=64)


# --- restore -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MethodFacts:
    """What the table of methods of `scoresde restore` says of one of them.

    Args:
        cls: its name in the library.
        operators: that it is for: the identity, a mask, linear ones, linear ones with an SVD, or any.
        evaluations, gradients: of the network, in a step.
        exact: the limit in which its draws have the law of x given y; empty when there is none.
        tuning: that it needs.
        about: the method and its source, in a few words.
        solver: takes --solver.
        steps: by default.
        interacting: its samples are made together.
        particles, twist: takes --particles, --twist.
    """

    cls: str
    operators: str
    evaluations: str
    gradients: str
    exact: str
    tuning: str
    about: str
    solver: bool = False
    steps: int = DEFAULT_STEPS
    interacting: bool = False
    particles: bool = False
    twist: bool = False


IDENTITY, MASK, LINEAR, SPECTRAL, ANY = "identity", "mask", "linear", "SVD", "any"
NO_TUNING = "none"

MANY = "many particles and steps"

METHODS: dict[str, MethodFacts] = {
    "mmps": MethodFacts(
        *("MMPS", LINEAR, "1", "up to 8", "", NO_TUNING),
        "the whole covariance of x0 given x_t, by gradients (Rozet et al. 2024); exact for Gaussian priors",
        solver=True,
    ),
    "pigdm": MethodFacts(
        *("PiGDM", LINEAR, "1", "1", "", NO_TUNING),
        "one variance for all of x0 given x_t (Song et al. 2023); exact for priors N(m, s^2 I)",
        solver=True,
    ),
    "tmpd": MethodFacts(
        *("TMPD", LINEAR, "1", "2", "", NO_TUNING),
        "a variance of x0 given x_t for each entry of y (Boys et al. 2023)",
        solver=True,
    ),
    "dps": MethodFacts(
        *("DPS", ANY, "1", "1", "", NO_TUNING),
        "up the likelihood of x0 given x_t, no further than its spread (Chung et al. 2023, with a bounded step)",
        solver=True,
    ),
    "measurement-sde": MethodFacts(
        *("MeasurementSDE", IDENTITY, "1", NO, "many steps", NO_TUNING),
        "reverse diffusion of the measurement itself, for noise alone (Anderson 1982)",
        steps=50,
    ),
    "repaint": MethodFacts(
        *("RePaint", MASK, "10", NO, "", NO_TUNING),
        "what is seen is replaced in each step, and the rest resampled to fit (Lugmayr et al. 2022)",
    ),
    "ddrm": MethodFacts(
        *("DDRM", SPECTRAL, "1", NO, "", NO_TUNING),
        "each coordinate of the SVD of A goes its own way from noise to data (Kawar et al. 2022)",
    ),
    "ddnm": MethodFacts(
        *("DDNM", SPECTRAL, "3", NO, "", NO_TUNING),
        "DDNM+: what A sees of x0 given x_t is put right in each step (Wang et al. 2023)",
    ),
    "diffpir": MethodFacts(
        *("DiffPIR", ANY, "1", NO, "", "weight of the prior"),
        "denoises and steps towards y in turn; x0 given x_t and y is a point, not a draw (Zhu et al. 2023)",
    ),
    "reddiff": MethodFacts(
        *("REDDiff", ANY, "1", NO, "", "weight of the prior, rate"),
        "RED-diff: looks for one likely x with the denoiser as regulariser; no sampler (Mardani et al. 2024)",
    ),
    "daps": MethodFacts(
        *("DAPS", ANY, "5", NO, "", NO_TUNING),
        "draws x0 anew at each noise level, as if Gaussian given x_t (Zhang et al. 2024)",
    ),
    "split-gibbs": MethodFacts(
        *("SplitGibbs", ANY, "8", NO, "r_min to 0, and many sweeps", NO_TUNING),
        "x and a copy of it that takes the likelihood, drawn in turn; a step is a sweep (Coeurdoux et al. 2024)",
    ),
    "mcgdiff": MethodFacts(
        *("MCGDiff", SPECTRAL, "1 a particle", NO, MANY, NO_TUNING),
        "particles led by a noised copy of y, on the SVD of A (Cardoso et al. 2024)",
        interacting=True,
        particles=True,
    ),
    "twisted-smc": MethodFacts(
        *("TwistedSMC", SPECTRAL, "1 a particle", "of the twist", MANY, NO_TUNING),
        "particles steered by a guided method, --twist, and weighed (Wu et al. 2023)",
        interacting=True,
        particles=True,
        twist=True,
    ),
}
"""Each is the class `cls` in the module of that name in `scoresde.inverse`, with _ for -."""


@dataclass(frozen=True)
class TaskFacts:
    """A task of `scoresde restore`.

    Args:
        about: what was done to the picture.
        options: that it takes, of those that not all take; needs: of these, those that must be given.
    """

    about: str
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


TASKS: dict[str, TaskFacts] = {
    "denoise": TaskFacts("noise alone"),
    "inpaint": TaskFacts("parts are missing", ("mask", "keep", "text"), ("mask",)),
    "deblur": TaskFacts("a blur", ("kernel", "kernel_std", "boundary")),
    "motion-deblur": TaskFacts("a blur by straight movement", ("length", "angle", "boundary")),
    "superres": TaskFacts("made smaller", ("scale", "shrink")),
    "colourise": TaskFacts("made grey"),
    "dejpeg": TaskFacts("saved as JPEG", ("quality",)),
    "dequantise": TaskFacts("rounded to a few levels", ("levels",)),
    "hdr": TaskFacts("contrast raised, and cut at black and white", ("gain",)),
}
NOT_LINEAR = ("dejpeg", "dequantise", "hdr")
FITTING: dict[str, tuple[str, ...]] = {
    IDENTITY: ("denoise",),
    MASK: ("denoise", "inpaint"),
    **{kind: tuple(task for task in TASKS if task not in NOT_LINEAR) for kind in (LINEAR, SPECTRAL)},
    ANY: tuple(TASKS),
}
"""The tasks that a method for such operators restores."""
MASKS, MASKS_OF_A_SHARE = ("box", "random", "text"), ("box", "random")
KERNELS = ("gaussian",)
BOUNDARIES = ("circular", "reflect", "zero")
SHRINKS = ("average", "bicubic")
KEEP = {"box": 0.75, "random": 0.5}
TASK_DEFAULTS: dict[str, Any] = {
    "text": "scoresde",
    "kernel": "gaussian",
    "kernel_std": 1.5,
    "boundary": "circular",
    "length": 7.0,
    "angle": 0.0,
    "scale": 2,
    "shrink": "average",
    "quality": 10,
    "levels": 4,
    "gain": 2.0,
}

DEFAULT_METHOD_LINEAR, DEFAULT_METHOD_ANY, DEFAULT_METHOD_NO_GRADIENT = "mmps", "dps", "split-gibbs"
DEFAULT_METHODS: dict[str, str] = {
    **{task: DEFAULT_METHOD_ANY if task in NOT_LINEAR else DEFAULT_METHOD_LINEAR for task in TASKS},
    "denoise": "measurement-sde",
    "hdr": "split-gibbs",  # where it is cut off there is no gradient
}
"""By task; for --operator it is one of the three by whether that is linear, or has a gradient."""
SIMULATED_SIGMA = 0.05
DRAWS = 8
PARTICLES = 64
TWISTS = ("mmps", "pigdm", "tmpd")
MMPS_AT_MOST = 64
"""Entries of y for which mmps steers particles: it takes a network gradient for each."""


def flag(name: str) -> str:
    """The option of a parameter: beta_min -> --beta-min."""
    return "--" + name.replace("_", "-")


def takers(option: str) -> str:
    """The solvers that take an option, as words."""
    return ", ".join(name for name, facts in SOLVERS.items() if option in facts.options)


def of_tasks(option: str) -> str:
    """The tasks that take an option, as words."""
    return ", ".join(name for name, facts in TASKS.items() if option in facts.options)


def guided() -> str:
    """The methods that take --solver, as words."""
    return ", ".join(name for name, facts in METHODS.items() if facts.solver)


def with_twist() -> str:
    """The methods that take --twist, as words."""
    return ", ".join(name for name, facts in METHODS.items() if facts.twist)


def with_particles() -> str:
    """The methods that take --particles, as words."""
    return ", ".join(name for name, facts in METHODS.items() if facts.particles)


def default_methods() -> str:
    """Which method is the default for what, as words."""
    of: dict[str, list[str]] = {}
    for task, method in DEFAULT_METHODS.items():
        of.setdefault(method, []).append(task)
    of[DEFAULT_METHOD_ANY].append("an --operator that is not linear")
    of[DEFAULT_METHOD_NO_GRADIENT].append("an --operator without a gradient")
    del of[DEFAULT_METHOD_LINEAR]
    return "; ".join([DEFAULT_METHOD_LINEAR, *(f"{method} for {', '.join(what)}" for method, what in of.items())])
