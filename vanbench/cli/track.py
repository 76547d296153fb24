"""`vanbench track`: the history of images/s, sharded by machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from vanbench.cli.series import history_of, judge_run, machine_keys, matching, names_of, of_model, read

if TYPE_CHECKING:
    from vanbench.analysis.history import Finding, Judgement

__all__ = ["track"]

_Text = Optional[str]  # noqa: UP045 -- typer reads annotations at run time, on Python 3.10 too
_Store = Annotated[Path, typer.Option(help="The folder of the history.")]
_Machine = Annotated[
    _Text, typer.Option(help="The beginning of a machine key, or all. [default: the machine of the newest point]")
]
_Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
_STORE = Path("vanbench-history")

track = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@track.command("add")
def add(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run directories.")],
    store: _Store = _STORE,
    commit: Annotated[
        _Text, typer.Option(help="What was measured. [default: $GITHUB_SHA, else git's of this directory]")
    ] = None,
    branch: Annotated[_Text, typer.Option(help="Likewise. [default: $GITHUB_REF_NAME, else git's]")] = None,
    debug: _Debug = False,
) -> int:
    """Append every measured cell of run directories to the history; a run that is in it already adds nothing."""
    from vanbench.analysis.history_points import points_of
    from vanbench.execute.commit import origin
    from vanbench.record.history import append

    whence = origin(commit, branch)
    # All are read before anything is written, so that a mistake in the last one leaves nothing behind.
    found = []
    for path in dict.fromkeys(runs):
        run, rows = read(path)
        found.append((run, *points_of(run, rows, whence.commit, whence.branch)))
    for run, points, left_out in found:
        added = append(store, points, run.environment.hardware)
        typer.echo(
            f"{run.path}: {_count(added, 'point')} added to {store}, {len(points) - added} there already, "
            f"{_count(len(left_out), 'cell')} left out"
        )
        for each in left_out:
            typer.echo(f"  {each.slug}: {each.status}: {each.reason}", err=True)
    return 0


@track.command("check")
def check(
    run: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(
            metavar="RUN", help="Judge this run directory, without adding it, instead of the newest points."
        ),
    ] = None,
    store: _Store = _STORE,
    machine: _Machine = None,
    on_inconclusive: Annotated[
        str, typer.Option(help="Leave with 3 (fail), or with 0 and a warning (warn), or 0 (pass), while learning.")
    ] = "fail",
    on_invalid: Annotated[
        str, typer.Option(help="Likewise for what cannot be judged: 4 (fail), 0 and a warning (warn), 0 (pass).")
    ] = "fail",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
    debug: _Debug = False,
) -> int:
    """Judge the newest point of each series: exit 0 pass or improved, 1 regressed, 3 still learning, 4 invalid."""
    from vanbench.analysis.history import check_newest, judge, series_of
    from vanbench.analysis.verdict import exit_code
    from vanbench.errors import UserError
    from vanbench.report.history_text import finding_rows

    _reaction("--on-inconclusive", on_inconclusive)
    _reaction("--on-invalid", on_invalid)
    if run is not None and machine is not None:
        raise UserError("--machine does not go with a run directory: the run says which machine it is of")
    tables: list[tuple[str, list[Finding], list[Judgement]]] = []
    strangers: list[str] = []
    if run is None:
        history = history_of(store)
        keys = machine_keys(history.points, machine)
        for key, name in zip(keys, names_of(history.points, keys), strict=True):
            series = series_of([point for point in history.points if point.machine_key == key], history.accepted)
            tables.append((name, *check_newest([judge(each) for each in series])))
    else:
        measured, rows = read(run)
        history = history_of(store)
        findings, strangers = judge_run(measured, rows, history)
        tables.append((measured.environment.machine, findings, []))
    verdicts = [finding.verdict for _, findings, _ in tables for finding in findings]
    code = exit_code(verdicts, on_inconclusive, on_invalid)
    if as_json:
        _print_json(
            store=str(store),
            machines=[name for name, _, _ in tables],
            exit_code=code,
            findings=[row for _, findings, _ in tables for row in finding_rows(findings)],
            ended=[judgement.series.slug for _, _, ended in tables for judgement in ended],
            unknown_machine=strangers,
            unreadable=[{"path": str(each.path), "line": each.line, "why": each.why} for each in history.unreadable],
        )
    else:
        for name, findings, ended in tables:
            _print_check(name, findings, ended)
    _summarise(tables, len(history.unreadable))
    for line in strangers:
        typer.echo(f"vanbench: {line}", err=True)
    for option, word, at_fault in (("--on-inconclusive", on_inconclusive, 3), ("--on-invalid", on_invalid, 4)):
        count = sum(exit_code([verdict]) == at_fault for verdict in verdicts)
        if count and word == "warn":
            kind = "could not be judged" if at_fault == 4 else "still learning or inconclusive"
            typer.echo(f"vanbench: warning: {_count(count, 'cell')} {kind}, passed by {option} warn", err=True)
    return code


@track.command("show")
def show(
    store: _Store = _STORE,
    machine: _Machine = None,
    model: Annotated[_Text, typer.Option(help="A shell pattern over model names, e.g. 'van*'.")] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where figures go. [default: STORE/plots/<machine>]"),
    ] = None,
    debug: _Debug = False,
) -> int:
    """Draw the history: a figure for each model and task (PNG and SVG), a table with bars, and what opened segments."""
    from vanbench.analysis.history import check_newest, judge, series_of
    from vanbench.report.history_plot import save_history
    from vanbench.report.history_text import note_lines, opening_lines, series_table

    history = history_of(store)
    keys = machine_keys(history.points, machine)
    points = [point for point in history.points if point.machine_key in keys]
    if model is not None:
        points = of_model(points, model)
    for key, name in zip(keys, names_of(history.points, keys), strict=True):
        judgements = [judge(each) for each in series_of([p for p in points if p.machine_key == key], history.accepted)]
        if not judgements:
            continue
        findings, ended = check_newest(judgements)
        over = {judgement.series.cell_key for judgement in ended}
        lasting = [judgement for judgement in judgements if judgement.series.cell_key not in over]
        typer.echo(f"{name} (key {key})")
        _console().print(series_table(lasting, findings))
        for line in [*note_lines(findings), *_ended_lines(ended), *opening_lines(judgements)]:
            typer.echo(line)
        folder = store / "plots" / name if out is None else out / name if len(keys) > 1 else out
        for path in save_history(judgements, folder):
            typer.echo(str(path))
    return 0


@track.command("accept")
def accept(
    pattern: Annotated[
        str, typer.Argument(help="A cell's name as `track check` prints it, its key, or a shell pattern of either.")
    ],
    reason: Annotated[str, typer.Option(help="Why the change is wanted; it stands in the plot.")],
    store: _Store = _STORE,
    machine: _Machine = None,
    commit: Annotated[_Text, typer.Option(help="The commit that brought the change.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Accept for every series that matches.")] = False,
    debug: _Debug = False,
) -> int:
    """Record a wanted change of images/s: the series' next points are held against the new level."""
    import datetime

    from vanbench.analysis.history import series_of
    from vanbench.errors import UserError
    from vanbench.execute.commit import checked
    from vanbench.record import history as stored

    words = " ".join(reason.split())
    if not words:
        raise UserError("--reason is empty: say why the change is wanted")
    sha = checked(commit) if commit is not None else None
    history = history_of(store)
    keys = machine_keys(history.points, machine)
    series = series_of([point for point in history.points if point.machine_key in keys])
    newest = [each.points[-1] for each in series]
    chosen = matching(newest, pattern)
    if len(chosen) > 1 and not every:
        names = ", ".join(f"{point.slug} ({point.cell_key[:8]})" for point in chosen[:8])
        more = f" and {len(chosen) - 8} more" if len(chosen) > 8 else ""
        raise UserError(f"{pattern!r} is {len(chosen)} series: {names}{more}; name one, or give --all")
    time = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    added = stored.append(store, [stored.accept(point, time, words, sha) for point in chosen])
    typer.echo(f"{_count(added, 'change')} accepted in {store}: {words}")
    for point in chosen:
        typer.echo(f"  {point.slug} on {point.machine}")
    return 0


# --- printing -------------------------------------------------------------------------------------------------------


def _summarise(tables: Sequence[tuple[str, list[Finding], list[Judgement]]], unreadable: int) -> None:
    """The check on the page beside a CI job, where there is one; cut to counts if it would not fit."""
    from vanbench.report.history_text import markdown, verdict_counts
    from vanbench.report.step_summary import append_summary

    def pages(most: int) -> str:
        whole = "\n".join(
            markdown(findings, name, unreadable=unreadable, ended=len(ended)) for name, findings, ended in tables
        )
        if len(whole.encode()) <= most:
            return whole
        counts = "\n".join(f"vanbench track: {verdict_counts(findings)}" for _, findings, _ in tables)
        return counts if len(counts.encode()) <= most else ""

    append_summary(pages)


def _reaction(option: str, word: str) -> None:
    from vanbench.analysis.verdict import REACTIONS
    from vanbench.errors import unknown

    if word not in REACTIONS:
        raise unknown(option, word, REACTIONS)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _console() -> Any:
    from rich.console import Console

    # A pipe has no width of its own: wide enough that no figure is cut.
    return Console(width=None if sys.stdout.isatty() else 120)


def _print_check(about: str, findings: Sequence[Finding], ended: Sequence[Judgement]) -> None:
    from vanbench.report.history_text import findings_table, note_lines, verdict_counts

    _console().print(findings_table(findings))
    for line in [*note_lines(findings), *_ended_lines(ended)]:
        typer.echo(line)
    typer.echo(f"{about}: {verdict_counts(findings)}")


def _ended_lines(ended: Sequence[Judgement]) -> list[str]:
    from vanbench.analysis.level import BASELINE_POINTS

    if not ended:
        return []
    said = ", ".join(f"{each.series.slug} ({each.points[-1].point.time[:10]})" for each in ended)
    return [f"not judged, as they are in none of the machine's last {BASELINE_POINTS} runs: {said}"]


def _print_json(**values: Any) -> None:
    import json

    typer.echo(json.dumps(values, allow_nan=False))
