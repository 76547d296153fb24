"""What about a machine at rest will disturb a measurement on it, and the remedy for each. A table and its reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from vanbench.record.environment import Environment

__all__ = ["ADVICE", "Advice", "advice"]

# Another program on one core of two already makes every parallel op wait: 5 % of all CPUs is a tenth of a core there.
_BUSY = 0.05
_PRESSURE = 0.05
_LOAD_A_CORE = 0.5
_FREE_GIB = 2


class Advice(NamedTuple):
    """`seen` gives the sentence that applies to a machine, or None."""

    seen: Callable[[Environment], str | None]
    remedy: str


def _busy(e: Environment) -> str | None:
    if e.rest.busy is not None and e.rest.busy > _BUSY:
        return f"other programs use {100 * e.rest.busy:.0f} % of the CPUs"
    if e.rest.load_1min is not None and e.rest.load_1min > _LOAD_A_CORE * e.hardware.cores:
        return f"the load over the last minute is {e.rest.load_1min:.1f} on {e.hardware.cores} cores"
    return None


def _pressure(e: Environment) -> str | None:
    if e.rest.pressure is not None and e.rest.pressure > _PRESSURE:
        return f"tasks waited for a CPU in {100 * e.rest.pressure:.0f} % of the last 10 s"
    return None


def _quota(e: Environment) -> str | None:
    quota = e.hardware.cpu_quota
    if quota is not None and quota < e.rest.threads:
        return f"the cgroup grants {quota:g} CPUs, and torch uses {e.rest.threads} threads: they will be held back"
    return None


def _governor(e: Environment) -> str | None:
    if e.rest.governor not in (None, "performance"):
        return f"the CPU frequency governor is {e.rest.governor}"
    return None


def _virtual(e: Environment) -> str | None:
    if e.hardware.virtualisation and not e.hardware.gpus:
        return "a virtual machine: neighbours you cannot see take its time"
    return None


def _memory(e: Environment) -> str | None:
    if e.rest.free_bytes < _FREE_GIB << 30:
        return f"{e.rest.free_bytes / 2**30:.1f} GiB of memory are free"
    return None


def _wait(e: Environment) -> str | None:
    if "active" in e.rest.wait_policy.lower():
        return f"idle threads spin for good ({e.rest.wait_policy}): cells that wait would take the CPU of the one timed"
    return None


def _verbose(e: Environment) -> str | None:
    loud = [name for name in ("ONEDNN_VERBOSE", "DNNL_VERBOSE") if e.settings.get(name, "0") != "0"]
    loud += [name for name in ("CUDA_LAUNCH_BLOCKING", "TORCH_COMPILE_DEBUG") if e.settings.get(name, "0") == "1"]
    return f"{', '.join(loud)} set: every op is slowed" if loud else None


def _allocator(e: Environment) -> str | None:
    if e.rest.allocator == "system" and e.device == "cpu":
        return "large activations cost page faults on every use: the system's malloc gives back blocks over 32 MiB"
    return None


def _gpu_shared(e: Environment) -> str | None:
    count = e.rest.gpu_processes
    return f"{count} other process{'es' if count > 1 else ''} on the GPU" if count else None


def _gpu_throttled(e: Environment) -> str | None:
    reasons = e.rest.gpu_throttle_reasons
    return f"the GPU's clock is held back at rest: {', '.join(reasons)}" if reasons else None


def _isa(e: Environment) -> str | None:
    capped = e.settings.get("ONEDNN_MAX_CPU_ISA")
    return f"ONEDNN_MAX_CPU_ISA={capped} caps the CPU's instructions" if capped else None


ADVICE: tuple[Advice, ...] = (
    Advice(_busy, "stop them, or wait; with two cores any second busy process spoils every figure"),
    Advice(_pressure, "wait until the machine is calm"),
    Advice(_quota, "run with --threads at most the quota, or raise the quota"),
    Advice(_governor, "as root: cpupower frequency-set -g performance"),
    Advice(_virtual, "compare by `ratio`, never by images/s of different runs; repeat, and look at the intervals"),
    Advice(_memory, "free some, or measure smaller batches; cells that do not fit together are measured alone"),
    Advice(_wait, "unset OMP_WAIT_POLICY"),
    Advice(_verbose, "unset it"),
    Advice(_isa, "unset it, unless that is the question"),
    Advice(_allocator, "`vanbench env --allocators` measures what another allocator gains, and how to choose it"),
    Advice(_gpu_shared, "stop them: figures beside another process on the GPU mean nothing"),
    Advice(_gpu_throttled, "let it cool, or raise its power limit"),
)


def advice(environment: Environment) -> list[tuple[str, str]]:
    """(what was seen, remedy) for everything that applies."""
    return [(text, entry.remedy) for entry in ADVICE if (text := entry.seen(environment)) is not None]
