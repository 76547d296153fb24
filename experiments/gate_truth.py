"""Does the gate's verdict stand on a real machine? The same arm twice, and an arm slowed by a known share.

Why: simulated noise is kinder than a machine; a gate must be tried where it will be used, with the truth known.
How long: about 95 s a gate without a slowdown, twice that with one (it is confirmed); the default 40 gates take about
95 minutes on two cores. `--minutes` stops in time, and the same command goes on where it stopped.
Command:  python experiments/gate_truth.py --work /tmp/gates --out results/<machine>
Columns:  gate_truth.csv has a row a gate: `slowdown_percent` that was injected (a busy wait of that share of each
sample's own time), the `verdict`, both passes' verdicts, the `change_percent` of images/s with its 95 % interval, the
spread of a block (`sd_percent`), the smallest slowdown it could have found, blocks played and left out, seconds taken.
          gate_turns.json.gz has every turn: for each gate and pass a list of blocks, each with why it was left out
(`void`), the `order` in which base, head and twin (0, 1, 2) started, and `turns`, seconds an image of the three.
At the end it prints what a block's log-ratio is made of: the spread within blocks (from their odd and even laps), the
rest, which is between processes, and what the place in the order of start does.

The gates are played in a random order, so that a slow hour falls on all kinds alike.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from vanbench.analysis.gate_outcome import outcome
from vanbench.analysis.observation import observe
from vanbench.analysis.ratio import middle_half
from vanbench.execute.gate import Ended, gate
from vanbench.record.gate import GateRecord, read_gate
from vanbench.record.measurement import Round
from vanbench.spec.arm import Arm
from vanbench.stats import fmean, median, stdev

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
        [
            {
                "void": observe(block).void,
                "order": block.order,
                "turns": [per_image(block.base), per_image(block.head), per_image(block.twin)],
            }
            for block in blocks
        ]
        for blocks in pair.passes
    ]


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
    with open(out / "gate_truth.csv", newline="") as file:
        print(page(list(csv.DictReader(file))))
    print(spread(kept))


def page(rows: Sequence[dict[str, str]]) -> str:
    """The table of docs/measurement.md, from the rows of gate_truth.csv."""
    text = ["| injected | gates | REGRESSED in the first pass | in both | PASS | other | measured, mean and range |"]
    text.append("| ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    for truth in sorted({float(row["slowdown_percent"]) for row in rows}):
        mine = [row for row in rows if float(row["slowdown_percent"]) == truth]
        first = sum(row["first"] == "REGRESSED" for row in mine)
        both, passed = (sum(row["verdict"] == word for row in mine) for word in ("REGRESSED", "PASS"))
        slower = [100 * (1 / (1 + float(row["change_percent"]) / 100) - 1) for row in mine if row["change_percent"]]
        seen = f"{fmean(slower):+.2f} % ({min(slower):+.1f} to {max(slower):+.1f})"
        other = len(mine) - both - passed
        text.append(f"| {truth:g} % | {len(mine)} | {first} | {both} | {passed} | {other} | {seen} |")
    return "\n".join(text)


def spread(gates: Sequence[dict[str, Any]]) -> str:
    """What a block's spread is made of, in percent; the injected slowdown is taken out."""
    totals, within, places = [], [], dict[int, list[float]]({0: [], 1: [], 2: []})
    for one in gates:
        off = math.log1p(one["slowdown"])
        for blocks in one["passes"]:
            changes = []
            for block in blocks:
                if block["void"]:
                    continue
                base, head, twin = ([math.log(seconds) for seconds in turns] for turns in block["turns"])
                both = [[one - h + off for one, h in zip(each, head, strict=True)] for each in (base, twin)]
                changes.append(fmean(middle_half(laps) for laps in both))
                odd, even = (fmean(middle_half(laps[first::2]) for laps in both) for first in (0, 1))
                within.append((odd - even) ** 2 / 4)
                rates = [-median(base), off - median(head), -median(twin)]
                for place, seat in enumerate(block["order"]):
                    places[place].append(rates[seat] - fmean(rates))
            totals.append(stdev(changes) ** 2)
    total, inside = fmean(totals), fmean(within)
    words = [f"spread of a block {100 * math.sqrt(total):.2f} %: within {100 * math.sqrt(inside):.2f} %"]
    words.append(f"between processes {100 * math.sqrt(max(0.0, total - inside)):.2f} %")
    for place, offs in places.items():
        half = 196 * stdev(offs) / math.sqrt(len(offs))
        words.append(f"started {('first', 'second', 'third')[place]} {100 * fmean(offs):+.2f} ± {half:.2f} %")
    return ", ".join(words)


if __name__ == "__main__":
    main()
