"""The figure of a comparison: a dot for each pair's ratio, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vanbench.analysis.ratio import Estimate
from vanbench.report.comparison import Pair
from vanbench.report.comparison_text import side_of
from vanbench.report.drawing import (
    FAINT,
    Drawn,
    drawing,
    family_colours,
    filling,
    number_axis,
    one_line,
    padded,
    page,
)
from vanbench.report.stored import Stored

__all__ = ["draw_comparison"]

_TITLE = "Images/s of head over base"
_ABOUT = "Advisory: two runs that were not measured side by side."
_HOLLOW = "Hollow: another machine, or no interval: no winner is called."
# More would be too tall for a page; those in the middle say least.
_MOST = 80
_LONGEST = 56
_ROW_HEIGHT = 0.19  # inches
# Within this range a logarithmic axis looks the same and would have a tick or two.
_NARROW = 1.4


def draw_comparison(base: Stored, head: Stored, pairs: Sequence[Pair]) -> Drawn:
    """Pairs down the side, the one that gained most on top; colour says the model's family.

    Of more than 80 pairs those in the middle are left out, and the figure says how many.
    """
    seen = [(pair, pair.ratio) for pair in pairs if pair.ratio is not None]
    if not seen:
        return Drawn("compare", _TITLE, None, "no pair was measured on both sides")
    seen.sort(key=lambda each: each[1].value)
    left_out = max(0, len(seen) - _MOST)
    shown = seen[: _MOST // 2] + seen[len(seen) - _MOST // 2 :] if left_out else seen
    notes = [_HOLLOW] if any(_hollow(pair) for pair, _ in shown) else []
    notes += [f"{left_out} pairs with ratios between those shown are left out."] * bool(left_out)
    notes += [f"{side}: {side_of(stored)}" for side, stored in (("base", base), ("head", head))]
    with drawing():
        names = [one_line(pair.name, _LONGEST) for pair, _ in shown]
        size = (3.6 + 0.058 * max(map(len, names)), _ROW_HEIGHT * len(shown) + 0.6)
        figure, (axis,) = page(_TITLE, _ABOUT, notes, (1, 1), size, 1)
        colours = family_colours([str((pair.rows[0] or {}).get("model")) for pair, _ in shown])
        for place, (pair, ratio) in enumerate(shown):
            colour = colours[str((pair.rows[0] or {}).get("model"))]
            _dot(axis, ratio, place, colour, filled=not _hollow(pair))
        axis.axvline(1, color="#444444", linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        axis.set_ylim(-0.6, len(shown) - 0.4)
        axis.set_yticks(range(len(shown)), names)
        axis.tick_params(axis="y", length=0)
        for place in range(len(shown) - 1):
            axis.axhline(place + 0.5, color=FAINT, linewidth=0.5, zorder=0)
        axis.grid(axis="x", color=FAINT, linewidth=0.5)
        axis.set_axisbelow(True)
        axis.set_xlabel("head / base (right of 1: head is faster)")
        # At least 3 % to both sides: ticks have three digits.
        ends = [0.97, 1.03, *(end for _, ratio in shown for end in ratio if end is not None)]
        logarithmic = max(ends) / min(ends) > _NARROW
        if logarithmic:
            axis.set_xscale("log")
        axis.set_xlim(*padded(ends))
        number_axis(axis.xaxis, ends, logarithmic=logarithmic)
    return Drawn("compare", _TITLE, figure)


def _hollow(pair: Pair) -> bool:
    return pair.finding in ("another machine", "no interval")


def _dot(axis: Any, ratio: Estimate, place: int, colour: str, *, filled: bool) -> None:
    if ratio.low is not None and ratio.high is not None:
        axis.plot([ratio.low, ratio.high], [place, place], color=colour, linewidth=1.3, solid_capstyle="butt", zorder=2)
    axis.plot(
        [ratio.value],
        [place],
        marker="o",
        markersize=4.6,
        linestyle="none",
        color=colour,
        zorder=3,
        **filling(colour, filled),
    )
