"""The roofline of a run: what each cell reached against the most that the measured ceilings allow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vanbench.report.drawing import FAINT, GREY, Drawn, filling, grid_shape, number, number_axis, one_line, padded
from vanbench.report.scene import RATE, Scene, ends_of, legend, looks_of, outer_labels, panels
from vanbench.units import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["against_the_bound"]

# Shares of the bound that get a line of their own; 1 is the roof.
_SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)


def against_the_bound(scene: Scene) -> Drawn:
    """Images/s up, the bound's to the right; the diagonal is the roof. A panel for each configuration."""
    name, title = "bound", "Images/s against what the ceilings allow"
    present = [
        (row, bound, seen)
        for row in scene.rows
        if (seen := RATE.of(row)) is not None and (bound := number(row, "bound_images_per_s")) is not None
    ]
    if not present:
        return Drawn(name, title, None, "no cell has a bound: there are no measured ceilings")
    configurations = [
        each for each in scene.configurations if any(row["configuration"] == each for row, _, _ in present)
    ]
    models = [model for model in scene.models if any(row["model"] == model for row, _, _ in present)]
    looks = looks_of(models, scene)
    several = len(scene.batches) > 1
    shape = grid_shape(len(configurations))
    note = "Lines: shares of the bound, the uppermost the roof itself. Bars: 95 % intervals of images/s."
    note += " The number at a point is its batch size." if several else ""
    size = (2.9 if shape[1] > 1 else 3.8, 2.9)
    figure, axes = panels(scene, title, note, shape, size, len(configurations), models, sharex=True, sharey=True)
    bounds = [bound for _, bound, _ in present]
    wide = padded([*bounds, max(bounds) / 2], 0.15)
    ends = [end for _, _, seen in present for end in ends_of(seen)]
    tall = padded([*ends, *(bound for _, bound, _ in present)], 0.1)
    for place, (axis, configuration) in enumerate(zip(axes, configurations, strict=True)):
        axis.set_title(one_line(configuration, 44), loc="left")
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(*wide)
        axis.set_ylim(*tall)
        for share in _SHARES:
            roof = share == 1
            axis.plot(
                wide, [end * share for end in wide], color=GREY if roof else FAINT, linewidth=1.2 if roof else 0.7
            )
            # Named where the line enters the panel, on the side to which it does not rise.
            if tall[0] * 1.2 < wide[0] * share < tall[1]:
                _note(axis, percent(share), (wide[0], wide[0] * share), (3, -7))
            elif wide[0] < tall[0] / share < wide[1]:
                _note(axis, percent(share), (tall[0] / share, tall[0]), (9, 1))
        for row, bound, (value, low, high) in present:
            if row["configuration"] != configuration:
                continue
            marker, colour, filled = looks[str(row["model"])]
            if low is not None and high is not None:
                axis.plot([bound, bound], [low, high], color=colour, linewidth=1.2, solid_capstyle="butt")
            axis.plot(
                [bound],
                [value],
                linestyle="none",
                marker=marker,
                color=colour,
                markersize=4.8,
                **filling(colour, filled),
            )
            if several:
                _note(axis, str(row["batch_size"]), (bound, value), (3, 3), colour)
        number_axis(axis.xaxis, wide, logarithmic=True)
        number_axis(axis.yaxis, tall, logarithmic=True)
        lowest = place + shape[1] >= len(configurations)
        outer_labels(axis, "images/s that the ceilings allow", "images/s", lowest=lowest)
    legend(figure, axes[shape[1] - 1], [(model, *looks[model]) for model in models])
    return Drawn(name, title, figure)


def _note(axis: Axes, text: str, place: tuple[float, float], beside: tuple[float, float], colour: str = GREY) -> None:
    axis.annotate(text, place, xytext=beside, textcoords="offset points", fontsize=6, color=colour)
