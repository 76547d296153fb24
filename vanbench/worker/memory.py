"""Peak memory: CUDA's own counters, or the process's resident peak over its state before the first step."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

import psutil
import torch

__all__ = ["PeakMemory", "free_bytes", "raise_the_threshold", "resident_bytes"]

# glibc serves a block by mmap, which faults on every use, from a threshold on that rises to the largest block freed
# so far, and no further than 32 MiB.
_JUST_UNDER_THE_CEILING = (32 << 20) - (64 << 10)


def resident_bytes() -> int | None:
    """What this process holds in memory now; None where the system does not say."""
    return _status("VmRSS")


def free_bytes(device: torch.device) -> int:
    """What another process could still take: of the GPU, or of the machine and this process's memory cgroup."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    for limit, usage in _cgroup_memory():
        with contextlib.suppress(OSError, ValueError):
            free = min(free, int(limit.read_text()) - int(usage.read_text()))
    return max(0, int(free))


def _cgroup_memory() -> list[tuple[Path, Path]]:
    """(limit, usage) files of this process's memory cgroup, version 2 or 1; "max" is no limit and no number."""
    places = []
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                folder = Path("/sys/fs/cgroup" + path)
                places.append((folder / "memory.max", folder / "memory.current"))
            elif "memory" in controllers.split(","):
                folder = Path("/sys/fs/cgroup/memory" + path)
                places.append((folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes"))
    return places


def raise_the_threshold() -> None:
    """Take and free one block, so that glibc's threshold for mmap stands at its ceiling before anything is built.

    Left to itself it stands wherever the model's past has put it, which differs from process to process: then one
    process keeps its activations and the next takes 25,000 page faults a step (docs/measurement.md).
    """
    block = torch.empty(_JUST_UNDER_THE_CEILING, dtype=torch.uint8)
    del block


def _status(field: str) -> int | None:
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None


class PeakMemory:
    """`reset` after the check, with its reference freed; then `read` at the end."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None

    def reset(self) -> None:
        """Forget the peak so far, give freed memory back first, so that it cannot hide in the state before."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        if sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).malloc_trim(0)
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:
                return  # the peak cannot be reset here: peak_bytes stays empty
            self._before = resident_bytes()

    def read(self) -> tuple[int | None, int | None]:
        """(peak, peak reserved) in bytes. CUDA: allocated and reserved by torch. CPU: over the state at `reset`."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device), torch.cuda.max_memory_reserved(self._device)
        peak = _status("VmHWM")
        if self._before is None or peak is None:
            return None, None
        return max(0, peak - self._before), None
