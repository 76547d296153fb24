"""docs/columns.md, made from the four lists of columns. Holds no column."""

from __future__ import annotations

from collections.abc import Sequence

from vanbench.report.blocks_columns import BLOCKS_COLUMNS
from vanbench.report.columns import COLUMNS, CONTRACT, Column
from vanbench.report.depthwise_columns import DEPTHWISE_COLUMNS
from vanbench.report.ops_columns import OPS_COLUMNS

__all__ = ["document"]


def document() -> str:
    """The page as Markdown."""
    lines = [
        "# The columns of results.csv, ops.csv, depthwise.csv and of a gate's blocks",
        "",
        "Made from `columns.py`, `ops_columns.py`, `depthwise_columns.py` and `blocks_columns.py` in",
        "`vanbench/report/`; a test keeps them the same. An absent figure is an empty cell, never 0. Numbers are plain",
        "decimal in SI units, with at most ten significant digits.",
        "",
        "## results.csv",
        "",
        f"A row is a cell. The first {len(CONTRACT)} columns and their order are relied upon by scripts; new ones go",
        "behind the last. Figures of failed and skipped cells are empty.",
        "",
        *_table(COLUMNS),
        "",
        "## ops.csv",
        "",
        "From `vanbench profile`: a row is an operation of a step, in the order in which it ran.",
        "",
        *_table(OPS_COLUMNS),
        "",
        "## depthwise.csv",
        "",
        "From `vanbench depthwise`: a row is a case and an implementation.",
        "",
        *_table(DEPTHWISE_COLUMNS),
        "",
        "## The blocks of a gate",
        "",
        "From `vanbench.load` of a gate's folder or record: a row is a block. No file of its own.",
        "",
        *_table(BLOCKS_COLUMNS),
    ]
    return "\n".join(lines) + "\n"


def _table(columns: Sequence[Column]) -> list[str]:
    lines = ["| column | kind | unit | meaning |", "|---|---|---|---|"]
    return lines + [f"| `{each.name}` | {each.kind} | {each.unit} | {each.meaning} |" for each in columns]
