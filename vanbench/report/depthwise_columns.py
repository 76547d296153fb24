"""The list of columns of depthwise.csv: one row a case and implementation, and how each figure follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vanbench.analysis import roofline
from vanbench.analysis.cost import Cost, cost, works
from vanbench.analysis.roofline import Roof
from vanbench.record.ceilings import Ceilings
from vanbench.record.environment import Environment
from vanbench.record.folder import Lone
from vanbench.record.ops import Op, Operand
from vanbench.record.profile import Case, CaseVisit
from vanbench.report.columns import Column, Value
from vanbench.stats import fmean, t_half_width

__all__ = ["DEPTHWISE_COLUMNS", "NEEDED", "depthwise_rows", "op_of"]

NEEDED = ("status", "channels", "kernel_size", "pass", "warm_s")
_SCHEMA_VERSION = 1
_NATIVE = "native"
# Larger than any cache: what an operation on emptied caches finds its bytes in.
_MEMORY = 1 << 62


def op_of(case: Case) -> Op:
    """The case as an operation, so that it costs by the same formulas as in a model."""
    pad = case.dilation * (case.kernel_size - 1) // 2
    reach = case.dilation * (case.kernel_size - 1) + 1
    out = [(size + 2 * pad - reach) // case.stride + 1 for size in (case.height, case.width)]
    dtype = {"bf16": "bfloat16", "fp16": "float16"}.get(case.precision, "float32")

    def operand(storage: int, *shape: int) -> Operand:
        stride = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
        return Operand(shape=shape, stride=tuple(stride), dtype=dtype, storage=storage)

    x = operand(0, case.batch_size, case.channels, case.height, case.width)
    w = operand(1, case.channels, 1, case.kernel_size, case.kernel_size)
    g = operand(2, case.batch_size, case.channels, *out)
    arguments: dict[str, Any] = {
        "stride": [case.stride] * 2,
        "padding": [pad] * 2,
        "dilation": [case.dilation] * 2,
        "transposed": False,
        "output_padding": [0, 0],
        "groups": case.channels,
    }
    if case.direction == "forward":
        inputs: dict[str, tuple[Operand, ...]] = {"input": (x,), "weight": (w,)}
        return Op(name="aten.convolution.default", inputs=inputs, outputs=(g,), arguments={**arguments, "bias": None})
    mask = [case.direction == "grad_input", case.direction == "grad_weight", False]
    made = _another(x if mask[0] else w)
    return Op(
        name="aten.convolution_backward.default",
        phase="backward",
        inputs={"grad_output": (g,), "input": (x,), "weight": (w,)},
        outputs=(made,),
        arguments={**arguments, "bias_sizes": None, "output_mask": mask},
    )


def _another(like: Operand) -> Operand:
    """A tensor like this one, in memory of its own."""
    return Operand(shape=like.shape, stride=like.stride, dtype=like.dtype, storage=3)


@dataclass(frozen=True)
class CaseSource:
    """What one row is made from: a case, an implementation, and its visits, one a round at most."""

    lone: Lone
    number: int
    depthwise: str
    ceilings: Ceilings | None
    environment: Environment

    @property
    def case(self) -> Case:
        """Its geometry."""
        return self.lone.cases[self.number]

    def visits_of(self, word: str) -> list[CaseVisit | None]:
        """An implementation's visit in each round."""
        found: list[CaseVisit | None] = []
        for visits in self.lone.rounds:
            mine = [v for v in visits if v.case == self.number and v.depthwise == word]
            found.append(mine[0] if mine else None)
        return found

    @cached_property
    def visits(self) -> list[CaseVisit]:
        """This one's, of the rounds that reached it."""
        return [visit for visit in self.visits_of(self.depthwise) if visit is not None]

    @property
    def unmeasured(self) -> CaseVisit | None:
        """The first visit that gave no time."""
        return next((visit for visit in self.visits if visit.status != "measured"), None)

    @property
    def status(self) -> str:
        """measured, failed or skipped."""
        if not self.visits:
            return "skipped"
        return self.unmeasured.status if self.unmeasured is not None else "measured"

    def times(self, name: str) -> list[float]:
        """Seconds of its visits, cold_s or warm_s; none unless all are measured."""
        if self.status != "measured":
            return []
        return [seconds for visit in self.visits if (seconds := getattr(visit, name)) is not None]

    def middle(self, name: str, side: int = 0) -> float | None:
        """The geometric mean over rounds, or an end (-1, 1) of its 95 % interval."""
        times = self.times(name)
        if not times or (side and len(times) < 2):
            return None
        logs = [math.log(each) for each in times]
        return math.exp(fmean(logs) + side * (t_half_width(logs) or 0.0))

    @cached_property
    def op(self) -> Op:
        """The case as an operation."""
        return op_of(self.case)

    @cached_property
    def cost(self) -> Cost:
        """What it must do."""
        return cost(self.op)

    def roof(self, cold: bool) -> Roof | None:
        """The least time; cold, its bytes come from main memory."""
        if self.ceilings is None:
            return None
        (work,), _ = works([self.op])
        return roofline.least(work, self.ceilings, launch=not cold, level_bytes=_MEMORY if cold else None)

    def fraction(self, name: str) -> float | None:
        """How near to its roof."""
        seconds, roof = self.middle(name), self.roof(name == "cold_s")
        return roof.seconds / seconds if seconds and roof is not None else None

    def ratio(self, side: int = 0) -> float | None:
        """How many times as fast as native, warm: over rounds of the two's times side by side."""
        if self.depthwise == _NATIVE:
            return 1.0 if side == 0 and self.times("warm_s") else None
        pairs = [
            math.log(theirs.warm_s / mine.warm_s)
            for theirs, mine in zip(self.visits_of(_NATIVE), self.visits_of(self.depthwise), strict=True)
            if theirs is not None and mine is not None and theirs.warm_s and mine.warm_s
        ]
        if not pairs or self.status != "measured" or (side and len(pairs) < 2):
            return None
        return math.exp(fmean(pairs) + side * (t_half_width(pairs) or 0.0))


def depthwise_rows(lone: Lone, ceilings: Ceilings | None, environment: Environment) -> list[dict[str, Value]]:
    """A row for each case and implementation, in the cases' order."""
    sources = [
        CaseSource(lone, number, word, ceilings, environment)
        for number in range(len(lone.cases))
        for word in lone.implementations
    ]
    return [{column.name: column.of(source) for column in DEPTHWISE_COLUMNS} for source in sources]


def _case(name: str) -> Callable[[CaseSource], Value]:
    return lambda row: getattr(row.case, name)


def _first(name: str) -> Callable[[CaseSource], Value]:
    return lambda row: next((getattr(visit, name) for visit in row.visits if getattr(visit, name)), None)


def _reason(row: CaseSource) -> Value:
    if not row.visits:
        return "budget"
    return row.unmeasured.reason if row.unmeasured is not None else None


def _models(row: CaseSource) -> Value:
    return ";".join(row.case.models) or None


def _kernels(row: CaseSource) -> Value:
    return next((";".join(visit.kernels) for visit in row.visits if visit.kernels), None)


def _text(name: str, meaning: str, of: Callable[[Any], Value]) -> Column:
    return Column(name, "text", "", meaning, of)


def _whole(name: str, unit: str, meaning: str, of: Callable[[Any], Value]) -> Column:
    return Column(name, "integer", unit, meaning, of)


def _times(word: str, meaning: str) -> Sequence[Column]:
    name, cold = f"{word}_s", word == "cold"
    return (
        Column(name, "number", "s", meaning, lambda row: row.middle(name)),
        Column(
            f"{name}_low",
            "number",
            "s",
            "Lower end of its 95 % interval, t over rounds.",
            lambda row: row.middle(name, -1),
        ),
        Column(f"{name}_high", "number", "s", "Upper end.", lambda row: row.middle(name, 1)),
        Column(
            f"{word}_bound_s",
            "number",
            "s",
            "The least time " + ("with all bytes from main memory." if cold else "in the level that holds them all."),
            lambda row: seen.seconds if (seen := row.roof(cold)) is not None else None,
        ),
        Column(f"{word}_fraction", "number", "", "That over the time.", lambda row: row.fraction(name)),
        _text(
            f"{word}_bound_kind",
            "Which roof: bandwidth, vector or launch.",
            lambda row: seen.kind if (seen := row.roof(cold)) is not None else None,
        ),
    )


DEPTHWISE_COLUMNS: tuple[Column, ...] = (
    _whole("schema_version", "", "Version of this table.", lambda row: _SCHEMA_VERSION),
    _text("status", "measured, failed or skipped.", lambda row: row.status),
    _text("reason", "Why not measured; `budget`: not reached in the time.", _reason),
    _text(
        "models",
        "Models in which it occurs, a `;` list; empty: here for comparison.",
        _models,
    ),
    _whole("batch_size", "images", "Images.", _case("batch_size")),
    _whole("channels", "", "Channels, as many groups.", _case("channels")),
    _whole("height", "px", "Of the input map.", _case("height")),
    _whole("width", "px", "Of the input map.", _case("width")),
    _whole("kernel_size", "", "Height and width of the kernel.", _case("kernel_size")),
    _whole("dilation", "", "Distance of taps; padding keeps the map's size at stride 1.", _case("dilation")),
    _whole("stride", "", "Stride.", _case("stride")),
    _text("precision", "Of input, weight and output.", _case("precision")),
    _text("memory_format", "contiguous or channels_last.", _case("memory_format")),
    _text("pass", "forward, grad_input or grad_weight.", _case("direction")),
    _text("depthwise", "The implementation.", lambda row: row.depthwise),
    _text("backend", "Who computed it for PyTorch.", _first("backend")),
    _text(
        "kernel",
        "Primitives or kernels that ran, a `;` list.",
        _kernels,
    ),
    _text("device", "What the device came to.", lambda row: row.lone.device),
    _text("threads", "Intra-op threads.", lambda row: str(row.lone.threads)),
    _whole("flops", "FLOP", "Taps inside the image only.", lambda row: row.cost.flops),
    _whole("nominal_flops", "FLOP", "All taps.", lambda row: row.cost.nominal_flops),
    _whole("bytes", "bytes", "Compulsory traffic.", lambda row: row.cost.bytes),
    Column(
        "intensity",
        "number",
        "FLOP/byte",
        "FLOPs over bytes.",
        lambda row: row.cost.flops / row.cost.bytes if row.cost.flops is not None and row.cost.bytes else None,
    ),
    *_times("warm", "One call among calls in a row, geometric mean over rounds."),
    *_times("cold", "One call after the caches were emptied (how: `how_cold`), likewise."),
    Column("ratio", "number", "", "Times as fast as native, warm, from visits side by side.", lambda row: row.ratio()),
    Column("ratio_low", "number", "", "Lower end of its 95 % interval, t over rounds.", lambda row: row.ratio(-1)),
    Column("ratio_high", "number", "", "Upper end.", lambda row: row.ratio(1)),
    _whole("rounds", "", "Fresh processes that visited it.", lambda row: len(row.visits) or None),
    _text("how_cold", "How the caches were emptied.", _first("how_cold")),
    Column("check_error", "number", "", "Relative L2 against float64.", _first("error")),
    Column("check_tolerance", "number", "", "The most that is allowed.", _first("allowed")),
    _text("machine_key", "Hash of the hardware.", lambda row: row.environment.machine_key),
    _text("device_name", "The CPU or GPU.", lambda row: row.environment.device_name),
    _text("torch_version", "Version of torch.", lambda row: row.environment.software.torch),
    _text("vanbench_version", "Version of vanbench.", lambda row: row.environment.software.vanbench),
    _text("date", "When it began.", lambda row: row.environment.date),
)
