"""What each allocator is worth on this machine: a run like any other, and what it found, kept for `vanbench env`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from vanbench.analysis.gains import gains
from vanbench.execute.run import Event, Finished, Opened, measure
from vanbench.execute.starter import WORKER
from vanbench.record.allocators import Gains, gains_place
from vanbench.record.environment import Environment
from vanbench.record.files import read_value, replace_file
from vanbench.spec.names import ALLOCATORS
from vanbench.spec.sweep import parse_sweep

__all__ = ["find_gains", "gains_of"]

# A model and a batch whose maps are larger than the blocks that glibc keeps, as a user gets it.
_MODEL = "van_b0"
_BATCH_SIZE = 8
_BUDGET_S = 180
_ROUNDS = "4:6"


def find_gains(
    *,
    model: str = _MODEL,
    batch_size: int = _BATCH_SIZE,
    budget_s: float = _BUDGET_S,
    rounds: str = _ROUNDS,
    out: Path | None = None,
    worker: Sequence[str] = WORKER,
) -> Iterator[Event]:
    """Measure them all in turns, on the CPU, and keep in the user's cache what was found, for `gains_of`.

    The run directory is one of `vanbench run`.
    """
    document = {
        "name": "allocators",
        "question": "What is another allocator worth on this machine?",
        "device": "cpu",
        "axes": {
            "models": [model],
            "batch-size": [batch_size],
            "memory-format": ["contiguous"],
            "allocator": list(ALLOCATORS),
        },
        "sampling": {"budget": budget_s, "rounds": rounds},
    }
    environment: Environment | None = None
    for event in measure(parse_sweep(document, {}), out=out, worker=worker):
        yield event
        if isinstance(event, Opened):
            environment = event.environment
        if isinstance(event, Finished):
            assert environment is not None
            found = gains(event.records, environment)
            if found is not None:
                place = gains_place(found.machine_key)
                place.parent.mkdir(parents=True, exist_ok=True)
                replace_file(place, msgspec.json.encode(found))


def gains_of(machine_key: str) -> Gains | None:
    """What was found on this machine before, or None."""
    place = gains_place(machine_key)
    return read_value(place, Gains, f"no such file: {place}") if place.exists() else None
