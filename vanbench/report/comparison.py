"""Two stored tables side by side: which rows belong together, their ratios, and what can be said of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from vanbench.analysis.ratio import Estimate, around, log_half_width, welch_half_width
from vanbench.errors import UserError
from vanbench.record.measurement import Round
from vanbench.report.columns import Column, Value
from vanbench.report.stored import Entry, Stored
from vanbench.report.table import Row

__all__ = ["COMPARISON_COLUMNS", "SIDES", "Pair", "is_measured", "pairs_of", "table_of", "unpaired"]

# What makes two rows the same cell where a key is missing; device and threads are what the machine came to.
_CELL = (
    *("model", "task", "batch_size", "image_size", "precision", "memory_format", "compile", "form", "depthwise"),
    "allocator",
)
_STACK = ("device_name", "device", "threads", "torch_version", "vanbench_version")
SIDES = ("base", "head")
_AMBIGUOUS = "several rows of a table could be meant"


@dataclass(frozen=True)
class Pair:
    """A row of the comparison: one cell in both tables, or in one alone (the other is None). why: why it is alone."""

    base: Entry | None
    head: Entry | None
    why: str = ""

    @property
    def name(self) -> str:
        """For people."""
        entry = self.base or self.head
        assert entry is not None
        return entry.name

    @property
    def rows(self) -> tuple[Row | None, Row | None]:
        """Of base and of head."""
        return (self.base.row if self.base else None, self.head.row if self.head else None)

    @cached_property
    def ratio(self) -> Estimate | None:
        """Images/s of head over base's; None unless both were measured.

        The interval is Welch's, on logarithms of the rates of rounds, where both have two rounds or more at hand; else
        the logarithmic half-widths of both intervals in quadrature; None where a side has neither.
        """
        rates = [_number(row, "images_per_s") if is_measured(row) else None for row in self.rows]
        if rates[0] is None or rates[1] is None:
            return None
        value = rates[1] / rates[0]
        half = self._half_width[0]
        return Estimate(value) if half is None else around(value, half)

    @property
    def interval_from(self) -> str:
        """What the interval is made of: rounds, intervals, or empty."""
        return self._half_width[1] if self.ratio is not None else ""

    @cached_property
    def _half_width(self) -> tuple[float | None, str]:
        """Half of the interval of the log-ratio, and what it is made of."""
        base, head = (
            _log_rates(entry.record.rounds) if entry and entry.record else [] for entry in (self.base, self.head)
        )
        if len(base) > 1 and len(head) > 1:
            return welch_half_width(base, head), "rounds"
        halves = [_log_half_width(row) for row in self.rows]
        if halves[0] is None or halves[1] is None:
            return None, ""
        return math.hypot(halves[0], halves[1]), "intervals"

    @property
    def same_machine(self) -> bool:
        """Whether both name one machine. One that names none may be any."""
        keys = [row["machine_key"] if row else None for row in self.rows]
        return keys[0] is not None and keys[0] == keys[1]

    @property
    def finding(self) -> str:
        """What can be said, in a few words; a winner only on one machine, where the interval excludes 1."""
        if self.base is None or self.head is None:
            return f"only in {'base' if self.base else 'head'}"
        missing = [
            f"{side} {row['status'] if row['status'] != 'measured' else 'has no figure'}"
            for side, row in zip(SIDES, self.rows, strict=True)
            if row and not is_measured(row)
        ]
        if missing or self.ratio is None:
            return ", ".join(missing)
        if not self.same_machine:
            return "another machine"
        if self.ratio.low is None or self.ratio.high is None:
            return "no interval"
        if self.ratio.low > 1:
            return "head faster"
        return "base faster" if self.ratio.high < 1 else "no difference shown"

    @property
    def differences(self) -> list[str]:
        """In what of machine and software the two differ, as far as both tell, e.g. `torch_version 2.9.1 -> 2.15.0`."""
        base, head = self.rows
        if base is None or head is None or self.ratio is None:
            return []  # of what was not measured, device and threads are as asked
        told = [(name, *(_kind(name, row[name]) for row in (base, head))) for name in _STACK]
        return [f"{name} {was} -> {now}" for name, was, now in told if None not in (was, now) and was != now]


def _log_rates(rounds: Sequence[Round]) -> list[float]:
    return [math.log(each.images / each.seconds) for each in rounds if each.seconds > 0]


def _log_half_width(row: Row | None) -> float | None:
    low, high = (_number(row, f"images_per_s_{end}") for end in ("low", "high"))
    return log_half_width(Estimate(0.0, low, high)) if low and high and high >= low else None


def is_measured(row: Row | None) -> bool:
    """Whether a row has a rate to compare."""
    return row is not None and row["status"] == "measured" and bool(_number(row, "images_per_s"))


def _number(row: Row | None, column: str) -> float | None:
    """A figure above 0 and finite; None where there is none, so that no broken cell makes a ratio."""
    value = row[column] if row is not None else None
    return float(value) if isinstance(value, (int, float)) and 0 < value < math.inf else None


def _kind(name: str, value: Value) -> Value:
    """As it is compared: cuda and cuda:0 are one kind of device."""
    return value.partition(":")[0] if name == "device" and isinstance(value, str) else value


# --- which rows belong together -------------------------------------------------------------------------------------


def pairs_of(base: Stored, head: Stored) -> list[Pair]:
    """Every row of both, in base's order, then what head alone has.

    Rows are paired by the cell's key, the remaining ones by what makes a cell; where a side has several that could be
    meant, none is paired. Raises UserError if nothing pairs, with the columns that have no value in common.
    """
    partners: dict[int, Entry] = {}
    ambiguous: set[int] = set()
    for identity in (_by_key, _by_cell):
        mine, others = (_by_mark(side.entries, identity, partners) for side in (base, head))
        for mark, here in mine.items():
            there = others.get(mark, [])
            if len(here) == len(there) == 1:
                partners[id(here[0])], partners[id(there[0])] = there[0], here[0]
            elif there:
                ambiguous |= {id(each) for each in here + there}
    if not partners:
        raise UserError(_nothing_in_common(base, head, bool(ambiguous)))
    found = [
        Pair(each, partners.get(id(each)), _AMBIGUOUS if id(each) in ambiguous and id(each) not in partners else "")
        for each in base.entries
    ]
    alone = [each for each in head.entries if id(each) not in partners]
    return found + [Pair(None, each, _AMBIGUOUS if id(each) in ambiguous else "") for each in alone]


def _by_mark(
    entries: Sequence[Entry], identity: Callable[[Entry], Hashable], taken: Mapping[int, Entry]
) -> dict[Hashable, list[Entry]]:
    """The entries that have no partner yet, by what identifies them; those without a mark stay out."""
    found: dict[Hashable, list[Entry]] = {}
    for each in entries:
        if id(each) not in taken and (mark := identity(each)) is not None:
            found.setdefault(mark, []).append(each)
    return found


def _by_key(entry: Entry) -> Hashable:
    return entry.row["key"]


def _by_cell(entry: Entry) -> Hashable:
    return tuple(entry.row[name] for name in _CELL)


def _nothing_in_common(base: Stored, head: Stored, ambiguous: bool) -> str:
    text = f"{base.path} and {head.path} have no cell in common"
    if ambiguous:
        return f"{text} that can be told: {_AMBIGUOUS}"
    apart = []
    for name in _CELL:
        seen = [
            list(dict.fromkeys(str(each.row[name] or "not told") for each in side.entries)) for side in (base, head)
        ]
        if not set(seen[0]) & set(seen[1]):
            words = [", ".join(values[:4]) + (" ..." if len(values) > 4 else "") for values in seen]
            apart.append(f"{name} ({words[0]} against {words[1]})")
    return f"{text}: they differ in {'; '.join(apart)}" if apart else f"{text}, though each axis has common values"


# --- rows and text --------------------------------------------------------------------------------------------------


def _of_side(side: int, name: str) -> Callable[[Pair], Value]:
    return lambda pair: row[name] if (row := pair.rows[side]) is not None else None


def _either(name: str) -> Callable[[Pair], Value]:
    return lambda pair: next((row[name] for row in pair.rows if row is not None and row[name] is not None), None)


def _end(place: int) -> Callable[[Pair], Value]:
    return lambda pair: pair.ratio[place] if pair.ratio is not None else None


_OF_A_SIDE = (
    ("status", "text", "", "Status of the row"),
    ("reason", "text", "", "Why it was not measured"),
    ("images_per_s", "number", "images/s", "Images/s"),
    ("images_per_s_low", "number", "images/s", "Lower end of its 95 % interval"),
    ("images_per_s_high", "number", "images/s", "Upper end"),
    ("flags", "text", "", "What disturbed it"),
    ("machine_key", "text", "", "The machine"),
)

# The columns of compare.csv; docs/compare.md lists them.
COMPARISON_COLUMNS: tuple[Column, ...] = (
    Column("finding", "text", "", "What can be said, advisory.", lambda pair: pair.finding),
    Column("ratio", "number", "", "Images/s of head over base's.", _end(0)),
    Column("ratio_low", "number", "", "Lower end of its 95 % interval.", _end(1)),
    Column("ratio_high", "number", "", "Upper end.", _end(2)),
    Column(
        "interval_from",
        "text",
        "",
        "rounds (Welch) or intervals (in quadrature).",
        lambda pair: pair.interval_from or None,
    ),
    *(Column(name, "text", "", f"The cell's {name}.", _either(name)) for name in _CELL),
    *(
        Column(f"{side}_{name}", kind, unit, f"{meaning}, {side}.", _of_side(place, name))
        for place, side in enumerate(SIDES)
        for name, kind, unit, meaning in _OF_A_SIDE
    ),
    Column(
        "differs", "text", "", "Machine and software, a `;` list.", lambda pair: "; ".join(pair.differences) or None
    ),
    Column("note", "text", "", "Why a row has no partner, where that is not plain.", lambda pair: pair.why or None),
    Column("key", "text", "", "Hash of the cell as asked.", _either("key")),
)


def table_of(pairs: Sequence[Pair]) -> list[Row]:
    """A row for each pair, with a value or None for each of `COMPARISON_COLUMNS`."""
    return [{column.name: column.of(pair) for column in COMPARISON_COLUMNS} for pair in pairs]


def unpaired(pairs: Sequence[Pair]) -> list[Pair]:
    """Those in one table alone."""
    return [pair for pair in pairs if pair.base is None or pair.head is None]
