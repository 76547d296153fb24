"""`depthwise.cu` as machine code of a GPU, and how it is started: by NVRTC and the driver, through cuda-bindings.

Holds no kernel. What is compiled is kept in the user's cache; compiling needs no GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vanbench.errors import VanbenchError
from vanbench.record.ceilings import cache_root

__all__ = ["CannotCompile", "architecture_of", "compile_image", "launcher"]

_SOURCE = Path(__file__).with_name("depthwise.cu")


class CannotCompile(VanbenchError):  # noqa: N818 -- a state of the machine, as NoCompiler
    """NVRTC is not here or refuses; the message says which."""


def compile_image(architecture: str, *defines: str) -> bytes:
    """Machine code of `depthwise.cu` for a GPU, e.g. "sm_90"; needs no GPU. Kept in the user's cache.

    Raises:
        CannotCompile: without NVRTC, or for what it does not know.
    """
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise CannotCompile(f"depthwise=cuda needs cuda-bindings, which comes with torch for CUDA: {error}") from error
    try:
        version = _asked(nvrtc.nvrtcVersion())
    except RuntimeError as error:
        raise CannotCompile(f"depthwise=cuda needs NVRTC: {error}") from error
    source = _SOURCE.read_bytes()
    options = [f"--gpu-architecture={architecture}", *(f"-D{each}" for each in defines)]
    key = hashlib.sha256(b"\0".join([source, str(version).encode(), *map(str.encode, options)])).hexdigest()[:16]
    place = cache_root() / "kernels" / f"depthwise-{key}.cubin"
    if place.exists():
        return place.read_bytes()
    program = _asked(nvrtc.nvrtcCreateProgram(source, _SOURCE.name.encode(), 0, [], []))[0]
    (failed,) = nvrtc.nvrtcCompileProgram(program, len(options), [each.encode() for each in options])
    if failed:
        log = bytes(_asked(nvrtc.nvrtcGetProgramLogSize(program))[0])
        _asked(nvrtc.nvrtcGetProgramLog(program, log))
        first = log.rstrip(b"\0").decode(errors="replace").strip().splitlines() or [str(failed)]
        raise CannotCompile(
            f"NVRTC {'.'.join(map(str, version))} refuses {_SOURCE.name} for {architecture}: {first[0]}"
        )
    image = bytes(_asked(nvrtc.nvrtcGetCUBINSize(program))[0])
    _asked(nvrtc.nvrtcGetCUBIN(program, image))
    nvrtc.nvrtcDestroyProgram(program)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f".{place.name}.{secrets.token_hex(4)}.tmp")
        fresh.write_bytes(image)
        os.replace(fresh, place)
    except OSError:
        pass  # a cache that cannot be written costs the next process a second
    return image


def _asked(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call of cuda.bindings gave, less its error code."""
    if answer[0]:
        raise RuntimeError(f"{type(answer[0]).__name__}: {answer[0].name}")
    return answer[1:]


@cache
def architecture_of(device: int) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@cache
def _function(device: int, name: str, *defines: str) -> Any:
    """Of the device that is current, for as long as the process lives."""
    from cuda.bindings import driver

    image = compile_image(architecture_of(device), *defines)
    module = _asked(driver.cuModuleLoadData(image))[0]
    return _asked(driver.cuModuleGetFunction(module, name.encode()))[0]


def launcher(
    device: torch.device,
    name: str,
    defines: tuple[str, ...],
    grid: tuple[int, int],
    threads: int,
    shared_bytes: int,
) -> Callable[[ctypes.Structure], None]:
    """A function that starts the kernel `name` on the device's current stream; its argument is the kernel's.

    The device must be the current one, now and then. shared_bytes: of memory that the kernel leaves to be sized.
    """
    from cuda.bindings import driver

    function = _function(device.index, name, *defines)
    if shared_bytes:
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _asked(driver.cuFuncSetAttribute(function, attribute, shared_bytes))

    def start(task: ctypes.Structure) -> None:
        stream = torch.cuda.current_stream(device).cuda_stream
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(task))
        place = ctypes.addressof(arguments)
        _asked(driver.cuLaunchKernel(function, *grid, 1, threads, 1, 1, shared_bytes, stream, place, 0))

    return start
