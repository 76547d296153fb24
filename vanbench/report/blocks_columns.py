"""THE list of columns of a gate's blocks: what each said, before any verdict. Made from the record, never written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from vanbench.analysis.observation import Observed, observe
from vanbench.record.gate import Block, GateRecord, PairRecord
from vanbench.report.columns import Column, Value

__all__ = ["BLOCKS_COLUMNS", "block_rows"]


class _Source(NamedTuple):
    """One block: of which pair, in which pass, and what it says."""

    record: GateRecord
    pair: PairRecord
    number: int
    block: Block
    seen: Observed


def _ratio(name: str) -> Callable[[_Source], Value]:
    def of(source: _Source) -> Value:
        log: float = getattr(source.seen, name)
        return math.exp(log) if math.isfinite(log) else None

    return of


def _rate(role: str) -> Callable[[_Source], Value]:
    def of(source: _Source) -> Value:
        one: Any = getattr(source.block, role)
        return one.images / one.seconds if one is not None and one.seconds > 0 else None

    return of


BLOCKS_COLUMNS: tuple[Column, ...] = (
    Column("base", "text", "", "The base arm, as asked.", lambda source: source.record.base.asked.text),
    Column("head", "text", "", "The head arm, as asked.", lambda source: source.record.head.asked.text),
    Column("cell", "text", "", "What both measured, in the base's axes.", lambda source: source.pair.base.slug),
    Column("pass", "integer", "", "1, or 2 for what was played again to confirm.", lambda source: source.number),
    Column("block", "integer", "", "Its number within the pass, from 1.", lambda source: source.block.number),
    Column(
        "ratio",
        "number",
        "",
        "Images/s of the head over the mean of the two base processes; what the gate judges.",
        _ratio("change"),
    ),
    Column("twin_ratio", "number", "", "Images/s of the base's twin over the base: the same code.", _ratio("twin")),
    Column("base_images_per_s", "number", "images/s", "Of the base's process.", _rate("base")),
    Column("head_images_per_s", "number", "images/s", "Of the head's process.", _rate("head")),
    Column("twin_images_per_s", "number", "images/s", "Of the twin's process.", _rate("twin")),
    Column("void", "text", "", "What disturbed it, so that it is left out; empty if it counts.", lambda s: s.seen.void),
    Column("broken", "text", "", "Why it can never be judged; empty if it can.", lambda source: source.seen.broken),
)


def block_rows(record: GateRecord) -> list[dict[str, Value]]:
    """A row for each block that was played, in the order of pairs, passes and blocks."""
    return [{column.name: column.of(source) for column in BLOCKS_COLUMNS} for source in _sources(record)]


def _sources(record: GateRecord) -> Iterator[_Source]:
    for pair in record.pairs:
        for number, blocks in enumerate(pair.passes, 1):
            for block in blocks:
                yield _Source(record, pair, number, block, observe(block))
