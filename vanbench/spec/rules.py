"""The constants of a verdict, settled before anything is measured and written into every record."""

from __future__ import annotations

import math

import msgspec

__all__ = ["Rules"]


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a gate judges. Effects are shares of time: 0.05 is a step that takes 1.05 times as long.

    looks: after how many valid blocks a verdict may be made; alpha: the most a cell's false REGRESSED may cost over
    all of them, split evenly. min_effect: what is slower by less is never REGRESSED. tolerance: PASS means that a
    slowdown of this much is excluded, with `confidence`. power: at which the smallest detectable effect is told.
    twin_limit, twin_alpha: how far, and how surely, the base's twin may be off its base. void_share: of the blocks, how
    many may be left out for disturbance. family_alpha: the most for all cells together; with many cells alpha shrinks.
    """

    alpha: float = 0.001
    looks: tuple[int, ...] = (8, 12, 16, 24)
    min_effect: float = 0.02
    tolerance: float = 0.05
    confidence: float = 0.98
    power: float = 0.8
    twin_limit: float = 0.02
    twin_alpha: float = 0.01
    void_share: float = 0.25
    family_alpha: float = 0.01

    @property
    def least(self) -> float:
        """min_effect as a log-ratio."""
        return math.log1p(self.min_effect)

    @property
    def bound(self) -> float:
        """tolerance as a log-ratio."""
        return math.log1p(self.tolerance)

    def alpha_of(self, cells: int) -> float:
        """One look's share of alpha where `cells` are judged at once."""
        return min(self.alpha, self.family_alpha / max(1, cells)) / len(self.looks)
