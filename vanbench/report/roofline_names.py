"""Where the words of a roofline stand: along its roofs and beside its largest dots, covering as little as they can.

Works in pixels, in a panel whose axes have their final place. Which roofs and dots there are is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vanbench.report.op_cases import DARK
from vanbench.report.roofline_marks import AREA_OF_A_STEP, Dot, Roof

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Box", "draw_roofs", "name_dots"]

_MOST_NAMED = 5
_LEAST_NAMED = 0.02  # share of the step


class Box(NamedTuple):
    """A place in pixels that something fills. weight: how much it hurts to cover it."""

    left: float
    low: float
    right: float
    high: float
    weight: float


def draw_roofs(axis: Axes, roofs: Sequence[Roof]) -> list[Box]:
    """The roofs with their words; the boxes that they fill."""
    (left, right), bottom = axis.get_xlim(), axis.get_ylim()[0]
    levels = sorted((roof for roof in roofs if not roof.per_byte), key=lambda roof: -roof.rate)
    slopes = sorted((roof for roof in roofs if roof.per_byte), key=lambda roof: -roof.rate)
    limit = levels[0].rate if levels else math.inf
    point = _points_a_pixel(axis)
    style: dict[str, Any] = {"fontsize": 6.5, "color": DARK, "zorder": 5}
    line_style: dict[str, Any] = {"color": "#333333", "linewidth": 0.9, "zorder": 2}
    pixels = axis.transData.transform
    taken: list[Box] = []
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
            taken.append(Box(x - 4, low, x + 4, high, 3.0 if worded else 0.5))
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
        taken.append(Box(x - width, y / point, x, (y + 9) / point, 12.0))
        taken.append(Box(pixels((start, bottom))[0], height / point - 1, x, height / point + 1, 1.0))
    return taken


def name_dots(axis: Axes, dots: Sequence[Dot], taken: Sequence[Box]) -> None:
    """Names beside the largest dots, where they and their leaders cover least of `taken`, of dots and of each other."""
    point = _points_a_pixel(axis)
    inside = axis.get_window_extent()
    places = [axis.transData.transform((dot.intensity, dot.rate / 1e9)) for dot in dots]
    radii = [math.sqrt(dot.share * AREA_OF_A_STEP) / 2 / point for dot in dots]
    crowd = [*taken]
    for (x, y), radius in zip(places, radii, strict=True):
        if radius > 1.5:
            crowd.append(Box(x - radius, y - radius, x + radius, y + radius, 2.0))
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
        best: tuple[float, Box, tuple[float, float]] | None = None
        for reach in (3.0, 9.0, 17.0, 27.0, 40.0, 55.0, 75.0):
            for turn in range(0, 360, 20):
                across, up = math.cos(math.radians(turn)), math.sin(math.radians(turn))
                # The box's near edge, not its centre, is what stands at the distance.
                out = radius + reach / point
                left, low = x + across * (out + wide / 2) - wide / 2, y + up * (out + high / 2 - 4 / point) - high / 2
                box = Box(left, low, left + wide, low + high, 10.0)
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
            crowd.append(Box(at[0] - 1, at[1] - 1, at[0] + 1, at[1] + 1, 1.5))
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


def _covered(crowd: Sequence[Box], box: Box, start: tuple[float, float], end: tuple[float, float]) -> float:
    """What a name in `box` and its leader from `start` to `end` would cover; a leader counts half, thin lines not."""
    import numpy as np

    left, low, right, high, weight = np.array(crowd).T
    over = (left < box.right) & (right > box.left) & (low < box.high) & (high > box.low)
    steps = np.linspace(0.0, 1.0, 30)[:, None]
    x, y = (a + (b - a) * steps for a, b in zip(start, end, strict=True))
    met = ((left < x) & (x < right) & (low < y) & (y < high)).any(axis=0)
    return float(weight[over].sum() + weight[met & (weight >= 1.5)].sum() / 2)


def _points_a_pixel(axis: Axes) -> float:
    figure = axis.get_figure(root=True)
    assert figure is not None
    return 72 / figure.dpi
