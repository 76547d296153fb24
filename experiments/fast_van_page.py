"""The tables of docs/fast_van.md, made from committed results and put between the page's marks.

Why: a figure that is typed by hand is wrong one day.
How long: a moment; it measures nothing.
Command: python experiments/fast_van_page.py results/<machine> docs/fast_van.md
Columns: none of its own; it reads fast_van_*.csv and depthwise_kernels.csv. A test holds the page to them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from bandwidth_page import filled

from vanbench.report.depthwise_columns import DEPTHWISE_COLUMNS
from vanbench.report.depthwise_columns import NEEDED as DEPTHWISE_NEEDED
from vanbench.report.table import Row, read_rows
from vanbench.report.to_markdown import bound_of, figure_of, markdown_table
from vanbench.units import percent, seconds


def cells(machine: Path, pattern: str) -> str:
    """The measured cells of sweeps, fastest first within each."""
    lines = []
    for file in sorted(machine.glob(f"{pattern}.csv")):
        rows = [row for row in read_rows(file.read_text(encoding="utf-8"), file.name) if row["status"] == "measured"]
        for row in sorted(rows, key=lambda each: -float(str(each["images_per_s"]))):
            words = [str(row[name]) for name in ("form", "depthwise", "memory_format")]
            if row["depthwise"] == "auto" and row["depthwise_convs"]:
                words[1] = f"auto ({str(row['depthwise_convs']).replace(';', ',')})"
            words += ["compiled"] if row["compile"] != "off" else []
            words += [str(row["allocator"])] if row["allocator"] != "system" else []
            lines.append(
                [
                    f"{row['model']} {row['precision']}",
                    ", ".join(words),
                    figure_of(row, "images_per_s"),
                    figure_of(row, "ratio"),
                    bound_of(row),
                    "yes" if "page_faults" in str(row["flags"]) else "",
                ]
            )
    return markdown_table(["", "written as", "images/s", "ratio", "of bound", "page faults"], lines, align="llrrrl")


def kernels(machine: Path) -> str:
    """Each conv of the models alone, warm, by pass: torch's time, ours, how near the roof, and the ratio."""
    text = (machine / "depthwise_kernels.csv").read_text(encoding="utf-8")
    found: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in read_rows(text, "depthwise_kernels", DEPTHWISE_COLUMNS, DEPTHWISE_NEEDED, "depthwise.csv"):
        if row["status"] == "measured" and row["models"]:
            names = ("kernel_size", "dilation", "channels", "height", "precision", "pass")
            found.setdefault(tuple(row[name] for name in names), {})[str(row["depthwise"])] = row
    lines = []
    for key, by in found.items():
        if not {"native", "cpu"} <= by.keys():
            continue
        kernel, dilation, channels, height, precision, direction = key
        what = f"{kernel}x{kernel}" + (f" dilation {dilation}" if dilation != 1 else "")
        ours = by["cpu"]
        lines.append(
            [
                f"{what}, {channels} x {height} px",
                f"{precision} {direction}",
                seconds(float(str(by["native"]["warm_s"]))),
                seconds(float(str(by["polyphase"]["warm_s"]))) if "polyphase" in by else "",
                seconds(float(str(ours["warm_s"]))),
                percent(float(str(ours["warm_fraction"]))) if ours["warm_fraction"] is not None else "",
                figure_of(ours, "ratio"),
            ]
        )
    head = ["", "", "native", "polyphase", "cpu", "cpu, of its roof", "cpu over native"]
    return markdown_table(head, lines, align="llrrrrr")


TABLES: dict[str, Callable[[Path], str]] = {
    "models": lambda machine: cells(machine, "fast_van_van_b*"),
    "bf16": lambda machine: cells(machine, "fast_van_bf16*"),
    "allocators": lambda machine: cells(machine, "fast_van_allocators*"),
    "beside": lambda machine: cells(machine, "fast_van_beside*"),
    "training": lambda machine: cells(machine, "fast_van_training*"),
    "kernels": kernels,
}


def main() -> None:
    """Fill the page in place."""
    machine, page = Path(sys.argv[1]), Path(sys.argv[2])
    page.write_text(filled(page.read_text(encoding="utf-8"), machine, TABLES), encoding="utf-8")


if __name__ == "__main__":
    main()
