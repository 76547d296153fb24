"""Where a model's throughput stops growing with its batch, and what it reaches within a limit of latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vanbench.analysis.ratio import Estimate, quotient

__all__ = ["SHARE", "Knee", "Point", "best_within", "knee"]

# The share of the best images/s at which a batch is large enough.
SHARE = 0.95


class Point(NamedTuple):
    """One batch size of a model. step_s: the median time of a step, which is the latency of its batch."""

    batch_size: int
    rate: Estimate
    step_s: float


class Knee(NamedTuple):
    """batch_size: the smallest that reaches SHARE of the best. earliest, latest: what the intervals leave open.

    Where it is the largest of all, the sweep has not reached the bend, and it is `at_end`.
    """

    batch_size: int
    earliest: int
    latest: int
    at_end: bool = False


def knee(points: Sequence[Point]) -> Knee | None:
    """From the points of one model; None with fewer than three batch sizes, which show no bend."""
    if len(points) < 3:
        return None
    ordered = sorted(points, key=lambda point: point.batch_size)
    best = max(ordered, key=lambda point: point.rate.value)
    # The best is all of itself, for certain.
    whole = Estimate(1.0, 1.0, 1.0)
    shares = [quotient(point.rate, best.rate) if point is not best else whole for point in ordered]

    def first(ends: Sequence[float]) -> int:
        return next(point.batch_size for point, end in zip(ordered, ends, strict=True) if end >= SHARE)

    found = first([share.value for share in shares])
    earliest = first([share.value if share.high is None else share.high for share in shares])
    latest = first([share.value if share.low is None else share.low for share in shares])
    return Knee(found, earliest, latest, found == ordered[-1].batch_size)


def best_within(points: Sequence[Point], limit_s: float) -> Point | None:
    """The point with the most images/s among those whose step takes at most `limit_s`; None if none does."""
    quick = [point for point in points if point.step_s <= limit_s]
    return max(quick, key=lambda point: point.rate.value, default=None)
