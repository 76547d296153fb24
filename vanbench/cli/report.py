"""`vanbench report`: redraw what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["report"]


def report(
    paths: Annotated[list[Path], typer.Argument(help="Folders that vanbench wrote, or results.csv files.")],
    ceilings: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads annotations at run time, on Python 3.10 too
        typer.Option(help="First put these ceilings into each run directory, in place of its own."),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Redraw tables and plots from what was measured; needs no torch."""
    from vanbench.report.write import adopt, redraw

    for path in paths:
        if ceilings is not None:
            adopt(path, ceilings)
        for written in redraw(path):
            typer.echo(str(written))
