"""Keep a run, a profile or the like: copy its tables, plots, ceilings and environment to where results are kept.

Why: run directories are large and ignored by git; what is worth keeping is small, and must not be typed by hand.
How long: a moment; it measures nothing.
Command:  python experiments/keep.py results/<machine>/<run directory> first_answer
Columns:  none of its own: results/<machine>/<name>.csv is the run's results.csv, or ops.csv, or depthwise.csv;
<name>-<plot>.png and .svg are its plots, environment.json the machine's, ceilings.json the roofs it is held against.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from vanbench.record.folder import read_environment

TABLES = ("results.csv", "ops.csv", "depthwise.csv")


def main() -> None:
    """Copy, and say what was copied."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    folder = arguments.results / read_environment(arguments.run).machine
    folder.mkdir(parents=True, exist_ok=True)
    copies = {arguments.run / "environment.json": folder / "environment.json"}
    if (arguments.run / "ceilings.json").exists():
        copies[arguments.run / "ceilings.json"] = folder / "ceilings.json"
    for table in TABLES:
        if (arguments.run / table).exists():
            copies[arguments.run / table] = folder / f"{arguments.name}.csv"
    for plot in sorted((arguments.run / "plots").iterdir()):
        # The ceilings' picture is the same whatever is held against them.
        named = plot.stem.startswith(("ceilings", f"{arguments.name}-"))
        copies[plot] = folder / (plot.name if named else f"{arguments.name}-{plot.name}")
    for source, target in copies.items():
        shutil.copyfile(source, target)
        print(target)


if __name__ == "__main__":
    main()
