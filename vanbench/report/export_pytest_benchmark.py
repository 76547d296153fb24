"""The JSON of pytest-benchmark 5: what `pytest-benchmark compare` and `pytest --benchmark-compare` read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vanbench.errors import UserError
from vanbench.record.environment import Environment
from vanbench.record.record import Record
from vanbench.report.export_values import Chosen, Exported, Wishes, figure
from vanbench.report.stored import Entry
from vanbench.stats import fmean, median, stdev

__all__ = ["pytest_benchmark"]

# The version whose files these are like; it is checked by running that version on them.
_VERSION = "5.3.1"
_PARAMS = (
    *("model", "task", "batch_size", "image_size", "precision", "memory_format", "compile", "form", "depthwise"),
    "allocator",
)
_EXTRA_TEXT = ("machine_key", "device_name", "torch_version", "vanbench_version", "key")


def pytest_benchmark(chosen: Sequence[Chosen], wishes: Wishes) -> Exported:
    """A benchmark for each row. A round of pytest-benchmark is a sample here, and its time that of one step.

    Their statistics are over all samples of all rounds (fresh processes) alike, in seconds a step; images/s and its
    interval, which is over rounds, stand in extra_info. Raises UserError without raw times, so for a CSV.
    """
    (run,) = chosen
    environment = run.stored.environment
    if environment is None:
        raise UserError(
            f"pytest-benchmark's format is made of raw times, and {run.stored.path} has none: give the run directory"
        )
    document = {
        "machine_info": _machine(environment),
        "commit_info": {
            "id": wishes.commit or "unversioned",
            "time": None,
            "author_time": None,
            "dirty": False,
            "project": "vanbench",
            "branch": wishes.branch or "(unknown)",
        },
        "benchmarks": [_benchmark(entry, entry.record) for entry in run.entries if entry.record is not None],
        "datetime": environment.date.replace("Z", "+00:00"),
        "version": _VERSION,
    }
    return Exported(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _machine(environment: Environment) -> dict[str, Any]:
    """The keys of machine_info that a run knows. `node` is the machine's kind: a host name is kept nowhere."""
    hardware, software = environment.hardware, environment.software
    return {
        "node": environment.machine,
        "machine": hardware.architecture,
        "python_version": software.python,
        "release": software.kernel,
        "system": software.os,
        "cpu": {"arch": hardware.architecture, "brand_raw": hardware.cpu, "count": hardware.logical_cores},
        "gpus": [gpu.name for gpu in hardware.gpus],
        "machine_key": environment.machine_key,
        "torch_version": software.torch,
    }


def _benchmark(entry: Entry, record: Record) -> dict[str, Any]:
    row, name = entry.row, f"vanbench[{entry.name}]"
    times, steps = _step_times(record)
    extra = {column: figure(row, column) for column in ("images_per_s", "images_per_s_low", "images_per_s_high")}
    return {
        "group": f"{row['task']}, batch {row['batch_size']}, {row['image_size']} px",
        "name": name,
        "fullname": name,
        "params": {column: row[column] for column in _PARAMS},
        "param": entry.name,
        "extra_info": {
            **extra,
            "batch_size": row["batch_size"],
            "rounds": row["rounds"],
            "flags": str(row["flags"]).split(";") if row["flags"] else [],
            **{column: row[column] for column in _EXTRA_TEXT},
        },
        "options": {},
        "stats": {**_statistics(times), "data": times, "iterations": steps},
    }


def _step_times(record: Record) -> tuple[list[float], int]:
    """Seconds a step for each sample, and steps a sample (their median, as samples of one cell can differ by one)."""
    times, counts = [], []
    for each in record.rounds:
        for seconds, images in zip(each.sample_s, each.sample_images, strict=True):
            counts.append(images // record.cell.batch_size)
            times.append(seconds * record.cell.batch_size / images)
    return times, round(median(counts))


def _statistics(times: Sequence[float]) -> dict[str, Any]:
    """The figures that pytest-benchmark keeps, by its definitions, of one time at least."""
    ordered = sorted(times)
    mean = fmean(times)
    spread = stdev(times) if len(times) > 1 else 0
    first, third = _lower_quartile(ordered), _lower_quartile(ordered[::-1])
    fences = (first - 1.5 * (third - first), third + 1.5 * (third - first))
    within = [time for time in ordered if fences[0] <= time <= fences[1]]
    beyond = (_outside(times, mean - spread, mean + spread), _outside(times, *fences))
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": mean,
        "stddev": spread,
        "rounds": len(times),
        "median": median(times),
        "iqr": third - first,
        "q1": first,
        "q3": third,
        "iqr_outliers": beyond[1],
        "stddev_outliers": beyond[0],
        "outliers": f"{beyond[0]};{beyond[1]}",
        "ld15iqr": within[0],
        "hd15iqr": within[-1],
        "ops": len(times) / sum(times),
        "total": sum(times),
    }


def _lower_quartile(ordered: Sequence[float]) -> float:
    """Of values from one end to the other, the quartile at the near end.

    The median of the nearer half; for an odd count that of the halves with and without the middle value, averaged.
    """
    count, quarter = len(ordered), len(ordered) // 4
    if count == 1:
        return ordered[0]
    if count % 2 == 0:
        return median(ordered[: count // 2])
    if count % 4 == 1:
        return 0.25 * ordered[quarter - 1] + 0.75 * ordered[quarter]
    return 0.75 * ordered[quarter] + 0.25 * ordered[quarter + 1]


def _outside(times: Sequence[float], low: float, high: float) -> int:
    return sum(not low <= time <= high for time in times)
