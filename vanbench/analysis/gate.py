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

from vanbench.analysis.flags import disturbed
from vanbench.analysis.ratio import log_ratios, middle_half
from vanbench.analysis.verdict import Verdict
from vanbench.record.gate import Apart, Block, Size
from vanbench.record.measurement import Answer, Round
from vanbench.spec.rules import Rules
from vanbench.stats import fmean, stdev

__all__ = ["Judgement", "Observed", "apart", "decide", "detectable", "grown", "look", "observe"]

# Beyond so many blocks nobody waits; "more than" is said then.
_MOST_BLOCKS = 1000


class Observed(NamedTuple):
    """What one block says. change: ln of the head's images/s over the base's, whose two processes count alike; twin: ln
    of the one's over the other's.

    void: what disturbed it; it is left out. broken: why it can never be judged; it makes the verdict INVALID.
    """

    change: float = math.nan
    twin: float = math.nan
    void: str = ""
    broken: str = ""


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


# --- from raw samples to observations -------------------------------------------------------------------------------


def observe(block: Block) -> Observed:
    """One block's log-ratios, or why it has none."""
    if block.lost:
        return Observed(broken="; ".join(f"{each.role}: {each.kind}: {each.message}" for each in block.lost))
    rounds = {"base": block.base, "head": block.head, "twin": block.twin}
    absent = [role for role, each in rounds.items() if each is None]
    if absent:
        return Observed(broken=f"block {block.number} has no round of {' and '.join(absent)}")
    present = {role: each for role, each in rounds.items() if each is not None}
    counts = {role: len(each.sample_s) for role, each in present.items()}
    if len(set(counts.values())) > 1 or not counts["base"]:
        words = ", ".join(f"{role} {count}" for role, count in counts.items())
        return Observed(broken=f"block {block.number} has unequal counts of samples: {words}")
    for role, each in present.items():
        problem = _problem_of(each)
        if problem:
            return Observed(broken=f"block {block.number}, {role}: {problem}")
    # The base arm has two processes in each block, and the mean of both comparisons counts: against one alone the
    # spread of a block would be 2/sqrt(3) times as large, for the same machine time. Each comparison is trimmed by
    # itself: of equal processes its laps are symmetric about 0, stalls and all. Laps held against the mean of two are
    # not, as either of two may stall; a trimmed mean of those favoured the head by 0.24 % (docs/measurement.md).
    to_base, to_twin = (middle_half(log_ratios(present["head"], present[role])) for role in ("base", "twin"))
    change = (to_base + to_twin) / 2
    twin = middle_half(log_ratios(present["twin"], present["base"]))
    return Observed(change, twin, void=", ".join(disturbed(list(present.values()))))


def _problem_of(one: Round) -> str:
    if len(one.sample_images) != len(one.sample_s):
        return f"{len(one.sample_s)} samples, but {len(one.sample_images)} counts of images"
    for number, (seconds, images) in enumerate(zip(one.sample_s, one.sample_images, strict=True), 1):
        if not (math.isfinite(seconds) and seconds > 0):
            return f"sample {number} took {seconds} s"
        if images <= 0:
            return f"sample {number} has {images} images"
    return ""


def apart(base: Answer, head: Answer) -> Apart:
    """The largest relative L2 distance of the head's rows from the base's, in units of what is allowed there.

    Rows that do not match in number or length, and figures that are not finite, are infinitely far apart.
    """
    shapes = [[len(row) for row in answer.rows] for answer in (base, head)]
    if base.quantity != head.quantity or shapes[0] != shapes[1]:
        return Apart(quantity=base.quantity, distance=math.inf, allowed=0.0)
    gravest = Apart(quantity=base.quantity, distance=0.0, allowed=max(*base.tolerances, *head.tolerances, 0.0))
    worst = -1.0
    for mine, theirs, *allowed in zip(base.rows, head.rows, base.tolerances, head.tolerances, strict=True):
        norm = math.sqrt(math.fsum(x * x for x in mine))
        distance = math.dist(mine, theirs) / norm if norm > 0 else math.inf
        if not math.isfinite(distance):
            return Apart(quantity=base.quantity, distance=math.inf, allowed=max(allowed))
        if distance / max(allowed) > worst:
            worst = distance / max(allowed)
            gravest = Apart(quantity=base.quantity, distance=distance, allowed=max(allowed))
    return gravest


def grown(base: Size, head: Size) -> list[str]:
    """What the head has more of, in words: parameters, MACs, modelled bytes, graph breaks. Counted, not estimated."""
    names = {
        "params": "parameters",
        "macs": "MACs an image",
        "bytes_modelled": "modelled bytes a step",
        "graph_breaks": "graph breaks",
    }
    found = []
    for field, words in names.items():
        before, after = getattr(base, field), getattr(head, field)
        if before is not None and after is not None and after > before:
            found.append(f"{after - before:,} more {words} ({before:,} to {after:,})")
    return found


# --- from observations to a verdict ---------------------------------------------------------------------------------


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
