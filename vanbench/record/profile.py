"""What a profile and a look at depthwise convs alone have seen. Raw times; what they mean is `analysis`'s."""

from __future__ import annotations

import msgspec

from vanbench.record.ops import Op
from vanbench.spec.cell import Cell

__all__ = ["Case", "CaseVisit", "Profile", "ProfiledOp", "Shape"]


class ProfiledOp(msgspec.Struct, frozen=True, kw_only=True):
    """One operation of a step. seconds: of each profiled step, as many as the profile has.

    backend: who PyTorch had compute it: oneDNN, cuDNN, MKL, native ... kernels: the primitive's or the kernels' names.
    """

    op: Op
    seconds: list[float]
    backend: str = ""
    kernels: tuple[str, ...] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """One cell's step, op by op. step_s: steps without a profiler, taken in turns with the profiled ones."""

    cell: Cell
    device: str
    device_name: str
    threads: int
    ops: list[ProfiledOp]
    step_s: list[float]
    notes: tuple[str, ...] = ()


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A depthwise conv's geometry as it occurs in a model; square kernels and maps of any size."""

    model: str
    channels: int
    height: int
    width: int
    kernel_size: int
    dilation: int
    stride: int


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One depthwise conv, alone: padding keeps the map's size (stride 1). direction: forward, grad_input, grad_weight.

    models: those in which it occurs, empty where it is here for comparison.
    """

    batch_size: int
    channels: int
    height: int
    width: int
    kernel_size: int
    dilation: int
    stride: int
    precision: str
    memory_format: str
    direction: str
    models: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """A name for people."""
        return (
            f"{self.channels}x{self.height}x{self.width} k{self.kernel_size} d{self.dilation} s{self.stride} "
            f"bs{self.batch_size} {self.precision} {self.memory_format} {self.direction}"
        )


class CaseVisit(msgspec.Struct, frozen=True, kw_only=True):
    """One visit of a case by one implementation. warm_s: of calls in a row; cold_s: after the caches were emptied.

    how_cold: how they were emptied. error: relative L2 against float64, allowed: the most it may be.
    """

    case: int
    depthwise: str
    warm_s: float | None = None
    cold_s: float | None = None
    how_cold: str = ""
    backend: str = ""
    kernels: tuple[str, ...] = ()
    error: float | None = None
    allowed: float | None = None
    status: str = "measured"
    reason: str = ""
