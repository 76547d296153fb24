"""What else happened while samples were taken: the kernel's counters, read before and after each, never within."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from vanbench.record.measurement import Disturbance
from vanbench.worker.gpu import Nvml

__all__ = ["Counters", "Watch", "cgroup_cpu_stat", "pressure_total_s"]


class Counters:
    """Open files of counters that are read many times: a pread costs microseconds, an open tens of them."""

    def __init__(self) -> None:
        self._files: dict[str, int | None] = {}

    def text(self, path: str) -> str | None:
        """The first KiB of a /proc or /sys file, or None if it is not there."""
        if path not in self._files:
            try:
                self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                self._files[path] = None
        descriptor = self._files[path]
        if descriptor is None:
            return None
        try:
            return os.pread(descriptor, 1024, 0).decode(errors="replace")
        except OSError:
            return None


def pressure_total_s(counters: Counters) -> float | None:
    """Seconds since boot in which some task waited for a CPU (PSI)."""
    text = counters.text("/proc/pressure/cpu")
    if text is None:
        return None
    for line in text.splitlines():
        if line.startswith("some "):
            return int(line.rpartition("total=")[2]) / 1e6
    return None


def cpu_times_s(counters: Counters) -> tuple[float, float] | None:
    """(busy, stolen) seconds of all CPUs together since boot, in steps of a clock tick."""
    text = counters.text("/proc/stat")
    if text is None or not text.startswith("cpu "):
        return None
    fields = [int(word) for word in text.splitlines()[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, stolen = (fields + [0] * 8)[:8]
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, stolen / tick


def cgroup_cpu_stat() -> str | None:
    """The path of this process's cgroup cpu.stat (version 2 or 1), or None."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "" or "cpu" in controllers.split(","):
                root = "/sys/fs/cgroup" if controllers == "" else "/sys/fs/cgroup/cpu"
                for place in (f"{root}{path}/cpu.stat", f"{root}/cpu.stat"):
                    if os.path.exists(place):
                        return place
    return None


def throttled_s(counters: Counters, path: str | None) -> float | None:
    """Seconds in which the cgroup's quota held its tasks back."""
    text = counters.text(path) if path else None
    if text is None:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "throttled_usec":
            return int(value) / 1e6
        if name == "throttled_time":
            return int(value) / 1e9
    return None


class Watch:
    """Adds up a process's disturbances over its samples: `before` and `after` each."""

    def __init__(self, nvml: Nvml | None = None) -> None:
        self.seen = Disturbance()
        self._counters = Counters()
        self._cpu_stat = cgroup_cpu_stat()
        self._nvml = nvml
        self._clocks: list[float] = []
        self._at: tuple[float, ...] = ()
        self._then: tuple[float | None, ...] = ()

    def _read(self) -> tuple[float | None, ...]:
        times = cpu_times_s(self._counters)
        return (
            pressure_total_s(self._counters),
            times[1] if times else None,
            throttled_s(self._counters, self._cpu_stat),
            times[0] if times else None,
        )

    def before(self) -> None:
        """Call right before a sample."""
        self._then = self._read()
        self._at = (*_own(), time.perf_counter())

    def after(self, steps: int) -> None:
        """Call right after a sample of `steps` steps."""
        end = time.perf_counter()
        switches, faults, cpu = (b - a for a, b in zip(self._at, _own(), strict=False))
        seen = self.seen
        seen.window_s += end - self._at[-1]
        seen.steps += steps
        seen.involuntary_switches += int(switches)
        seen.minor_faults += int(faults)
        pressure, stolen, throttled, busy = (
            None if a is None or b is None else b - a for a, b in zip(self._then, self._read(), strict=True)
        )
        seen.pressure_s = _sum(seen.pressure_s, pressure)
        seen.steal_s = _sum(seen.steal_s, stolen)
        seen.throttled_s = _sum(seen.throttled_s, throttled)
        # One sample's busy time is in ticks of 10 ms; over many samples the sum is right, so it may dip below 0.
        seen.foreign_s = _sum(seen.foreign_s, None if busy is None else busy - cpu)
        if self._nvml is not None:
            self._watch_gpu(self._nvml)

    def _watch_gpu(self, nvml: Nvml) -> None:
        seen = self.seen
        clock = nvml.clock_hz()
        if clock is not None:
            self._clocks.append(clock)
            seen.gpu_clock_hz_min = min(self._clocks)
            seen.gpu_clock_hz_mean = sum(self._clocks) / len(self._clocks)
        seen.gpu_temperature_c = nvml.temperature_c()
        seen.gpu_power_w = nvml.power_w()
        processes = nvml.process_ids()
        if processes is not None:  # everybody's, this round's cells included: the parent takes those off
            seen.gpu_foreign_processes = max(seen.gpu_foreign_processes or 0, len(processes))
        reasons = dict.fromkeys((*seen.gpu_throttle_reasons, *nvml.throttle_reasons()))
        seen.gpu_throttle_reasons = tuple(reasons)


def _own() -> tuple[float, float, float]:
    """(involuntary context switches, minor page faults, CPU seconds) of this process, all threads."""
    if sys.platform == "win32":
        return 0, 0, time.process_time()
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nivcsw, usage.ru_minflt, usage.ru_utime + usage.ru_stime


def _sum(total: float | None, more: float | None) -> float | None:
    if more is None:
        return total
    return (total or 0.0) + more
