"""What a roofline shows, as values: the roofs that limit a step's operations, and a dot for each kind of operation.

Finds what is drawn, and what has no place on logarithmic axes. It draws nothing.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from vanbench.record.ceilings import Ceilings, Stream
from vanbench.report.drawing import number, one_line
from vanbench.report.op_cases import Case, Row, class_of, text_of, total
from vanbench.units import memory, percent, significant

__all__ = ["AREA_OF_A_STEP", "Dot", "Roof", "dots_of", "roofs_of", "undrawn"]

# Points² for the whole step: 20 % is a dot of 20 points across, 1 % one of 4.5.
AREA_OF_A_STEP = 2000.0
_LEVELS_APART = 1.25


class Roof(NamedTuple):
    """A line of the roofline. per_byte: bytes/s, a slope; else FLOP/s, level."""

    words: str
    rate: float
    per_byte: bool


class Dot(NamedTuple):
    """Operations of one class and geometry. intensity: FLOP/byte; rate: FLOP/s; share: of the step's time."""

    op_class: str
    name: str
    intensity: float
    rate: float
    share: float


def roofs_of(case: Case, entry: Ceilings) -> list[Roof]:
    """What limits the operations of a case: streams of a few working sets, and the units in the types computed in."""
    roofs = [
        Roof(
            f"{one_line(s.kind, 12)}, {memory(s.bytes)}: {significant(s.ceiling.best / 1e9)} GB/s", s.ceiling.best, True
        )
        for s in _levels([each for each in entry.streams if each.kind != "update"])
    ]
    precision = text_of(case.rows[0], "precision")
    for unit, rates in (("matrix", entry.matrix), ("vector", entry.vector)):
        # TF32 is a way of matrix units with fp32 tensors; vector units know only fp32.
        says = {"fp32": "tf32"} if unit == "matrix" and precision == "tf32" else {"tf32": "fp32"}
        spent: dict[str, float] = defaultdict(float)
        for row in case.timed:
            if text_of(row, "unit") == unit:
                spent[says.get(text_of(row, "dtype"), text_of(row, "dtype"))] += number(row, "seconds") or 0.0
        words = sorted((word for word in spent if word in rates), key=lambda word: -spent[word])[:2]
        for word in words or [word for word in (says.get(precision, precision),) if word in rates]:
            roof = rates[word]
            said = f"{unit} {word}: {significant(roof.best / 1e9)} GFLOP/s ({one_line(roof.how, 32)})"
            roofs.append(Roof(said, roof.best, False))
    return [roof for roof in roofs if roof.rate > 0]


def _levels(streams: Sequence[Stream]) -> list[Stream]:
    """The fastest stream of all, that of the largest working set, and one plateau between them if there is one."""
    tops: dict[int, Stream] = {}
    for each in streams:
        if each.ceiling.best > 0 and (each.bytes not in tops or each.ceiling.best > tops[each.bytes].ceiling.best):
            tops[each.bytes] = each
    line = [tops[size] for size in sorted(tops)]
    if not line:
        return []
    rates = [math.log(each.ceiling.best) for each in line]
    fastest, last = rates.index(max(rates)), len(line) - 1
    far = math.log(_LEVELS_APART)
    if rates[fastest] - rates[last] < far:
        return [line[last]]
    middle = [i for i in range(fastest + 1, last) if rates[fastest] - rates[i] > far and rates[i] - rates[last] > far]

    def unfit(i: int) -> float:
        # A plateau is where the neighbours are alike; of several, the one midway between the two ends.
        return abs(rates[i - 1] - rates[i + 1]) + 2 * abs(rates[i] - (rates[fastest] + rates[last]) / 2)

    return [line[fastest], *([line[min(middle, key=unfit)]] if middle else []), line[last]]


def dots_of(case: Case) -> list[Dot]:
    """The operations that have a place on logarithmic axes, largest first."""
    same: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    geometry = ("op", "phase", "shape_in", "shape_out", "kernel_size", "stride", "dilation", "groups")
    for row in case.timed:
        if (number(row, "flops") or 0.0) > 0 and (number(row, "bytes") or 0.0) > 0:
            place = (class_of(row), *(text_of(row, name) for name in geometry))
            same[place].append(row)
    dots = []
    step_s = case.step_s
    for place, rows in same.items():
        spent, flops = total(rows, "seconds"), total(rows, "flops")
        dots.append(Dot(place[0], _geometry(rows[0]), flops / total(rows, "bytes"), flops / spent, spent / step_s))
    return sorted(dots, key=lambda dot: -dot.share)


def _geometry(row: Row) -> str:
    """An operation in few words: `7x7 d3 32ch 56px`, `1x1 32→256ch 56px`, `gelu 256ch 56px`."""
    into, out = _sizes(text_of(row, "shape_in")), _sizes(text_of(row, "shape_out"))
    kernel, dilation, stride = (text_of(row, name) for name in ("kernel_size", "dilation", "stride"))
    words = []
    if kernel:
        words.append(f"{kernel}x{kernel}" if kernel.isdigit() else one_line(kernel, 9))
        words += [f"d{dilation}"] if dilation not in ("", "1") else []
        words += [f"s{stride}"] if stride not in ("", "1") else []
    else:
        # `aten.native_batch_norm.default` is known as native_batch_norm.
        parts = text_of(row, "op").split(".")
        words.append(one_line(parts[1] if len(parts) > 1 and parts[0] == "aten" else parts[0], 18))
    if len(into) == 4:
        widens = bool(kernel) and len(out) == 4 and out[1] != into[1]
        words.append(f"{into[1]}→{out[1]}ch" if widens else f"{into[1]}ch")
        words.append(f"{into[2]}px" if into[2] == into[3] else f"{into[2]}x{into[3]}px")
    elif into:
        words.append("x".join(map(str, into)))
    words += ["bwd"] if text_of(row, "phase") == "backward" else []
    return " ".join(words)


def _sizes(text: str) -> list[int]:
    """The sizes of the first shape in a text like `8x32x56x56`."""
    found = re.match(r"\s*(\d{1,9}(?:x\d{1,9})*)", text)
    return [int(size) for size in found.group(1).split("x")] if found else []


def undrawn(case: Case) -> str:
    """What has no place on logarithmic axes, by class, with the time it takes."""
    spent: dict[str, float] = defaultdict(float)
    for row in case.timed:
        if not ((number(row, "flops") or 0.0) > 0 and (number(row, "bytes") or 0.0) > 0):
            spent[class_of(row)] += number(row, "seconds") or 0.0
    if not spent:
        return ""
    shares = [
        f"{one_line(name, 16)} {percent(spent[name] / case.step_s)}" for name in sorted(spent, key=lambda n: -spent[n])
    ]
    more = f", {len(shares) - 3} more classes" if len(shares) > 3 else ""
    return f"without FLOPs, not drawn: {', '.join(shares[:3])}{more} of the time"
