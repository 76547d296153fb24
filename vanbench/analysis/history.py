"""What the history means: series, their segments, and the verdict on each point. Pure; it reads and draws nothing.

A series is one cell on one machine. Within a series, a changed stack or an accepted change opens a new segment, and a
point is held against earlier points of its own segment only. All of it lives on the logarithm of images/s, so that a
slowdown and the speed-up that undoes it are mirror images, and the unit does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from vanbench.analysis.verdict import Verdict
from vanbench.record.environment import Hardware
from vanbench.record.history import Accepted, Point, point_id, stack_key, stack_of, state_of, whole_time
from vanbench.record.store import Run
from vanbench.stats import median

__all__ = [
    "BASELINE_POINTS",
    "LEAST_POINTS",
    "Change",
    "Finding",
    "Held",
    "Judged",
    "Judgement",
    "LeftOut",
    "Level",
    "Limits",
    "Opening",
    "Series",
    "check_newest",
    "check_run",
    "differences",
    "hardware_differences",
    "judge",
    "limits_of",
    "points_of",
    "series_of",
]

# A baseline is the median of at most so many points; with fewer than the least nothing is concluded.
BASELINE_POINTS = 20
LEAST_POINTS = 10
# How far from the baseline a point must be: so many standard deviations, by the median absolute deviation, which one
# wild point does not move (1.4826 makes it a standard deviation for normal noise). A median of n points errs by
# sqrt(pi / 2n) of one itself: hence 1 + 1.57/n.
_SPREADS = 3.0
_MAD_TO_SD = 1.4826
_MEDIAN_VARIANCE = 1.57
_BEYOND = {-1: Verdict.REGRESSED, 1: Verdict.IMPROVED}
# And never less than this, however steady the series: nobody acts on less, and a spread from ten points can be luck.
_LEAST_CHANGE = math.log(1.02)


class Limits(NamedTuple):
    """What a point is held against, as logarithms of images/s: centre ± half."""

    centre: float
    half: float


class Held(NamedTuple):
    """One point held against its baseline. side: -1 below, 0 within, 1 above the limits.

    limits: None while learning. places: of the baseline's points, as they were given to `Level.hold`.
    """

    verdict: Verdict
    side: int
    limits: Limits | None
    places: tuple[int, ...]


class _Mark(NamedTuple):
    place: int
    log: float


class Level:
    """The speed that a segment stands at, learnt from its points one by one. Which of them form the baseline:

    A point beyond a limit waits, so that it does not shift what the next one is held against. If the next is not beyond
    the same limit, it stood alone: it is noise, and joins. Leaving such points out would make the spread look smaller
    than it is, and false alerts would feed on themselves.

    With two in a row beyond the same limit another level has begun, which ends with two in a row that are not. All of
    it stays out. Below (REGRESSED) for good: a baseline that takes slow points in is silent after eight of them,
    whether anybody has looked or not. So a lasting regression goes on alerting until it is undone or accepted.

    Above (IMPROVED) nobody is asked to accept anything, and a baseline left below would hide the loss of what was won.
    But old and new points mixed make limits four times as wide (simulated, 5 % at sd 1 %), just while somebody works on
    the speed. So the old level stays the baseline, sharp as it was, until the new one has points enough to be one.
    """

    def __init__(self) -> None:
        self._kept: list[_Mark] = []
        # Of the other level, if one has begun: its side, its points, and at most one that may be its end.
        self._side = 0
        self._other: list[_Mark] = []
        self._waiting: list[tuple[_Mark, int]] = []
        self.length = 0

    @property
    def apart(self) -> tuple[tuple[int, float], ...]:
        """(place, log) of the newest points that are not the baseline's, from the first beyond the limit."""
        return (*self._other, *(mark for mark, _ in self._waiting))

    def hold(self, log: float, place: int = 0) -> Held:
        """The verdict on the next point of the segment. log: of its images/s; place: what to call it in `places`."""
        baseline = self._kept[-BASELINE_POINTS:]
        places = tuple(mark.place for mark in baseline)
        mark = _Mark(place, log)
        self.length += 1
        if len(baseline) < LEAST_POINTS:
            self._kept.append(mark)
            return Held(Verdict.LEARNING, 0, None, places)
        limits = limits_of([each.log for each in baseline])
        side = (log > limits.centre + limits.half) - (log < limits.centre - limits.half)
        self._sort_in(mark, side)
        beyond = side != 0 and side == self._side
        if self._side > 0 and len(self._other) >= LEAST_POINTS:
            self._kept, self._other, self._side = self._other, [], 0
        return Held(_BEYOND[side] if beyond else Verdict.PASS, side, limits, places)

    def _sort_in(self, mark: _Mark, side: int) -> None:
        earlier, self._waiting = self._waiting, []
        if self._side and side == self._side:
            self._other += [*(each for each, _ in earlier), mark]
        elif self._side and not earlier:
            self._waiting = [(mark, side)]
        elif self._side:
            # The second in a row that is not beyond: back at the old level, where both are points like any other.
            self._side, self._other = 0, []
            self._sort_in(*earlier[0])
            self._sort_in(mark, side)
        elif earlier and side == earlier[0][1]:
            self._side, self._other = side, [earlier[0][0], mark]
        else:
            self._kept += [each for each, _ in earlier]
            if side:
                self._waiting = [(mark, side)]
            else:
                self._kept.append(mark)


def limits_of(logs: Sequence[float]) -> Limits:
    """The limits that a baseline of these logarithms gives."""
    centre = median(logs)
    deviation = _MAD_TO_SD * median([abs(each - centre) for each in logs])
    half = _SPREADS * deviation * math.sqrt(1 + _MEDIAN_VARIANCE / len(logs))
    return Limits(centre, max(half, _LEAST_CHANGE))


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


class Change(NamedTuple):
    """One thing that is not what it was; empty where it was, or is, not there."""

    name: str
    before: str
    after: str


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


class LeftOut(NamedTuple):
    """A cell of a run that is no point: status is failed or skipped."""

    slug: str
    cell_key: str
    status: str
    reason: str


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


# --- from a run to points, and what differs -------------------------------------------------------------------------


def points_of(
    run: Run, rows: Sequence[Mapping[str, Any]], commit: str | None, branch: str | None
) -> tuple[list[Point], list[LeftOut]]:
    """A point for each measured cell of a run, and the cells that have none.

    rows: of the run's table (`report.table.rows`), one a record and in their order, so that the history and
    results.csv have the same figures. Raises UserError if the run has no proper time.
    """
    environment = run.environment
    time = whole_time(environment.date, str(run.path / "environment.json"))
    points, left_out = [], []
    for record, row in zip(run.records, rows, strict=True):
        sampled = [each for each in record.rounds if each.seconds > 0]
        if row["status"] != "measured" or record.facts is None or not sampled:
            status = "failed" if row["status"] == "failed" else "skipped"
            left_out.append(LeftOut(record.cell.slug, record.key, status, row["reason"] or "no sample was taken"))
            continue
        stack = stack_of(environment, record.facts.threads)
        points.append(
            Point(
                id=point_id(environment.machine_key, record.key, time, record.rounds[0]),
                time=time,
                commit=commit,
                branch=branch,
                machine_key=environment.machine_key,
                machine=environment.machine,
                device_name=row["device_name"] or environment.device_name,
                stack=stack,
                stack_key=stack_key(stack),
                state=state_of(environment),
                vanbench_version=environment.software.vanbench,
                cell_key=record.key,
                cell=record.cell.asked,
                slug=record.cell.slug,
                images_per_s=row["images_per_s"],
                low=row["images_per_s_low"],
                high=row["images_per_s_high"],
                rounds=len(record.rounds),
                rates=tuple(each.images / each.seconds for each in sampled),
                ratio=row["ratio"],
                reference=row["ratio_to"] if row["ratio"] is not None else None,
                flags=tuple(str(row["flags"]).split(";")) if row["flags"] else (),
            )
        )
    return points, left_out


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """What is not the same, in the order of `after`, then what is gone."""
    names = [*after, *(name for name in before if name not in after)]
    return tuple(
        Change(name, before.get(name, ""), after.get(name, ""))
        for name in names
        if before.get(name, "") != after.get(name, "")
    )


def hardware_differences(here: Hardware, known: Mapping[str, Hardware]) -> tuple[str, tuple[Change, ...]] | None:
    """The machine that is most like this one, by its key, and in what the two differ; None if none is known."""
    if not known:
        return None
    found = {key: differences(_flat(other), _flat(here)) for key, other in known.items()}
    nearest = min(found, key=lambda key: (len(found[key]), key))
    return nearest, found[nearest]


def _flat(hardware: Hardware) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, value in msgspec.to_builtins(hardware).items():
        if name == "gpus":
            for i, gpu in enumerate(value):
                fields.update({f"gpus.{i}.{part}": str(seen) for part, seen in gpu.items()})
        else:
            fields[name] = str(value)
    return fields
