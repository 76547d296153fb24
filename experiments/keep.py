"""Keep a run: copy its table, plots and environment from the run directory to where the repository keeps results.

Why: run directories are large and ignored by git; what is worth keeping is small, and must not be typed by hand.
How long: a moment; it measures nothing.
Command:  python experiments/keep.py results/<machine>/<run directory> first_answer
Columns:  none of its own: results/<machine>/<name>.csv is the run's results.csv, <name>-<plot>.png and .svg its plots,
environment.json the machine's.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from vanbench.record.store import read_run


def main() -> None:
    """Copy, and say what was copied."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--results", type=Path, default=Path("results"))
    arguments = parser.parse_args()
    folder = arguments.results / read_run(arguments.run).environment.machine
    folder.mkdir(parents=True, exist_ok=True)
    copies = {
        arguments.run / "results.csv": folder / f"{arguments.name}.csv",
        arguments.run / "environment.json": folder / "environment.json",
    }
    for plot in sorted((arguments.run / "plots").iterdir()):
        copies[plot] = folder / f"{arguments.name}-{plot.name}"
    for source, target in copies.items():
        shutil.copyfile(source, target)
        print(target)


if __name__ == "__main__":
    main()
