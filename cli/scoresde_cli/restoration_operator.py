"""`--operator module:function`: a measurement of the user's own, tried, and refused with the figure when wrong."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from scoresde.linalg import Callable as Function
from scoresde.linalg import Operator, check_function, check_operator
from scoresde_cli.options import did_you_mean

Shape = tuple[int, ...]


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
        except ValueError as error:
            raise click.UsageError(f"--operator {self.name}: {error}") from error
        except Exception as error:
            raise _failed(self.name, error, f" for x of shape {(3, *shape)}") from error
        return operator


def _declared(function: Any, shape: Shape) -> Operator:
    """A function as an operator: one without a gradient, where autograd does not see through it, as through NumPy."""
    seen = False
    with contextlib.suppress(Exception):  # what is wrong is said by the check
        seen = function(torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)).requires_grad
    return Function(function, differentiable=seen)


def load(name: str) -> Own:
    """The operator that MODULE:FUNCTION names.

    Raises:
        UsageError: there is no such thing, it fails, or it returns no operator.
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise click.UsageError(f"--operator {name}: write MODULE:FUNCTION, such as mine:project for project in mine.py")
    module = _import(name, module_name)
    function = getattr(module, function_name, None)
    if function is None:
        known = [word for word in vars(module) if not word.startswith("_")]
        raise click.UsageError(
            f"--operator {name}: {module_name} has no {function_name}.{did_you_mean(function_name, known)}"
        )
    file = getattr(module, "__file__", None)
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None
    return Own(_operator(name, function), name, digest)


def _import(name: str, module: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise _failed(name, error) from error
        raise click.UsageError(
            f"--operator {name}: there is no module {module} in {here}, and none installed"
        ) from None
    except Exception as error:
        raise _failed(name, error) from error
    finally:
        sys.path.remove(here)


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
        raise _failed(name, error) from error
    if not isinstance(made, Operator):
        raise click.UsageError(
            f"--operator {name} takes no argument, so it must return a scoresde Operator, and returned "
            f"{type(made).__name__}; or let it take x, a batch (B, *), and return the measurement of each"
        )
    return lambda shape: made


def _wants_arguments(function: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return any(each.kind in kinds and each.default is inspect.Parameter.empty for each in parameters)


def _failed(name: str, error: Exception, when: str = "") -> click.UsageError:
    """Words for an error inside the user's code: what, and in which line."""
    trace = error.__traceback__
    line = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if Path(file).parent == Path.cwd():
            line = f" in {Path(file).name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return click.UsageError(f"--operator {name} fails{when}{line}: {type(error).__name__}: {error}")
