"""What a step is made of: its operations with the shapes, strides and types of what they read and write.

Values only. Tracing fills them in (`worker/trace.py`); `analysis/cost.py` says what each of them costs.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Op", "Operand", "Work"]


class Operand(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor as an operation saw it. stride: in elements. dtype: torch's name without `torch.`.

    storage: a number for the memory behind it; two operands with the same number are views of the same memory.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    storage: int


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """One call of an ATen operator that moves or computes something; views and empty allocations are none.

    name: `aten.convolution.default`. phase: forward, loss, backward or optimizer. module: dotted path of the innermost
    module it ran in, empty outside. inputs: tensors by the schema's argument names, lists of tensors flattened.
    outputs: tensors returned or written in place. arguments: what else the schema has, as far as it is plain values.
    """

    name: str
    phase: str = "forward"
    module: str = ""
    inputs: dict[str, tuple[Operand, ...]] = {}
    outputs: tuple[Operand, ...] = ()
    arguments: dict[str, Any] = {}


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """`count` operations (or fused blocks) of a step that cost the same: what a bound is computed from.

    bytes: compulsory traffic of one. footprint: bytes of distinct memory, less where an operation writes what it read;
    0 stands for `bytes`. matrix_flops: of convs and matrix products, which a matrix unit may do;
    vector_flops: everything else. Both count taps inside the image only. winograd_flops: the part of matrix_flops in
    dense 3x3 convs of stride 1. dtype: the type computed in, as a precision's word (fp32, bf16, fp16, fp64).
    phase, op_class: as in `analysis.cost`; of fused blocks empty and `fused`.
    """

    bytes: int
    dtype: str
    footprint: int = 0
    matrix_flops: int = 0
    vector_flops: int = 0
    winograd_flops: int = 0
    count: int = 1
    op_class: str = ""
    phase: str = ""
