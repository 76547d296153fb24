"""What a person sees while the main job runs, and at its end. Redrawn between turns, at most once a second."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from vanbench.cli import interrupt
from vanbench.cli.looking import NO_CEILINGS

if TYPE_CHECKING:
    from rich.console import Console

    from vanbench.execute.run import Event, Finished

__all__ = ["follow", "shown"]

_REDRAW_S = 1.0


def follow(events: Iterator[Event], *, quiet: bool, as_json: bool) -> int:
    """Show a run as it goes and its table at the end; returns the exit code."""
    from rich.console import Console

    from vanbench.execute.run import Finished

    console = Console(stderr=True, quiet=quiet)
    finished: Finished | None = None
    for event in shown(events, console):
        interrupt.check()
        if isinstance(event, Finished):
            finished = event
    if finished is None:
        return 1
    return _conclude(finished, quiet=quiet, as_json=as_json)


def shown(events: Iterator[Event], console: Console) -> Iterator[Event]:
    """Pass the events on, with a progress bar on a terminal and a line a round elsewhere."""
    from rich.progress import BarColumn, Progress, TextColumn

    from vanbench import units
    from vanbench.execute.round import Phase, Turn
    from vanbench.execute.run import Opened, Saved

    if not console.is_terminal or console.quiet:
        for event in events:
            if isinstance(event, Opened):
                console.print(f"{event.cells} cells on {event.environment.device_name} -> {event.path}", soft_wrap=True)
            elif isinstance(event, Saved):
                console.print(
                    f"round {event.round} saved, at most {units.duration(event.seconds_left)} left", soft_wrap=True
                )
            yield event
        return
    # auto_refresh would be a thread that wakes ten times a second beside the measurement.
    bar = Progress(
        TextColumn("{task.fields[what]}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[left]}"),
        console=console,
        auto_refresh=False,
        transient=True,
    )
    drawn, started, budget, last = 0.0, time.monotonic(), 1.0, ""
    with bar:
        task = bar.add_task("run", total=1.0, what="starting", left="")
        for event in events:
            if isinstance(event, Opened):
                budget = max(1.0, event.seconds)
                bar.console.print(f"{event.cells} cells on {event.environment.device_name} -> {event.path}")
            what = None
            if isinstance(event, Phase):
                what = f"{event.cell.slug}: {event.text}"
            elif isinstance(event, Turn):
                last = f"{event.images_per_s:.3g} images/s"
                what = event.cell.slug
            now = time.monotonic()
            if what is not None and now - drawn >= _REDRAW_S:
                drawn = now
                used = now - started
                left = f"at most {units.duration(max(0.0, budget - used))} left"
                bar.update(task, completed=min(1.0, used / budget), what=f"{what}  {last}", left=left)
                bar.refresh()
            yield event


def _conclude(finished: Finished, *, quiet: bool, as_json: bool) -> int:
    from rich.console import Console

    from vanbench.record.record import Failed
    from vanbench.record.store import read_run
    from vanbench.report.screen import remedy_lines, summary_table
    from vanbench.report.table import rows as table_rows

    read = read_run(finished.path)
    rows = table_rows(read.sweep, read.environment, read.records, read.book)
    if as_json:
        typer.echo(json.dumps({"path": str(finished.path), "rows": rows}))
    elif quiet:
        typer.echo(str(finished.path))
    else:
        # A pipe has no width of its own: wide enough that no figure is cut.
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(summary_table(rows))
        for line in remedy_lines(rows):
            console.print(line, markup=False, soft_wrap=True)
        if not read.book.entries:
            console.print(NO_CEILINGS, markup=False, soft_wrap=True)
        console.print(f"{finished.path}: results.csv, report.html, report.md, plots/", markup=False, soft_wrap=True)
    return 1 if any(isinstance(record.outcome, Failed) for record in finished.records) else 0
