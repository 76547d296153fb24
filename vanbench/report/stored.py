"""What is exported and compared: a stored table, from a run directory, a results.csv or one of timm's tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vanbench.errors import UserError, unknown
from vanbench.record.environment import Environment
from vanbench.record.record import Record
from vanbench.record.store import read_run
from vanbench.report.table import Row, labels, read_rows, read_text, rows
from vanbench.report.timm_tables import is_timm_table, read_timm
from vanbench.spec.names import canonical
from vanbench.spec.sweep import AXES

__all__ = ["Entry", "Stored", "parse_only", "read_stored", "select"]

_SELECTABLE = (*AXES, "device")
_LONGEST_REASON = 160


class Entry(NamedTuple):
    """One row with its name for people. record: where raw samples are, from a run directory alone."""

    name: str
    row: Row
    record: Record | None = None


class Stored(NamedTuple):
    """A table as read. environment: of a run directory. warnings: what of it differs from a table of ours."""

    path: Path
    entries: list[Entry]
    environment: Environment | None = None
    warnings: Sequence[str] = ()

    def values(self, column: str) -> list[str]:
        """The different values of a column in measured rows, as text, in the order of rows."""
        seen = (entry.row[column] for entry in self.entries if entry.row["status"] == "measured")
        return list(dict.fromkeys(str(value) for value in seen if value is not None))


def read_stored(path: Path) -> Stored:
    """A run directory, a results.csv, or a result table of timm's. Raises UserError if it is none, or has no row."""
    if path.is_dir():
        run = read_run(path)
        table = rows(run.sweep, run.environment, run.records, run.book)
        found = Stored(path, _entries(table, run.records), run.environment)
    else:
        text = read_text(path)
        if is_timm_table(text):
            table, warnings = read_timm(text, path.name)
            found = Stored(path, _entries(table), warnings=warnings)
        else:
            found = Stored(path, _entries(_named(read_rows(text, str(path)), path)))
    if not found.entries:
        raise UserError(f"{path} has no rows")
    return found


def _named(table: list[Row], path: Path) -> list[Row]:
    for place, row in enumerate(table):
        if row["model"] is None:
            raise UserError(f"{path}, row {place + 1}: no model is named")
    return table


def _entries(table: Sequence[Row], records: Sequence[Record] = ()) -> list[Entry]:
    stories: Sequence[Record | None] = records or [None] * len(table)
    return [Entry(*each) for each in zip(labels(table), table, stories, strict=True)]


def parse_only(text: str | None) -> dict[str, str]:
    """`precision=fp32,batch-size=8` as column -> value. Raises UserError for a word that is no axis."""
    wanted: dict[str, str] = {}
    for word in text.split(",") if text else []:
        axis, sign, value = (part.strip() for part in word.partition("="))
        axis = {"model": "models"}.get(axis, axis.replace("_", "-"))
        if not sign or not value:
            raise UserError(f"--only {word.strip()!r} is not axis=value (axes: {', '.join(_SELECTABLE)})")
        if axis not in _SELECTABLE:
            raise unknown("axis of --only", axis, _SELECTABLE)
        column = AXES.get(axis, axis)
        if column in wanted:
            raise UserError(f"--only gives {axis} twice")
        wanted[column] = canonical(value) if column == "model" else value
    return wanted


def select(stored: Stored, only: Mapping[str, str]) -> tuple[list[Entry], list[str]]:
    """The measured rows with the wanted values, and a line for each such row that was not measured.

    Raises UserError if a value does not occur, if none of the rows is measured, or if two have one name.
    """
    mine = stored.entries
    for column, value in only.items():
        found = [entry for entry in mine if str(entry.row[column]) == value]
        if not found:
            occurring = dict.fromkeys(str(entry.row[column]) for entry in mine if entry.row[column] is not None)
            raise unknown(column, value, occurring)
        mine = found
    measured = [each for each in mine if _has_rate(each)]
    left_out = [_why(each) for each in mine if not _has_rate(each)]
    if not measured:
        raise UserError(f"{stored.path} has no measured row to export; {'; '.join(left_out)}")
    twice = [name for name, count in Counter(each.name for each in measured).items() if count > 1]
    if twice:
        raise UserError(f"{stored.path} has several rows named {twice[0]!r}: which of them is meant cannot be told")
    return measured, left_out


def _has_rate(entry: Entry) -> bool:
    rate = entry.row["images_per_s"]
    return entry.row["status"] == "measured" and isinstance(rate, (int, float)) and 0 < rate < math.inf


def _why(entry: Entry) -> str:
    reason = str(entry.row["reason"] or "no images/s")
    short = reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 1]}…"
    return f"{entry.name}: {entry.row['status']}, {short}"
