"""The comparison of two stored tables in words: what it is worth, the lines of its table, its page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vanbench.report.comparison import SIDES, Pair, is_measured, unpaired
from vanbench.report.stored import Stored
from vanbench.report.to_markdown import escaped, figure_of, markdown_table
from vanbench.units import with_spread

__all__ = ["ADVISORY", "cells_of", "comparison_markdown", "shared_differences", "side_of", "summary"]

ADVISORY = (
    "Advisory: these runs were not measured side by side, and a machine's speed wanders from run to run by more than "
    "the rounds of one run can tell. On a two-core virtual machine the images/s of one cell spread by 6 to 10 % over "
    "ten runs in a row, its ratio to a cell beside it by 3 to 5 % (docs/measurement.md). For a verdict let both take "
    "turns: vanbench gate --base ARM --head ARM."
)


def summary(pairs: Sequence[Pair]) -> str:
    """How many of each finding, among pairs and then among rows without a partner."""
    alone = unpaired(pairs)
    counts = Counter(pair.finding for pair in pairs if pair.base is not None and pair.head is not None)
    both = len(pairs) - len(alone)
    text = f"{both} pair{'s' if both != 1 else ''}: {_counted(counts)}"
    return f"{text}; without a partner: {_counted(Counter(pair.finding for pair in alone))}" if alone else text


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def shared_differences(pairs: Sequence[Pair]) -> list[str]:
    """What differs in every measured pair alike, to be said once."""
    both = [pair.differences for pair in pairs if pair.ratio is not None]
    return [each for each in both[0] if all(each in others for others in both)] if both else []


def side_of(stored: Stored) -> str:
    """One table in a line: how much of it was measured, on what, when."""
    measured = sum(is_measured(entry.row) for entry in stored.entries)
    # The end of the path tells tables apart; its beginning is nobody's business in a page that is passed on.
    place = "/".join(stored.path.parts[-2:])
    parts = [place, f"{measured} of {len(stored.entries)} rows measured", *stored.values("device_name")[:3]]
    parts += [
        f"{name} {', '.join(found)}" for name in ("torch", "vanbench") if (found := stored.values(f"{name}_version"))
    ]
    parts.append(f"machine {', '.join(stored.values('machine_key')) or 'not named'}")
    return " · ".join(parts + [date[:10] for date in stored.values("date")[:2]])


def cells_of(pair: Pair, shared: Sequence[str] = ()) -> list[str]:
    """A pair as a line of a table for people: name, both images/s, the ratio, the finding, and what to know of it.

    shared: differences that were said already.
    """
    rates = [figure_of(row, "images_per_s") if row is not None and is_measured(row) else "" for row in pair.rows]
    ratio = with_spread(*pair.ratio) if pair.ratio is not None else ""
    notes = [each for each in pair.differences if each not in shared] + ([pair.why] if pair.why else [])
    for side, row in zip(SIDES, pair.rows, strict=True):
        if row is not None and row["flags"]:
            notes.append(f"{side}: {str(row['flags']).replace(';', ' ')}")
        if row is not None and row["reason"]:
            notes.append(f"{side}: {row['reason']}")
    return [pair.name, *rates, ratio, pair.finding, "; ".join(notes)]


def comparison_markdown(base: Stored, head: Stored, pairs: Sequence[Pair], picture: str = "") -> str:
    """The page: what it is worth, the two tables, the pairs, those without a partner. picture: a figure's path."""
    shared = shared_differences(pairs)
    lines = ["# Two stored runs side by side", "", escaped(ADVISORY), ""]
    lines += [f"- **{side}**: {escaped(side_of(stored))}" for side, stored in zip(SIDES, (base, head), strict=True)]
    lines += [f"- differs throughout: {escaped(each)}" for each in shared]
    for side, stored in zip(SIDES, (base, head), strict=True):
        lines += [f"- {side}: {escaped(warning)}" for warning in stored.warnings]
    lines += ["", f"{escaped(summary(pairs))}.", ""]
    head_line = ("cell", "base images/s", "head images/s", "head / base", "advisory", "to know")
    both = [pair for pair in pairs if pair.base is not None and pair.head is not None]
    lines += [markdown_table(head_line, [cells_of(pair, shared) for pair in both], "lrrrll"), ""]
    lines += [f"![ratios with their intervals]({picture})", ""] if picture else []
    alone = unpaired(pairs)
    if alone:
        words = [[pair.name, pair.finding, pair.why] for pair in alone]
        lines += ["## Without a partner", "", markdown_table(("cell", "where", "why"), words), ""]
    return "\n".join([*lines, _HOW_TO_READ, ""])


_HOW_TO_READ = """\
## How to read this

- **head / base** is images/s over images/s. Its 95 % interval is Welch's, on logarithms of the rates of rounds, where
  both run directories are at hand; from two tables it is made of their intervals. It knows what differed between the
  rounds of one run, not what differed between the runs.
- **head faster**, **base faster**: the interval excludes 1. **no difference shown**: it does not. **another machine**:
  the ratio stands, and no winner is called. **no interval**: a side has one round, or comes from a table without."""
