"""`vanbench compare`: two stored runs side by side; advisory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from vanbench.report.comparison import Pair
    from vanbench.report.stored import Stored

__all__ = ["compare"]

# Of a published table of 1600 models a screen shows the first; every one is in compare.csv.
_MOST_ALONE = 20
_LONGEST_NAME = 40


def compare(
    base: Annotated[Path, typer.Argument(help="A run directory, a results.csv, or a result table of timm's.")],
    head: Annotated[Path, typer.Argument(help="Another one.")],
    out: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads annotations at run time, on Python 3.10 too
        typer.Option(help="A folder for compare.csv, compare.md and the plot."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Two stored runs side by side: the ratio of each cell's images/s. Advisory; for a verdict use `vanbench gate`."""
    from vanbench.report.comparison import pairs_of
    from vanbench.report.stored import read_stored

    sides = read_stored(base), read_stored(head)
    pairs = pairs_of(*sides)
    written = _write(out, sides, pairs) if out is not None else []
    if as_json:
        _print_json(sides, pairs)
        return
    _print(sides, pairs)
    for path in written:
        typer.echo(str(path))


def _write(out: Path, sides: tuple[Stored, Stored], pairs: Sequence[Pair]) -> list[Path]:
    from vanbench.record.files import replace_file
    from vanbench.report.comparison import COMPARISON_COLUMNS, table_of
    from vanbench.report.comparison_plot import draw_comparison
    from vanbench.report.comparison_text import comparison_markdown
    from vanbench.report.drawing import save
    from vanbench.report.to_csv import csv_text

    # The plots first: they make the folder.
    plots, (drawn,) = save([draw_comparison(*sides, pairs)], out / "plots")
    table, text = out / "compare.csv", out / "compare.md"
    replace_file(table, csv_text(table_of(pairs), COMPARISON_COLUMNS).encode())
    picture = "" if drawn.reason else f"plots/{drawn.name}.png"
    replace_file(text, comparison_markdown(*sides, pairs, picture).encode())
    return [table, text, *plots]


def _print_json(sides: tuple[Stored, Stored], pairs: Sequence[Pair]) -> None:
    import json

    from vanbench.report.comparison import table_of
    from vanbench.report.comparison_text import ADVISORY

    base, head = ({"path": str(each.path), "warnings": list(each.warnings)} for each in sides)
    typer.echo(json.dumps({"advisory": ADVISORY, "base": base, "head": head, "rows": table_of(pairs)}))


def _print(sides: tuple[Stored, Stored], pairs: Sequence[Pair]) -> None:
    import sys

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vanbench.report.comparison import unpaired
    from vanbench.report.comparison_text import ADVISORY, cells_of, shared_differences, side_of, summary

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    shared = shared_differences(pairs)
    for role, stored in zip(("base", "head"), sides, strict=True):
        console.print(Text(f"{role}: {side_of(stored)}"))
        for warning in stored.warnings:
            console.print(Text(f"  ! {warning}"))
    for difference in shared:
        console.print(Text(f"differs throughout: {difference}"))
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    both = [cells_of(pair, shared) for pair in pairs if pair.base is not None and pair.head is not None]
    # What is to know wraps before names do: a name in two lines is read as two.
    table.add_column("cell", overflow="fold", min_width=min(max(len(cells[0]) for cells in both), _LONGEST_NAME))
    for heading in ("base images/s", "head images/s", "head / base"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("advisory", no_wrap=True)
    table.add_column("to know", overflow="fold")
    for cells in both:
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    for side in ("base", "head"):
        alone = [pair for pair in unpaired(pairs) if pair.finding == f"only in {side}"]
        for pair in alone[:_MOST_ALONE]:
            console.print(Text(f"only in {side}: {pair.name}" + (f" ({pair.why})" if pair.why else "")))
        if len(alone) > _MOST_ALONE:
            console.print(Text(f"only in {side}: {len(alone) - _MOST_ALONE} more; --out DIR and --json list them all"))
    console.print(Text(summary(pairs)))
    console.print(Text(ADVISORY))
