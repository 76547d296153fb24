"""Values made by hand for tests: a sweep, an environment, rounds and records without a machine or a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vanbench.record.ceilings import Ceiling, Ceilings, Stream
from vanbench.record.environment import Environment, Hardware, Rest, Software
from vanbench.record.measurement import Disturbance, Facts, Round
from vanbench.record.record import Measured, Outcome, Record, Stack
from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling
from vanbench.spec.sweep import Sweep, parse_sweep

__all__ = ["make_ceilings", "make_environment", "make_facts", "make_record", "make_round", "make_sweep", "roof"]


def make_environment(**changes: Any) -> Environment:
    """A two-core machine without a GPU; `changes` replace fields of Environment."""
    hardware = Hardware(
        architecture="x86_64",
        cpu="Example CPU",
        cores=2,
        logical_cores=2,
        cpu_quota=None,
        memory_gib=24,
        virtualisation="kvm",
    )
    software = Software(
        vanbench="0.1.0",
        python="3.11.7",
        torch="2.15.0",
        timm="1.0.30",
        numpy="2.4.0",
        os="Linux",
        kernel="6.1",
        libc="glibc 2.36",
    )
    rest = Rest(
        pressure=0.01,
        busy=0.02,
        load_1min=0.1,
        free_bytes=20 * 2**30,
        governor=None,
        turbo=None,
        wait_policy="active",
        threads=2,
        allocator="glibc",
    )
    fields: dict[str, Any] = {
        "machine_key": hardware.key,
        "machine": hardware.slug,
        "date": "2026-01-02T03:04:05Z",
        "device": "cpu",
        "device_name": "Example CPU",
        "hardware": hardware,
        "software": software,
        "rest": rest,
    }
    return Environment(**{**fields, **changes})


def make_sweep(models: Sequence[str] = ("van_b0", "resnet18"), **axes: Any) -> Sweep:
    """A sweep of these models; axes by their field-like names (`batch_size=(1, 8)`), and `reference`, `question`."""
    document: dict[str, Any] = {
        key: axes.pop(key) for key in ("reference", "question", "exclude", "sampling") if key in axes
    }
    given = {"models": list(models), **{name.replace("_", "-"): list(values) for name, values in axes.items()}}
    return parse_sweep({**document, "axes": given}, {})


def make_round(
    name: str = "r0",
    sample_s: Sequence[float] = (0.03, 0.03, 0.03, 0.03),
    *,
    images: int = 8,
    steps: int = 1,
    disturbance: Disturbance | None = None,
    **changes: Any,
) -> Round:
    """A round whose samples took `sample_s` seconds, each `steps` equal steps and `images` images in all."""
    starts = [sum(sample_s[:i]) for i in range(len(sample_s))]
    quiet = Disturbance(window_s=sum(sample_s), steps=steps * len(sample_s), minor_faults=steps)
    fields: dict[str, Any] = {
        "round": name,
        "warmup_sample_s": [0.2, 0.05, 0.03],
        "sample_start_s": starts,
        "sample_s": list(sample_s),
        "sample_images": [images] * len(sample_s),
        "step_s": [seconds / steps for seconds in sample_s for _ in range(steps)],
        "peak_bytes": 200 * 2**20,
        "disturbance": disturbance or quiet,
    }
    return Round(**{**fields, **changes})


def make_facts(**changes: Any) -> Facts:
    """What is true of a cell on the two-core machine."""
    fields: dict[str, Any] = {
        "device": "cpu",
        "device_name": "Example CPU",
        "threads": 2,
        "params": 4_105_800,
        "macs": 864_224_000,
        "check_quantity": "logits",
        "check_error": 1e-6,
        "check_tolerance": 1e-5,
    }
    return Facts(**{**fields, **changes})


def make_record(
    cell: Cell | None = None,
    rounds: Sequence[Round] | None = None,
    outcome: Outcome | None = None,
    *,
    facts: Facts | None = None,
    sampling: Sampling | None = None,
) -> Record:
    """A record; measured over five quiet rounds named r0 to r4 unless told otherwise."""
    asked = cell or Cell(model="van_b0", batch_size=8)
    made = [make_round(f"r{i}", images=asked.batch_size) for i in range(5)] if rounds is None else rounds
    return Record(
        key=asked.key,
        cell=asked,
        sampling=sampling or Sampling(),
        stack=Stack(
            machine_key="0123456789ab", device_name="Example CPU", torch_version="2.15.0", vanbench_version="0.1.0"
        ),
        outcome=outcome if outcome is not None else Measured(stopped="target reached"),
        facts=facts if facts is not None else (make_facts() if made else None),
        rounds=tuple(made),
    )


def roof(best: float) -> Ceiling:
    return Ceiling(best=best, median=best / 2, low=best / 4, visits=3, how="by hand")


def make_ceilings(**changes: Any) -> Ceilings:
    """100 GB/s up to 1 MiB, 10 GB/s above; matrix 200 GFLOP/s (tf32 800), multiply-adds 50; a launch of 1 µs."""
    fields: dict[str, Any] = {
        "machine_key": "k",
        "device": "cpu",
        "device_name": "d",
        "threads": 2,
        "date": "2026-01-01T00:00:00Z",
        "seconds": 30.0,
        "torch_version": "2",
        "streams": (
            Stream(kind="read", bytes=1 << 16, ceiling=roof(90e9)),
            Stream(kind="copy", bytes=1 << 16, ceiling=roof(100e9)),
            Stream(kind="copy", bytes=1 << 20, ceiling=roof(95e9)),
            Stream(kind="copy", bytes=1 << 24, ceiling=roof(9e9)),
            Stream(kind="add", bytes=1 << 28, ceiling=roof(10e9)),
        ),
        "matrix": {"fp32": roof(200e9), "tf32": roof(800e9)},
        "vector": {"fp32": roof(50e9), "bf16": roof(60e9)},
        "launch": roof(1e-6),
    }
    return Ceilings(**{**fields, **changes})
