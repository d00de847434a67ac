"""Options as every command declares them: in sections, with did-you-mean, and examples at the end of the help."""

from __future__ import annotations

import difflib
import functools
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import click

from scoresde_cli import names

GENERAL = "General"
SEEDS = click.IntRange(0, 2**64 - 1)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Option(click.Option):
    """An option that stands in a section of the help."""

    def __init__(self, *args: Any, section: str = GENERAL, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class Command(click.Command):
    """A command whose help has its options in sections, and which knows the words that it was called with."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and parameter.param_type_name == "option":
                sections.setdefault(getattr(parameter, "section", GENERAL), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["scoresde.words"] = list(args)
        return super().parse_args(ctx, args)


class Choice(click.Choice[str]):
    """One of some names; a misspelt one is met with the nearest."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        return f"{value!r} is not one of {', '.join(self.choices)}.{did_you_mean(str(value), self.choices)}"


option = functools.partial(click.option, cls=Option)


def did_you_mean(word: str, known: Any) -> str:
    """A hint to put behind an error message, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def examples(*lines: str) -> str:
    """An epilog with one example a line."""
    return "Examples:\n\n\b\n" + "\n".join(f"  {line}" for line in lines)


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, its head first, with each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return [line.rstrip() for line in lines]


def same_command(ctx: click.Context) -> str:
    """The command line as it was typed, to be run again."""
    return shlex.join([*ctx.command_path.split(), *ctx.meta["scoresde.words"]])


def given(ctx: click.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Those values that the user gave, defaults left out."""
    default = click.core.ParameterSource.DEFAULT
    return {name: value for name, value in values.items() if ctx.get_parameter_source(name) is not default}


# --- options that several commands share ----------------------------------------------------------------


def device_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--device and --threads."""
    for decorate in (
        option(
            "--threads", type=click.IntRange(1), show_default="torch's choice", help="Threads that torch computes with."
        ),
        option(
            "--device",
            type=Choice(names.DEVICES),
            default="auto",
            help="Where to compute; auto takes a GPU when there is one.",
        ),
    ):
        command = decorate(command)
    return command


def seed_option(section: str) -> Decorator:
    """--seed, of samples."""
    return option("--seed", type=SEEDS, default=0, metavar="INTEGER", section=section, help="Of all noise, from 0.")


def average_option(section: str) -> Decorator:
    """--average, of a trained run."""
    about = "Which moving average of the weights, or raw weights [default: 0]."
    return option("--average", metavar="INDEX|raw", section=section, help=about)


def overwrite_option(section: str) -> Decorator:
    """--overwrite, of a folder of samples."""
    return option("--overwrite", is_flag=True, section=section, help="Replace samples made with other settings.")


def batch_size_option(default: int) -> Decorator:
    """--batch-size, of samples."""
    about = "Samples computed at once; the last batch is filled up, so that it changes no sample."
    return option("--batch-size", type=click.IntRange(1), default=default, help=about)


def process_options(section: str) -> Decorator:
    """--process and the parameters of processes, in a section of that title."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names.PROCESS_PARAMETERS):
            takers = ", ".join(names.PROCESS_PARAMETERS[name])
            command = option(
                names.flag(name), type=float, section=section, help=f"Of {takers}. {PARAMETER_HELP[name]}"
            )(command)
        return option(
            "--process",
            type=Choice(names.PROCESSES),
            default=names.PROCESSES[0],
            section=section,
            help="How data become noise.",
        )(command)

    return decorate


PARAMETER_HELP = {
    "beta_min": "Noise rate at t = 0, from 0 [default: 0.1].",
    "beta_max": "Noise rate at t = 1, beta-min or more [default: 20].",
    "sigma_min": "Smallest noise, above 0 [default: 0.01].",
    "sigma_max": "Largest noise [default: 50 for ve, 80 for edm].",
    "offset": "Keeps beta off 0 at t = 0; from 0 [default: 0.008].",
}
