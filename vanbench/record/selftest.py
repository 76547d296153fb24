"""What a selftest saw: blocks of one cell with known slowdowns side by side, and of a model of known rate."""

from __future__ import annotations

from pathlib import Path

import msgspec

from vanbench.record.environment import Environment
from vanbench.record.files import read_value, replace_file
from vanbench.record.gate import Loss
from vanbench.record.measurement import Round
from vanbench.spec.cell import Cell
from vanbench.spec.rules import Rules
from vanbench.spec.sampling import Sampling

__all__ = ["SEATS", "SelftestRecord", "TruthBlock", "read_selftest", "save_selftest"]

# Who takes turns in a block: the slowdown of each. The first two are a gate's base and twin, each other is a head.
SEATS = (0.0, 0.0, 0.0, 0.02, 0.05, 0.10)


class TruthBlock(msgspec.Struct, frozen=True, kw_only=True):
    """One block. rounds: of the seats in their order; seconds: wall time of the block, start-up included."""

    number: int
    rounds: tuple[Round | None, ...]
    lost: tuple[Loss, ...] = ()
    seconds: float = 0.0


class SelftestRecord(msgspec.Struct, frozen=True, kw_only=True):
    """selftest.json. known: rounds of the model of known rate, `known_images_per_s` what they should show."""

    schema_version: int = 1
    environment: Environment
    cell: Cell
    known_cell: Cell
    known_images_per_s: float
    sampling: Sampling
    rules: Rules
    seats: tuple[float, ...] = SEATS
    known: tuple[Round, ...] = ()
    blocks: tuple[TruthBlock, ...] = ()


def save_selftest(folder: Path, record: SelftestRecord) -> None:
    """Write selftest.json, whole or not at all."""
    replace_file(folder / "selftest.json", msgspec.json.encode(record) + b"\n")


def read_selftest(path: Path) -> SelftestRecord:
    """A selftest's record. Raises UserError for what is none."""
    file = path / "selftest.json" if path.is_dir() else path
    return read_value(file, SelftestRecord, f"no such record of a selftest: {file}")
