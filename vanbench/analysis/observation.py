"""What a gate sees before it judges: one observation a block, how far answers are apart, what grew. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

from vanbench.analysis.flags import disturbed
from vanbench.analysis.ratio import log_ratios, middle_half
from vanbench.record.gate import Apart, Block, Size
from vanbench.record.measurement import Answer, Round

__all__ = ["Observed", "apart", "grown", "observe"]


class Observed(NamedTuple):
    """What one block says. change: ln of the head's images/s over the base's, whose two processes count alike; twin: ln
    of the one's over the other's.

    void: what disturbed it; it is left out. broken: why it can never be judged; it makes the verdict INVALID.
    """

    change: float = math.nan
    twin: float = math.nan
    void: str = ""
    broken: str = ""


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
