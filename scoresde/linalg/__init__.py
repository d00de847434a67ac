"""Operators on batches of samples, and what is known of their structure."""

from scoresde.linalg.base import SVD, LinearOperator, Operator
from scoresde.linalg.checking import check_function, check_operator
from scoresde.linalg.convolution import Convolution
from scoresde.linalg.downsample import Downsample
from scoresde.linalg.fourier import Fourier
from scoresde.linalg.grey import Grey
from scoresde.linalg.hadamard import Hadamard
from scoresde.linalg.kernels import gaussian_kernel, gaussian_taps, motion_kernel
from scoresde.linalg.mask import Mask
from scoresde.linalg.nonlinear import JPEG, Callable, Clip, Gamma, PhaseRetrieval, Quantise
from scoresde.linalg.radon import Radon
from scoresde.linalg.separable import SeparableBlur
from scoresde.linalg.simple import Dense, FromFunctions, Identity

__all__ = [
    "JPEG",
    "SVD",
    "Callable",
    "Clip",
    "Convolution",
    "Dense",
    "Downsample",
    "Fourier",
    "FromFunctions",
    "Gamma",
    "Grey",
    "Hadamard",
    "Identity",
    "LinearOperator",
    "Mask",
    "Operator",
    "PhaseRetrieval",
    "Quantise",
    "Radon",
    "SeparableBlur",
    "check_function",
    "check_operator",
    "gaussian_kernel",
    "gaussian_taps",
    "motion_kernel",
]
