"""What the history means: series, their segments, and the verdict on each point. Pure; it reads and draws nothing.

A series is one cell on one machine. Within a series, a changed stack or an accepted change opens a new segment, and a
point is held against earlier points of its own segment only. All of it lives on the logarithm of images/s, so that a
slowdown and the speed-up that undoes it are mirror images, and the unit does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from vanbench.analysis.history_points import Change, LeftOut, differences
from vanbench.analysis.level import BASELINE_POINTS, Held, Level
from vanbench.analysis.verdict import Verdict
from vanbench.record.history import Accepted, Point
from vanbench.stats import median

__all__ = [
    "Finding",
    "Judged",
    "Judgement",
    "Opening",
    "Series",
    "check_newest",
    "check_run",
    "judge",
    "series_of",
]


# --- series, segments and the verdict on each point -----------------------------------------------------------------


class Series(NamedTuple):
    """One cell on one machine: its points and accepted changes by time."""

    machine_key: str
    cell_key: str
    points: tuple[Point, ...]
    accepted: tuple[Accepted, ...] = ()

    @property
    def slug(self) -> str:
        """The cell's name for people."""
        return self.points[-1].slug


class Opening(NamedTuple):
    """Where a segment begins: at this point (or behind the last one), and why; the first one for no reason."""

    place: int
    changes: tuple[Change, ...] = ()
    accepted: tuple[Accepted, ...] = ()


class Judged(NamedTuple):
    """A point and what it came to when it was measured.

    earlier: valid points before it in its segment. side: -1 below, 0 within, 1 above the limits. baseline, lower,
    upper: images/s; the limits are None while learning. change: images/s over the baseline less 1; ratio_change: the
    same of `ratio`, over those points of the baseline that have one to the same reference. settled: what accepted it
    later, if it was beyond a limit.
    """

    point: Point
    verdict: Verdict
    earlier: int
    side: int = 0
    baseline: float | None = None
    lower: float | None = None
    upper: float | None = None
    change: float | None = None
    ratio_change: float | None = None
    settled: Accepted | None = None


class Judgement(NamedTuple):
    """A series judged: every point, and where its segments begin.

    standing: the newest point as things stand now; if it was accepted since it is one of the new segment.
    """

    series: Series
    points: tuple[Judged, ...]
    openings: tuple[Opening, ...]
    standing: Judged


def series_of(points: Iterable[Point], accepted: Iterable[Accepted] = ()) -> list[Series]:
    """The series of these points, by machine, model, task, image and batch size. Points and changes come by time."""
    mine: dict[tuple[str, str], list[Point]] = {}
    for point in points:
        mine.setdefault((point.machine_key, point.cell_key), []).append(point)
    wanted: dict[tuple[str, str], list[Accepted]] = {}
    for each in accepted:
        wanted.setdefault((each.machine_key, each.cell_key), []).append(each)
    found = [Series(*key, tuple(each), tuple(wanted.get(key, ()))) for key, each in mine.items()]
    return sorted(found, key=_order)


def _order(series: Series) -> tuple[object, ...]:
    """Numbers as numbers: bs8 before bs32."""
    cell = series.points[-1].cell
    sizes = tuple(size if isinstance(size := cell.get(name), int) else 0 for name in ("image_size", "batch_size"))
    return series.machine_key, str(cell.get("model")), str(cell.get("task", "")), sizes, series.slug, series.cell_key


def _valid(point: Point) -> float | None:
    """The logarithm of its images/s; None if that is no rate at all."""
    rate = point.images_per_s
    return math.log(rate) if rate is not None and math.isfinite(rate) and rate > 0 else None


def judge(series: Series) -> Judgement:
    """Every point of a series held against those before it. A point without a valid rate is as if it were not there."""
    level = Level()
    openings = [Opening(0)]
    judged: list[Judged] = []
    wanted = list(series.accepted)
    before: Point | None = None
    standing: Judged | None = None

    def take_over(up_to: str | None) -> None:
        """Open a segment for what was accepted before that time. The points it was about begin the new level."""
        nonlocal level, standing
        while wanted and (up_to is None or wanted[0].time < up_to):
            accepted = wanted.pop(0)
            again = openings[-1].place == len(judged) and bool(openings[-1].accepted)
            _open(openings, Opening(len(judged), accepted=(accepted,)))
            if again:
                continue
            about, level = level.apart, Level()
            for place, log in about:
                judged[place] = judged[place]._replace(settled=accepted)
                standing = _figures(series, series.points[place], log, level.length, level.hold(log, place))

    for place, point in enumerate(series.points):
        take_over(point.time)
        standing = None
        if before is not None and point.stack_key != before.stack_key:
            level = Level()
            _open(openings, Opening(place, changes=differences(before.stack, point.stack)))
        before = point
        log = _valid(point)
        if log is None:
            judged.append(Judged(point, Verdict.INVALID, level.length))
        else:
            earlier = level.length
            judged.append(_figures(series, point, log, earlier, level.hold(log, place)))
    take_over(None)
    return Judgement(series, tuple(judged), tuple(openings), standing or judged[-1])


def _open(openings: list[Opening], opening: Opening) -> None:
    last = openings[-1]
    if last.place == opening.place:
        openings[-1] = Opening(last.place, last.changes + opening.changes, last.accepted + opening.accepted)
    else:
        openings.append(opening)


def _figures(series: Series, point: Point, log: float, earlier: int, held: Held) -> Judged:
    baseline = [series.points[place] for place in held.places]
    logs = [each for other in baseline if (each := _valid(other)) is not None]
    centre = held.limits.centre if held.limits else median(logs) if logs else None
    # A reference's own ratio is 1 by definition and tells nothing.
    like = [other for other in baseline if other.reference == point.reference != point.slug]
    ratios = [other.ratio for other in like if other.ratio and other.ratio > 0]
    return Judged(
        point=point,
        verdict=held.verdict,
        earlier=earlier,
        side=held.side,
        baseline=None if centre is None else math.exp(centre),
        lower=math.exp(held.limits.centre - held.limits.half) if held.limits else None,
        upper=math.exp(held.limits.centre + held.limits.half) if held.limits else None,
        change=None if centre is None else math.expm1(log - centre),
        ratio_change=point.ratio / median(ratios) - 1 if point.ratio and ratios else None,
    )


# --- what `track check` asks ----------------------------------------------------------------------------------------


class Finding(NamedTuple):
    """The verdict on one cell as things stand. judged: None where nothing was measured, and `why` says so.

    since: the opening of the point's segment. points: valid points in it, this one included.
    """

    slug: str
    cell_key: str
    verdict: Verdict
    judged: Judged | None = None
    since: Opening = Opening(0)
    points: int = 0
    why: str = ""


def check_newest(judgements: Sequence[Judgement]) -> tuple[list[Finding], list[Judgement]]:
    """The verdict on the newest point of each series of one or more machines, and the series that have ended.

    A series has ended when its machine has made as many runs as a baseline holds since its newest point: a cell that
    nobody measures any more is not to pass or fail for ever.
    """
    runs: dict[str, set[str]] = {}
    for judgement in judgements:
        runs.setdefault(judgement.series.machine_key, set()).update(each.point.time for each in judgement.points)
    findings, ended = [], []
    for judgement in judgements:
        newest = judgement.points[-1].point.time
        if sum(time > newest for time in runs[judgement.series.machine_key]) >= BASELINE_POINTS:
            ended.append(judgement)
        else:
            findings.append(_finding(judgement, len(judgement.points) - 1))
    return findings, ended


def _finding(judgement: Judgement, place: int) -> Finding:
    newest = place == len(judgement.points) - 1
    judged = judgement.standing if newest else judgement.points[place]
    since = [opening for opening in judgement.openings if opening.place <= place][-1]
    if judged is not judgement.points[place]:
        since = judgement.openings[-1]
    valid = judged.verdict is not Verdict.INVALID
    return Finding(judged.point.slug, judgement.series.cell_key, judged.verdict, judged, since, judged.earlier + valid)


def check_run(
    machine_key: str,
    points: Sequence[Point],
    left_out: Sequence[LeftOut],
    history: Sequence[Point],
    accepted: Sequence[Accepted],
) -> list[Finding]:
    """The verdict on each cell of a run, held against the history before it, in which it may be already.

    machine_key, points, left_out: of the run. history, accepted: by time. A cell that the history knows and that failed
    now is MISSING, one that was skipped INCONCLUSIVE; those that the history does not know either are no finding.
    A machine that the history does not know, while it knows others, makes every cell INVALID.
    """
    known = {point.machine_key for point in history}
    if known and machine_key not in known:
        why = "this machine is not in the history"
        return [Finding(point.slug, point.cell_key, Verdict.INVALID, why=why) for point in points]
    mine = {point.id: point for point in history if point.machine_key == machine_key}
    ids = {point.id for point in points}
    merged = sorted({**mine, **{point.id: point for point in points}}.values(), key=lambda each: (each.time, each.id))
    found = {}
    for series in series_of(merged, accepted):
        places = [place for place, point in enumerate(series.points) if point.id in ids]
        if places:
            found[series.cell_key] = _finding(judge(series), places[-1])
    before = {point.cell_key for point in mine.values()}
    gone = {"failed": Verdict.MISSING, "skipped": Verdict.INCONCLUSIVE}
    lost = [
        Finding(each.slug, each.cell_key, gone[each.status], why=f"{each.status}: {each.reason}")
        for each in left_out
        if each.cell_key in before
    ]
    return [*(found[point.cell_key] for point in points), *lost]
