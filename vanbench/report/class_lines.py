"""A profiled step in lines of text: its operations by class, stage or kind, and what a reader must know of it."""

from __future__ import annotations

from collections.abc import Sequence

from vanbench.report.op_tables import OFF, Group, Step, first_break
from vanbench.units import percent, seconds, significant

__all__ = ["HEAD", "class_lines", "warnings_of"]

HEAD = ("", "operations", "ms an image", "share", "of its roof")


def class_lines(step: Step, found: Sequence[Group]) -> list[tuple[str, str, str, str, str]]:
    """(name, operations, ms an image, share of the operations' time, of its roof)."""
    return [
        (
            each.name,
            str(each.operations),
            significant(each.seconds / step.batch_size * 1e3),
            percent(each.share),
            percent(each.fraction) if each.fraction is not None else "",
        )
        for each in found
    ]


def warnings_of(step: Step) -> list[str]:
    """What a reader of a step's tables must know."""
    said = []
    if abs(step.off) > OFF:
        said.append(
            f"{step.words}: the operations add up to {seconds(step.total_s)}, {percent(abs(step.off))} "
            f"{'more' if step.off > 0 else 'less'} than the step without a profiler ({seconds(step.step_s)})"
        )
    if step.rows[0]["memory_format"] == "channels_last":
        broke = first_break(step)
        if broke is not None:
            said.append(
                f"{step.words}: channels_last is lost first at operation {broke['place']}, {broke['op']} "
                f"({broke['shape_out']}) {'in ' + str(broke['module']) if broke['module'] else 'between modules'}"
            )
    unknown = sorted({str(row["op"]) for row in step.rows if row["flops"] is None})
    if unknown:
        said.append(f"{step.words}: no formula for {', '.join(unknown)}; their bytes count, and they have no bound")
    notes = str(step.rows[0]["note"] or "")
    return said + [f"{step.words}: {note}" for note in notes.split("; ") if note]
