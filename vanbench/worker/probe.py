"""What machine this is and what would disturb a measurement on it, seen from a process like the measured ones."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import re
import time
from pathlib import Path

import numpy
import psutil
import timm
import torch

import vanbench
from vanbench.errors import UserError
from vanbench.record import allocators
from vanbench.record.environment import Environment, Gpu, Hardware, Rest, Software
from vanbench.record.hardware import hardware
from vanbench.record.task import Declined, Probe, Probed
from vanbench.spec.names import PRECISIONS
from vanbench.worker import precision
from vanbench.worker.disturbance import Counters, cpu_times_s
from vanbench.worker.gpu import Nvml, nvml_for
from vanbench.worker.memory import allocator_in_use

__all__ = ["answer"]

_LOOK_S = 0.3
_SETTINGS = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "OMP_PLACES",
    "GOMP_CPU_AFFINITY",
    "GOMP_SPINCOUNT",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MKL_NUM_THREADS",
    "LD_PRELOAD",
    "MALLOC_ARENA_MAX",
    "GLIBC_TUNABLES",
    "MALLOC_CONF",
    "ONEDNN_VERBOSE",
    "DNNL_VERBOSE",
    "ONEDNN_MAX_CPU_ISA",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "TORCH_COMPILE_DEBUG",
    "TORCHDYNAMO_DISABLE",
)


def answer(task: Probe) -> Probed | Declined:
    """The environment as it is now, or why the device asked for cannot be."""
    try:
        device = _device(task.device)
    except UserError as error:
        return Declined(kind="user", message=str(error))
    nvml = nvml_for(device)
    # Before this process makes a context of its own.
    processes = nvml.process_ids() if nvml else None
    machine = _hardware(device, nvml)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{machine.cpu} ({machine.cores} cores)"
    return Probed(
        environment=Environment(
            machine_key=machine.key,
            machine=machine.slug,
            date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            device=str(device),
            device_name=name,
            hardware=machine,
            software=_software(device, nvml),
            rest=_rest(nvml, processes),
            unsupported={
                **{word: reason for word in PRECISIONS if (reason := precision.unsupported(word, device)) is not None},
                **allocators.why_not(),
            },
            settings={name: os.environ[name] for name in _SETTINGS if name in os.environ},
        )
    )


def _device(word: str) -> torch.device:
    available = torch.cuda.is_available()
    if word == "auto":
        return torch.device("cuda:0" if available else "cpu")
    if word == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if available else 0
    index = int(word.partition(":")[2] or 0)
    if index >= count:
        allowed = ", ".join(["auto", "cpu", *(f"cuda:{i}" for i in range(count))])
        have = f"{count} CUDA device{'s' if count != 1 else ''}" if count else "no CUDA device"
        raise UserError(f"device {word!r} is not here: torch {torch.__version__} sees {have} (allowed: {allowed})")
    return torch.device("cuda", index)


def _hardware(device: torch.device, nvml: Nvml | None) -> Hardware:
    gpus: tuple[Gpu, ...] = ()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        gpus = (
            Gpu(
                name=properties.name,
                memory_bytes=properties.total_memory,
                multiprocessors=properties.multi_processor_count,
                compute_capability=f"{properties.major}.{properties.minor}",
                power_limit_w=nvml.power_limit_w() if nvml else None,
                mig=nvml.mig() if nvml else None,
                ecc=nvml.ecc() if nvml else None,
            ),
        )
    return hardware(gpus)


def _software(device: torch.device, nvml: Nvml | None) -> Software:
    cuda = device.type == "cuda"
    return Software(
        vanbench=vanbench.__version__,
        python=platform.python_version(),
        torch=str(torch.__version__),
        timm=str(timm.__version__),
        numpy=str(numpy.__version__),
        os=platform.system(),
        kernel=platform.release(),
        libc=" ".join(platform.libc_ver()),
        cuda=torch.version.cuda if cuda else None,
        cudnn=str(torch.backends.cudnn.version()) if cuda else None,  # type: ignore[no-untyped-call]
        driver=nvml.driver() if nvml else None,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
    )


def _rest(nvml: Nvml | None, processes: set[int] | None) -> Rest:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Rest(
        pressure=_pressure(),
        busy=_busy(),
        load_1min=load,
        free_bytes=psutil.virtual_memory().available,
        governor=_first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        turbo=_turbo(),
        wait_policy=_wait_policy(),
        threads=torch.get_num_threads(),
        allocator=allocator_in_use(),
        gpu_processes=None if processes is None else len(processes),
        gpu_temperature_c=nvml.temperature_c() if nvml else None,
        gpu_clock_hz=nvml.clock_hz() if nvml else None,
        gpu_throttle_reasons=nvml.throttle_reasons() if nvml else (),
    )


def _pressure() -> float | None:
    text = _first_line("/proc/pressure/cpu")
    match = re.search(r"avg10=([\d.]+)", text or "")
    return float(match.group(1)) / 100 if match else None


def _busy() -> float | None:
    """The share of all CPUs' time that was used in a short look, during which this process sleeps."""
    counters = Counters()
    before = cpu_times_s(counters)
    start = time.perf_counter()
    time.sleep(_LOOK_S)
    after = cpu_times_s(counters)
    if before is None or after is None:
        return None
    return min(1.0, (after[0] - before[0]) / ((time.perf_counter() - start) * (os.cpu_count() or 1)))


def _first_line(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return (Path(path).read_text().splitlines() or [""])[0].strip() or None
    return None


def _turbo() -> bool | None:
    off = _first_line("/sys/devices/system/cpu/intel_pstate/no_turbo")
    if off is not None:
        return off == "0"
    boost = _first_line("/sys/devices/system/cpu/cpufreq/boost")
    return None if boost is None else boost == "1"


def _wait_policy() -> str:
    """What idle threads of the OpenMP pool do, by the environment of the runtime torch has loaded."""
    said = [
        f"{name}={os.environ[name]}"
        for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
        if name in os.environ
    ]
    return ", ".join(said) or "default (spins, then sleeps)"
