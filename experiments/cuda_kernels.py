"""How fast is VAN on a GPU, and what are kernels of our own worth there beside torch's, alone and in the model?

Why: torch serves depthwise convs on CUDA by cuDNN or by a kernel without reuse, by layout; what cuDNN makes of VAN's
dilated 7x7 has never been published, and no fused kernel of the gate is public.
How long: 45 minutes on an H200 for all of it; ordered by worth, so that any ten minutes leave valid folders.
Command: python experiments/cuda_kernels.py --out results/<machine>/cuda_kernels --seconds 540
         (again with the same --out: what is done is left, what was begun is resumed)
         python experiments/cuda_kernels.py --dry --out FOLDER
         (without a GPU: emulated, on tiny maps, seven minutes; no time in it means anything)
Columns: of each step those of its verb or script; figures.md has what was asked for beside what was measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
MODELS = ["van_b0", "van_b2", "convnext_tiny", "resnet50"]
KERNELS = ["cuda", "cuda-pair", "triton", "auto"]


class Step(NamedTuple):
    """name: of its folder. seconds: that it may take. command: with the folder and the seconds filled in."""

    name: str
    seconds: int
    command: list[str]


def sweep(axes: dict[str, list[Any]], *exclude: dict[str, Any], rounds: str = "2:4") -> str:
    """A sweep file's text."""
    lines = ["[axes]", *(f"{name} = {json.dumps(values)}" for name, values in axes.items())]
    lines += ["", "[sampling]", f'rounds = "{rounds}"']
    for each in exclude:
        lines += ["", "[[exclude]]", *(f"{name} = {json.dumps(value)}" for name, value in each.items())]
    return "\n".join(lines) + "\n"


# What says nothing new: our kernels in the reference form, whose copies hide them, and for ResNet, which has no
# depthwise conv, any kernel but torch's.
PLAIN = (
    {"form": "reference", "depthwise": KERNELS},
    {"models": ["resnet50"], "depthwise": KERNELS},
)


def sweeps(dry: bool) -> dict[str, str]:
    """By the name of their step."""
    if dry:
        tiny: dict[str, list[Any]] = {
            "models": ["van_b0"],
            "batch-size": [1],
            "image-size": [32],
            "memory-format": ["channels_last"],
        }
        return {
            "infer": sweep(
                {**tiny, "precision": ["bf16"], "form": ["reference", "folded"], "depthwise": ["native", *KERNELS[:3]]},
                PLAIN[0],
                rounds="1:1",
            ),
            "train": sweep(
                {**tiny, "batch-size": [2], "task": ["train"], "form": ["lean"], "depthwise": ["native", "cuda"]},
                rounds="1:1",
            ),
            "infer_compiled": sweep(
                {**tiny, "form": ["folded"], "compile": ["default"], "depthwise": ["native", "cuda-pair"]}, rounds="1:1"
            ),
        }
    base: dict[str, list[Any]] = {"models": MODELS, "precision": ["bf16"], "memory-format": ["channels_last"]}
    inference = {"form": ["reference", "folded"], "depthwise": ["native", *KERNELS]}
    training = {"task": ["train"], "form": ["reference", "lean"], "depthwise": ["native", "cuda", "triton", "auto"]}
    compiled = {"compile": ["default", "max-autotune"]}
    vans = ["van_b0", "van_b1", "van_b2", "van_b3"]
    return {
        "infer": sweep({**base, "batch-size": [256, 32, 1], **inference}, *PLAIN),
        "train": sweep({**base, "batch-size": [256, 32, 1], **training}, *PLAIN),
        # The figure to reach: ours against what max-autotune makes of the published form, in its better layout.
        "infer_compiled": sweep(
            {
                **base,
                "models": vans,
                "batch-size": [256, 32],
                "memory-format": ["contiguous", "channels_last"],
                "compile": ["off", "max-autotune"],
                "form": ["reference", "folded"],
                "depthwise": ["native", "cuda", "cuda-pair"],
            },
            {"form": "reference", "depthwise": ["cuda", "cuda-pair"]},
            {"form": "folded", "memory-format": "contiguous"},
            {"form": "reference", "compile": "off"},
        ),
        "train_compiled": sweep(
            {
                **base,
                **compiled,
                "models": vans,
                "batch-size": [256, 32],
                "task": ["train"],
                "form": ["reference", "lean"],
                "depthwise": ["native", "cuda"],
            },
            {"form": "reference", "depthwise": ["cuda"]},
        ),
        "compiled_others": sweep({**base, **compiled, "models": MODELS[2:], "batch-size": [256, 32]}),
        "rest": sweep(
            {
                **base,
                "models": [*vans, *MODELS[2:]],
                "batch-size": [256],
                "precision": ["fp32", "tf32", "amp-bf16"],
                "memory-format": ["contiguous", "channels_last"],
                "form": ["reference", "folded"],
                "depthwise": ["native", "cuda"],
            },
            {"form": "reference", "depthwise": ["cuda"]},
            {"form": "folded", "memory-format": "contiguous"},
            {"models": ["resnet50"], "depthwise": ["cuda"]},
        ),
    }


def steps(out: Path, dry: bool) -> Iterator[Step]:
    """All of it, what is worth most first."""
    vanbench = [sys.executable, "-m", "vanbench"]
    device = ["--device", "cpu" if dry else "cuda"]
    tests = (
        ["tests/test_gpu_kernels.py", "-k", "halves or pair"] if dry else ["tests/test_gpu.py", "-k", "on_the_device"]
    )
    yield Step("correctness", 300, [sys.executable, "-m", "pytest", "-q", *tests])
    seconds = [] if dry else ["--seconds", "30"]
    yield Step("ceilings", 120, [*vanbench, "ceilings", *device, *seconds, "--out", "{folder}"])
    shapes = ["--models", "van_b0,van_b2,convnext_t", "--rounds", "4"]
    if dry:
        shapes = ["--models", "van_b0", "--image-size", "32", "--batch-size", "1", "--rounds", "1"]
        shapes += ["--memory-format", "channels_last", "--depthwise", "native,cuda,triton"]
    alone = ["depthwise", *device, *shapes, "--precision", "bf16", "--kernel", "none", "--budget", "{seconds}"]
    yield Step("depthwise", 60 if dry else 240, [*vanbench, *alone, "--out", "{folder}"])
    fused = ["experiments/fused_depthwise.py", *(["--dry"] if dry else []), "--out", "{folder}"]
    yield Step("fusions", 60, [sys.executable, *fused])
    for name, text in sweeps(dry).items():
        file = out / f"{name}.toml"
        file.write_text(text)
        run = ["run", str(file), *device, "--out", "{folder}", "--budget", "{seconds}"]
        yield Step(name, 120 if dry else 420, [*vanbench, *run])


def perform(step: Step, out: Path, seconds: float) -> bool:
    """Carry a step out, or on; whether it is done. What it prints is kept beside its folder."""
    folder, done = out / step.name, out / f"{step.name}.done"
    limit = int(min(step.seconds, seconds))
    command = [each.format(folder=folder, seconds=limit) for each in step.command]
    if folder.exists() and step.command[3] == "run":
        # A run goes on where it stopped; the others begin anew, in a folder of their own.
        command = [*command[:4], "--resume", str(folder), "--budget", str(limit)]
    elif folder.exists():
        folder.rename(folder.with_name(f"{step.name}-unfinished-{int(time.time())}"))
    print(f"{step.name}: {limit} s", flush=True)
    with (out / f"{step.name}.log").open("a") as log:
        log.write(" ".join(command) + "\n")
        log.flush()
        try:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, timeout=limit + 120
            ).returncode
        except subprocess.TimeoutExpired:
            code = 124
    left = _left(folder)
    print(f"{step.name}: exit {code}" + (f", {left} cells left for another time" if left else ""), flush=True)
    if code == 0 and not left:
        done.touch()
    return code == 0


def _left(folder: Path) -> int:
    table = folder / "results.csv"
    if not table.exists():
        return 0
    with table.open() as file:
        return sum(row["status"] == "skipped" and row["reason"] == "budget" for row in csv.DictReader(file))


# --- what was asked for -----------------------------------------------------------------------------------------------


def figures(out: Path) -> str:
    """A page: each figure to reach beside what the tables hold; what has not been measured says so."""
    lines = ["# Asked and measured", "", "| asked | measured |", "|---|---|"]
    table = _rows(out / "depthwise" / "depthwise.csv")
    for kernel, dilation, px, least in ((7, 3, 56, 0.55), (3, 1, 56, 0.70), (5, 1, 56, 0.70)):
        asked = f"{kernel}x{kernel} dilation {dilation} forward at {px} px: {least:.0%} of the roof, cold"
        if (kernel, dilation) == (7, 3):
            asked += ", and 3 times the better of torch's paths"
        found = [
            row
            for row in table
            if (row["kernel_size"], row["dilation"], row["height"]) == (str(kernel), str(dilation), str(px))
            and (row["pass"], row["memory_format"], row["status"]) == ("forward", "channels_last", "measured")
        ]
        best = {row["depthwise"]: row for row in found}
        ours = [best[word] for word in ("cuda", "triton") if word in best]
        theirs = [best[word] for word in ("native", "cudnn", "aten") if word in best]
        if not ours or not theirs:
            lines.append(f"| {asked} | not measured |")
            continue
        fast, slow = (min(rows, key=lambda row: float(row["warm_s"])) for rows in (ours, theirs))
        ratio = float(slow["warm_s"]) / float(fast["warm_s"])
        roof = f"{float(fast['cold_fraction']):.0%} of the roof" if fast["cold_fraction"] else "no ceilings"
        lines.append(f"| {asked} | {fast['depthwise']}: {ratio:.2f} times {slow['depthwise']}, {roof} |")
    for name, least in (("infer_compiled", 1.5), ("train_compiled", 1.3)):
        lines += _models(_rows(out / name / "results.csv"), name.partition("_")[0], least)
    return "\n".join(lines) + "\n"


def _models(rows: list[dict[str, str]], task: str, least: float) -> Iterator[str]:
    for model in ("van_b0", "van_b1", "van_b2", "van_b3"):
        asked = f"{model} bf16 {task} at batch 256: {least} times max-autotune of the reference in its better layout"
        here = [row for row in rows if (row["model"], row["batch_size"], row["status"]) == (model, "256", "measured")]
        theirs = [row for row in here if (row["form"], row["compile"]) == ("reference", "max-autotune")]
        ours = [row for row in here if row["form"] != "reference"]
        if not ours or not theirs:
            yield f"| {asked} | not measured |"
            continue
        fast, slow = (max(each, key=lambda row: float(row["images_per_s"])) for each in (ours, theirs))
        ratio = float(fast["images_per_s"]) / float(slow["images_per_s"])
        words = f"{fast['form']}, {fast['depthwise']}, compile {fast['compile']}"
        yield f"| {asked} | {ratio:.2f} ({words}, over {slow['memory_format']}) |"


def _rows(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with table.open() as file:
        return list(csv.DictReader(file))


def main() -> None:
    """All steps that the time allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no step after so long")
    parser.add_argument("--dry", action="store_true", help="without a GPU: emulated, on tiny maps")
    parser.add_argument("--only", default="", help="steps by name, a comma list")
    arguments = parser.parse_args()
    if arguments.dry:
        os.environ.update(TRITON_INTERPRET="1", VANBENCH_EMULATE_CUDA="1")
    end, failed = time.monotonic() + arguments.seconds, []
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    only = [word for word in arguments.only.split(",") if word]
    for step in steps(out, arguments.dry):
        if (out / f"{step.name}.done").exists() or (only and step.name not in only):
            continue
        left = end - time.monotonic()
        if left < 20:
            print(f"{step.name}: no time left; the same command goes on here")
            break
        if not perform(step, out, left):
            failed.append(step.name)
    (out / "figures.md").write_text(figures(out))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}; each step's .log has what it printed")


if __name__ == "__main__":
    main()
