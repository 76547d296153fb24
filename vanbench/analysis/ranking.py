"""How steady the order of models is from one configuration to another: Kendall's tau, and pairs that change places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from vanbench.analysis.ratio import Estimate, quotient

__all__ = ["Order", "Pair", "pairs", "tau"]

# What each model reaches in one configuration.
Order = Mapping[str, Estimate]


class Pair(NamedTuple):
    """Two models. changes: whether each is the faster one somewhere; certainly: by intervals that exclude 1."""

    one: str
    other: str
    changes: bool
    certainly: bool


def tau(one: Order, other: Order) -> float | None:
    """Kendall's tau-b of two orders over the models that both hold; None for fewer than two, or where all are equal."""
    # scipy.stats takes half a second to load, and is wanted only where orders are compared.
    from scipy.stats import kendalltau

    both = [model for model in one if model in other]
    if len(both) < 2:
        return None
    figures = [[order[model].value for model in both] for order in (one, other)]
    if any(len(set(values)) == 1 for values in figures):
        return None
    return float(kendalltau(*figures).statistic)


def pairs(orders: Sequence[Order]) -> list[Pair]:
    """Every two models that meet in at least two of the configurations. A tie is nobody's."""
    models = list(dict.fromkeys(model for order in orders for model in order))
    found = []
    for one, other in combinations(models, 2):
        met = [quotient(order[one], order[other]) for order in orders if one in order and other in order]
        if len(met) < 2:
            continue
        changes = any(each.value > 1 for each in met) and any(each.value < 1 for each in met)
        above = any(each.low is not None and each.low > 1 for each in met)
        below = any(each.high is not None and each.high < 1 for each in met)
        found.append(Pair(one, other, changes, above and below))
    return found
