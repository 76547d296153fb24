"""A machine's measured ceilings as text: the roofs one by one, when they were measured, and the conventions."""

from __future__ import annotations

from vanbench.record.ceilings import Ceilings
from vanbench.report.to_markdown import escaped, markdown_table
from vanbench.units import memory, seconds, significant

__all__ = ["HEAD", "ceilings_lines", "ceilings_parts", "measured_when"]

HEAD = ("roof", "best", "median", "how")


def ceilings_lines(entry: Ceilings) -> list[tuple[str, str, str, str]]:
    """(roof, best, median of visits, how) of each; streams by size, the fastest kind of each, then updates."""
    updates = [each for each in entry.streams if each.kind == "update"]
    others = [each for each in entry.streams if each.kind != "update"]
    tops = [
        max((each for each in others if each.bytes == size), key=lambda each: each.ceiling.best)
        for size in sorted({each.bytes for each in others})
    ]
    lines = [
        (
            f"{top.kind}, {memory(top.bytes)}",
            f"{significant(top.ceiling.best / 1e9)} GB/s",
            f"{significant(top.ceiling.median / 1e9)}",
            top.ceiling.how,
        )
        for top in [*tops, *updates]
    ]
    for name, rates in (("matrix", entry.matrix), ("multiply-add", entry.vector)):
        for word, ceiling in rates.items():
            best, median = (significant(rate / 1e9) for rate in (ceiling.best, ceiling.median))
            lines.append((f"{name}, {word}", f"{best} GFLOP/s", median, ceiling.how))
    if entry.launch is not None:
        lines.append(("launch", seconds(entry.launch.best), seconds(entry.launch.median), entry.launch.how))
    return lines


def measured_when(entry: Ceilings) -> str:
    """When and for how long."""
    said = f"Measured {entry.date} in {entry.seconds:.0f} s of visits in random order; the roof is the best visit."
    return said + (f" Looked at again {entry.repeated}." if entry.repeated else "")


def ceilings_parts(entry: Ceilings) -> list[str]:
    """The parts of a report."""
    table = markdown_table(HEAD, ceilings_lines(entry), align="lrrl")
    notes = "\n".join(f"- {escaped(note)}" for note in entry.notes)
    return [measured_when(entry), table, entry.convention, *([notes] if notes else [])]
