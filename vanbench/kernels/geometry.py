"""What a depthwise conv is, and torch's own code for it: groups = channels, one output channel each."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Geometry", "native_backward", "native_forward"]


class Geometry(NamedTuple):
    """Of a square kernel; the padding keeps the map's size at stride 1: dilation * (k - 1) / 2, k odd."""

    kernel_size: int
    dilation: int = 1
    stride: int = 1

    @property
    def padding(self) -> int:
        """On each side."""
        return self.dilation * (self.kernel_size - 1) // 2

    def output(self, size: int) -> int:
        """Pixels out of `size` pixels in, one way."""
        return (size + 2 * self.padding - self.dilation * (self.kernel_size - 1) - 1) // self.stride + 1


def native_forward(x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """x (N, C, H, W), w (C, 1, k, k), bias (C,) -> (N, C, output(H), output(W))."""
    return F.conv2d(x, w, bias, geometry.stride, geometry.padding, geometry.dilation, groups=x.shape[1])


def native_backward(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, mask: list[bool]) -> tuple[Tensor, ...]:
    """The gradients of x, w and the bias that the mask asks for; g: that of the output."""
    pair = [geometry.stride] * 2, [geometry.padding] * 2, [geometry.dilation] * 2
    sizes = [w.shape[0]] if mask[2] else None
    made: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        g, x, w, sizes, *pair, False, [0, 0], x.shape[1], mask
    )
    return made
