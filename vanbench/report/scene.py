"""A scene: the rows of one task and image size, and how their models and configurations look in every panel.

What the figures of `plots` and `order_plot` share: colours, markers, captions, what a dot stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from vanbench.report.drawing import MARKERS, family_colours, filling, key, key_width, number, one_line, page
from vanbench.report.table import Row, differing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "LATENCY",
    "MEMORY",
    "RATE",
    "RATIO",
    "Measure",
    "Scene",
    "configuration_of",
    "ends_of",
    "legend",
    "looks_of",
    "outer_labels",
    "panels",
    "scenes_of",
    "whole",
]

_AXES_OF_A_CONFIGURATION = (
    *("precision", "memory_format", "compile", "form", "depthwise", "allocator"),
    *("device", "threads"),
)


@dataclass(frozen=True)
class Scene:
    """The rows of one task and image size, and how their models and configurations look in every panel."""

    rows: Sequence[Row]
    task: str
    image_size: int
    models: list[str]
    configurations: list[str]
    colours: dict[str, str]
    markers: dict[str, str]
    constant: str
    caption: str

    @property
    def batches(self) -> list[int]:
        """Batch sizes that occur, ascending."""
        return sorted({whole(row["batch_size"]) for row in self.rows})

    def of(self, **wanted: Any) -> list[Row]:
        """The rows that have these values."""
        return [row for row in self.rows if all(row[name] == value for name, value in wanted.items())]


def whole(value: Any) -> int:
    """A column of integers' value, which is never absent where this is asked."""
    return int(value)


# How a configuration's values are called in a legend, where another word than the table's is shorter.
_SHORT = {
    "compile": {"off": "eager", "default": "compiled"},
    "form": {"reference": "reference form"},
}
# What all rows have in common and nobody changed needs no word.
_LEFT_OUT = (None, "off", "native", "system")
_EXCLUDED = "excluded by the sweep"


def configuration_of(row: Row, names: Sequence[str]) -> str:
    """The row's values of these columns in words: `channels_last, compiled`."""
    words = []
    for name in names:
        word = str(row[name] if row[name] is not None else "?")
        word = _SHORT.get(name, {}).get(word, word)
        words.append(f"{word} threads" if name == "threads" else word)
    return ", ".join(words)


def scenes_of(rows: Sequence[Row]) -> list[Scene]:
    """One for each task and image size, in the order of the rows."""
    # What nobody asked for is in the table, and in no figure.
    rows = [row for row in rows if not str(row.get("reason") or "").startswith(_EXCLUDED)]
    varied = differing(rows, _AXES_OF_A_CONFIGURATION)
    constant = [name for name in _AXES_OF_A_CONFIGURATION if name not in varied]
    scenes = []
    for task, image_size in dict.fromkeys((str(row["task"]), whole(row["image_size"])) for row in rows):
        mine = [row for row in rows if row["task"] == task and row["image_size"] == image_size]
        configured = [{**row, "configuration": configuration_of(row, varied)} for row in mine]
        configurations = list(dict.fromkeys(str(row["configuration"]) for row in configured))
        models = list(dict.fromkeys(str(row["model"]) for row in mine))
        example = next((row for row in mine if row["status"] == "measured"), mine[0])
        said = configuration_of(example, [name for name in constant if example[name] not in _LEFT_OUT])
        scenes.append(
            Scene(
                rows=configured,
                task=task,
                image_size=image_size,
                models=models,
                configurations=configurations,
                colours=family_colours(models),
                markers={name: MARKERS[i % len(MARKERS)] for i, name in enumerate(configurations)},
                constant=said,
                caption=_caption(example),
            )
        )
    return scenes


def _caption(row: Row) -> str:
    parts = [row["device_name"], f"torch {row['torch_version']}", f"vanbench {row['vanbench_version']}"]
    date = str(row["date"] or "")[:10]
    return " · ".join(one_line(str(part), 60) for part in [*parts, date] if part)


def panels(
    scene: Scene,
    title: str,
    note: str,
    shape: tuple[int, int],
    size: tuple[float, float],
    count: int,
    keys: Sequence[str] = (),
    **share: Any,
) -> tuple[Figure, list[Axes]]:
    """The page of a scene's panels. keys: labels of a legend to come, for which room is left at the right."""
    about = " · ".join([scene.task, f"{scene.image_size} px", scene.constant]).strip(" ·")
    return page(
        title,
        about,
        [note, scene.caption],
        shape,
        size,
        count,
        room=key_width(keys),
        least_height=0.17 * len(keys) + 0.4,
        **share,
    )


def outer_labels(axis: Axes, across: str, up: str, *, lowest: bool) -> None:
    """Words at the outer edges of a grid of panels. lowest: the last of its column, though the grid may go on."""
    axis.set_xlabel(across)
    axis.set_ylabel(up)
    axis.label_outer()
    if lowest:
        axis.tick_params(labelbottom=True)
        axis.set_xlabel(across)


def legend(figure: Figure, beside: Axes, entries: Sequence[tuple[str, str, str, bool]]) -> None:
    """A legend right of the panel `beside`; entries are (label, marker, colour, filled)."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=colour, markersize=5, **filling(colour, filled))
        for _, marker, colour, filled in entries
    ]
    key(figure, beside, [(entry[0], handle) for entry, handle in zip(entries, handles, strict=True)])


class Measure(NamedTuple):
    """What a dot stands for: columns of its value and interval, the axis' words, and a factor to its unit."""

    value: str
    low: str | None
    high: str | None
    words: str
    factor: float = 1.0

    def of(self, row: Row) -> tuple[float, float | None, float | None] | None:
        """Value and interval in the axis' unit, or None if the row has no figure."""
        seen = number(row, self.value)
        if seen is None:
            return None
        low, high = (number(row, name) if name else None for name in (self.low, self.high))
        scaled = [None if each is None else each * self.factor for each in (low, high)]
        return seen * self.factor, scaled[0], scaled[1]


RATE = Measure("images_per_s", "images_per_s_low", "images_per_s_high", "images/s")
RATIO = Measure("ratio", "ratio_low", "ratio_high", "ratio to the reference")
MEMORY = Measure("peak_bytes", None, None, "peak memory (MiB)", 2.0**-20)
LATENCY = Measure("median_s", None, "p95_s", "time of a step (ms)", 1e3)


def ends_of(seen: tuple[float, float | None, float | None]) -> list[float]:
    """What an axis must hold of a value and its interval."""
    return [end for end in seen if end is not None and end > 0]


def looks_of(models: Sequence[str], scene: Scene) -> dict[str, tuple[str, str, bool]]:
    """Marker, colour and filling of each model: the family's colour, a marker of its own within the family."""
    looks = {}
    met: dict[str, int] = {}
    for model in models:
        index = met.get(scene.colours[model], 0)
        met[scene.colours[model]] = index + 1
        marker = MARKERS[index // 2 % len(MARKERS)] if len(models) > 12 else MARKERS[index % len(MARKERS)]
        looks[model] = (marker, scene.colours[model], index % 2 == 0 if len(models) > 12 else True)
    return looks
