"""The text of report.md: the question, what was run on what, the table, what disturbed it, plots, how to read it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vanbench.analysis.flags import remedies
from vanbench.record.ceilings import NO_BOOK, Book
from vanbench.record.environment import Environment
from vanbench.report.answers import answers
from vanbench.report.table import Row, labels
from vanbench.spec.sweep import Sweep
from vanbench.units import duration, memory, percent, quantity, seconds, significant, with_spread

__all__ = [
    "Heading",
    "answer_parts",
    "bound_of",
    "code",
    "escaped",
    "figure_of",
    "flag_counts",
    "heading_of_run",
    "heading_of_table",
    "markdown",
    "markdown_table",
    "measured_parts",
    "names_of_flags",
]

_HOW_TO_READ = """\
- **Ratio** is the figure to compare models by: images/s over the reference's, from turns that the two took side by
  side, so that what slows the machine slows both: in each round the mean over the middle half of the laps, then the
  mean over rounds. The reference is the row whose ratio is 1 without an interval.
- **±** is half of a 95 % interval by Student's t over rounds, and a round is one fresh process a cell: what differs
  from process to process is in it, what differs from machine to machine is not. Printed digits follow from it.
- **Images/s** is all images over all time of all samples, none left out. It moves with the state of the machine, which
  wanders: do not compare images/s of two runs where one run can give a ratio.
- **Step** is the median of single steps, of the whole batch. **Peak memory** is what CUDA allocated, or on a CPU the
  process's peak over its state before the first step.
- **Of bound**: images/s over the most that the measured ceilings allow, and the roof that most of that bound is due to:
  operation by operation for eager cells, each block one operation for compiled ones.
- Weights are random, nothing is downloaded; each cell's answer was checked against the fp32 model before timing.
- Every figure is in `results.csv` with ten digits, every sample in `cells/`."""


class Heading(NamedTuple):
    """What stands above the table: a title, the question asked (or empty), and facts as (name, text)."""

    title: str
    question: str
    facts: list[tuple[str, str]]


def heading_of_run(sweep: Sweep, environment: Environment, book: Book = NO_BOOK) -> Heading:
    """From a run directory: everything about the machine that was asked. book: its ceilings."""
    hardware, software, rest = environment.hardware, environment.software, environment.rest
    quota = f", {significant(hardware.cpu_quota)} CPUs granted" if hardware.cpu_quota is not None else ""
    system = f", {hardware.virtualisation}" if hardware.virtualisation else ""
    versions = [
        f"vanbench {software.vanbench}",
        f"Python {software.python}",
        f"torch {software.torch}",
        f"timm {software.timm}",
        f"numpy {software.numpy}",
    ]
    versions += [f"{name} {text}" for name, text in (("CUDA", software.cuda), ("cuDNN", software.cudnn)) if text]
    versions += [f"driver {software.driver}"] if software.driver else []
    plan = sweep.plan
    facts = [
        ("date", environment.date),
        ("device", f"{environment.device}, {environment.device_name}"),
        ("machine", f"{hardware.cpu}, {hardware.cores} cores{quota}, {hardware.memory_gib} GiB{system}"),
        ("software", ", ".join(versions)),
        ("system", f"{software.os} {software.kernel}, {software.libc}"),
        ("threads", f"{rest.threads}, wait policy {rest.wait_policy}, allocator {rest.allocator}"),
        (
            "sampling",
            f"samples of about {seconds(plan.sample_s)} in turns, {plan.min_rounds} to {plan.max_rounds} rounds of "
            f"fresh processes, target ± {percent(plan.target)}, budget {duration(plan.budget_s)}, seed {plan.seed}",
        ),
        ("ceilings", _ceilings(book)),
        ("machine key", environment.machine_key),
    ]
    facts[4:4] = [(f"GPU {i}", f"{gpu.name}, {memory(gpu.memory_bytes)}") for i, gpu in enumerate(hardware.gpus)]
    return Heading(sweep.name, sweep.question, facts)


def _ceilings(book: Book) -> str:
    if not book.entries:
        return "none: no bounds; measure them with vanbench ceilings, then vanbench report with --ceilings"
    return "; ".join(
        f"measured {entry.date} with {entry.threads} thread{'s' if entry.threads != 1 else ''}"
        + (f", looked at again {entry.repeated}" if entry.repeated else "")
        for entry in book.entries
    )


def heading_of_table(rows: Sequence[Row], title: str) -> Heading:
    """From a results.csv alone: what its columns say, each value that occurs."""
    names = ("date", "device_name", "torch_version", "vanbench_version", "machine_key")
    seen = [(name, list(dict.fromkeys(str(row[name]) for row in rows if row[name] is not None))) for name in names]
    return Heading(title, "", [(name.replace("_", " "), ", ".join(values)) for name, values in seen if values])


def figure_of(row: Row, name: str) -> str:
    """A column with an interval as text whose digits follow from it; empty if absent."""
    value, low, high = (row[part] for part in (name, f"{name}_low", f"{name}_high"))
    if not isinstance(value, (int, float)):
        return ""
    ends = (
        (float(low), float(high)) if isinstance(low, (int, float)) and isinstance(high, (int, float)) else (None, None)
    )
    return with_spread(float(value), *ends)


def bound_of(row: Row) -> str:
    """How near the row is to its bound, and which roof that is; empty without ceilings."""
    fraction = row["bound_fraction"]
    return f"{percent(float(fraction))} {row['bound_kind']}" if isinstance(fraction, (int, float)) else ""


def names_of_flags(row: Row) -> list[str]:
    """The row's flags."""
    return str(row["flags"] or "").split(";") if row["flags"] else []


def flag_counts(rows: Iterable[Row]) -> list[tuple[str, int, str]]:
    """(flag, how many rows carry it, remedy), in the order of the table of flags."""
    counts = Counter(name for row in rows for name in names_of_flags(row))
    lines = [line.split(": ", 1) for line in remedies(counts)]
    return [(name, counts[name], remedy) for name, remedy in lines]


def markdown(rows: Sequence[Row], heading: Heading, plots: Sequence[tuple[str, str]], missing: Sequence[str]) -> str:
    """The report. plots: (title, path of the image, relative); missing: a line for each figure that was not made."""
    parts = [f"# {escaped(heading.title)}"]
    if heading.question:
        parts.append(escaped(heading.question))
    parts.append(markdown_table(["", ""], heading.facts))
    parts.append(_summary(rows))
    parts += measured_parts(rows)
    names = dict(zip(map(id, rows), labels(rows), strict=True))
    for status, title in (("failed", "Failed"), ("skipped", "Not measured")):
        mine = [row for row in rows if row["status"] == status]
        if mine:
            lines = [(names[id(row)], str(row["reason"] or ""), code(row["rerun"])) for row in mine]
            head = ["cell", "reason", "run it alone with"]
            width = 3 if status == "failed" else 2
            parts += [f"## {title}", markdown_table(head[:width], [line[:width] for line in lines], raw=(2,))]
    counts = flag_counts(rows)
    if counts:
        parts.append("## What disturbed it")
        parts.append(
            markdown_table(["flag", "cells", "remedy"], [(name, str(count), text) for name, count, text in counts])
        )
    parts += answer_parts(rows)
    if plots:
        parts.append("## Plots")
        parts += [f"![{escaped(title)}]({path})" for title, path in plots]
    if missing:
        parts.append("\n".join(f"- {escaped(line)}" for line in missing))
    parts += ["## How to read it", _HOW_TO_READ]
    return "\n\n".join(parts) + "\n"


def measured_parts(rows: Sequence[Row], mark: str = "##") -> list[str]:
    """A heading (begun by `mark`) and a table for each task, batch and image size: what was measured, fastest first."""
    measured = [row for row in rows if row["status"] == "measured"]
    parts = []
    names = dict(zip(map(id, rows), labels(rows), strict=True))
    for contest in dict.fromkeys(_contest(row) for row in measured):
        task, batch_size, image_size = contest
        parts.append(f"{mark} {task}, batch {batch_size}, {image_size} px")
        mine = sorted((row for row in measured if _contest(row) == contest), key=_rate, reverse=True)
        references = dict.fromkeys(str(row["ratio_to"]) for row in mine if row["ratio_to"] is not None)
        if references:
            parts.append(f"Ratios are to {', '.join(f'**{escaped(each)}**' for each in references)}.")
        head = ["cell", "images/s", "ratio", "step", "p95", "of bound", "peak memory", "parameters", "rounds", "flags"]
        parts.append(markdown_table(head, [_measured_line(row, names[id(row)]) for row in mine], align="lrrrrrrrrl"))
    return parts


def answer_parts(rows: Sequence[Row], mark: str = "##") -> list[str]:
    """What follows from the rows together: a heading (begun by `mark`), how to read it and a table for each answer."""
    parts = []
    for each in answers(rows):
        table = markdown_table([escaped(head) for head in each.head], each.lines, align=each.align)
        parts += [f"{mark} {each.title}", escaped(each.text), table]
    return parts


def _contest(row: Row) -> tuple[str, str, str]:
    return str(row["task"]), str(row["batch_size"]), str(row["image_size"])


def _rate(row: Row) -> float:
    value = row["images_per_s"]
    return float(value) if isinstance(value, (int, float)) else 0.0


def _summary(rows: Sequence[Row]) -> str:
    counts = Counter(str(row["status"]) for row in rows)
    said = [f"{counts[status]} {status}" for status in ("measured", "failed", "skipped") if counts[status]]
    return f"{len(rows)} cells: {', '.join(said)}." if rows else "No cells."


def _measured_line(row: Row, name: str) -> list[str]:
    median, p95, peak, params = (row[column] for column in ("median_s", "p95_s", "peak_bytes", "params"))
    return [
        name,
        figure_of(row, "images_per_s"),
        figure_of(row, "ratio"),
        seconds(float(median)) if median is not None else "",
        seconds(float(p95)) if p95 is not None else "",
        bound_of(row),
        memory(float(peak)) if peak is not None else "",
        quantity(float(params)) if params is not None else "",
        str(row["rounds"] or ""),
        ", ".join(names_of_flags(row)),
    ]


def escaped(text: str) -> str:
    """Text as Markdown shows it literally, on one line, within a table too."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", " ".join(text.split()))


def code(value: object) -> str:
    """A command in backticks that survives a table: GitHub reads `\\|` as a bar there, even within code."""
    text = " ".join(str(value or "").split())
    if not text:
        return ""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    room = " " if longest else ""
    return f"{fence}{room}{text}{room}{fence}".replace("|", "\\|")


def markdown_table(
    head: Sequence[str], lines: Iterable[Sequence[str]], align: str = "", raw: Sequence[int] = ()
) -> str:
    """A Markdown table; every cell escaped but those of the columns in `raw`."""
    marks = {"r": "---:", "l": "---"}
    rule = [marks[side] for side in align or "l" * len(head)]
    text = ["| " + " | ".join(head) + " |", "| " + " | ".join(rule) + " |"]
    for line in lines:
        cells = [cell if place in raw else escaped(cell) for place, cell in enumerate(line)]
        text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)
