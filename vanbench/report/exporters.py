"""What is measured, in the formats of other tools. A format is a row of the table; none of them measures or computes
more than its own summary of the raw times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from vanbench.errors import UserError, unknown
from vanbench.report.export_pytest_benchmark import pytest_benchmark
from vanbench.report.export_timm import timm
from vanbench.report.export_trackers import bencher, github_action_benchmark, otava
from vanbench.report.export_values import Chosen, Exported, Wishes
from vanbench.report.stored import Stored, select

__all__ = ["FORMATS", "Exported", "Wishes", "export", "format_named"]


class Format(NamedTuple):
    """make: from chosen rows to text. several: whether several runs become one file."""

    make: Callable[[Sequence[Chosen], Wishes], Exported]
    several: bool = False


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "timm": Format(timm),
        "pytest-benchmark": Format(pytest_benchmark),
        "github-action-benchmark": Format(github_action_benchmark),
        "bencher": Format(bencher),
        "otava": Format(otava, several=True),
    }
)


def format_named(name: str) -> Format:
    """The format of that name. Raises UserError with the nearest spelling."""
    if name not in FORMATS:
        raise unknown("format", name, FORMATS)
    return FORMATS[name]


def export(stored: Sequence[Stored], name: str, wishes: Wishes) -> Exported:
    """The measured rows of stored tables in the format `name`; its notes begin with what was left out.

    Raises UserError if there is no such format, if it takes one run and several are given, or if it cannot be made of
    what is stored.
    """
    form = format_named(name)
    if len(stored) > 1 and not form.several:
        several = [each for each in FORMATS if FORMATS[each].several]
        raise UserError(f"{name} takes one run, {len(stored)} are given (several: {', '.join(several)})")
    chosen = []
    notes: list[str] = []
    for each in stored:
        entries, left_out = select(each, wishes.only)
        chosen.append(Chosen(each, entries))
        whose = f" of {each.path}" if len(stored) > 1 else ""
        notes += [
            *(f"{each.path}: {warning}" for warning in each.warnings),
            *(f"left out{whose}: {why}" for why in left_out),
        ]
    made = form.make(chosen, wishes)
    return made._replace(notes=[*notes, *made.notes])
