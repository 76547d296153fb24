"""What does the harness itself cost? Its start, its parent's share of a core, and how much of a run is measuring.

Why: a benchmark that is busy beside the thing it times measures itself.
How long: the main job's four minutes and a few seconds.
Command:  python experiments/harness_cost.py --out results/<machine>/harness_cost.csv
Columns:  figure, value, unit, limit. `help_ratio`: seconds of `vanbench --help` over `import typer, rich`, medians of
starts taken in turns. `wall_s`: the whole of `vanbench run --models van_b0,convnext_t`. `measuring_share`: warm-up
steps and turns over that. `parent_share`: CPU seconds of the parent over seconds, from a round's first turn to its
last, progress bar drawn. `parent_turn_us`: the same for a turn.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vanbench.execute.round import Turn
from vanbench.execute.run import Event, measure
from vanbench.record.store import read_run
from vanbench.spec.sweep import parse_sweep

STARTS = 15


def help_ratio() -> float:
    """Median seconds of `vanbench --help` over those of importing typer and rich, started in turns."""
    commands = {
        "imports": [sys.executable, "-c", "import typer, rich"],
        "help": [sys.executable, "-m", "vanbench", "--help"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(STARTS + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if number:  # the first of each fills the file cache
                seconds[name].append(time.perf_counter() - start)
    return statistics.median(seconds["help"]) / statistics.median(seconds["imports"])


class Watched:
    """Passes events on; adds up what this process uses from turn to turn."""

    def __init__(self) -> None:
        self.cpu_s = self.wall_s = 0.0
        self.turns = 0

    def through(self, events: Iterator[Event]) -> Iterator[Event]:
        """The same events."""
        last: tuple[float, float] | None = None
        for event in events:
            now = (time.process_time(), time.perf_counter())
            if isinstance(event, Turn) and last is not None:
                self.cpu_s += now[0] - last[0]
                self.wall_s += now[1] - last[1]
                self.turns += 1
            last = now if isinstance(event, Turn) else None
            yield event


def measuring_s(path: Path) -> float:
    """Seconds of a run directory's warm-up steps, and of its turns from the first to the last of each round."""
    total, ends = 0.0, dict[str, list[tuple[float, float]]]()
    for record in read_run(path).records:
        for one in record.rounds:
            total += sum(one.warmup_sample_s)
            spans = zip(one.sample_start_s, one.sample_s, strict=True)
            ends.setdefault(one.round, []).extend((start, start + seconds) for start, seconds in spans)
    return total + sum(max(e for _, e in spans) - min(s for s, _ in spans) for spans in ends.values())


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--keep", type=Path, default=None, help="leave the run directory here")
    arguments = parser.parse_args()
    ratio = help_ratio()
    watched = Watched()
    with tempfile.TemporaryDirectory() as scratch, open(os.devnull, "wb") as nowhere:
        place = arguments.keep or Path(scratch) / "run"
        start = time.perf_counter()
        sweep = parse_sweep({}, {"models": "van_b0,convnext_t"})
        from rich.console import Console

        from vanbench.cli import progress

        # A terminal that is not there: the bar is drawn as for a person.
        console = Console(file=io.TextIOWrapper(nowhere), force_terminal=True, width=100)
        for _ in progress.shown(watched.through(measure(sweep, out=place)), console):
            pass
        wall_s = time.perf_counter() - start
        share = measuring_s(place) / wall_s
    rows = [
        ("help_ratio", f"{ratio:.3f}", "", "at most 2"),
        ("wall_s", f"{wall_s:.1f}", "s", "under 240"),
        ("measuring_share", f"{share:.3f}", "", "at least 0.5"),
        ("parent_share", f"{watched.cpu_s / watched.wall_s:.4f}", "cores", "under 0.01"),
        ("parent_turn_us", f"{1e6 * watched.cpu_s / watched.turns:.0f}", "µs a turn", ""),
        ("turns", str(watched.turns), "", ""),
    ]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with open(arguments.out, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("figure", "value", "unit", "limit"), *rows])
    for name, value, unit, limit in rows:
        print(f"{name:<16} {value:>8} {unit:<10} {limit}")


if __name__ == "__main__":
    main()
