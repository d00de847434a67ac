"""How far the work is, on standard error: a bar on a terminal, a plain line every few seconds anywhere else.

Progress is a courtesy: a reader that went away does not end the work.
"""

from __future__ import annotations

import abc
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import click

EVERY_S = 5.0
Log = Callable[[str], None]


def say(line: str) -> None:
    """One line on standard error."""
    with contextlib.suppress(BrokenPipeError):
        click.echo(line, err=True)


class Display(abc.ABC):
    """Shows progress between `with` and its end.

    Args:
        what: is counted, such as "step".
        total: when it is done; start: where it is now.
        log: is given every line, also those that the bar stands for.
    """

    def __init__(self, what: str, total: int, start: int = 0, log: Log | None = None) -> None:
        self.what, self.total, self.start = what, total, start
        self.log = log
        self._last = time.monotonic()
        self._first: tuple[int, float] | None = None  # (how much was done, when)

    def __enter__(self) -> Self:
        self._last = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def say(self, line: str) -> None:
        """A line that stays."""
        self._print(line)
        if self.log is not None:
            self.log(line)

    def update(self, done: int, note: str = "") -> None:
        """Say how far it is, and `note`; cheap enough to be called thousands of times a second."""
        self._draw(done, note)
        now = time.monotonic()
        self._first = self._first or (done, now)
        if now - self._last >= EVERY_S or done == self.total:
            self._last = now
            line = "  ".join(part for part in (f"{self.what} {done}/{self.total}", note, self._left(done, now)) if part)
            self._print_progress(line)
            if self.log is not None:
                self.log(line)

    def _left(self, done: int, now: float) -> str:
        done_first, began = self._first or (done, now)  # the first of all is slow, and would mislead
        if done == done_first or done >= self.total:
            return ""
        return f"{duration((now - began) / (done - done_first) * (self.total - done))} left"

    @abc.abstractmethod
    def _print(self, line: str) -> None: ...

    @abc.abstractmethod
    def _print_progress(self, line: str) -> None: ...

    @abc.abstractmethod
    def _draw(self, done: int, note: str) -> None: ...


class Lines(Display):
    """Plain lines."""

    def _print(self, line: str) -> None:
        say(line)

    def _print_progress(self, line: str) -> None:
        say(line)

    def _draw(self, done: int, note: str) -> None:
        pass


class Bar(Display):
    """A bar, on a terminal."""

    def __enter__(self) -> Self:
        from rich import progress
        from rich.console import Console

        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[note]}"),
            progress.TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(self.what, total=self.total, completed=self.start, note="")
        self._bar.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def _print(self, line: str) -> None:
        self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _print_progress(self, line: str) -> None:
        pass

    def _draw(self, done: int, note: str) -> None:
        self._bar.update(self._task, completed=done, note=note)


def display(what: str, total: int, start: int = 0, log: Log | None = None) -> Display:
    """A bar when standard error is a terminal, lines when not."""
    return (Bar if sys.stderr.isatty() else Lines)(what, total, start, log)


def duration(seconds: float) -> str:
    """Rounded to what a person wants to know: 8 s, 4 min 10 s, 3 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@contextlib.contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A display of work that is told of one step at a time."""
    done = 0
    with display(what, total) as show:

        def on_step() -> None:
            nonlocal done
            done += 1
            show.update(done)

        yield on_step
