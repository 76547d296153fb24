"""Do ten runs in a row agree? The spread of `ratio` over whole runs of the main job, and whether its intervals cover.

Why: the peer's figures of two models, run one after the other, give ratios that spread by 24 % over five runs on the
same machine. Whether ours can be trusted is a question to measure, not to claim.
How long: ten runs of --budget seconds each.
Command:  python experiments/ratio_spread.py --image-size 96 --batch-size 4 --budget 60 --out results/<machine>
          python experiments/ratio_spread.py --image-size 224 --batch-size 8 --budget 120 --out results/<machine>
Columns:  ratio_spread_<px>px.csv: run, the reference's and the other's images/s, ratio, ratio_low, ratio_high, rounds,
flags, wall_s. Printed: max over min of `ratio` and of images/s, and how many intervals hold the mean of the runs.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from pathlib import Path

import vanbench

MODELS = ("resnet18", "convnext_atto")
COLUMNS = (
    "run",
    "images_per_s_reference",
    "images_per_s",
    "ratio",
    "ratio_low",
    "ratio_high",
    "rounds",
    "flags",
    "wall_s",
)


def main() -> None:
    """Run, append a row after each run, and sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--budget", type=float, required=True)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / f"ratio_spread_{arguments.image_size}px.csv"
    rows: list[dict[str, float]] = []
    with open(file, "w", newline="") as text:
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for number in range(arguments.runs):
            start = time.monotonic()
            with tempfile.TemporaryDirectory() as scratch:
                frame = vanbench.run(
                    models=list(MODELS),
                    out=Path(scratch) / "run",
                    image_size=arguments.image_size,
                    batch_size=arguments.batch_size,
                    memory_format="contiguous",
                    precision="fp32",
                    budget=arguments.budget,
                    # A run of its own: another order of turns, other weights and inputs.
                    seed=number,
                ).set_index("model")
            base, other = (frame.loc[model] for model in MODELS)
            row = {
                "run": number,
                "images_per_s_reference": base["images_per_s"],
                "images_per_s": other["images_per_s"],
                **{name: other[name] for name in ("ratio", "ratio_low", "ratio_high", "rounds", "flags")},
                "wall_s": round(time.monotonic() - start, 1),
            }
            writer.writerow(row)
            text.flush()
            rows.append(row)
            print(row, flush=True)
    ratios = [row["ratio"] for row in rows]
    mean = statistics.mean(ratios)
    covered = sum(row["ratio_low"] <= mean <= row["ratio_high"] for row in rows)
    print(f"ratio: {min(ratios):.4f} to {max(ratios):.4f}, spread {100 * (max(ratios) / min(ratios) - 1):.2f} %")
    for name in ("images_per_s_reference", "images_per_s"):
        values = [row[name] for row in rows]
        print(f"{name}: {min(values):.2f} to {max(values):.2f}, spread {100 * (max(values) / min(values) - 1):.1f} %")
    print(f"intervals that hold the runs' mean {mean:.4f}: {covered} of {len(rows)}")


if __name__ == "__main__":
    main()
