"""What the verbs of `vanbench track` mean by their words: which store, machines, models and series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from vanbench.analysis.history import Finding
    from vanbench.record.environment import Hardware
    from vanbench.record.history import History, Point
    from vanbench.record.store import Run

__all__ = ["history_of", "judge_run", "machine_keys", "matching", "names_of", "of_model", "read"]


def read(path: Path) -> tuple[Run, Sequence[dict[str, Any]]]:
    """A run directory, and its cells as rows of results.csv."""
    from vanbench.record.store import read_run
    from vanbench.report.table import rows

    run = read_run(path)
    return run, rows(run.sweep, run.environment, run.records, run.book)


def history_of(store: Path) -> History:
    """The store, with a word on the error stream for each line that could not be read."""
    from vanbench.errors import UserError
    from vanbench.record.history import read_history
    from vanbench.report.history_text import unreadable_lines

    history = read_history(store)
    for line in unreadable_lines(history.unreadable):
        typer.echo(f"vanbench: {line}", err=True)
    if not history.points:
        raise UserError(f"{store} holds no points: vanbench track add RUN appends those of a run")
    return history


def machine_keys(points: Sequence[Point], word: str | None) -> list[str]:
    """The machine keys that a word means, the one measured last at the end. points: by time."""
    from vanbench.errors import UserError, unknown

    names = {point.machine_key: point.machine for point in points}
    keys = sorted(names, key=[point.machine_key for point in points][::-1].index, reverse=True)
    if word is None:
        return keys[-1:]
    if word == "all":
        return keys
    found = [key for key in keys if key.startswith(word.lower())] if word else []
    if not found:
        raise unknown("machine", word, [*names, "all"])
    if len(found) > 1:
        said = ", ".join(f"{key} ({names[key]})" for key in found)
        raise UserError(f"machine {word!r} is {len(found)} machines: {said}")
    return found


def names_of(points: Sequence[Point], keys: Sequence[str]) -> list[str]:
    """What machines are called, by their keys; also the name of a folder, so nothing in it may lead elsewhere."""
    names = {point.machine_key: point.machine for point in points}
    plain = {key: "".join(c if c.isalnum() or c in "-_" else "-" for c in names[key]) or key for key in keys}
    return [name if list(plain.values()).count(name) == 1 else f"{name}-{key}" for key, name in plain.items()]


def of_model(points: Sequence[Point], pattern: str) -> list[Point]:
    """Those whose model's name matches the shell pattern."""
    from fnmatch import fnmatchcase

    from vanbench.errors import unknown
    from vanbench.spec.names import canonical

    models = list(dict.fromkeys(str(point.cell.get("model")) for point in points))
    wanted = {name for name in models if fnmatchcase(name.lower(), canonical(pattern).lower())}
    if not wanted:
        raise unknown("model", pattern, models)
    return [point for point in points if str(point.cell.get("model")) in wanted]


def matching(points: Sequence[Point], pattern: str) -> list[Point]:
    """Those whose cell's name or key matches the pattern, or whose key begins with it, from six digits on."""
    from fnmatch import fnmatchcase

    from vanbench.errors import unknown

    word = " ".join(pattern.split()).lower()
    found = [
        point
        for point in points
        if fnmatchcase(point.slug.lower(), word)
        or fnmatchcase(point.cell_key, word)
        or (len(word) >= 6 and point.cell_key.startswith(word))
    ]
    if not found:
        raise unknown("series", pattern, list(dict.fromkeys(point.slug for point in points)))
    return found


def judge_run(run: Run, rows: Sequence[dict[str, Any]], history: History) -> tuple[list[Finding], list[str]]:
    """Findings on a run's cells, and what to say where its machine is not in the history."""
    from vanbench.analysis.history import check_run
    from vanbench.analysis.history_points import points_of
    from vanbench.errors import UserError

    environment = run.environment
    points, left_out = points_of(run, rows, None, None)
    findings = check_run(environment.machine_key, points, left_out, history.points, history.accepted)
    if not findings:
        lacking = f"; {left_out[0].slug}: {left_out[0].status}: {left_out[0].reason}" if left_out else ""
        raise UserError(f"{run.path} has no measured cell to judge{lacking}")
    keys = machine_keys(history.points, "all")
    if environment.machine_key in keys:
        return findings, []
    return findings, _strangeness(environment.machine_key, environment.machine, environment.hardware, history, keys)


def _strangeness(key: str, name: str, hardware: Hardware, history: History, keys: Sequence[str]) -> list[str]:
    from vanbench.analysis.history_points import hardware_differences
    from vanbench.report.history_text import changes_text

    known = ", ".join(f"{each} ({called})" for each, called in zip(keys, names_of(history.points, keys), strict=True))
    lines = [f"machine {key} ({name}) is not in the history, which knows {known}"]
    nearest = hardware_differences(
        hardware, {each: history.machines[each] for each in keys if each in history.machines}
    )
    if nearest is not None:
        lines.append(f"from {nearest[0]} it differs in {changes_text(nearest[1])}")
    return lines
