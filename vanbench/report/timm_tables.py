"""The result tables that timm publishes, read into our rows. Values as published; what they lack stays empty.

Its CSVs say which model, batch and image size a figure belongs to; precision, layout, torch, device and whether
torch.compile was used stand in the file's name alone. The order of columns changed over the years, so they are read
by name.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from vanbench.errors import UserError
from vanbench.report.columns import COLUMNS, Value
from vanbench.report.table import Row
from vanbench.spec.names import TASKS, canonical

__all__ = ["TimmTable", "is_timm_table", "published_name", "read_timm"]


class TimmTable(NamedTuple):
    """rows: with a value or None for each of `COLUMNS`. warnings: in what these figures differ from ours."""

    rows: list[Row]
    warnings: list[str]


# The name of a published file, e.g. benchmark-infer-amp-nhwc-pt240-cu124-rtx4090-dynamo.csv.
_NAME = re.compile(
    r"benchmark-(?:infer|train)-(?P<precision>\w+)-(?P<layout>nchw|nhwc)-pt(?P<torch>\d{3,4})"
    r"-(?P<platform>cu\d{3}|cpu)-(?P<device>\w+?)(?P<dynamo>-dynamo)?\.csv"
)
_PRECISIONS = {"amp": "amp-fp16", "amp_bf16": "amp-bf16", "bf16": "bf16", "fp16": "fp16", "fp32": "fp32"}
_LAYOUTS = {"nchw": "contiguous", "nhwc": "channels_last"}
_DEVICES = {
    "rtx3090": "RTX 3090",
    "rtx4090": "RTX 4090",
    "4090": "RTX 4090",
    "5090": "RTX 5090",
    "pro6000maxq": "RTX PRO 6000 Max-Q",
    "i9_10940x": "i9-10940X",
    "i7_12700h": "i7-12700H",
}


def is_timm_table(text: str) -> bool:
    """Whether a CSV's header is one of timm's result tables: a model, and images/s of inference or of training."""
    header = next(csv.reader(text.splitlines()[:1]), [])
    return "model" in header and any(f"{task}_samples_per_sec" in header for task in TASKS)


def read_timm(text: str, name: str) -> TimmTable:
    """The rows of one of timm's result tables, inference or training or both, in its order. name: the file's.

    Every row is measured, has images/s without an interval, and no machine key: the machine was another. Parameters
    and MACs are as published, to two decimals of a million and of a thousand million. The step's time is left out: it
    is a mean, and ours a median. Raises UserError for a figure that is no number, with its line.
    """
    said, warnings = _from_name(name)
    reader = csv.DictReader(io.StringIO(text))
    tasks = [task for task in TASKS if f"{task}_samples_per_sec" in (reader.fieldnames or ())]
    rows: list[Row] = []
    without = []
    try:
        for line in reader:
            for task in tasks:
                if line.get(f"{task}_samples_per_sec"):
                    rows.append({**{column.name: None for column in COLUMNS}, **said, **_row(line, task)})
                else:
                    without.append(f"{line.get('model') or '?'} ({task})")
    except (ValueError, csv.Error) as error:
        raise UserError(f"{name}, line {reader.line_num}: {error}") from None
    if without:
        warnings.append(f"{len(without)} rows have no figure and are left out: {', '.join(without)}")
    return TimmTable(rows, _general(rows) + warnings)


def published_name(row: Row) -> str | None:
    """The name under which timm would publish a table of such rows; None where its names have no word for them.

    `fp32` on a GPU is such a case, since there timm's fp32 is TF32; another is a row that lacks its configuration.
    """
    on_cpu = row["device"] == "cpu"
    words = {word: name for name, word in _PRECISIONS.items()}
    if not on_cpu:
        words["tf32"] = words.pop("fp32")
    precision = words.get(str(row["precision"]))
    torch = re.fullmatch(r"(\d)\.(\d+)(?:\.(\d))?(?:\+(cu\d{3})|\+cpu)?", str(row["torch_version"]))
    platform = "cpu" if on_cpu else torch and torch[4]
    layout = {word: name for name, word in _LAYOUTS.items()}.get(str(row["memory_format"]))
    if None in (precision, torch, platform, layout, row["compile"]) or torch is None:
        return None
    spelled = {word: name for name, word in _DEVICES.items()}
    device = str(row["device_name"])
    device = spelled.get(device) or "_".join(re.findall(r"[a-z0-9]+", device.lower()))
    dynamo = "" if row["compile"] == "off" else "-dynamo"
    version = "".join(part for part in torch.groups()[:3] if part)
    return f"benchmark-{row['task']}-{precision}-{layout}-pt{version}-{platform}-{device}{dynamo}.csv"


def _row(line: Mapping[str, str | None], task: str) -> dict[str, Value]:
    """What a line says of one task. Raises ValueError."""
    model = (line.get("model") or "").strip()
    if not model:
        raise ValueError("no model is named")
    params, gmacs = line.get("param_count"), line.get(f"{task}_gmacs")
    return {
        "status": "measured",
        "model": canonical(model),
        "task": task,
        "batch_size": _whole(line, f"{task}_batch_size"),
        "image_size": _whole(line, f"{task}_img_size"),
        # timm times its models as it writes them, with torch's own kernels.
        "form": "reference",
        "depthwise": "native",
        "allocator": "system",
        "images_per_s": _rate(line, f"{task}_samples_per_sec"),
        "params": round(float(params) * 1e6) if params else None,
        "macs": round(float(gmacs) * 1e9) if gmacs else None,
    }


def _rate(line: Mapping[str, str | None], column: str) -> float:
    value = float(line.get(column) or "nan")
    if not 0 < value < math.inf:
        raise ValueError(f"{column} {line.get(column)!r} is no rate")
    return value


def _whole(line: Mapping[str, str | None], column: str) -> int:
    """A whole number, written `1024` in most tables and `1024.0` in some."""
    value = float(line.get(column) or "nan")
    if not value.is_integer() or value < 1:
        raise ValueError(f"{column} {line.get(column)!r} is no whole number above 0")
    return int(value)


def _from_name(name: str) -> tuple[dict[str, Value], list[str]]:
    """What a file's name says of all its rows, and warnings about it."""
    found = _NAME.fullmatch(name)
    if found is None or found["precision"] not in _PRECISIONS:
        return {}, [
            f"{name} does not follow the names of published tables: precision, memory format, compile, device and "
            "torch version are not known and stay empty"
        ]
    on_cpu = found["platform"] == "cpu"
    platform = "" if on_cpu else f"+{found['platform']}"
    said: dict[str, Value] = {
        "precision": _PRECISIONS[found["precision"]],
        "memory_format": _LAYOUTS[found["layout"]],
        "compile": "default" if found["dynamo"] else "off",
        "device": "cpu" if on_cpu else "cuda",
        "device_name": _DEVICES.get(found["device"], found["device"]),
        "torch_version": f"{_torch(found['torch'])}{platform}",
    }
    warnings = []
    if found["precision"] == "amp":
        warnings.append("amp in the file's name is autocast to fp16: amp-fp16 here")
    if found["precision"] == "fp32" and not on_cpu:
        said["precision"] = "tf32"
        warnings.append("fp32 on a GPU is tf32 here: timm's script leaves TF32 on")
    if found["dynamo"]:
        warnings.append("dynamo in the file's name is torch.compile; its mode is not said and taken for the default")
    return said, warnings


def _torch(digits: str) -> str:
    """`113` is 1.13, `240` is 2.4.0, `2100` is 2.10.0."""
    if digits[0] == "1" and len(digits) == 3:
        return f"1.{digits[1:]}"
    return f"{digits[0]}.{digits[1:-1]}.{digits[-1]}"


def _general(rows: list[Row]) -> list[str]:
    """In what every such table differs from ours."""
    warnings = [
        "made by timm's benchmark script, and published by timm unless you ran it: another machine, named by no key",
        "each figure is the mean of one run in one process, by default 40 steps with a synchronisation after each: "
        "no interval",
        "the input is synthetic, the same random tensor at every step",
    ]
    batches = sorted({int(row["batch_size"] or 0) for row in rows})
    seen = f", {batches[0]} to {batches[-1]} in this table" if len(batches) > 1 else ""
    warnings.append(f"the batch may have been made smaller until the model ran without an error{seen}")
    if any(row["task"] == "train" for row in rows):
        warnings.append("training steps are timm's, by default with SGD; ours end in an AdamW step")
    return warnings
