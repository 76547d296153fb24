"""The depthwise convs of `depthwise.c` as operators of torch: forward, and the gradients of input and weight, on a CPU.

Maps are computed channels last; another memory format is copied there and back. Threads are torch's own: the team is
opened through the OpenMP runtime that torch has loaded, so that there are not two in the process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache, lru_cache, partial

import torch
from torch import Tensor

from vanbench.kernels.compiled import NoCompiler, load
from vanbench.kernels.geometry import Geometry
from vanbench.kernels.operators import memory_format, operators, stencil_passes, why_no_geometry

__all__ = ["forward", "forward_gelu", "grad_input", "grad_weight", "why_not"]

_KINDS = {torch.float32: "FP32", torch.bfloat16: "BF16", torch.float64: "FP64"}
_SUMS = {torch.float32: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float64}
# A weight gradient's images are cut so that there are about so many pieces, whatever the threads: the same sums.
_PIECES = 64
_FEW_PIECES = 16
# Vectors of channels in a piece, at most. All of a pixel's if they are so few: then memory is read in its order.
_MOST_VECTORS = 64


class _Task(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ["x", "w", "bias", "g", "y"]),
        *((name, ctypes.c_int64) for name in ["batch", "channels", "height", "width", "dilation"]),
        *((name, ctypes.c_int64) for name in ["turned", "gelu", "group", "cuts", "count"]),
    ]


class _Team(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("parallel", "member", "members")]


class _NoRuntime(Exception):  # noqa: N818 -- as NoCompiler
    """Torch's OpenMP runtime was not found; the message says so."""


@cache
def _library(dtype: torch.dtype, kernel: int, work: str) -> ctypes.CDLL:
    """work: FORWARD or WEIGHT_GRADIENT, as the source calls them."""
    library = load("depthwise", f"KIND={_KINDS[dtype]}", f"KERNEL={kernel}", f"PASS={work}")
    library.run.restype = None
    library.run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, *[ctypes.c_void_p] * 5]
    library.lanes.restype = ctypes.c_int
    return library


@cache
def _team() -> _Team:
    """Of the OpenMP runtime that torch has loaded for everybody.

    Raises:
        _NoRuntime: there is none, or it has no GOMP interface (libgomp, libomp and libiomp5 have).
    """
    try:
        process = ctypes.CDLL(None)
        found = [getattr(process, name) for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")]
    except (AttributeError, TypeError) as error:  # TypeError: Windows has no handle of the whole process
        raise _NoRuntime("torch has loaded no OpenMP runtime with a GOMP interface here") from error
    return _Team(*(ctypes.cast(each, ctypes.c_void_p) for each in found))


def why_not(device: str, geometry: Geometry, dtype: torch.dtype) -> str | None:
    """Why there is no such kernel here, or None. Compiles it if it has not been."""
    if device != "cpu":
        return "depthwise=cpu is for the CPU"
    if (reason := why_no_geometry("cpu", geometry)) is not None:
        return reason
    if dtype not in _KINDS:
        return f"depthwise=cpu computes fp32, bf16 and fp64: this is {str(dtype).removeprefix('torch.')}"
    try:
        _library(dtype, geometry.kernel_size, "FORWARD")
        _team()
    except (NoCompiler, _NoRuntime) as error:
        return str(error)
    return None


# A call's own work in Python runs on caches that the kernel before has filled with its maps, and so at half its speed:
# what follows from shapes is made once.
_Run = Callable[[int, "int | None", "int | None", "int | None", int], None]


@lru_cache(maxsize=4096)
def _stencil_plan(
    shape: torch.Size, dtype: torch.dtype, kernel: int, dilation: int, turned: bool, gelu: bool, threads: int
) -> _Run:
    """The forward pass of a channels-last map as a function of pointers: x, w, bias, nothing, y."""
    library = _library(dtype, kernel, "FORWARD")
    task = _task(shape, dilation)
    task.turned, task.gelu = turned, gelu
    lanes: int = library.lanes()
    task.group = min(_MOST_VECTORS * lanes, _up(task.channels, lanes))
    task.cuts = min(threads, task.batch * task.height)
    task.count = task.cuts * -(-task.channels // task.group)
    return partial(library.run, ctypes.byref(task), ctypes.byref(_team()), threads)


def _stencil(x: Tensor, w: Tensor, bias: Tensor | None, dilation: int, *, turned: bool, gelu: bool) -> Tensor:
    run = _stencil_plan(x.shape, x.dtype, w.shape[-1], dilation, turned, gelu, torch.get_num_threads())
    w = w.contiguous()
    bias = None if bias is None else bias.contiguous()
    out = torch.empty_like(x, memory_format=memory_format(x))
    if x.numel() == 0:
        return out
    source = x.contiguous(memory_format=torch.channels_last)
    # Where both formats are the same memory, the output needs no copy either.
    target = out if out.is_contiguous(memory_format=torch.channels_last) else torch.empty_like(source)
    run(source.data_ptr(), w.data_ptr(), None if bias is None else bias.data_ptr(), None, target.data_ptr())
    if target is not out:
        out.copy_(target)
    return out


@lru_cache(maxsize=4096)
def _weight_plan(
    shape: torch.Size, dtype: torch.dtype, kernel: int, dilation: int, threads: int
) -> tuple[_Run, tuple[int, int, int, int, int]]:
    """The weight gradient as a function of pointers: x, nothing, nothing, g, parts; and the shape of the parts."""
    library = _library(dtype, kernel, "WEIGHT_GRADIENT")
    task = _task(shape, dilation)
    lanes: int = library.lanes()
    vectors = -(-task.channels // lanes)
    # A small kernel wants many channels in a piece, for the sake of memory's order.
    task.group = lanes * (max(1, min(_MOST_VECTORS, vectors * task.batch // _FEW_PIECES)) if kernel == 3 else 1)
    groups = -(-task.channels // task.group)
    task.cuts = min(task.batch, -(-_PIECES // groups))
    task.count = groups * task.cuts
    run = partial(library.run, ctypes.byref(task), ctypes.byref(_team()), threads)
    return run, (task.cuts, task.channels, 1, kernel, kernel)


def _weight_sums(g: Tensor, x: Tensor, w: Tensor, dilation: int) -> Tensor:
    if x.numel() == 0:
        return w.new_zeros(w.shape)
    g, x = (each.contiguous(memory_format=torch.channels_last) for each in (g, x))
    run, shape = _weight_plan(x.shape, x.dtype, w.shape[-1], dilation, torch.get_num_threads())
    parts = torch.empty(shape, dtype=_SUMS[x.dtype])
    run(x.data_ptr(), None, None, g.data_ptr(), parts.data_ptr())
    return (parts[0] if len(parts) == 1 else parts.sum(dim=0)).to(w.dtype)


def _task(shape: torch.Size, dilation: int) -> _Task:
    """Of a map (N, C, H, W), channels last, but for its pointers."""
    batch, channels, height, width = shape
    return _Task(batch=batch, channels=channels, height=height, width=width, dilation=dilation)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


_OPERATORS = operators(
    "cpu",
    ["CPU"],
    stencil_passes(_stencil, _weight_sums),
    tuple(_KINDS),
)
forward, forward_gelu = _OPERATORS.forward, _OPERATORS.forward_gelu
grad_input, grad_weight = _OPERATORS.grad_input, _OPERATORS.grad_weight
