"""What a selftest shows: is the harness right, and what can it detect on this machine in how many minutes? Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from vanbench.analysis.gate import Judgement, decide, detectable
from vanbench.analysis.observation import Observed, observe
from vanbench.analysis.ratio import Estimate, rate
from vanbench.analysis.verdict import Verdict
from vanbench.record.gate import Block
from vanbench.record.selftest import SelftestRecord, TruthBlock
from vanbench.spec.rules import Rules
from vanbench.stats import fmean, median, stdev, t_half_width

__all__ = ["Findings", "Known", "Truth", "findings", "minutes_for"]

REDRAWN = 2000
# A busy wait is at most so far off its own deadline; beyond, the harness times something else than the steps.
KNOWN_LIMIT = 0.02


class Known(NamedTuple):
    """The model of known rate. error: relative, of the measured images/s."""

    truth: float
    measured: Estimate
    error: float


class Truth(NamedTuple):
    """One injected slowdown (share of time). measured: as found, with its 95 % interval; covered: whether it holds it.

    judgement: the gate's, over the blocks as they came. redrawn: the share of gates drawn again from these blocks that
    came to REGRESSED.
    """

    slowdown: float
    measured: Estimate
    covered: bool
    judgement: Judgement
    redrawn: float


class Findings(NamedTuple):
    """blocks: that could be judged; left_out: disturbed ones. sd: of a block's log-ratio. block_s: seconds of a gate's
    block. groups: (intervals of four blocks that hold their truth, all such intervals). problem: why nothing is known.
    """

    known: Known | None
    truths: tuple[Truth, ...]
    blocks: int
    left_out: int
    sd: float | None
    block_s: float | None
    groups: tuple[int, int]
    problem: str = ""

    @property
    def sound(self) -> bool:
        """Whether nothing speaks against the harness."""
        known = self.known is None or abs(self.known.error) <= KNOWN_LIMIT
        calm = all(each.judgement.verdict is not Verdict.REGRESSED for each in self.truths if each.slowdown == 0)
        return known and calm and not self.problem


def findings(record: SelftestRecord, seed: int = 0) -> Findings:
    """Everything that a selftest's record tells."""
    lost = next((loss for block in record.blocks for loss in block.lost), None)
    if lost is not None:
        return Findings(_known(record), (), 0, 0, None, None, (0, 0), f"{lost.role}: {lost.kind}: {lost.message}")
    by_seat = {
        seat: [observe(_as_gate(block, seat)) for block in record.blocks] for seat in range(2, len(record.seats))
    }
    # What disturbs one seat of a block disturbs the block.
    void = [any(seen[place].void for seen in by_seat.values()) for place in range(len(record.blocks))]
    valid = {
        seat: [each for each, out in zip(seen, void, strict=True) if not out and not each.broken]
        for seat, seen in by_seat.items()
    }
    count = min((len(seen) for seen in valid.values()), default=0)
    if count < 2:
        why = f"{sum(void)} of {len(record.blocks)} blocks were disturbed by other programs; 2 calm ones are the least"
        return Findings(_known(record), (), count, sum(void), None, None, (0, 0), why)
    draw = random.Random(seed)
    truths = tuple(_truth(record.seats[seat], seen, record.rules, draw) for seat, seen in valid.items())
    residuals = [each.change + math.log1p(record.seats[seat]) for seat, seen in valid.items() for each in seen]
    held, all_of_them = 0, 0
    for seat, seen in valid.items():
        for start in range(0, count - count % 4, 4):
            held += _covers([each.change for each in seen[start : start + 4]], record.seats[seat])
            all_of_them += 1
    seconds = median([_gate_seconds(block) for block in record.blocks])
    return Findings(_known(record), truths, count, sum(void), stdev(residuals), seconds, (held, all_of_them))


def minutes_for(found: Findings, slowdown: float, rules: Rules) -> float | None:
    """Minutes of a gate's first pass after which a slowdown is found (at `Rules.power`); None if 24 blocks cannot."""
    if found.sd is None or found.block_s is None or slowdown <= rules.min_effect:
        return None
    for count in rules.looks:
        if detectable(found.sd, count, rules.alpha_of(1), rules.power) <= slowdown:
            return count * found.block_s / 60
    return None


def _known(record: SelftestRecord) -> Known | None:
    seen = rate(record.known)
    if seen is None:
        return None
    return Known(record.known_images_per_s, seen, seen.value / record.known_images_per_s - 1)


def _gate_seconds(block: TruthBlock) -> float:
    """What the block would have taken with three seats: without the others' starts and turns."""
    rounds = [each for each in block.rounds if each is not None]
    turns = max(each.sample_start_s[-1] for each in rounds) - min(each.sample_start_s[0] for each in rounds)
    surplus = 1 - 3 / len(rounds)
    return block.seconds - surplus * (turns + sum(each.start_up_s for each in rounds))


def _as_gate(block: TruthBlock, seat: int) -> Block:
    base, twin, head = block.rounds[0], block.rounds[1], block.rounds[seat]
    return Block(number=block.number, seed=0, order=(), base=base, head=head, twin=twin)


def _truth(slowdown: float, seen: Sequence[Observed], rules: Rules, draw: random.Random) -> Truth:
    changes = [each.change for each in seen]
    half = t_half_width(changes)
    assert half is not None
    mean = fmean(changes)
    judgement = decide(seen, rules, over=True)
    assert judgement is not None
    hits = 0
    for _ in range(REDRAWN):
        again = decide(draw.choices(seen, k=rules.looks[-1]), rules, over=True)
        hits += again is not None and again.verdict is Verdict.REGRESSED
    measured = Estimate(math.expm1(-mean), math.expm1(-mean - half), math.expm1(-mean + half))
    return Truth(slowdown, measured, _covers(changes, slowdown), judgement, hits / REDRAWN)


def _covers(changes: Sequence[float], slowdown: float) -> bool:
    half = t_half_width(changes)
    return half is not None and abs(fmean(changes) + math.log1p(slowdown)) <= half
