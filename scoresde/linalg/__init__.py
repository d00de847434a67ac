"""Operators on batches of samples, and what is known of their structure."""

from scoresde.linalg.base import SVD, LinearOperator, Operator
from scoresde.linalg.simple import Dense, Identity

__all__ = ["SVD", "Dense", "Identity", "LinearOperator", "Operator"]
