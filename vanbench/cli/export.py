"""`vanbench export`: what was measured, in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["export"]


def export(
    paths: Annotated[
        list[Path], typer.Argument(help="A run directory or a results.csv; for otava several, one point each.")
    ],
    to: Annotated[
        str, typer.Option(help="timm, pytest-benchmark, github-action-benchmark, bencher, otava.", show_default=False)
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045 -- typer reads annotations at run time, on Python 3.10 too
        typer.Option(help="The file to write; otava's configuration is put beside it. [default: standard output]"),
    ] = None,
    task: Annotated[Optional[str], typer.Option(help="infer or train; timm's tables are of one.")] = None,  # noqa: UP045
    only: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Only the rows with these values, e.g. precision=fp32,compile=off."),
    ] = None,
    commit: Annotated[
        str, typer.Option(help="The commit that was measured, for formats that keep one; a comma list for several.")
    ] = "",
    branch: Annotated[str, typer.Option(help="Its branch.")] = "",
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Write measured rows in the format of another tool; what it has no room for is said on the error stream."""
    from vanbench.errors import UserError, unknown
    from vanbench.record.files import replace_file
    from vanbench.report.exporters import Wishes, format_named
    from vanbench.report.exporters import export as exported
    from vanbench.report.stored import parse_only, read_stored
    from vanbench.spec.names import TASKS

    format_named(to)  # the word is checked before anything is read
    wanted = parse_only(only)
    if task is not None:
        if task not in TASKS:
            raise unknown("task", task, TASKS)
        if wanted.setdefault("task", task) != task:
            raise UserError(f"--task {task} and --only task={wanted['task']} exclude each other")
    made = exported([read_stored(path) for path in paths], to, Wishes(wanted, commit, branch, out))
    for note in made.notes:
        typer.echo(f"vanbench: {note}", err=True)
    if out is None:
        typer.echo(made.text, nl=False)
        return
    for suffix, text in made.beside.items():
        replace_file(out.with_suffix(suffix), text.encode())
    replace_file(out, made.text.encode())
    for path in (out, *(out.with_suffix(suffix) for suffix in made.beside)):
        typer.echo(str(path))
