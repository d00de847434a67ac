"""Log-likelihoods of a denoiser by its probability flow, with what they are made of and how sure they are."""

from scoresde.likelihood.converged import Converged, converged_likelihood
from scoresde.likelihood.divergence import Divergence, ExactTrace, Hutchinson, Trace
from scoresde.likelihood.likelihood import FlowLikelihood, flow_likelihood, log_likelihood
from scoresde.likelihood.pixels import Pixels
from scoresde.likelihood.terminal import matched_gaussian

__all__ = [
    "Converged",
    "Divergence",
    "ExactTrace",
    "FlowLikelihood",
    "Hutchinson",
    "Pixels",
    "Trace",
    "converged_likelihood",
    "flow_likelihood",
    "log_likelihood",
    "matched_gaussian",
]
