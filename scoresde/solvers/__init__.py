"""Solvers: one method a file, its order declared beside it and measured in the tests."""

from scoresde.solvers.adams_bashforth import AdamsBashforth
from scoresde.solvers.adaptive_sde import AdaptiveSDE
from scoresde.solvers.ancestral import Ancestral
from scoresde.solvers.base import Draw, Solver, State
from scoresde.solvers.ddim import DDIM
from scoresde.solvers.dpm_solver import DPMSolver
from scoresde.solvers.er_sde import ERSDE
from scoresde.solvers.euler import Euler
from scoresde.solvers.euler_maruyama import EulerMaruyama
from scoresde.solvers.exponential_euler import ExponentialEuler
from scoresde.solvers.heun import Heun
from scoresde.solvers.predictor_corrector import PredictorCorrector
from scoresde.solvers.rk4 import RK4
from scoresde.solvers.rk45 import RK45
from scoresde.solvers.sa_solver import SASolver
from scoresde.solvers.scipy import Scipy
from scoresde.solvers.torchsde import TorchSDE
from scoresde.solvers.unipc import UniPC

__all__ = [
    "DDIM",
    "ERSDE",
    "RK4",
    "RK45",
    "AdamsBashforth",
    "AdaptiveSDE",
    "Ancestral",
    "DPMSolver",
    "Draw",
    "Euler",
    "EulerMaruyama",
    "ExponentialEuler",
    "Heun",
    "PredictorCorrector",
    "SASolver",
    "Scipy",
    "Solver",
    "State",
    "TorchSDE",
    "UniPC",
]
