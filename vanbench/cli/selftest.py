"""`vanbench selftest`: the harness against known truth on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["selftest"]

_LONGEST_MINUTES = 60.0


def selftest(
    model: Annotated[str, typer.Option(help="What is timed; something small tells most in the time.")] = "resnet18",
    batch_size: Annotated[int, typer.Option(help="Images a step.", min=1)] = 4,
    image_size: Annotated[int, typer.Option(help="Square, pixels.", min=1)] = 96,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    minutes: Annotated[float, typer.Option(help="How long it may take.")] = 9.0,
    seed: Annotated[int, typer.Option(help="Of weights, inputs and every order.")] = 0,
    out: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads annotations at run time, on Python 3.10 too
        typer.Option(help="The folder. [default: results/<machine>/<UTC time>-selftest]"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the folder.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """What can be detected on this machine, and is the harness right? A model of known speed, and injected slowdowns.

    Exit codes: 0 nothing speaks against the harness, 1 something does, 4 the machine was too disturbed to say.
    """
    import sys

    from vanbench.analysis.selftest import findings
    from vanbench.cli.looking import Line
    from vanbench.cli.words import positive
    from vanbench.errors import UserError
    from vanbench.execute.round import Phase, Turn
    from vanbench.execute.selftest import Kept, Opened, Over
    from vanbench.execute.selftest import selftest as played
    from vanbench.report.selftest_text import HEADINGS, plain_words, selftest_rows, write_selftest
    from vanbench.spec.sweep import parse_sweep
    from vanbench.units import duration

    if positive("--minutes", minutes) > _LONGEST_MINUTES:
        raise UserError(f"--minutes {minutes:g} is above {_LONGEST_MINUTES:g}")
    words = {"models": model, "batch-size": batch_size, "image-size": image_size, "device": device}
    cells = parse_sweep({}, words).cells()
    if len(cells) != 1:
        raise UserError("selftest takes one model")
    over = None
    with Line(quiet) as line:
        for event in played(cells[0], seconds=60 * minutes, seed=seed, out=out):
            if isinstance(event, Opened):
                line.say(f"{event.record.cell.slug} on {event.record.environment.device_name} -> {event.path}")
            elif isinstance(event, Phase):
                line.show(f"{event.cell.slug}: {event.text}")
            elif isinstance(event, Turn):
                line.show(f"{event.cell.slug}: {event.images_per_s:.3g} images/s")
            elif isinstance(event, Kept):
                line.say(f"block {event.number}, at most {duration(event.seconds_left)} left")
            elif isinstance(event, Over):
                over = event
    if over is None:
        return 1
    write_selftest(over.path)
    found = findings(over.record)
    if quiet:
        typer.echo(str(over.path))
    else:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table

        console = Console(width=None if sys.stdout.isatty() else 120)
        table = Table(*HEADINGS, box=SIMPLE_HEAD, pad_edge=False)
        for row in selftest_rows(found):
            table.add_row(*row)
        if found.truths:
            console.print(table)
        for sentence in plain_words(over.record, found):
            console.print(sentence, markup=False, soft_wrap=True)
        console.print(f"{over.path}: selftest.json, report.md, plots/", markup=False, soft_wrap=True)
    if found.problem:
        return 4
    return 0 if found.sound else 1
