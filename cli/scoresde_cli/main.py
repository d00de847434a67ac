"""The command `scoresde`: finds the command asked for, runs it, and ends with the exit code that tells the truth."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TextIO

import click

from scoresde import __version__
from scoresde_cli import failures
from scoresde_cli.options import did_you_mean, examples

COMPLETION = "_SCORESDE_COMPLETE"
COMMANDS = ("train", "sample", "restore", "compare", "likelihood", "tune-grid", "demo", "info", "env")
"""Each is the click command of that name in the module of that name, with _ for -."""


class LazyGroup(click.Group):
    """A group that imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"scoresde_cli.{name}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        if word not in COMMANDS and not word.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"{word!r} is not one of the commands {', '.join(COMMANDS)}.{did_you_mean(word, COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"show_default": True, "max_content_width": 100, "help_option_names": ["-h", "--help"]},
    epilog=examples(
        "scoresde demo                                   # train, sample and check, in minutes",
        "scoresde train digits --out runs/digits",
        "scoresde sample runs/digits --steps 20",
        f'eval "$({COMPLETION}=bash_source scoresde)"  # completion in bash; zsh_source, fish_source too',
    ),
)
@click.version_option(__version__, prog_name="scoresde")
def cli() -> None:
    """Train score-based diffusion models on your own data and sample them with any solver."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    # Before torch starts its threads: ones that spin for long while they wait stop each other on a busy machine (two
    # threads on two shared cores: 13 samples a second; with a short spin some 600, and 1900 on a quiet one).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        with _brief_warnings():
            code = cli.main(args=list(arguments), prog_name="scoresde", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as end:  # click's end for shell completion, and for a reader of the output that went away
        return int(end.code or 0) if COMPLETION in os.environ else failures.READER_GONE
    except (Exception, KeyboardInterrupt) as error:
        failures.tell(error)
        return failures.exit_code(error)


def main() -> None:
    """The entry point."""
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:  # said already; the interpreter would try, and complain, once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


@contextlib.contextmanager
def _brief_warnings() -> Iterator[None]:
    """Warnings as one line each, without the place in the code that raised them."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        click.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
