"""The pages of `ceilings`, `profile` and `depthwise`: tables, report.md and plots of a folder, from what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vanbench.record.ceilings import Ceilings
from vanbench.record.environment import Environment
from vanbench.record.files import replace_file
from vanbench.record.folder import Folder, read_folder
from vanbench.report.ceilings_text import ceilings_parts
from vanbench.report.class_lines import HEAD, class_lines, warnings_of
from vanbench.report.depthwise_columns import DEPTHWISE_COLUMNS, depthwise_rows
from vanbench.report.drawing import Drawn, save
from vanbench.report.folder_html import depthwise_section, facts_of, profile_section
from vanbench.report.op_tables import groups, kinds, steps
from vanbench.report.ops_columns import OPS_COLUMNS, op_rows
from vanbench.report.table import Row
from vanbench.report.to_csv import csv_text
from vanbench.report.to_html import ceilings_section, plots_as_written, rendered
from vanbench.report.to_markdown import escaped, markdown_table
from vanbench.units import percent, seconds

__all__ = [
    "depthwise_table",
    "op_figures",
    "ops_table",
    "write_folder",
]


def ops_table(folder: Folder) -> list[Row]:
    """The rows of ops.csv."""
    found: list[Row] = []
    for profile in folder.profiles.profiles if folder.profiles is not None else ():
        entry = folder.book.of(folder.environment.machine_key, profile.device, profile.threads)
        found += op_rows(profile, entry, folder.environment)
    return found


def depthwise_table(folder: Folder) -> list[Row]:
    """The rows of depthwise.csv."""
    if folder.lone is None:
        return []
    entry = folder.book.of(folder.environment.machine_key, folder.lone.device, folder.lone.threads)
    return depthwise_rows(folder.lone, entry, folder.environment)


def write_folder(path: Path, *, plots: bool = True) -> list[Path]:
    """Every table and page that the folder's contents allow; the paths written."""
    folder = read_folder(path)
    written: list[Path] = []
    parts = [f"# {escaped(path.name)}", _about(folder.environment)]
    figures: list[Drawn] = []
    if folder.profiles is not None:
        table = ops_table(folder)
        written.append(_write(path / "ops.csv", csv_text(table, OPS_COLUMNS)))
        parts += _profile_parts(table, folder)
        if plots:
            figures += op_figures(table, _roofs_of(folder))
    if folder.lone is not None:
        table = depthwise_table(folder)
        written.append(_write(path / "depthwise.csv", csv_text(table, DEPTHWISE_COLUMNS)))
        parts += _depthwise_parts(table)
        if plots:
            from vanbench.report.depthwise_maps import draw_depthwise

            figures += draw_depthwise(table)
    for entry in folder.book.entries:
        parts += [f"## Ceilings, {entry.threads} thread{'s' if entry.threads != 1 else ''}", *ceilings_parts(entry)]
    if plots:
        from vanbench.report.ceilings_plot import ceilings_figures

        figures += ceilings_figures(folder.book)
        paths, shown = save(figures, path / "plots")
        written += paths
        written.append(_write(path / "report.html", _page(folder, paths, shown)))
        made = [f"![{escaped(each.title)}](plots/{each.name}.png)" for each in shown if not each.reason]
        missing = [f"- No figure “{escaped(each.title)}”: {escaped(each.reason)}." for each in shown if each.reason]
        parts += [*(["## Plots"] if made else []), *made, *(["\n".join(missing)] if missing else [])]
    written.append(_write(path / "report.md", "\n\n".join(parts) + "\n"))
    return written


def _page(folder: Folder, paths: Sequence[Path], shown: Sequence[Drawn]) -> str:
    """report.html, from the plots as they were written."""
    drawn = plots_as_written(paths, shown)
    roofs, convs = ([each for each in drawn if each[0].startswith(word)] for word in ("ceilings", "depthwise"))
    others = [each for each in drawn if each not in (*roofs, *convs)]
    sections = []
    if folder.profiles is not None:
        failed = [f"Not profiled: {cell}: {reason}" for cell, reason in folder.profiles.failed]
        sections.append(profile_section("Operations", ops_table(folder), others, "op", failed, ops=True))
    if folder.lone is not None:
        sections.append(depthwise_section("Depthwise convs alone", depthwise_table(folder), convs, "case"))
    if folder.book.entries:
        sections.append(ceilings_section(folder.book, roofs, "ceilings"))
    return rendered(folder.path.name, "", sections, [facts_of(folder.environment)])


def _write(path: Path, text: str) -> Path:
    replace_file(path, text.encode())
    return path


def op_figures(table: Sequence[Row], entry: Ceilings | None) -> list[Drawn]:
    """The figures of ops.csv. entry: the roofs of the device that the rows were timed on, None without any."""
    from vanbench.report.class_bars import draw_classes
    from vanbench.report.roofline_plot import draw_roofline

    if entry is None:
        roofline = Drawn("roofline", "Operations under the measured roofs", None, "there are no measured roofs")
    else:
        roofline = draw_roofline(table, entry)
    return [roofline, draw_classes(table)]


def _roofs_of(folder: Folder) -> Ceilings | None:
    """The first measured roofs of any device that the folder's profiles were timed on."""
    profiles = folder.profiles.profiles if folder.profiles is not None else ()
    entries = (folder.book.of(folder.environment.machine_key, each.device, each.threads) for each in profiles)
    return next((entry for entry in entries if entry is not None), None)


def _about(environment: Environment) -> str:
    facts = [
        ("date", environment.date),
        ("device", f"{environment.device}, {environment.device_name}"),
        ("software", f"vanbench {environment.software.vanbench}, torch {environment.software.torch}"),
        ("machine key", environment.machine_key),
    ]
    return markdown_table(["", ""], facts)


def _profile_parts(table: Sequence[Row], folder: Folder) -> list[str]:
    parts: list[str] = []
    for step in steps(table):
        parts += [
            f"## {escaped(step.words)}",
            f"A step takes {seconds(step.step_s)}, its operations together {seconds(step.total_s)}.",
            *(f"- {escaped(line)}" for line in warnings_of(step)),
            markdown_table(HEAD, class_lines(step, groups(step, "op_class")), align="lrrrr"),
            markdown_table(HEAD, class_lines(step, groups(step, "stage")), align="lrrrr"),
            "What takes a hundredth of the time or more:",
            markdown_table(HEAD, class_lines(step, kinds(step)), align="lrrrr"),
        ]
    failed = folder.profiles.failed if folder.profiles is not None else ()
    if failed:
        parts += ["## Not profiled", markdown_table(["cell", "reason"], failed)]
    parts.append(
        "*of its roof*: the least time that the measured ceilings allow, over the time it took. A blank: no ceilings, "
        "or an operation without a formula. Every operation is in `ops.csv`, every time in `profiles.json`."
    )
    return parts


def _depthwise_parts(table: Sequence[Row]) -> list[str]:
    measured = [row for row in table if row["status"] == "measured" and row["models"] is not None]
    lines = [_depthwise_line(row) for row in measured]
    head = ["conv", "", "pass", "by", "warm", "of its roof", "cold", "of its roof", "in"]
    counts = {status: sum(row["status"] == status for row in table) for status in ("measured", "failed", "skipped")}
    return [
        "## Depthwise convs alone",
        f"{len(table)} cases: " + ", ".join(f"{count} {status}" for status, count in counts.items() if count) + ". "
        "Those that occur in the models:",
        markdown_table(head, lines, align="llllrrrrl"),
    ]


def _depthwise_line(row: Row) -> tuple[str, ...]:
    words = f"{row['channels']} x {row['height']} px, {row['kernel_size']}x{row['kernel_size']}"
    words += f" d{row['dilation']}" if row["dilation"] != 1 else ""
    words += f" s{row['stride']}" if row["stride"] != 1 else ""
    figures = (("warm_s", seconds), ("warm_fraction", percent), ("cold_s", seconds), ("cold_fraction", percent))
    return (
        words,
        f"{row['precision']} {row['memory_format']}",
        str(row["pass"]),
        str(row["depthwise"]),
        *(text(float(value)) if isinstance(value := row[name], (int, float)) else "" for name, text in figures),
        str(row["models"]),
    )
