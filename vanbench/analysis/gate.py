"""Slower or not? From blocks to a verdict. Pure: the same numbers give the same words, on any machine, at any time.

A block is one fresh process of each arm and a twin of the base, taking turns; its log-ratio of images/s, head over
the mean of base and twin, is one observation. Blocks are the unit of inference, since samples of one process share what
differs from process to process. A verdict may be made after 8, 12, 16 or 24 valid blocks and at no other time, and the
error that is allowed is split over these looks; so nothing is gained by stopping when the figures happen to please.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from vanbench.analysis.observation import Observed
from vanbench.analysis.verdict import Verdict
from vanbench.spec.rules import Rules
from vanbench.stats import fmean, stdev

__all__ = ["Judgement", "decide", "detectable", "look"]

# Beyond so many blocks nobody waits; "more than" is said then.
_MOST_BLOCKS = 1000


class Judgement(NamedTuple):
    """A verdict and what it rests on. Log-ratios are of images/s, head over base: below 0 is slower.

    why: one line. blocks: that were judged; left_out: disturbed ones. mean, sd: of the blocks' log-ratios; low, high:
    of the mean, 95 %. p_slower, p_faster: one-sided. excluded: the least slowdown (share of time) that is excluded at
    this look. detectable: the smallest slowdown that so many blocks would find (at `Rules.power`). needed: blocks
    after which `Rules.tolerance` would be found. None: not known.
    """

    verdict: Verdict
    why: str
    blocks: int = 0
    left_out: int = 0
    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p_slower: float | None = None
    p_faster: float | None = None
    excluded: float | None = None
    detectable: float | None = None
    needed: int | None = None
    twin: float | None = None


def decide(observed: Sequence[Observed], rules: Rules, *, cells: int = 1, over: bool = False) -> Judgement | None:
    """The verdict over a pass's blocks in their order, or None while more are needed.

    cells: how many are judged at once. over: no more will be played, so there is a verdict.
    """
    broken = next((each.broken for each in observed if each.broken), "")
    if broken:
        return Judgement(Verdict.INVALID, broken, blocks=len(observed))
    valid = [each for each in observed if not each.void]
    left_out = len(observed) - len(valid)
    if left_out > rules.void_share * max(rules.looks[0], len(observed)):
        reasons = sorted({each.void for each in observed if each.void})
        return Judgement(
            Verdict.INVALID,
            f"{left_out} of {len(observed)} blocks were disturbed: {'; '.join(reasons)}",
            blocks=len(valid),
            left_out=left_out,
        )
    seen: Judgement | None = None
    for count in rules.looks:
        if count > len(valid):
            break
        seen = look(valid[:count], rules, cells=cells)._replace(left_out=left_out)
        if seen.verdict is not Verdict.INCONCLUSIVE:
            return seen
    if seen is not None and seen.blocks == rules.looks[-1]:
        return seen
    if not over:
        return None
    if seen is None:
        return Judgement(
            Verdict.INVALID,
            f"{len(valid)} valid blocks; at least {rules.looks[0]} are needed",
            blocks=len(valid),
            left_out=left_out,
        )
    return seen


def look(blocks: Sequence[Observed], rules: Rules, *, cells: int = 1) -> Judgement:
    """One look at valid blocks: a verdict, INCONCLUSIVE where nothing is shown (yet)."""
    changes, twins = [each.change for each in blocks], [each.twin for each in blocks]
    count, degrees = len(changes), len(changes) - 1
    if not all(math.isfinite(value) for value in (*changes, *twins)):
        return Judgement(Verdict.INVALID, "a block's ratio is not finite", blocks=count)
    alpha = rules.alpha_of(cells)
    mean, sd = fmean(changes), stdev(changes)
    error = sd / math.sqrt(count)
    p_slower, p_faster = _below(mean, error, degrees), _below(-mean, error, degrees)
    half = _quantile(degrees, 0.975) * error
    # The upper end of the slowdown, at this look's share of what is left to error.
    upper = -mean + _quantile(degrees, 1 - (1 - rules.confidence) / len(rules.looks)) * error
    found = Judgement(
        verdict=Verdict.INCONCLUSIVE,
        why="",
        blocks=count,
        mean=mean,
        sd=sd,
        low=mean - half,
        high=mean + half,
        p_slower=p_slower,
        p_faster=p_faster,
        excluded=_share(max(0.0, upper)),
        detectable=detectable(sd, count, alpha, rules.power),
        needed=_needed(sd, alpha, rules),
        twin=fmean(twins),
    )
    trouble = _twin_trouble(twins, rules)
    if trouble:
        return found._replace(verdict=Verdict.INVALID, why=trouble)
    if p_slower < alpha and mean < -rules.least:
        return found._replace(verdict=Verdict.REGRESSED, why=f"a step takes {_times(-mean)} as long")
    if p_faster < alpha and mean > rules.least:
        return found._replace(verdict=Verdict.IMPROVED, why=f"{_times(mean)} as many images/s")
    if upper < rules.bound:
        return found._replace(verdict=Verdict.PASS, why=f"a slowdown above {_percent(found.excluded)} is excluded")
    return found._replace(why=_unclear(found, rules))


def detectable(sd: float, blocks: int, alpha: float, power: float) -> float:
    """The smallest slowdown (share of time) that `blocks` blocks of this spread find with `power` at level `alpha`."""
    degrees = blocks - 1
    return _share((_quantile(degrees, 1 - alpha) + _quantile(degrees, power)) * sd / math.sqrt(blocks))


def _needed(sd: float, alpha: float, rules: Rules) -> int | None:
    """The least count of blocks, a look's or beyond the last, at which `rules.tolerance` is found; None above 1000."""
    counts: list[int] = [*rules.looks, *range(rules.looks[-1] + 8, _MOST_BLOCKS + 1, 8)]
    enough = (count for count in counts if detectable(sd, count, alpha, rules.power) <= rules.tolerance)
    return next(enough, None)


def _twin_trouble(twins: Sequence[float], rules: Rules) -> str:
    mean = fmean(twins)
    if abs(mean) <= math.log1p(rules.twin_limit):
        return ""
    error = stdev(twins) / math.sqrt(len(twins))
    p = 2 * min(_below(mean, error, len(twins) - 1), _below(-mean, error, len(twins) - 1))
    if p >= rules.twin_alpha / len(rules.looks):
        return ""
    return (
        f"the base's twin, the same code, has {_percent(math.expm1(mean))} other images/s than its base: "
        "this machine cannot be trusted with this comparison"
    )


def _unclear(found: Judgement, rules: Rules) -> str:
    assert found.detectable is not None
    text = f"the smallest slowdown that {found.blocks} blocks find is {_percent(found.detectable)}"
    if found.detectable <= rules.tolerance:
        return f"{text}; up to {_percent(found.excluded)} is not excluded"
    more = f"about {found.needed}" if found.needed is not None else f"more than {_MOST_BLOCKS}"
    return f"{text}; {_percent(rules.tolerance)} needs {more} blocks"


def _below(mean: float, error: float, degrees: int) -> float:
    """The chance of a mean as low as this, or lower, if the truth is 0."""
    from scipy.special import stdtr

    if error == 0:
        return 0.0 if mean < 0 else (1.0 if mean > 0 else 0.5)
    return float(stdtr(degrees, mean / error))


def _quantile(degrees: int, share: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, share))


def _share(log: float) -> float:
    """A log-ratio as a share of time; one that exp cannot hold says "anything"."""
    return math.expm1(min(log, 300.0))


def _times(log: float) -> str:
    return f"{math.exp(log):.3f} times"


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0.0):.2g} %"
