"""report.html: one file that holds a run's table, plots, warnings and machine, and needs nothing else.

The page is `page.html.jinja`; here is what it is filled with. Every string is escaped there, but for the plots, whose
text matplotlib has escaped; their ids are made unique, as all of them share one document.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vanbench.record.ceilings import NO_BOOK, Book
from vanbench.report.answers import Answer, answers
from vanbench.report.ceilings_text import HEAD, ceilings_lines, measured_when
from vanbench.report.columns import COLUMNS, Column, Value
from vanbench.report.drawing import Drawn
from vanbench.report.table import Row, labels
from vanbench.report.to_markdown import Heading, bound_of, figure_of, flag_counts, names_of_flags
from vanbench.units import memory, seconds

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = [
    "Cell",
    "Figure",
    "Head",
    "Kind",
    "Line",
    "Plot",
    "Section",
    "alone",
    "ceilings_section",
    "html_page",
    "plots_as_written",
    "rendered",
    "said_of",
    "section",
]


class Head(NamedTuple):
    """A column: name as in the CSV, what it is called, its meaning. extra: hidden until all columns are asked for."""

    name: str
    called: str
    meaning: str
    is_number: bool
    extra: bool = False


class Cell(NamedTuple):
    """text: for people. sort: what it is ordered by, the raw value; empty where there is none."""

    text: str
    sort: str
    is_number: bool = False
    extra: bool = False


class Line(NamedTuple):
    """A row of the table. anchor: its id in the page."""

    anchor: str
    name: str
    status: str
    cells: list[Cell]


class Figure(NamedTuple):
    """A plot as SVG, and the rows that it is made of, as (anchor, name). reason: why there is none."""

    title: str
    svg: str
    rows: list[tuple[str, str]]
    reason: str = ""


class Kind(NamedTuple):
    """A kind of table: its columns, which are shown at first and what they are called, how some are said for people.

    named: the names of rows. rest: whether columns that are not shown can be asked for.
    """

    columns: Sequence[Column]
    shown: Mapping[str, str]
    formatted: Mapping[str, Callable[[Row], str]]
    named: Callable[[Sequence[Row]], list[str]]
    rest: bool = True


class Section(NamedTuple):
    """A part of a page: findings, a table, what follows from it, plots. counted: its cells by status, in words."""

    anchor: str
    title: str
    findings: list[str]
    heads: list[Head]
    lines: list[Line]
    counted: str
    answers: list[Answer]
    figures: list[Figure]


# (name, title, SVG or empty, why there is none)
Plot = tuple[str, str, str, str]

_STATUSES = ("measured", "failed", "skipped")
_SHOWN = {
    "images_per_s": "images/s",
    "ratio": "ratio",
    "median_s": "step",
    "bound_fraction": "of bound",
    "peak_bytes": "peak memory",
    "rounds": "rounds",
    "flags": "flags",
    "status": "status",
    "reason": "reason",
}


def said_of(name: str, said: Callable[[float], str]) -> Callable[[Row], str]:
    """A column of numbers for people; empty where it is."""
    return lambda row: said(float(value)) if isinstance(value := row[name], (int, float)) else ""


_FORMATTED: dict[str, Callable[[Row], str]] = {
    "images_per_s": lambda row: figure_of(row, "images_per_s"),
    "ratio": lambda row: figure_of(row, "ratio"),
    "median_s": said_of("median_s", seconds),
    "bound_fraction": bound_of,
    "peak_bytes": said_of("peak_bytes", memory),
    "flags": lambda row: ", ".join(names_of_flags(row)),
}


RESULTS = Kind(COLUMNS, _SHOWN, _FORMATTED, labels)


def html_page(rows: Sequence[Row], heading: Heading, figures: Sequence[Plot], book: Book = NO_BOOK) -> str:
    """The page of one run. book: the ceilings that it is held against; their plots are named `ceilings...`."""
    roofs = [figure for figure in figures if figure[0].startswith("ceilings")]
    whole = section("The table and its plots", rows, [each for each in figures if each not in roofs], "row")
    sections = [whole, *([ceilings_section(book, roofs, "ceilings")] if book.entries else [])]
    return rendered(heading.title, heading.question, sections, [heading.facts], flag_counts(rows))


def ceilings_section(book: Book, figures: Iterable[Plot], anchor: str) -> Section:
    """The roofs that bounds are made of, and their plots."""
    said = [
        Answer(
            f"With {entry.threads} thread{'s' if entry.threads != 1 else ''}",
            " ".join([measured_when(entry), entry.convention, *entry.notes]),
            HEAD,
            ceilings_lines(entry),
            "lrrl",
        )
        for entry in book.entries
    ]
    drawn = [Figure(title, alone(svg, f"{anchor}-{name}"), [], reason) for name, title, svg, reason in figures]
    return Section(f"{anchor}-s", "The measured ceilings", [], [], [], "", said, drawn)


def section(
    title: str,
    rows: Sequence[Row],
    figures: Iterable[Plot],
    anchor: str,
    findings: Sequence[str] = (),
    kind: Kind = RESULTS,
    said: Sequence[Answer] | None = None,
) -> Section:
    """A table with its plots. anchor: what the ids in it begin with, its own among a page's.

    said: what follows from the rows, by default what `answers` finds.
    """
    heads = _heads(kind)
    lines = _lines(rows, anchor, kind, heads)
    measured = [(line, row) for line, row in zip(lines, rows, strict=True) if line.status == "measured"]
    drawn = []
    for name, plotted, svg, reason in figures:
        # A plot that is named after a column is made of the rows that have it.
        used = [(line.anchor, line.name) for line, row in measured if name not in row or row[name] is not None]
        drawn.append(Figure(plotted, alone(svg, f"{anchor}-{name}"), used, reason))
    counts = Counter(line.status for line in lines)
    counted = ", ".join(f"{counts[status]} {status}" for status in _STATUSES if counts[status])
    # What was measured first; within that the sweep's order.
    lines.sort(key=lambda line: _STATUSES.index(line.status))
    follows = answers(rows) if said is None else list(said)
    return Section(f"{anchor}-s", title, list(findings), heads, lines, counted, follows, drawn)


def rendered(
    title: str,
    question: str,
    sections: Sequence[Section],
    facts: Sequence[Sequence[tuple[str, str]]],
    flags: Sequence[tuple[str, int, str]] = (),
) -> str:
    """The page as text. facts: of each machine; flags: as `flag_counts` has them."""
    given = {"title": title, "question": question, "sections": sections, "facts": facts, "flags": flags}
    return _template().render(given)


def plots_as_written(paths: Iterable[Path], drawn: Iterable[Drawn]) -> list[Plot]:
    """What `drawing.save` wrote and drew, for a page: every figure with its SVG, or why there is none."""
    svgs = {path.stem: path.read_text(encoding="utf-8") for path in paths if path.suffix == ".svg"}
    return [(each.name, each.title, svgs.get(each.name, ""), each.reason) for each in drawn]


def alone(svg: str, name: str) -> str:
    """An SVG file's drawing for use within a page: without its prologue, its ids with a name before them."""
    start = svg.find("<svg")
    if start < 0:
        return ""
    word = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    body = svg[start:]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{word}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{word}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{word}-\1"', body)
    # As wide as the page allows, and no wider than it was drawn.
    tag, rest = body.split(">", 1)
    width = re.search(r' width="([\d.]+[a-z]*)"', tag)
    limit = f' style="max-width: {width[1]}"' if width else ""
    return re.sub(r' (width|height)="[^"]*"', "", tag) + limit + ">" + rest


def _heads(kind: Kind) -> list[Head]:
    by_name = {column.name: column for column in kind.columns}
    shown = [
        Head(name, called, by_name[name].meaning, by_name[name].kind != "text") for name, called in kind.shown.items()
    ]
    rest = [
        Head(column.name, column.name, column.meaning, column.kind != "text", extra=True)
        for column in kind.columns
        if column.name not in kind.shown and kind.rest
    ]
    return [*shown, *rest]


def _lines(rows: Sequence[Row], anchor: str, kind: Kind, heads: Sequence[Head]) -> list[Line]:
    found = []
    for place, (name, row) in enumerate(zip(kind.named(rows), rows, strict=True)):
        cells = []
        for head in heads:
            value = row[head.name]
            said = kind.formatted[head.name](row) if head.name in kind.formatted else _plain(value)
            cells.append(Cell(said, "" if value is None else str(value), head.is_number, head.extra))
        # What has no status was measured.
        found.append(Line(f"{anchor}-{place + 1}", name, str(row.get("status", "measured")), cells))
    return found


def _plain(value: Value) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    source = Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source)
