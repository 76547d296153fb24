"""The bridge's messages: what the parent asks of a worker and what a worker says back, as JSON, a line each."""

from __future__ import annotations

from typing import Any

import msgspec

from vanbench.record.ceilings import Ceilings
from vanbench.record.environment import Environment
from vanbench.record.measurement import Answer as StepAnswer
from vanbench.record.measurement import Disturbance, Facts, Sample
from vanbench.record.profile import Case, CaseVisit, Profile, Shape
from vanbench.spec.cell import Cell
from vanbench.spec.sampling import Sampling

__all__ = [
    "PROTOCOL",
    "Answer",
    "Ask",
    "Closed",
    "Dead",
    "Declined",
    "FindCeilings",
    "FindShapes",
    "Forked",
    "Found",
    "Measure",
    "Named",
    "Names",
    "Over",
    "Probe",
    "Probed",
    "ProfileStep",
    "Profiled",
    "Ready",
    "Said",
    "Shaped",
    "Taken",
    "Task",
    "TimeCases",
    "Vet",
    "Vetted",
    "Visited",
    "decode_answer",
    "encode",
]

# Raised whenever a message changes shape, so that an arm with other sources is refused by name, not misread.
PROTOCOL = 4


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
    """Find what must be known of a cell before it is timed, and leave it where the run's other workers find it.

    under: also tell which packages were loaded from below this folder.
    """

    cell: Cell
    device: str
    seed: int
    under: str | None = None


class Measure(msgspec.Struct, frozen=True, kw_only=True, tag="measure"):
    """Build the cell, check its answer, warm up, then take samples when asked.

    The cell has been vetted in this run. first: the compile cache is cold. energy: also measure it. seed: of weights
    and inputs, the same for all cells of a run. answer: tell the answer too. slowdown: share of each sample's own time
    that is waited in addition, and counted: a known truth to test a harness with.
    """

    cell: Cell
    device: str
    sampling: Sampling
    seed: int
    first: bool = True
    energy: bool = False
    answer: bool = False
    slowdown: float = 0.0


class FindCeilings(msgspec.Struct, frozen=True, kw_only=True, tag="ceilings"):
    """What does this device reach? seconds: how long to look; threads: of a CPU."""

    device: str
    device_name: str
    machine_key: str
    threads: int | str = "auto"
    seconds: float = 60.0
    seed: int = 0


class ProfileStep(msgspec.Struct, frozen=True, kw_only=True, tag="profile"):
    """Where does a step's time go? The cell has been vetted in this run. seconds: how long to look."""

    cell: Cell
    device: str
    seed: int
    sampling: Sampling
    seconds: float = 15.0


class FindShapes(msgspec.Struct, frozen=True, kw_only=True, tag="shapes"):
    """Which depthwise convs occur in these models?"""

    models: tuple[str, ...]
    image_size: int = 224


class TimeCases(msgspec.Struct, frozen=True, kw_only=True, tag="depthwise"):
    """Time depthwise convs alone: every case once by every implementation, in an order drawn from `seed`.

    check: also compare answers with float64. seconds: leave out what is not reached by then.
    """

    cases: tuple[Case, ...]
    implementations: tuple[str, ...]
    device: str
    threads: int | str = "auto"
    seed: int = 0
    check: bool = True
    seconds: float = 240.0


Task = Names | Probe | Vet | Measure | FindCeilings | ProfileStep | FindShapes | TimeCases


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
    answer: StepAnswer | None = None


class Vetted(msgspec.Struct, frozen=True, kw_only=True, tag="vetted"):
    """Answer to `Vet`: what was found lies in the scratch folder. loaded: packages from below `Vet.under`."""

    loaded: tuple[str, ...] = ()


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


class Found(msgspec.Struct, frozen=True, kw_only=True, tag="found"):
    """Answer to `FindCeilings`."""

    ceilings: Ceilings


class Profiled(msgspec.Struct, frozen=True, kw_only=True, tag="profiled"):
    """Answer to `ProfileStep`."""

    profile: Profile


class Shaped(msgspec.Struct, frozen=True, kw_only=True, tag="shaped"):
    """Answer to `FindShapes`: one for each conv, repeated where it occurs again."""

    shapes: list[Shape]


class Visited(msgspec.Struct, frozen=True, kw_only=True, tag="visited"):
    """From `TimeCases`: one visit."""

    visit: CaseVisit


class Over(msgspec.Struct, frozen=True, kw_only=True, tag="over"):
    """The last word of `TimeCases`. reached: how many cases were visited by all."""

    reached: int
    threads: int


Answer = Said | Ready | Vetted | Taken | Closed | Declined | Probed | Named | Found | Profiled | Shaped | Visited | Over


class Forked(msgspec.Struct, frozen=True, kw_only=True, tag="forked"):
    """From a nursery: the process id of the child just started; at first its own.

    protocol: of its sources; one of other sources may be too old to say.
    """

    pid: int
    protocol: int = 0


class Dead(msgspec.Struct, frozen=True, kw_only=True, tag="dead"):
    """From a nursery: how a child ended. code: its exit status, or minus the signal's number."""

    pid: int
    code: int


_ANSWER = msgspec.json.Decoder(
    Said | Ready | Vetted | Taken | Closed | Declined | Probed | Named | Found | Profiled | Shaped | Visited | Over
)


def encode(message: Any) -> bytes:
    """One line of JSON, newline included."""
    return msgspec.json.encode(message) + b"\n"


def decode_answer(line: bytes) -> Answer:
    """A worker's line as a value; raises msgspec.DecodeError for anything else."""
    answer: Answer = _ANSWER.decode(line)
    return answer
