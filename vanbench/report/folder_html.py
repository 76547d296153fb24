"""report.html of what `profile`, `depthwise` and `ceilings` write: the same page as a run's, with their tables."""

from __future__ import annotations

from collections.abc import Sequence

from vanbench.record.environment import Environment
from vanbench.report.answers import Answer
from vanbench.report.class_lines import HEAD, class_lines, warnings_of
from vanbench.report.depthwise_columns import DEPTHWISE_COLUMNS
from vanbench.report.op_tables import groups, kinds, steps
from vanbench.report.ops_columns import OPS_COLUMNS
from vanbench.report.table import Row
from vanbench.report.to_html import Kind, Plot, Section, said_of, section
from vanbench.report.to_markdown import figure_of
from vanbench.units import percent, seconds

__all__ = ["depthwise_section", "facts_of", "profile_section"]


def _named_by_step(rows: Sequence[Row]) -> list[str]:
    words = {id(row): step.words for step in steps(rows) for row in step.rows}
    return [f"{words[id(row)]}: {row['place']}" for row in rows]


def _named_by_conv(rows: Sequence[Row]) -> list[str]:
    names = []
    for row in rows:
        words = [f"{row['channels']} x {row['height']} px, {row['kernel_size']}x{row['kernel_size']}"]
        words += [f"dilation {row['dilation']}"] if row["dilation"] != 1 else []
        words += [f"stride {row['stride']}"] if row["stride"] != 1 else []
        names.append(" ".join(words))
    return names


_OPS = Kind(
    OPS_COLUMNS,
    {
        "op": "operation",
        "op_class": "class",
        "module": "module",
        "shape_in": "in",
        "shape_out": "out",
        "kernel_size": "kernel size",
        "dilation": "dilation",
        "seconds": "time",
        "share": "share",
        "bound_fraction": "of its roof",
        "bound_kind": "roof",
        "kernel": "kernel",
    },
    {
        "seconds": said_of("seconds", seconds),
        "share": said_of("share", percent),
        "bound_fraction": said_of("bound_fraction", percent),
    },
    _named_by_step,
    # Thousands of rows: what is not shown is in ops.csv.
    rest=False,
)
_DEPTHWISE = Kind(
    DEPTHWISE_COLUMNS,
    {
        "precision": "precision",
        "memory_format": "layout",
        "pass": "pass",
        "depthwise": "by",
        "warm_s": "warm",
        "warm_fraction": "of its roof, warm",
        "cold_s": "cold",
        "cold_fraction": "of its roof, cold",
        "ratio": "over native",
        "models": "in",
        "kernel": "kernel",
        "status": "status",
        "reason": "reason",
    },
    {
        "warm_s": said_of("warm_s", seconds),
        "cold_s": said_of("cold_s", seconds),
        "warm_fraction": said_of("warm_fraction", percent),
        "cold_fraction": said_of("cold_fraction", percent),
        "ratio": lambda row: figure_of(row, "ratio"),
    },
    _named_by_conv,
    rest=False,
)


def profile_section(
    title: str, rows: Sequence[Row], figures: Sequence[Plot], anchor: str, findings: Sequence[str] = (), *, ops: bool
) -> Section:
    """Where each step's time goes, by class. ops: by stage and kind besides, and every operation of its own."""
    said = []
    for step in steps(rows):
        about = f"A step takes {seconds(step.step_s)}, its operations together {seconds(step.total_s)}."
        tables = {"class": groups(step, "op_class")}
        tables |= {"stage": groups(step, "stage"), "kind": kinds(step)} if ops else {}
        for name, found in tables.items():
            text = " ".join([about, *warnings_of(step)]) if name == "class" else ""
            said.append(Answer(f"{step.words}, by {name}", text, [name, *HEAD[1:]], class_lines(step, found), "lrrrr"))
    return section(title, rows if ops else [], figures, anchor, findings, _OPS, said)


def depthwise_section(
    title: str, rows: Sequence[Row], figures: Sequence[Plot], anchor: str, findings: Sequence[str] = ()
) -> Section:
    """Depthwise convs alone, a row a case and implementation."""
    return section(title, rows, figures, anchor, findings, _DEPTHWISE, ())


def facts_of(environment: Environment) -> list[tuple[str, str]]:
    """A machine for the end of a page."""
    hardware, software = environment.hardware, environment.software
    system = f", {hardware.virtualisation}" if hardware.virtualisation else ""
    return [
        ("machine", environment.machine),
        ("device", f"{environment.device}, {environment.device_name}"),
        ("hardware", f"{hardware.cpu}, {hardware.cores} cores, {hardware.memory_gib} GiB{system}"),
        ("software", f"vanbench {software.vanbench}, torch {software.torch}, timm {software.timm}"),
        ("machine key", environment.machine_key),
    ]
