"""The figures: from rows of the table to PNG and SVG. Draws what was measured; a missing cell leaves a gap.

Colour says the model's family (Okabe-Ito, safe for colour-blind readers), the marker says the configuration or, where
batch size is an axis, the model within its family. Text is drawn as text, whatever characters a name holds.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from vanbench.report.bound_plot import against_the_bound
from vanbench.report.drawing import (
    FAINT,
    GREY,
    Drawn,
    drawing,
    filling,
    grid_shape,
    number,
    number_axis,
    one_line,
    padded,
)
from vanbench.report.order_plot import order_of_models
from vanbench.report.placement import spread_names
from vanbench.report.scene import (
    LATENCY,
    MEMORY,
    RATE,
    RATIO,
    Measure,
    Scene,
    ends_of,
    legend,
    looks_of,
    outer_labels,
    panels,
    scenes_of,
    whole,
)
from vanbench.report.table import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FIGURES", "Drawn", "draw"]

# A range beyond which a linear axis squeezes the slow models into its first tenth.
_WIDE_RANGE = 12.0


def _reference(scene: Scene) -> str:
    """The reference's model and configuration, if it is the same one in every panel."""
    rows = [row for row in scene.rows if row["ratio"] == 1 and row["ratio_low"] is None]
    names = {", ".join(filter(None, (str(row["model"]), str(row["configuration"])))) for row in rows}
    return one_line(names.pop(), 70) if len(names) == 1 else "one in each panel"


# --- the figures ----------------------------------------------------------------------------------------------------


def _dots(scene: Scene, name: str, title: str, note: str, measure: Measure, *, ratio: bool = False) -> Drawn:
    """Models down the side, fastest on top; a dot for each configuration; a panel for each batch size."""
    present = [row for row in scene.rows if measure.of(row) is not None]
    if not present:
        return Drawn(name, title, None, "no cell has this figure")
    if ratio and all(row["ratio"] == 1 and row["ratio_low"] is None for row in present):
        return Drawn(name, title, None, "nothing was measured beside a reference")
    best = {
        model: max((number(r, "images_per_s") or 0.0 for r in scene.of(model=model)), default=0.0)
        for model in scene.models
    }
    models = sorted(scene.models, key=lambda model: best[model])
    several = len(scene.configurations)
    row_height = max(0.36 if len(models) <= 6 else 0.25, 0.095 * several + 0.09)
    shape = grid_shape(len(scene.batches))
    longest = max(len(one_line(model)) for model in models)
    panel = (max(2.7, 4.6 / shape[1] + 0.9) + (0.055 * longest / shape[1]), max(1.05, row_height * len(models) + 0.55))
    keys = scene.configurations if several > 1 else []
    figure, axes = panels(scene, title, note, shape, panel, len(scene.batches), keys, sharey=True, sharex=ratio)
    spans: list[list[float]] = []
    for axis, batch in zip(axes, scene.batches, strict=True):
        axis.set_title(f"batch {batch}", loc="left")
        ends: list[float] = []
        for place, model in enumerate(models):
            rows = {str(row["configuration"]): row for row in scene.of(model=model, batch_size=batch)}
            drawn = 0
            for i, configuration in enumerate(scene.configurations):
                seen = measure.of(rows[configuration]) if configuration in rows else None
                if seen is None:
                    continue
                drawn += 1
                y = place + ((several - 1) / 2 - i) * min(0.8 / several, 0.32)
                ends += ends_of(seen)
                reference = ratio and seen[1] is None and seen[0] == 1
                _dot(axis, seen, y, scene.colours[model], scene.markers[configuration], filled=not reference)
            if rows and not drawn:
                said = "failed" if any(row["status"] == "failed" for row in rows.values()) else "not measured"
                axis.annotate(
                    said,
                    (0, place),
                    xycoords=axis.get_yaxis_transform(),
                    xytext=(3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=6.5,
                    color=GREY,
                    style="italic",
                )
        axis.set_ylim(-0.6, len(models) - 0.4)
        axis.set_yticks(range(len(models)), [one_line(model) for model in models])
        axis.tick_params(axis="y", length=0)
        for place in range(len(models) - 1):
            axis.axhline(place + 0.5, color=FAINT, linewidth=0.5, zorder=0)
        axis.grid(axis="x", color=FAINT, linewidth=0.5)
        axis.set_axisbelow(True)
        axis.set_xlabel(measure.words)
        spans.append(ends)
    for axis, ends in zip(axes, spans, strict=True):
        # Ratios share one axis over the panels, as they are to be compared across.
        _value_axis(axis, [end for each in spans for end in each] if ratio else ends, ratio=ratio)
    if several > 1:
        legend(
            figure, axes[shape[1] - 1], [(each, scene.markers[each], "#333333", True) for each in scene.configurations]
        )
    return Drawn(name, title, figure)


def _dot(
    axis: Axes, seen: tuple[float, float | None, float | None], y: float, colour: str, marker: str, filled: bool
) -> None:
    value, low, high = seen
    if low is not None and high is not None:
        axis.plot([low, high], [y, y], color=colour, linewidth=1.3, solid_capstyle="butt", zorder=2)
    axis.plot(
        [value], [y], marker=marker, markersize=4.6, linestyle="none", color=colour, zorder=3, **filling(colour, filled)
    )


def _value_axis(axis: Axes, ends: Sequence[float], *, ratio: bool) -> None:
    """From zero where that can be read, else logarithmic; ratios are always logarithmic, with 1 marked."""
    if not ends:
        axis.set_xticks([])
        return
    if ratio:
        axis.axvline(1, color="#444444", linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        ends = [*ends, 1.0]
    logarithmic = ratio or max(ends) / min(ends) > _WIDE_RANGE
    if logarithmic:
        axis.set_xscale("log")
        axis.set_xlim(*padded(ends))
    else:
        axis.set_xlim(0, max(ends) * 1.06)
    number_axis(axis.xaxis, ends, logarithmic=logarithmic)


def _against_batch(scene: Scene, name: str, title: str, note: str, measure: Measure) -> Drawn:
    """A panel for each configuration; points, with a faint dotted line to find the points of one model."""
    present = [row for row in scene.rows if measure.of(row) is not None]
    batches = sorted({whole(row["batch_size"]) for row in present})
    if len(batches) < 2:
        return Drawn(name, title, None, "fewer than two batch sizes were measured")
    configurations = [each for each in scene.configurations if any(row["configuration"] == each for row in present)]
    models = [model for model in scene.models if any(row["model"] == model for row in present)]
    looks = looks_of(models, scene)
    shape = grid_shape(len(configurations))
    figure, axes = panels(
        scene,
        title,
        note,
        shape,
        (2.9 if shape[1] > 1 else 3.8, 2.7),
        len(configurations),
        models,
        sharex=True,
        sharey=True,
    )
    ends = [end for row in present if (seen := measure.of(row)) for end in ends_of(seen)]
    for place, (axis, configuration) in enumerate(zip(axes, configurations, strict=True)):
        axis.set_title(textwrap.fill(one_line(configuration, 60), 32), loc="left")
        for i, model in enumerate(models):
            marker, colour, filled = looks[model]
            points = [
                (whole(row["batch_size"]), seen)
                for row in scene.of(model=model, configuration=configuration)
                if (seen := measure.of(row)) is not None
            ]
            points.sort()
            # Models side by side within a batch size, so that one does not hide another.
            shift = 1 + (i - (len(models) - 1) / 2) * min(0.03, 0.36 / len(models))
            xs = [batch * shift for batch, _ in points]
            axis.plot(xs, [seen[0] for _, seen in points], color=colour, linewidth=0.7, linestyle=":", alpha=0.55)
            for x, (_, seen) in zip(xs, points, strict=True):
                bottom = seen[0] if seen[1] is None else seen[1]
                top = seen[0] if seen[2] is None else seen[2]
                axis.plot([x, x], [bottom, top], color=colour, linewidth=1.2, solid_capstyle="butt")
            axis.plot(
                xs,
                [seen[0] for _, seen in points],
                linestyle="none",
                marker=marker,
                markersize=4.6,
                color=colour,
                zorder=3,
                **filling(colour, filled),
            )
        axis.set_xscale("log", base=2)
        axis.set_xlim(batches[0] / 1.45, batches[-1] * 1.45)
        axis.set_xticks(batches, [str(batch) for batch in batches])
        axis.minorticks_off()
        axis.set_yscale("log")
        axis.set_ylim(*padded(ends))
        number_axis(axis.yaxis, ends, logarithmic=True)
        axis.grid(color=FAINT, linewidth=0.5)
        axis.set_axisbelow(True)
        outer_labels(axis, "batch size (images)", measure.words, lowest=place + shape[1] >= len(configurations))
    legend(figure, axes[shape[1] - 1], [(model, *looks[model]) for model in models])
    return Drawn(name, title, figure)


def _against_accuracy(scene: Scene) -> Drawn:
    """Published accuracy up, images/s to the right: each model's fastest configuration, the others faint behind it."""
    name, title = "accuracy", "Images/s against published ImageNet-1k top-1"
    present = [row for row in scene.rows if row["top1"] is not None and RATE.of(row) is not None]
    if not present:
        return Drawn(name, title, None, "no measured model has a published figure at this image size")
    batches = sorted({whole(row["batch_size"]) for row in present})
    shape = grid_shape(len(batches))
    note = (
        "Accuracy: published, trained on ImageNet-1k alone at 224 px (weights here are random). Bars: 95 % intervals."
    )
    if len(scene.configurations) > 1:
        note += " Faint: slower configurations."
    keys = scene.configurations if len(scene.configurations) > 1 else []
    figure, axes = panels(scene, title, note, shape, (3.9, 3.7), len(batches), keys, sharey=True)
    used: dict[str, None] = {}
    for axis, batch in zip(axes, batches, strict=True):
        axis.set_title(f"batch {batch}", loc="left")
        ends: list[float] = []
        for model in dict.fromkeys(str(row["model"]) for row in present):
            rows = [row for row in present if row["model"] == model and row["batch_size"] == batch]
            rows.sort(key=lambda row: number(row, "images_per_s") or 0.0)
            colour = scene.colours[model]
            for row in rows:
                seen = RATE.of(row)
                top1 = number(row, "top1")
                if seen is None or top1 is None:
                    continue
                ends += ends_of(seen)
                if row is not rows[-1]:
                    axis.scatter([seen[0]], [top1], s=7, color=colour, alpha=0.3, linewidths=0, zorder=1)
                    continue
                configuration = str(row["configuration"])
                used[configuration] = None
                _dot(axis, seen, top1, colour, scene.markers[configuration], filled=True)
                named = axis.annotate(
                    one_line(model, 26),
                    (seen[0], top1),
                    xytext=(6, 0),
                    textcoords="offset points",
                    fontsize=6.5,
                    va="center",
                    color=colour,
                    arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2},
                )
                named.set_in_layout(False)
        low, high = padded(ends, 0.1)
        axis.set_xscale("log")
        # Room for the names, most of which stand to the right of their point.
        axis.set_xlim(low, high * (high / low) ** 0.15)
        number_axis(axis.xaxis, ends, logarithmic=True)
        axis.grid(color=FAINT, linewidth=0.5)
        axis.set_axisbelow(True)
        axis.margins(y=0.12)
        axis.set_xlabel("images/s")
    if keys:
        legend(
            figure,
            axes[shape[1] - 1],
            [(each, scene.markers[each], "#333333", True) for each in scene.configurations if each in used],
        )
    for axis in axes[:: shape[1]]:
        axis.set_ylabel("published top-1 (%)")
    spread_names(figure, axes)
    return Drawn(name, title, figure)


_INTERVALS = "Bars: 95 % intervals, Student's t over rounds (fresh processes)."

# In the order of the report.
FIGURES: tuple[Callable[[Scene], Drawn], ...] = (
    lambda scene: _dots(scene, "images_per_s", "Images/s by model", _INTERVALS, RATE),
    lambda scene: _dots(
        scene,
        "ratio",
        "Images/s as a ratio to the reference",
        f"{_INTERVALS} Hollow: the reference, {_reference(scene)}.",
        RATIO,
        ratio=True,
    ),
    lambda scene: _against_batch(
        scene, "batch", "Images/s against batch size", f"{_INTERVALS} Dotted lines only join a model's points.", RATE
    ),
    lambda scene: _against_batch(
        scene,
        "latency",
        "Time of a step against batch size",
        "Point: median of single steps; bar: up to the 95th percentile. Dotted lines only join a model's points.",
        LATENCY,
    ),
    order_of_models,
    against_the_bound,
    _against_accuracy,
    lambda scene: _dots(
        scene,
        "memory",
        "Peak memory by model",
        "CUDA: allocated. CPU: the process's peak over its state before the first step.",
        MEMORY,
    ),
)


def draw(rows: Sequence[Row]) -> Iterator[Drawn]:
    """Each figure, or why there is none.

    One of each kind for every task and image size; with several of those the name says which.
    """
    scenes = scenes_of(rows)
    for make in FIGURES:
        for scene in scenes:
            with drawing():
                drawn = make(scene)
            if len(scenes) > 1:
                drawn = drawn._replace(
                    name=f"{drawn.name}-{scene.task}-{scene.image_size}px",
                    title=f"{drawn.title}, {scene.task}, {scene.image_size} px",
                )
            yield drawn
