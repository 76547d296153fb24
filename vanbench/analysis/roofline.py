"""Cost against ceilings: the least time of an operation, of a step, and which roof sets it. Pure arithmetic.

The model (Williams, Waterman and Patterson, CACM 2009, with a roof for each unit and level): an operation takes at
least as long as its compulsory bytes at the bandwidth of the level that holds all it touches, its FLOPs on the
unit that can do them, and a launch. A step takes at least the sum. Every rounding is towards less time, so that nothing
measured can be faster than its bound but by a ceiling that was measured too low.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vanbench.record.ceilings import Ceilings
from vanbench.record.ops import Work

__all__ = ["KINDS", "WINOGRAD", "Bound", "Roof", "bandwidth", "bound", "least", "matrix_rate", "vector_rate"]

KINDS = ("bandwidth", "matrix", "vector", "launch")
# Winograd's F(4x4, 3x3) needs 36 multiplications for 16 outputs where the direct sum needs 144 (Lavin and Gray, 2016).
WINOGRAD = 4.0


class Roof(NamedTuple):
    """seconds: the least time. kind: which roof sets it, one of `KINDS`."""

    seconds: float
    kind: str


class Bound(NamedTuple):
    """Of a step. seconds: the least time; kind: the roof that most of it is due to; shares: seconds by kind.

    bytes: compulsory traffic of the step.
    """

    seconds: float
    kind: str
    shares: dict[str, float]
    bytes: int


def bandwidth(ceilings: Ceilings, working_set: int, *, in_place: bool = False) -> float | None:
    """Bytes/s: the fastest stream of any kind over arrays of at most `working_set` bytes, or larger ones.

    in_place: what is read is written again, so updates count too, which need nothing fetched for their stores and are
    up to 1.6 times as fast as any other stream (docs/measurement.md). Between two sizes that were measured the smaller
    one's, which is the faster; below the smallest, its own. None if no stream was measured.
    """
    streams = [each for each in ceilings.streams if in_place or each.kind != "update"]
    floor = max((each.bytes for each in streams if each.bytes <= working_set), default=0)
    return max((each.ceiling.best for each in streams if each.bytes >= floor), default=None)


def vector_rate(ceilings: Ceilings, dtype: str) -> float | None:
    """FLOP/s of multiply-adds outside the matrix units; None where none were measured for the type."""
    ceiling = ceilings.vector.get("fp32" if dtype == "tf32" else dtype)
    return ceiling.best if ceiling is not None else None


def matrix_rate(ceilings: Ceilings, dtype: str) -> float | None:
    """FLOP/s of matrix products: the library's best, or what the vector units reach where that is more."""
    rates = [ceilings.matrix[dtype].best] if dtype in ceilings.matrix else []
    vector = vector_rate(ceilings, dtype)
    return max([*rates, *([vector] if vector is not None else [])], default=None)


def least(
    work: Work, ceilings: Ceilings, *, tf32: bool = False, launch: bool = True, level_bytes: int | None = None
) -> Roof | None:
    """The least time of one of `work`; None where a roof that it needs was not measured.

    tf32: fp32 matrix work may use TF32. launch: each operation is started by itself (eager). level_bytes: take the
    bandwidth of this working set instead of the operation's own bytes.
    """
    footprint = work.footprint or work.bytes
    wide = bandwidth(ceilings, footprint if level_bytes is None else level_bytes, in_place=footprint < work.bytes)
    if wide is None:
        return None
    times = [Roof(work.bytes / wide, "bandwidth")]
    if work.matrix_flops:
        rate = matrix_rate(ceilings, "tf32" if tf32 and work.dtype == "fp32" else work.dtype)
        if rate is None:
            return None
        flops = work.matrix_flops - work.winograd_flops * (1 - 1 / WINOGRAD)
        times.append(Roof(flops / rate, "matrix"))
    if work.vector_flops and work.dtype:
        rate = vector_rate(ceilings, work.dtype)
        if rate is None:
            return None
        times.append(Roof(work.vector_flops / rate, "vector"))
    if launch and ceilings.launch is not None:
        times.append(Roof(ceilings.launch.best, "launch"))
    return max(times)


def bound(works: Iterable[Work], ceilings: Ceilings, *, tf32: bool = False, launch: bool = True) -> Bound | None:
    """The least time of a step: the sum of its operations'; None where one of them has no roof, or there are none."""
    shares: dict[str, float] = {}
    moved = 0
    for work in works:
        roof = least(work, ceilings, tf32=tf32, launch=launch)
        if roof is None:
            return None
        shares[roof.kind] = shares.get(roof.kind, 0.0) + roof.seconds * work.count
        moved += work.bytes * work.count
    if not shares:
        return None
    return Bound(sum(shares.values()), max(shares, key=lambda kind: shares[kind]), shares, moved)


def missing_roofs(works: Sequence[Work], ceilings: Ceilings, *, tf32: bool = False) -> list[str]:
    """Which roofs `bound` lacked, in words; empty where it lacks none."""
    lacking = [] if ceilings.streams else ["streams"]
    for work in works:
        dtype = "tf32" if tf32 and work.dtype == "fp32" else work.dtype
        if work.matrix_flops and matrix_rate(ceilings, dtype) is None:
            lacking.append(f"matrix {dtype}")
        if work.vector_flops and work.dtype and vector_rate(ceilings, work.dtype) is None:
            lacking.append(f"vector {work.dtype}")
    return list(dict.fromkeys(lacking))
