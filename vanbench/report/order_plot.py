"""The figure of the models' order: who is faster than whom in each configuration, and where two change places."""

from __future__ import annotations

import textwrap
from collections import Counter

from vanbench.report.drawing import FAINT, Drawn, filling, number_axis, one_line, padded
from vanbench.report.scene import RATE, Scene, ends_of, legend, looks_of, panels

__all__ = ["order_of_models"]

_LINES = ("-", "--", ":", "-.")


def order_of_models(scene: Scene) -> Drawn:
    """Images/s against configurations side by side, each over the fastest there: lines that cross change places."""
    name, title = "order", "Order of the models by configuration"
    seen = {
        (int(str(row["batch_size"])), str(row["configuration"]), str(row["model"])): value
        for row in scene.rows
        if (value := RATE.of(row)) is not None
    }
    models = [model for model in scene.models if any(key[2] == model for key in seen)]
    places = [
        (batch, configuration)
        for batch in scene.batches
        for configuration in scene.configurations
        if sum((batch, configuration, model) in seen for model in models) > 1
    ]
    if len(models) < 3:
        return Drawn(name, title, None, "fewer than three models were measured")
    if len(places) < 2:
        return Drawn(name, title, None, "fewer than two configurations were measured")
    looks = looks_of(models, scene)
    note = (
        "Each over the fastest of its configuration. Lines only join a model's points; where two cross, the models "
        "change places. Bars: 95 % intervals of images/s."
    )
    size = (max(3.6, 0.62 * len(places) + 1.0), 3.4)
    figure, (axis,) = panels(scene, title, note, (1, 1), size, 1, models)
    fastest = {place: max(value[0] for key, value in seen.items() if key[:2] == place) for place in places}
    ends: list[float] = []
    met: Counter[str] = Counter()
    for i, model in enumerate(models):
        # A family has one colour: its models are told apart by marker and line.
        line = _LINES[met[scene.colours[model]] % len(_LINES)]
        met[scene.colours[model]] += 1
        marker, colour, filled = looks[model]
        # Models side by side within a configuration, so that one does not hide another.
        shift = (i - (len(models) - 1) / 2) * min(0.12, 0.5 / len(models))
        xs, ys = [], []
        for x, place in enumerate(places):
            value = seen.get((*place, model))
            if value is None:
                continue
            low, high = (None if end is None else end / fastest[place] for end in value[1:])
            xs.append(x + shift)
            ys.append(value[0] / fastest[place])
            ends += ends_of((ys[-1], low, high))
            if low is not None and high is not None:
                axis.plot([xs[-1]] * 2, [low, high], color=colour, linewidth=1.2, solid_capstyle="butt")
        axis.plot(xs, ys, color=colour, linewidth=0.9, alpha=0.6, linestyle=line)
        axis.plot(xs, ys, linestyle="none", marker=marker, color=colour, markersize=4.8, **filling(colour, filled))
    axis.set_xlim(-0.5, len(places) - 0.5)
    axis.set_xticks(range(len(places)), [_words(scene, *place) for place in places])
    axis.tick_params(axis="x", labelsize=6.5, length=0)
    axis.set_yscale("log")
    axis.set_ylim(*padded(ends))
    number_axis(axis.yaxis, ends, logarithmic=True)
    axis.grid(axis="y", color=FAINT, linewidth=0.5)
    axis.set_axisbelow(True)
    axis.set_ylabel("images/s over the fastest model's")
    legend(figure, axis, [(model, *looks[model]) for model in models])
    return Drawn(name, title, figure)


def _words(scene: Scene, batch: int, configuration: str) -> str:
    parts = [f"batch {batch}"] if len(scene.batches) > 1 else []
    parts += configuration.split(", ") if len(scene.configurations) > 1 else []
    return "\n".join(textwrap.fill(one_line(part), 13, break_on_hyphens=False) for part in parts)
