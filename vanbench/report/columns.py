"""THE list of columns of results.csv: name, unit, meaning and how each follows from a record. docs/columns.md is made
from it, by `document`.

The first columns and their order are a contract; new ones go behind. An absent figure is None, never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from vanbench.analysis import flags
from vanbench.record.record import Failed, Measured, Skipped
from vanbench.report.row import RowSource
from vanbench.spec.names import KNOWN
from vanbench.stats import fmean, median, quantile

__all__ = ["COLUMNS", "CONTRACT", "LEAST_STEPS_FOR_P95", "Column", "RowSource", "Value"]

Value = str | int | float | None

# With 59 steps the largest is above the 95th percentile with 95 % confidence (0.95^59 < 0.05): the least for a claim.
LEAST_STEPS_FOR_P95 = 59


class Column(NamedTuple):
    """kind: text, integer or number; unit: SI, or empty; meaning: one sentence; of: the content, from its source."""

    name: str
    kind: str
    unit: str
    meaning: str
    of: Callable[[Any], Value]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _status(row: RowSource) -> str:
    outcome = row.record.outcome
    if isinstance(outcome, Measured) and not row.record.rounds:
        return "skipped"
    return {Measured: "measured", Skipped: "skipped", Failed: "failed"}[type(outcome)]


def _reason(row: RowSource) -> str | None:
    outcome = row.record.outcome
    if isinstance(outcome, Failed):
        return _one_line(f"{outcome.kind}: {outcome.message}")
    if isinstance(outcome, Skipped):
        return _one_line(outcome.reason)
    return None if row.record.rounds else "not reached"


def _fact(name: str) -> Callable[[RowSource], Value]:
    return lambda row: getattr(row.facts, name) if row.facts is not None else None


def _cell(name: str) -> Callable[[RowSource], Value]:
    return lambda row: getattr(row.record.cell, name)


def _stack(name: str) -> Callable[[RowSource], Value]:
    return lambda row: getattr(row.record.stack, name)


def _resolved(name: str) -> Callable[[RowSource], Value]:
    """What was resolved, if the cell got that far, else what was asked."""
    return lambda row: str(getattr(row.facts if row.facts is not None else row.record.cell, name))


def _part(estimate: str, part: str) -> Callable[[RowSource], Value]:
    return lambda row: getattr(seen, part) if (seen := getattr(row, estimate)) is not None else None


def _steps(row: RowSource, name: str = "step_s") -> list[float]:
    return [seconds for each in row.rounds for seconds in getattr(each, name)]


def _median_of(name: str) -> Callable[[RowSource], Value]:
    return lambda row: median(steps) if (steps := _steps(row, name)) else None


def _p95(row: RowSource) -> Value:
    steps = _steps(row)
    return quantile(steps, 0.95) if len(steps) >= LEAST_STEPS_FOR_P95 else None


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _largest(name: str) -> Callable[[RowSource], Value]:
    return lambda row: max(_present(getattr(each, name) for each in row.rounds), default=None)


def _warmup(row: RowSource) -> Value:
    sums = [sum(each.warmup_sample_s) for each in row.rounds if each.warmup_sample_s]
    return median(sums) if sums else None


def _compile(row: RowSource) -> Value:
    cold = _present(each.compile_s for each in row.rounds if each.compile_cold)
    return cold[0] if cold else None


def _energy(row: RowSource) -> Value:
    seen = [(each.energy_j, each.energy_images) for each in row.rounds if each.energy_j and each.energy_images]
    images = sum(images or 0 for _, images in seen)
    return sum(joules or 0.0 for joules, _ in seen) / images if images else None


def _gpu(name: str, summarise: Callable[[list[float]], float]) -> Callable[[RowSource], Value]:
    def of(row: RowSource) -> Value:
        seen = _present(getattr(each, name) for each in row.disturbances)
        return summarise(seen) if seen else None

    return of


def _throttle_reasons(row: RowSource) -> Value:
    seen = dict.fromkeys(reason for each in row.disturbances for reason in each.gpu_throttle_reasons)
    return ";".join(seen) or None


def _ratio_to(row: RowSource) -> Value:
    return row.reference.cell.slug if row.reference is not None else None


def _top1(row: RowSource) -> Value:
    cell = row.record.cell
    known = KNOWN.get(cell.model)
    return known.top1 if known is not None and cell.image_size == 224 else None


def _bandwidth(row: RowSource) -> Value:
    if row.rate is None or row.moved_bytes is None:
        return None
    return row.moved_bytes * row.rate.value / row.record.cell.batch_size


def _ideal(row: RowSource) -> Value:
    return row.record.cell.batch_size / row.ideal.seconds if row.ideal is not None else None


def _depthwise_convs(row: RowSource) -> Value:
    facts = row.record.facts
    return "; ".join(f"{word} {count}" for word, count in facts.depthwise_convs.items()) or None if facts else None


# The columns that users and scripts rely on, in the order they rely on.
CONTRACT: tuple[Column, ...] = (
    Column(
        "schema_version",
        "integer",
        "",
        "Version of the record that the row was made from.",
        lambda row: row.record.schema_version,
    ),
    Column("status", "text", "", "measured, skipped or failed.", _status),
    Column("reason", "text", "", "Why a cell was skipped, or `kind: message` of its failure.", _reason),
    Column("model", "text", "", "The registry's name, whatever alias was typed.", _cell("model")),
    Column("task", "text", "", "infer, or train: forward, cross-entropy, backward and an AdamW step.", _cell("task")),
    Column("batch_size", "integer", "images", "Images in one step.", _cell("batch_size")),
    Column("image_size", "integer", "px", "Height and width of the input.", _cell("image_size")),
    Column("precision", "text", "", "fp32, tf32, bf16, fp16, amp-bf16 or amp-fp16.", _cell("precision")),
    Column(
        "memory_format",
        "text",
        "",
        "contiguous or channels_last, of the weights and the input.",
        _cell("memory_format"),
    ),
    Column("compile", "text", "", "torch.compile's mode, or off.", _cell("compile")),
    Column("form", "text", "", "How the model is written: reference, lean or folded.", _cell("form")),
    Column("depthwise", "text", "", "Which kernel serves the depthwise convs.", _cell("depthwise")),
    Column(
        "device",
        "text",
        "",
        "What the device came to, or as asked if the cell did not get that far.",
        _resolved("device"),
    ),
    Column(
        "threads",
        "text",
        "",
        "Intra-op threads that were used, or as asked if the cell did not get that far.",
        _resolved("threads"),
    ),
    Column(
        "images_per_s",
        "number",
        "images/s",
        "All images over all time of all samples taken in turns.",
        _part("rate", "value"),
    ),
    Column(
        "images_per_s_low",
        "number",
        "images/s",
        "Lower end of its 95 % interval, Student's t over rounds; empty with one round.",
        _part("rate", "low"),
    ),
    Column("images_per_s_high", "number", "images/s", "Upper end of the same interval.", _part("rate", "high")),
    Column(
        "ratio",
        "number",
        "",
        "Images/s over the reference cell's, from turns taken side by side: the figure to compare by.",
        _part("ratio", "value"),
    ),
    Column(
        "ratio_low",
        "number",
        "",
        "Lower end of its 95 % interval, Student's t over rounds of a round's log-ratio.",
        _part("ratio", "low"),
    ),
    Column("ratio_high", "number", "", "Upper end of the same interval.", _part("ratio", "high")),
    Column("median_s", "number", "s", "Median of single steps.", _median_of("step_s")),
    Column("p95_s", "number", "s", "95th percentile of single steps; empty under 59 steps.", _p95),
    Column(
        "samples",
        "integer",
        "",
        "Samples taken in turns, over all rounds.",
        lambda row: sum(len(each.sample_s) for each in row.rounds) or None,
    ),
    Column(
        "rounds",
        "integer",
        "",
        "Finished rounds, each a fresh process; those before a failure count too.",
        lambda row: len(row.record.rounds) or None,
    ),
    Column("warmup_s", "number", "s", "Time in warm-up steps, median over rounds.", _warmup),
    Column(
        "compile_s", "number", "s", "First call less a warmed step, from an empty cache: cold rounds only.", _compile
    ),
    Column(
        "peak_bytes",
        "integer",
        "bytes",
        "Peak memory, largest over rounds: CUDA allocated, or the CPU process's over its state before the first step.",
        _largest("peak_bytes"),
    ),
    Column("params", "integer", "", "Trainable values.", _fact("params")),
    Column(
        "macs",
        "integer",
        "",
        "Multiply-adds of convs and matrix products, forward, for one image at this size; padded taps count.",
        _fact("macs"),
    ),
    Column(
        "bytes_modelled",
        "integer",
        "bytes",
        "Compulsory traffic of one step, modelled: each operation's tensors once (compiled: each block's).",
        lambda row: row.moved_bytes,
    ),
    Column(
        "bandwidth_bytes_per_s", "number", "bytes/s", "Modelled bytes over measured time of the same steps.", _bandwidth
    ),
    Column(
        "bound_images_per_s",
        "number",
        "images/s",
        "What the measured ceilings allow: operation by operation, or the fused ideal where compiled.",
        lambda row: row.bound_rate,
    ),
    Column("bound_fraction", "number", "", "Images/s over that bound.", lambda row: row.bound_fraction),
    Column(
        "bound_kind",
        "text",
        "",
        "The ceiling to which most of the bound's time is due: bandwidth, matrix, vector or launch.",
        lambda row: row.bound.kind if row.bound is not None else None,
    ),
    Column("energy_j_per_image", "number", "J", "Energy of the GPU over an uninterrupted window, per image.", _energy),
    Column(
        "flags",
        "text",
        "",
        "What disturbed it, a `;` list; remedies are in report.md.",
        lambda row: ";".join(row.flags) or None,
    ),
    Column("machine_key", "text", "", "Hash of the hardware, never of a host name.", _stack("machine_key")),
    Column("device_name", "text", "", "The CPU or GPU that was measured.", _stack("device_name")),
    Column("torch_version", "text", "", "Version of torch.", _stack("torch_version")),
    Column("vanbench_version", "text", "", "Version of vanbench.", _stack("vanbench_version")),
    Column("key", "text", "", "Hash of the cell as asked: the name of its record.", lambda row: row.record.key),
)

_EXTRA: tuple[Column, ...] = (
    Column("allocator", "text", "", "What serves memory: system, keep, tcmalloc or jemalloc.", _cell("allocator")),
    Column(
        "depthwise_convs",
        "text",
        "",
        "What serves how many depthwise convs, a `;` list: what `auto` came to, and what was left to torch.",
        _depthwise_convs,
    ),
    Column("ratio_to", "text", "", "The reference cell that ratio divides by.", _ratio_to),
    Column(
        "half_width",
        "number",
        "",
        "Achieved relative half-width of the 95 % interval of ratio, or of images/s where nothing is beside the cell.",
        lambda row: row.half_width,
    ),
    Column(
        "stopped",
        "text",
        "",
        "Why no further round was made.",
        lambda row: row.record.outcome.stopped or None if isinstance(row.record.outcome, Measured) else None,
    ),
    Column(
        "top1",
        "number",
        "%",
        "Published ImageNet-1k top-1 accuracy at 224 px; empty at other sizes and where none is published.",
        _top1,
    ),
    Column(
        "ideal_images_per_s",
        "number",
        "images/s",
        "The fused ideal, for eager cells too: every block one operation that moves only what blocks exchange.",
        _ideal,
    ),
    Column(
        "unmodelled",
        "text",
        "",
        "Operations whose FLOPs have no formula (their bytes count), and what a bound lacks.",
        lambda row: ";".join(row.unmodelled) or None,
    ),
    Column(
        "ceilings_date",
        "text",
        "",
        "When the ceilings were measured that the bound is made of.",
        lambda row: row.ceilings.date if row.measured and row.ceilings is not None else None,
    ),
    Column("forward_s", "number", "s", "Median forward part of a training step.", _median_of("forward_s")),
    Column("backward_s", "number", "s", "Median backward part of a training step.", _median_of("backward_s")),
    Column("optimizer_s", "number", "s", "Median optimizer part of a training step.", _median_of("optimizer_s")),
    Column(
        "peak_reserved_bytes",
        "integer",
        "bytes",
        "Peak of what CUDA's allocator held, largest over rounds.",
        _largest("peak_reserved_bytes"),
    ),
    Column(
        "graph_breaks",
        "integer",
        "",
        "Graph breaks under torch.compile, largest over rounds; empty when it is off.",
        lambda row: _largest("graph_breaks")(row) if row.record.cell.compile != "off" else None,
    ),
    Column(
        "channels_last_share",
        "number",
        "",
        "Share of conv layers whose input is channels_last; empty when compiled.",
        _fact("channels_last_share"),
    ),
    Column("check_quantity", "text", "", "What of the answer was compared before timing.", _fact("check_quantity")),
    Column(
        "check_error",
        "number",
        "",
        "Its relative L2 distance from the fp32 eager reference form.",
        _fact("check_error"),
    ),
    Column("check_tolerance", "number", "", "The most that distance may be.", _fact("check_tolerance")),
    Column(
        "page_faults_per_step",
        "number",
        "",
        "Minor page faults of the process in one step.",
        lambda row: flags.page_faults_per_step(row.record.rounds),
    ),
    Column(
        "pressure",
        "number",
        "",
        "Share of the time in which some task waited for a CPU.",
        lambda row: flags.pressure_share(row.record.rounds),
    ),
    Column(
        "foreign_cpu",
        "number",
        "cores",
        "CPU time of other processes over the time of samples.",
        lambda row: flags.foreign_share(row.record.rounds),
    ),
    Column(
        "steal",
        "number",
        "",
        "Share of its threads' time that the hypervisor took.",
        lambda row: flags.steal_share(row.record),
    ),
    Column(
        "throttled",
        "number",
        "",
        "Share of the time for which the cgroup's quota withheld CPUs.",
        lambda row: flags.throttled_share(row.record.rounds),
    ),
    Column(
        "involuntary_per_s",
        "number",
        "1/s",
        "Involuntary context switches of the process.",
        lambda row: flags.involuntary_per_s(row.record.rounds),
    ),
    Column(
        "enqueue_share",
        "number",
        "",
        "Share of a step in which the host still gave work to the GPU; near 1, the GPU waits for the host.",
        lambda row: flags.enqueue_share(row.record.rounds),
    ),
    Column(
        "gpu_clock_hz", "number", "Hz", "Mean clock of the GPU's multiprocessors.", _gpu("gpu_clock_hz_mean", fmean)
    ),
    Column("gpu_clock_hz_min", "number", "Hz", "Lowest clock seen.", _gpu("gpu_clock_hz_min", min)),
    Column("gpu_temperature_c", "number", "°C", "Highest temperature seen.", _gpu("gpu_temperature_c", max)),
    Column("gpu_power_w", "number", "W", "Mean power.", _gpu("gpu_power_w", fmean)),
    Column("gpu_throttle_reasons", "text", "", "Why the GPU's clock was held back, a `;` list.", _throttle_reasons),
    Column(
        "rerun",
        "text",
        "",
        "The command that runs a failed cell alone.",
        lambda row: _one_line(row.record.outcome.rerun) if isinstance(row.record.outcome, Failed) else None,
    ),
    Column("date", "text", "", "When the run began.", lambda row: row.environment.date),
)

COLUMNS: tuple[Column, ...] = CONTRACT + _EXTRA
