"""What serves a process's memory: what its environment must hold from the start, and why that cannot be here.

A block that is given back to the system costs a page fault per 4 KiB when it is used again; which blocks are, is the
allocator's choice (docs/measurement.md). Starts nothing and measures nothing.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import shlex
import sys
from functools import cache
from pathlib import Path

import msgspec

from vanbench.record.ceilings import cache_root
from vanbench.spec.names import ALLOCATORS

__all__ = ["Gain", "Gains", "environment_of", "gains_place", "setting", "why_not"]

# glibc: no block of its own by mmap, and the heap's end never given back.
_KEEP = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=1099511627776"
# jemalloc gives memory back after ten seconds, large blocks at once: as in torch's tuning guide it is told not to. Its
# background thread is left out: a process with threads cannot be forked.
_MALLOC_CONF = "oversize_threshold:1,metadata_thp:auto,dirty_decay_ms:-1,muzzy_decay_ms:-1"
# By allocator: names of its library, the first that is found serves; and Debian's package, for a message.
_LIBRARIES = {
    "tcmalloc": (("tcmalloc_minimal", "tcmalloc"), "libtcmalloc-minimal4"),
    "jemalloc": (("jemalloc",), "libjemalloc2"),
}


class Gain(msgspec.Struct, frozen=True, kw_only=True):
    """An allocator's images/s over the system's, with its 95 % interval; low and high are None from one round."""

    allocator: str
    ratio: float
    low: float | None = None
    high: float | None = None


class Gains(msgspec.Struct, frozen=True, kw_only=True):
    """What other allocators were worth on a machine. cell: the slug of what was timed."""

    machine_key: str
    date: str
    torch_version: str
    cell: str
    gains: tuple[Gain, ...]


def gains_place(machine_key: str) -> Path:
    """Where `vanbench env --allocators` keeps a machine's."""
    return cache_root() / "allocators" / f"{machine_key}.json"


def setting(allocator: str) -> str:
    """What to write before a command, so that this allocator serves it: NAME=VALUE, by spaces."""
    return shlex.join(f"{name}={value}" for name, value in environment_of(allocator).items())


def environment_of(allocator: str) -> dict[str, str]:
    """What the environment of a process must hold besides, so that this allocator serves it; `system`: nothing."""
    if allocator == "keep":
        before = os.environ.get("GLIBC_TUNABLES")
        return {"GLIBC_TUNABLES": f"{before}:{_KEEP}" if before else _KEEP}
    if allocator in _LIBRARIES:
        found, before = _library(allocator), os.environ.get("LD_PRELOAD")
        assert found is not None, allocator
        added = {"LD_PRELOAD": f"{found} {before}" if before else found}
        return added | ({"MALLOC_CONF": os.environ.get("MALLOC_CONF", _MALLOC_CONF)} if allocator == "jemalloc" else {})
    return {}


def why_not() -> dict[str, str]:
    """Allocators that no process can be started with here, and why."""
    if sys.platform != "linux":
        reason = f"allocators are chosen by means of Linux: this is {platform.system()}"
        return {word: reason for word in ALLOCATORS if word != "system"}
    reasons = {}
    if platform.libc_ver()[0] != "glibc":
        reasons["keep"] = "allocator=keep is a setting of glibc, which does not serve this interpreter"
    for word, (names, package) in _LIBRARIES.items():
        if _library(word) is None:
            said = " or ".join(f"lib{name}.so" for name in names)
            reasons[word] = f"no {said} is installed (Debian: {package})"
    return reasons


@cache
def _library(allocator: str) -> str | None:
    """The name by which the loader finds it."""
    return next((found for name in _LIBRARIES[allocator][0] if (found := ctypes.util.find_library(name))), None)
