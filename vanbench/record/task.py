"""The bridge's messages: what the parent asks of a worker and what a worker says back, as JSON, a line each."""

from __future__ import annotations

from typing import Any

import msgspec

from vanbench.record.environment import Environment
from vanbench.record.measurement import Disturbance, Facts, Sample
from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling

__all__ = [
    "PROTOCOL",
    "Answer",
    "Ask",
    "Closed",
    "Dead",
    "Declined",
    "Forked",
    "Measure",
    "Named",
    "Names",
    "Probe",
    "Probed",
    "Ready",
    "Said",
    "Taken",
    "Task",
    "Vet",
    "Vetted",
    "decode_answer",
    "encode",
]

# Raised whenever a message changes shape, so that an arm with other sources is refused by name, not misread.
PROTOCOL = 1


class Names(msgspec.Struct, frozen=True, kw_only=True, tag="names"):
    """Which of these model names can be built? With `pattern`, which names match it; `cost`: build and count."""

    models: tuple[str, ...] = ()
    pattern: str | None = None
    cost: bool = False
    image_size: int = 224


class Probe(msgspec.Struct, frozen=True, kw_only=True, tag="probe"):
    """What is this machine, seen from a measured process? device: as asked for."""

    device: str = "auto"


class Vet(msgspec.Struct, frozen=True, kw_only=True, tag="vet"):
    """Find what must be known of a cell before it is timed, and leave it where the run's other workers find it."""

    cell: Cell
    device: str
    seed: int


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """Build the cell, check its answer, warm up, then take samples when asked.

    The cell has been vetted in this run. first: the compile cache is cold. energy: also measure it. seed: of weights
    and inputs, the same for all cells of a run.
    """

    cell: Cell
    device: str
    sampling: Sampling
    seed: int
    first: bool = True
    energy: bool = False


Task = Names | Probe | Vet | Measure


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a ready worker is told: "sample" or "close"."""

    ask: str


class Said(msgspec.Struct, frozen=True, kw_only=True, tag="said"):
    """The worker's phase has changed: building, checking, compiling, warming up."""

    phase: str


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """Warm. steps: per sample. held_bytes: what this process keeps now, free_bytes: what is left for others."""

    facts: Facts
    warmup_sample_s: list[float]
    steps: int
    held_bytes: int
    free_bytes: int
    compile_s: float | None = None
    compile_cold: bool = False
    graph_breaks: int = 0
    enqueue_share: float | None = None


class Vetted(msgspec.Struct, frozen=True, kw_only=True, tag="vetted"):
    """Answer to `Vet`: what was found lies in the scratch folder."""


class Taken(msgspec.Struct, frozen=True, kw_only=True, tag="sample"):
    """One sample, as asked."""

    sample: Sample


class Closed(msgspec.Struct, frozen=True, kw_only=True, tag="closed"):
    """The worker's last word."""

    disturbance: Disturbance
    recompiles: int = 0
    graph_breaks: int = 0
    peak_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    energy_j: float | None = None
    energy_images: int | None = None


class Declined(msgspec.Struct, frozen=True, kw_only=True, tag="declined"):
    """No measurement will come. kind: skipped, or a kind of `Failed`; message: why."""

    kind: str
    message: str


class Probed(msgspec.Struct, frozen=True, kw_only=True, tag="probed"):
    """Answer to `Probe`."""

    environment: Environment


class Named(msgspec.Struct, frozen=True, kw_only=True, tag="named"):
    """Answer to `Names`: `problems` maps a model to what is wrong; `rows` are (name, params, macs or None)."""

    problems: dict[str, str] = {}
    rows: list[tuple[str, int | None, int | None]] = []


Answer = Said | Ready | Vetted | Taken | Closed | Declined | Probed | Named


class Forked(msgspec.Struct, frozen=True, kw_only=True, tag="forked"):
    """From a nursery: the process id of the child just started."""

    pid: int


class Dead(msgspec.Struct, frozen=True, kw_only=True, tag="dead"):
    """From a nursery: how a child ended. code: its exit status, or minus the signal's number."""

    pid: int
    code: int


_ANSWER = msgspec.json.Decoder(Said | Ready | Vetted | Taken | Closed | Declined | Probed | Named)


def encode(message: Any) -> bytes:
    """One line of JSON, newline included."""
    return msgspec.json.encode(message) + b"\n"


def decode_answer(line: bytes) -> Answer:
    """A worker's line as a value; raises msgspec.DecodeError for anything else."""
    answer: Answer = _ANSWER.decode(line)
    return answer
