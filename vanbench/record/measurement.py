"""What one process saw of one cell. Raw times; statistics over them are functions in `analysis`."""

from __future__ import annotations

import msgspec

from vanbench.record.ops import Work

__all__ = ["Answer", "Disturbance", "Facts", "Round", "Sample"]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One sample: k steps between two device synchronisations.

    start_s is on a clock that all processes of the round share (CLOCK_MONOTONIC). step_s are the single steps
    (CPU clock, or CUDA events); forward_s, backward_s, optimizer_s the parts of training steps, as long as step_s.
    """

    start_s: float
    seconds: float
    images: int
    step_s: list[float]
    forward_s: list[float] = []
    backward_s: list[float] = []
    optimizer_s: list[float] = []


class Disturbance(msgspec.Struct, kw_only=True):
    """What else happened during a process's samples, summed over them. None: the system does not tell.

    window_s: seconds watched (all samples). steps: timed steps. pressure_s: time in which some task waited for a
    CPU (PSI some). steal_s: CPU time taken by the hypervisor. throttled_s: CPU time withheld by the cgroup's quota.
    foreign_s: CPU time of all other processes. involuntary_switches, minor_faults: this process's own.
    GPU figures: NVML, read before and after samples, never within.
    """

    window_s: float = 0.0
    steps: int = 0
    involuntary_switches: int = 0
    minor_faults: int = 0
    pressure_s: float | None = None
    steal_s: float | None = None
    throttled_s: float | None = None
    foreign_s: float | None = None
    gpu_clock_hz_min: float | None = None
    gpu_clock_hz_mean: float | None = None
    gpu_temperature_c: float | None = None
    gpu_power_w: float | None = None
    gpu_throttle_reasons: tuple[str, ...] = ()
    gpu_foreign_processes: int | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a cell computes, in numbers that another arm's can be compared with.

    quantity: "logits", a row an image; or "loss and gradients", the loss and the norm of all gradients, a row each.
    tolerances: of each row's relative L2 distance.
    """

    quantity: str
    rows: list[list[float]]
    tolerances: list[float]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is true of a cell in every round: what it resolved to, its size, and how its answer was checked.

    macs: multiply-adds of convs and linear layers for one image at the cell's size; None if it could not be counted.
    check_error is in units of relative L2 against the fp32 eager reference form, check_tolerance likewise.
    channels_last_share: share of the conv layers whose input is channels_last, None when compiled.
    works: what an eager step is made of, op by op; fused: the same step if every block were one operation.
    unmodelled: operations whose FLOPs have no formula, or why there is no list of operations.
    depthwise_convs: how many depthwise convs each implementation serves.
    """

    device: str
    device_name: str
    threads: int
    params: int
    macs: int | None
    check_quantity: str
    check_error: float
    check_tolerance: float
    channels_last_share: float | None = None
    works: tuple[Work, ...] = ()
    fused: tuple[Work, ...] = ()
    unmodelled: tuple[str, ...] = ()
    depthwise_convs: dict[str, int] = {}


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One fresh process's turns. `round` is shared by the cells that took turns with each other.

    All lists of samples are as long as each other; step_s and its parts run over all samples in order.
    warmup_sample_s: seconds of each warm-up step, the first one (after compiling) included.
    compile_s: first call less a warmed step, cold only where `compile_cold`. peak_bytes: CUDA allocated, or the
    CPU process's peak over its state before the first step. energy_j over energy_images: an uninterrupted window.
    enqueue_share: of a warm-up step's time, the part in which the host still gave work to the device; None on a CPU.
    """

    round: str
    warmup_sample_s: list[float]
    sample_start_s: list[float] = []
    sample_s: list[float] = []
    sample_images: list[int] = []
    step_s: list[float] = []
    forward_s: list[float] = []
    backward_s: list[float] = []
    optimizer_s: list[float] = []
    compile_s: float | None = None
    compile_cold: bool = False
    graph_breaks: int = 0
    recompiles: int = 0
    peak_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    energy_j: float | None = None
    energy_images: int | None = None
    start_up_s: float = 0.0
    alone: bool = False
    enqueue_share: float | None = None
    disturbance: Disturbance = msgspec.field(default_factory=Disturbance)

    @property
    def seconds(self) -> float:
        """Time in samples."""
        return sum(self.sample_s)

    @property
    def images(self) -> int:
        """Images in samples."""
        return sum(self.sample_images)
