"""Where in a network an operation belongs, and how its tensors lie in memory: words for tables. Pure."""

from __future__ import annotations

import re

from vanbench.record.ops import Op, Operand

__all__ = ["geometry", "layout", "main_input", "stage"]

# The families' own words for their stages; of any other model the first part of the module's path stands.
_STAGES = (
    (re.compile(r"^(?:patch_embed|block|norm)(\d)(?:\.|$)"), 0),  # VAN counts from 1
    (re.compile(r"^stages\.(\d)(?:\.|$)"), 1),  # ConvNeXt and others of timm count from 0
    (re.compile(r"^layer(\d)(?:\.|$)"), 0),  # ResNet counts from 1
)
_STEMS = re.compile(r"^(?:stem|conv1|bn1|act1|maxpool)(?:[._]|$)")


def stage(op: Op) -> str:
    """`stage 1`, `stem`, `head` ...; loss and optimizer are stages of their own."""
    if op.phase in ("loss", "optimizer"):
        return op.phase
    for pattern, offset in _STAGES:
        found = pattern.match(op.module)
        if found:
            return f"stage {int(found.group(1)) + offset}"
    if _STEMS.match(op.module):
        return "stem"
    first = op.module.partition(".")[0]
    return "head" if first in ("head", "fc", "global_pool", "classifier") else first or "between"


def layout(operand: Operand) -> str:
    """channels_last or contiguous by the strides; either where both have the same; else strided."""
    shape, stride = operand.shape, operand.stride
    plain = _dense(shape, stride, range(len(shape)))
    if len(shape) != 4:
        return "contiguous" if plain else "strided"
    last = _dense(shape, stride, (0, 2, 3, 1))
    if plain and last:
        return "either"
    return "contiguous" if plain else "channels_last" if last else "strided"


def _dense(shape: tuple[int, ...], stride: tuple[int, ...], order: tuple[int, ...] | range) -> bool:
    """Whether the elements lie one after the other when dimensions are walked in `order`; sizes of 1 never matter."""
    expected = 1
    for dimension in reversed(order):
        if shape[dimension] != 1:
            if stride[dimension] != expected:
                return False
            expected *= shape[dimension]
    return True


def main_input(op: Op) -> Operand | None:
    """The tensor an operation works on: of a backward one the gradient that comes in."""
    for word in ("input", "grad_output", "self", "mat1", "tensors"):
        if op.inputs.get(word):
            return op.inputs[word][0]
    return next((operands[0] for operands in op.inputs.values() if operands), None)


def geometry(op: Op) -> dict[str, int | None]:
    """Kernel, stride, dilation and groups of a conv; None for everything else, and where they are not square."""
    empty: dict[str, int | None] = {"kernel_size": None, "stride": None, "dilation": None, "groups": None}
    if not op.name.startswith(("aten.convolution.", "aten.convolution_backward.")) or not op.inputs.get("weight"):
        return empty
    kernel = op.inputs["weight"][0].shape[2:]

    def one(values: object) -> int | None:
        listed = list(values) if isinstance(values, (list, tuple)) else [values]
        first = listed[0] if listed else None
        return first if isinstance(first, int) and all(each == first for each in listed) else None

    return {
        "kernel_size": one(kernel),
        "stride": one(op.arguments.get("stride", 1)),
        "dilation": one(op.arguments.get("dilation", 1)),
        "groups": one(op.arguments.get("groups", 1)),
    }
