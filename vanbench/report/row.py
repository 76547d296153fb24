"""What one row of the table is made from: a record, its contest's reference, and the estimates that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from vanbench.analysis import flags, ratio, roofline
from vanbench.analysis.ratio import Estimate
from vanbench.analysis.roofline import Bound
from vanbench.record.ceilings import NO_BOOK, Book, Ceilings
from vanbench.record.environment import Environment
from vanbench.record.measurement import Disturbance, Facts, Round
from vanbench.record.ops import Work
from vanbench.record.record import Measured, Record

__all__ = ["RowSource"]


@dataclass(frozen=True)
class RowSource:
    """What one row is made from.

    reference: the record of the contest's reference, whatever came of it, or None. accompanied: whether another cell
    took turns with this one. book: the ceilings that the run is held against.
    """

    record: Record
    reference: Record | None
    environment: Environment
    accompanied: bool = False
    book: Book = NO_BOOK

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
    def ceilings(self) -> Ceilings | None:
        """The roofs of the device and the thread count that the cell ran with, if they were measured."""
        if self.facts is None:
            return None
        return self.book.of(self.record.stack.machine_key, self.facts.device, self.facts.threads)

    @property
    def works(self) -> tuple[Work, ...]:
        """What the step is held to: its operations where it runs eagerly, the fused ideal where it is compiled."""
        if self.facts is None:
            return ()
        return self.facts.works if self.record.cell.compile == "off" else self.facts.fused

    @property
    def moved_bytes(self) -> int | None:
        """Compulsory traffic of one step."""
        return sum(work.bytes * work.count for work in self.works) or None

    @cached_property
    def bound(self) -> Bound | None:
        """The least time of a step under the measured ceilings."""
        return self._bound(self.works, launch=self.record.cell.compile == "off")

    @cached_property
    def ideal(self) -> Bound | None:
        """The least time of a step if every block were one operation."""
        return self._bound(self.facts.fused if self.facts is not None else (), launch=False)

    @cached_property
    def unmodelled(self) -> list[str]:
        """Operations without a formula, and roofs that the bound would need and nobody measured."""
        found = list(self.facts.unmodelled) if self.facts is not None else []
        if self.ceilings is not None and self.measured:
            lacking = roofline.missing_roofs(self.works, self.ceilings, tf32=self.record.cell.precision == "tf32")
            found += [f"no ceiling: {roof}" for roof in lacking]
        return found

    def _bound(self, works: tuple[Work, ...], *, launch: bool) -> Bound | None:
        if self.ceilings is None or not self.measured:
            return None
        return roofline.bound(works, self.ceilings, tf32=self.record.cell.precision == "tf32", launch=launch)

    @cached_property
    def bound_rate(self) -> float | None:
        """Images/s of the bound."""
        return self.record.cell.batch_size / self.bound.seconds if self.bound is not None else None

    @cached_property
    def bound_fraction(self) -> float | None:
        """Images/s over the bound's."""
        return self.rate.value / self.bound_rate if self.rate is not None and self.bound_rate else None

    @cached_property
    def flags(self) -> tuple[str, ...]:
        """Names of what disturbed it."""
        return flags.flags_of(self.record, self.has_reference, self.half_width, self.bound_fraction)
