"""The operators, under the name that users know: `sd.operators.Dense(A)`."""

from scoresde.linalg import Dense, Identity, LinearOperator

__all__ = ["Dense", "Identity", "LinearOperator"]
