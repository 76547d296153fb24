"""NVML: clocks, power, temperature, throttle reasons, energy and foreign processes of one CUDA device."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

__all__ = ["Nvml", "nvml_for"]

# NVML's bits that say a clock is held back; idle and application clock settings are no disturbance.
_REASONS = {
    0x0000000000000004: "power cap",
    0x0000000000000008: "hardware slowdown",
    0x0000000000000020: "software thermal",
    0x0000000000000040: "hardware thermal",
    0x0000000000000080: "power brake",
}


class Nvml:
    """One device's handle. Every figure is None where the driver refuses it."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._nvml = library
        self._handle = handle

    def _ask(self, name: str, *arguments: Any) -> Any:
        try:
            return getattr(self._nvml, name)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None

    def clock_hz(self) -> float | None:
        """The multiprocessors' clock now."""
        megahertz = self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM)
        return None if megahertz is None else megahertz * 1e6

    def temperature_c(self) -> float | None:
        """The chip's temperature."""
        value = self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU)
        return None if value is None else float(value)

    def power_w(self) -> float | None:
        """Power as NVML averages it."""
        value = self._ask("nvmlDeviceGetPowerUsage")
        return None if value is None else value / 1e3

    def power_limit_w(self) -> float | None:
        """The limit in force."""
        value = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return None if value is None else value / 1e3

    def throttle_reasons(self) -> tuple[str, ...]:
        """Why the clock is held back now; empty if it is not or NVML does not say."""
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # older drivers and bindings have the older name alone
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        return tuple(text for bit, text in _REASONS.items() if bits and bits & bit)

    def process_ids(self) -> set[int] | None:
        """Ids, as NVML numbers them, of all processes that compute on the device."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses")
        return None if processes is None else {process.pid for process in processes}

    def energy_j(self) -> float | None:
        """The energy counter since the driver was loaded; it moves about every 0.1 s."""
        value = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if value is None else value / 1e3

    def mig(self) -> bool | None:
        """Whether the device is cut into instances."""
        value = self._ask("nvmlDeviceGetMigMode")
        return None if value is None else bool(value[0])

    def ecc(self) -> bool | None:
        """Whether memory errors are corrected."""
        value = self._ask("nvmlDeviceGetEccMode")
        return None if value is None else bool(value[0])

    def driver(self) -> str | None:
        """The driver's version."""
        with contextlib.suppress(self._nvml.NVMLError):
            version = self._nvml.nvmlSystemGetDriverVersion()
            return version.decode() if isinstance(version, bytes) else str(version)
        return None


def nvml_for(device: torch.device) -> Nvml | None:
    """NVML's view of a torch device, found by its UUID, or None without NVML."""
    if device.type != "cuda":
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
        properties = torch.cuda.get_device_properties(device)
        identity = getattr(properties, "uuid", None)
        if identity is not None:
            return Nvml(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}"))
        return Nvml(pynvml, pynvml.nvmlDeviceGetHandleByIndex(device.index or 0))
    except pynvml.NVMLError:
        return None
