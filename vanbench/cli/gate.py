"""`vanbench gate`: base against head, with a verdict and an exit code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from vanbench.analysis.gate_outcome import Outcome
    from vanbench.execute.gate import Event
    from vanbench.record.gate import GateRecord
    from vanbench.spec.rules import Rules

__all__ = ["gate"]

_AXES = "What is timed, in both arms (a comma list makes several cells)"
_HOW = "How it is judged"
_INVALID = 4
_Text = Optional[str]  # noqa: UP045 -- typer reads annotations at run time, on Python 3.10 too
_Path = Optional[Path]  # noqa: UP045


def gate(
    base: Annotated[
        str,
        typer.Option(
            help="key=value,...: any axis with one value, python=PATH, path=DIR, ref=COMMIT, slowdown=SHARE; or . "
            "[default: .]"
        ),
    ] = "",
    head: Annotated[str, typer.Option(help="The same for the arm that is judged. [default: .]")] = "",
    models: Annotated[
        _Text, typer.Option(help="Model names, e.g. van_b0,resnet18; see `vanbench models`.", rich_help_panel=_AXES)
    ] = None,
    task: Annotated[_Text, typer.Option(help="infer, train. [default: infer]", rich_help_panel=_AXES)] = None,
    batch_size: Annotated[_Text, typer.Option(help="Images a step. [default: 8]", rich_help_panel=_AXES)] = None,
    image_size: Annotated[_Text, typer.Option(help="Square, pixels. [default: 224]", rich_help_panel=_AXES)] = None,
    precision: Annotated[
        _Text,
        typer.Option(help="fp32, tf32, bf16, fp16, amp-bf16, amp-fp16. [default: fp32]", rich_help_panel=_AXES),
    ] = None,
    memory_format: Annotated[
        _Text, typer.Option(help="contiguous, channels_last. [default: contiguous]", rich_help_panel=_AXES)
    ] = None,
    compile: Annotated[  # noqa: A002 -- the flag's name
        _Text,
        typer.Option(help="off, default, reduce-overhead, max-autotune. [default: off]", rich_help_panel=_AXES),
    ] = None,
    form: Annotated[_Text, typer.Option(help="[default: reference]", rich_help_panel=_AXES)] = None,
    depthwise: Annotated[_Text, typer.Option(help="[default: native]", rich_help_panel=_AXES)] = None,
    allocator: Annotated[_Text, typer.Option(help="[default: system]", rich_help_panel=_AXES)] = None,
    threads: Annotated[_Text, typer.Option(help="CPU threads. [default: auto]", rich_help_panel=_AXES)] = None,
    device: Annotated[_Text, typer.Option(help="auto, cpu, cuda, cuda:N. [default: auto]")] = None,
    tolerance: Annotated[
        float, typer.Option(help="PASS means that a slowdown of this share is excluded.", rich_help_panel=_HOW)
    ] = 0.05,
    min_effect: Annotated[
        float, typer.Option(help="A slowdown of a smaller share is never REGRESSED.", rich_help_panel=_HOW)
    ] = 0.02,
    turns: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Seconds of turns in a block. [default: 4, or eight laps]", rich_help_panel=_HOW),
    ] = None,
    budget: Annotated[
        float,
        typer.Option(help="Seconds for everything; a block that would pass it is not begun.", rich_help_panel=_HOW),
    ] = 1800.0,
    seed: Annotated[int, typer.Option(help="Of weights, inputs and every order.", rich_help_panel=_HOW)] = 0,
    timeout: Annotated[
        float, typer.Option(help="Seconds of silence before a worker is killed.", rich_help_panel=_HOW)
    ] = 300.0,
    on_inconclusive: Annotated[str, typer.Option(help="fail (exit 3), warn or pass (exit 0).")] = "fail",
    on_invalid: Annotated[str, typer.Option(help="fail (exit 4), warn or pass (exit 0).")] = "fail",
    replay: Annotated[_Path, typer.Option(help="Judge a gate.json (or its folder) again; measures nothing.")] = None,
    out: Annotated[_Path, typer.Option(help="The gate's folder. [default: results/<machine>/<UTC time>-gate]")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON instead.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> int:
    """Is the head slower than the base? Fresh processes of both take turns, block by block, until it can be said.

    Exit codes: 0 pass or improved, 1 regressed (in two independent passes), 3 inconclusive, 4 invalid.
    """
    from vanbench.analysis.verdict import REACTIONS
    from vanbench.cli.words import positive, words
    from vanbench.errors import StorageError, UserError, WorkerError

    for option, word in (("--on-inconclusive", on_inconclusive), ("--on-invalid", on_invalid)):
        if len(words(option, word, REACTIONS)) != 1:
            raise UserError(f"{option} takes one of {', '.join(REACTIONS)}")
    axes = {
        "models": models,
        "task": task,
        "batch-size": batch_size,
        "image-size": image_size,
        "precision": precision,
        "memory-format": memory_format,
        "compile": compile,
        "form": form,
        "depthwise": depthwise,
        "allocator": allocator,
        "threads": threads,
        "device": device,
    }
    if replay is not None:
        given = [f"--{name}" for name, value in axes.items() if value is not None]
        given += [f"--{name}" for name, value in (("base", base), ("head", head), ("out", out)) if value]
        if given:
            raise UserError(f"--replay judges what was measured; it does not go with {', '.join(given)}")
        from vanbench.analysis.gate_outcome import outcome
        from vanbench.record.gate import read_gate

        record = read_gate(replay)
        return _answer(record, outcome(record), None, quiet, as_json, on_inconclusive, on_invalid)
    from vanbench.execute.gate import Ended
    from vanbench.execute.gate import gate as played
    from vanbench.spec.arm import parse_arm
    from vanbench.spec.rules import Rules

    rules = Rules(tolerance=_share("--tolerance", tolerance), min_effect=_share("--min-effect", min_effect))
    axes["batch-size"] = batch_size or "8"
    events = played(
        parse_arm("base", base),
        parse_arm("head", head),
        axes,
        rules=rules,
        turns_s=positive("--turns", turns) if turns is not None else None,
        budget_s=positive("--budget", budget),
        seed=seed,
        timeout_s=positive("--timeout", timeout),
        out=out,
    )
    try:
        for event in _followed(events, rules, quiet=quiet or as_json):
            if isinstance(event, Ended):
                return _answer(event.record, event.outcome, event.path, quiet, as_json, on_inconclusive, on_invalid)
    except (StorageError, WorkerError) as error:
        if debug:
            raise
        # Their own exit code is the one that says REGRESSED here.
        typer.echo(f"vanbench: {error}", err=True)
    return _INVALID


def _share(option: str, value: float) -> float:
    from vanbench.errors import UserError

    if not 0 < value < 1:
        raise UserError(f"{option} {value:g} is not a share between 0 and 1, for instance 0.05")
    return value


def _followed(events: Iterator[Event], rules: Rules, *, quiet: bool) -> Iterator[Event]:
    """Pass the events on, with a line that changes on a terminal and a line a block elsewhere."""
    from vanbench.cli.looking import Line
    from vanbench.execute.gate import Opened, Played
    from vanbench.execute.round import Phase, Turn

    with Line(quiet) as line:
        for event in events:
            if isinstance(event, Opened):
                line.say(f"{event.cells} of {len(event.record.pairs)} cells to time -> {event.path}")
            elif isinstance(event, Phase):
                line.show(f"{event.cell.slug}: {event.text}")
            elif isinstance(event, Turn):
                line.show(f"{event.cell.slug}: {event.images_per_s:.3g} images/s")
            elif isinstance(event, Played):
                word = f": {event.judgement.verdict}" if event.judgement is not None else ""
                confirming = "confirming " if event.second else ""
                line.say(
                    f"{confirming}block {event.number} of {rules.looks[0]} to {rules.looks[-1]}, {event.slug}{word}"
                )
            yield event


def _answer(
    record: GateRecord,
    found: Outcome,
    path: Path | None,
    quiet: bool,
    as_json: bool,
    on_inconclusive: str,
    on_invalid: str,
) -> int:
    """Print and write what came of it; the exit code."""
    import json
    import sys

    from vanbench.analysis.verdict import Verdict, exit_code
    from vanbench.report.gate_text import gate_markdown, gate_table, headline
    from vanbench.report.step_summary import append_summary

    if path is not None:
        from vanbench.report.gate_files import write_gate

        write_gate(path)
    append_summary(lambda most: gate_markdown(record, found, most))
    code = exit_code(found.verdicts, on_inconclusive, on_invalid)
    if as_json:
        lines = [*found.pairs, *([found.family] if found.family is not None else [])]
        rows = [
            {
                "cell": each.slug,
                "verdict": str(each.verdict),
                "why": each.why,
                "judgement": each.shown._asdict() if each.shown is not None else None,
            }
            for each in lines
        ]
        document = {"path": str(path) if path else None, "problem": found.problem, "exit_code": code, "cells": rows}
        typer.echo(json.dumps(document, default=str))
    elif quiet:
        if path is not None:
            typer.echo(str(path))
    else:
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else 160)
        console.print(headline(record, found), markup=False, soft_wrap=True)
        if found.pairs:
            console.print(gate_table(record, found))
        if record.stopped:
            console.print(f"stopped early: {record.stopped}", markup=False)
        if path is not None:
            console.print(f"{path}: gate.json, report.md, comment.md, plots/", markup=False, soft_wrap=True)
    if path is None:
        now = {each.slug: str(each.verdict) for each in found.pairs}
        for slug, said in record.verdicts.items():
            if said != now.get(slug):
                typer.echo(f"vanbench: {slug}: the record says {said}, its blocks say {now.get(slug)}", err=True)
    for verdict, reaction in ((Verdict.INCONCLUSIVE, on_inconclusive), (Verdict.INVALID, on_invalid)):
        if reaction == "warn" and verdict in found.verdicts:
            typer.echo(
                f"vanbench: warning: {verdict}, and taken as passed (--on-{str(verdict).lower()} warn)", err=True
            )
    return code
