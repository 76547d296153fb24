"""The history as figures: images/s run by run, a panel for each cell, with segments, alerts and what was accepted.

Runs stand at equal distances, whatever time lies between them. It judges nothing: verdicts and limits come with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vanbench.analysis.history import Judged, Judgement, Opening
from vanbench.analysis.verdict import Verdict
from vanbench.report.drawing import (
    FAINT,
    GREY,
    Drawn,
    drawing,
    family_colours,
    key,
    key_width,
    number_axis,
    one_line,
    page,
    save,
)
from vanbench.report.history_text import changes_text

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

__all__ = ["draw_history", "save_history"]

_MOST_PANELS = 5
_MOST_RUNS = 240
_PANEL = (7.4, 1.75)  # inches
# What a panel's width loses to the tick labels.
_TICKS_WIDTH = 0.75
_MOST_TICKS = 8
_LABEL_SIZE = 6.5  # points
# Of a panel's height: one row of labels above the points, and how many rows there may be.
_ROW_SHARE = 0.105
_MOST_ROWS = 4
_DARK = "#222222"
_ACCEPTED = "#0072B2"


class _Look(NamedTuple):
    """How a kind of point is drawn: its words in the legend, marker, filling, edge, and size over an ordinary one."""

    words: str
    marker: str
    face: str
    edge: str
    larger: float


class _Group(NamedTuple):
    """The series of one figure. runs: their times in order, of which a figure shows the last."""

    name: str
    model: str
    task: str
    judgements: tuple[Judgement, ...]
    runs: tuple[str, ...]
    before: int


def draw_history(judgements: Sequence[Judgement]) -> Iterator[Drawn]:
    """A figure for each machine, model and task, several where there are many cells."""
    for group in _groups(judgements):
        with drawing():
            yield _figure(group)


def save_history(judgements: Sequence[Judgement], folder: Path) -> list[Path]:
    """Draw the series of one machine into `folder`, as PNG and SVG; the paths written.

    Raises StorageError or UserError if a file cannot be written.
    """
    return save(draw_history(judgements), folder)[0]


def _groups(judgements: Sequence[Judgement]) -> Iterator[_Group]:
    mine: dict[tuple[str, str, str], list[Judgement]] = {}
    for judgement in judgements:
        cell = judgement.series.points[-1].cell
        where = (judgement.series.machine_key, str(cell.get("model", "?")), str(cell.get("task", "infer")))
        mine.setdefault(where, []).append(judgement)
    taken: set[str] = set()
    for (_, model, task), members in mine.items():
        pages = [members[i : i + _MOST_PANELS] for i in range(0, len(members), _MOST_PANELS)]
        for number, each in enumerate(pages, 1):
            runs = sorted({judged.point.time for judgement in each for judged in judgement.points})
            name = _file_name(f"{model}-{task}" + (f"-{number}" if len(pages) > 1 else ""), taken)
            yield _Group(name, model, task, tuple(each), tuple(runs[-_MOST_RUNS:]), max(0, len(runs) - _MOST_RUNS))


def _file_name(words: str, taken: set[str]) -> str:
    """A model of one's own is named `package.module:callable`, and two such may differ in a sign that files lack."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", words).strip("-.")[:80] or "series"
    name, number = plain, 2
    while name.lower() in taken:
        name, number = f"{plain}-{number}", number + 1
    taken.add(name.lower())
    return name


# --- a figure -------------------------------------------------------------------------------------------------------


def _looks(colour: str) -> dict[str, _Look]:
    return {
        "judged": _Look("judged, no alert", "o", colour, colour, 0.0),
        "learning": _Look("learning", "o", "white", colour, 0.0),
        "regressed": _Look("alert: slower, twice in a row", "v", _DARK, _DARK, 3.0),
        "settled": _Look("alert, accepted later", "v", "#B0B0B0", _DARK, 3.0),
        "improved": _Look("faster, twice in a row", "^", "white", _DARK, 3.0),
        "invalid": _Look("no valid figure", "x", _DARK, _DARK, 1.5),
    }


def _kind(judged: Judged) -> str:
    if judged.verdict is Verdict.REGRESSED:
        return "settled" if judged.settled is not None else "regressed"
    kinds = {Verdict.LEARNING: "learning", Verdict.IMPROVED: "improved", Verdict.INVALID: "invalid"}
    return kinds.get(judged.verdict, "judged")


def _figure(group: _Group) -> Drawn:
    newest = max((each.points[-1].point for each in group.judgements), key=lambda point: point.time)
    looks = _looks(family_colours([group.model])[group.model])
    kinds = {_kind(judged) for judgement in group.judgements for judged in judgement.points}
    entries = _entries(group, {kind: look for kind, look in looks.items() if kind in kinds})
    title = f"{one_line(group.model, 60)}, {group.task}: images/s run by run"
    notes = [
        "Runs at equal distances. Bars: 95 % intervals over the rounds of a run. Baseline: the median of at most 20 "
        "earlier points of the segment. Limit: two runs in a row below it are a regression.",
    ]
    if group.before:
        notes.append(f"The last {len(group.runs)} of {len(group.runs) + group.before} runs.")
    count = len(group.judgements)
    figure, axes = page(
        title,
        f"{one_line(newest.device_name, 60)} · machine {newest.machine_key} · until {newest.time[:10]}",
        notes,
        (count, 1),
        _PANEL,
        count,
        room=key_width([words for words, _ in entries]),
        least_height=0.17 * len(entries) + 0.5,
        sharex=True,
    )
    places = {time: place for place, time in enumerate(group.runs)}
    for axis, judgement in zip(axes, group.judgements, strict=True):
        _panel(axis, judgement, places, looks)
    _ticks(axes[-1], group)
    key(figure, axes[0], entries)
    return Drawn(group.name, title, figure)


def _entries(group: _Group, looks: dict[str, _Look]) -> list[tuple[str, Artist]]:
    from matplotlib.lines import Line2D

    size = 4.2
    marks: list[tuple[str, Artist]] = [
        (look.words, Line2D([], [], linestyle="none", markersize=size + look.larger / 2, **_style(look)))
        for look in looks.values()
    ]
    openings = [opening for each in group.judgements for opening in each.openings]
    if any(judged.lower is not None for each in group.judgements for judged in each.points):
        marks.append(("baseline", Line2D([], [], color=GREY, linewidth=0.9)))
        marks.append(("limit", Line2D([], [], color=_DARK, linewidth=0.9, linestyle=(0, (3, 2)))))
    if any(opening.changes for opening in openings):
        marks.append(("the stack changed", Line2D([], [], color=GREY, linewidth=1.0, linestyle=":")))
    if any(opening.accepted for opening in openings):
        marks.append(("a change was accepted", Line2D([], [], color=_ACCEPTED, linewidth=1.1)))
    return marks


def _style(look: _Look) -> dict[str, Any]:
    return {
        "marker": look.marker,
        "markerfacecolor": look.face,
        "markeredgecolor": look.edge,
        "markeredgewidth": 0.9,
        "color": look.edge,
    }


def _panel(axis: Axes, judgement: Judgement, places: dict[str, int], looks: dict[str, _Look]) -> None:
    shown = [(places[judged.point.time], judged) for judged in judgement.points if judged.point.time in places]
    size = 4.0 if len(places) <= 60 else 2.8 if len(places) <= 120 else 2.0
    axis.set_title(one_line(judgement.series.slug, 90), loc="left", fontsize=8.0)
    axis.set_ylabel("images/s", fontsize=7.5)
    axis.grid(axis="y", color=FAINT, linewidth=0.5)
    axis.set_axisbelow(True)
    axis.set_xlim(-0.8, len(places) - 0.2)
    _lines(axis, judgement, shown)
    for kind, look in looks.items():
        mine = [(x, judged) for x, judged in shown if _kind(judged) == kind]
        if kind == "invalid":
            # There is no height at which it could stand.
            axis.plot(
                [x for x, _ in mine],
                [0.04] * len(mine),
                linestyle="none",
                transform=axis.get_xaxis_transform(),
                markersize=size + look.larger,
                **_style(look),
            )
            continue
        for x, judged in mine:
            low, high = judged.point.low, judged.point.high
            if low is not None and high is not None:
                axis.plot([x, x], [low, high], color=looks["judged"].face, linewidth=0.8, alpha=0.55, zorder=1.8)
        rates = [judged.point.images_per_s or 0.0 for _, judged in mine]
        axis.plot(
            [x for x, _ in mine], rates, linestyle="none", markersize=size + look.larger, zorder=3, **_style(look)
        )
    openings = [each for each in judgement.openings if each.changes or each.accepted]
    rows = _name_openings(axis, [(_place(each, judgement, places), each) for each in openings])
    low, high = _range([judged for _, judged in shown])
    axis.set_ylim(low, high + (high - low) * rows * _ROW_SHARE / (1 - rows * _ROW_SHARE))
    number_axis(axis.yaxis, [], logarithmic=False)


def _lines(axis: Axes, judgement: Judgement, shown: Sequence[tuple[int, Judged]]) -> None:
    """Baseline and limit, with a gap wherever there is none and between segments."""
    begins = {opening.place for opening in judgement.openings}
    first = len(judgement.points) - len(shown)
    xs: list[float] = []
    baseline: list[float] = []
    limit: list[float] = []
    for place, (x, judged) in enumerate(shown, first):
        if place in begins:
            xs, baseline, limit = [*xs, x - 0.5], [*baseline, math.nan], [*limit, math.nan]
        known = judged.lower is not None and judged.baseline is not None
        xs.append(x)
        baseline.append(judged.baseline if known and judged.baseline is not None else math.nan)
        limit.append(judged.lower if known and judged.lower is not None else math.nan)
    axis.plot(xs, baseline, color=GREY, linewidth=0.9, drawstyle="steps-mid", zorder=2)
    axis.plot(xs, limit, color=_DARK, linewidth=0.9, linestyle=(0, (3, 2)), drawstyle="steps-mid", zorder=2)


def _range(shown: Sequence[Judged]) -> tuple[float, float]:
    """The axis' ends: every point and limit, and so much of the intervals (those of two rounds are huge)."""
    rates = [judged.point.images_per_s for judged in shown if judged.verdict is not Verdict.INVALID]
    ends = [rate for rate in rates if rate is not None] + [each.lower for each in shown if each.lower is not None]
    if not ends:
        return 0.0, 1.0
    low, high = min(ends), max(ends)
    room = max(high - low, 0.02 * high)
    reach = [end for judged in shown for end in (judged.point.low, judged.point.high) if end is not None]
    low = max(min([low, *reach]), low - 0.4 * room)
    high = min(max([high, *reach]), high + 0.4 * room)
    return low - 0.08 * room, high + 0.08 * room


def _place(opening: Opening, judgement: Judgement, places: dict[str, int]) -> float:
    """Between the runs that it lies between; negative if it lies before the first run shown."""
    if opening.place < len(judgement.points):
        return places.get(judgement.points[opening.place].point.time, -1) - 0.5
    return places.get(judgement.points[-1].point.time, -1) + 0.5


def _name_openings(axis: Axes, openings: Sequence[tuple[float, Opening]]) -> int:
    """Lines where segments begin, named above the points in as many rows as it takes; how many rows there are."""
    low, high = axis.get_xlim()
    per_letter = (high - low) * 0.0076 * _LABEL_SIZE / (_PANEL[0] - _TICKS_WIDTH)
    taken: list[list[tuple[float, float]]] = []
    for x, opening in openings:
        if x < -0.5:
            continue
        for line, colour in ((bool(opening.changes), GREY), (bool(opening.accepted), _ACCEPTED)):
            if line:
                axis.axvline(x, color=colour, linewidth=1.0, linestyle=":" if colour == GREY else "-", zorder=1)
        words = [(changes_text(opening.changes, 2), GREY)] if opening.changes else []
        words += [(f"accepted: {each.reason}", _ACCEPTED) for each in opening.accepted]
        for text, colour in words:
            shown = one_line(text, 52)
            width = (len(shown) + 1.5) * per_letter
            left = x + width > high and x - width > low
            span = (x - width, x) if left else (x, x + width)
            row = next((i for i, each in enumerate(taken) if all(a >= span[1] or b <= span[0] for a, b in each)), None)
            if row is None:
                if len(taken) == _MOST_ROWS:
                    # The line stands; what it means is in the terminal's list.
                    continue
                row = len(taken)
                taken.append([])
            taken[row].append(span)
            axis.annotate(
                shown,
                (x, 1 - (row + 0.5) * _ROW_SHARE),
                xycoords=axis.get_xaxis_transform(),
                xytext=(-3 if left else 3, 0),
                textcoords="offset points",
                ha="right" if left else "left",
                va="center",
                fontsize=_LABEL_SIZE,
                color=colour,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.9},
                zorder=4,
            ).set_in_layout(False)
    return len(taken)


def _ticks(axis: Axes, group: _Group) -> None:
    """The day of a run and the beginning of its commit below the last panel, as many as can be read."""
    commits = {
        judged.point.time: (judged.point.commit or "")[:7]
        for judgement in group.judgements
        for judged in judgement.points
    }
    count = len(group.runs)
    step = max(1, -(-count // _MOST_TICKS))
    # Counted from the newest run, which always has its name.
    chosen = list(range(count - 1, -1, -step))[::-1]
    axis.set_xticks(chosen, [f"{group.runs[i][:10]}\n{commits[group.runs[i]]}".rstrip() for i in chosen], fontsize=7)
