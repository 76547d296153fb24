"""Images/s, and the ratio of two cells from turns taken side by side, each with a 95 % interval over rounds.

The round is the unit of inference: samples of one process share what differs from process to process (memory
layout, which cores), so only rounds are independent. Ratios live on the log scale, where a ratio and its inverse
are mirror images; pairs are samples of the same lap of turns, because the machine's speed wanders by 10 to 30 %
within tenths of a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from vanbench.record.measurement import Round
from vanbench.stats import fmean, median, stdev, t_half_width, t_quantile, trimmed_mean

__all__ = [
    "STATISTIC",
    "STATISTICS",
    "Estimate",
    "around",
    "log_half_width",
    "log_ratios",
    "middle_half",
    "quotient",
    "rate",
    "ratio",
    "relative_half_width",
    "round_log_ratio",
    "welch_half_width",
]


class Estimate(NamedTuple):
    """A figure with its 95 % interval; low and high are None with fewer than two rounds."""

    value: float
    low: float | None = None
    high: float | None = None


def rate(rounds: Sequence[Round]) -> Estimate | None:
    """Images/s: all images over all time of all samples taken in turns; None if no sample was taken.

    The interval is Student's t over the logarithms of the rounds' rates, re-centred on the figure: rates of rounds
    scatter by factors, not by differences.
    """
    sampled = [each for each in rounds if each.seconds > 0]
    if not sampled:
        return None
    value = sum(each.images for each in sampled) / sum(each.seconds for each in sampled)
    return _estimate(value, [math.log(each.images / each.seconds) for each in sampled])


def log_ratios(cell_round: Round, reference_round: Round) -> list[float]:
    """Log of the ratio of images/s for each lap: the i-th sample of one with the i-th of the other.

    The two took turns, so the i-th samples are of the same lap; the longer one's surplus has no partner.
    """
    laps = zip(
        cell_round.sample_images,
        cell_round.sample_s,
        reference_round.sample_images,
        reference_round.sample_s,
        strict=False,
    )
    return [math.log((images / seconds) / (other / other_s)) for images, seconds, other, other_s in laps]


def middle_half(logs: Sequence[float]) -> float:
    """The mean of the middle half of the laps: a stall of a tenth of a second leaves it alone."""
    return trimmed_mean(logs, 0.25)


def _total(cell_round: Round, reference_round: Round) -> float:
    return math.log((cell_round.images / cell_round.seconds) / (reference_round.images / reference_round.seconds))


# How the laps of one round become one number. The default was chosen from A/A rounds, where the middle half of the
# pairs gave the steadiest ratio (docs/measurement.md); the others are there to be compared with it. No sample is left
# out of images/s, and every one is in the record.
STATISTIC = "trimmed25"
STATISTICS: Mapping[str, Callable[[Round, Round], float]] = MappingProxyType(
    {
        "mean": lambda mine, other: fmean(log_ratios(mine, other)),
        "trimmed10": lambda mine, other: trimmed_mean(log_ratios(mine, other), 0.10),
        "trimmed25": lambda mine, other: middle_half(log_ratios(mine, other)),
        "median": lambda mine, other: median(log_ratios(mine, other)),
        "total": _total,
    }
)


def round_log_ratio(cell_round: Round, reference_round: Round, statistic: str = STATISTIC) -> float | None:
    """One round's log-ratio of images/s; None if one of the two took no sample. KeyError: no such statistic."""
    summarise = STATISTICS[statistic]
    if not cell_round.sample_s or not reference_round.sample_s:
        return None
    return summarise(cell_round, reference_round)


def ratio(
    cell_rounds: Sequence[Round], reference_rounds: Sequence[Round], statistic: str = STATISTIC
) -> Estimate | None:
    """The cell's images/s over the reference's, from the rounds in which both took turns; None if there are none.

    Rounds are matched by their id, so that a reference that lived in several groups is compared only with those it
    took turns with. The figure is exp of the mean over rounds, the interval exp(± t s / sqrt(rounds)) around it.
    """
    beside = {each.round: each for each in reference_rounds}
    pairs = [(mine, beside[mine.round]) for mine in cell_rounds if mine.round in beside]
    logs = [log for mine, other in pairs if (log := round_log_ratio(mine, other, statistic)) is not None]
    return _estimate(math.exp(fmean(logs)), logs) if logs else None


def relative_half_width(estimate: Estimate | None) -> float | None:
    """Half of the interval's width over the figure: what `--target` is compared with; None without an interval."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / (2 * estimate.value)


def quotient(one: Estimate, other: Estimate) -> Estimate:
    """One figure over another; on the log scale their half-widths are added in quadrature.

    Right for figures that are independent, too wide for two ratios to one reference, whose noise they share. Without
    an interval where either has none.
    """
    value = one.value / other.value
    halves = [log_half_width(each) for each in (one, other)]
    if halves[0] is None or halves[1] is None:
        return Estimate(value)
    return around(value, math.hypot(halves[0], halves[1]))


def around(value: float, half: float) -> Estimate:
    """The figure with an interval of `half` either way on the log scale, as far as exp can hold it.

    With two wildly different rounds t s / sqrt(n) can pass that; such an interval says "anything".
    """
    half = min(half, 300.0)
    return Estimate(value, value * math.exp(-half), value * math.exp(half))


def log_half_width(estimate: Estimate) -> float | None:
    """Half of the interval's width on the log scale; None without an interval, or with one that begins at 0."""
    if not estimate.low or estimate.high is None:
        return None
    return math.log(estimate.high / estimate.low) / 2


def welch_half_width(base: Sequence[float], head: Sequence[float], level: float = 0.95) -> float:
    """Half of Welch's interval of a difference of means: unequal variances, Satterthwaite's degrees of freedom.

    Both need two values at least; 0 where neither varies.
    """
    parts = [(stdev(values) ** 2 / len(values), len(values) - 1) for values in (base, head)]
    whole = sum(part for part, _ in parts)
    if whole == 0:
        return 0.0
    # As shares of the whole, since squares of tiny variances vanish.
    degrees = 1 / sum((part / whole) ** 2 / count for part, count in parts)
    return t_quantile(degrees, level) * math.sqrt(whole)


def _estimate(value: float, logs: Sequence[float]) -> Estimate:
    half = t_half_width(logs)
    return Estimate(value) if half is None else around(value, half)
