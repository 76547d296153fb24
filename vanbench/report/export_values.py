"""The values that exporters take and give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vanbench.report.columns import Value
from vanbench.report.stored import Entry, Stored
from vanbench.report.table import Row
from vanbench.units import plain

__all__ = ["Chosen", "Exported", "Wishes", "figure", "interval", "rounded"]


class Wishes(NamedTuple):
    """What the user asked for besides a format. only: column -> value; commit, branch: of what was measured."""

    only: Mapping[str, str] = {}
    commit: str = ""
    branch: str = ""
    out: Path | None = None


class Chosen(NamedTuple):
    """The rows of one stored table that are exported, all of them measured."""

    stored: Stored
    entries: list[Entry]


class Exported(NamedTuple):
    """text: the file's content. beside: further files by suffix. notes: for people, what the format has no room for."""

    text: str
    beside: Mapping[str, str] = {}
    notes: Sequence[str] = ()


def rounded(value: float) -> float:
    """A figure with the ten significant digits of results.csv."""
    return float(plain(value))


def figure(row: Row, column: str) -> float | None:
    """A column as a rounded number, None if absent or not finite."""
    value: Value = row[column]
    return rounded(float(value)) if isinstance(value, (int, float)) and math.isfinite(value) else None


def interval(row: Row) -> tuple[float, float] | None:
    """The 95 % interval of images/s, None if absent."""
    low, high = figure(row, "images_per_s_low"), figure(row, "images_per_s_high")
    return (low, high) if low is not None and high is not None else None
