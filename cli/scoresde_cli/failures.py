"""From exceptions to exit codes and words.

0 ok · 1 our bug · 2 usage · 65 bad input data or checkpoint · 70 numerical failure · 73 cannot write
75 busy or out of memory · 128 + n stopped by signal n
"""

from __future__ import annotations

import errno
import sys
import traceback

import click

from scoresde import __version__
from scoresde.errors import BusyError, CheckpointError, NumericalError
from scoresde_cli.stopping import Interrupted

BUG, USAGE, BAD_INPUT, NUMERICAL, CANNOT_WRITE, BUSY = 1, 2, 65, 70, 73, 75
STOPPED = 128
READER_GONE = STOPPED + 13  # as if SIGPIPE had ended it
OURS = ("scoresde", "scoresde_cli")
OUT_OF_MEMORY = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory")


def exit_code(error: BaseException) -> int:
    """The exit code that stands for an exception."""
    if isinstance(error, click.ClickException):
        return error.exit_code
    if isinstance(error, Interrupted):
        return STOPPED + error.signum
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return STOPPED + 2
    if isinstance(error, BrokenPipeError):
        return READER_GONE
    if isinstance(error, BusyError) or _out_of_memory(error):
        return BUSY
    if isinstance(error, NumericalError) or _not_factored(error):
        return NUMERICAL
    if isinstance(error, OSError):
        return CANNOT_WRITE
    if isinstance(error, ValueError) and _bad_input(error):
        return BAD_INPUT
    if isinstance(error, ValueError) and _raised_by_us(error):
        return USAGE
    return BUG


def tell(error: BaseException) -> None:
    """Say on standard error what happened: a traceback for a bug, the user's words for anything else."""
    code = exit_code(error)
    if isinstance(error, click.ClickException):
        error.show()
    elif code == BUG:
        traceback.print_exception(error)
        click.echo(
            f"\nThis is a bug in scoresde {__version__}, not a mistake of yours. Please report it with the lines "
            "above and what `scoresde env` prints.",
            err=True,
        )
    elif code < STOPPED:
        click.echo(f"Error: {_words(error)}", err=True)
    elif code == STOPPED + 2 and not str(error):
        click.echo("Interrupted.", err=True)
    elif str(error):
        click.echo(str(error), err=True)


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        where = f" {error.filename}" if error.filename else ""
        remedy = "; free some space, and run the same command again" if error.errno == errno.ENOSPC else ""
        return f"cannot write{where}: {error.strerror}{remedy}"
    if _out_of_memory(error):
        return (
            f"out of memory ({str(error).splitlines()[0] if str(error) else 'no more to be had'}); "
            "take a smaller --batch-size, or --micro-batches in training"
        )
    if _not_factored(error):
        return (
            f"numbers that are too large or too small for each other ({error}); check the scale of the data and --sigma"
        )
    return str(error)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    # by name, since torch may not have been imported; its allocator for the CPU raises a bare RuntimeError
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in OUT_OF_MEMORY)
    )


def _not_factored(error: BaseException) -> bool:
    """Whether NumPy or torch, of which the latter may not have been imported, met a singular or infinite matrix."""
    return type(error).__name__.lstrip("_") == "LinAlgError"


def _bad_input(error: ValueError) -> bool:
    if isinstance(error, CheckpointError):
        return True
    if "scoresde.data.errors" not in sys.modules:
        return False
    from scoresde.data import DataError

    return isinstance(error, DataError)


def _raised_by_us(error: BaseException) -> bool:
    """Whether our own code refused a value; one that surfaces from inside another package is a bug of ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or str(trace.tb_frame.f_globals.get("__name__")).split(".")[0] in OURS
