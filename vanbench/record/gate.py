"""A gate's whole story: both arms, every block's raw samples, and the rules. The verdict can be made from it again."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from pathlib import Path
from typing import Any

import msgspec

from vanbench.errors import UserError
from vanbench.record.environment import Environment
from vanbench.record.files import replace_file
from vanbench.record.measurement import Round
from vanbench.record.task import PROTOCOL
from vanbench.spec.arm import Arm, Pair
from vanbench.spec.cell import Cell
from vanbench.spec.rules import Rules
from vanbench.spec.sampling import Sampling

__all__ = [
    "ROLES",
    "Apart",
    "ArmSeen",
    "Block",
    "GateRecord",
    "Loss",
    "PairRecord",
    "Size",
    "read_gate",
    "save_gate",
]

SCHEMA_VERSION = 1
ROLES = ("base", "head", "twin")
# What a timer cannot give but a damaged file can hold.
_FIGURES = ("sample_s", "sample_start_s", "step_s", "warmup_sample_s", "forward_s", "backward_s", "optimizer_s")


class ArmSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One arm as it was found. commit: what `ref` stood for. loaded: packages that came from the arm's own tree."""

    asked: Arm
    environment: Environment | None = None
    commit: str | None = None
    loaded: tuple[str, ...] = ()


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a cell without timing it; None where it could not be counted.

    macs: of one image; bytes_modelled: compulsory traffic of one step; graph_breaks: of torch.compile.
    """

    params: int
    macs: int | None
    bytes_modelled: int | None
    graph_breaks: int
    threads: int = 0


class Apart(msgspec.Struct, frozen=True, kw_only=True):
    """How far the arms' answers are from each other, relative L2, at the worst row, and how far they may be."""

    quantity: str
    distance: float
    allowed: float


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """A child that gave no round: whose ("base", "head", "twin"), and how it ended (see `record.Failed`)."""

    role: str
    kind: str
    message: str


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One fresh process of each arm and a twin of the base, which took turns.

    number: from 1. seed: of the order of turns. order: in which base, head and twin (0, 1, 2) started.
    """

    number: int
    seed: int
    order: tuple[int, ...]
    base: Round | None = None
    head: Round | None = None
    twin: Round | None = None
    lost: tuple[Loss, ...] = ()


class PairRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Two cells under comparison. passes: the blocks of the first pass, and of the second where one was needed.

    missing: the arm that has no such model, if one has none. problem: why no blocks were played. turns_s: seconds of
    turns in a block.
    """

    base: Cell
    head: Cell
    base_size: Size | None = None
    head_size: Size | None = None
    apart: Apart | None = None
    missing: str = ""
    problem: str = ""
    turns_s: float = 0.0
    passes: tuple[tuple[Block, ...], ...] = ((),)

    @property
    def pair(self) -> Pair:
        """The two cells."""
        return Pair(self.base, self.head)


class GateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """gate.json. problem: why nothing could be compared at all. stopped: "", "budget" or "interrupted"."""

    schema_version: int = SCHEMA_VERSION
    protocol: int = PROTOCOL
    date: str
    base: ArmSeen
    head: ArmSeen
    rules: Rules
    sampling: Sampling
    pairs: tuple[PairRecord, ...]
    problem: str = ""
    stopped: str = ""
    verdicts: dict[str, str] = {}


def save_gate(path: Path, record: GateRecord) -> None:
    """Write gate.json, whole or not at all."""
    replace_file(path, msgspec.json.encode(record) + b"\n")


def read_gate(path: Path) -> GateRecord:
    """A gate's record, of its folder or of a file, which may be gzipped.

    Raises UserError for what is none; a figure that is no number is read as NaN, to be judged.
    """
    file = path / "gate.json" if path.is_dir() else path
    try:
        content = file.read_bytes()
        document = json.loads(gzip.decompress(content) if file.suffix == ".gz" else content)
        record = msgspec.convert(_with_nan(document), GateRecord)
    except FileNotFoundError:
        raise UserError(f"no such record of a gate: {file}") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from None
    except (ValueError, msgspec.ValidationError) as error:
        raise UserError(f"{file} is no record of a gate: {error}") from None
    if record.schema_version > SCHEMA_VERSION:
        raise UserError(
            f"{file} has schema version {record.schema_version}, this vanbench reads up to {SCHEMA_VERSION}"
        )
    return record


def _with_nan(value: Any, name: str = "") -> Any:
    """The document with NaN for each null among times and distances (JSON has neither NaN nor infinity)."""
    if isinstance(value, dict):
        return {
            key: math.nan if each is None and key in ("distance", "allowed") else _with_nan(each, key)
            for key, each in value.items()
        }
    if isinstance(value, list):
        if name in _FIGURES:
            return [math.nan if each is None else each for each in value]
        return [_with_nan(each) for each in value]
    return value
