"""Tables over the rows of ops.csv: where a step's time goes, by class and stage, and how near each is to its roof."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vanbench.analysis.cost import CLASSES
from vanbench.report.table import Row

__all__ = ["OFF", "Group", "Step", "first_break", "groups", "kinds", "steps"]

# Beyond this the sum of the operations does not stand for the step.
OFF = 0.05
_USUAL = {"form": "reference", "depthwise": "native", "allocator": "system"}


class Group(NamedTuple):
    """Operations of a step taken together. share: of the sum of all operations. bound_s: None without ceilings.

    fraction: the least time over the time; one operation without a formula leaves the group's bound None.
    """

    name: str
    operations: int
    seconds: float
    share: float
    bound_s: float | None
    flops: int
    bytes: int

    @property
    def fraction(self) -> float | None:
        """How near to its roof."""
        return self.bound_s / self.seconds if self.bound_s is not None and self.seconds else None


class Step(NamedTuple):
    """One cell's rows. total_s: the sum of its operations. step_s: the step without a profiler."""

    words: str
    rows: list[Row]
    batch_size: int
    total_s: float
    step_s: float

    @property
    def off(self) -> float:
        """The sum over the unprofiled step, less one."""
        return self.total_s / self.step_s - 1


def _amount(row: Row, name: str) -> float:
    value = row[name]
    return float(value) if isinstance(value, (int, float)) else 0.0


def steps(rows: Sequence[Row]) -> list[Step]:
    """The table cell by cell, in its order."""
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(str(row["key"]), []).append(row)
    found = []
    for mine in cells.values():
        first = mine[0]
        words = " ".join(
            [
                str(first["model"]),
                *(["train"] if first["task"] == "train" else []),
                f"bs{first['batch_size']}",
                *([f"{first['image_size']}px"] if first["image_size"] != 224 else []),
                str(first["precision"]),
                str(first["memory_format"]),
                *(str(first[name]) for name, usual in _USUAL.items() if first[name] not in (usual, None)),
            ]
        )
        found.append(
            Step(
                words,
                mine,
                int(_amount(first, "batch_size")),
                sum(_amount(row, "seconds") for row in mine),
                _amount(first, "step_s"),
            )
        )
    return found


def groups(step: Step, column: str) -> list[Group]:
    """The step's operations by a column (op_class, stage), the classes in their own order, stages as they come."""
    names = dict.fromkeys(str(row[column] or "") for row in step.rows)
    order = [name for name in CLASSES if name in names] if column == "op_class" else list(names)
    found = []
    for name in order:
        mine = [row for row in step.rows if str(row[column] or "") == name]
        seconds = sum(_amount(row, "seconds") for row in mine)
        bounded = all(row["bound_s"] is not None for row in mine)
        found.append(
            Group(
                name,
                len(mine),
                seconds,
                seconds / step.total_s if step.total_s else 0.0,
                sum(_amount(row, "bound_s") for row in mine) if bounded else None,
                round(sum(_amount(row, "flops") for row in mine)),
                round(sum(_amount(row, "bytes") for row in mine)),
            )
        )
    return found


def kinds(step: Step, least_share: float = 0.01) -> list[Group]:
    """The step's operations of the same kind taken together, the longest first: op, kernel, dilation, and class."""
    named: dict[str, list[Row]] = {}
    for row in step.rows:
        words = str(row["op_class"])
        if row["kernel_size"] is not None:
            words += f" {row['kernel_size']}x{row['kernel_size']}"
            words += f" dilation {row['dilation']}" if row["dilation"] not in (None, 1) else ""
            words += f" stride {row['stride']}" if row["stride"] not in (None, 1) else ""
        else:
            words += f" ({str(row['op']).removeprefix('aten.').partition('.')[0]})"
        words += " backward" if row["phase"] == "backward" else ""
        named.setdefault(words, []).append(row)
    found = []
    for words, mine in named.items():
        part = Step(words, mine, step.batch_size, step.total_s, step.step_s)
        whole = groups(part, "model")
        found += [each._replace(name=words) for each in whole]
    return sorted((each for each in found if each.share >= least_share), key=lambda each: -each.seconds)


def first_break(step: Step) -> Row | None:
    """The first operation that was given channels_last and handed on contiguous; None if none did."""
    for row in step.rows:
        image = str(row["shape_out"]).count("x") == 3
        if image and row["layout_in"] == "channels_last" and row["layout_out"] == "contiguous":
            return row
    return None
