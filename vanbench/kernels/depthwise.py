"""The table of depthwise convs: which implementations there are, what each computes, and why it is not here.

Depthwise: groups = channels, one output channel each, stride and dilation the same both ways, padding that keeps the
map's size at stride 1 (dilation * (k - 1) / 2, k odd). Adding an implementation is a row of `IMPLEMENTATIONS` and its
word in `spec.names.DEPTHWISE`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vanbench.kernels import cpu, cuda, polyphase, triton
from vanbench.kernels.geometry import Geometry, native_backward, native_forward
from vanbench.kernels.torch_paths import ATEN, CUDNN, why_no_aten, why_no_cudnn

__all__ = ["IMPLEMENTATIONS", "Geometry", "Implementation", "inputs_of", "reference"]


class Implementation(NamedTuple):
    """The three passes; x (N, C, H, W), w (C, 1, k, k), bias (C,) or None, g: the gradient of the output.

    forward(x, w, bias, geometry) -> y, differentiable. forward_gelu: the same and an exact GELU in one kernel, for
    inference; None: it has no such. forward_pair(x, w, bias, w2, bias2): a 5x5 and then a 7x7 of dilation 3 in one
    kernel, for inference. grad_input(g, x, w, geometry) -> like x.
    grad_weight(g, x, w, geometry) -> like w. why_not(device type, geometry, type): why it cannot serve here, or None.
    """

    forward: Callable[[Tensor, Tensor, Tensor | None, Geometry], Tensor]
    grad_input: Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]
    grad_weight: Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]
    why_not: Callable[[str, Geometry, torch.dtype], str | None]
    forward_gelu: Callable[[Tensor, Tensor, Tensor | None, Geometry], Tensor] | None = None
    forward_pair: Callable[[Tensor, Tensor, Tensor | None, Tensor, Tensor | None], Tensor] | None = None


IMPLEMENTATIONS: dict[str, Implementation] = {
    "native": Implementation(
        forward=native_forward,
        grad_input=lambda g, x, w, geometry: native_backward(g, x, w, geometry, [True, False, False])[0],
        grad_weight=lambda g, x, w, geometry: native_backward(g, x, w, geometry, [False, True, False])[1],
        why_not=lambda device, geometry, dtype: None,
    ),
    "polyphase": Implementation(polyphase.forward, polyphase.grad_input, polyphase.grad_weight, polyphase.why_not),
    "cpu": Implementation(cpu.forward, cpu.grad_input, cpu.grad_weight, cpu.why_not, cpu.forward_gelu),
    "cuda": Implementation(cuda.forward, cuda.grad_input, cuda.grad_weight, cuda.why_not, cuda.forward_gelu),
    "cuda-pair": Implementation(
        cuda.forward, cuda.grad_input, cuda.grad_weight, cuda.why_not, cuda.forward_gelu, cuda.forward_pair
    ),
    "triton": Implementation(
        triton.forward, triton.grad_input, triton.grad_weight, triton.why_not, triton.forward_gelu
    ),
    "cudnn": Implementation(CUDNN.forward, CUDNN.grad_input, CUDNN.grad_weight, why_no_cudnn),
    "aten": Implementation(ATEN.forward, ATEN.grad_input, ATEN.grad_weight, why_no_aten),
}


def inputs_of(
    batch_size: int,
    channels: int,
    height: int,
    width: int,
    geometry: Geometry,
    dtype: torch.dtype,
    memory_format: torch.memory_format,
    device: torch.device,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(x, w, g) of random numbers, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    out = (geometry.output(height), geometry.output(width))
    x = torch.randn(batch_size, channels, height, width, generator=generator)
    w = torch.randn(channels, 1, geometry.kernel_size, geometry.kernel_size, generator=generator)
    g = torch.randn(batch_size, channels, *out, generator=generator)
    return tuple(each.to(dtype).to(device).to(memory_format=memory_format) for each in (x, w, g))  # type: ignore[return-value]


def reference(direction: str, x: Tensor, w: Tensor, g: Tensor, geometry: Geometry) -> Tensor:
    """The answer in float64, contiguous, of native code; forward and grad_input for the first and last image alone.

    Those two passes know no other image, and a slow conv need not be run on all of them.
    """
    if direction != "grad_weight":
        ends = [0, x.shape[0] - 1]
        x, g = x[ends], g[ends]
    x, w, g = (each.double().contiguous() for each in (x, w, g))
    if direction == "forward":
        return native_forward(x, w, None, geometry)
    if direction == "grad_input":
        return native_backward(g, x, w, geometry, [True, False, False])[0]
    # A product with shifted images tap by tap: what native code gets wrong in its own sum is seen.
    padded = F.pad(x, [geometry.padding] * 4)
    taps = []
    for row in range(geometry.kernel_size):
        for column in range(geometry.kernel_size):
            top, left = row * geometry.dilation, column * geometry.dilation
            seen = padded[
                :,
                :,
                top : top + (g.shape[2] - 1) * geometry.stride + 1 : geometry.stride,
                left : left + (g.shape[3] - 1) * geometry.stride + 1 : geometry.stride,
            ]
            taps.append((seen * g).sum(dim=(0, 2, 3)))
    return torch.stack(taps, dim=1).reshape(w.shape)
