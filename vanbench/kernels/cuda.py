"""The depthwise convs of `depthwise.cu` as operators of torch: forward, both gradients, on NVIDIA GPUs.

Compiled at first use by NVRTC, which comes with torch for CUDA, for the very conv: channels and dilation are constants
of the kernel. Maps are computed channels last; another memory format is copied there and back. With
VANBENCH_EMULATE_CUDA=1 a C compiler makes the same source run on the CPU, thread by thread: right, and not to be timed.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from vanbench.kernels.compiled import NoCompiler, load
from vanbench.kernels.geometry import Geometry
from vanbench.kernels.nvrtc import CannotCompile, architecture_of, compile_image, launcher
from vanbench.kernels.operators import inference_operator, memory_format, operators, stencil_passes, why_no_geometry
from vanbench.kernels.tuning import on_device, tuned

__all__ = [
    "emulated",
    "forward",
    "forward_gelu",
    "forward_pair",
    "grad_input",
    "grad_weight",
    "why_not",
]

_KINDS = {torch.float32: "FP32", torch.bfloat16: "BF16", torch.float16: "FP16"}
# Channels of a thread, its rows and columns, and threads of a block. The first also serves where nothing is timed.
_STENCIL = ((2, 4, 4, 256), (2, 2, 4, 256), (2, 4, 7, 128), (2, 4, 8, 128), (4, 2, 4, 128), (2, 2, 2, 256))
_STENCIL_ODD = ((1, 4, 4, 256), (1, 4, 8, 128), (1, 2, 2, 256))
# Of the pair the same and the lanes; those whose map fits into a block's shared memory.
_PAIR = ((2, 4, 4, 256, 32), (2, 2, 4, 256, 16), (2, 2, 2, 256, 32), (2, 2, 2, 256, 8))
_PAIR_ODD = ((1, 4, 4, 256, 32), (1, 2, 2, 256, 8))
# What Hopper gives a block, for the CPU that stands in for a GPU.
_EMULATED_SHARED_BYTES = 232448
# Channels of a thread of the weight's gradient.
_WEIGHT_SUMS = ((2,), (4,), (1,))
_WARP = 32
# Blocks of a weight gradient, about: eight a multiprocessor of a large device. The same everywhere, so that sums are.
_BLOCKS = 1056
# What the kernels count in 32 bits: tiles, lines, and values of an image.
_MOST = 2**31


class _Task(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ["x", "w", "bias", "g", "w2", "bias2", "y"]),
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
            compile_image(architecture_of(torch.cuda.current_device()), *defines)
    except (NoCompiler, CannotCompile) as error:
        return str(error)
    return None


# --- what is compiled -------------------------------------------------------------------------------------------------


def _defines(
    dtype: torch.dtype, kernel: int, channels: int, dilation: int, vector: int, most_lanes: int = _WARP
) -> tuple[str, ...]:
    """What every kernel is told; the stencil is told more."""
    lanes = 1
    while lanes < most_lanes and lanes * vector < channels:
        lanes *= 2
    said = {"KIND": _KINDS[dtype], "KERNEL": kernel, "CHANNELS": channels, "DILATION": dilation}
    return tuple(f"{name}={value}" for name, value in {**said, "V": vector, "LANES": lanes}.items())


def _groups(defines: tuple[str, ...]) -> int:
    """Blocks side by side in channels."""
    said = dict(each.split("=") for each in defines)
    return _up(int(said["CHANNELS"]), int(said["V"]) * int(said["LANES"]))


def _starter(
    device: torch.device, name: str, defines: tuple[str, ...], blocks: int, threads: int, shared_bytes: int = 0
) -> Callable[[_Task], None]:
    """shared_bytes: of memory that the kernel leaves to be sized here."""
    groups = _groups(defines)
    if device.type == "cpu":
        library = load("depthwise", *defines, language="cuda")
        return lambda task: library.run(ctypes.byref(task), blocks, groups)
    return launcher(device, name, defines, (blocks, groups), threads, shared_bytes)


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
        run(tuned(("cuda stencil", x.shape, kernel, dilation, x.dtype), settings, run, x.device))
    if target is not out:
        out.copy_(target)
    return out


@lru_cache(maxsize=4096)
def _pair_plan(shape: torch.Size, dtype: torch.dtype, device: torch.device, setting: tuple[int, ...]) -> _Plan:
    n, channels, height, width = shape
    vector, rows, columns, threads, most_lanes = setting
    base = _defines(dtype, 7, channels, 3, vector, most_lanes)
    defines = (*base, f"ROWS={rows}", f"COLUMNS={columns}", f"THREADS={threads}", "GELU=0", "PAIR=1")
    down, across = _up(_up(height, 3), rows), _up(_up(width, 3), columns)
    task = _Task(height=height, width=width, down=down, across=across)
    shared_bytes = _pair_bytes(shape, dtype, setting)
    return _Plan(task, _starter(device, "vanbench_depthwise_pair", defines, n, threads, shared_bytes))


def _pair_bytes(shape: torch.Size, dtype: torch.dtype, setting: tuple[int, ...]) -> int:
    """Shared memory of a block: the taps of both convs in fp32, then the map between them."""
    _, channels, height, width = shape
    vector, *_, most_lanes = setting
    lanes = int(_defines(dtype, 7, channels, 3, vector, most_lanes)[-1].partition("=")[2])
    group = lanes * vector
    return (25 + 49) * (group + vector) * 4 + height * width * group * dtype.itemsize


@cache
def _pair_settings(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> tuple[tuple[int, ...], ...]:
    """Those that fit; none, for a map too large."""
    if device.type == "cuda":
        most = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    else:
        most = _EMULATED_SHARED_BYTES
    table = _PAIR_ODD if shape[1] % 2 else _PAIR
    return tuple(setting for setting in table if _pair_bytes(shape, dtype, setting) <= most)


def _pair(x: Tensor, w: Tensor, bias: Tensor | None, w2: Tensor, bias2: Tensor | None) -> Tensor:
    out = torch.empty_like(x, memory_format=memory_format(x))
    if x.numel() == 0:
        return out
    for weight, size in ((w, 5), (w2, 7)):
        if weight.shape != (x.shape[1], 1, size, size) or weight.dtype is not x.dtype:
            raise ValueError(
                f"not a {size}x{size} depthwise conv: input {tuple(x.shape)}, weight {tuple(weight.shape)}"
            )
    settings = _pair_settings(x.shape, x.dtype, x.device)
    if not settings:
        raise ValueError(f"a map of {tuple(x.shape)} does not fit into shared memory")
    source, w, w2 = _packed(x), w.contiguous(), w2.contiguous()
    bias, bias2 = (None if each is None else each.contiguous() for each in (bias, bias2))
    target = out if out.is_contiguous(memory_format=torch.channels_last) else torch.empty_like(source)

    def run(setting: tuple[int, ...]) -> None:
        plan = _pair_plan(x.shape, x.dtype, x.device, setting)
        task = _Task.from_buffer_copy(plan.task)
        task.x, task.y = source.data_ptr(), target.data_ptr()
        task.w, task.w2 = w.data_ptr(), w2.data_ptr()
        task.bias, task.bias2 = (None if each is None else each.data_ptr() for each in (bias, bias2))
        plan.start(task)

    with on_device(x):
        run(tuned(("cuda pair", x.shape, 7, 3, x.dtype), settings, run, x.device))
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
        return run(tuned(("cuda weight_sums", x.shape, kernel, dilation, x.dtype), settings, run, x.device)).to(w.dtype)


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


_OPERATORS = operators(
    "cuda",
    ["CUDA", "CPU"],
    stencil_passes(_stencil, _weight_sums),
    tuple(_KINDS),
)
forward, forward_gelu = _OPERATORS.forward, _OPERATORS.forward_gelu
grad_input, grad_weight = _OPERATORS.grad_input, _OPERATORS.grad_weight

_PAIR_OPERATOR = inference_operator(
    "depthwise_cuda_pair",
    "Tensor input, Tensor weight, Tensor? bias, Tensor weight2, Tensor? bias2",
    ["CUDA", "CPU"],
    _pair,
)


def forward_pair(x: Tensor, w: Tensor, bias: Tensor | None, w2: Tensor, bias2: Tensor | None) -> Tensor:
    """VAN's 5x5 and then its 7x7 of dilation 3, for inference: weights (C, 1, 5, 5) and (C, 1, 7, 7), biases (C,).

    One kernel where a map of a few channels fits into a block's shared memory, else one after the other.
    """
    if x.numel() == 0 or _pair_settings(x.shape, x.dtype, x.device):
        y: Tensor = _PAIR_OPERATOR(x, w, bias, w2, bias2)
        return y
    return forward(forward(x, w, bias, Geometry(5)), w2, bias2, Geometry(7, 3))
