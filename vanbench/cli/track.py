"""`vanbench track`."""

from __future__ import annotations

import typer

__all__ = ["track"]

track = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@track.command("add")
def add() -> int:
    """Being built."""
    raise NotImplementedError
