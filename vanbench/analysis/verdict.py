"""The words of a verdict, and what a program leaves with when it has several. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

__all__ = ["REACTIONS", "Verdict", "exit_code", "worst"]


class Verdict(str, Enum):
    """What a comparison came to.

    REGRESSED: slower, beyond doubt and by enough to matter. IMPROVED: its mirror image. PASS: a slowdown that matters
    is excluded. INCONCLUSIVE: neither could be shown. LEARNING: too little history to say. INVALID: what was measured
    cannot answer the question. NEW, MISSING: the base, the head lacks it.
    """

    REGRESSED = "REGRESSED"
    IMPROVED = "IMPROVED"
    PASS = "PASS"
    INCONCLUSIVE = "INCONCLUSIVE"
    LEARNING = "LEARNING"
    INVALID = "INVALID"
    NEW = "NEW"
    MISSING = "MISSING"

    def __str__(self) -> str:
        return self.value


# A regression that was shown counts whatever else is unclear; what is invalid counts more than what is unclear.
_GRAVITY = (
    Verdict.PASS,
    Verdict.NEW,
    Verdict.IMPROVED,
    Verdict.LEARNING,
    Verdict.INCONCLUSIVE,
    Verdict.INVALID,
    Verdict.MISSING,
    Verdict.REGRESSED,
)
_CODES = {
    Verdict.REGRESSED: 1,
    Verdict.MISSING: 1,
    Verdict.LEARNING: 3,
    Verdict.INCONCLUSIVE: 3,
    Verdict.INVALID: 4,
}

# What `--on-inconclusive` and `--on-invalid` take: leave with the verdict's code, or with 0 and a warning, or with 0.
REACTIONS = ("fail", "warn", "pass")


def worst(verdicts: Iterable[Verdict]) -> Verdict | None:
    """The gravest of them; None of none."""
    return max(verdicts, key=_GRAVITY.index, default=None)


def exit_code(verdicts: Iterable[Verdict], on_inconclusive: str = "fail", on_invalid: str = "fail") -> int:
    """0 pass or improved, 1 regressed or missing, 3 inconclusive or still learning, 4 invalid; of several the gravest.

    on_inconclusive, on_invalid: of `REACTIONS`; other than "fail" takes those verdicts as passed.
    """
    reactions = {3: on_inconclusive, 4: on_invalid}
    counted = [each for each in verdicts if reactions.get(_CODES.get(each, 0), "fail") == "fail"]
    gravest = worst(counted)
    return _CODES.get(gravest, 0) if gravest is not None else 0
