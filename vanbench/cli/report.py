"""`vanbench report`: redraw what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["report"]


def report(
    paths: Annotated[list[Path], typer.Argument(help="Run directories, or results.csv files.")],
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Redraw tables and plots from what was measured; needs no torch."""
    from vanbench.report.write import redraw

    for path in paths:
        for written in redraw(path):
            typer.echo(str(written))
