"""The tables of docs/is_it_the_bandwidth.md, made from committed results and put between the page's marks.

Why: a page whose figures are typed by hand says something else than its data sooner or later.
How long: a moment; it measures nothing.
Command: python experiments/bandwidth_page.py results/<machine> docs/is_it_the_bandwidth.md
Columns: none of its own; it reads profile_tiny_small.csv, profile.csv, depthwise.csv, tiny_against_small.csv and
ceilings.json.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from vanbench.record.ceilings import read_book
from vanbench.report.ceilings_text import ceilings_lines
from vanbench.report.class_lines import class_lines
from vanbench.report.depthwise_columns import DEPTHWISE_COLUMNS
from vanbench.report.depthwise_columns import NEEDED as DEPTHWISE_NEEDED
from vanbench.report.op_tables import Step, groups, kinds, steps
from vanbench.report.ops_columns import NEEDED as OPS_NEEDED
from vanbench.report.ops_columns import OPS_COLUMNS
from vanbench.report.table import Row, read_rows
from vanbench.report.to_markdown import bound_of, figure_of, markdown_table
from vanbench.units import percent, quantity, seconds, significant, with_spread

HEAD = ["", "operations", "ms an image", "share of the time", "of its roof"]


def ops(machine: Path, name: str) -> list[Step]:
    """The steps of a committed ops.csv."""
    text = (machine / f"{name}.csv").read_text(encoding="utf-8")
    return steps(read_rows(text, name, OPS_COLUMNS, OPS_NEEDED, "ops.csv"))


def roofs(machine: Path) -> str:
    """The roofs with two threads: a few working sets, the units, a launch."""
    entry = max(read_book(machine / "ceilings.json").entries, key=lambda each: each.threads)
    wanted = ("64 KiB", "1 MiB", "16 MiB", "1 GiB")
    lines = ceilings_lines(entry)
    kept = [line for line in lines if "," not in line[0] or line[0].split(", ")[1] in (*wanted, "fp32")]
    return markdown_table(["roof", "best", "median of visits", "how"], kept, align="lrrl")


def _number(row: Row, name: str) -> float:
    value = row[name]
    assert isinstance(value, (int, float)), name
    return float(value)


def against(machine: Path) -> str:
    """VAN-B0 over VAN-B1: speed, multiply-adds, bytes and operations, by batch and layout."""
    text = (machine / "tiny_against_small.csv").read_text(encoding="utf-8")
    rows = {
        (row["model"], row["batch_size"], row["memory_format"]): row
        for row in read_rows(text, "tiny_against_small")
        if row["status"] == "measured"
    }
    profiled = {
        (each.rows[0]["model"], each.batch_size, each.rows[0]["memory_format"]): each
        for each in ops(machine, "profile_tiny_small")
    }
    lines = []
    for (model, batch, layout), small in rows.items():
        if model != "van_b0":
            continue
        other = rows["van_b1", batch, layout]
        bounds = [_number(row, "bound_images_per_s") for row in (small, other)]
        mine, theirs = profiled["van_b0", batch, layout], profiled["van_b1", batch, layout]  # type: ignore[index]
        if other["ratio_to"] is not None and small["ratio_low"] is None:  # B0 is the reference: turned over
            ratio = with_spread(*(1 / _number(other, name) for name in ("ratio", "ratio_high", "ratio_low")))
        else:
            ratio = significant(_number(small, "ratio") / _number(other, "ratio"))
        lines.append(
            [
                f"batch {batch}, {layout}",
                ratio,
                figure_of(small, "images_per_s"),
                figure_of(other, "images_per_s"),
                significant(_number(other, "macs") / _number(small, "macs")),
                significant(_number(other, "bytes_modelled") / _number(small, "bytes_modelled")),
                significant(len(theirs.rows) / len(mine.rows)),
                significant(bounds[0] / bounds[1]),
                bound_of(small),
                bound_of(other),
            ]
        )
    head = ["", "B0 over B1", "B0, images/s", "B1, images/s"]
    head += [f"B1 over B0 in {what}" for what in ("multiply-adds", "bytes", "operations")]
    head += ["what the bounds say: B0 over B1", "B0, of bound", "B1, of bound"]
    return markdown_table(head, lines, align="l" + "r" * 9)


def bandwidths(machine: Path) -> str:
    """The bytes that each step must move, over the time it took, beside main memory's roof."""
    text = (machine / "tiny_against_small.csv").read_text(encoding="utf-8")
    lines = [
        [
            f"{row['model']}, batch {row['batch_size']}, {row['memory_format']}",
            f"{quantity(_number(row, 'bytes_modelled') / _number(row, 'batch_size'))}B",
            f"{significant(_number(row, 'bandwidth_bytes_per_s') / 1e9)} GB/s",
            bound_of(row),
            f"{significant(_number(row, 'images_per_s'))}",
            f"{significant(_number(row, 'bound_images_per_s'))}",
            f"{significant(_number(row, 'ideal_images_per_s'))}",
        ]
        for row in read_rows(text, "tiny_against_small")
        if row["status"] == "measured"
    ]
    head = ["", "bytes an image", "moved a second", "of bound", "images/s", "bound", "fused ideal"]
    return markdown_table(head, lines, align="lrrlrrr")


def by_roof(machine: Path) -> str:
    """What each roof would allow: the least time an image, by the roof that sets it, beside the time it took."""
    lines = []
    for step in ops(machine, "profile_tiny_small"):
        shares: dict[str, float] = {}
        for row in step.rows:
            if row["bound_s"] is not None:
                shares[str(row["bound_kind"])] = shares.get(str(row["bound_kind"]), 0.0) + _number(row, "bound_s")
        amounts = [shares.get(kind, 0.0) for kind in ("matrix", "bandwidth", "vector", "launch")]
        amounts += [sum(shares.values()), step.step_s]
        lines.append([step.words, *(significant(amount / step.batch_size * 1e3) for amount in amounts)])
    head = ["ms an image", "matrix", "bandwidth", "vector", "launch", "all: the bound", "measured"]
    return markdown_table(head, lines, align="l" + "r" * 6)


def by_class(machine: Path, batch: int, layout: str) -> str:
    """The classes of B0 and B1 side by side."""
    both = {
        str(each.rows[0]["model"]): each
        for each in ops(machine, "profile_tiny_small")
        if each.batch_size == batch and each.rows[0]["memory_format"] == layout
    }
    lines = []
    found = {model: {group.name: group for group in groups(step, "op_class")} for model, step in both.items()}
    for name in found["van_b0"]:
        line = [name]
        for model in ("van_b0", "van_b1"):
            _, count, ms, share, fraction = class_lines(both[model], [found[model][name]])[0]
            line += [count, ms, share, fraction]
        lines.append(line)
    line = ["outside operations"]
    for model in ("van_b0", "van_b1"):
        step = both[model]
        rest = step.step_s - step.total_s
        line += ["", significant(rest / step.batch_size * 1e3), f"({percent(rest / step.step_s)} of the step)", ""]
    lines.append(line)
    head = [""]
    for model in ("B0", "B1"):
        head += [f"{model}: operations", "ms an image", "share", "of its roof"]
    return markdown_table(head, lines, align="l" + "r" * 8)


def by_kind(machine: Path, layout: str) -> str:
    """What takes three hundredths of VAN-B0's time or more."""
    step = next(
        each
        for each in ops(machine, "profile")
        if each.rows[0]["model"] == "van_b0" and each.rows[0]["memory_format"] == layout
    )
    return markdown_table(HEAD, class_lines(step, kinds(step, 0.03)), align="lrrrr")


def families(machine: Path) -> str:
    """Share of the time and distance from the roof by class, VAN beside ConvNeXt beside ResNet."""
    found = ops(machine, "profile")
    names = list(dict.fromkeys(group.name for step in found for group in groups(step, "op_class")))
    lines = []
    for step in found:
        by = {group.name: group for group in groups(step, "op_class")}
        cells = []
        for name in names:
            group = by.get(name)
            if group is None:
                cells.append("")
                continue
            near = f" ({percent(group.fraction)})" if group.fraction is not None else ""
            cells.append(f"{percent(group.share)}{near}")
        lines.append([step.words, seconds(step.step_s), *cells])
    return markdown_table(["", "step", *names], lines, align="lr" + "r" * len(names))


def alone(machine: Path) -> str:
    """Depthwise convs of VAN-B0 and ConvNeXt-T alone, forward: the dilated one beside the dense one of its size."""
    text = (machine / "depthwise.csv").read_text(encoding="utf-8")
    rows = read_rows(text, "depthwise", DEPTHWISE_COLUMNS, DEPTHWISE_NEEDED, "depthwise.csv")
    lines = []
    maps = list(dict.fromkeys((row["channels"], row["height"]) for row in rows))
    for channels, height in maps:
        mine = [row for row in rows if (row["channels"], row["height"]) == (channels, height)]
        if not any(row["dilation"] == 3 and row["models"] for row in mine):
            continue
        for layout in ("contiguous", "channels_last"):
            line = [f"{channels} x {height} px, {layout}"]
            for direction in ("forward", "grad_input", "grad_weight"):
                for dilation in (1, 3):
                    row = next(
                        each
                        for each in mine
                        if (each["kernel_size"], each["dilation"], each["memory_format"], each["pass"])
                        == (7, dilation, layout, direction)
                    )
                    line.append(f"{seconds(_number(row, 'warm_s'))} ({percent(_number(row, 'warm_fraction'))})")
            lines.append(line)
    head = ["", *(f"{what}, dilation {d}" for what in ("forward", "grad_input", "grad_weight") for d in (1, 3))]
    return markdown_table(head, lines, align="l" + "r" * 6)


def kernels(machine: Path) -> str:
    """Which primitive serves the 7x7, by layout, dilation and pass."""
    text = (machine / "depthwise.csv").read_text(encoding="utf-8")
    rows = read_rows(text, "depthwise", DEPTHWISE_COLUMNS, DEPTHWISE_NEEDED, "depthwise.csv")
    lines: dict[tuple[str, ...], None] = {}
    for row in rows:
        if row["kernel_size"] == 7 and row["dilation"] in (1, 3) and row["models"]:
            names = [word for word in str(row["kernel"]).split(";") if not word.startswith("reorder")]
            place = (str(row["memory_format"]), f"dilation {row['dilation']}", str(row["pass"]), ", ".join(names))
            lines[place] = None
    return markdown_table(["layout", "7x7", "pass", "oneDNN's implementation"], sorted(lines))


TABLES: dict[str, Callable[[Path], str]] = {
    "roofs": roofs,
    "against": against,
    "bandwidths": bandwidths,
    "roofs that bind": by_roof,
    "classes, batch 8, contiguous": lambda machine: by_class(machine, 8, "contiguous"),
    "classes, batch 1, contiguous": lambda machine: by_class(machine, 1, "contiguous"),
    "kinds, contiguous": lambda machine: by_kind(machine, "contiguous"),
    "kinds, channels_last": lambda machine: by_kind(machine, "channels_last"),
    "families": families,
    "alone": alone,
    "kernels": kernels,
}


def filled(page: str, machine: Path, tables: Mapping[str, Callable[[Path], str]] = TABLES) -> str:
    """The page with every table made anew. A mark is `<!-- table: NAME -->`; its table ends at `<!-- end -->`."""

    def table(found: re.Match[str]) -> str:
        return f"<!-- table: {found[1]} -->\n\n{tables[found[1]](machine)}\n\n<!-- end -->"

    return re.sub(r"<!-- table: (.+?) -->.*?<!-- end -->", table, page, flags=re.DOTALL)


def main() -> None:
    """Fill the page in place."""
    machine, page = Path(sys.argv[1]), Path(sys.argv[2])
    page.write_text(filled(page.read_text(encoding="utf-8"), machine), encoding="utf-8")


if __name__ == "__main__":
    main()
