"""The operators, under the name that users know: `sd.operators.Dense(A)`."""

from scoresde.linalg import SVD, Dense, Identity, LinearOperator, Operator

__all__ = ["SVD", "Dense", "Identity", "LinearOperator", "Operator"]
