"""One cell's whole story: what was asked, what came of it, and every round. One file on disk, one row of the table."""

from __future__ import annotations

import msgspec

from vanbench.record.measurement import Facts, Round
from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling

__all__ = ["SCHEMA_VERSION", "Failed", "Measured", "Outcome", "Record", "Skipped", "Stack"]

SCHEMA_VERSION = 1


class Measured(msgspec.Struct, frozen=True, kw_only=True, tag="measured"):
    """Every round so far ended well. stopped: why no further round was made; empty while the run goes on."""

    stopped: str = ""


class Skipped(msgspec.Struct, frozen=True, kw_only=True, tag="skipped"):
    """Not measured, and why: it cannot be, or `budget` or `not reached`, which a resumed run takes up."""

    reason: str

    @property
    def resumable(self) -> bool:
        """Whether `--resume` measures the cell: it could have been measured, and there was no time."""
        return self.reason in ("budget", "not reached")


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """kind: out_of_memory, exception, non_finite, wrong_answer, timeout, signal, exit or protocol.

    rerun: the command that runs this cell alone.
    """

    kind: str
    message: str
    rerun: str


Outcome = Measured | Skipped | Failed


class Stack(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the environment that every row carries."""

    machine_key: str
    device_name: str
    torch_version: str
    vanbench_version: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """cells/<key>.json. `rounds` only ever grows; a round that has been written never changes."""

    schema_version: int = SCHEMA_VERSION
    key: str
    cell: Cell
    sampling: Sampling
    stack: Stack
    outcome: Measured | Skipped | Failed
    facts: Facts | None = None
    rounds: tuple[Round, ...] = ()
