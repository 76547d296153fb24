"""Which of a kernel's few settings is fastest for a shape on this GPU: measured once, in turns, and kept.

The search is as long as its table of settings, and there is none where nothing can be timed: in an emulator, and while
a CUDA graph is captured, the table's first setting serves, and is not kept.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from vanbench.kernels.kept import Kept

__all__ = ["on_device", "tuned"]

_LAPS = 5
_CALLS = 8
_found: dict[tuple[int, tuple[Hashable, ...]], tuple[int, ...]] = {}


def on_device(x: Tensor) -> contextlib.AbstractContextManager[None]:
    """Kernels start on the current device, which need not be the tensor's."""
    if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(x.device)


def tuned(
    about: tuple[Hashable, ...],
    settings: Sequence[tuple[int, ...]],
    call: Callable[[tuple[int, ...]], object],
    device: torch.device,
) -> tuple[int, ...]:
    """The fastest of `settings`. about: the kernel, its shape and its type. call: run it with a setting.

    The settings are tried on the device's current stream; its caches are warm, as after the layer before.
    """
    if len(settings) == 1 or device.type != "cuda":
        return settings[0]
    place = (device.index or 0, about)
    if place not in _found:
        if torch.cuda.is_current_stream_capturing():
            return settings[0]
        with torch.cuda.device(device):
            kept: Kept[tuple[int, ...]] = Kept("tuning", tuple[int, ...], "cuda")
            name = " ".join(map(str, about))
            known = kept.find(name)
            if known is None or known not in settings:
                known = _fastest(settings, call)
                kept.keep(name, known)
        _found[place] = known
    return _found[place]


def _fastest(settings: Sequence[tuple[int, ...]], call: Callable[[tuple[int, ...]], object]) -> tuple[int, ...]:
    for setting in settings:  # compiles
        call(setting)
    laps = []
    for lap in range(_LAPS):
        row = [0.0] * len(settings)
        places = range(len(settings))
        for place in reversed(places) if lap % 2 else places:
            row[place] = _seconds(lambda place=place: call(settings[place]))  # type: ignore[misc]
        laps.append(row)
    medians = [statistics.median(column) for column in zip(*laps, strict=True)]
    return settings[medians.index(min(medians))]


def _seconds(call: Callable[[], object]) -> float:
    """A call's on the device, among some in a row."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    call()
    start.record()
    for _ in range(_CALLS):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000 / _CALLS
