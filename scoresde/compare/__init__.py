"""Solvers compared: judges and their floors, estimates with intervals, costs, orders, and advice."""

from scoresde.compare.advice import OFF, Row, advise, faults, pareto
from scoresde.compare.along import decided, estimates_along, one_shot
from scoresde.compare.cell import Counted, Drawn, draw
from scoresde.compare.coupled import coupled_ends, fine_solution, noise_law, strong_errors
from scoresde.compare.data_judge import DataJudge, ReferenceJudge
from scoresde.compare.estimate import Estimate, bootstrap, difference, median, over_seeds, ratio
from scoresde.compare.feature_net import FeatureNet, learn_features, read_features, write_features
from scoresde.compare.features import Features, array_features, picture_features
from scoresde.compare.flow import Flow, FlowErrors, exact_denoiser, exact_flow, flow_errors, starts
from scoresde.compare.judge import Judge, Measure
from scoresde.compare.kernels import path_kl, path_kl_by_steps
from scoresde.compare.mixture_judge import MixtureJudge
from scoresde.compare.neighbours import Memorisation, memorisation, nearest
from scoresde.compare.orders import FittedOrder, fitted_order

__all__ = [
    "OFF",
    "Counted",
    "DataJudge",
    "Drawn",
    "Estimate",
    "FeatureNet",
    "Features",
    "FittedOrder",
    "Flow",
    "FlowErrors",
    "Judge",
    "Measure",
    "Memorisation",
    "MixtureJudge",
    "ReferenceJudge",
    "Row",
    "advise",
    "array_features",
    "bootstrap",
    "coupled_ends",
    "decided",
    "difference",
    "draw",
    "estimates_along",
    "exact_denoiser",
    "exact_flow",
    "faults",
    "fine_solution",
    "fitted_order",
    "flow_errors",
    "learn_features",
    "median",
    "memorisation",
    "nearest",
    "noise_law",
    "one_shot",
    "over_seeds",
    "pareto",
    "path_kl",
    "path_kl_by_steps",
    "picture_features",
    "ratio",
    "read_features",
    "starts",
    "strong_errors",
    "write_features",
]
