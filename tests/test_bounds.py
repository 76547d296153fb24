"""No row of any committed table is faster than its bound; and the tables that have bounds are there."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from vanbench.record.ceilings import read_book

RESULTS = Path(__file__).parent.parent / "results"
FRACTIONS = ("bound_fraction", "warm_fraction", "cold_fraction")


def _fractions() -> Iterator[tuple[str, float]]:
    for path in sorted(RESULTS.rglob("*.csv")):
        with path.open(newline="") as file:
            for number, row in enumerate(csv.DictReader(file), start=2):
                for name in FRACTIONS:
                    if row.get(name):
                        yield f"{path.relative_to(RESULTS)}:{number} {name}", float(row[name])


def test_no_row_of_any_committed_table_is_faster_than_its_bound() -> None:
    above = [(place, fraction) for place, fraction in _fractions() if not 0 < fraction <= 1]
    assert not above, "a ceiling was measured too low, or a formula is wrong"


def test_committed_tables_have_bounds() -> None:
    assert sum(1 for _ in _fractions()) > 1000


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("ceilings.json")), ids=lambda path: path.parent.name)
def test_committed_ceilings_are_read_and_make_sense(path: Path) -> None:
    book = read_book(path)
    assert book.entries
    for entry in book.entries:
        best = {(each.kind, each.bytes): each.ceiling.best for each in entry.streams}
        assert {kind for kind, _ in best} == {"read", "copy", "add", "triad", "update"}
        largest = max(size for _, size in best)
        smallest = min(size for _, size in best)
        near = max(rate for (_, size), rate in best.items() if size == smallest)
        far = max(rate for (_, size), rate in best.items() if size == largest)
        assert near > 2 * far, "the first cache is faster than main memory"
        assert entry.matrix["fp32"].best > 0
        assert entry.vector["fp32"].best > 0
        for ceiling in [*entry.matrix.values(), *entry.vector.values(), *(each.ceiling for each in entry.streams)]:
            assert ceiling.low <= ceiling.median <= ceiling.best
            assert ceiling.visits > 1
