"""What a person sees while ceilings, profiles or depthwise convs are measured: a line that changes, on a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType

import typer

from vanbench.cli import interrupt

__all__ = ["NO_CEILINGS", "Line"]

NO_CEILINGS = "no ceilings of this machine: run `vanbench ceilings`, then `vanbench report` with --ceilings"

_REDRAW_S = 1.0


class Line:
    """One line on the error stream, redrawn at most once a second; elsewhere than on a terminal only `say` is seen."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._drawn = 0.0
        self._width = 0

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._clear()

    def show(self, text: str) -> None:
        """What goes on now."""
        interrupt.check()
        if self._quiet or not sys.stderr.isatty() or time.monotonic() - self._drawn < _REDRAW_S:
            return
        self._drawn = time.monotonic()
        self._clear()
        sys.stderr.write(text)
        sys.stderr.flush()
        self._width = len(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        interrupt.check()
        if not self._quiet:
            self._clear()
            typer.echo(text, err=True)

    def _clear(self) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            self._width = 0
