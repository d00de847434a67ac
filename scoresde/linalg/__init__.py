"""Linear operators."""

from scoresde.linalg.operators import Dense, Identity, LinearOperator

__all__ = ["Dense", "Identity", "LinearOperator"]
