"""The alert rule of the history: what a point is held against, and what is beyond. Pure; it knows numbers, no cells.

All of it lives on the logarithm of images/s, so that a slowdown and the speed-up that undoes it are mirror images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from vanbench.analysis.verdict import Verdict
from vanbench.stats import median

__all__ = ["BASELINE_POINTS", "LEAST_POINTS", "Held", "Level", "Limits", "limits_of"]

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
