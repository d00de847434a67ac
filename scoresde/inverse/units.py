r"""The units of users and those of models: u = scale x + offset.

Users speak of pictures u on the [0, 1] scale of their file, and of noise on that scale; models see x = 2 u - 1. Arrays
are standardised: x = (u - mean) / std. What was measured is y = A(u) + noise_std z, and for a linear A

    A(u) = scale A(x) + A(offset 1),   so that   (y - A(offset 1)) / scale = A(x) + (noise_std / scale) z

is a measurement of x by the same operator, whose structure methods may use. Any other A keeps y and noise_std, and is
asked at scale x + offset.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scoresde.inverse.measurement import GaussianMeasurement
from scoresde.linalg import Operator
from scoresde.linalg.base import Shape


@dataclass(frozen=True)
class Units:
    """u = scale x + offset, x as the model sees it and u as the user does.

    Args:
        scale, offset: 0.5 and 0.5 for pictures, std and mean for arrays.

    Raises:
        ValueError: a scale that is not positive, or values that are not finite.
    """

    scale: float = 1.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale = {self.scale}; it must be positive and finite")
        if not math.isfinite(self.offset):
            raise ValueError(f"offset = {self.offset}; it must be finite")

    def to_model(self, u: Tensor) -> Tensor:
        """x = (u - offset) / scale."""
        return (u - self.offset) / self.scale

    def to_user(self, x: Tensor) -> Tensor:
        """u = scale x + offset."""
        return self.scale * x + self.offset

    def measurement(self, operator: Operator, noise_std: float | Tensor, shape: Shape) -> ModelMeasurement:
        """y = operator(u) + noise_std z, as a measurement of x.

        Args:
            operator, noise_std: in the user's units.
            shape: of one x.

        Raises:
            ValueError: as for `GaussianMeasurement`; a shape that the operator does not take.
        """
        given = GaussianMeasurement(operator, noise_std)  # refuses a noise_std in the user's words
        constant = operator(torch.full((1, *shape), self.offset, dtype=torch.float64))[0]
        if not operator.linear:
            return ModelMeasurement(replace(given, operator=operator @ ToUser(self)))
        noise = given.std(constant) / self.scale  # float64, whatever it was given in
        return ModelMeasurement(replace(given, noise_std=noise), self.scale, constant)


PICTURES = Units(0.5, 0.5)
"""Pictures: [0, 1] for users, [-1, 1] for models."""


NO_OFFSET = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class ModelMeasurement:
    """A measurement of x, with the way between its y and the user's: y_user = scale y_model + offset.

    Args:
        measurement: of x in the model's units.
        scale: 1 for an operator that is not linear.
        offset: one measurement, (*), or () when there is none.
    """

    measurement: GaussianMeasurement
    scale: float = 1.0
    offset: Tensor = NO_OFFSET

    def to_model(self, y: Tensor) -> Tensor:
        """y in the model's units, (B, *) or (*)."""
        return (y - self.offset.to(y)) / self.scale

    def to_user(self, y: Tensor) -> Tensor:
        """y in the user's units, (B, *) or (*)."""
        return self.scale * y + self.offset.to(y)


@dataclass(frozen=True)
class ToUser(Operator):
    """x -> scale x + offset."""

    units: Units

    def __call__(self, x: Tensor) -> Tensor:
        return self.units.to_user(x)

    def pullback(self, x: Tensor, v: Tensor) -> Tensor:
        return self.units.scale * v
