"""Formats of services and tools that follow a figure over time: github-action-benchmark, Bencher and Otava."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vanbench.errors import UserError
from vanbench.report.export_values import Chosen, Exported, Wishes, figure, interval
from vanbench.report.stored import Entry
from vanbench.units import percent, plain, seconds

__all__ = ["bencher", "github_action_benchmark", "otava"]


def github_action_benchmark(chosen: Sequence[Chosen], wishes: Wishes) -> Exported:
    """The JSON list that its tool `customBiggerIsBetter` reads: images/s, `range` its relative half-width."""
    (run,) = chosen
    return Exported(_json([_entry_of_action(entry) for entry in run.entries]))


def _entry_of_action(entry: Entry) -> dict[str, Any]:
    row = entry.row
    value, ends, step = figure(row, "images_per_s"), interval(row), figure(row, "median_s")
    found: dict[str, Any] = {"name": entry.name, "unit": "images/s", "value": value}
    if value and ends:
        found["range"] = f"± {percent(max(ends[1] - value, value - ends[0]) / value)}"
    lines = [f"median step {seconds(step)}"] if step is not None else []
    counts = [f"{row[name]} {name}" for name in ("rounds", "samples") if row[name] is not None]
    lines += [", ".join(counts)] if counts else []
    lines += [f"flags {row['flags']}"] if row["flags"] else []
    machine = [str(row[name]) for name in ("machine_key", "device_name") if row[name]]
    lines += [f"machine {', '.join(machine)}"] if machine else []
    versions = [f"{name} {row[f'{name}_version']}" for name in ("torch", "vanbench") if row[f"{name}_version"]]
    lines += [", ".join(versions)] if versions else []
    return {**found, "extra": "\n".join(lines)} if lines else found


def bencher(chosen: Sequence[Chosen], wishes: Wishes) -> Exported:
    """Bencher Metric Format: throughput in images/s with its interval, latency in ns, the median step's."""
    (run,) = chosen
    document = {}
    for entry in run.entries:
        throughput = {"value": figure(entry.row, "images_per_s")}
        if ends := interval(entry.row):
            throughput |= {"lower_value": ends[0], "upper_value": ends[1]}
        document[entry.name] = {"throughput": throughput}
        step = figure(entry.row, "median_s")
        if step is not None:
            document[entry.name]["latency"] = {"value": step * 1e9}
    notes = [
        "Bencher's format has no room for flags and the machine: name the testbed by the machine key, "
        + "--testbed "
        + " or ".join(run.stored.values("machine_key") or ["unknown"])
    ]
    flagged = [f"{entry.name} ({entry.row['flags']})" for entry in run.entries if entry.row["flags"]]
    return Exported(_json(document), notes=notes + [f"flagged: {', '.join(flagged)}"] * bool(flagged))


def _json(document: object) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


# --- Otava ----------------------------------------------------------------------------------------------------------

_ATTRIBUTES = ("commit", "branch", "machine_key", "torch_version", "vanbench_version", "flags")


class _Point(NamedTuple):
    """One run as a point of the series. attributes: in the order of `_ATTRIBUTES`; values: images/s by name."""

    time: str
    attributes: Sequence[str]
    values: dict[str, float]


def otava(chosen: Sequence[Chosen], wishes: Wishes) -> Exported:
    """A CSV with a line for each run, oldest first: time, attributes, images/s of every row that all runs have.

    Beside it the YAML that Otava's reader needs. A row that some run lacks is left out and noted, since Otava takes no
    empty cell. Raises UserError where the runs are of several machines or a run has no single date.
    """
    commits = [word.strip() for word in wishes.commit.split(",")] if wishes.commit else [""] * len(chosen)
    if len(commits) != len(chosen):
        raise UserError(f"--commit names {len(commits)} commits for {len(chosen)} runs: one for each, in their order")
    if wishes.out is not None and wishes.out.suffix in (".yaml", ".yml"):
        raise UserError(f"--out {wishes.out} is the name of the configuration: give the CSV's, it is written beside it")
    machines = list(dict.fromkeys(key for run in chosen for key in run.stored.values("machine_key")))
    if len(machines) != 1:
        found = ", ".join(machines) or "none is named"
        raise UserError(f"a series is of one machine, and the runs are of several or of an unknown one: {found}")
    points = [_point(run, commit, wishes) for run, commit in zip(chosen, commits, strict=True)]
    points.sort(key=lambda point: point.time)
    names = [name for name in points[-1].values if all(name in point.values for point in points)]
    some = dict.fromkeys(name for point in points for name in point.values if name not in names)
    if not names:
        raise UserError("no cell was measured in every one of these runs: there is no series")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["time", *_ATTRIBUTES, *names])
    for point in points:
        writer.writerow([point.time, *point.attributes, *(plain(point.values[name]) for name in names)])
    notes = [f"left out: {name}: not in every run, and Otava takes no empty cell" for name in some]
    if wishes.out is None:
        notes.append("with --out FILE.csv the configuration that Otava needs is written beside it, as FILE.yaml")
    return Exported(text.getvalue(), {".yaml": _configuration(wishes.out or Path("otava.csv"), names)}, notes)


def _point(run: Chosen, commit: str, wishes: Wishes) -> _Point:
    dates = run.stored.values("date")
    if len(dates) != 1:
        raise UserError(f"{run.stored.path} has {len(dates)} dates of runs, and a point of a series has one")
    versions = [" and ".join(run.stored.values(name)) for name in ("machine_key", "torch_version", "vanbench_version")]
    flags = "; ".join(
        f"{each.name}: {str(each.row['flags']).replace(';', ' ')}" for each in run.entries if each.row["flags"]
    )
    values = {entry.name: float(entry.row["images_per_s"] or 0) for entry in run.entries}
    return _Point(dates[0], [commit, wishes.branch, *versions, flags], values)


def _configuration(file: Path, names: Sequence[str]) -> str:
    """Otava's YAML: one test named vanbench, a metric for each row."""
    lines = [
        "tests:",
        "  vanbench:",
        "    type: csv",
        f"    file: {_word(str(file))}",
        "    time_column: time",
        f"    attributes: [{', '.join(_ATTRIBUTES)}]",
        "    metrics:",
    ]
    lines += [f"      {_word(name)}: {{column: {_word(name)}, direction: 1, scale: 1}}" for name in names]
    return "\n".join([*lines, "    csv_options: {delimiter: ',', quote_char: '\"'}", ""])


def _word(text: str) -> str:
    """A JSON string, which is YAML too: a name may hold any sign."""
    return json.dumps(text, ensure_ascii=False)
