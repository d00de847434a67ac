"""`--operator module:function`: a measurement of the user's own, tried, and refused with the figure when wrong."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import torch

from scoresde.linalg import Callable as Function
from scoresde.linalg import Operator, check_function, check_operator
from scoresde_cli import own_code

Shape = tuple[int, ...]
OPTION = "--operator"


@dataclass(frozen=True)
class Own:
    """An operator with what identifies it.

    Args:
        operator: for samples of a shape.
        digest: of the file that it is written in; None when there is none.
    """

    operator: Callable[[Shape], Operator]
    name: str
    digest: str | None

    def checked(self, shape: Shape) -> Operator:
        """The operator, tried on samples of `shape`.

        Raises:
            UsageError: it is wrong; says by how much.
        """
        operator = self.operator(shape)
        try:
            if operator.linear:
                check_operator(operator, shape)
            else:
                check_function(operator, shape)
            operator(torch.zeros(1, *shape))  # samples are float32
        except ValueError as error:
            raise click.UsageError(f"--operator {self.name}: {error}") from error
        except Exception as error:
            raise own_code.failed(OPTION, self.name, error, f" for x of shape {(3, *shape)}") from error
        return operator

    def seen(self, shape: Shape) -> str:
        """The digest of what it makes of one x."""
        x = torch.rand(1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        return own_code.digest(self.operator(shape)(x))


def _declared(function: Any, shape: Shape) -> Operator:
    """A function as an operator: one without a gradient, where autograd does not see through it, as through NumPy.

    It is given x in float64 where it takes no float32, as with a matrix of its own in float64.
    """
    function = _for_float32(function, shape)
    seen = False
    with contextlib.suppress(Exception):  # what is wrong is said by the check
        seen = function(torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)).requires_grad
    return Function(function, differentiable=seen)


def _for_float32(function: Any, shape: Shape) -> Any:
    def answers(dtype: torch.dtype) -> bool:
        with contextlib.suppress(Exception):
            function(torch.zeros(1, *shape, dtype=dtype))
            return True
        return False

    if answers(torch.float32) or not answers(torch.float64):
        return function
    return lambda x: function(x.double()).to(x.dtype)


def load(name: str) -> Own:
    """The operator that MODULE:FUNCTION names.

    Raises:
        UsageError: there is no such thing, it fails, or it returns no operator.
    """
    found = own_code.find(OPTION, name)
    return Own(_operator(name, found.value), name, found.digest)


def _operator(name: str, function: Any) -> Callable[[Shape], Operator]:
    """What the name stands for: an operator, a function that returns one, or the map itself."""
    if isinstance(function, Operator):
        return lambda shape: function
    if not callable(function):
        raise click.UsageError(
            f"--operator {name} is of type {type(function).__name__}; a scoresde Operator or a function is needed"
        )
    if _wants_arguments(function):
        return lambda shape: _declared(function, shape)
    try:
        made = function()
    except Exception as error:
        raise own_code.failed(OPTION, name, error) from error
    if not isinstance(made, Operator):
        raise click.UsageError(
            f"--operator {name} takes no argument, so it must return a scoresde Operator, and returned "
            f"{type(made).__name__}; or let it take x, a batch (B, *), and return the measurement of each"
        )
    return lambda shape: made


def _wants_arguments(function: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # a builtin, such as torch.abs
        return True
    return any(each.kind in kinds and each.default is inspect.Parameter.empty for each in parameters)
