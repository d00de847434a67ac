"""Other packages' samplers and ours behind one call: the same model, start, budget and search of grids.

No peer is a dependency, and what is not found is named and left out: diffusers, azula and torchdiffeq from PyPI (azula
with `pip install --no-deps azula`, and einops: it names torchvision, which no sampler of its needs); k-diffusion's
`sampling.py` at K_DIFFUSION_SAMPLING=PATH or as the module `k_diffusion_sampling`; the authors' `er_sde_solver.py` at
ER_SDE_SOLVER=PATH or as the module `er_sde_solver`.

A level is named by its noise-to-signal ratio r = sigma / alpha, which every process here has: a peer's state is our x,
of unit power, or x / alpha = x sqrt(1 + r^2).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import itertools
import math
import os
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import scoresde as sd

SDE = sd.VP()
TOP = math.exp(-0.5 * float(SDE.log_snr(1.0)))  # r at t = 1
CHAIN_STEPS = 1000
CHAIN_END = math.exp(-0.5 * float(SDE.log_snr(1.0 / CHAIN_STEPS)))  # r at the chain's first step
AZULA_END = 1e-3  # sigma_min of azula's own schedules
LOWEST = (0.01, 0.003, 0.03, 0.05, 0.1, 0.2)
SEARCH = (
    *(f"rho {rho} {low}" for rho, low in itertools.product((7, 3, 5, 10), LOWEST)),
    *(f"log {low}" for low in LOWEST),
    "uniform",
    "quadratic",
)


@dataclass(frozen=True)
class Peer:
    """One sampler of another package.

    Attributes:
        settings: grids that it may be tuned over; the first is its usual default.
        sample: (denoiser, x1 (N, D), evaluations, setting, seed) -> x0, in no more network calls than `evaluations`.
    """

    name: str
    stochastic: bool
    settings: tuple[str, ...]
    sample: Callable[[sd.Denoiser, Tensor, int, str, int], Tensor]


class Network:
    """An exact denoiser asked by r: a tensor of equal ones, or a function that says it. A call too many is an error."""

    def __init__(self, denoiser: sd.Denoiser, budget: int) -> None:
        self.denoiser, self.left = denoiser, budget

    def _time(self, r: Any) -> float:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the sampler calls the network more often than its budget")
        r = torch.as_tensor(r() if callable(r) else r, dtype=torch.float64).flatten()[0]
        return float(self.denoiser.sde.time_of_log_snr(-2.0 * torch.log(r)))

    def x0(self, x: Tensor, r: Any) -> Tensor:
        return self.denoiser.x0(x, self._time(r))

    def eps(self, x: Tensor, r: Any) -> Tensor:
        return self.denoiser.eps(x, self._time(r))

    def velocity(self, x: Tensor, r: Any) -> Tensor:
        """dx / dphi of the probability flow, phi = atan(r)."""
        return self.denoiser.velocity(x, self._time(r))

    def x0_scaled(self, y: Tensor, r: Any) -> Tensor:
        """E[x0 | y] for y = x / alpha."""
        r = torch.as_tensor(r).flatten()[0]
        return self.x0(y / (1.0 + r**2) ** 0.5, r)


Drive = Callable[[Any, Tensor, int, str], Tensor]  # (network, x1, evaluations, setting) -> x0
Row = tuple[str, bool, tuple[str, ...], Drive]  # a Peer but for the network


def ratios(setting: str, n: int, end: float = 0.0) -> Tensor:
    """n falling r from t = 1, and `end` behind them: (n + 1,).

    "rho 7 0.01": Karras et al. 2022, eq. 5, "log 0.01": uniform in log r, both down to 0.01; "uniform", "quadratic":
    in t; "angle": uniform in atan(r).
    """
    kind, *numbers = setting.split()
    ramp = torch.linspace(0.0, 1.0, n, dtype=torch.float64)
    if kind == "rho":
        rho, low = map(float, numbers)
        r = (TOP ** (1 / rho) + ramp * (low ** (1 / rho) - TOP ** (1 / rho))) ** rho
    elif kind == "log":
        r = TOP * (float(numbers[0]) / TOP) ** ramp
    elif kind == "angle":
        r = torch.tan(math.atan(TOP) * sd.grids.uniform(n)[:-1])
    else:
        grid = {"uniform": sd.grids.uniform, "quadratic": sd.grids.quadratic}[kind]
        r = torch.exp(-0.5 * SDE.log_snr(grid(n)[:-1]))
    return torch.cat([r, torch.tensor([end], dtype=torch.float64)])


def above(end: float) -> tuple[str, ...]:
    """The settings of SEARCH that stay above `end`."""
    return tuple(s for s in SEARCH if s[-1].isalpha() or float(s.split()[-1]) > 1.01 * end)


# --- ours ----------------------------------------------------------------------------------------------

OURS: dict[str, Any] = {
    "UniPC-3": sd.solvers.UniPC(),
    "UniPC-2": sd.solvers.UniPC(2),
    "DPM-3": sd.solvers.DPMSolver(3),
    "DPM-2": sd.solvers.DPMSolver(2),
    "AB-4": sd.solvers.AdamsBashforth(4),
    "AB-3": sd.solvers.AdamsBashforth(3),
    "AB-2": sd.solvers.AdamsBashforth(2),
    "RK4": sd.solvers.RK4(),
    "Heun": sd.solvers.Heun(),
    "DDIM": sd.solvers.DDIM(),
    "ER-SDE": sd.solvers.ERSDE(),
    "SA": sd.solvers.SASolver(),
    "SA eta 0.5": sd.solvers.SASolver(eta=0.5),
    "DPM-2 SDE": sd.solvers.DPMSolver(2, sde=True),
    "Ancestral": sd.solvers.Ancestral(),
    "Euler-Maruyama": sd.solvers.EulerMaruyama(),
}
FAMILY = tuple(f"logistic {c} {s}" for c, s in itertools.product((0.4, 0.7, 1.0), (1.0, 1.3, 1.6, 2.0)))


def scoresde_rows() -> list[Row]:
    """Each on its own grid, on the family of the default one, on the search of the peers, and on a fitted one."""

    def drive(solver: Any, network: Any, x1: Tensor, evaluations: int, setting: str) -> Tensor:
        n = evaluations // solver.evaluations
        kind, *numbers = setting.split()
        if kind == "own":
            times = sd.grids.GRIDS[solver.grid](SDE, n, math.inf)
        elif kind == "tuned":
            times = sd.tune_grid(network.denoiser, solver, n).times if n > 1 else sd.grids.uniform(n)
        elif kind == "logistic":
            centre, spread = map(float, numbers)
            times = sd.grids.logistic(SDE, n, centre=centre, spread=spread)
        else:
            ladder = ratios(setting, n)[:-1]
            times = torch.cat([SDE.time_of_log_snr(-2.0 * torch.log(ladder)), torch.zeros(1).double()])
            times[0] = 1.0
        seed = torch.initial_seed()
        return sd.sample(network.denoiser, solver, times=times, x1=x1, seed=seed)

    def settings(solver: Any) -> tuple[str, ...]:
        fitted = ("tuned",) if solver.evaluations == 1 and not solver.stochastic else ()
        return ("own", *fitted, *FAMILY, *SEARCH)

    return [(f"scoresde {k}", s.stochastic, settings(s), functools.partial(drive, s)) for k, s in OURS.items()]


# --- diffusers -----------------------------------------------------------------------------------------

# name: (scheduler, options, stochastic, what ends a ladder of ours: as it ends its own; None: chain indices only)
SCHEDULERS: dict[str, tuple[str, dict[str, Any], bool, float | None]] = {
    "DDIM": ("DDIM", {"clip_sample": False}, False, None),
    "Euler": ("EulerDiscrete", {}, False, 0.0),
    "Heun": ("HeunDiscrete", {}, False, 0.0),
    "LMS": ("LMSDiscrete", {}, False, 0.0),
    "DPM++2M": ("DPMSolverMultistep", {}, False, 0.0),
    "DPM++2M heun": ("DPMSolverMultistep", {"solver_type": "heun"}, False, 0.0),
    "DPM++3M": ("DPMSolverMultistep", {"solver_order": 3}, False, 0.0),
    "DPM++2S": ("DPMSolverSinglestep", {}, False, 0.0),
    "DPM++3S": ("DPMSolverSinglestep", {"solver_order": 3}, False, 0.0),
    "UniPC-2": ("UniPCMultistep", {}, False, 0.0),
    "UniPC-3": ("UniPCMultistep", {"solver_order": 3}, False, 0.0),
    "DEIS-2": ("DEISMultistep", {}, False, CHAIN_END),
    "DEIS-3": ("DEISMultistep", {"solver_order": 3}, False, CHAIN_END),
    "DDPM": ("DDPM", {"clip_sample": False}, True, None),
    "EulerAncestral": ("EulerAncestralDiscrete", {}, True, 0.0),
    "DPM++2M SDE": ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}, True, 0.0),
    "DPM++2M SDE heun": ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, True, 0.0),
    "SASolver": ("SASolver", {}, True, CHAIN_END),
}
SPACINGS = ("linspace", "trailing", "leading")
FLAGS = {key: f"use_{key}_sigmas" for key in ("karras", "exponential", "beta")} | {"lu": "use_lu_lambdas"}


def diffusers_rows() -> list[Row]:
    diffusers = importlib.import_module("diffusers")
    diffusers.logging.set_verbosity_error()
    chain = sd.DDPM.from_sde(SDE, sd.grids.uniform(CHAIN_STEPS))  # index k is t = (k + 1) / 1000

    @functools.cache
    def make(name: str, setting: str) -> Any:
        kind, options, _, _ = SCHEDULERS[name]
        config = options | {"num_train_timesteps": CHAIN_STEPS, "trained_betas": chain.beta[1:].tolist()}
        config |= {FLAGS[setting]: True} if setting in FLAGS else {}
        config |= {"timestep_spacing": setting} if setting in SPACINGS and "timestep_spacing" in known(kind) else {}
        scheduler = getattr(diffusers, f"{kind}Scheduler")(**config)
        scheduler.alphas_cumprod = chain.alpha_bar[1:]  # theirs is float32, so that 1 - abar is off by 6e-4 at k = 0
        return scheduler

    def known(kind: str) -> Any:
        return inspect.signature(getattr(diffusers, f"{kind}Scheduler")).parameters

    def ratio(scheduler: Any, k: Tensor) -> Tensor:
        if hasattr(scheduler, "sigmas"):
            return scheduler.sigmas[scheduler.step_index or 0]
        return (1.0 / scheduler.alphas_cumprod[k] - 1.0).sqrt()

    def put(scheduler: Any, r: Tensor) -> None:
        """A ladder of ours in the place of the scheduler's own."""
        if len(scheduler.timesteps) > len(r) - 1:  # Heun's keeps each inner level twice
            r = torch.cat([r[:1], r[1:-1].repeat_interleave(2), r[-1:]])
        k = CHAIN_STEPS * SDE.time_of_log_snr(-2.0 * torch.log(r[:-1])) - 1.0
        like = scheduler.timesteps
        scheduler.sigmas, scheduler.timesteps = r, (k if like.is_floating_point() else k.round()).to(like)

    def drive(name: str, network: Any, x: Tensor, evaluations: int, setting: str) -> Tensor:
        scheduler = make(name, setting)
        scheduler.set_timesteps(n := (evaluations + 1) // 2 if name == "Heun" else evaluations)
        if hasattr(scheduler, "sigmas"):
            scheduler.set_begin_index(0)
            scheduler.sigmas = scheduler.sigmas.double()
            if setting in SEARCH:
                put(scheduler, ratios(setting, n, SCHEDULERS[name][3]))
            if float(scheduler.init_noise_sigma) > 1:  # works on x / alpha
                x = x * (1.0 + scheduler.sigmas[0] ** 2).sqrt()
        for k in scheduler.timesteps:
            scaled = scheduler.scale_model_input(x, k)
            eps = network.eps(scaled, functools.partial(ratio, scheduler, k))
            x = scheduler.step(eps, k, x).prev_sample
        return x

    rows: list[Row] = []
    for name, (kind, _, stochastic, end) in SCHEDULERS.items():
        spaced = "timestep_spacing" in known(kind)
        usual = known(kind)["timestep_spacing"].default if spaced else "linspace"
        own = (usual, *(SPACINGS if spaced else ()), *(key for key, flag in FLAGS.items() if flag in known(kind)))
        settings = (*dict.fromkeys(own), *(() if end is None else above(end)))
        rows.append((f"diffusers {name}", stochastic, settings, functools.partial(drive, name)))
    return rows


# --- k-diffusion and ER-SDE, each one file -------------------------------------------------------------

STUBS: dict[str, dict[str, Any]] = {  # what k-diffusion's file imports, where it is not installed
    "torchdiffeq": {"odeint": None},
    "tqdm": {},
    "tqdm.auto": {"trange": lambda n, disable=None: range(n), "tqdm": None},
    "_k_diffusion": {"__path__": []},
    "_k_diffusion.utils": {"append_dims": lambda x, dims: x[(..., *(None,) * (dims - x.ndim))]},
}
K_ODE = ("euler", "heun", "lms", "dpm_2", "dpmpp_2m")
K_TWICE = (
    "heun",
    "dpm_2",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
)  # network calls a step, but for the last
K_SDE = ("euler_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")


@functools.cache
def from_file(variable: str, module: str, name: str) -> ModuleType:
    """The file that the environment variable, or else Python's path for `module`, leads to; ImportError if none."""
    found = importlib.util.find_spec(module)
    path = os.environ.get(variable) or (found.origin if found else None)
    if path is None or not os.path.exists(path):
        raise ImportError(f"{module}: set {variable} to the path of the file")
    stubs = [key for key in STUBS if importlib.util.find_spec(key.split(".")[0]) is None]
    for key in stubs:
        sys.modules[key] = types.ModuleType(key)
        vars(sys.modules[key]).update(STUBS[key])
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    finally:
        for key in stubs:
            del sys.modules[key]
    return loaded


def k_diffusion_rows() -> list[Row]:
    module = from_file("K_DIFFUSION_SAMPLING", "k_diffusion_sampling", "_k_diffusion.sampling")

    def drive(key: str, network: Any, x1: Tensor, evaluations: int, setting: str) -> Tensor:
        sigmas = ratios(setting, (evaluations + 1) // 2 if key in K_TWICE else evaluations)
        y = x1 * (1.0 + sigmas[0] ** 2).sqrt()
        with warnings.catch_warnings():  # its Brownian tree rounds its ends to float32
            warnings.simplefilter("ignore")
            return getattr(module, f"sample_{key}")(network.x0_scaled, y, sigmas, disable=True)

    return [(f"k-diffusion {key}", key in K_SDE, SEARCH, functools.partial(drive, key)) for key in K_ODE + K_SDE]


def er_sde_rows() -> list[Row]:
    module = from_file("ER_SDE_SOLVER", "er_sde_solver", "er_sde_solver")
    solver = module.ER_SDE_Solver(sde_type="ve", model_prediction_type="x_start")

    def drive(network: Any, x1: Tensor, evaluations: int, setting: str) -> Tensor:
        sigmas = ratios(setting, evaluations)
        return solver.ve_3_order_taylor(network.x0_scaled, x1 * (1.0 + sigmas[0] ** 2).sqrt(), sigmas, sigmas)

    return [("ER-SDE-3", True, SEARCH, drive)]


# --- azula, torchdiffeq --------------------------------------------------------------------------------

# name: (class, options, stochastic, network calls a step)
AZULA: dict[str, tuple[str, dict[str, Any], bool, int]] = {
    "DDIM": ("DDIMSampler", {}, False, 1),
    "Euler": ("EulerSampler", {}, False, 1),
    "Heun": ("HeunSampler", {}, False, 2),
    "DDPM": ("DDPMSampler", {}, True, 1),
    "Ito": ("ItoSampler", {}, True, 1),
    "PC": ("PCSampler", {}, True, 2),
}
for _kind, _order in itertools.product(("zAB", "vAB", "zEAB", "xEAB", "REAB"), (2, 3)):
    AZULA[f"{_kind}-{_order}"] = (f"{_kind}Sampler", {"order": _order}, False, 1)
FIXED_STEP = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}  # network calls a step


def azula_rows() -> list[Row]:
    """Their time is the place in our ladder; it ends where their schedules do."""
    module = importlib.import_module("azula.sample")

    def drive(key: str, network: Any, x1: Tensor, evaluations: int, setting: str) -> Tensor:
        kind, options, _, calls = AZULA[key]
        n = evaluations // calls
        r = ratios(setting, n, AZULA_END)
        alpha = (1.0 + r**2).rsqrt()
        sigma = r * alpha

        class Exact:
            def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
                i = torch.round(n * (1.0 - t)).long()
                return alpha[i], sigma[i]

            def __call__(self, x: Tensor, t: Tensor) -> SimpleNamespace:
                return SimpleNamespace(mean=network.x0(x, lambda: r[torch.round(n * (1.0 - t)).long()]))

        return getattr(module, kind)(Exact(), steps=n, silent=True, dtype=torch.float64, **options)(x1)

    settings = tuple(dict.fromkeys(("uniform", *above(AZULA_END))))
    return [(f"azula {key}", row[2], settings, functools.partial(drive, key)) for key, row in AZULA.items()]


def torchdiffeq_rows() -> list[Row]:
    """On x by the angle phi = atan(r), where the flow is bounded; the ladder's points are the steps."""
    odeint = importlib.import_module("torchdiffeq").odeint

    def drive(method: str, network: Any, x1: Tensor, evaluations: int, setting: str) -> Tensor:
        phi = torch.atan(ratios(setting, evaluations // FIXED_STEP[method]))
        return odeint(lambda p, x: network.velocity(x, lambda: torch.tan(p)), x1, phi, method=method)[-1]

    settings = ("angle", *SEARCH)
    return [(f"torchdiffeq {m}", False, settings, functools.partial(drive, m)) for m in FIXED_STEP]


# --- what the other scripts use ------------------------------------------------------------------------

PACKAGES: dict[str, Callable[[], list[Row]]] = {
    "scoresde": scoresde_rows,
    "diffusers": diffusers_rows,
    "k-diffusion": k_diffusion_rows,
    "ER-SDE-Solver": er_sde_rows,
    "azula": azula_rows,
    "torchdiffeq": torchdiffeq_rows,
}


@functools.cache
def _found() -> dict[str, list[Row]]:
    found = {}
    for name, rows in PACKAGES.items():
        try:
            found[name] = rows()
        except ImportError:
            continue
    return found


def _exact(drive: Drive, denoiser: sd.Denoiser, x1: Tensor, evaluations: int, setting: str, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # most of them draw from torch's global generator
        torch.manual_seed(seed)
        return drive(Network(denoiser, evaluations), x1, evaluations, setting)


def available() -> list[Peer]:
    """Every sampler of every package found."""
    return [Peer(*row[:3], functools.partial(_exact, row[3])) for rows in _found().values() for row in rows]


def missing() -> list[str]:
    """The packages not found."""
    return [name for name in PACKAGES if name not in _found()]


def overhead_rows(state: Tensor) -> dict[str, Callable[[int], None]]:
    """By sampler, a function of the number of evaluations that runs it from `state` with a network that costs nothing.

    Schedulers are made at its first call; a run's own set-up (its grid, a Brownian motion) is in it.
    """
    fixed = torch.randn_like(state)
    free = SimpleNamespace(**dict.fromkeys(("x0", "eps", "velocity", "x0_scaled"), lambda x, r: fixed))

    def run(drive: Drive, setting: str, n: int) -> None:
        with torch.no_grad():
            drive(free, state, n, setting)

    rows = {
        r[0]: functools.partial(run, r[3], r[2][0]) for key, own in _found().items() if key != "scoresde" for r in own
    }
    return rows | {"torchsde euler": functools.partial(_torchsde_euler, state.flatten(1), fixed.flatten(1))}


def _torchsde_euler(x1: Tensor, eps: Tensor, n: int) -> None:
    """Euler-Maruyama on the reverse SDE in u = 1 - t, with torchsde's default Brownian motion."""
    import torchsde

    class ReverseVP:
        noise_type, sde_type = "diagonal", "ito"

        def f(self, u: Tensor, x: Tensor) -> Tensor:
            level = SDE.at(max(1.0 - float(u), 1e-5))
            return level.g2 * (0.5 * x - eps / level.sigma)  # f = -g^2 / 2 for VP

        def g(self, u: Tensor, x: Tensor) -> Tensor:
            return torch.full_like(x, SDE.at(max(1.0 - float(u), 1e-5)).g2 ** 0.5)

    torchsde.sdeint(ReverseVP(), x1, torch.tensor([0.0, 1.0]), dt=1.0 / n, method="euler")
