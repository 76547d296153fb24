"""The depthwise convs of `depthwise.c` as operators of torch: forward, and the gradients of input and weight, on a CPU.

Maps are computed channels last; another memory format is copied there and back. Threads are torch's own: the team is
opened through the OpenMP runtime that torch has loaded, so that there are not two in the process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache, lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from vanbench.kernels.compiled import NoCompiler, load
from vanbench.kernels.geometry import Geometry

__all__ = ["forward", "forward_gelu", "grad_input", "grad_weight", "why_not"]

_KERNEL_SIZES = (3, 5, 7)
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
    if geometry.kernel_size not in _KERNEL_SIZES:
        return f"depthwise=cpu has kernels of 3, 5 and 7: this one has {geometry.kernel_size}"
    if geometry.stride != 1:
        return f"depthwise=cpu is for stride 1: this one has {geometry.stride}"
    if dtype not in _KINDS:
        return f"depthwise=cpu computes fp32, bf16 and fp64: this is {str(dtype).removeprefix('torch.')}"
    try:
        _library(dtype, geometry.kernel_size, "FORWARD")
        _team()
    except (NoCompiler, _NoRuntime) as error:
        return str(error)
    return None


def forward(x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """x (N, C, H, W), w (C, 1, k, k), bias (C,) -> like x. Differentiable."""
    y: Tensor = torch.ops.vanbench.depthwise_cpu(x, w, bias, *_arguments(x, geometry), False)
    return y


def forward_gelu(x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The exact GELU of `forward`, for inference."""
    y: Tensor = torch.ops.vanbench.depthwise_cpu(x, w, bias, *_arguments(x, geometry), True)
    return y


def grad_input(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    """Like g, which is like x."""
    y: Tensor = torch.ops.vanbench.depthwise_cpu_grad_input(g, w, *_arguments(x, geometry))
    return y


def grad_weight(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    """Like w."""
    y: Tensor = torch.ops.vanbench.depthwise_cpu_grad_weight(g, x, w, *_arguments(x, geometry))
    return y


def _arguments(x: Tensor, geometry: Geometry) -> tuple[int, int, int]:
    """As the operators take them: padding, dilation, groups."""
    return geometry.padding, geometry.dilation, x.shape[1]


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
    out = torch.empty_like(x, memory_format=_format(x))
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


def _format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


# --- the operators ----------------------------------------------------------------------------------------------------

# Defined through the library rather than by `custom_op`, whose wrapper costs as much as a small map's kernel. Arguments
# are called as aten's, and padding and groups are among them although they follow from the rest, so that whoever counts
# the cost of a convolution can count these.
_OPERATORS: Any = torch.library.Library("vanbench", "FRAGMENT")  # type: ignore[no-untyped-call]
_CONV = "int padding, int dilation, int groups"
_OPERATORS.define(f"depthwise_cpu(Tensor input, Tensor weight, Tensor? bias, {_CONV}, bool gelu=False) -> Tensor")
_OPERATORS.define(f"depthwise_cpu_grad_input(Tensor grad_output, Tensor weight, {_CONV}) -> Tensor")
_OPERATORS.define(f"depthwise_cpu_grad_weight(Tensor grad_output, Tensor input, Tensor weight, {_CONV}) -> Tensor")


@lru_cache(maxsize=4096)
def _check(
    x: torch.Size, w: torch.Size, dtypes: tuple[torch.dtype, torch.dtype], padding: int, dilation: int, groups: int
) -> None:
    """C code reads memory as it is told: what it is told must be so.

    Raises:
        ValueError: for anything but a depthwise conv of this file's kind.
    """
    kernel = w[-1] if w else 0
    channels = x[1] if len(x) == 4 else None
    if channels is None or w != (channels, 1, kernel, kernel) or groups != channels:
        raise ValueError(
            f"not a depthwise conv: input {_told(dtypes[0], x)}, weight {_told(dtypes[1], w)}, {groups} groups"
        )
    if kernel not in _KERNEL_SIZES or dilation < 1 or padding != dilation * (kernel - 1) // 2:
        raise ValueError(f"no kernel for size {kernel}, dilation {dilation}, padding {padding}")
    if dtypes[0] not in _KINDS or dtypes[1] is not dtypes[0]:
        raise ValueError(f"no kernel for input {_told(dtypes[0], x)} and weight {_told(dtypes[1], w)}")


def _told(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"


def _forward(
    x: Tensor, w: Tensor, bias: Tensor | None, padding: int, dilation: int, groups: int, gelu: bool = False
) -> Tensor:
    _check(x.shape, w.shape, (x.dtype, w.dtype), padding, dilation, groups)
    if bias is not None and (bias.shape != (groups,) or bias.dtype is not x.dtype):
        said = f"{_told(bias.dtype, bias.shape)} does not go with input {_told(x.dtype, x.shape)}"
        raise ValueError(f"bias {said}")
    return _stencil(x, w, bias, dilation, turned=False, gelu=gelu)


def _grad_input(g: Tensor, w: Tensor, padding: int, dilation: int, groups: int) -> Tensor:
    _check(g.shape, w.shape, (g.dtype, w.dtype), padding, dilation, groups)
    return _stencil(g, w, None, dilation, turned=True, gelu=False)


def _grad_weight(g: Tensor, x: Tensor, w: Tensor, padding: int, dilation: int, groups: int) -> Tensor:
    _check(x.shape, w.shape, (x.dtype, w.dtype), padding, dilation, groups)
    if g.shape != x.shape or g.dtype is not x.dtype:
        said = f"{_told(g.dtype, g.shape)}, the input {_told(x.dtype, x.shape)}"
        raise ValueError(f"the output's gradient is {said}: they must be alike")
    return _weight_sums(g, x, w, dilation)


_OPERATORS.impl("depthwise_cpu", _forward, "CPU")
_OPERATORS.impl("depthwise_cpu_grad_input", _grad_input, "CPU")
_OPERATORS.impl("depthwise_cpu_grad_weight", _grad_weight, "CPU")


def _fake_forward(
    x: Tensor, w: Tensor, bias: Tensor | None, padding: int, dilation: int, groups: int, gelu: bool = False
) -> Tensor:
    return torch.empty_like(x, memory_format=_format(x))


def _fake_grad_input(g: Tensor, w: Tensor, padding: int, dilation: int, groups: int) -> Tensor:
    return torch.empty_like(g, memory_format=_format(g))


def _fake_grad_weight(g: Tensor, x: Tensor, w: Tensor, padding: int, dilation: int, groups: int) -> Tensor:
    return w.new_empty(w.shape)


for _name, _fake in (
    ("depthwise_cpu", _fake_forward),
    ("depthwise_cpu_grad_input", _fake_grad_input),
    ("depthwise_cpu_grad_weight", _fake_grad_weight),
):
    torch.library.register_fake(f"vanbench::{_name}", _fake)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, bias, *ctx.geometry, gelu = inputs
    ctx.biased = bias is not None
    ctx.gelu = gelu
    ctx.save_for_backward(x, w)


def _backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.gelu:
        raise RuntimeError("depthwise_cpu with gelu=True is for inference: it keeps no map before the GELU")
    x, w = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    return (
        torch.ops.vanbench.depthwise_cpu_grad_input(g, w, *ctx.geometry) if wanted[0] else None,
        torch.ops.vanbench.depthwise_cpu_grad_weight(g, x, w, *ctx.geometry) if wanted[1] else None,
        g.sum(dim=(0, 2, 3)) if ctx.biased and wanted[2] else None,
        *[None] * 4,
    )


torch.library.register_autograd("vanbench::depthwise_cpu", _backward, setup_context=_remember)
