"""The terminal's summary at the end of a run. Builds values that rich can draw; prints nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vanbench.report.table import Row, labels
from vanbench.report.to_markdown import bound_of, figure_of, flag_counts, names_of_flags
from vanbench.units import memory, seconds

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["remedy_lines", "summary_table"]

# A failure's message can be a page; the whole of it is in results.csv.
_LONGEST_REASON = 160
_LONGEST_NAME = 44


def summary_table(rows: Sequence[Row]) -> Table:
    """Measured cells by contest, the fastest first; then the failed and the skipped with their reasons.

    Fits 100 columns with ordinary names; longer ones wrap. Names are drawn literally, never read as rich's markup.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    named = list(zip(labels(rows), rows, strict=True))
    measured = [each for each in named if each[1]["status"] == "measured"]
    others = sorted(
        (each for each in named if each[1]["status"] != "measured"), key=lambda each: str(each[1]["status"])
    )
    whole = Table.grid()
    if measured:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        # Flags wrap before names do: a name in two lines is read as two.
        widest = max(len(name) for name, _ in measured)
        table.add_column("cell", overflow="fold", min_width=min(widest, _LONGEST_NAME))
        bounded = any(row["bound_fraction"] is not None for _, row in measured)
        for head in ("images/s", "ratio", "step", *(["of bound"] if bounded else []), "peak memory"):
            table.add_column(head, justify="right", no_wrap=True)
        table.add_column("flags", overflow="fold")
        contests = list(dict.fromkeys(_contest(row) for _, row in measured))
        for contest in contests:
            mine = [each for each in measured if _contest(each[1]) == contest]
            for name, row in sorted(mine, key=lambda each: -float(each[1]["images_per_s"] or 0)):
                last = name == mine[-1][0]
                table.add_row(
                    *(Text(cell) for cell in _cells(name, row, bounded)), end_section=last and contest != contests[-1]
                )
        whole.add_row(table)
    if others:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        for head in ("cell", "", "reason"):
            table.add_column(head, overflow="fold")
        for name, row in others:
            reason = str(row["reason"] or "")
            short = reason if len(reason) <= _LONGEST_REASON else f"{reason[: _LONGEST_REASON - 1]}…"
            style = "red" if row["status"] == "failed" else "dim"
            table.add_row(Text(name), Text(str(row["status"]), style=style), Text(short))
        whole.add_row(table)
    return whole


def remedy_lines(rows: Sequence[Row]) -> list[str]:
    """A line for each flag that occurs: how many cells carry it and what to do; then what re-runs failed cells."""
    lines = [f"{name} ({count} cell{'s' if count != 1 else ''}): {remedy}" for name, count, remedy in flag_counts(rows)]
    return lines + [f"to run it alone: {row['rerun']}" for row in rows if row["rerun"] is not None]


def _contest(row: Row) -> tuple[object, object, object]:
    return row["task"], row["batch_size"], row["image_size"]


def _cells(name: str, row: Row, bounded: bool) -> list[str]:
    step, peak = row["median_s"], row["peak_bytes"]
    return [
        name,
        figure_of(row, "images_per_s"),
        figure_of(row, "ratio"),
        seconds(float(step)) if step is not None else "",
        *([bound_of(row)] if bounded else []),
        memory(float(peak)) if peak is not None else "",
        " ".join(names_of_flags(row)),
    ]
