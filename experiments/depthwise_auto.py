"""Is what depthwise=auto chooses for a dense depthwise conv ever slower than torch's own?

Why: a short measurement may mistake the machine's mood for a gain; a choice that loses is worse than none.
How long: four minutes on two CPU cores.
Command: ../shared/tools/quiet python experiments/depthwise_auto.py --out results/<machine>
Columns: conv, word (what auto came to), ratio (its speed over torch's own: in each process the median of two seconds of
turns; 1 where it is torch's own), low, high (95 % interval over processes, Student's t of the logarithms), processes.

Chosen once, as a user's first call does, then timed again in fresh processes.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from vanbench.kernels.choice import Conv, fastest, timed
from vanbench.kernels.depthwise import Geometry
from vanbench.stats import t_half_width
from vanbench.worker.memory import raise_the_threshold

# The dense depthwise convs of VAN-B0 (5x5, 3x3 in the MLP) and ConvNeXt-T (7x7): channels, pixels, kernel size.
DENSE = [
    *((width, size, 5) for width, size in ((32, 56), (64, 28), (160, 14), (256, 7))),
    *((width, size, 3) for width, size in ((256, 56), (512, 28), (640, 14), (1024, 7))),
    *((width, size, 7) for width, size in ((96, 56), (192, 28), (384, 14), (768, 7))),
]
SECONDS = 2.0
PROCESSES = 4


def convs() -> list[Conv]:
    """At batch 8, fp32, channels_last: in inference, the 3x3 with the GELU that follows it too, and in training."""
    found = []
    for channels, size, kernel in DENSE:
        conv = Conv((8, channels, size, size), Geometry(kernel), torch.float32, torch.channels_last)
        found += [conv, *([conv._replace(gelu=True)] if kernel == 3 else []), conv._replace(training=True)]
    return found


def one() -> None:
    """In a process of its own: a line of JSON, a conv's word and log-ratio each."""
    raise_the_threshold()
    rows = {}
    for conv in convs():
        word = fastest(conv).word
        laps = [] if word == "native" else timed(conv, ["native", word], SECONDS)
        logs = [math.log(native / other) for native, other in laps]
        rows[conv.slug] = (word, statistics.median(logs) if logs else 0.0)
    print(json.dumps(rows))


def main() -> None:
    """Play the processes and write depthwise_auto.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        one()
        return
    seen: dict[str, list[tuple[str, float]]] = {}
    for _ in range(PROCESSES):
        command = [sys.executable, __file__, "--one", "--out", str(given.out)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        for slug, row in json.loads(done.stdout).items():
            seen.setdefault(slug, []).append(tuple(row))
    with open(given.out / "depthwise_auto.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["conv", "word", "ratio", "low", "high", "processes"])
        for slug, rows in seen.items():
            logs = [log for _, log in rows]
            mean, half = statistics.fmean(logs), t_half_width(logs) or 0.0  # there are several processes
            ends = [math.exp(mean - half), math.exp(mean + half)] if rows[0][0] != "native" else ["", ""]
            figures = [f"{each:.4g}" if each != "" else "" for each in (math.exp(mean), *ends)]
            writer.writerow([slug, rows[0][0], *figures, len(rows)])


if __name__ == "__main__":
    main()
