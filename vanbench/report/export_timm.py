"""A table with the columns of timm's published result CSVs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from vanbench.errors import UserError
from vanbench.report.columns import Value
from vanbench.report.export_values import Chosen, Exported, Wishes
from vanbench.report.table import Row
from vanbench.report.timm_tables import published_name
from vanbench.units import plain

__all__ = ["timm"]

# The latest published order of each task. Activations (macts) are counted by timm and not by us: an empty cell.
_HEADERS = {
    "infer": ("img_size", "samples_per_sec", "step_time", "batch_size", "param_count", "gmacs", "macts"),
    "train": ("samples_per_sec", "step_time", "batch_size", "img_size", "param_count"),
}
# What a table has in its file's name at best, so that all its rows must agree in it.
_IN_THE_NAME = ("precision", "memory_format", "compile", "form", "depthwise", "allocator", "device", "threads")


def timm(chosen: Sequence[Chosen], wishes: Wishes) -> Exported:
    """One task's rows, the fastest first: step time in ms, parameters in M, GMACs for one image.

    The step's time is the mean, as timm's is: batch size over images/s. Raises UserError where the rows are of both
    tasks, or differ in what the columns do not tell.
    """
    (run,) = chosen
    rows = [entry.row for entry in run.entries]
    tasks = list(dict.fromkeys(str(row["task"]) for row in rows))
    if len(tasks) > 1:
        raise UserError(f"a table of timm's is of one task, {run.stored.path} has {' and '.join(tasks)}: give --task")
    for column in _IN_THE_NAME:
        seen = list(dict.fromkeys(str(row[column]) for row in rows))
        if len(seen) > 1:
            axis = column.replace("_", "-")
            raise UserError(
                f"a table of timm's does not tell {axis} apart, and {run.stored.path} has {', '.join(seen)}: "
                f"choose with --only {axis}={seen[0]}"
            )
    (task,) = tasks
    names = _HEADERS[task]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", *(name if name == "param_count" else f"{task}_{name}" for name in names)])
    for row in sorted(rows, key=lambda row: -_number(row, "images_per_s")):
        writer.writerow([row["model"], *(_cell(row, name) for name in names)])
    return Exported(text.getvalue(), notes=_notes(run, rows[0]))


def _cell(row: Row, name: str) -> str:
    values: dict[str, Value] = {
        "img_size": row["image_size"],
        "samples_per_sec": row["images_per_s"],
        "step_time": 1e3 * _number(row, "batch_size") / _number(row, "images_per_s"),
        "batch_size": row["batch_size"],
        "param_count": _number(row, "params") / 1e6 or None,
        "gmacs": _number(row, "macs") / 1e9 or None,
    }
    value = values.get(name)
    return plain(value) if isinstance(value, (int, float)) else ""


def _number(row: Row, column: str) -> float:
    value = row[column]
    return float(value) if isinstance(value, (int, float)) else 0.0


def _notes(run: Chosen, row: Row) -> list[str]:
    notes = [f"timm's columns have no room for intervals, ratios, flags and the machine key ({row['machine_key']})"]
    flagged = [f"{entry.name} ({entry.row['flags']})" for entry in run.entries if entry.row["flags"]]
    if flagged:
        notes.append(f"flagged: {', '.join(flagged)}")
    name = published_name(row)
    if name is None:
        return [*notes, "timm's file names have no words for how these rows were measured: name the file as you like"]
    notes.append(f"precision, layout and compile belong into the file's name: {name}")
    usual = {"form": "reference", "depthwise": "native", "allocator": "system"}
    lost = [str(row[axis]) for axis, word in usual.items() if row[axis] != word]
    lost += [str(row["compile"])] * (row["compile"] not in ("off", "default"))
    return notes + [f"which does not say {', '.join(lost)}"] * bool(lost)
