"""A gate's blocks, drawn: the change in each, its mean with interval, and the limits that a verdict is held to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from vanbench.analysis.gate import Judgement
from vanbench.analysis.gate_outcome import Outcome, PairOutcome
from vanbench.analysis.observation import Observed, observe
from vanbench.analysis.verdict import Verdict
from vanbench.record.gate import GateRecord, PairRecord
from vanbench.report.drawing import FAINT, GREY, Drawn, drawing, grid_shape, one_line, page
from vanbench.units import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_gate"]

_MOST_PANELS = 12
_COLOURS = {
    Verdict.REGRESSED: "#B22222",
    Verdict.IMPROVED: "#006D4E",
    Verdict.PASS: "#0072B2",
    Verdict.INCONCLUSIVE: "#8A6100",
    Verdict.INVALID: "#8A6100",
}


def draw_gate(record: GateRecord, found: Outcome) -> Drawn:
    """A panel a pair that was timed, the gravest verdicts first; at most twelve."""
    title = "Change of images/s in each block, head over base"
    panels = [
        (pair, line)
        for pair, line in zip(record.pairs, found.pairs, strict=False)
        if any(not observe(block).broken for blocks in pair.passes for block in blocks)
    ]
    if not panels:
        return Drawn("gate", title, None, "no block was played")
    order = list(_COLOURS)
    panels.sort(key=lambda each: order.index(each[1].verdict) if each[1].verdict in order else len(order))
    notes = [
        "One dot a block (fresh processes that took turns); diamonds: of the confirming pass; crosses: left out as "
        "disturbed; grey dots: the base's twin, the same code as the base. Bar: mean and 95 % interval at the look "
        "that decided.",
        f"Dashed: {percent(record.rules.min_effect)}, below which nothing is REGRESSED; dotted: "
        f"{percent(record.rules.tolerance)}, which PASS excludes.",
    ]
    if len(panels) > _MOST_PANELS:
        notes.append(f"{len(panels) - _MOST_PANELS} further cells are in the table.")
    panels = panels[:_MOST_PANELS]
    with drawing():
        about = f"base {record.base.asked.text} → head {record.head.asked.text}"
        figure, axes = page(title, one_line(about, 90), notes, grid_shape(len(panels)), (3.3, 2.3), len(panels))
        for axis, (pair, line) in zip(axes, panels, strict=True):
            _panel(axis, record, pair, line)
    return Drawn("gate", title, figure)


def _panel(axis: Axes, record: GateRecord, pair: PairRecord, line: PairOutcome) -> None:
    from matplotlib.ticker import MaxNLocator

    colour = _COLOURS.get(line.verdict, GREY)
    passes = [[observe(block) for block in blocks] for blocks in pair.passes]
    values: list[float] = []
    dots: list[tuple[int, Observed, int]] = []
    place = 0
    for number, observed in enumerate(passes):
        start = place + 1
        for each in observed:
            place += 1
            if each.broken:
                continue
            # A block that is left out must not make the others too small to see; it is drawn at the edge.
            values += [] if each.void else [_percent(each.change), _percent(each.twin)]
            dots.append((place, each, number))
        judged = (line.first, line.second)[number] if number < 2 else None
        if judged is not None and judged.mean is not None:
            _bar(axis, start, judged, colour)
        place += 1
    limits = [math.log1p(record.rules.min_effect), math.log1p(record.rules.tolerance)]
    for log, style in zip(limits, ("--", ":"), strict=True):
        for sign in (-1, 1):
            axis.axhline(_percent(sign * log), color=GREY, linewidth=0.6, linestyle=style)
    axis.axhline(0, color=FAINT, linewidth=0.8, zorder=0)
    reach = max([abs(value) for value in values] + [_percent(limits[1])]) * 1.15
    for spot, each, number in dots:
        _dot(axis, spot, each, colour, number, 0.97 * reach)
    axis.set_ylim(-reach, reach)
    axis.set_xlim(0, max(place, 9))
    axis.set_title(f"{one_line(line.slug)}\n{line.verdict}", color=colour, loc="left")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.set_xlabel("block")
    axis.set_ylabel("change, %")


def _dot(axis: Axes, place: int, seen: Observed, colour: str, number: int, reach: float) -> None:
    marker = "x" if seen.void else ("o", "D")[number % 2]
    change, twin = (max(-reach, min(reach, _percent(log))) for log in (seen.change, seen.twin))
    axis.plot(place, twin, "o", color="#B9B9B9", markersize=2.5, zorder=1)
    axis.plot(place, change, marker, color=colour, markersize=4, zorder=3)


def _bar(axis: Axes, start: int, judged: Judgement, colour: str) -> None:
    assert judged.mean is not None
    assert judged.low is not None
    assert judged.high is not None
    right = start + judged.blocks + judged.left_out - 0.5
    low, mean, high = (_percent(log) for log in (judged.low, judged.mean, judged.high))
    axis.fill_between([start - 0.5, right], low, high, color=colour, alpha=0.15, linewidth=0)
    axis.plot([start - 0.5, right], [mean, mean], color=colour, linewidth=1.2)


def _percent(log: float) -> float:
    return 100 * math.expm1(log)
