"""The depthwise convs of `depthwise.cu` as operators of torch: forward, both gradients, on NVIDIA GPUs.

Compiled at first use by NVRTC, which comes with torch for CUDA, for the very conv: channels and dilation are constants
of the kernel. Maps are computed channels last; another memory format is copied there and back. With
VANBENCH_EMULATE_CUDA=1 a C compiler makes the same source run on the CPU, thread by thread: right, and not to be timed.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vanbench.errors import VanbenchError
from vanbench.kernels.compiled import NoCompiler, load
from vanbench.kernels.geometry import Geometry
from vanbench.kernels.operators import Passes, memory_format, operators, why_no_geometry
from vanbench.kernels.tuning import on_device, tuned
from vanbench.record.ceilings import cache_root

__all__ = [
    "CannotCompile",
    "compile_image",
    "emulated",
    "forward",
    "forward_gelu",
    "grad_input",
    "grad_weight",
    "why_not",
]

_KINDS = {torch.float32: "FP32", torch.bfloat16: "BF16", torch.float16: "FP16"}
_SOURCE = Path(__file__).with_name("depthwise.cu")
# Channels of a thread, its rows and columns, and threads of a block. The first also serves where nothing is timed.
_STENCIL = ((2, 4, 4, 256), (2, 2, 4, 256), (2, 4, 8, 128), (4, 2, 4, 128), (2, 2, 2, 256))
_STENCIL_ODD = ((1, 4, 4, 256), (1, 4, 8, 128), (1, 2, 2, 256))
# Channels of a thread of the weight's gradient.
_WEIGHT_SUMS = ((2,), (4,), (1,))
_WARP = 32
# Blocks of a weight gradient, about: eight a multiprocessor of a large device. The same everywhere, so that sums are.
_BLOCKS = 1056
# What the kernels count in 32 bits: tiles, lines, and values of an image.
_MOST = 2**31


class CannotCompile(VanbenchError):  # noqa: N818 -- a state of the machine, as NoCompiler
    """NVRTC is not here or refuses; the message says which."""


class _Task(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ["x", "w", "bias", "g", "y"]),
        *((name, ctypes.c_int) for name in ["height", "width"]),
        *((name, ctypes.c_uint) for name in ["tiles", "down", "across"]),
        ("turned", ctypes.c_int),
        ("each", ctypes.c_uint),
    ]


class _Plan(NamedTuple):
    """What follows from shapes. start(task): run it on the current stream. parts: shape of a weight gradient's."""

    task: _Task
    start: Callable[[_Task], None]
    parts: tuple[int, ...] = ()


def emulated() -> bool:
    """Whether the CPU is told to stand in for a GPU."""
    return os.environ.get("VANBENCH_EMULATE_CUDA") == "1"


def why_not(device: str, geometry: Geometry, dtype: torch.dtype) -> str | None:
    """Why there is no such kernel here, or None. Compiles one if none has been."""
    if device != "cuda" and not (device == "cpu" and emulated()):
        return "depthwise=cuda is for CUDA devices (or, to try it, emulated: VANBENCH_EMULATE_CUDA=1)"
    if dtype not in _KINDS:
        return f"depthwise=cuda computes fp32, bf16 and fp16: this is {str(dtype).removeprefix('torch.')}"
    if (reason := why_no_geometry("cuda", geometry)) is not None:
        return reason
    try:
        defines = _defines(dtype, geometry.kernel_size, 32, geometry.dilation, 2)
        if device == "cpu":
            load("depthwise", *defines, language="cuda")
        elif torch.version.cuda is None:
            return "depthwise=cuda is for NVIDIA devices"
        else:
            compile_image(_architecture(torch.cuda.current_device()), *defines)
    except (NoCompiler, CannotCompile) as error:
        return str(error)
    return None


# --- compiling and starting -------------------------------------------------------------------------------------------


def _defines(dtype: torch.dtype, kernel: int, channels: int, dilation: int, vector: int) -> tuple[str, ...]:
    """What both kernels are told; the stencil is told more."""
    lanes = 1
    while lanes < _WARP and lanes * vector < channels:
        lanes *= 2
    said = {"KIND": _KINDS[dtype], "KERNEL": kernel, "CHANNELS": channels, "DILATION": dilation}
    return tuple(f"{name}={value}" for name, value in {**said, "V": vector, "LANES": lanes}.items())


def _groups(defines: tuple[str, ...]) -> int:
    """Blocks side by side in channels."""
    said = dict(each.split("=") for each in defines)
    return _up(int(said["CHANNELS"]), int(said["V"]) * int(said["LANES"]))


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
def _architecture(device: int) -> str:
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


@cache
def _function(device: int, name: str, *defines: str) -> Any:
    """Of the device that is current, for as long as the process lives."""
    from cuda.bindings import driver

    image = compile_image(_architecture(device), *defines)
    module = _asked(driver.cuModuleLoadData(image))[0]
    return _asked(driver.cuModuleGetFunction(module, name.encode()))[0]


def _starter(
    device: torch.device, name: str, defines: tuple[str, ...], blocks: int, threads: int
) -> Callable[[_Task], None]:
    groups = _groups(defines)
    if device.type == "cpu":
        library = load("depthwise", *defines, language="cuda")
        return lambda task: library.run(ctypes.byref(task), blocks, groups)
    from cuda.bindings import driver

    function = _function(device.index, name, *defines)

    def start(task: _Task) -> None:
        stream = torch.cuda.current_stream(device).cuda_stream
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(task))
        _asked(
            driver.cuLaunchKernel(function, blocks, groups, 1, threads, 1, 1, 0, stream, ctypes.addressof(arguments), 0)
        )

    return start


# --- the passes -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _stencil_plan(
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    kernel: int,
    dilation: int,
    turned: bool,
    gelu: bool,
    setting: tuple[int, ...],
) -> _Plan:
    n, channels, height, width = shape
    vector, rows, columns, threads = setting
    down, across = _up(_up(height, dilation), rows), _up(_up(width, dilation), columns)
    tiles = n * min(dilation, height) * min(dilation, width) * down * across
    _countable(shape, tiles)
    base = _defines(dtype, kernel, channels, dilation, vector)
    lanes = int(base[-1].partition("=")[2])
    defines = (*base, f"ROWS={rows}", f"COLUMNS={columns}", f"THREADS={threads}", f"GELU={int(gelu)}")
    task = _Task(height=height, width=width, tiles=tiles, down=down, across=across, turned=turned)
    blocks = _up(tiles, threads // lanes)
    return _Plan(task, _starter(device, "vanbench_depthwise", defines, blocks, threads))


def _stencil(x: Tensor, w: Tensor, bias: Tensor | None, dilation: int, *, turned: bool, gelu: bool) -> Tensor:
    out = torch.empty_like(x, memory_format=memory_format(x))
    if x.numel() == 0:
        return out
    source, w = _packed(x), w.contiguous()
    bias = None if bias is None else bias.contiguous()
    target = out if out.is_contiguous(memory_format=torch.channels_last) else torch.empty_like(source)
    kernel = w.shape[-1]

    def run(setting: tuple[int, ...]) -> None:
        plan = _stencil_plan(x.shape, x.dtype, x.device, kernel, dilation, turned, gelu, setting)
        task = _Task.from_buffer_copy(plan.task)
        task.x, task.w, task.y = source.data_ptr(), w.data_ptr(), target.data_ptr()
        task.bias = None if bias is None else bias.data_ptr()
        plan.start(task)

    settings = _STENCIL_ODD if x.shape[1] % 2 else tuple(each for each in _STENCIL if x.shape[1] % each[0] == 0)
    with on_device(x):
        run(tuned(f"cuda stencil {_slug(x, kernel, dilation)}", settings, run, x.device))
    if target is not out:
        out.copy_(target)
    return out


@lru_cache(maxsize=4096)
def _weight_plan(
    shape: torch.Size, dtype: torch.dtype, device: torch.device, kernel: int, dilation: int, setting: tuple[int, ...]
) -> _Plan:
    n, channels, height, width = shape
    (vector,) = setting
    defines = _defines(dtype, kernel, channels, dilation, vector)
    lanes = int(defines[-1].partition("=")[2])
    lines = n * height * min(dilation, width)
    _countable(shape, lines)
    # A chunk's sums are as large as the weights: chunks are few enough that these are little beside the maps.
    fewest = max(1, n * height * width // (8 * kernel * kernel))
    chunks = max(1, min(lines, _up(_BLOCKS, _groups(defines)), fewest))
    each = _up(lines, chunks)
    chunks = _up(lines, each)
    task = _Task(height=height, width=width, tiles=lines, each=each)
    start = _starter(device, "vanbench_depthwise_weight_sums", defines, chunks, lanes * kernel)
    return _Plan(task, start, (chunks, channels, 1, kernel, kernel))


def _weight_sums(g: Tensor, x: Tensor, w: Tensor, dilation: int) -> Tensor:
    if x.numel() == 0:
        return w.new_zeros(w.shape)
    g, x = _packed(g), _packed(x)
    kernel = w.shape[-1]

    def run(setting: tuple[int, ...]) -> Tensor:
        plan = _weight_plan(x.shape, x.dtype, x.device, kernel, dilation, setting)
        task = _Task.from_buffer_copy(plan.task)
        parts = torch.empty(plan.parts, dtype=torch.float32, device=x.device)
        task.x, task.g, task.y = x.data_ptr(), g.data_ptr(), parts.data_ptr()
        plan.start(task)
        # The second stage, in an order of its own that is always the same.
        return parts.sum(dim=0)

    settings = tuple(each for each in _WEIGHT_SUMS if x.shape[1] % each[0] == 0)
    with on_device(x):
        return run(tuned(f"cuda weight_sums {_slug(x, kernel, dilation)}", settings, run, x.device)).to(w.dtype)


def _up(number: int, step: int) -> int:
    """Steps that it takes."""
    return -(-number // step)


def _packed(x: Tensor) -> Tensor:
    """Channels last, where a thread's channels are read at once: a view that begins in between is copied."""
    x = x.contiguous(memory_format=torch.channels_last)
    return x.clone(memory_format=torch.channels_last) if x.data_ptr() % 16 else x


def _countable(shape: torch.Size, tiles: int) -> None:
    if tiles >= _MOST or shape[1:].numel() >= _MOST:
        raise ValueError(f"a map of {tuple(shape)} is too large for depthwise=cuda, which counts pixels in 32 bits")


def _slug(x: Tensor, kernel: int, dilation: int) -> str:
    return f"{'x'.join(map(str, x.shape))} k{kernel} d{dilation} {str(x.dtype).removeprefix('torch.')}"


_OPERATORS = operators(
    "cuda",
    ["CUDA", "CPU"],
    Passes(
        forward=lambda x, w, bias, dilation, gelu: _stencil(x, w, bias, dilation, turned=False, gelu=gelu),
        grad_input=lambda g, w, dilation: _stencil(g, w, None, dilation, turned=True, gelu=False),
        grad_weight=_weight_sums,
    ),
    tuple(_KINDS),
)
forward, forward_gelu = _OPERATORS.forward, _OPERATORS.forward_gelu
grad_input, grad_weight = _OPERATORS.grad_input, _OPERATORS.grad_weight
