"""The roofline: each operation at its intensity and its FLOP/s below the measured roofs, a panel for each case.

What is absent leaves a gap; what has no place on logarithmic axes is told. It measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vanbench.record.ceilings import Ceilings
from vanbench.report.drawing import FAINT, GREY, Drawn, drawing, grid_shape, key, key_width, number_axis, padded, page
from vanbench.report.op_cases import DARK, Case, Row, caption, cases_of, class_colour, classes_of, two_lines
from vanbench.report.roofline_marks import AREA_OF_A_STEP, Dot, dots_of, roofs_of, undrawn
from vanbench.report.roofline_names import draw_roofs, name_dots
from vanbench.units import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_roofline"]

_AREAS_SHOWN = (0.01, 0.05, 0.20)  # shares of the step


def draw_roofline(rows: Sequence[Row], entry: Ceilings) -> Drawn:
    """Each operation at its intensity and its FLOP/s below the measured roofs; a panel for each configuration."""
    name, title = "roofline", "Operations under the measured roofs"
    cases, about = cases_of(rows)
    drawn = [(case, dots) for case in _models_side_by_side(cases) if (dots := dots_of(case))]
    if not drawn:
        return Drawn(name, title, None, "no operation has a time, FLOPs and bytes")
    models = {case.model for case, _ in drawn}
    from matplotlib.lines import Line2D

    classes = [each for each in classes_of(rows) if any(dot.op_class == each for _, dots in drawn for dot in dots)]
    note = (
        "A dot: all operations of one class and geometry, FLOPs and bytes by formula, area by their share of the step. "
        f"Sloped roofs: the fastest stream of a working set. Roofs: {caption(entry)}."
    )
    roofs = [roofs_of(case, entry) for case, _ in drawn]
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
            left_out = undrawn(case)
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
        marks = [(each, _class_mark(class_colour(each), 6.0)) for each in classes]
        key(figure, beside, [*marks])
        sizes = [(percent(share), _class_mark("white", math.sqrt(share * AREA_OF_A_STEP))) for share in _AREAS_SHOWN]
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
            taken = draw_roofs(axis, each)
            name_dots(axis, dots, taken)
    return Drawn(name, title, figure)


def _models_side_by_side(cases: Sequence[Case]) -> list[Case]:
    """The cases ordered so that a row of panels holds the models in one configuration."""
    others = list(dict.fromkeys(case.configuration for case in cases))
    models = list(dict.fromkeys(case.model for case in cases))
    return sorted(cases, key=lambda case: (others.index(case.configuration), models.index(case.model)))


def _fitting(name: str) -> str:
    """A panel's title no wider than the panel."""
    return name if len(name) <= 48 else two_lines(name)


def _reach(values: Sequence[float], share: float, above: float | None = None) -> tuple[float, float]:
    """Limits of a logarithmic axis, never less than a factor of ten. above: more room at the upper end."""
    low, high = padded(values, share)[0], padded(values, share if above is None else above)[1]
    widen = max(1.0, math.sqrt(10 * low / high))
    return low / widen, high * widen


def _class_mark(colour: str, diameter: float) -> Any:
    from matplotlib.lines import Line2D

    look: dict[str, Any] = {"markeredgecolor": DARK if colour == "white" else "#555555", "markeredgewidth": 0.4}
    return Line2D([], [], linestyle="none", marker="o", color=colour, markersize=diameter, **look)


def _settle(figure: Figure) -> Any:
    """Lay the figure out, so that places in pixels are known; its renderer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def _draw_dots(axis: Axes, dots: Sequence[Dot]) -> None:
    axis.scatter(
        [dot.intensity for dot in dots],
        [dot.rate / 1e9 for dot in dots],
        s=[dot.share * AREA_OF_A_STEP for dot in dots],
        c=[class_colour(dot.op_class) for dot in dots],
        alpha=0.75,
        edgecolors="#444444",
        linewidths=0.35,
        zorder=3,
    )
