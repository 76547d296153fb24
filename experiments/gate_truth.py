"""Does the gate's verdict stand on a real machine? The same arm twice, and an arm slowed by a known share.

Why: simulated noise is kinder than a machine; a gate must be tried where it will be used, with the truth known.
How long: about 95 s a gate without a slowdown, twice that with one (it is confirmed); the default 40 gates take about
95 minutes on two cores. `--minutes` stops in time, and the same command goes on where it stopped.
Command:  python experiments/gate_truth.py --work /tmp/gates --out results/<machine>
Columns:  gate_truth.csv has a row a gate: `slowdown_percent` that was injected (a busy wait of that share of each
sample's own time), the `verdict`, both passes' verdicts, the `change_percent` of images/s with its 95 % interval, the
spread of a block (`sd_percent`), the smallest slowdown it could have found, blocks played and left out, seconds taken.
          gate_turns.json.gz has every turn: for each gate and pass a list of blocks, each with why it was left out
(`void`) and `turns`, seconds an image of base, head and twin.

The gates are played in a random order, so that a slow hour falls on all kinds alike.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import random
import time
from pathlib import Path
from typing import Any

import msgspec

from vanbench.analysis.gate import observe
from vanbench.analysis.gate_outcome import outcome
from vanbench.execute.gate import Ended, gate
from vanbench.record.gate import GateRecord, read_gate
from vanbench.record.measurement import Round
from vanbench.spec.arm import Arm

CELL = {"models": "resnet18", "batch-size": "4", "image-size": "96"}
COLUMNS = (
    "gate",
    "seed",
    "date",
    "slowdown_percent",
    "verdict",
    "first",
    "second",
    "change_percent",
    "change_low",
    "change_high",
    "sd_percent",
    "detectable_percent",
    "blocks",
    "left_out",
    "seconds",
)


def plan(count: int, seed: int) -> list[tuple[str, float]]:
    """(name, slowdown): two gates of the same arm for each of 5 and of 10 %, in a random order."""
    kinds = [0.0] * (2 * count) + [0.05] * count + [0.10] * count
    random.Random(seed).shuffle(kinds)
    return [(f"g{number:02d}", slowdown) for number, slowdown in enumerate(kinds)]


def per_image(one: Round | None) -> list[float]:
    """Seconds an image of each sample."""
    assert one is not None
    return [float(f"{s / n:.7g}") for s, n in zip(one.sample_s, one.sample_images, strict=True)]


def turns_of(record: GateRecord) -> list[list[dict[str, Any]]]:
    """Every block of every pass."""
    (pair,) = record.pairs
    return [
        [{"void": observe(block).void, "turns": [per_image(block.base), per_image(block.head), per_image(block.twin)]}
         for block in blocks]
        for blocks in pair.passes
    ]  # fmt: skip


def row(name: str, record: GateRecord, seconds: float) -> list[str]:
    """A line of gate_truth.csv."""
    (line,) = outcome(record).pairs
    shown = line.shown
    assert shown is not None
    logs = (shown.mean, shown.low, shown.high)
    figures = ["" if log is None else f"{100 * math.expm1(log):.3f}" for log in logs]
    blocks = [block for played in record.pairs[0].passes for block in played]
    return [
        name,
        str(record.sampling.seed),
        record.date,
        f"{100 * record.head.asked.slowdown:g}",
        str(line.verdict),
        str(line.first.verdict) if line.first else "",
        str(line.second.verdict) if line.second else "",
        *figures,
        "" if shown.sd is None else f"{100 * shown.sd:.3f}",
        "" if shown.detectable is None else f"{100 * shown.detectable:.2f}",
        str(len(blocks)),
        str(sum(bool(observe(block).void) for block in blocks)),
        f"{seconds:.1f}",
    ]


def main() -> None:
    """Play what is missing, then write the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder a gate; what is in it is not played again")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=10, help="gates of 5 %% and of 10 %% each; twice as many of 0")
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    arguments.work.mkdir(parents=True, exist_ok=True)
    for number, (name, slowdown) in enumerate(plan(arguments.count, arguments.seed)):
        if time.monotonic() > end:
            break
        if any(arguments.work.glob(f"{name}*/seconds")):
            continue
        start = time.monotonic()
        seed = 1000 * arguments.seed + number
        # A gate that was cut off is played anew, under another name: what it measured stays where it is.
        tries = sum(1 for _ in arguments.work.glob(f"{name}*"))
        folder = arguments.work / (name if not tries else f"{name}.{tries}")
        for event in gate(Arm(), Arm(slowdown=slowdown), CELL, seed=seed, out=folder):
            if isinstance(event, Ended):
                (line,) = event.outcome.pairs
                print(f"{name} {100 * slowdown:g} %: {line.verdict}: {line.why}", flush=True)
        (folder / "seconds").write_text(f"{time.monotonic() - start:.1f}")
    write(arguments.work, arguments.out)


def write(work: Path, out: Path) -> None:
    """The table and the turns of every gate that ended."""
    out.mkdir(parents=True, exist_ok=True)
    kept = []
    with open(out / "gate_truth.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for done in sorted(work.glob("*/seconds")):
            record = read_gate(done.parent)
            writer.writerow(row(done.parent.name, record, float(done.read_text())))
            slowdown = record.head.asked.slowdown
            kept.append({"gate": done.parent.name, "slowdown": slowdown, "passes": turns_of(record)})
    (out / "gate_turns.json.gz").write_bytes(gzip.compress(msgspec.json.encode({"gates": kept}), mtime=0))


if __name__ == "__main__":
    main()
