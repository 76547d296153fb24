"""The figure of the measured roofs: bandwidth by working set, FLOP/s by unit and precision. Knows no operation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from vanbench.record.ceilings import Book, Ceiling, Ceilings, Stream
from vanbench.report.drawing import FAINT, GREY, MARKERS, Drawn, drawing, number_axis, one_line, padded, page
from vanbench.report.op_cases import whose
from vanbench.units import memory, significant
from vanbench.units import seconds as seconds_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ceilings_figures", "draw_ceilings"]

_STREAM_COLOURS = {"read": "#0072B2", "copy": "#D55E00", "add": "#009E73", "triad": "#CC79A7", "update": "#E69F00"}
_UNIT_COLOURS = {"matrix": "#0072B2", "vector": "#E69F00"}
_SPARE_COLOURS = ("#56B4E9", "#E69F00", "#000000")


def ceilings_figures(book: Book) -> Iterator[Drawn]:
    """One for each number of threads that roofs were measured with."""
    several = len(book.entries) > 1
    for entry in book.entries:
        drawn = draw_ceilings(entry)
        yield drawn._replace(name=f"{drawn.name}-{entry.threads}") if several else drawn


def draw_ceilings(entry: Ceilings) -> Drawn:
    """Bandwidth against working set for each kind of stream, and FLOP/s by unit and precision."""
    name, title = "ceilings", f"Measured roofs of {whose(entry)}"
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
