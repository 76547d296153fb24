"""Compulsory traffic: the bytes of each memory that an operation cannot avoid to read and to write.

Each element is read once and written once, however often a kernel comes back to it; what is not needed is not read.
Also what operators and types are called. Knows no floating-point operations, no device and no time. Pure.
"""

from __future__ import annotations

import math

from vanbench.analysis import geometry
from vanbench.record.ops import Op, Operand

__all__ = [
    "WORDS",
    "bytes_of",
    "distinct",
    "dtype_word",
    "footprint",
    "kernel_of",
    "moved",
    "numel",
    "output_elements",
    "reads",
    "spelling_of",
    "unique",
    "writes",
]

ELEMENT_BYTES = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "complex128": 16,
    "complex64": 8,
    "complex32": 4,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
}  # everything else (bool, int8, uint8, float8) is one byte, and so is what torch invents next: a bound from below
WORDS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}

# In place these write `self` and do not look at it.
_OVERWRITING = (
    "zero_", "fill_", "copy_", "bernoulli_", "normal_", "uniform_", "exponential_", "random_", "fill", "copy",
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
    "new_zeros", "new_ones", "new_full",
)  # fmt: skip
# Arguments of which only the shape is needed.
_SHAPES_ONLY = {
    "max_pool2d_with_indices_backward": ("self",),
    "nll_loss_backward": ("self",),
    "nll_loss2d_backward": ("self",),
    "_adaptive_avg_pool2d_backward": ("self",),
    "avg_pool2d_backward": ("self",),
}
_PICKED = {"embedding": "weight", "gather": "self", "index_select": "self", "index": "self", "take": "self"}
_SCATTERED = ("slice_scatter", "select_scatter", "diagonal_scatter")


def kernel_of(op: Op) -> str:
    """The operator without namespace and overload, in-place and list forms taken for the plain one; "" if not ATen."""
    return spelling_of(op).removesuffix("_")


def spelling_of(op: Op) -> str:
    """The operator without namespace and overload, list forms taken for the plain one; "" if not ATen."""
    namespace, _, rest = op.name.partition(".")
    return rest.partition(".")[0].removeprefix("_foreach_") if namespace == "aten" else ""


def moved(op: Op) -> int:
    """Bytes read and bytes written, together."""
    return sum(reads(op).values()) + sum(writes(op).values())


def footprint(op: Op) -> int:
    """Bytes of distinct memory: what is read and written again counts once."""
    return distinct(reads(op), writes(op))


def distinct(read: dict[int, int], written: dict[int, int]) -> int:
    """Bytes of distinct memory, of the bytes read and written of each."""
    return sum(max(read.get(storage, 0), written.get(storage, 0)) for storage in {*read, *written})


def reads(op: Op) -> dict[int, int]:
    """Bytes read of each memory. Of several views of one memory the largest counts: how they overlap is not known."""
    kernel, unread = kernel_of(op), _unread(op)
    found: dict[int, int] = {}
    for argument, operands in op.inputs.items():
        if argument in unread:
            continue
        for operand in operands:
            size = bytes_of(operand, _elements_read(op, kernel, argument, operand))
            found[operand.storage] = max(found.get(operand.storage, 0), size)
    return found


def writes(op: Op) -> dict[int, int]:
    """Bytes written of each memory."""
    found: dict[int, int] = {}
    # The schema of the fused optimizers says that gradients are written; they are only where they are unscaled.
    kept = set()
    if kernel_of(op).startswith("_fused_") and not op.inputs.get("grad_scale"):
        kept = {operand.storage for operand in op.inputs.get("grads", ())}
    for operand in op.outputs:
        if operand.storage not in kept:
            found[operand.storage] = max(found.get(operand.storage, 0), bytes_of(operand, unique(operand)))
    return found


def _unread(op: Op) -> set[str]:
    """Arguments whose elements are not needed."""
    names = {"out", *_SHAPES_ONLY.get(kernel_of(op), ())}
    if spelling_of(op) in _OVERWRITING:
        names.add("self")
    if kernel_of(op) == "convolution_backward":
        grad_input, grad_weight, _ = geometry.output_mask(op)
        if not grad_input:
            names.add("weight")
        if not grad_weight:
            names.add("input")
    return names


def _elements_read(op: Op, kernel: str, argument: str, operand: Operand) -> int:
    if kernel in geometry.CONVOLUTIONS and argument == "input":
        conv = geometry.conv_of(op)
        if conv is not None and not conv.transposed:
            read = tuple(geometry.touched(*dimension) for dimension in geometry.dimensions_of(conv))
            return unique(operand, operand.shape[:2] + read)
    if kernel in geometry.POOLS and argument in ("self", "input"):
        dimensions = geometry.pool_dimensions(op)
        if dimensions is not None:
            read = tuple(geometry.touched(*dimension) for dimension in dimensions)
            return unique(operand, operand.shape[: -len(read)] + read)
    if kernel in ("nll_loss_forward", "nll_loss2d_forward") and argument == "self":
        return min(unique(operand), sum(numel(target) for target in op.inputs.get("target", ())))
    if _PICKED.get(kernel) == argument:
        return min(unique(operand), output_elements(op))
    if kernel in _SCATTERED and argument == "self":
        return max(0, unique(operand) - sum(numel(source) for source in op.inputs.get("src", ())))
    return unique(operand)


def numel(operand: Operand) -> int:
    """Elements that a tensor shows, whatever memory is behind them."""
    return math.prod(operand.shape)


def unique(operand: Operand, shape: tuple[int, ...] | None = None) -> int:
    """Elements of memory behind a tensor, or behind a part of it of this shape: expanded dimensions repeat one."""
    sizes = operand.shape if shape is None else shape
    return math.prod(size if step or not size else 1 for size, step in zip(sizes, operand.stride or sizes, strict=True))


def bytes_of(operand: Operand, elements: int) -> int:
    """Bytes of so many elements of a tensor's type."""
    return elements * ELEMENT_BYTES.get(operand.dtype, 1)


def output_elements(op: Op) -> int:
    """Elements of everything that the operation writes."""
    return sum(numel(operand) for operand in op.outputs)


def dtype_word(op: Op) -> str:
    """The first floating-point type among its tensors as a precision's word; "" if there is none."""
    operands = [operand for argument in op.inputs.values() for operand in argument] + list(op.outputs)
    return next((WORDS[operand.dtype] for operand in operands if operand.dtype in WORDS), "")
