"""MODULE:FUNCTION on the command line: the user's own code, found where the command runs, or in words why not."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from torch import Tensor

from scoresde_cli.options import did_you_mean


@dataclass(frozen=True)
class Found:
    """What a name stands for.

    Args:
        digest: of the file that it is written in; None when there is none.
    """

    value: Any
    digest: str | None


def find(option: str, name: str) -> Found:
    """The thing that MODULE:FUNCTION names.

    Raises:
        UsageError: there is no such thing, or its module fails.
    """
    module_name, colon, function_name = name.partition(":")
    if not (module_name and colon and function_name):
        raise click.UsageError(f"{option} {name}: write MODULE:FUNCTION, such as mine:function for function in mine.py")
    module = _import(option, name, module_name)
    value = getattr(module, function_name, None)
    if value is None:
        known = [word for word in vars(module) if not word.startswith("_")]
        raise click.UsageError(
            f"{option} {name}: {module_name} has no {function_name}.{did_you_mean(function_name, known)}"
        )
    file = getattr(module, "__file__", None)
    return Found(value, hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None)


def failed(option: str, name: str, error: Exception, when: str = "") -> click.UsageError:
    """Words for an error inside the user's code: what, and in which line."""
    trace = error.__traceback__
    line = ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if Path(file).parent == Path.cwd():
            line = f" in {Path(file).name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return click.UsageError(f"{option} {name} fails{when}{line}: {type(error).__name__}: {error}")


def digest(values: Tensor) -> str:
    """Of what the user's code makes of something known, to four digits: its numbers may come from other files too."""
    return hashlib.sha256(" ".join(f"{value:.3e}" for value in values.flatten().tolist()).encode()).hexdigest()


def guarded(option: str, name: str, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The user's function, whose errors are told as the user's and not as ours."""

    def call(x: Tensor) -> Tensor:
        try:
            return function(x)
        except Exception as error:
            raise failed(option, name, error, f" for a batch of shape {tuple(x.shape)}") from error

    return call


def _import(option: str, name: str, module: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise failed(option, name, error) from error
        raise click.UsageError(f"{option} {name}: there is no module {module} in {here}, and none installed") from None
    except Exception as error:
        raise failed(option, name, error) from error
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)  # for what the function imports when it is called
