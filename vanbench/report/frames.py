"""Tables as pandas frames, whichever folder or file they lie in. Computes no figure."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vanbench.record.folder import read_folder
from vanbench.record.gate import read_gate
from vanbench.record.store import read_run
from vanbench.report import depthwise_columns, ops_columns
from vanbench.report.blocks_columns import BLOCKS_COLUMNS, block_rows
from vanbench.report.columns import COLUMNS, Column
from vanbench.report.look import depthwise_table, ops_table
from vanbench.report.table import NEEDED, Row, read_rows, read_text, rows
from vanbench.report.to_csv import csv_text

if TYPE_CHECKING:
    import pandas

__all__ = ["load_frame", "which_table"]


def load_frame(path: str | Path) -> pandas.DataFrame:
    """The table of a run, of a folder of `profile` or `depthwise`, or of one of their CSV files; the blocks of a gate.

    From a directory it is computed from what was measured, from a file read, the same either way. Columns are those of
    docs/columns.md, in order. Text is str, empty where absent; integers are nullable Int64; other numbers are float64,
    NaN where absent, with the ten significant digits of the file. Raises UserError if the path is none of these.
    """
    place = Path(path)
    if (place / "gate.json").exists() or place.name.endswith((".json", ".json.gz")):
        return _as_read(block_rows(read_gate(place)), BLOCKS_COLUMNS)
    if not place.is_dir():
        text = read_text(place)
        columns, needed, kind = which_table(text)
        return _frame(read_rows(text, str(place), columns, needed, kind), columns)
    if (place / "profiles.json").exists() or (place / "depthwise.json").exists():
        folder = read_folder(place)
        if folder.profiles is not None:
            return _as_read(ops_table(folder), ops_columns.OPS_COLUMNS)
        return _as_read(depthwise_table(folder), depthwise_columns.DEPTHWISE_COLUMNS)
    run = read_run(place)
    return _as_read(rows(run.sweep, run.environment, run.records, run.book), COLUMNS)


def which_table(text: str) -> tuple[Sequence[Column], Sequence[str], str]:
    """Which table a CSV is, by its header; results.csv where none of the others fits."""
    header = next(csv.reader(text.splitlines()[:1]), [])
    for columns, needed, kind in (
        (ops_columns.OPS_COLUMNS, ops_columns.NEEDED, "ops.csv"),
        (depthwise_columns.DEPTHWISE_COLUMNS, depthwise_columns.NEEDED, "depthwise.csv"),
    ):
        if all(name in header for name in needed):
            return columns, needed, kind
    return COLUMNS, NEEDED, "results.csv"


def _as_read(table: Sequence[Row], columns: Sequence[Column]) -> pandas.DataFrame:
    """As its file would be read, so that a directory and its CSV give the same frame."""
    return _frame(read_rows(csv_text(table, columns), "the table", columns, ()), columns)


def _frame(table: Sequence[Row], columns: Sequence[Column]) -> pandas.DataFrame:
    import pandas as pd

    kinds: dict[str, Any] = {"text": "str", "integer": "Int64", "number": "float64"}
    frame: pandas.DataFrame = pd.DataFrame(
        {column.name: [row[column.name] for row in table] for column in columns}, dtype=object
    )
    for column in columns:
        if column.kind == "text":
            frame[column.name] = frame[column.name].fillna("")
        frame[column.name] = frame[column.name].astype(kinds[column.kind])
    return frame
