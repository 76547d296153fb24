"""Keep a run, a profile or the like: copy its tables and plots to where results are kept, and note how long it took.

Why: run directories are large and ignored by git; what is worth keeping is small, and must not be typed by hand.
How long: a moment; it measures nothing.
Command:  python experiments/keep.py results/<machine>/<run directory> first_answer
Columns:  none of its own: results/<machine>/<name>.csv is the run's results.csv, or ops.csv, or depthwise.csv;
<name>-<plot>.png and .svg are its plots. environment.json and ceilings.json are copied where there is none yet, as what
is kept was held against those; `--ceilings` replaces them and the pictures of the roofs. durations.csv gets a line for
a run: experiment, seconds from its beginning to the last round on disk, date.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from datetime import datetime
from pathlib import Path

from vanbench.record.folder import read_environment

TABLES = ("results.csv", "ops.csv", "depthwise.csv")


def main() -> None:
    """Copy, and say what was copied."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--plots", help="those that answer the question, by the beginnings of their names: ratio,order")
    parser.add_argument("--ceilings", action="store_true", help="replace environment.json and ceilings.json too")
    arguments = parser.parse_args()
    environment = read_environment(arguments.run)
    folder = arguments.results / environment.machine
    folder.mkdir(parents=True, exist_ok=True)
    copies = {}
    for name in ("environment.json", "ceilings.json"):
        if (arguments.run / name).exists() and (arguments.ceilings or not (folder / name).exists()):
            copies[arguments.run / name] = folder / name
    for table in TABLES:
        if (arguments.run / table).exists():
            copies[arguments.run / table] = folder / f"{arguments.name}.csv"
    for plot in sorted((arguments.run / "plots").iterdir()):
        # The ceilings' picture is the same whatever is held against them.
        if plot.stem.startswith("ceilings"):
            if arguments.ceilings or not (folder / plot.name).exists():
                copies[plot] = folder / plot.name
            continue
        if arguments.plots is not None and not plot.stem.startswith(tuple(arguments.plots.split(","))):
            continue
        named = plot.stem.startswith(f"{arguments.name}-")
        copies[plot] = folder / (plot.name if named else f"{arguments.name}-{plot.name}")
    for source, target in copies.items():
        shutil.copyfile(source, target)
        print(target)
    rounds = [file.stat().st_mtime for file in (arguments.run / "cells").glob("*.json")]
    if rounds:
        began = datetime.fromisoformat(environment.date.replace("Z", "+00:00")).timestamp()
        print(note(folder / "durations.csv", arguments.name, max(rounds) - began, environment.date))


def note(file: Path, name: str, seconds: float, date: str) -> Path:
    """Put a run's duration into the table, in place of an earlier one of the same experiment."""
    lines: dict[str, dict[str, str]] = {}
    if file.exists():
        with file.open(newline="", encoding="utf-8") as opened:
            lines = {line["experiment"]: line for line in csv.DictReader(opened)}
    lines[name] = {"experiment": name, "seconds": f"{seconds:.0f}", "date": date}
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, ["experiment", "seconds", "date"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines[each] for each in sorted(lines))
    return file


if __name__ == "__main__":
    main()
