"""An experiment as a page: its question, why it is asked, how to run it, and what each machine's kept table says."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vanbench.errors import UserError
from vanbench.report.findings import Finding, findings
from vanbench.report.results_page import plots_of, words_of
from vanbench.report.table import read_rows, read_text
from vanbench.report.to_markdown import answer_parts, escaped, measured_parts

__all__ = ["Header", "experiment_page", "header_of"]

_HEADINGS = ("Why", "How long", "Command", "Columns that answer it")


class Header(NamedTuple):
    """What stands above an experiment's axes. sections: by their words, `Why` and so on."""

    question: str
    sections: dict[str, str]


def header_of(text: str) -> Header:
    """Of an experiment's file: its first comment is the question, the others begin with their word and a colon.

    Raises ValueError where a word is missing.
    """
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    found: dict[str, list[str]] = {"": []}
    word = ""
    for line in lines:
        for heading in _HEADINGS:
            if line.startswith(f"{heading}:"):
                word, line = heading, line.removeprefix(f"{heading}:").strip()
                found[word] = []
        found[word].append(line)
    missing = [heading for heading in _HEADINGS if heading not in found]
    if missing:
        raise ValueError(f"an experiment's header must have {', '.join(missing)}")
    sections = {heading: " ".join(filter(None, found[heading])) for heading in _HEADINGS}
    return Header(" ".join(filter(None, found[""])), sections)


def experiment_page(file: Path, results: Path, beside: str) -> str:
    """The page as Markdown. beside: where `results` lies as seen from the page, for links to tables and plots.

    Raises UserError if a file cannot be read.
    """
    head = header_of(read_text(file))
    found = [each for each in findings(read_text(results / "README.md")) if each.experiment == file.stem]
    parts = [f"# {file.stem.replace('_', ' ')}", f"**{escaped(head.question)}**"]
    parts += [_with_links(finding.text, beside) for finding in found]
    parts += [
        f"*Why.* {escaped(head.sections['Why'])}",
        f"*How long.* {escaped(head.sections['How long'])}",
        f"    {head.sections['Command']}",
        f"*Columns that answer it.* {escaped(head.sections['Columns that answer it'])}",
    ]
    tables = _tables(file.stem, results, found)
    if not tables:
        parts.append("It has not been measured yet on any machine whose results are kept here.")
    for machine, name in tables:
        parts += _table_parts(results, machine, name, beside, f"{machine}: {name}")
    return "\n\n".join(parts) + "\n"


def _tables(name: str, results: Path, found: Sequence[Finding]) -> list[tuple[str, str]]:
    """Those that its findings name, and whatever has its name on a machine that nobody wrote of yet."""
    named = [table for finding in found for table in finding.tables]
    lone = [(file.parent.name, name) for file in sorted(results.glob(f"*/{name}.csv"))]
    return list(dict.fromkeys([*named, *lone]))


def _with_links(text: str, beside: str) -> str:
    """Links that are relative to the README, as seen from the page."""
    return re.sub(r"\]\((?![a-z]+:)([^)]+)\)", lambda found: f"]({posixpath.normpath(f'{beside}/{found[1]}')})", text)


def _table_parts(results: Path, machine: str, name: str, beside: str, title: str) -> list[str]:
    file = results / machine / f"{name}.csv"
    parts = [f"## {title}", f"[The table as CSV]({beside}/{machine}/{name}.csv)."]
    try:
        rows = read_rows(read_text(file), str(file))
    except UserError:
        rows = []  # a profile or another table: its plots and its finding speak for it
    if rows:
        parts += [*measured_parts(rows, "###"), *answer_parts(rows, "###")]
    pictures = [(escaped(words_of(plot, name)), plot.name) for plot in plots_of(file, "png")]
    return parts + [f"![{escaped(name)}: {words}]({beside}/{machine}/{plot})" for words, plot in pictures]
