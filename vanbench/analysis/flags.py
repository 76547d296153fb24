"""What a reader must know before trusting a row: a table of flags, each with its threshold, reason and remedy.

A flag never removes a figure; it says what disturbed it. Shares are of the time watched, which is the samples' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from vanbench.record.measurement import Disturbance, Round
from vanbench.record.record import Measured, Record, Skipped
from vanbench.spec.names import CUDA_DEPTHWISE
from vanbench.stats import fmean, median, t_half_width

__all__ = [
    "FLAGS",
    "Evidence",
    "Flag",
    "contended",
    "disturbed",
    "enqueue_share",
    "flags_of",
    "foreign_share",
    "involuntary_per_s",
    "page_faults_per_step",
    "pressure_share",
    "remedies",
    "steal_share",
    "throttled",
    "throttled_share",
]

# Share of the time in which some task waited for a CPU. The cell's own threads never wait for each other's CPU, so a
# tenth means that somebody else ran; with two threads on two cores one waiting thread stops the whole step.
PRESSURE_SHARE = 0.10
# CPU time of other processes, in cores: a tenth of one core is more than a desktop at rest or this parent uses.
FOREIGN_CORES = 0.10
# A thread that is put off its core makes the others wait at the barrier for about 7 ms. Alone on two cores a cell has
# 25 to 55 a second, and up to 110 while it takes page faults; beside builds and tests it had 180 to 330.
INVOLUNTARY_PER_S = 150.0
# Beyond a fiftieth, the hypervisor's other guests move a figure by as much as the default target.
STEAL_SHARE = 0.02
# A cgroup quota is enforced in periods of 100 ms: being stopped at all means being stopped for tens of ms.
THROTTLED_SHARE = 0.001
# Each minor fault costs about 2 µs (a 4 KiB page zeroed and mapped): 500 are 1 ms a step, a few percent of the
# steps of small models; memory that stays with the process faults a handful of times.
FAULTS_PER_STEP = 500.0
# The device waits for the host when the host is still launching kernels near the end of a step.
ENQUEUE_SHARE = 0.9
# Second half of a round's samples against the first. Wide, as some machines wander by tens of percent: it must be
# seen in the same direction over rounds, which wandering is not and slow warming (or throttling) is.
HALVES_DRIFT = 0.05
HALVES_SAMPLES = 10
HALVES_ROUNDS = 3
# NVML's reasons that are no loss: nothing to do, or clocks that somebody set on purpose. Compared letters only.
_HARMLESS = frozenset({"", "none", "idle", "gpuidle", "appclocks", "applicationclocks", "applicationsclockssetting"})


class Evidence(NamedTuple):
    """One record and what only its contest knows of it.

    has_reference: a measured reference exists (or the cell is it). half_width: the achieved relative half-width of
    the 95 % interval of `ratio`, or of images/s where nothing is beside the cell; None if neither has an interval.
    bound_fraction: images/s over what the measured ceilings allow; None without ceilings.
    """

    record: Record
    has_reference: bool = True
    half_width: float | None = None
    bound_fraction: float | None = None


class Flag(NamedTuple):
    """A name for the `flags` column, when it applies, and one line on what to do."""

    name: str
    applies: Callable[[Evidence], bool]
    remedy: str


def _watched(rounds: Sequence[Round]) -> list[Disturbance]:
    return [each.disturbance for each in rounds if each.disturbance.window_s > 0]


def _share(rounds: Sequence[Round], part: str) -> float | None:
    """Seconds of `part` over seconds watched, of the rounds in which the system told; None if in none."""
    told = [(seen, each.window_s) for each in _watched(rounds) if (seen := getattr(each, part)) is not None]
    return sum(seen for seen, _ in told) / sum(window for _, window in told) if told else None


def pressure_share(rounds: Sequence[Round]) -> float | None:
    """Share of the time in which some task waited for a CPU (PSI some)."""
    return _share(rounds, "pressure_s")


def foreign_share(rounds: Sequence[Round]) -> float | None:
    """CPU time of all other processes over the time watched: 1 is one whole core."""
    return _share(rounds, "foreign_s")


def throttled_share(rounds: Sequence[Round]) -> float | None:
    """Share of the time for which the cgroup's quota withheld CPUs."""
    return _share(rounds, "throttled_s")


def steal_share(record: Record) -> float | None:
    """CPU time taken by the hypervisor, as a share of what the cell's threads could have used."""
    share = _share(record.rounds, "steal_s")
    threads = record.facts.threads if record.facts is not None else 1
    return None if share is None else share / max(1, threads)


def involuntary_per_s(rounds: Sequence[Round]) -> float | None:
    """How often a thread of the cell was put off its core, per second of samples."""
    watched = _watched(rounds)
    if not watched:
        return None
    return sum(each.involuntary_switches for each in watched) / sum(each.window_s for each in watched)


def page_faults_per_step(rounds: Sequence[Round]) -> float | None:
    """Minor page faults of the cell's process, per timed step."""
    steps = sum(each.disturbance.steps for each in rounds)
    return sum(each.disturbance.minor_faults for each in rounds) / steps if steps else None


def enqueue_share(rounds: Sequence[Round]) -> float | None:
    """The median over rounds of the share of a step in which the host still gave work to the device; None on a CPU."""
    shares = [each.enqueue_share for each in rounds if each.enqueue_share is not None]
    return median(shares) if shares else None


def _over(value: float | None, limit: float) -> bool:
    return value is not None and value > limit


def contended(rounds: Sequence[Round]) -> bool:
    """Whether other processes used the CPU during the samples."""
    return (
        _over(pressure_share(rounds), PRESSURE_SHARE)
        or _over(foreign_share(rounds), FOREIGN_CORES)
        or _over(involuntary_per_s(rounds), INVOLUNTARY_PER_S)
    )


def _letters(reason: str) -> str:
    return "".join(letter for letter in reason.lower() if letter.isalpha())


def throttled(rounds: Sequence[Round]) -> bool:
    """Whether a quota or the GPU's power or heat limit held the samples back."""
    reasons = {_letters(reason) for each in rounds for reason in each.disturbance.gpu_throttle_reasons}
    return _over(throttled_share(rounds), THROTTLED_SHARE) or bool(reasons - _HARMLESS)


def disturbed(rounds: Sequence[Round]) -> list[str]:
    """Which of the flags that say nothing of what was measured, only of what went on meanwhile, apply to some rounds.

    Where a share of blocks may be left out, these are the reasons for it: none can be chosen by looking at the figure.
    """
    found = [(contended(rounds), "contended"), (throttled(rounds), "throttled")]
    found.append((any(each.recompiles > 0 for each in rounds), "recompiled"))
    found.append((any((each.disturbance.gpu_foreign_processes or 0) > 0 for each in rounds), "foreign_gpu"))
    return [name for applies, name in found if applies]


def _halves(one: Round) -> float | None:
    """Log of the second half's median rate over the first half's; None with too few samples to say."""
    count = len(one.sample_s)
    if count < HALVES_SAMPLES:
        return None
    rates = [images / seconds for images, seconds in zip(one.sample_images, one.sample_s, strict=True)]
    return math.log(median(rates[count - count // 2 :]) / median(rates[: count // 2]))


def _unsteady(case: Evidence) -> bool:
    drifts = [drift for each in case.record.rounds if (drift := _halves(each)) is not None]
    if len(drifts) < HALVES_ROUNDS:
        return False
    half = t_half_width(drifts, 0.99) or 0.0
    return abs(fmean(drifts)) > HALVES_DRIFT and abs(fmean(drifts)) > half


def _layout_lost(case: Evidence) -> bool:
    cell, facts = case.record.cell, case.record.facts
    if cell.memory_format != "channels_last" or cell.compile != "off" or facts is None:
        return False
    return facts.channels_last_share is not None and facts.channels_last_share < 1


def _emulated(case: Evidence) -> bool:
    cell, facts = case.record.cell, case.record.facts
    return facts is not None and facts.device == "cpu" and cell.depthwise in CUDA_DEPTHWISE


def _measured(case: Evidence) -> bool:
    return isinstance(case.record.outcome, Measured)


FLAGS: tuple[Flag, ...] = (
    Flag(
        "contended",
        lambda case: contended(case.record.rounds),
        "other processes used the CPU while it was timed: stop them, or give --threads fewer than all cores",
    ),
    Flag(
        "stolen",
        lambda case: _over(steal_share(case.record), STEAL_SHARE),
        "the hypervisor gave CPU time to other guests: measure at a quieter hour or on a dedicated machine",
    ),
    Flag(
        "throttled",
        lambda case: throttled(case.record.rounds),
        "the CPU quota or the GPU's power or heat limit held it back: raise the quota, cool it, or lock lower clocks",
    ),
    Flag(
        "unsteady",
        _unsteady,
        "later samples of a round differ from earlier ones: lengthen warm-up (warmup under [sampling]), check cooling",
    ),
    Flag(
        "host_bound",
        lambda case: _over(enqueue_share(case.record.rounds), ENQUEUE_SHARE),
        "the GPU waited for the host: raise --batch-size, or try --compile reduce-overhead (CUDA graphs)",
    ),
    Flag(
        "emulated",
        _emulated,
        "the CPU stood in for a GPU, to see that the kernels are right: the speed means nothing, measure it on CUDA",
    ),
    Flag(
        "layout_lost",
        _layout_lost,
        "a conv received an input that is not channels_last: find the op that changes it, or use contiguous",
    ),
    Flag(
        "recompiled",
        lambda case: any(each.recompiles > 0 for each in case.record.rounds),
        "torch.compile compiled again between samples: see TORCH_LOGS=recompiles",
    ),
    Flag(
        "graph_break",
        lambda case: any(each.graph_breaks > 0 for each in case.record.rounds),
        "the model is not one compiled graph, part of it runs eagerly: see TORCH_LOGS=graph_breaks",
    ),
    Flag(
        "page_faults",
        lambda case: _over(page_faults_per_step(case.record.rounds), FAULTS_PER_STEP),
        "memory went back to the system at each step: try --allocator keep; `vanbench env --allocators` measures what "
        "each allocator gains",
    ),
    Flag(
        "foreign_gpu",
        lambda case: any((each.disturbance.gpu_foreign_processes or 0) > 0 for each in case.record.rounds),
        "other processes were on the GPU: stop them, or choose another with --device cuda:N",
    ),
    Flag(
        "alone",
        lambda case: any(each.alone for each in case.record.rounds),
        "it ran out of memory beside others and was measured alone: no ratio from that round; free memory, or run "
        "fewer cells side by side",
    ),
    Flag(
        "few_rounds",
        lambda case: _measured(case) and len(case.record.rounds) < case.record.sampling.min_rounds,
        "fewer rounds than planned, its interval covers less than it says: raise --budget, or continue with --resume",
    ),
    Flag(
        "wide",
        lambda case: _measured(case) and _over(case.half_width, case.record.sampling.target),
        "the interval is wider than --target: raise --budget or --rounds, or measure on a quieter machine",
    ),
    Flag(
        "above_bound",
        lambda case: _over(case.bound_fraction, 1.0),
        "it is faster than its bound, so a ceiling was measured too low: run vanbench ceilings on a quiet machine, "
        "then vanbench report with --ceilings; if it stays, a formula is wrong: please report it",
    ),
    Flag(
        "no_reference",
        lambda case: _measured(case) and not case.has_reference,
        "the cell it would be compared with was not measured: fix that one, or choose another with --reference",
    ),
)


def flags_of(
    record: Record,
    has_reference: bool = True,
    half_width: float | None = None,
    bound_fraction: float | None = None,
) -> tuple[str, ...]:
    """The names of the flags that apply, in the table's order; a skipped record has none. Arguments: see `Evidence`."""
    if isinstance(record.outcome, Skipped):
        return ()
    case = Evidence(record, has_reference, half_width, bound_fraction)
    return tuple(flag.name for flag in FLAGS if flag.applies(case))


def remedies(names: Iterable[str]) -> list[str]:
    """`name: what to do`, a line for each flag among `names`, each once, in the table's order."""
    present = set(names)
    return [f"{flag.name}: {flag.remedy}" for flag in FLAGS if flag.name in present]
