"""The machine and the software a run was made on. Values only: `worker/probe.py` fills them in."""

from __future__ import annotations

import hashlib
import json

import msgspec

from vanbench.spec.cell import Cell

__all__ = ["Environment", "Gpu", "Hardware", "Rest", "Software"]


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One CUDA device as NVML and torch describe it; None where the driver does not say."""

    name: str
    memory_bytes: int
    multiprocessors: int
    compute_capability: str
    power_limit_w: float | None = None
    mig: bool | None = None
    ecc: bool | None = None


class Hardware(msgspec.Struct, frozen=True, kw_only=True):
    """What `machine_key` is made of: hardware only, never a host name or a version.

    cores: physical cores this process may use. cpu_quota: CPUs' worth of time its cgroup grants, None if unlimited.
    memory_gib: rounded, as machines of a kind differ by a few MiB.
    """

    architecture: str
    cpu: str
    cores: int
    logical_cores: int
    cpu_quota: float | None
    memory_gib: int
    virtualisation: str | None
    gpus: tuple[Gpu, ...] = ()

    @property
    def key(self) -> str:
        """12 hex digits of SHA-256 over the canonical JSON of every field."""
        text = json.dumps(msgspec.to_builtins(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def slug(self) -> str:
        """A folder name for people: the GPU if there is one, else the CPU and its cores, and the key's beginning."""
        words = self.gpus[0].name if self.gpus else f"{self.cpu}-{self.cores}-cores"
        plain = "-".join("".join(c if c.isalnum() else " " for c in words.lower()).split())
        return f"{plain[:48].strip('-')}-{self.key[:6]}"


class Software(msgspec.Struct, frozen=True, kw_only=True):
    """Versions. `cuda`, `cudnn` and `driver` are None without a CUDA device."""

    vanbench: str
    python: str
    torch: str
    timm: str
    numpy: str
    os: str
    kernel: str
    libc: str
    cuda: str | None = None
    cudnn: str | None = None
    driver: str | None = None
    cpu_capability: str = ""


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """The machine as it stood when the run began; None where the system does not tell.

    pressure: share of the last 10 s in which some task waited for a CPU (PSI some avg10). busy: share of all CPU
    time used by anybody during the probe's short look. wait_policy: what the OpenMP pool was told to do while idle.
    """

    pressure: float | None
    busy: float | None
    load_1min: float | None
    free_bytes: int
    governor: str | None
    turbo: bool | None
    wait_policy: str
    threads: int
    allocator: str
    gpu_processes: int | None = None
    gpu_temperature_c: float | None = None
    gpu_clock_hz: float | None = None
    gpu_throttle_reasons: tuple[str, ...] = ()


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """A run's environment.json. device: what `auto` came to ("cpu", "cuda:0").

    unsupported: what this machine has not, a word of the axes precision and allocator each, and why.
    """

    machine_key: str
    machine: str
    date: str
    device: str
    device_name: str
    hardware: Hardware
    software: Software
    rest: Rest
    unsupported: dict[str, str] = {}
    settings: dict[str, str] = {}

    def why_not(self, cell: Cell) -> str | None:
        """Why this machine has no such cell, as far as it can be known without building it; None if it has."""
        words = (cell.precision, cell.allocator)
        return next((self.unsupported[word] for word in words if word in self.unsupported), None)

    def difference(self, other: Environment) -> str | None:
        """The first field in which two environments could not share one run, as text, or None.

        The machine and the versions that decide speed must be the same; its load and its date need not.
        """
        for part in ("machine_key", "device"):
            mine, theirs = getattr(self, part), getattr(other, part)
            if mine != theirs:
                detail = _first_difference(self.hardware, other.hardware) if part == "machine_key" else None
                return detail or f"{part}: {mine} then, {theirs} now"
        return _first_difference(self.software, other.software)


def _first_difference(mine: msgspec.Struct, theirs: msgspec.Struct) -> str | None:
    for name in mine.__struct_fields__:
        if getattr(mine, name) != getattr(theirs, name):
            return f"{name}: {getattr(mine, name)} then, {getattr(theirs, name)} now"
    return None
