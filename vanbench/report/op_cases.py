"""Rows of operations taken together by step, and the words and colours that every figure of operations has for them.

A row is a dict from column to text, number or None; a column may be missing. Colour says an operation's class
(Okabe-Ito), everywhere the same. It draws nothing and measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vanbench.record.ceilings import Ceilings
from vanbench.report.drawing import number, one_line

__all__ = [
    "CLASS_COLOURS",
    "DARK",
    "OUTSIDE",
    "Case",
    "Row",
    "caption",
    "cases_of",
    "class_colour",
    "class_of",
    "classes_of",
    "devices",
    "ink_on",
    "text_of",
    "total",
    "two_lines",
    "whose",
    "words_of",
]

Row = Mapping[str, Any]

# In the order in which a bar is stacked. Depthwise has the signal colour: it is what the figures are asked about.
CLASS_COLOURS = {
    "depthwise": "#D55E00",
    "pointwise": "#0072B2",
    "dense conv": "#56B4E9",
    "norm": "#009E73",
    "activation": "#E69F00",
    "elementwise": "#CC79A7",
    "layout copy": "#F0E442",
    "other": "#8C8C8C",
}
OUTSIDE = "outside ops"
_OUTSIDE_COLOUR = "#E6E6E6"
DARK = "#222222"
# What tells one bar or panel from another, in the order in which it is said.
_CONFIGURATION = (
    "model",
    "precision",
    "memory_format",
    "task",
    "batch_size",
    "image_size",
    "form",
    "depthwise",
    "allocator",
    "device",
    "threads",
)
_ALWAYS_SAID = ("model", "precision", "memory_format")


def text_of(row: Row, name: str) -> str:
    """What a column holds as text, a whole number without its point; empty where it holds nothing."""
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


@dataclass
class Case:
    """The rows of one step: a model in one configuration. name: what is said of it beside the others."""

    name: str
    rows: list[Row] = field(default_factory=list)

    @property
    def model(self) -> str:
        """The model's name."""
        return text_of(self.rows[0], "model")

    @property
    def configuration(self) -> tuple[str, ...]:
        """Everything but the model."""
        return tuple(text_of(self.rows[0], name) for name in _CONFIGURATION if name != "model")

    @property
    def timed(self) -> list[Row]:
        """The rows that took any time."""
        return [row for row in self.rows if (number(row, "seconds") or 0.0) > 0]

    @property
    def ops_s(self) -> float:
        """The sum of its operations."""
        return total(self.timed, "seconds")

    @property
    def step_s(self) -> float:
        """The unprofiled step, or the sum of its operations where that is longer or the step is not known."""
        return max([self.ops_s, *(number(row, "step_s") or 0.0 for row in self.rows)])


def total(rows: Sequence[Row], name: str) -> float:
    """The sum of a column; what is absent adds nothing."""
    return math.fsum(number(row, name) or 0.0 for row in rows)


def words_of(row: Row, names: Sequence[str]) -> str:
    """What a row holds in these columns, as a list in one line."""
    says = {"batch_size": "batch {}", "image_size": "{} px", "form": "{} form", "stride": "stride {}"}
    says |= {"depthwise": "depthwise {}", "allocator": "allocator {}", "threads": "{} threads"}
    return ", ".join(says.get(name, "{}").format(one_line(text_of(row, name))) for name in names if text_of(row, name))


def cases_of(rows: Sequence[Row]) -> tuple[list[Case], str]:
    """The steps that rows belong to, and what all of them have in common."""
    varied = [name for name in _CONFIGURATION if len({text_of(row, name) for row in rows}) > 1]
    said = [name for name in _CONFIGURATION if name in varied or name in _ALWAYS_SAID]
    cases: dict[tuple[str, ...], Case] = {}
    for row in rows:
        place = tuple(text_of(row, name) for name in _CONFIGURATION)
        cases.setdefault(place, Case(words_of(row, said) or "?")).rows.append(row)
    usual = ("native", "system")
    rest = [name for name in _CONFIGURATION if name not in said and rows and text_of(rows[0], name) not in usual]
    return list(cases.values()), words_of(rows[0], rest) if rows else ""


def devices(rows: Sequence[Row]) -> str:
    """Every device that the rows name, for a figure's last line."""
    names = dict.fromkeys(one_line(text_of(row, "device_name"), 60) for row in rows)
    return ", ".join(name for name in names if name)


def class_of(row: Row) -> str:
    """The operation's class; `other` where the row has none."""
    return text_of(row, "op_class") or "other"


def classes_of(rows: Sequence[Row]) -> list[str]:
    """The classes that occur, known ones first and in their order."""
    seen = {class_of(row) for row in rows}
    return [each for each in CLASS_COLOURS if each in seen] + sorted(seen - CLASS_COLOURS.keys())


def class_colour(name: str) -> str:
    """The colour of a class, or of what is outside all operations; an unknown class has that of `other`."""
    return _OUTSIDE_COLOUR if name == OUTSIDE else CLASS_COLOURS.get(name, CLASS_COLOURS["other"])


def ink_on(colour: Any) -> str:
    """Black or white, whichever is read better on a colour."""
    from matplotlib.colors import to_rgb

    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour))
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"


def caption(entry: Ceilings) -> str:
    """Whose roofs they are, measured by which torch and when."""
    parts = [whose(entry), f"torch {entry.torch_version}", entry.date[:10]]
    return " · ".join(one_line(part, 80) for part in parts)


def whose(entry: Ceilings) -> str:
    """The device that the roofs belong to, a CPU with its threads."""
    threads = f", {entry.threads} thread{'s' if entry.threads != 1 else ''}" if entry.device == "cpu" else ""
    return f"{one_line(entry.device_name, 60)} ({one_line(entry.device)}{threads})"


def two_lines(words: str) -> str:
    """A step's name on two lines: the model, and what else tells it from others."""
    model, _, rest = words.partition(", ")
    return f"{one_line(model)}\n{one_line(rest, 50)}" if rest else one_line(model)
