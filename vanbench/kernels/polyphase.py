"""A dilated depthwise conv as dense ones: with dilation d, each of the d x d phases of the map is a map of its own.

Phases become images of a batch, so that torch's dense kernels serve them; no compiler is needed. It costs two passes
over the map that the conv itself does not need, and the phases are padded to a common size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vanbench.kernels.geometry import Geometry, native_backward, native_forward

__all__ = ["forward", "grad_input", "grad_weight", "why_not"]


def why_not(device: str, geometry: Geometry, dtype: torch.dtype) -> str | None:
    """Only dilated convs of stride 1 have phases that are convs."""
    if geometry.dilation == 1:
        return "polyphase takes a dilated conv apart: this one is dense"
    if geometry.stride != 1:
        return f"polyphase is for stride 1: this one has {geometry.stride}"
    return None


def forward(x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Differentiable, by torch's own rules."""
    dense = Geometry(geometry.kernel_size)
    return _joined(native_forward(_phases(x, geometry.dilation), w, bias, dense), geometry.dilation, x)


def grad_input(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    """Like x."""
    d, dense = geometry.dilation, Geometry(geometry.kernel_size)
    # The conv reads of x nothing but its shape here.
    phases = _phases(g, d)
    return _joined(native_backward(phases, phases, w, dense, [True, False, False])[0], d, x)


def grad_weight(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    """Like w."""
    d, dense = geometry.dilation, Geometry(geometry.kernel_size)
    return native_backward(_phases(g, d), _phases(x, d), w, dense, [False, True, False])[1]


def _phases(x: Tensor, d: int) -> Tensor:
    """(N, C, H, W) -> (d d N, C, ceil(H / d), ceil(W / d)), zeros where the map has no pixel; memory format as x's."""
    n, c, h, w = x.shape
    x = F.pad(x, (0, -w % d, 0, -h % d))
    h, w = x.shape[2] // d, x.shape[3] // d
    if _channels_last(x):
        split = x.permute(0, 2, 3, 1).reshape(n, h, d, w, d, c).permute(2, 4, 0, 1, 3, 5)
        return split.reshape(d * d * n, h, w, c).permute(0, 3, 1, 2)
    return x.reshape(n, c, h, d, w, d).permute(3, 5, 0, 1, 2, 4).reshape(d * d * n, c, h, w)


def _joined(phases: Tensor, d: int, like: Tensor) -> Tensor:
    """The inverse of `_phases`, in the shape of `like`."""
    n, c, height, width = like.shape
    h, w = phases.shape[2:]
    if _channels_last(phases):
        split = phases.permute(0, 2, 3, 1).reshape(d, d, n, h, w, c).permute(2, 3, 0, 4, 1, 5)
        whole = split.reshape(n, h * d, w * d, c).permute(0, 3, 1, 2)
    else:
        whole = phases.reshape(d, d, n, c, h, w).permute(2, 3, 4, 0, 5, 1).reshape(n, c, h * d, w * d)
    if whole.shape == like.shape:
        return whole
    memory_format = torch.channels_last if _channels_last(phases) else torch.contiguous_format
    return whole[:, :, :height, :width].contiguous(memory_format=memory_format)


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
