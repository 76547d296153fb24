"""Puts the gate's tables into docs/measurement.md, from the committed results.

Why: a figure that is typed by hand is wrong one day.
How long: a second.
Command:  python experiments/measurement_page.py results/<machine> docs/measurement.md
Columns:  none; the tables follow from gate_rules.csv and gate_truth.csv. A test holds the page to them.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import gate_rules
import gate_truth

# A table is known by how its first line begins, and ends at an empty line.
_RULES, _RIVALS, _TRUTH = "| noise | 0 % | limit |", "| noise | pyperf compare_to |", "| injected | gates |"


def filled(page: str, results: Path) -> str:
    """The page with the tables of a machine's results."""
    rules, rivals = gate_rules.page(_rows(results / "gate_rules.csv")).split("\n\n")
    truth = gate_truth.page(_rows(results / "gate_truth.csv"))
    for start, table in ((_RULES, rules), (_RIVALS, rivals), (_TRUTH, truth)):
        begin = page.index(start)
        page = page[:begin] + table + page[page.index("\n\n", begin) :]
    return page


def _rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def main() -> None:
    """Rewrite the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    text = arguments.page.read_text(encoding="utf-8")
    arguments.page.write_text(filled(text, arguments.results), encoding="utf-8")


if __name__ == "__main__":
    main()
