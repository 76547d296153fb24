"""How time is taken on a device: a clock, a synchronisation, and marks between steps that cost no synchronisation."""

from __future__ import annotations

import itertools
from time import perf_counter
from typing import Protocol

import torch

__all__ = ["Clock", "CpuClock", "CudaClock", "clock_for"]


class Clock(Protocol):
    """Marks are set while steps run and read once, after the final synchronisation."""

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""

    def start(self) -> None:
        """Forget earlier marks and set the first."""

    def mark(self) -> None:
        """Set a mark after what was given to the device so far."""

    def spans(self) -> list[float]:
        """Seconds between neighbouring marks; call after `synchronize`."""


class CpuClock:
    """The CPU computes as it is called, so a mark is the time: perf_counter (CLOCK_MONOTONIC on Linux)."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def synchronize(self) -> None:
        """Nothing is pending on a CPU."""

    def start(self) -> None:
        """See `Clock`."""
        self._marks = [perf_counter()]

    def mark(self) -> None:
        """See `Clock`."""
        self._marks.append(perf_counter())

    def spans(self) -> list[float]:
        """See `Clock`."""
        return [b - a for a, b in itertools.pairwise(self._marks)]


class CudaClock:
    """CUDA events in the current stream. Events are reused: making them costs microseconds."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events: list[torch.cuda.Event] = []
        self._used = 0

    def synchronize(self) -> None:
        """See `Clock`."""
        torch.cuda.synchronize(self._device)

    def start(self) -> None:
        """See `Clock`."""
        self._used = 0
        self.mark()

    def mark(self) -> None:
        """See `Clock`."""
        if self._used == len(self._events):
            self._events.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
        self._events[self._used].record()
        self._used += 1

    def spans(self) -> list[float]:
        """See `Clock`; CUDA's resolution is about half a microsecond."""
        used = self._events[: self._used]
        return [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(used)]


def clock_for(device: torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock(device) if device.type == "cuda" else CpuClock()
