"""What a gate's record comes to: a verdict for each pair of cells and for all together. Pure, so it can be replayed.

The live gate asks the same functions what to play next, so that a replay cannot come to another end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from vanbench.analysis.gate import Judgement, decide
from vanbench.analysis.observation import Observed, grown, observe
from vanbench.analysis.verdict import Verdict
from vanbench.record.gate import GateRecord, PairRecord
from vanbench.stats import fmean

__all__ = ["Outcome", "PairOutcome", "outcome", "playing", "suspects", "timed"]

ALL = "all cells (geometric mean)"


class PairOutcome(NamedTuple):
    """One line of the answer. first, second: the passes' judgements, None where there were none.

    confirmed: whether a regression recurred; None where nothing was to be confirmed. more, less: what the head has more
    or less of, counted, not timed.
    """

    slug: str
    verdict: Verdict
    why: str
    first: Judgement | None = None
    second: Judgement | None = None
    confirmed: bool | None = None
    more: tuple[str, ...] = ()
    less: tuple[str, ...] = ()

    @property
    def shown(self) -> Judgement | None:
        """The judgement whose figures stand for the pair: the second pass's where there was one."""
        return self.second if self.second is not None else self.first


class Outcome(NamedTuple):
    """pairs: in the record's order. family: over all timed pairs, where there are two or more. problem: for all."""

    pairs: tuple[PairOutcome, ...]
    family: PairOutcome | None = None
    problem: str = ""

    @property
    def verdicts(self) -> list[Verdict]:
        """Everything that decides the exit code."""
        found = [each.verdict for each in self.pairs]
        if self.problem:
            found.append(Verdict.INVALID)
        # All cells together add a verdict only where they show what no single cell could.
        if self.family is not None and self.family.verdict is Verdict.REGRESSED:
            found.append(Verdict.REGRESSED)
        return found


def outcome(record: GateRecord) -> Outcome:
    """The verdicts of a record, as far as it goes: what was not played any more is INVALID or INCONCLUSIVE."""
    problem = record.problem or _machines(record)
    if problem:
        return Outcome((), problem=problem)
    cells = len(timed(record))
    return Outcome(tuple(_pair(record, each, cells) for each in record.pairs), _family(record))


def timed(record: GateRecord) -> list[int]:
    """Which pairs (by their place) nothing but time can decide."""
    return [index for index, each in enumerate(record.pairs) if _settled(each) is None]


def playing(record: GateRecord, index: int, number: int) -> Judgement | None:
    """The judgement of pass `number` (0 or 1) of a pair as it stands; None while it wants more blocks."""
    blocks = record.pairs[index].passes[number]
    return decide([observe(block) for block in blocks], record.rules, cells=len(timed(record)))


def suspects(record: GateRecord) -> list[int]:
    """The pairs that a second pass must play: those that regressed; all, where they did so together."""
    if outcome(record).problem:
        return []
    family = _family_pass(record, 0)
    everybody = family is not None and family.verdict is Verdict.REGRESSED
    members = timed(record)
    found = []
    for index in members:
        first = _pass(record, record.pairs[index], 0, len(members))
        if everybody or (first is not None and first.verdict is Verdict.REGRESSED):
            found.append(index)
    return found


def _machines(record: GateRecord) -> str:
    base, head = record.base.environment, record.head.environment
    if base is not None and head is not None and base.machine_key != head.machine_key:
        return f"the arms were measured on different machines: {base.machine_key} and {head.machine_key}"
    return ""


def _settled(pair: PairRecord) -> PairOutcome | None:
    """A pair's outcome that needs no timing, or None."""
    slug = pair.pair.slug
    if pair.missing == "head":
        return PairOutcome(slug, Verdict.MISSING, pair.problem or "the head does not have it")
    if pair.missing == "base":
        return PairOutcome(slug, Verdict.NEW, pair.problem or "the base does not have it: nothing to compare with")
    if pair.problem:
        return PairOutcome(slug, Verdict.INVALID, pair.problem)
    more, less = _counted(pair)
    if more and pair.base == pair.head:
        return PairOutcome(slug, Verdict.REGRESSED, f"{'; '.join(more)}: counted, not timed", more=more, less=less)
    if pair.apart is not None and not pair.apart.distance <= pair.apart.allowed:
        off = f"{pair.apart.distance:.3g}" if math.isfinite(pair.apart.distance) else "beyond measure"
        why = f"the arms' {pair.apart.quantity} differ by {off} (relative L2, at most {pair.apart.allowed:.3g} allowed)"
        return PairOutcome(slug, Verdict.INVALID, f"{why}: not the same function", more=more, less=less)
    return None


def _counted(pair: PairRecord) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if pair.base_size is None or pair.head_size is None:
        return (), ()
    less = (text.replace(" more ", " less ", 1) for text in grown(pair.head_size, pair.base_size))
    return tuple(grown(pair.base_size, pair.head_size)), tuple(less)


def _pass(record: GateRecord, pair: PairRecord, number: int, cells: int) -> Judgement | None:
    if number >= len(pair.passes):
        return None
    return decide([observe(block) for block in pair.passes[number]], record.rules, cells=cells, over=True)


def _pair(record: GateRecord, pair: PairRecord, cells: int) -> PairOutcome:
    settled = _settled(pair)
    if settled is not None:
        return settled
    more, less = _counted(pair)
    first, second = _pass(record, pair, 0, cells), _pass(record, pair, 1, cells)
    assert first is not None
    return _confirmed(pair.pair.slug, first, second)._replace(more=more, less=less)


def _confirmed(slug: str, first: Judgement, second: Judgement | None) -> PairOutcome:
    """Two passes as one outcome: a regression counts only if it recurs."""
    if first.verdict is not Verdict.REGRESSED:
        # A second pass that only the cells together asked for adds nothing to a cell that did not regress.
        return PairOutcome(slug, first.verdict, first.why, first)
    if second is None:
        why = f"{first.why}; not confirmed: no second pass was played"
        return PairOutcome(slug, Verdict.INCONCLUSIVE, why, first, confirmed=False)
    if second.verdict is Verdict.REGRESSED:
        return PairOutcome(slug, Verdict.REGRESSED, f"{second.why} (confirmed 2 of 2)", first, second, True)
    verdict = Verdict.INCONCLUSIVE if second.verdict is Verdict.IMPROVED else second.verdict
    why = f"the first pass found {first.why}, the second did not: {second.why}"
    return PairOutcome(slug, verdict, why, first, second, False)


def _family(record: GateRecord) -> PairOutcome | None:
    first, second = _family_pass(record, 0), _family_pass(record, 1)
    return None if first is None else _confirmed(ALL, first, second)


def _family_pass(record: GateRecord, number: int) -> Judgement | None:
    """The mean over all timed pairs, block by block, over the blocks that all of them played undisturbed."""
    together = [record.pairs[index] for index in timed(record)]
    if len(together) < 2 or any(number >= len(each.passes) for each in together):
        return None
    by_number: dict[int, list[Observed]] = {}
    for pair in together:
        for block in pair.passes[number]:
            seen = observe(block)
            if not seen.void and not seen.broken:
                by_number.setdefault(block.number, []).append(seen)
    common = [seen for _, seen in sorted(by_number.items()) if len(seen) == len(together)]
    return decide([_mean(each) for each in common], record.rules, over=True)


def _mean(cells: Sequence[Observed]) -> Observed:
    return Observed(fmean(each.change for each in cells), fmean(each.twin for each in cells))
