"""What another allocator is worth on a machine, and which to recommend. Pure arithmetic over a run's records."""

from __future__ import annotations

from collections.abc import Sequence

from vanbench.analysis.ratio import ratio
from vanbench.record.allocators import Gain, Gains
from vanbench.record.environment import Environment
from vanbench.record.record import Record
from vanbench.spec.names import ALLOCATORS

__all__ = ["gains", "recommended"]

# A gain that is not worth a setting of the environment.
_LEAST = 1.02


def gains(records: Sequence[Record], environment: Environment) -> Gains | None:
    """The images/s of each allocator's cell over those of `system`, from turns; None without both."""
    by = {record.cell.allocator: record for record in records if record.rounds}
    usual = by.get("system")
    if usual is None:
        return None
    found = []
    for word in ALLOCATORS:
        estimate = ratio(by[word].rounds, usual.rounds) if word in by and word != "system" else None
        if estimate is not None:
            found.append(Gain(allocator=word, ratio=estimate.value, low=estimate.low, high=estimate.high))
    if not found:
        return None
    return Gains(
        machine_key=environment.machine_key,
        date=environment.date,
        torch_version=environment.software.torch,
        cell=usual.cell.slug,
        gains=tuple(found),
    )


def recommended(seen: Gains) -> Gain | None:
    """The allocator that gains for certain; of those that cannot be told from the best, the one that needs least.

    None: the system's own serves as well.
    """
    certain = [gain for gain in seen.gains if gain.low is not None and gain.low > _LEAST]
    if not certain:
        return None
    best = max(certain, key=lambda gain: gain.ratio)
    assert best.low is not None
    # In the order of ALLOCATORS: what needs no library comes first.
    return next(gain for gain in certain if gain.high is not None and gain.high >= best.low)
