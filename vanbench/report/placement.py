"""Where the names beside points stand, so that they cover neither each other nor what is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

__all__ = ["spread_names"]

_SIDES = ((1, "left"), (-1, "right"))


def spread_names(figure: Figure, axes: Sequence[Axes]) -> None:
    """Move each name to where, nearest to its point, it covers the fewest other names and points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    ups = (0, 6, -6, 11, -11, 16, -16, 22, -22, 28, -28)
    places = [(along * reach, up, side) for reach in (6, 18, 34) for up in ups for along, side in _SIDES]
    places.sort(key=lambda place: math.hypot(place[0], place[1]))
    for axis in axes:
        inside = axis.get_window_extent(renderer)
        points: list[Bbox] = []
        names: list[Bbox] = []
        for line in axis.get_lines():
            points += [Bbox.from_bounds(x - 3.5, y - 3.5, 7, 7) for x, y in axis.transData.transform(line.get_xydata())]
        # The bars of intervals too: a box as long as the bar, so that no name lies on one.
        for line in axis.get_lines():
            xy = axis.transData.transform(line.get_xydata())
            if len(xy) == 2 and line.get_linestyle() == "-":
                points.append(Bbox([xy.min(axis=0) - 2, xy.max(axis=0) + 2]))
        texts = [child for child in axis.get_children() if isinstance(child, Annotation)]
        # From the slow side, where there is least room, to the fast one, where names may leave to the right.
        for text in sorted(texts, key=lambda text: text.xy):
            crowds = [_crowding(_put(text, place, renderer), inside, points, names) for place in places]
            place = places[crowds.index(min(crowds))]
            names.append(_put(text, place, renderer))
            if text.arrow_patch is not None:
                text.arrow_patch.set_visible(math.hypot(*place[:2]) > 12)


def _crowding(box: Bbox, inside: Bbox, points: Sequence[Bbox], names: Sequence[Bbox]) -> int:
    """How many points a name's box covers; another name counts as three, leaving the panel as ten."""
    # A name may run a little beyond the right edge, where nothing stands.
    outside = not (inside.x0 <= box.x0 and box.x1 <= inside.x1 + 20 and inside.y0 <= box.y0 and box.y1 <= inside.y1)
    return int(box.count_overlaps(points)) + 3 * int(box.count_overlaps(names)) + 10 * outside


def _put(text: Any, place: tuple[int, int, str], renderer: Any) -> Any:
    """Place an annotation's words, in points from its point, and say what box they then fill, in pixels."""
    from matplotlib.text import Text

    text.set_position(place[:2])
    text.set_horizontalalignment(place[2])
    text.update_positions(renderer)
    # Text's own extent: an annotation's would include the line to its point.
    return Text.get_window_extent(text, renderer)
