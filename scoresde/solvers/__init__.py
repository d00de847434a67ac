"""Solvers: one method a file, its order declared beside it and measured in the tests."""

from scoresde.solvers.ancestral import Ancestral
from scoresde.solvers.base import Draw, Solver, State
from scoresde.solvers.ddim import DDIM
from scoresde.solvers.euler import Euler
from scoresde.solvers.euler_maruyama import EulerMaruyama
from scoresde.solvers.heun import Heun
from scoresde.solvers.rk45 import RK45

__all__ = ["DDIM", "RK45", "Ancestral", "Draw", "Euler", "EulerMaruyama", "Heun", "Solver", "State"]
