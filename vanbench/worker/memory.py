"""Peak memory: CUDA's own counters, or the process's resident peak over its state before the first step."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
import re
import sys
from pathlib import Path

import psutil
import torch

__all__ = ["PeakMemory", "allocator_in_use", "free_bytes", "raise_the_threshold", "resident_bytes"]

# glibc serves a block by mmap, which faults on every use, from a threshold on that rises to the largest block freed
# so far, and no further than 32 MiB.
_JUST_UNDER_THE_CEILING = (32 << 20) - (64 << 10)
_ABOVE_THE_CEILING = 64 << 20


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


def allocator_in_use() -> str:
    """What serves malloc in this process: a library that is mapped into it, `keep` or `system`; elsewhere than on
    Linux the system's name."""
    if sys.platform != "linux":
        return platform.system()
    with contextlib.suppress(OSError):
        maps = Path("/proc/self/maps").read_text()
        for name in ("tcmalloc", "jemalloc", "mimalloc"):
            if re.search(rf"/lib{name}[^/]*\.so", maps):
                return name
    return "keep" if _keeps_large_blocks() else "system"


def _keeps_large_blocks() -> bool:
    """Whether glibc takes the largest blocks from its heap, too, rather than by mmap, and so keeps them.

    Asked by taking one: glibc counts those that it has mapped.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return False
    libc.mallinfo2.restype = _Mallinfo2
    before = libc.mallinfo2().hblks
    block = torch.empty(_ABOVE_THE_CEILING, dtype=torch.uint8)
    mapped = libc.mallinfo2().hblks > before
    del block
    return not mapped


class _Mallinfo2(ctypes.Structure):
    """glibc's, of `mallinfo2`. hblks: how many blocks are mapped."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks")
    ] + [("keepcost", ctypes.c_size_t)]


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


def _give_back() -> None:
    """Have the allocator return to the system what it holds and nobody uses."""
    process = ctypes.CDLL(None)
    # jemalloc's word for all arenas, and what tcmalloc and glibc export; whichever of them is loaded.
    if hasattr(process, "mallctl"):
        process.mallctl(b"arena.4096.purge", None, None, None, ctypes.c_size_t(0))
    for name, arguments in (("MallocExtension_ReleaseFreeMemory", ()), ("malloc_trim", (0,))):
        if hasattr(process, name):
            getattr(process, name)(*arguments)


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
            _give_back()
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
