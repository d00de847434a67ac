"""The operators, under the name that users know: `sd.operators.Dense(A)`. They are those of `linalg`."""

from scoresde.linalg import *  # noqa: F403
from scoresde.linalg import __all__ as __all__
