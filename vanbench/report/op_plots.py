"""The figures of operations and roofs, from rows of ops.csv and depthwise.csv. It measures nothing.

Colour says an operation's class (Okabe-Ito), everywhere the same. A row is a dict from column to text, number or None;
a column may be missing. What is absent leaves a gap, and a figure with nothing to show is a reason.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from vanbench.record.ceilings import Ceiling, Ceilings, Stream
from vanbench.report.drawing import (
    FAINT,
    GREY,
    MARKERS,
    Drawn,
    drawing,
    grid_shape,
    key,
    key_width,
    number,
    number_axis,
    one_line,
    padded,
    page,
)
from vanbench.units import memory, percent, significant
from vanbench.units import seconds as seconds_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CLASS_COLOURS",
    "depthwise_figures",
    "draw_ceilings",
    "draw_classes",
    "draw_depthwise",
    "draw_roofline",
    "op_figures",
]

Row = Mapping[str, Any]

# In the order in which a bar is stacked. Depthwise has the signal colour: it is what the figures are asked about.
CLASS_COLOURS = {
    "depthwise": "#D55E00",
    "pointwise": "#0072B2",
    "dense conv": "#56B4E9",
    "norm": "#009E73",
    "activation": "#E69F00",
    "elementwise": "#CC79A7",
    "layout copy": "#F0E442",
    "other": "#8C8C8C",
}
_OUTSIDE = "outside ops"
_OUTSIDE_COLOUR = "#E6E6E6"
_DARK = "#222222"
_STREAM_COLOURS = {"read": "#0072B2", "copy": "#D55E00", "add": "#009E73", "triad": "#CC79A7", "update": "#E69F00"}
_UNIT_COLOURS = {"matrix": "#0072B2", "vector": "#E69F00"}
_SPARE_COLOURS = ("#56B4E9", "#E69F00", "#000000")
# What tells one bar or panel from another, in the order in which it is said.
_CONFIGURATION = (
    "model",
    "precision",
    "memory_format",
    "task",
    "batch_size",
    "image_size",
    "form",
    "depthwise",
    "device",
    "threads",
)
_ALWAYS_SAID = ("model", "precision", "memory_format")
# Points² for the whole step: 20 % is a dot of 20 points across, 1 % one of 4.5.
_AREA_OF_A_STEP = 2000.0
_AREAS_SHOWN = (0.01, 0.05, 0.20)
_MOST_NAMED = 5
_LEAST_NAMED = 0.02  # share of the step
_LEVELS_APART = 1.25
_PASSES = ("forward", "grad_input", "grad_weight")


# --- rows -----------------------------------------------------------------------------------------------------------


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else str(value)


@dataclass
class _Case:
    """The rows of one step: a model in one configuration. name: what is said of it beside the others."""

    name: str
    rows: list[Row] = field(default_factory=list)

    @property
    def model(self) -> str:
        return _text(self.rows[0], "model")

    @property
    def configuration(self) -> tuple[str, ...]:
        """Everything but the model."""
        return tuple(_text(self.rows[0], name) for name in _CONFIGURATION if name != "model")

    @property
    def timed(self) -> list[Row]:
        return [row for row in self.rows if (number(row, "seconds") or 0.0) > 0]

    @property
    def ops_s(self) -> float:
        return _total(self.timed, "seconds")

    @property
    def step_s(self) -> float:
        """The unprofiled step, or the sum of its operations where that is longer or the step is not known."""
        return max([self.ops_s, *(number(row, "step_s") or 0.0 for row in self.rows)])


def _total(rows: Sequence[Row], name: str) -> float:
    return math.fsum(number(row, name) or 0.0 for row in rows)


def _words(row: Row, names: Sequence[str]) -> str:
    says = {"batch_size": "batch {}", "image_size": "{} px", "form": "{} form", "stride": "stride {}"}
    says["threads"] = "{} threads"
    return ", ".join(says.get(name, "{}").format(one_line(_text(row, name))) for name in names if _text(row, name))


def _cases(rows: Sequence[Row]) -> tuple[list[_Case], str]:
    """The steps that rows belong to, and what all of them have in common."""
    varied = [name for name in _CONFIGURATION if len({_text(row, name) for row in rows}) > 1]
    said = [name for name in _CONFIGURATION if name in varied or name in _ALWAYS_SAID]
    cases: dict[tuple[str, ...], _Case] = {}
    for row in rows:
        place = tuple(_text(row, name) for name in _CONFIGURATION)
        cases.setdefault(place, _Case(_words(row, said) or "?")).rows.append(row)
    rest = [name for name in _CONFIGURATION if name not in said and rows and _text(rows[0], name) != "native"]
    return list(cases.values()), _words(rows[0], rest) if rows else ""


def _device(rows: Sequence[Row]) -> str:
    """Every device that the rows name, for a figure's last line."""
    names = dict.fromkeys(one_line(_text(row, "device_name"), 60) for row in rows)
    return ", ".join(name for name in names if name)


def _class(row: Row) -> str:
    return _text(row, "op_class") or "other"


def _classes(rows: Sequence[Row]) -> list[str]:
    """The classes that occur, known ones first and in their order."""
    seen = {_class(row) for row in rows}
    return [each for each in CLASS_COLOURS if each in seen] + sorted(seen - CLASS_COLOURS.keys())


def _class_colour(name: str) -> str:
    return _OUTSIDE_COLOUR if name == _OUTSIDE else CLASS_COLOURS.get(name, CLASS_COLOURS["other"])


def _ink_on(colour: Any) -> str:
    """Black or white, whichever is read better on a colour."""
    from matplotlib.colors import to_rgb

    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour))
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"


def _caption(entry: Ceilings) -> str:
    parts = [_whose(entry), f"torch {entry.torch_version}", entry.date[:10]]
    return " · ".join(one_line(part, 80) for part in parts)


def _whose(entry: Ceilings) -> str:
    threads = f", {entry.threads} thread{'s' if entry.threads != 1 else ''}" if entry.device == "cpu" else ""
    return f"{one_line(entry.device_name, 60)} ({one_line(entry.device)}{threads})"


# --- roofs ----------------------------------------------------------------------------------------------------------


def draw_ceilings(entry: Ceilings) -> Drawn:
    """Bandwidth against working set for each kind of stream, and FLOP/s by unit and precision."""
    name, title = "ceilings", f"Measured roofs of {_whose(entry)}"
    if not entry.streams and not entry.matrix and not entry.vector:
        return Drawn(name, title, None, "no roof was measured")
    bars = [
        (unit, precision, ceiling)
        for precision in dict.fromkeys((*entry.matrix, *entry.vector))
        for unit, roofs in (("matrix", entry.matrix), ("vector", entry.vector))
        for ceiling in ([roofs[precision]] if precision in roofs else [])
    ]
    notes = [entry.convention, *entry.notes]
    if entry.launch is not None:
        notes.append(f"One more operation takes at least {seconds_text(entry.launch.best)} ({entry.launch.how}).")
    about = f"torch {one_line(entry.torch_version)} · {entry.date[:10]}"
    if entry.repeated:
        about += f", looked at again {entry.repeated[:10]}"
    with drawing():
        size = (4.2, max(3.1, 0.56 * len(bars) + 0.9))
        figure, (left, right) = page(title, about, notes, (1, 2), size, 2, width_ratios=(1.75, 1))
        _draw_streams(left, entry.streams)
        _draw_rates(right, bars)
    return Drawn(name, title, figure)


def _draw_streams(axis: Axes, streams: Sequence[Stream]) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter

    if not streams:
        axis.axis("off")
        axis.text(0.5, 0.5, "no bandwidth was measured", ha="center", color=GREY, transform=axis.transAxes)
        return
    spare = iter(_SPARE_COLOURS)
    seen = dict.fromkeys(each.kind for each in streams)
    kinds = [kind for kind in _STREAM_COLOURS if kind in seen] + [kind for kind in seen if kind not in _STREAM_COLOURS]
    lines = []
    for i, kind in enumerate(kinds):
        mine = sorted((each for each in streams if each.kind == kind), key=lambda each: each.bytes)
        colour = _STREAM_COLOURS.get(kind) or next(spare, GREY)
        sizes = [each.bytes for each in mine]
        axis.plot(sizes, [each.ceiling.median / 1e9 for each in mine], color=colour, linewidth=0.9, alpha=0.4, zorder=2)
        line = axis.plot(sizes, [each.ceiling.best / 1e9 for each in mine], color=colour, linewidth=1.3, zorder=3)[0]
        line.set(marker=MARKERS[i % len(MARKERS)], markersize=3.8, markeredgewidth=0)
        lines.append(line)
    legend = axis.legend(
        lines,
        ["x"] * len(lines),
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=5,
        frameon=False,
        fontsize=7.5,
        borderaxespad=0.1,
        columnspacing=1.2,
        handlelength=1.6,
        title="strong: best of all visits, faint: their median",
        title_fontsize=7,
        alignment="left",
    )
    for text, kind in zip(legend.get_texts(), kinds, strict=True):
        text.set_text(one_line(kind))
    low, high = min(each.bytes for each in streams), max(each.bytes for each in streams)
    first, last = math.floor(math.log2(low)), math.ceil(math.log2(high))
    # Steps of 2^5 and 2^10 land on names that people know: 32 KiB, 1 MiB, 32 MiB, 1 GiB.
    step = next((step for step in (1, 2, 5) if (last - first) // step < 7), 10)
    axis.set_xscale("log", base=2)
    axis.set_xlim(low / 1.4, high * 1.4)
    whole = range(first, last + 1)
    ticks = [2.0**power for power in whole if power % step == 0 and low / 1.4 <= 2.0**power <= high * 1.4]
    axis.set_xticks(ticks, [memory(tick) for tick in ticks])
    axis.xaxis.set_minor_locator(FixedLocator([2.0**power for power in whole]))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("working set (all arrays of a stream together)")
    # From the first cache to main memory is a factor of thirty: on a linear axis all but the first cache lies at 0.
    axis.set_yscale("log")
    axis.set_ylim(*padded([rate / 1e9 for each in streams for rate in (each.ceiling.best, each.ceiling.median)], 0.05))
    number_axis(axis.yaxis, axis.get_ylim(), logarithmic=True)
    axis.set_ylabel("bandwidth (GB/s)")
    axis.grid(color=FAINT, linewidth=0.5)
    axis.set_axisbelow(True)


def _draw_rates(axis: Axes, bars: Sequence[tuple[str, str, Ceiling]]) -> None:
    """A bar for each roof, its words above and below it: there they fit, however short the bar is."""
    if not bars:
        axis.axis("off")
        axis.text(0.5, 0.5, "no FLOP/s was measured", ha="center", color=GREY, transform=axis.transAxes)
        return
    most = max(ceiling.best for _, _, ceiling in bars) / 1e9
    for place, (unit, precision, ceiling) in enumerate(bars):
        best, median = ceiling.best / 1e9, ceiling.median / 1e9
        axis.barh(place, best, height=0.3, color=_UNIT_COLOURS[unit], alpha=0.75, linewidth=0, zorder=2)
        axis.plot([median, median], [place - 0.17, place + 0.17], color="black", linewidth=1.2, zorder=3)
        axis.annotate(
            f"{one_line(precision, 12)} {unit}: {significant(best)}",
            (0, place - 0.21),
            xytext=(2, 0),
            textcoords="offset points",
            fontsize=7.5,
            va="bottom",
        )
        axis.annotate(
            one_line(ceiling.how, 42),
            (0, place + 0.21),
            xytext=(2, 0),
            textcoords="offset points",
            fontsize=6.5,
            color=GREY,
            va="top",
        )
    axis.set_ylim(len(bars) - 0.42, -0.6)
    axis.set_yticks([])
    axis.spines["left"].set_visible(True)
    axis.set_xlim(0, most * 1.06)
    number_axis(axis.xaxis, [], logarithmic=False)
    axis.set_xlabel("GFLOP/s (bar: best, tick: median)")
    axis.grid(axis="x", color=FAINT, linewidth=0.5)
    axis.set_axisbelow(True)


class _Roof(NamedTuple):
    """A line of the roofline. per_byte: bytes/s, a slope; else FLOP/s, level."""

    words: str
    rate: float
    per_byte: bool


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


def _roofs(case: _Case, entry: Ceilings) -> list[_Roof]:
    """What limits the operations of a case: streams of a few working sets, and the units in the types computed in."""
    roofs = [
        _Roof(
            f"{one_line(s.kind, 12)}, {memory(s.bytes)}: {significant(s.ceiling.best / 1e9)} GB/s", s.ceiling.best, True
        )
        for s in _levels([each for each in entry.streams if each.kind != "update"])
    ]
    precision = _text(case.rows[0], "precision")
    for unit, rates in (("matrix", entry.matrix), ("vector", entry.vector)):
        # TF32 is a way of matrix units with fp32 tensors; vector units know only fp32.
        says = {"fp32": "tf32"} if unit == "matrix" and precision == "tf32" else {"tf32": "fp32"}
        spent: dict[str, float] = defaultdict(float)
        for row in case.timed:
            if _text(row, "unit") == unit:
                spent[says.get(_text(row, "dtype"), _text(row, "dtype"))] += number(row, "seconds") or 0.0
        words = sorted((word for word in spent if word in rates), key=lambda word: -spent[word])[:2]
        for word in words or [word for word in (says.get(precision, precision),) if word in rates]:
            roof = rates[word]
            said = f"{unit} {word}: {significant(roof.best / 1e9)} GFLOP/s ({one_line(roof.how, 32)})"
            roofs.append(_Roof(said, roof.best, False))
    return [roof for roof in roofs if roof.rate > 0]


# --- roofline -------------------------------------------------------------------------------------------------------


class _Dot(NamedTuple):
    """Operations of one class and geometry. intensity: FLOP/byte; rate: FLOP/s; share: of the step's time."""

    op_class: str
    name: str
    intensity: float
    rate: float
    share: float


def _dots(case: _Case) -> list[_Dot]:
    """The operations that have a place on logarithmic axes, largest first."""
    same: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    geometry = ("op", "phase", "shape_in", "shape_out", "kernel_size", "stride", "dilation", "groups")
    for row in case.timed:
        if (number(row, "flops") or 0.0) > 0 and (number(row, "bytes") or 0.0) > 0:
            place = (_class(row), *(_text(row, name) for name in geometry))
            same[place].append(row)
    dots = []
    step_s = case.step_s
    for place, rows in same.items():
        spent, flops = _total(rows, "seconds"), _total(rows, "flops")
        dots.append(_Dot(place[0], _geometry(rows[0]), flops / _total(rows, "bytes"), flops / spent, spent / step_s))
    return sorted(dots, key=lambda dot: -dot.share)


def _geometry(row: Row) -> str:
    """An operation in few words: `7x7 d3 32ch 56px`, `1x1 32→256ch 56px`, `gelu 256ch 56px`."""
    into, out = _sizes(_text(row, "shape_in")), _sizes(_text(row, "shape_out"))
    kernel, dilation, stride = (_text(row, name) for name in ("kernel_size", "dilation", "stride"))
    words = []
    if kernel:
        words.append(f"{kernel}x{kernel}" if kernel.isdigit() else one_line(kernel, 9))
        words += [f"d{dilation}"] if dilation not in ("", "1") else []
        words += [f"s{stride}"] if stride not in ("", "1") else []
    else:
        # `aten.native_batch_norm.default` is known as native_batch_norm.
        parts = _text(row, "op").split(".")
        words.append(one_line(parts[1] if len(parts) > 1 and parts[0] == "aten" else parts[0], 18))
    if len(into) == 4:
        widens = bool(kernel) and len(out) == 4 and out[1] != into[1]
        words.append(f"{into[1]}→{out[1]}ch" if widens else f"{into[1]}ch")
        words.append(f"{into[2]}px" if into[2] == into[3] else f"{into[2]}x{into[3]}px")
    elif into:
        words.append("x".join(map(str, into)))
    words += ["bwd"] if _text(row, "phase") == "backward" else []
    return " ".join(words)


def _sizes(text: str) -> list[int]:
    """The sizes of the first shape in a text like `8x32x56x56`."""
    found = re.match(r"\s*(\d{1,9}(?:x\d{1,9})*)", text)
    return [int(size) for size in found.group(1).split("x")] if found else []


def _left_out(case: _Case) -> str:
    """What has no place on logarithmic axes, by class, with the time it takes."""
    spent: dict[str, float] = defaultdict(float)
    for row in case.timed:
        if not ((number(row, "flops") or 0.0) > 0 and (number(row, "bytes") or 0.0) > 0):
            spent[_class(row)] += number(row, "seconds") or 0.0
    if not spent:
        return ""
    shares = [
        f"{one_line(name, 16)} {percent(spent[name] / case.step_s)}" for name in sorted(spent, key=lambda n: -spent[n])
    ]
    more = f", {len(shares) - 3} more classes" if len(shares) > 3 else ""
    return f"without FLOPs, not drawn: {', '.join(shares[:3])}{more} of the time"


def _models_side_by_side(cases: Sequence[_Case]) -> list[_Case]:
    """The cases ordered so that a row of panels holds the models in one configuration."""
    others = list(dict.fromkeys(case.configuration for case in cases))
    models = list(dict.fromkeys(case.model for case in cases))
    return sorted(cases, key=lambda case: (others.index(case.configuration), models.index(case.model)))


def draw_roofline(rows: Sequence[Row], entry: Ceilings) -> Drawn:
    """Each operation at its intensity and its FLOP/s below the measured roofs; a panel for each configuration."""
    name, title = "roofline", "Operations under the measured roofs"
    cases, about = _cases(rows)
    drawn = [(case, dots) for case in _models_side_by_side(cases) if (dots := _dots(case))]
    if not drawn:
        return Drawn(name, title, None, "no operation has a time, FLOPs and bytes")
    models = {case.model for case, _ in drawn}
    from matplotlib.lines import Line2D

    classes = [each for each in _classes(rows) if any(dot.op_class == each for _, dots in drawn for dot in dots)]
    note = (
        "A dot: all operations of one class and geometry, FLOPs and bytes by formula, area by their share of the step. "
        f"Sloped roofs: the fastest stream of a working set. Roofs: {_caption(entry)}."
    )
    roofs = [_roofs(case, entry) for case, _ in drawn]
    xs = [dot.intensity for _, dots in drawn for dot in dots]
    ys = [dot.rate / 1e9 for _, dots in drawn for dot in dots]
    levels = [roof.rate for each in roofs for roof in each if not roof.per_byte]
    slopes = [roof.rate for each in roofs for roof in each if roof.per_byte]
    ys += [level / 1e9 for level in levels]
    if levels and slopes:
        # The bends of all slopes are in the panel, and enough of the steepest one to hold its words.
        xs += [max(levels) / min(slopes), max(levels) / max(slopes) / 6]
        ys.append(max(levels) / 1e9 / 10)
    with drawing():
        shape = grid_shape(len(drawn)) if len(drawn) < 7 else (-(-len(drawn) // 3), 3)
        if len(models) in (2, 3) and len(drawn) % len(models) == 0:
            shape = (len(drawn) // len(models), len(models))
        size = (4.6, 4.0) if shape[1] == 1 else (4.0, 3.8)
        figure, axes = page(
            title, about, [note], shape, size, len(drawn), room=key_width(["share of the step", *classes]),
            sharex=True, sharey=True,
        )  # fmt: skip
        for axis, (case, dots) in zip(axes, drawn, strict=True):
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xlim(*_reach(xs, 0.05))
            axis.set_ylim(*_reach(ys, 0.09, 0.14))
            number_axis(axis.xaxis, axis.get_xlim(), logarithmic=True)
            number_axis(axis.yaxis, axis.get_ylim(), logarithmic=True)
            axis.grid(color=FAINT, linewidth=0.4)
            axis.set_axisbelow(True)
            _draw_dots(axis, dots)
            left_out = _left_out(case)
            axis.set_title(_fitting(case.name), loc="left", pad=14 if left_out else 6)
            if left_out:
                axis.text(0, 1.015, left_out, transform=axis.transAxes, fontsize=6.5, color=GREY, va="bottom")
            axis.set_xlabel("arithmetic intensity (FLOP/byte)")
            axis.set_ylabel("GFLOP/s")
            axis.label_outer()
        for place, axis in enumerate(axes):
            if place + shape[1] >= len(axes):
                axis.tick_params(labelbottom=True)
                axis.set_xlabel("arithmetic intensity (FLOP/byte)")
        beside = axes[shape[1] - 1]
        marks = [(each, _class_mark(_class_colour(each), 6.0)) for each in classes]
        key(figure, beside, [*marks])
        sizes = [(percent(share), _class_mark("white", math.sqrt(share * _AREA_OF_A_STEP))) for share in _AREAS_SHOWN]
        key(
            figure,
            beside,
            [*sizes, ("of the step's time", Line2D([], [], linestyle="none"))],
            corner="lower left",
            at=(1.02, -0.02),
            labelspacing=1.3,
            handletextpad=0.9,
        )
        # Where a roof's words fit depends on the panels' final shape.
        _settle(figure)
        for axis, (_, dots), each in zip(axes, drawn, roofs, strict=True):
            taken = _draw_roofs(axis, each)
            _name_dots(axis, dots, taken)
    return Drawn(name, title, figure)


def _fitting(name: str) -> str:
    """A panel's title no wider than the panel."""
    return name if len(name) <= 48 else _two_lines(name)


def _reach(values: Sequence[float], share: float, above: float | None = None) -> tuple[float, float]:
    """Limits of a logarithmic axis, never less than a factor of ten. above: more room at the upper end."""
    low, high = padded(values, share)[0], padded(values, share if above is None else above)[1]
    widen = max(1.0, math.sqrt(10 * low / high))
    return low / widen, high * widen


def _class_mark(colour: str, diameter: float) -> Any:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"markeredgecolor": _DARK if colour == "white" else "#555555", "markeredgewidth": 0.4}
    return Line2D([], [], linestyle="none", marker="o", color=colour, markersize=diameter, **look)


def _settle(figure: Figure) -> Any:
    """Lay the figure out, so that places in pixels are known; its renderer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def _draw_dots(axis: Axes, dots: Sequence[_Dot]) -> None:
    axis.scatter(
        [dot.intensity for dot in dots],
        [dot.rate / 1e9 for dot in dots],
        s=[dot.share * _AREA_OF_A_STEP for dot in dots],
        c=[_class_colour(dot.op_class) for dot in dots],
        alpha=0.75,
        edgecolors="#444444",
        linewidths=0.35,
        zorder=3,
    )


class _Box(NamedTuple):
    """A place in pixels that something fills. weight: how much it hurts to cover it."""

    left: float
    low: float
    right: float
    high: float
    weight: float


def _draw_roofs(axis: Axes, roofs: Sequence[_Roof]) -> list[_Box]:
    """The roofs with their words; the boxes that they fill."""
    (left, right), bottom = axis.get_xlim(), axis.get_ylim()[0]
    levels = sorted((roof for roof in roofs if not roof.per_byte), key=lambda roof: -roof.rate)
    slopes = sorted((roof for roof in roofs if roof.per_byte), key=lambda roof: -roof.rate)
    limit = levels[0].rate if levels else math.inf
    point = _points_a_pixel(axis)
    style: dict[str, Any] = {"fontsize": 6.5, "color": _DARK, "zorder": 5}
    line_style: dict[str, Any] = {"color": "#333333", "linewidth": 0.9, "zorder": 2}
    pixels = axis.transData.transform
    taken: list[_Box] = []
    before = math.inf
    for roof in slopes:
        end = min(right, limit / roof.rate)
        axis.plot([min(left, end), end], [min(left, end) * roof.rate / 1e9, end * roof.rate / 1e9], **line_style)
        enter = max(left, bottom * 1e9 / roof.rate)
        first, last = pixels((enter, enter * roof.rate / 1e9)), pixels((end, end * roof.rate / 1e9))
        along = (last - first) / max(math.hypot(*(last - first)), 1e-9)
        # Words stand a little above their line, or below where the line above leaves no room between the two.
        up = first[1] * along[0] - first[0] * along[1]
        under = (before - up) * point < 12
        before = up
        off = -9.5 if under else 2.0
        said = axis.annotate(
            roof.words,
            (enter, enter * roof.rate / 1e9),
            xytext=(10 * along[0] - off * along[1], 10 * along[1] + off * along[0]),
            textcoords="offset points",
            rotation=math.degrees(math.atan2(along[1], along[0])),
            rotation_mode="anchor",
            va="bottom",
            **style,
        )
        said.set_in_layout(False)
        length = 0.008 * 6.5 * len(roof.words) * 72 / point
        for reach in range(4, max(5, int(math.hypot(*(last - first)))), 8):
            x, y = first + along * reach
            worded = reach < length + 10 / point
            low, high = (y - (14 if worded and under else 4), y + (14 if worded and not under else 4))
            taken.append(_Box(x - 4, low, x + 4, high, 3.0 if worded else 0.5))
    heights = [pixels((right, roof.rate / 1e9))[1] * point for roof in levels]
    above = -math.inf
    for roof, height in reversed([*zip(levels, heights, strict=True)]):
        # A level begins where the fastest slope reaches it.
        start = min(max(left, roof.rate / slopes[0].rate), right) if slopes else left
        axis.plot([start, right], [roof.rate / 1e9] * 2, **line_style)
        # Words stand above their line, above any other line that would cross them, and above other words.
        y = max(height + 2.5, above + 8.5)
        for other in reversed(heights):
            y = other + 2.5 if y - 2 < other < y + 8 else y
        above = y
        said = axis.annotate(
            roof.words,
            (1, roof.rate / 1e9),
            xycoords=("axes fraction", "data"),
            xytext=(-2, y - height),
            textcoords="offset points",
            ha="right",
            # A level's words may have to cross a slope, and are still to be read.
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.4},
            **style,
        )
        said.set_in_layout(False)
        x, width = axis.get_window_extent().x1, 0.008 * 6.5 * len(roof.words) * 72 / point
        taken.append(_Box(x - width, y / point, x, (y + 9) / point, 12.0))
        taken.append(_Box(pixels((start, bottom))[0], height / point - 1, x, height / point + 1, 1.0))
    return taken


def _points_a_pixel(axis: Axes) -> float:
    figure = axis.get_figure(root=True)
    assert figure is not None
    return 72 / figure.dpi


def _name_dots(axis: Axes, dots: Sequence[_Dot], taken: Sequence[_Box]) -> None:
    """Names beside the largest dots, where they and their leaders cover least of `taken`, of dots and of each other."""
    point = _points_a_pixel(axis)
    inside = axis.get_window_extent()
    places = [axis.transData.transform((dot.intensity, dot.rate / 1e9)) for dot in dots]
    radii = [math.sqrt(dot.share * _AREA_OF_A_STEP) / 2 / point for dot in dots]
    crowd = [*taken]
    for (x, y), radius in zip(places, radii, strict=True):
        if radius > 1.5:
            crowd.append(_Box(x - radius, y - radius, x + radius, y + radius, 2.0))
    # Of dots in one place the names stand together, with one leader.
    groups: list[list[int]] = []
    for i in [i for i, dot in enumerate(dots) if dot.share >= _LEAST_NAMED][:_MOST_NAMED]:
        close = (group for group in groups if math.dist(places[group[0]], places[i]) < radii[i] / 2)
        group = next(close, None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    for group in groups:
        dot, (x, y), radius = dots[group[0]], places[group[0]], radii[group[0]]
        names = list(dict.fromkeys(dots[i].name for i in group))
        wide, high = 0.0083 * 6.5 * max(map(len, names)) * 72 / point, 8.5 * len(names) / point
        best: tuple[float, _Box, tuple[float, float]] | None = None
        for reach in (3.0, 9.0, 17.0, 27.0, 40.0, 55.0, 75.0):
            for turn in range(0, 360, 20):
                across, up = math.cos(math.radians(turn)), math.sin(math.radians(turn))
                # The box's near edge, not its centre, is what stands at the distance.
                out = radius + reach / point
                left, low = x + across * (out + wide / 2) - wide / 2, y + up * (out + high / 2 - 4 / point) - high / 2
                box = _Box(left, low, left + wide, low + high, 10.0)
                near = (min(max(x, box.left), box.right), min(max(y, box.low), box.high))
                cost = _covered(crowd, box, (x, y), near) + reach / 20
                cost += 30.0 * (left < inside.x0 or box.right > inside.x1)
                cost += 30.0 * (low < inside.y0 or box.high > inside.y1)
                if best is None or cost < best[0]:
                    best = (cost, box, near)
        assert best is not None
        _, box, near = best
        crowd.append(box)
        # Later names keep off this one's leader too.
        for step in range(1, 8):
            at = [start + (end - start) * step / 8 for start, end in zip((x, y), near, strict=True)]
            crowd.append(_Box(at[0] - 1, at[1] - 1, at[0] + 1, at[1] + 1, 1.5))
        line: dict[str, Any] = {"arrowstyle": "-", "color": "#555555", "linewidth": 0.5, "shrinkB": radius * point}
        line |= {"shrinkA": 1, "relpos": ((near[0] - box.left) / wide, (near[1] - box.low) / high)}
        said = axis.annotate(
            "\n".join(names),
            (dot.intensity, dot.rate / 1e9),
            xytext=(((box.left + box.right) / 2 - x) * point, ((box.low + box.high) / 2 - y) * point),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=6.5,
            linespacing=1.1,
            color="black",
            zorder=6,
            arrowprops=line if (math.dist((x, y), near) - radius) * point > 5 else None,
        )
        said.set_in_layout(False)


def _covered(crowd: Sequence[_Box], box: _Box, start: tuple[float, float], end: tuple[float, float]) -> float:
    """What a name in `box` and its leader from `start` to `end` would cover; a leader counts half, thin lines not."""
    import numpy as np

    left, low, right, high, weight = np.array(crowd).T
    over = (left < box.right) & (right > box.left) & (low < box.high) & (high > box.low)
    steps = np.linspace(0.0, 1.0, 30)[:, None]
    x, y = (a + (b - a) * steps for a, b in zip(start, end, strict=True))
    met = ((left < x) & (x < right) & (low < y) & (y < high)).any(axis=0)
    return float(weight[over].sum() + weight[met & (weight >= 1.5)].sum() / 2)


# --- classes --------------------------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """One part of a bar, in seconds of the whole step. bound_s: of all its operations, None if any has none."""

    op_class: str
    seconds: float
    bound_s: float | None


def _parts(case: _Case) -> list[_Part]:
    parts = []
    for name in _classes(case.timed):
        rows = [row for row in case.timed if _class(row) == name]
        known = all(number(row, "bound_s") is not None for row in rows)
        parts.append(_Part(name, _total(rows, "seconds"), _total(rows, "bound_s") if known else None))
    outside = case.step_s - case.ops_s
    return [*parts, *([_Part(_OUTSIDE, outside, None)] if outside > 0 else [])]


def draw_classes(rows: Sequence[Row]) -> Drawn:
    """Where a step's time goes: bars of ms per image by class of operation, and the same as shares of the step."""
    name, title = "classes", "Time of a step by class of operation"
    cases, about = _cases(rows)
    bars = [(case, _parts(case), number(case.rows[0], "batch_size") or 0.0) for case in cases if case.timed]
    bars = [bar for bar in bars if bar[2] > 0]
    if not bars:
        return Drawn(name, title, None, "no operation has a time, or the batch size is not known")
    present = {part.op_class for _, parts, _ in bars for part in parts}
    names = [each for each in (*_classes(rows), _OUTSIDE) if each in present]
    notes = [
        "Black tick: the bound of the part's operations under the measured roofs; at the part's end where they are as "
        "fast or faster; none where an operation has no bound, or the part is too thin. Outside ops: the unprofiled "
        "step less its operations."
    ]
    longer = [case for case, _, _ in bars if (known := number(case.rows[0], "step_s")) and case.ops_s > known * 1.005]
    if longer:
        notes.append(f"Operations measured one by one take longer than the step in {len(longer)} of {len(bars)} bars.")
    labels = [_two_lines(case.name) for case, _, _ in bars]
    with drawing():
        from matplotlib.patches import Patch

        height = max(1.5, 0.44 * len(bars) + 0.62, 0.17 * len(names) + 0.4)
        figure, axes = page(
            title, about, [*notes, _device(rows)], (1, 2), (4.2, height), 2,
            room=key_width(names), sharey=True, width_ratios=(1.15, 1),
        )  # fmt: skip
        longest = max(case.step_s / batch for case, _, batch in bars) * 1e3
        for axis, most, words in ((axes[0], longest, "ms per image"), (axes[1], 100.0, "share of the step (%)")):
            for place, (case, parts, batch) in enumerate(bars):
                scale = 1e3 / batch if axis is axes[0] else 100.0 / case.step_s
                _draw_bar(axis, place, parts, scale, most)
            axis.set_xlim(0, most * (1.02 if axis is axes[0] else 1.0))
            number_axis(axis.xaxis, [], logarithmic=False)
            axis.set_xlabel(words)
            axis.grid(axis="x", color=FAINT, linewidth=0.5)
            axis.set_axisbelow(True)
            axis.tick_params(axis="y", length=0)
        # As few bars as there may be, they are not made thicker.
        axes[0].set_ylim(max(len(bars), (height - 0.62) / 0.44) - 0.45, -0.55)
        axes[0].set_yticks(range(len(bars)), labels, fontsize=7.5)
        marks = [(each, Patch(facecolor=_class_colour(each), edgecolor="#888888", linewidth=0.4)) for each in names]
        key(figure, axes[1], [*marks], handlelength=1.1, handletextpad=0.5)
    return Drawn(name, title, figure)


def _two_lines(words: str) -> str:
    """A step's name on two lines: the model, and what else tells it from others."""
    model, _, rest = words.partition(", ")
    return f"{one_line(model)}\n{one_line(rest, 50)}" if rest else one_line(model)


def _draw_bar(axis: Axes, place: int, parts: Sequence[_Part], scale: float, most: float) -> None:
    """One stacked bar. scale: from seconds to the axis' unit; most: the axis' length, about 3.2 inches."""
    start = 0.0
    inches = 3.2 / most
    for part in parts:
        length = part.seconds * scale
        colour = _class_colour(part.op_class)
        axis.barh(place, length, left=start, height=0.62, color=colour, edgecolor="white", linewidth=0.5, zorder=2)
        # On a part as thin as the mark itself the mark would be all there is to see.
        if part.bound_s is not None and length * inches > 0.035:
            at = start + min(part.bound_s * scale, length)
            # Below the number, and a little out of the bar, where it is seen on any colour.
            ends = [place + 0.03, place + 0.39]
            axis.plot([at, at], ends, color="black", linewidth=1.1, solid_capstyle="butt", zorder=3)
        words = significant(length, 2 if length < 100 else 3)
        if length * inches > 0.0085 * 6.5 * (len(words) + 0.6):
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5, "color": _ink_on(colour)}
            axis.text(start + length / 2, place - 0.13, words, zorder=4, **style)
        start += length


# --- depthwise ------------------------------------------------------------------------------------------------------


def draw_depthwise(rows: Sequence[Row]) -> list[Drawn]:
    """Heat maps of the fraction of the roof, shape by kernel; a figure for each precision, kernel in use and cache."""
    title = "Depthwise convolutions as a share of their roof"
    if not rows:
        return [Drawn("depthwise", title, None, "there are no cases")]
    apart = ("precision", "depthwise", "batch_size", "stride", "device", "threads")
    varied = [name for name in apart if name in apart[:2] or len({_text(row, name) for row in rows}) > 1]
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(_text(row, name) for name in varied)].append(row)
    figures = []
    names: set[str] = set()
    for place, mine in groups.items():
        says = {"batch_size": "batch{}", "stride": "stride{}", "threads": "{}threads"}
        named = [says.get(each, "{}").format(word) for each, word in zip(varied, place, strict=True) if word]
        for cache in ("warm", "cold"):
            plain = (re.sub(r"[^A-Za-z0-9._]+", "-", one_line(each)).strip("-") for each in named)
            name = "-".join(["depthwise", *plain, cache])
            # Two kernels whose names differ only in signs that no file name should have.
            while name in names:
                name += "-2"
            names.add(name)
            said = f"{title}, {cache} cache: {', '.join(one_line(each) for each in named)}"
            figures.append(_draw_maps(name, said, mine, cache))
    return figures


def _draw_maps(name: str, title: str, rows: Sequence[Row], cache: str) -> Drawn:
    """One figure: a panel for each memory format and pass."""
    if not any(number(row, f"{cache}_fraction") is not None or number(row, f"{cache}_s") is not None for row in rows):
        return Drawn(name, title, None, f"no case was measured with a {cache} cache")
    formats = list(dict.fromkeys(_text(row, "memory_format") for row in rows))
    seen = {_text(row, "pass") for row in rows}
    passes = [each for each in _PASSES if each in seen] + sorted(seen - {*_PASSES})
    shapes = sorted({_shape(row) for row in rows}, key=lambda shape: (-shape[1] * shape[2], shape))
    kernels = sorted({(number(row, "kernel_size") or 0.0, number(row, "dilation") or 1.0) for row in rows})
    panels = [(layout, each) for layout in formats for each in passes]
    shape = (len(formats), len(passes)) if len(passes) > 1 else grid_shape(len(formats))
    size = (0.44 * len(kernels) + 0.75, 0.285 * len(shapes) + 0.62)
    notes = [
        "Large: percent of the bound under the measured roofs; small: ms. Framed: the case occurs in a model. "
        f"Hatched: not measured, or it failed. {cache.capitalize()} cache.",
        _device(rows),
    ]
    strided = ["stride"] if _text(rows[0], "stride") not in ("", "1") else []
    about = _words(rows[0], ["precision", "depthwise", "batch_size", *strided, "device", "threads"])
    with drawing():
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import PowerNorm

        # By the square root: most kernels are slow, and 2 % must be told from 10 %.
        shades = ScalarMappable(PowerNorm(0.5, vmin=0.0, vmax=1.0, clip=True), "cividis")
        figure, axes = page(
            title.partition(":")[0], about, notes, shape, size, len(panels), room=0.68, sharex=True, sharey=True
        )
        for place, (axis, (layout, each)) in enumerate(zip(axes, panels, strict=True)):
            mine = [row for row in rows if _text(row, "memory_format") == layout and _text(row, "pass") == each]
            _draw_map(axis, mine, shapes, kernels, cache, shades)
            axis.set_title(", ".join(one_line(word, 20) for word in (layout, each) if word), loc="left")
            axis.set_xticks(range(len(kernels)), [f"k{k:g} d{d:g}" for k, d in kernels], fontsize=7)
            axis.set_yticks(range(len(shapes)), [_shape_words(each) for each in shapes], fontsize=7)
            axis.tick_params(length=0, labelbottom=place + shape[1] >= len(panels))
        beside = axes[shape[1] - 1]
        strip = beside.inset_axes((1.0 + 0.14 / size[0], 0.0, 0.11 / size[0], 1.0))
        strip.set_in_layout(False)
        bar = figure.colorbar(shades, cax=strip)
        ticks = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0] if len(shapes) > 4 else [0.0, 0.1, 0.4, 1.0]
        ticks = ticks if len(shapes) > 1 else [0.0, 1.0]
        bar.set_ticks(ticks, labels=[f"{100 * tick:g} %" for tick in ticks])
        bar.ax.tick_params(labelsize=7, length=2)
        bar.outline.set_visible(False)
    return Drawn(name, title, figure)


def _shape(row: Row) -> tuple[int, int, int]:
    channels, height, width = (int(number(row, name) or 0) for name in ("channels", "height", "width"))
    return channels, height, width or height


def _shape_words(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{channels}ch {height}px" if height == width else f"{channels}ch {height}x{width}px"


def _draw_map(
    axis: Axes,
    rows: Sequence[Row],
    shapes: Sequence[tuple[int, int, int]],
    kernels: Sequence[tuple[float, float]],
    cache: str,
    shades: Any,
) -> None:
    from matplotlib.patches import Rectangle

    cases = {(_shape(row), (number(row, "kernel_size") or 0.0, number(row, "dilation") or 1.0)): row for row in rows}
    for line, shape in enumerate(shapes):
        for column, kernel in enumerate(kernels):
            row = cases.get((shape, kernel), {})
            share, spent = number(row, f"{cache}_fraction"), number(row, f"{cache}_s")
            cell = Rectangle((column - 0.5, line - 0.5), 1, 1, facecolor="white", edgecolor="white", linewidth=0.8)
            axis.add_patch(cell)
            ink = _DARK
            if share is not None:
                cell.set(facecolor=shades.to_rgba(share), label="measured")
                ink = _ink_on(cell.get_facecolor()[:3])
            elif spent is None:
                cell.set(facecolor="#FAFAFA", edgecolor="#C4C4C4", hatch="////", linewidth=0.4, label="missing")
            words = "" if share is None else significant(100 * share, 2 if share < 1 else 3)
            if share is None and spent is None and _text(row, "status") in ("failed", "skipped"):
                # Upon a patch of its own, as hatching would cross the word.
                words = _text(row, "status")
                axis.text(column, line, words, ha="center", va="center", fontsize=6, color=GREY, style="italic",
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})  # fmt: skip
                words = ""
            if words:
                axis.text(column, line - 0.14, words, ha="center", va="center", fontsize=7.5, color=ink)
            if spent is not None:
                said = significant(spent * 1e3, 2 if spent < 0.1 else 3)
                axis.text(column, line + 0.27, said, ha="center", va="center", fontsize=5.2, color=ink)
            if _text(row, "models"):
                inside = Rectangle((column - 0.45, line - 0.44), 0.9, 0.88, fill=False, label="in a model")
                inside.set(edgecolor="#D55E00", linewidth=1.1, zorder=3)
                axis.add_patch(inside)
    axis.set_xlim(-0.5, len(kernels) - 0.5)
    axis.set_ylim(len(shapes) - 0.5, -0.5)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)


# --- all of them ----------------------------------------------------------------------------------------------------


def op_figures(rows: Sequence[Row], entry: Ceilings | None) -> Iterator[Drawn]:
    """Every figure of a profile, in a report's order. entry: the roofs of the device that the rows were timed on."""
    if entry is None:
        for name, title in (("ceilings", "Measured roofs"), ("roofline", "Operations under the measured roofs")):
            yield Drawn(name, title, None, "there are no measured roofs")
    else:
        yield draw_ceilings(entry)
        yield draw_roofline(rows, entry)
    yield draw_classes(rows)


def depthwise_figures(rows: Sequence[Row]) -> Iterator[Drawn]:
    """Every figure of depthwise.csv."""
    yield from draw_depthwise(rows)
