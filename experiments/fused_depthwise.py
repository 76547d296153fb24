"""What is a depthwise conv worth that does its neighbour's work too: a GELU after the 3x3, VAN's 5x5 and 7x7 in one?

Why: a fused kernel saves a pass over the map, and may lose by it what it needs for more registers and shared memory.
How long: a minute on a GPU.
Command: python experiments/fused_depthwise.py --out results/<machine>/fused_depthwise
Columns: what (gelu, pair), batch, channels, px, depthwise, median_s (of a call, in laps of 50), ratio (to native's in
the same laps), low, high (quartiles over laps). bf16, channels_last, caches warm, answers checked first.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

WORDS = ["native", "cuda", "triton"]
# VAN-B0's: channels of the gate, of the MLP, pixels.
MAPS = [(32, 256, 56), (64, 512, 28), (160, 640, 14), (256, 1024, 7)]
BATCH, LAPS, CALLS = 64, 15, 50
# Relative L2 between two ways of rounding a map between two convs to bf16.
ALLOWED = 3e-2

Call = Callable[[], Tensor]


def with_gelu(x: Tensor, w: Tensor, bias: Tensor) -> dict[str, Call]:
    """The 3x3 and a GELU, in two kernels and in one."""
    from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry

    calls: dict[str, Call] = {}
    for word in WORDS:
        forward, fused = IMPLEMENTATIONS[word].forward, IMPLEMENTATIONS[word].forward_gelu
        calls[word] = lambda forward=forward: F.gelu(forward(x, w, bias, Geometry(3)))  # type: ignore[misc]
        if fused is not None:
            calls[f"{word}, fused"] = lambda fused=fused: fused(x, w, bias, Geometry(3))  # type: ignore[misc]
    return calls


def pairs(x: Tensor, w: Tensor, w2: Tensor, bias: Tensor) -> dict[str, Call]:
    """The 5x5 and the dilated 7x7, in two kernels and in one."""
    from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry

    calls: dict[str, Call] = {}
    for word in WORDS:
        forward = IMPLEMENTATIONS[word].forward
        calls[word] = lambda forward=forward: forward(  # type: ignore[misc]
            forward(x, w, bias, Geometry(5)), w2, bias, Geometry(7, 3)
        )
    pair = IMPLEMENTATIONS["cuda-pair"].forward_pair
    assert pair is not None
    calls["cuda-pair"] = lambda: pair(x, w, bias, w2, bias)
    return calls


def in_turns(calls: dict[str, Call], device: torch.device) -> Iterator[dict[str, Any]]:
    """Each call's median over laps, and its ratio to native's lap by lap; every answer is checked first."""
    cuda = device.type == "cuda"
    answers = {word: call().double() for word, call in calls.items()}
    for word, answer in answers.items():
        error = float((answer - answers["native"]).norm() / answers["native"].norm())
        if not error < ALLOWED:
            raise SystemExit(f"{word} is wrong: it differs from torch's own by {error:.3g}")
    laps: list[dict[str, float]] = []
    for lap in range(LAPS if cuda else 1):
        row = {}
        for word in reversed(list(calls)) if lap % 2 else list(calls):
            row[word] = seconds(calls[word], CALLS if cuda else 1, cuda)
        laps.append(row)
    for word in calls:
        ratios = sorted(lap["native"] / lap[word] for lap in laps)
        quarter = len(ratios) // 4
        yield {
            "depthwise": word,
            "median_s": f"{statistics.median(lap[word] for lap in laps):.4g}",
            "ratio": f"{statistics.median(ratios):.4g}",
            "low": f"{ratios[quarter]:.4g}",
            "high": f"{ratios[-1 - quarter]:.4g}",
        }


def seconds(call: Call, count: int, cuda: bool) -> float:
    """Of a call, among some in a row."""
    call()
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        call()
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def main() -> None:
    """Every map of VAN-B0; when dry, one small one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry", action="store_true", help="without a GPU: emulated, on a tiny map")
    arguments = parser.parse_args()
    if arguments.dry:
        os.environ.update(TRITON_INTERPRET="1", VANBENCH_EMULATE_CUDA="1")
    device = torch.device("cpu" if arguments.dry else "cuda")
    batch, maps = (1, [(4, 8, 6)]) if arguments.dry else (BATCH, MAPS)

    def tensor(*shape: int) -> Tensor:
        drawn = torch.randn(shape, device=device).to(torch.bfloat16)
        return drawn.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else drawn

    rows = []
    with torch.inference_mode():
        for channels, wide, px in maps:
            gelu = with_gelu(tensor(batch, wide, px, px), tensor(wide, 1, 3, 3), tensor(wide))
            weights = tensor(channels, 1, 5, 5), tensor(channels, 1, 7, 7), tensor(channels)
            pair = pairs(tensor(batch, channels, px, px), *weights)
            for what, width, calls in (("gelu", wide, gelu), ("pair", channels, pair)):
                about = {"what": what, "batch": batch, "channels": width, "px": px}
                rows += [{**about, **row} for row in in_turns(calls, device)]
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "fused_depthwise.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
