"""The machine that this process runs on, but for its GPUs: read from the system, without torch."""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

import psutil

from vanbench.record.environment import Gpu, Hardware

__all__ = ["hardware"]


def hardware(gpus: tuple[Gpu, ...] = ()) -> Hardware:
    """What `machine_key` is made of. gpus: those that count."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    physical = psutil.cpu_count(logical=False) or logical
    return Hardware(
        architecture=platform.machine(),
        cpu=_cpu_name(),
        cores=min(physical, logical),
        logical_cores=logical,
        cpu_quota=_cpu_quota(),
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        virtualisation=_virtualisation(),
        gpus=gpus,
    )


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if match:
            return " ".join(match.group(1).split())
    return platform.processor() or platform.machine()


def _cpu_quota() -> float | None:
    """CPUs' worth of time the cgroup grants, version 2 or 1."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text())
        period_us = int(Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text())
        return None if quota_us < 0 else quota_us / period_us
    return None


def _virtualisation() -> str | None:
    with contextlib.suppress(OSError):
        if re.search(r"^flags\s*:.*\bhypervisor\b", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return "hypervisor"
    return None
