"""Where a step's time goes: stacked bars by class of operation. What no operation took has a part of its own.

It measures nothing; which operation is of which class the rows say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vanbench.report.drawing import FAINT, Drawn, drawing, key, key_width, number, number_axis, page
from vanbench.report.op_cases import (
    OUTSIDE,
    Case,
    Row,
    cases_of,
    class_colour,
    class_of,
    classes_of,
    devices,
    ink_on,
    total,
    two_lines,
)
from vanbench.units import significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_classes"]


class _Part(NamedTuple):
    """One part of a bar, in seconds of the whole step. bound_s: of all its operations, None if any has none."""

    op_class: str
    seconds: float
    bound_s: float | None


def draw_classes(rows: Sequence[Row]) -> Drawn:
    """Where a step's time goes: bars of ms per image by class of operation, and the same as shares of the step."""
    name, title = "classes", "Time of a step by class of operation"
    cases, about = cases_of(rows)
    bars = [(case, _parts(case), number(case.rows[0], "batch_size") or 0.0) for case in cases if case.timed]
    bars = [bar for bar in bars if bar[2] > 0]
    if not bars:
        return Drawn(name, title, None, "no operation has a time, or the batch size is not known")
    present = {part.op_class for _, parts, _ in bars for part in parts}
    names = [each for each in (*classes_of(rows), OUTSIDE) if each in present]
    notes = [
        "Black tick: the bound of the part's operations under the measured roofs; at the part's end where they are as "
        "fast or faster; none where an operation has no bound, or the part is too thin. Outside ops: the unprofiled "
        "step less its operations."
    ]
    longer = [case for case, _, _ in bars if (known := number(case.rows[0], "step_s")) and case.ops_s > known * 1.005]
    if longer:
        notes.append(f"Operations measured one by one take longer than the step in {len(longer)} of {len(bars)} bars.")
    labels = [two_lines(case.name) for case, _, _ in bars]
    with drawing():
        from matplotlib.patches import Patch

        height = max(1.5, 0.44 * len(bars) + 0.62, 0.17 * len(names) + 0.4)
        figure, axes = page(
            title, about, [*notes, devices(rows)], (1, 2), (4.2, height), 2,
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
        marks = [(each, Patch(facecolor=class_colour(each), edgecolor="#888888", linewidth=0.4)) for each in names]
        key(figure, axes[1], [*marks], handlelength=1.1, handletextpad=0.5)
    return Drawn(name, title, figure)


def _parts(case: Case) -> list[_Part]:
    parts = []
    for name in classes_of(case.timed):
        rows = [row for row in case.timed if class_of(row) == name]
        known = all(number(row, "bound_s") is not None for row in rows)
        parts.append(_Part(name, total(rows, "seconds"), total(rows, "bound_s") if known else None))
    outside = case.step_s - case.ops_s
    return [*parts, *([_Part(OUTSIDE, outside, None)] if outside > 0 else [])]


def _draw_bar(axis: Axes, place: int, parts: Sequence[_Part], scale: float, most: float) -> None:
    """One stacked bar. scale: from seconds to the axis' unit; most: the axis' length, about 3.2 inches."""
    start = 0.0
    inches = 3.2 / most
    for part in parts:
        length = part.seconds * scale
        colour = class_colour(part.op_class)
        axis.barh(place, length, left=start, height=0.62, color=colour, edgecolor="white", linewidth=0.5, zorder=2)
        # On a part as thin as the mark itself the mark would be all there is to see.
        if part.bound_s is not None and length * inches > 0.035:
            at = start + min(part.bound_s * scale, length)
            # Below the number, and a little out of the bar, where it is seen on any colour.
            ends = [place + 0.03, place + 0.39]
            axis.plot([at, at], ends, color="black", linewidth=1.1, solid_capstyle="butt", zorder=3)
        words = significant(length, 2 if length < 100 else 3)
        if length * inches > 0.0085 * 6.5 * (len(words) + 0.6):
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6.5, "color": ink_on(colour)}
            axis.text(start + length / 2, place - 0.13, words, zorder=4, **style)
        start += length
