"""How the budget is shared: which contest plays next and for how long. Arithmetic over seconds; it starts nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling

__all__ = ["Contest", "expected_seconds", "share_turns", "usable_s"]

# Before anything is known of this machine: seconds to import torch and timm, and to start one cell.
_NURSERY_S = 5.0
_START_S = 2.5
# Two laps are the least a round takes.
_LAPS_AT_LEAST = 2
# Kept back for the last table, the report and its plots.
_RESERVE_SHARE, _RESERVE_S = 0.03, 5.0


@dataclass
class Contest:
    """The cells that are compared with each other, and what is known of the time they need.

    rounds: how many the cell with the fewest has. number: the last round's, for names; it never goes back.
    played: the cells that this job has started before; what they compiled lies in its scratch folder.
    start_s: seconds a round spends outside its turns. lap_s: seconds of one lap; both None before the first round.
    """

    reference: Cell
    cells: list[Cell]
    rounds: int = 0
    number: int = 0
    start_s: float | None = None
    lap_s: float | None = None
    stopped: str | None = None
    alone: set[Cell] = field(default_factory=set)
    played: set[Cell] = field(default_factory=set)
    vetted: bool = False
    vetting_s: float = 0.0

    @property
    def expected_start_s(self) -> float:
        """Seconds of the next round outside its turns."""
        return self.start_s if self.start_s is not None else _START_S * len(self.cells)

    @property
    def least_s(self) -> float:
        """The least its next round takes, 0 before the first: a first answer is tried for while any time is left."""
        return 0.0 if not self.rounds else self.expected_start_s + _LAPS_AT_LEAST * (self.lap_s or 0.0)


def usable_s(budget_s: float) -> float:
    """The part of the budget that may go into rounds."""
    return budget_s * (1 - _RESERVE_SHARE) - _RESERVE_S


def share_turns(
    contest: Contest, active: Sequence[Contest], sampling: Sampling, left_s: float, nursery_s: float
) -> float:
    """Seconds of turns for a contest's next round.

    left_s: what is left for rounds. What the missing rounds need outside their turns is set aside first; the rest is
    shared in proportion to the square root of a lap's length, which makes the summed variance of the contests least,
    as a contest's variance goes with lap length over time.
    """
    missing = max(1, sampling.min_rounds - contest.rounds)
    outside = sum(max(1, sampling.min_rounds - c.rounds) * c.expected_start_s for c in active) + nursery_s * missing
    weights = [math.sqrt(c.lap_s or 1.0) * max(1, sampling.min_rounds - c.rounds) for c in active]
    mine = math.sqrt(contest.lap_s or 1.0)
    return max(0.0, min(sampling.round_s, (left_s - outside) * mine / sum(weights)))


def expected_seconds(contests: Sequence[Sequence[Cell]], sampling: Sampling) -> float:
    """A guess of a whole run's seconds before anything was measured: the budget, or less where rounds are few."""
    a_round = _NURSERY_S + sum(_START_S * len(cells) + sampling.round_s for cells in contests)
    return min(sampling.budget_s, a_round * sampling.max_rounds) if contests else 0.0
