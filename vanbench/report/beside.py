"""Rows beside each other: what they have in common, how many times as fast one is, and what it is called.

Two rows of one task, batch and image size are compared by their ratios to the same reference, which came from turns;
others by images/s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vanbench.analysis.ratio import Estimate, quotient
from vanbench.report.drawing import number
from vanbench.report.table import Row, labels
from vanbench.units import with_spread

__all__ = [
    "CHOICES",
    "IDENTITY",
    "REFERENCE",
    "certain_rate",
    "groups_along",
    "names_of",
    "over_of",
    "rate_of",
    "ratio_of",
    "text_of",
]

CHOICES = ("precision", "memory_format", "compile", "form", "depthwise", "allocator")
IDENTITY = ("model", "task", "batch_size", "image_size", *CHOICES, "device", "threads")
REFERENCE = Estimate(1.0, 1.0, 1.0)


def _estimate(row: Row, name: str) -> Estimate | None:
    value = number(row, name)
    return None if value is None else Estimate(value, number(row, f"{name}_low"), number(row, f"{name}_high"))


def rate_of(row: Row) -> Estimate | None:
    """Images/s; None where there is none above 0."""
    found = _estimate(row, "images_per_s")
    return found if found is not None and found.value > 0 else None


def certain_rate(row: Row) -> Estimate:
    """Images/s of a row that was measured."""
    found = rate_of(row)
    assert found is not None, "only measured rows come here"
    return found


def ratio_of(row: Row) -> Estimate | None:
    """Its ratio; a reference's own is exact."""
    found = _estimate(row, "ratio")
    return REFERENCE if found == Estimate(1.0) else found


def over_of(row: Row, base: Row) -> Estimate:
    """Images/s of a row over another's of the same task, batch and image size, which have one reference."""
    mine, other = ratio_of(row), ratio_of(base)
    if mine is not None and other is not None:
        return quotient(mine, other)
    return quotient(certain_rate(row), certain_rate(base))


def text_of(figure: Estimate) -> str:
    """For people."""
    return with_spread(*figure)


def groups_along(rows: Sequence[Row], axis: str) -> Iterator[dict[object, Row]]:
    """Rows that differ in nothing but the axis, by its value."""
    found: dict[tuple[object, ...], dict[object, Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in IDENTITY if name != axis), {})[row[axis]] = row
    yield from found.values()


def names_of(rows: Sequence[Row]) -> Callable[..., str]:
    """A row's name for people; an axis that is given stays out of it."""
    names = {id(row): name for row, name in zip(rows, labels(rows), strict=True)}

    def name(row: Row, axis: str = "") -> str:
        left_out = {"batch_size": f" bs{row['batch_size']}", "image_size": f" {row['image_size']}px"}.get(axis, "")
        return names[id(row)].replace(left_out, "", 1) if left_out else names[id(row)]

    return name
