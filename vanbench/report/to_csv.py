"""The text of results.csv, ops.csv and depthwise.csv: plain decimal numbers, empty cells for what is absent."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from vanbench.report.columns import COLUMNS, Column, Value
from vanbench.units import plain

__all__ = ["csv_text"]


def csv_text(rows: Iterable[Mapping[str, Value]], columns: Sequence[Column] = COLUMNS) -> str:
    """Header and rows in the order of `columns`, LF line ends.

    Numbers have at most ten significant digits and no exponent; line breaks within text become spaces, so that a row
    is a line.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [column.name for column in columns]
    writer.writerow(names)
    for row in rows:
        writer.writerow([_field(row[name]) for name in names])
    return text.getvalue()


def _field(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join(value.split())
    return plain(value)
