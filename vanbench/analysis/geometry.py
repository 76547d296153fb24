"""Where a convolution's taps fall: its geometry and that of a pooling window, from an operation's shapes and arguments.

Knows positions and taps; what a tap costs, in operations or bytes, is not its business. Pure: values in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from vanbench.record.ops import Op, Operand

__all__ = [
    "CONVOLUTIONS",
    "POOLS",
    "Conv",
    "all_taps",
    "conv_of",
    "dimensions_of",
    "in_bounds_taps",
    "operand_of",
    "output_mask",
    "pool_dimensions",
    "taps_inside",
    "touched",
]

# Operators by the names that `traffic.kernel_of` gives them.
CONVOLUTIONS = (
    "convolution", "_convolution", "convolution_overrideable", "convolution_backward", "conv1d", "conv2d", "conv3d",
)  # fmt: skip
POOLS = ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "avg_pool3d", "max_pool3d_with_indices")


class Conv(NamedTuple):
    """A convolution's geometry. sizes, positions: what the taps fall on, and where the kernel is put, per dimension.

    For an ordinary convolution they are the input's and the output's sizes; a transposed one is the gradient of an
    ordinary one, with the two exchanged.
    """

    source: Operand
    weight: Operand
    target: Operand
    sizes: tuple[int, ...]
    positions: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    transposed: bool


@lru_cache(maxsize=4096)
def in_bounds_taps(size: int, kernel: int, stride: int, padding: int, dilation: int, output_size: int) -> int:
    """Taps of a 1-D convolution that fall inside [0, size), summed over its `output_size` outputs.

    Output o has its tap k at o * stride - padding + k * dilation. The count of an n-D convolution is the product.
    """
    inside = 0
    for tap in range(kernel):
        offset = tap * dilation - padding
        first = max(0, -(offset // stride))  # the least o with o * stride + offset >= 0
        last = min(output_size - 1, (size - 1 - offset) // stride)
        inside += max(0, last - first + 1)
    return inside


@lru_cache(maxsize=4096)
def touched(size: int, kernel: int, stride: int, padding: int, dilation: int, output_size: int) -> int:
    """How many distinct positions of [0, size) any tap of a 1-D convolution reads: all, or fewer with long strides."""
    starts = range(-padding, output_size * stride - padding, stride)
    reached = {start + tap * dilation for tap in range(kernel) for start in starts}
    return sum(0 <= position < size for position in reached)


def conv_of(op: Op) -> Conv | None:
    """The geometry of one of CONVOLUTIONS; None where shapes or arguments are not those of a batched one."""
    source, weight = operand_of(op, "input"), operand_of(op, "weight")
    target = operand_of(op, "grad_output") if "convolution_backward" in op.name else (op.outputs or (None,))[0]
    if source is None or weight is None or target is None:
        return None
    kernel = weight.shape[2:]
    dimensions = len(kernel)
    if len(source.shape) != dimensions + 2 or len(target.shape) != dimensions + 2:
        return None
    stride, padding, dilation = (
        _per_dimension(op.arguments.get(name, default), dimensions)
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    if stride is None or padding is None or dilation is None:
        return None
    transposed = bool(op.arguments.get("transposed", False))
    sizes, positions = source.shape[2:], target.shape[2:]
    if transposed:
        sizes, positions = positions, sizes
    groups = int(op.arguments.get("groups", 1))
    return Conv(source, weight, target, sizes, positions, kernel, stride, padding, dilation, groups, transposed)


def dimensions_of(conv: Conv) -> Iterable[tuple[int, int, int, int, int, int]]:
    """Per spatial dimension what `in_bounds_taps` takes."""
    return zip(conv.sizes, conv.kernel, conv.stride, conv.padding, conv.dilation, conv.positions, strict=True)


def taps_inside(conv: Conv) -> int:
    """Taps of one pair of channels that fall inside the image, over all positions of the kernel."""
    return math.prod(in_bounds_taps(*dimension) for dimension in dimensions_of(conv))


def all_taps(conv: Conv) -> int:
    """Taps of one pair of channels wherever they fall, as published counts have it."""
    return math.prod(conv.kernel) * math.prod(conv.positions)


def output_mask(op: Op) -> tuple[bool, bool, bool]:
    """Which of the gradients of input, weight and bias a backward convolution was asked for."""
    grad_input, grad_weight, grad_bias = op.arguments.get("output_mask", (True, True, len(op.outputs) > 2))
    return bool(grad_input), bool(grad_weight), bool(grad_bias)


def pool_dimensions(op: Op) -> list[tuple[int, int, int, int, int, int]] | None:
    """Per spatial dimension what `in_bounds_taps` takes; None if the arguments are not known."""
    window = op.arguments.get("kernel_size")
    source = operand_of(op, "self") or operand_of(op, "input")
    target = operand_of(op, "grad_output") or (op.outputs[0] if op.outputs else None)
    if window is None or source is None or target is None:
        return None
    spatial = 3 if "3d" in op.name else 2
    values = [
        _per_dimension(given, spatial)
        for given in (
            window,
            op.arguments.get("stride") or window,
            op.arguments.get("padding", 0),
            op.arguments.get("dilation", 1),
        )
    ]
    taps, stride, padding, dilation = values
    if taps is None or stride is None or padding is None or dilation is None:
        return None
    return list(zip(source.shape[-spatial:], taps, stride, padding, dilation, target.shape[-spatial:], strict=True))


def operand_of(op: Op, argument: str) -> Operand | None:
    """The tensor given for an argument, the first if it is a list; None if there is none."""
    operands = op.inputs.get(argument, ())
    return operands[0] if operands else None


def _per_dimension(value: object, dimensions: int) -> tuple[int, ...] | None:
    """One number per spatial dimension, from a number or a list of one or of all; None for words such as "same"."""
    if isinstance(value, int):
        return (value,) * dimensions
    if not isinstance(value, Sequence) or not all(isinstance(each, int) for each in value):
        return None
    if len(value) == 1:
        return tuple(value) * dimensions
    return tuple(value) if len(value) == dimensions else None
