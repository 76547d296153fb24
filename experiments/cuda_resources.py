"""What can be told of the CUDA kernels without a GPU: registers, instructions, and the bound that these set.

Why: a kernel whose tile spills, or that spends its instructions on anything but multiply-adds, is slow on every device;
the compiler says both before any is at hand.
How long: two minutes; nothing is timed.
Command: python experiments/cuda_resources.py --out results/compiled
Columns: architecture, kernel, dtype, setting (channels, rows and columns of a thread, threads of a block, and of a pair
the lanes), registers (a thread), spilled_bytes (local memory and stack), shared_bytes (static, a block), warps (that
registers let into a multiprocessor), instructions (of the kernel), multiply_adds (of these), per_output (instructions a
value of the output, each counted once), share (multiply_adds over instructions: no more of the arithmetic roof can be
reached).
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton

from vanbench.kernels import cuda
from vanbench.kernels.nvrtc import compile_image

TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CHANNELS = 64
REGISTERS, MOST_WARPS = 65536, 64
BEGIN, END = "<!-- resources -->", "<!-- end -->"
INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+\s+)?([A-Z0-9]+)")


def told(image: bytes) -> tuple[dict[str, int], list[str]]:
    """What the image's one kernel uses, and its instructions by name; those after the last EXIT are padding."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.cubin"
        file.write_bytes(image)
        said = [
            subprocess.run([TOOL, flag, file], capture_output=True, text=True, check=True).stdout
            for flag in ("--dump-resource-usage", "--dump-sass")
        ]
    used = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said[0])}
    return used, [name for name in INSTRUCTION.findall(said[1]) if name != "NOP"]


def rows() -> Iterator[dict[str, Any]]:
    """Every kernel with every setting."""
    for architecture in ARCHITECTURES:
        for word, dtype in DTYPES.items():
            for kernel, dilation in ((3, 1), (5, 1), (7, 1), (7, 3)):
                for setting in cuda._STENCIL:
                    vector, height, width, threads = setting
                    defines = cuda._defines(dtype, kernel, CHANNELS, dilation, vector)
                    more = (f"ROWS={height}", f"COLUMNS={width}", f"THREADS={threads}", "GELU=0")
                    called = f"{kernel}x{kernel}" + (f" dilation {dilation}" if dilation > 1 else "")
                    image = compile_image(architecture, *defines, *more)
                    about = {"architecture": architecture, "kernel": called, "dtype": word}
                    yield {**about, **counted(image, setting, threads, vector * height * width)}
            for pair in cuda._PAIR:
                vector, height, width, threads, lanes = pair
                defines = (*cuda._defines(dtype, 7, CHANNELS, 3, vector, lanes), "PAIR=1", "GELU=0")
                sizes = (f"ROWS={height}", f"COLUMNS={width}", f"THREADS={threads}")
                image = compile_image(architecture, *defines, *sizes)
                about = {"architecture": architecture, "kernel": "pair", "dtype": word}
                yield {**about, **counted(image, pair, threads, vector * height * width)}


def counted(image: bytes, setting: tuple[int, ...], threads: int, outputs: int) -> dict[str, Any]:
    """The columns of one kernel."""
    used, instructions = told(image)
    adds = instructions.count("FFMA")
    # Registers are given to a warp by 256.
    warps = REGISTERS // (-(-used["REG"] * 32 // 256) * 256)
    blocks = min(warps, MOST_WARPS) // (threads // 32)
    return {
        "setting": " ".join(map(str, setting)),
        "registers": used["REG"],
        "spilled_bytes": used["LOCAL"] + used["STACK"],
        "shared_bytes": used["SHARED"],
        "warps": blocks * threads // 32,
        "instructions": len(instructions),
        "multiply_adds": adds,
        "per_output": f"{len(instructions) / outputs:.1f}",
        "share": f"{adds / len(instructions):.3f}",
    }


def filled(page: str, table: list[dict[str, str]]) -> str:
    """The page with its table: for each kernel of bf16 on sm_90 the setting with most multiply-adds."""
    lines = [
        "| kernel | tile | registers | warps | instructions an output | multiply-adds |",
        "|---|---|---|---|---|---|",
    ]
    shown = [row for row in table if (row["architecture"], row["dtype"]) == ("sm_90", "bf16")]
    for kernel in dict.fromkeys(row["kernel"] for row in shown):
        best = max((row for row in shown if row["kernel"] == kernel), key=lambda row: float(row["share"]))
        vector, height, width, *_ = best["setting"].split()
        tile = f"{height} x {width} x {vector} channels"
        share = f"{float(best['share']):.0%}"
        lines.append(f"| {kernel} | {tile} | {best['registers']} | {best['warps']} | {best['per_output']} | {share} |")
    start, rest = page.split(BEGIN)
    return start + BEGIN + "\n" + "\n".join(lines) + "\n" + END + rest.split(END)[1]


def main() -> None:
    """The table, as cuda_resources.csv; and the page's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="only fill this page's table from the one in --out")
    arguments = parser.parse_args()
    if arguments.page is not None:
        with (arguments.out / "cuda_resources.csv").open() as file:
            arguments.page.write_text(filled(arguments.page.read_text(), list(csv.DictReader(file))))
        return
    table = list(rows())
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "cuda_resources.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
