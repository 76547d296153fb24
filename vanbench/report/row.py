"""What one row of the table is made from: a record, its contest's reference, and the estimates that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vanbench.analysis import flags, ratio
from vanbench.analysis.ratio import Estimate
from vanbench.record.environment import Environment
from vanbench.record.measurement import Disturbance, Facts, Round
from vanbench.record.record import Measured, Record

__all__ = ["RowSource"]


@dataclass(frozen=True)
class RowSource:
    """What one row is made from.

    reference: the record of the contest's reference, whatever came of it, or None. accompanied: whether another cell
    took turns with this one.
    """

    record: Record
    reference: Record | None
    environment: Environment
    accompanied: bool = False

    @property
    def measured(self) -> bool:
        """Whether the row has figures: a cell that failed in any round has none, its rounds stay in the record."""
        return isinstance(self.record.outcome, Measured) and bool(self.record.rounds)

    @property
    def is_reference(self) -> bool:
        """Whether the cell is what the others of its contest are divided by."""
        return self.reference is not None and self.reference.key == self.record.key

    @property
    def has_reference(self) -> bool:
        """Whether the contest's reference was measured."""
        return self.reference is not None and isinstance(self.reference.outcome, Measured)

    @property
    def rounds(self) -> Sequence[Round]:
        """The rounds that figures come from."""
        return self.record.rounds if self.measured else ()

    @property
    def facts(self) -> Facts | None:
        """Facts, as far as the cell got."""
        return self.record.facts

    @property
    def disturbances(self) -> list[Disturbance]:
        """One for each round, of failed cells too."""
        return [each.disturbance for each in self.record.rounds]

    @cached_property
    def rate(self) -> Estimate | None:
        """Images/s."""
        return ratio.rate(self.rounds)

    @cached_property
    def ratio(self) -> Estimate | None:
        """Images/s over the reference's; 1 with no interval for the reference itself."""
        if not self.measured or not self.has_reference or self.reference is None:
            return None
        if self.is_reference:
            return Estimate(1.0)
        return ratio.ratio(self.rounds, self.reference.rounds)

    @cached_property
    def half_width(self) -> float | None:
        """What `--target` is about: of `ratio`, or of images/s where nothing is beside the cell.

        None for a reference with others beside it: the precision that was aimed at is theirs.
        """
        if self.ratio is not None and not self.is_reference:
            return ratio.relative_half_width(self.ratio)
        if self.is_reference and self.accompanied:
            return None
        return ratio.relative_half_width(self.rate)

    @cached_property
    def flags(self) -> tuple[str, ...]:
        """Names of what disturbed it."""
        return flags.flags_of(self.record, self.has_reference, self.half_width)
