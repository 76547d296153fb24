"""`vanbench ceilings`: the machine's roofs, measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["ceilings"]


def ceilings(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    threads: Annotated[str, typer.Option(help="CPU threads, a comma list; auto is torch's choice.")] = "auto",
    seconds: Annotated[float, typer.Option(help="How long to look, for each thread count; 30 at least.")] = 60.0,
    seed: Annotated[int, typer.Option(help="Of the order of visits.")] = 0,
    out: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads annotations at run time, on Python 3.10 too
        typer.Option(help="The folder to write. [default: results/<machine>/<UTC time>-ceilings]"),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Measure the machine's roofs: bandwidth from the first cache to memory, FLOP/s by precision, the launch floor.

    Later runs, profiles and depthwise tables on this machine are held against them.
    """
    from vanbench.cli.looking import Line
    from vanbench.cli.words import thread_counts
    from vanbench.errors import UserError
    from vanbench.execute.ceilings import Looking, find_ceilings
    from vanbench.execute.run import default_place
    from vanbench.record.ceilings import Book, remember
    from vanbench.record.folder import make_folder
    from vanbench.report.ceilings_text import ceilings_lines
    from vanbench.report.look import write_folder
    from vanbench.spec.sweep import parse_sweep

    parse_sweep({"axes": {"models": "van_b0"}}, {"device": device})  # the word is checked before a worker starts
    if not 30 <= seconds < float("inf"):
        raise UserError(f"seconds {seconds:g} is too short: machines wander, and a roof is the best of 30 s at least")
    counts = thread_counts(threads)
    book, environment = Book(), None
    with Line(quiet or as_json) as line:
        for event in find_ceilings(device, counts, seconds, seed):
            if isinstance(event, Looking):
                line.show(f"measuring ceilings: {event.text}")
                continue
            environment, entry = event
            book = book.with_entry(entry)
            line.say(f"kept in {remember(entry)}")
    assert environment is not None
    place = out or default_place(environment.machine, "ceilings")
    make_folder(place, environment, book)
    write_folder(place)
    if as_json:
        import msgspec

        typer.echo(msgspec.json.encode(book).decode())
    elif quiet:
        typer.echo(str(place))
    else:
        for entry in book.entries:
            typer.echo(f"{entry.device_name}, {entry.threads} thread{'s' if entry.threads != 1 else ''}")
            lines = ceilings_lines(entry)
            widths = [max(len(row[i]) for row in lines) for i in range(3)]
            for name, best, median, how in lines:
                typer.echo(f"  {name:<{widths[0]}}  {best:>{widths[1]}}  median {median:>{widths[2]}}  {how}")
            for note in entry.notes:
                typer.echo(f"  ! {note}")
        typer.echo(f"{place}: ceilings.json, report.html, report.md, plots/")
