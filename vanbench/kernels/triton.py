"""The depthwise convs of `depthwise_triton.py` as operators of torch: forward, both gradients, on a GPU.

Maps are computed channels last; another memory format is copied there and back. With TRITON_INTERPRET=1 the same
kernels run on the CPU, statement by statement in Python: right, and a million times too slow to be measured.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from vanbench.kernels.geometry import Geometry
from vanbench.kernels.operators import memory_format, operators, stencil_passes, why_no_geometry
from vanbench.kernels.tuning import on_device, tuned

__all__ = ["forward", "forward_gelu", "grad_input", "grad_weight", "interpreted", "why_not"]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Rows, columns and channels of a program, and its warps. The first also serves where nothing is timed.
_STENCIL = ((4, 16, 64, 4), (4, 16, 32, 4), (2, 16, 64, 4), (4, 8, 32, 2), (1, 16, 64, 4))
_INTERPRETED_STENCIL = ((2, 16, 32, 1),)
# Columns and channels of a program, and its warps.
_WEIGHT_SUMS = ((8, 64, 4), (16, 32, 4), (8, 32, 2), (32, 32, 4))
# Programs of a weight gradient, about: a few a multiprocessor. The same on every device, so that sums are too.
_PROGRAMS = 4096
# Within an image a kernel counts in 32 bits.
_MOST = 2**31


def interpreted() -> bool:
    """Whether Triton is told to interpret its kernels."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _missing() -> str | None:
    try:
        import triton  # noqa: F401 -- only whether it is there
    except ImportError as error:
        return f"depthwise=triton needs Triton, which comes with torch for CUDA: {error}"
    return None


def why_not(device: str, geometry: Geometry, dtype: torch.dtype) -> str | None:
    """Why there is no such kernel here, or None."""
    if device != "cuda" and not (device == "cpu" and interpreted()):
        return "depthwise=triton is for CUDA devices (or, to try it, Triton's interpreter: TRITON_INTERPRET=1)"
    if dtype not in _DTYPES:
        return f"depthwise=triton computes fp32, bf16 and fp16: this is {str(dtype).removeprefix('torch.')}"
    return why_no_geometry("triton", geometry) or _missing()


@cache
def _kernels() -> Any:
    from vanbench.kernels import depthwise_triton

    return depthwise_triton


def _stencil(x: Tensor, w: Tensor, bias: Tensor | None, dilation: int, *, turned: bool, gelu: bool) -> Tensor:
    import triton

    out = torch.empty_like(x, memory_format=memory_format(x))
    if x.numel() == 0:
        return out
    n, c, height, width = x.shape
    _countable(x)
    source = x.contiguous(memory_format=torch.channels_last)
    target = out if out.is_contiguous(memory_format=torch.channels_last) else torch.empty_like(source)
    kernel = w.shape[-1]
    # By taps, so that neighbours in memory are neighbouring channels, as in the map.
    taps = w.reshape(c, kernel * kernel).t().to(torch.float32).contiguous()

    def run(setting: tuple[int, ...]) -> None:
        rows, columns, channels, warps = setting
        row_tiles = triton.cdiv(triton.cdiv(height, dilation), rows)
        column_tiles = triton.cdiv(width, columns)
        grid = (column_tiles * triton.cdiv(c, channels), row_tiles * min(dilation, height), n)
        _kernels().triton_depthwise[grid](
            *(source, taps, taps if bias is None else bias, target),
            *(height, width, c, dilation, row_tiles, column_tiles),
            KERNEL=kernel,
            TURNED=turned,
            BIAS=bias is not None,
            GELU=gelu,
            ROWS=rows,
            COLUMNS=columns,
            CHANNELS=channels,
            WHOLE=c % channels == 0,
            num_warps=warps,
        )

    settings = _INTERPRETED_STENCIL if interpreted() else _STENCIL
    about = ("triton stencil", x.shape, kernel, dilation, x.dtype)
    with on_device(x):
        run(tuned(about, settings, run, x.device))
    if target is not out:
        out.copy_(target)
    return out


def _weight_sums(g: Tensor, x: Tensor, w: Tensor, dilation: int) -> Tensor:
    import triton

    if x.numel() == 0:
        return w.new_zeros(w.shape)
    _countable(x)
    g, x = (each.contiguous(memory_format=torch.channels_last) for each in (g, x))
    n, c, height, width = x.shape
    kernel = w.shape[-1]
    lines = n * height
    # A chunk's sums are as large as the weights: chunks are few enough that these are little beside the maps.
    chunks = max(1, min(lines, _PROGRAMS // (kernel * triton.cdiv(c, 64)), x.numel() // (8 * w.numel())))
    each = triton.cdiv(lines, chunks)
    chunks = triton.cdiv(lines, each)
    parts = torch.empty((chunks, kernel * kernel, c), dtype=torch.float32, device=x.device)

    def run(setting: tuple[int, ...]) -> None:
        columns, channels, warps = setting
        _kernels().triton_depthwise_weight_sums[(triton.cdiv(c, channels), kernel, chunks)](
            *(x, g, parts, height, width, c, dilation, lines, each),
            KERNEL=kernel,
            COLUMNS=columns,
            CHANNELS=channels,
            WHOLE=c % channels == 0,
            num_warps=warps,
        )

    with on_device(x):
        run(tuned(("triton weight_sums", x.shape, kernel, dilation, x.dtype), _WEIGHT_SUMS, run, x.device))
    # The second stage, in an order of its own that is always the same.
    return parts.sum(dim=0).t().reshape(w.shape).to(w.dtype).contiguous()


def _countable(x: Tensor) -> None:
    if x[0].numel() >= _MOST:
        raise ValueError(f"an image of {tuple(x.shape[1:])} is too large for depthwise=triton: {_MOST} values or more")


_OPERATORS = operators(
    "triton",
    ["CUDA", "CPU"],
    stencil_passes(_stencil, _weight_sums),
    _DTYPES,
)
forward, forward_gelu = _OPERATORS.forward, _OPERATORS.forward_gelu
grad_input, grad_weight = _OPERATORS.grad_input, _OPERATORS.grad_weight
