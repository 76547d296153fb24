"""The table: a row for each cell, made from records or read back from a results.csv."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vanbench.errors import UserError
from vanbench.record.ceilings import NO_BOOK, Book
from vanbench.record.environment import Environment
from vanbench.record.record import Record, Skipped
from vanbench.report.columns import COLUMNS, Column, RowSource, Value
from vanbench.spec.cell import Cell
from vanbench.spec.sweep import Sweep

__all__ = ["NEEDED", "Row", "differing", "labels", "read_rows", "read_text", "rows"]

Row = dict[str, Value]

# Without these a CSV is not ours; any other column may be missing (an older table), and stays empty.
NEEDED = ("status", "model", "task", "batch_size", "image_size", "images_per_s")
_RESOLVED = ("device", "threads")
_CONFIGURATION = ("precision", "memory_format", "compile", "form", "depthwise", "allocator")
# Axes that older tables do not have, and the one value that their cells had.
_BEFORE = {"allocator": "system"}


def rows(sweep: Sweep, environment: Environment, records: Sequence[Record], book: Book = NO_BOOK) -> list[Row]:
    """A row for each record, in their order (the sweep's), with a value or None for each of `COLUMNS`.

    book: the ceilings that bounds are made of.
    """
    by_key = {record.key: record for record in records}
    lived = Counter(each.round for record in records for each in record.rounds)
    references: dict[tuple[str, int, int], Record | None] = {}
    impossible = {r.cell for r in records if isinstance(r.outcome, Skipped) and not r.outcome.resumable}
    table = []
    for record in records:
        contest = record.cell.contest
        if contest not in references:
            cell = sweep.reference_of(contest, impossible)
            references[contest] = by_key.get(cell.key) if cell is not None else None
        accompanied = any(lived[each.round] > 1 for each in record.rounds)
        source = RowSource(record, references[contest], environment, accompanied, book)
        table.append({column.name: column.of(source) for column in COLUMNS})
    return table


def read_rows(
    text: str,
    name: str,
    columns: Sequence[Column] = COLUMNS,
    needed: Sequence[str] = NEEDED,
    kind: str = "results.csv",
) -> list[Row]:
    """The rows of a results.csv (or of another table, by its columns), typed; columns that are not known are left out.

    name: what to call the text in a UserError, which says what is missing, or which cell of which line is no number.
    """
    reader = csv.DictReader(io.StringIO(text))
    header = reader.fieldnames or []
    missing = [column for column in needed if column not in header]
    if missing:
        raise UserError(f"{name} is not a {kind} of vanbench: it has no column {', '.join(missing)}")
    found: list[Row] = []
    try:
        for line in reader:
            row = {each.name: _typed(line.get(each.name) or "", each.kind) for each in columns}
            row |= {name: word for name, word in _BEFORE.items() if name in row and name not in header}
            _check_intervals(row)
            found.append(row)
    except (ValueError, csv.Error) as error:
        raise UserError(f"{name}, line {reader.line_num}: {error}") from None
    return found


def read_text(path: Path) -> str:
    """The text of a file, or a UserError that says why not."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"no such run directory or results.csv: {path}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a results.csv: it is not text") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None


def labels(table: Sequence[Row]) -> list[str]:
    """A short name for each row: the cell's slug; device and threads only where the rows differ in them."""
    several = differing(table, _RESOLVED)
    names = []
    for row in table:
        wanted = ("model", "task", "batch_size", "image_size", *_CONFIGURATION, *several)
        fields: dict[str, Any] = {name: row[name] for name in wanted if row[name] is not None}
        names.append(Cell(**fields).slug)
    return names


def differing(table: Sequence[Row], names: Sequence[str]) -> list[str]:
    """Those of the columns `names` in which the rows differ.

    Device and threads count for measured rows alone: of the others they are as asked, not what they came to.
    """
    resolved = [row for row in table if row["status"] == "measured"]
    return [name for name in names if len({row[name] for row in (resolved if name in _RESOLVED else table)}) > 1]


def _check_intervals(row: Row) -> None:
    """Raises ValueError for a figure that is not within its own interval: no table of ours has one."""
    for name in ("images_per_s", "ratio"):
        ends = [row.get(f"{name}_low"), row.get(name), row.get(f"{name}_high")]
        figures = [float(each) for each in ends if isinstance(each, (int, float))]
        if figures != sorted(figures):
            raise ValueError(f"{name} {ends[1]} is not within its interval, {ends[0]} to {ends[2]}")


def _typed(text: str, kind: str) -> Value:
    if text == "":
        return None
    if kind == "text":
        return text
    return int(text) if kind == "integer" else float(text)
