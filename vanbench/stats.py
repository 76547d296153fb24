"""Plain statistics of lists of numbers. Knows no rounds and no cells: what they mean is `analysis`'s."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev

__all__ = ["fmean", "median", "quantile", "stdev", "t_half_width", "t_quantile", "trimmed_mean"]


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of `values` lie, linear between order statistics (Hyndman-Fan type 7).

    Raises ValueError for no values or a share outside 0 to 1.
    """
    if not values:
        raise ValueError("a quantile of no values")
    if not 0 <= share <= 1:
        raise ValueError(f"share {share} is not between 0 and 1")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def trimmed_mean(values: Sequence[float], share: float) -> float:
    """The mean without the lowest and the highest `share` (0 to under 0.5) of the values, whole values each side."""
    if not 0 <= share < 0.5:
        raise ValueError(f"share {share} is not from 0 to under 0.5")
    cut = math.floor(len(values) * share)
    return fmean(sorted(values)[cut : len(values) - cut])


def t_quantile(degrees: float, level: float = 0.95) -> float:
    """Student's t: the half-width, in standard errors, of a two-sided interval of `level` with `degrees` of freedom."""
    # scipy.special alone: scipy.stats would cost the parent half a second for one number.
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + level / 2))


def t_half_width(values: Sequence[float], level: float = 0.95) -> float | None:
    """t s / sqrt(n): half of the t interval of the mean of independent `values`; None for fewer than two."""
    if len(values) < 2:
        return None
    return t_quantile(len(values) - 1, level) * stdev(values) / math.sqrt(len(values))
