"""Torch's two ways of serving a depthwise conv on CUDA, each asked for by name, whatever torch itself would choose.

`cudnn`: cuDNN, on channels-last maps, where torch goes to it for every kernel size and dilation. `aten`: the kernels of
torch's own source (DepthwiseConv2d.cu), which read contiguous maps. A map of another memory format is copied there and
back, as torch does it. Holds no kernel.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor

from vanbench.kernels.geometry import Geometry, native_backward, native_forward
from vanbench.kernels.operators import Operators, Passes, memory_format, operators

__all__ = ["ATEN", "CUDNN", "why_no_aten", "why_no_cudnn"]


class _Path(NamedTuple):
    """layout: the memory format in which it serves every conv; without_cudnn: where cuDNN would take it over."""

    layout: torch.memory_format
    without_cudnn: bool

    def forward(self, x: Tensor, w: Tensor, bias: Tensor | None, dilation: int, gelu: bool) -> Tensor:
        with self._asked():
            y = native_forward(self._laid(x), self._laid(w), bias, Geometry(w.shape[-1], dilation))
        return y.contiguous(memory_format=memory_format(x))

    def grad_input(self, g: Tensor, w: Tensor, dilation: int) -> Tensor:
        # Of the input nothing but its shape and layout is read here.
        return self._backward(g, g, w, dilation, [True, False, False])[0].contiguous(memory_format=memory_format(g))

    def grad_weight(self, g: Tensor, x: Tensor, w: Tensor, dilation: int) -> Tensor:
        return self._backward(g, x, w, dilation, [False, True, False])[1].contiguous()

    def _backward(self, g: Tensor, x: Tensor, w: Tensor, dilation: int, mask: list[bool]) -> tuple[Tensor, ...]:
        with self._asked():
            laid = self._laid(g), self._laid(x), self._laid(w)
            return native_backward(*laid, Geometry(w.shape[-1], dilation), mask)

    def _asked(self) -> contextlib.AbstractContextManager[None]:
        if self.without_cudnn:
            return torch.backends.cudnn.flags(enabled=False)
        return contextlib.nullcontext()

    def _laid(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.layout)


def _defined(word: str, path: _Path, dtypes: tuple[torch.dtype, ...]) -> Operators:
    passes = Passes(path.forward, path.grad_input, path.grad_weight)
    return operators(word, ["CUDA"], passes, dtypes, sizes=None, gelu=False)


_HALVES = (torch.float32, torch.bfloat16, torch.float16)
CUDNN = _defined("cudnn", _Path(torch.channels_last, False), _HALVES)
ATEN = _defined("aten", _Path(torch.contiguous_format, True), (*_HALVES, torch.float64))


def why_no_cudnn(device: str, geometry: Geometry, dtype: torch.dtype) -> str | None:
    """Why cuDNN cannot be asked here, or None."""
    reason = _why_not("cudnn", device, geometry)
    if reason is not None:
        return reason
    if dtype not in _HALVES:
        return f"depthwise=cudnn computes fp32, bf16 and fp16: this is {str(dtype).removeprefix('torch.')}"
    there: bool = torch.backends.cudnn.is_available()  # type: ignore[no-untyped-call]
    if torch.version.hip is not None or not there or not torch.backends.cudnn.enabled:
        return "depthwise=cudnn needs a torch with cuDNN"
    return None


def why_no_aten(device: str, geometry: Geometry, dtype: torch.dtype) -> str | None:
    """Why torch's own CUDA kernels cannot be asked here, or None."""
    return _why_not("aten", device, geometry)


def _why_not(word: str, device: str, geometry: Geometry) -> str | None:
    if device != "cuda":
        return f"depthwise={word} is for CUDA devices"
    if geometry.stride != 1:
        return f"depthwise={word} is for stride 1: this one has {geometry.stride}"
    return None
