"""Ctrl-C and SIGTERM: finish what would otherwise be lost, then end with the exit code that says so."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The user or the system stopped the command.

    Args:
        signum: the signal that did it; the exit code is 128 more.
        message: what was kept, and how to go on.
    """

    def __init__(self, signum: int, message: str = "") -> None:
        super().__init__(message)
        self.signum = signum


class Stop:
    """A wish to stop, to be heard when the work is in a state that can be kept."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def check(self) -> None:
        """Raise `Interrupted` when there was a signal."""
        if self.signum is not None:
            raise Interrupted(self.signum)


@contextlib.contextmanager
def deferred() -> Iterator[Stop]:
    """The first signal is noted in the `Stop`, and answered on standard error; a second one acts at once."""
    stop = Stop()

    def note(signum: int, frame: FrameType | None) -> None:
        if stop.signum is not None:
            raise Interrupted(signum, "Stopped at once; what was not yet saved is lost.")
        stop.signum = signum
        with contextlib.suppress(OSError):
            # past Python's buffers: a handler may have interrupted a write to them
            os.write(2, b"\nStopping after this step; once more to stop at once ...\n")

    with _handled_by(note):
        yield stop


@contextlib.contextmanager
def immediate() -> Iterator[None]:
    """A signal raises `Interrupted` where the work happens to be."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum)

    with _handled_by(end):
        yield


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python hands signals to the main thread only
        return
    before = {signum: signal.signal(signum, handler) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)
