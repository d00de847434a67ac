"""One page of HTML that needs nothing else: style, script, plots and pictures are inside the file.

It may be mailed, archived or opened without a network; a content security policy in its head makes browsers
refuse any request. Text given to it is escaped, so a file name cannot become markup.
"""

import base64
import math
import re
from collections.abc import Collection, Sequence
from html import escape
from importlib.resources import files
from numbers import Integral, Real
from pathlib import Path
from typing import TypeGuard

from matplotlib.figure import Figure

from scoresde._files import write_atomically
from scoresde.report.plots import to_svg

DASH = "\N{EN DASH}"
Cell = str | int | float | tuple[float, str] | None

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
SECTIONS_WORTH_A_LIST = 3
NARROW_PT = 360  # plots up to so wide are readable on a phone as a whole; wider ones scroll there
MANY_COLUMNS = 7  # more may be wider than the text


class Page:
    """A report, built from top to bottom and written once.

    page = Page("Samplers on two moons", "Which solver is right, and at what cost.")
    page.section("Distance")
    page.figure(line_plot(...), caption="Distance by evaluations.", alt="All curves fall to 0.01.")
    page.table(["solver", "distance"], [["DDIM", 0.012]], sortable=True)
    page.write("report.html")
    """

    def __init__(self, title: str, lead: str = "") -> None:
        self.title, self.lead = title, lead
        self._sections: list[str] = []
        self._body: list[str] = []
        self._figures = 0

    def section(self, heading: str) -> None:
        """Begin a section. Where there are three or more, the page opens with a list of them."""
        self._sections.append(heading)
        self._body.append(f'<h2 id="section-{len(self._sections)}">{escape(heading)}</h2>')

    def text(self, text: str) -> None:
        """Plain text; an empty line begins a new paragraph."""
        paragraphs = (part.strip() for part in re.split(r"\n\s*\n", text))
        self._body.extend(f"<p>{escape(part)}</p>" for part in paragraphs if part)

    def code(self, code: str) -> None:
        """Text of fixed width with its line breaks: a command, a configuration."""
        self._body.append(f"<pre><code>{escape(code)}</code></pre>")

    def figure(self, content: Figure | bytes | str, caption: str, alt: str) -> None:
        """A plot, the bytes of a PNG file, or an <svg> element, which is trusted and inlined as it is.

        `caption` is printed below; `alt` says in words what is to be seen, for those who cannot see it.
        """
        self._figures += 1
        if isinstance(content, bytes):
            picture = _png_element(content, alt)
        else:
            svg = to_svg(content) if isinstance(content, Figure) else content
            picture = _svg_element(svg, alt, prefix=f"f{self._figures}-")
        label = f'<span class="label">Figure {self._figures}.</span>'
        self._body.append(
            f'<figure><div class="picture">{picture}</div><figcaption>{label} {escape(caption)}</figcaption></figure>'
        )

    def table(
        self,
        headers: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        *,
        sortable: bool = False,
        caption: str = "",
        code: Collection[str] = (),
        folded: str = "",
        wrap: bool = False,
    ) -> None:
        """Cells are text or numbers; numbers have four significant digits and align right, None is a dash.

        A pair (number, text) shows the text in the number's place. Columns whose headers are in `code` hold
        commands: of fixed width, selected whole by a click. With `sortable`, a click on a header sorts by that
        column. With `folded`, only that title is seen until it is opened. With `wrap`, long text is broken into
        lines. Raises ValueError for a row that is longer or shorter than the headers.
        """
        for i, row in enumerate(rows):
            if len(row) != len(headers):
                raise ValueError(f"row {i} has {len(row)} cells where there are {len(headers)} headers")
        numeric = [any(_is_number(row[j]) or isinstance(row[j], tuple) for row in rows) for j in range(len(headers))]
        head = "".join(_header(text, right, sortable) for text, right in zip(headers, numeric, strict=True))
        commands = [header in code for header in headers]
        lines = "".join(f"<tr>{''.join(map(_cell, row, numeric, commands))}</tr>\n" for row in rows)
        title = f"<caption><span>{escape(caption)}</span></caption>" if caption else ""
        look = "table" + (" wrap" if wrap else "") + (" wide" if len(headers) > MANY_COLUMNS else "")
        table = (
            f'<div class="{look}" tabindex="0"><table>{title}\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>"
        )
        self._body.append(f"<details><summary>{escape(folded)}</summary>{table}</details>" if folded else table)

    def html(self) -> str:
        """The whole page."""
        lead = f'<p class="lead">{escape(self.lead)}</p>' if self.lead else ""
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="color-scheme" content="light dark">\n<title>{escape(self.title)}</title>\n'
            f"<style>\n{_resource('page.css')}</style>\n</head>\n<body>\n<main>\n"
            f"<header><h1>{escape(self.title)}</h1>{lead}</header>\n{self._contents()}"
            + "\n".join(self._body)
            + f"\n</main>\n<script>\n{_resource('page.js')}</script>\n</body>\n</html>\n"
        )

    def write(self, path: str | Path) -> None:
        """Write the page, whole or not at all. The folder must exist."""
        write_atomically(path, self.html().encode())

    def _contents(self) -> str:
        if len(self._sections) < SECTIONS_WORTH_A_LIST:
            return ""
        links = (
            f'<li><a href="#section-{i}">{escape(heading)}</a></li>' for i, heading in enumerate(self._sections, 1)
        )
        return f'<nav aria-label="Contents"><ol>{"".join(links)}</ol></nav>\n'


def _png_element(png: bytes, alt: str) -> str:
    if not png.startswith(b"\x89PNG"):
        raise ValueError("a picture given as bytes must be a PNG file")
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    data = base64.b64encode(png).decode()
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{escape(alt)}">'


def _svg_element(svg: str, alt: str, prefix: str) -> str:
    """Identifiers are made unique: those of one plot would otherwise serve all plots of the page."""
    if not svg.startswith("<svg"):
        raise ValueError("a picture given as text must be one <svg> element")
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", svg)
    width = re.search(r'\bwidth="([\d.]+)pt"', svg[: svg.index(">")])
    narrow = ' class="narrow"' if width and float(width[1]) <= NARROW_PT else ""
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"{narrow}', 1)


def _header(text: str, right: bool, sortable: bool) -> str:
    content = f'<button type="button">{escape(text)}</button>' if sortable else escape(text)
    return f'<th scope="col"{_right(right)}>{content}</th>'


def _cell(value: Cell, right: bool, command: bool) -> str:
    shown = None
    if isinstance(value, tuple):
        value, shown = value
    if not _is_number(value):
        text = escape(DASH if value is None else str(value))
        return f"<td{_right(right)}>{f'<code>{text}</code>' if command and value else text}</td>"
    number = float(value)
    if math.isnan(number):
        return f"<td{_right(right)}>{DASH}</td>"
    text = f"{value:d}" if isinstance(value, Integral) else f"{number:.4g}"
    # The script reads "Infinity", not "inf"; readers get a true minus sign.
    exact = repr(number).replace("inf", "Infinity")
    text = escape(shown) if shown is not None else text.replace("-", "\N{MINUS SIGN}")
    return f'<td{_right(right)} data-value="{exact}">{text}</td>'


def _is_number(value: Cell) -> TypeGuard[float]:
    """Numbers of numpy too; truth values are words."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _right(right: bool) -> str:
    return ' class="number"' if right else ""


def _resource(name: str) -> str:
    return files("scoresde.report").joinpath(name).read_text(encoding="utf-8")
