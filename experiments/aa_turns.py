"""How steady is a ratio, by the length of turns, the settling step and the statistic? The same cell against itself.

Why: the sampling constants (`spec/sampling.py`) should be chosen from what a real machine does, not from a guess.
How long: about a minute and a half for each plan of eight blocks; the default list takes about 12 minutes on two cores.
Command:  python experiments/aa_turns.py --out results/<machine>
Columns:  aa_turns.csv has a row a plan, block and statistic: `log_ratio` is ln(images/s of the twin over the base's),
whose true value is 0. Its standard deviation over blocks is what a plan is judged by: printed at the end.
          aa_turns.json.gz has every sample's seconds, so that other statistics can be tried on it.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec

from vanbench.analysis.ratio import round_log_ratio
from vanbench.execute.contest import hash_seed
from vanbench.execute.round import Done, Lost, play, start_order
from vanbench.execute.starter import Nursery
from vanbench.record.measurement import Round
from vanbench.record.task import Measure, Said, Vet
from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling

STATISTICS = ("mean", "trimmed10", "trimmed25", "median", "total")
SMALL = Cell(model="resnet18", batch_size=4, image_size=96)
LARGE = Cell(model="resnet18", batch_size=8)


class Plan(NamedTuple):
    """One way to sample: which cell against itself, for how long a block."""

    name: str
    cell: Cell
    sample_s: float
    settle_s: float
    turns_s: float
    blocks: int


PLANS = (
    Plan("20 ms, settle 15", SMALL, 0.02, 0.015, 6.0, 8),
    Plan("30 ms, settle 15", SMALL, 0.03, 0.015, 6.0, 8),
    Plan("50 ms, settle 15", SMALL, 0.05, 0.015, 6.0, 8),
    Plan("100 ms, settle 15", SMALL, 0.1, 0.015, 6.0, 8),
    Plan("30 ms, settle one step", SMALL, 0.03, 0.0, 6.0, 8),
    Plan("one step of 0.2 s", LARGE, 0.03, 0.015, 12.0, 8),
)


def block(plan: Plan, number: int) -> tuple[Round, Round]:
    """One fresh pair of processes taking turns: (base, twin)."""
    sampling = Sampling(sample_s=plan.sample_s, settle_s=plan.settle_s)
    task = Measure(cell=plan.cell, device="cpu", sampling=sampling, seed=0, first=True)
    done: dict[int, Round] = {}
    with tempfile.TemporaryDirectory() as scratch, Nursery(Path(scratch)) as nursery:
        # Once, in a process that is not timed: a process that ran the model in float64 is timed 2.5 % slower.
        vetting = nursery.fork(Vet(cell=plan.cell, device="cpu", seed=0), "vetting")
        while isinstance(vetting.receive(120.0), Said):
            pass
        vetting.leave()
        seed, order = hash_seed(number, plan.name), start_order(2, 0, number)
        for event in play([nursery] * 2, [task, task], name=f"b{number}", turns_s=plan.turns_s, seed=seed, order=order):
            if isinstance(event, Lost):
                raise SystemExit(f"{plan.name}: {event.kind}: {event.message}")
            if isinstance(event, Done):
                done[event.seat] = event.round
    return done[0], done[1]


def main() -> None:
    """Measure all plans, a block of each in turn, so that a slow hour falls on all of them alike."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--blocks", type=int, default=None, help="instead of each plan's own number")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rounds: dict[str, list[tuple[Round, Round]]] = {plan.name: [] for plan in PLANS}
    for number in range(arguments.blocks or max(plan.blocks for plan in PLANS)):
        for plan in PLANS:
            rounds[plan.name].append(block(plan, number))
    with open(arguments.out / "aa_turns.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["plan", "block", "statistic", "pairs", "log_ratio"])
        for name, pairs in rounds.items():
            for number, (base, twin) in enumerate(pairs):
                for statistic in STATISTICS:
                    value = round_log_ratio(twin, base, statistic)
                    writer.writerow([name, number, statistic, len(base.sample_s), f"{value:.6f}"])
    raw = {name: [[b.sample_s, t.sample_s] for b, t in pairs] for name, pairs in rounds.items()}
    (arguments.out / "aa_turns.json.gz").write_bytes(gzip.compress(msgspec.json.encode(raw), mtime=0))
    for name, pairs in rounds.items():
        words = []
        for statistic in STATISTICS:
            values = [v for b, t in pairs if (v := round_log_ratio(t, b, statistic)) is not None]
            words.append(
                f"{statistic} {100 * statistics.stdev(values):.2f} % (mean {100 * statistics.mean(values):+.2f})"
            )
        turns = statistics.median(len(b.sample_s) for b, _ in pairs)
        print(f"{name:<24} {turns:.0f} pairs a block; sd of a block: " + ", ".join(words))
    assert math.isfinite(sum(statistics.mean(base.sample_s) for pairs in rounds.values() for base, _ in pairs))


if __name__ == "__main__":
    main()
