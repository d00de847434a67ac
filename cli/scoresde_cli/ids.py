"""Lists of sample ids as people write them: "0-63,70"."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import click

ID_LIMIT = 2**32
COUNT_LIMIT = 1_000_000


def parse_ids(text: str) -> list[int]:
    """The ids in increasing order, each once.

    Raises:
        ValueError: not a list of numbers and ranges, an id outside [0, 2^32), or more than a million of them.
    """
    ids: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"{text!r}: {part.strip()!r} is not a number or a range such as 0-63")
        low, high = int(first), int(last or first)
        if high < low:
            raise ValueError(f"{text!r}: the range {part.strip()} goes down; write {high}-{low}")
        if high >= ID_LIMIT:
            raise ValueError(f"{text!r}: {high} is too large; ids are below 2^32")
        if high - low >= COUNT_LIMIT or len(ids) + high - low >= COUNT_LIMIT:
            raise ValueError(f"{text!r}: more than {COUNT_LIMIT:,} samples; take them in parts")
        ids.update(range(low, high + 1))
    return sorted(ids)


def format_ids(ids: Iterable[int]) -> str:
    """The reverse of `parse_ids`, with runs as ranges."""
    ordered = sorted(ids)
    starts = [i for before, i in pairwise([-2, *ordered]) if i != before + 1]
    ends = [i for i, after in pairwise([*ordered, ID_LIMIT + 1]) if after != i + 1]
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


class Ids(click.ParamType):
    """A list of ids on the command line."""

    name = "ids"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            return parse_ids(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Times(click.ParamType):
    """A list of times on the command line, "1,0.5,0.1,0"; the library checks that they fall within [0, 1]."""

    name = "times"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        try:
            return [float(word) for word in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,0.5,0.1,0", param, ctx)


class Stops(click.ParamType):
    """Sample numbers to go from one to the next of, in the order given: "3,17,3"."""

    name = "ids"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        words = [word.strip() for word in value.split(",")]
        for word in words:
            if not word.isdecimal() or int(word) >= ID_LIMIT:
                self.fail(f"{value!r}: {word!r} is not the number of a sample, from 0 and below 2^32", param, ctx)
        stops = [int(word) for word in words]
        if len(stops) < 2:
            self.fail(f"{value!r} is one sample; give two or more to go between, such as 3,17", param, ctx)
        for before, after in pairwise(stops):
            if before == after:
                self.fail(f"{value!r} goes from sample {before} to itself; give different neighbours", param, ctx)
        return stops
