"""The list of columns of ops.csv: one row an operation of a profiled step, and how each figure follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vanbench.analysis import roofline, stages
from vanbench.analysis.cost import Cost, cost, works
from vanbench.analysis.roofline import Roof
from vanbench.record.ceilings import Ceilings
from vanbench.record.environment import Environment
from vanbench.record.ops import Operand
from vanbench.record.profile import Profile, ProfiledOp
from vanbench.report.columns import Column, Value
from vanbench.stats import median, quantile

__all__ = ["NEEDED", "OPS_COLUMNS", "OpSource", "op_rows"]

NEEDED = ("model", "op", "op_class", "seconds", "step_s")
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class OpSource:
    """What one row of ops.csv is made from. place: of the operation in the step, from 0."""

    profile: Profile
    place: int
    ceilings: Ceilings | None
    environment: Environment
    total_s: float
    step_s: float

    @property
    def seen(self) -> ProfiledOp:
        """The operation and its times."""
        return self.profile.ops[self.place]

    @cached_property
    def cost(self) -> Cost:
        """What it must do."""
        return cost(self.seen.op)

    @cached_property
    def seconds(self) -> float:
        """Median over the profiled steps."""
        return median(self.seen.seconds)

    @cached_property
    def roof(self) -> Roof | None:
        """The least time under the ceilings."""
        if self.ceilings is None or self.cost.flops is None:
            return None
        (work,), _ = works([self.seen.op])
        return roofline.least(work, self.ceilings, tf32=self.profile.cell.precision == "tf32")

    @cached_property
    def geometry(self) -> dict[str, int | None]:
        """Of a conv."""
        return stages.geometry(self.seen.op)


def op_rows(profile: Profile, ceilings: Ceilings | None, environment: Environment) -> list[dict[str, Value]]:
    """A row for each operation of the profile, in the step's order."""
    total = sum(median(each.seconds) for each in profile.ops)
    step = median(profile.step_s)
    sources = [OpSource(profile, i, ceilings, environment, total, step) for i in range(len(profile.ops))]
    return [{column.name: column.of(source) for column in OPS_COLUMNS} for source in sources]


def _cell(name: str) -> Callable[[OpSource], Value]:
    return lambda row: getattr(row.profile.cell, name)


def _shape(operand: Operand | None) -> str | None:
    return "x".join(map(str, operand.shape)) if operand is not None else None


def _input(row: OpSource) -> Operand | None:
    return stages.main_input(row.seen.op)


def _output(row: OpSource) -> Operand | None:
    return row.seen.op.outputs[0] if row.seen.op.outputs else None


def _over_seconds(name: str) -> Callable[[OpSource], Value]:
    def of(row: OpSource) -> Value:
        amount = getattr(row.cost, name)
        return amount / row.seconds if amount and row.seconds else None

    return of


def _geometry(name: str) -> Callable[[OpSource], Value]:
    return lambda row: row.geometry[name]


def _text(name: str, meaning: str, of: Callable[[Any], Value]) -> Column:
    return Column(name, "text", "", meaning, of)


OPS_COLUMNS: tuple[Column, ...] = (
    Column("schema_version", "integer", "", "Version of this table.", lambda row: _SCHEMA_VERSION),
    _text("model", "The registry's name.", _cell("model")),
    _text("task", "infer or train.", _cell("task")),
    Column("batch_size", "integer", "images", "Images in the step.", _cell("batch_size")),
    Column("image_size", "integer", "px", "Height and width of the input.", _cell("image_size")),
    _text("precision", "As in results.csv.", _cell("precision")),
    _text("memory_format", "contiguous or channels_last, as asked.", _cell("memory_format")),
    _text("form", "How the model is written.", _cell("form")),
    _text("depthwise", "Which kernel serves the depthwise convs.", _cell("depthwise")),
    _text("allocator", "What serves memory.", _cell("allocator")),
    _text("device", "What the device came to.", lambda row: row.profile.device),
    _text("threads", "Intra-op threads.", lambda row: str(row.profile.threads)),
    Column("place", "integer", "", "Place of the operation in the step, from 0.", lambda row: row.place),
    _text("phase", "forward, loss, backward or optimizer.", lambda row: row.seen.op.phase),
    _text("stage", "Stage of the network, stem or head.", lambda row: stages.stage(row.seen.op)),
    _text(
        "module",
        "Path of the innermost module; in backward that of the forward operation which read the same memory.",
        lambda row: row.seen.op.module or None,
    ),
    _text("op", "ATen operator with its overload.", lambda row: row.seen.op.name),
    _text(
        "op_class",
        "depthwise, pointwise, dense conv, norm, activation, elementwise, layout copy or other.",
        lambda row: row.cost.op_class,
    ),
    _text("unit", "The unit whose roof holds: matrix or vector.", lambda row: row.cost.unit),
    _text(
        "backend",
        "Who computed it for PyTorch: oneDNN, cuDNN, native ...; empty where it is not told.",
        lambda row: row.seen.backend or None,
    ),
    _text(
        "kernel",
        "Name of the primitive (CPU) or of the kernels (CUDA), a `;` list.",
        lambda row: ";".join(row.seen.kernels) or None,
    ),
    _text(
        "shape_in",
        "Shape of the tensor it works on (backward: of the incoming gradient).",
        lambda row: _shape(_input(row)),
    ),
    _text("shape_out", "Shape of its first output.", lambda row: _shape(_output(row))),
    Column("kernel_size", "integer", "", "Of a conv with a square kernel.", _geometry("kernel_size")),
    Column("stride", "integer", "", "Of a conv.", _geometry("stride")),
    Column("dilation", "integer", "", "Of a conv.", _geometry("dilation")),
    Column("groups", "integer", "", "Of a conv.", _geometry("groups")),
    _text(
        "layout_in",
        "Layout of that input by its strides: contiguous, channels_last, either or strided.",
        lambda row: stages.layout(seen) if (seen := _input(row)) is not None else None,
    ),
    _text(
        "layout_out",
        "Layout of the first output.",
        lambda row: stages.layout(seen) if (seen := _output(row)) is not None else None,
    ),
    _text("dtype", "Type it computes in, as a precision's word.", lambda row: row.cost.dtype or None),
    Column("seconds", "number", "s", "Median over the profiled steps.", lambda row: row.seconds),
    Column(
        "seconds_low",
        "number",
        "s",
        "Tenth percentile over the profiled steps.",
        lambda row: quantile(row.seen.seconds, 0.1),
    ),
    Column("seconds_high", "number", "s", "Ninetieth percentile.", lambda row: quantile(row.seen.seconds, 0.9)),
    Column("visits", "integer", "", "Profiled steps.", lambda row: len(row.seen.seconds)),
    Column("share", "number", "", "Of the sum of all operations' medians.", lambda row: row.seconds / row.total_s),
    Column(
        "flops", "integer", "FLOP", "Taps inside the image only; empty without a formula.", lambda row: row.cost.flops
    ),
    Column(
        "nominal_flops", "integer", "FLOP", "All taps, as published counts have it.", lambda row: row.cost.nominal_flops
    ),
    Column(
        "bytes",
        "integer",
        "bytes",
        "Compulsory traffic: what must be read and written once.",
        lambda row: row.cost.bytes,
    ),
    Column(
        "intensity",
        "number",
        "FLOP/byte",
        "FLOPs over bytes.",
        lambda row: row.cost.flops / row.cost.bytes if row.cost.flops and row.cost.bytes else None,
    ),
    Column("flops_per_s", "number", "FLOP/s", "FLOPs over seconds.", _over_seconds("flops")),
    Column("bytes_per_s", "number", "bytes/s", "Bytes over seconds.", _over_seconds("bytes")),
    Column(
        "bound_s",
        "number",
        "s",
        "The least time under the measured ceilings.",
        lambda row: row.roof.seconds if row.roof else None,
    ),
    Column(
        "bound_fraction",
        "number",
        "",
        "That over seconds: how near the operation is to its roof.",
        lambda row: row.roof.seconds / row.seconds if row.roof and row.seconds else None,
    ),
    _text(
        "bound_kind",
        "Which roof: bandwidth, matrix, vector or launch.",
        lambda row: row.roof.kind if row.roof else None,
    ),
    Column(
        "step_s",
        "number",
        "s",
        "Median of the steps without a profiler, taken in turns with the profiled ones; the same in every row.",
        lambda row: row.step_s,
    ),
    _text("note", "What the profile could not tell, a `;` list.", lambda row: "; ".join(row.profile.notes) or None),
    _text("machine_key", "Hash of the hardware.", lambda row: row.environment.machine_key),
    _text("device_name", "The CPU or GPU.", lambda row: row.environment.device_name),
    _text("torch_version", "Version of torch.", lambda row: row.environment.software.torch),
    _text("vanbench_version", "Version of vanbench.", lambda row: row.environment.software.vanbench),
    _text("date", "When the profile began.", lambda row: row.environment.date),
    _text("key", "Hash of the cell as asked.", lambda row: row.profile.cell.key),
)
