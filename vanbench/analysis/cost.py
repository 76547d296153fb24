"""The cost of an operation: floating-point operations and compulsory bytes, from its shapes alone.

Every count is a least one: taps that fall into the padding are not counted, each element of memory is read once and
written once however often a kernel comes back to it, and a transcendental function is one operation. Knows no device
and no time; what a machine makes of these counts is a bound's business. It measures nothing and imports no torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from vanbench.record.ops import Op, Operand, Work

__all__ = ["CLASSES", "Cost", "cost", "fused_works", "in_bounds_taps", "touched", "works"]

CLASSES = ("depthwise", "pointwise", "dense conv", "norm", "activation", "elementwise", "layout copy", "other")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MULTIPLY_ADD = 2  # floating-point operations; the source of most factors of two between published counts

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
_WORDS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}

# Floating-point operations per element, counted in the shortest usual way of writing the function. An add, a multiply,
# a division, a root, a comparison and a transcendental (exp, erf, tanh, ...) are one each, although a machine may
# take twenty instructions for the last, so that a bound made from these counts stays a bound from below. Changes of
# sign are free.
_ACTIVATIONS = {
    "gelu": 5,  # 0.5 x (1 + erf(c x)); with tanh: 9
    "gelu_backward": 11,  # the distribution 4, the density 4, together 2, times the gradient 1
    "relu": 1,
    "relu6": 2,
    "threshold": 1,
    "threshold_backward": 1,
    "silu": 3,
    "silu_backward": 8,
    "sigmoid": 3,
    "sigmoid_backward": 3,
    "hardswish": 5,
    "hardswish_backward": 4,
    "hardsigmoid": 4,
    "hardsigmoid_backward": 2,
    "tanh": 1,
    "tanh_backward": 3,
    "leaky_relu": 2,
    "leaky_relu_backward": 2,
    "hardtanh": 2,
    "hardtanh_backward": 2,
    "elu": 4,
    "elu_backward": 3,
    "softplus": 3,
    "softplus_backward": 3,
    "mish": 5,
    "_softmax": 5,  # greatest, difference, exp, sum, quotient
    "softmax": 5,
    "_safe_softmax": 5,
    "_softmax_backward_data": 4,
}
_ELEMENTWISE = {
    **dict.fromkeys(
        _names(
            "add sub rsub mul div reciprocal sqrt rsqrt pow square neg exp expm1 log log1p sin cos erf abs sign clamp "
            "clamp_min clamp_max where maximum minimum floor ceil round remainder fmod eq ne lt le gt ge isnan isinf "
            "isfinite logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not bitwise_xor masked_fill "
            "bernoulli"
        ),
        1,
    ),
    "lerp": 3,  # difference, product, sum
    "addcmul": 3,
    "addcdiv": 3,
}
# Counted per element of the first argument, because they also return something smaller, or grouped tensors.
_ELEMENTWISE_OF_FIRST = {
    "dropout": 2,
    "native_dropout": 2,
    "native_dropout_backward": 2,
    # Weight decay 1, first moment 3 (lerp), second moment 4, denominator 3 (root, correction, epsilon), step 3.
    "_fused_adamw": 14,
    "_fused_adam": 14,
    "_fused_sgd": 2,
    "_amp_non_finite_check_and_unscale": 2,
    "_amp_foreach_non_finite_check_and_unscale": 2,
    "_amp_update_scale": 1,
}
_REDUCTIONS = {
    **dict.fromkeys(
        _names(
            "sum mean amax amin max min argmax argmin cumsum adaptive_avg_pool2d _adaptive_avg_pool2d "
            "_adaptive_avg_pool3d adaptive_avg_pool1d max_pool2d_with_indices_backward any all prod "
            "upsample_nearest2d_backward"
        ),
        1,
    ),
    "norm": 2,
    "linalg_vector_norm": 2,
    "var": 3,
    "var_mean": 3,
    "std": 3,
    "_log_softmax": 5,
    "log_softmax": 5,
    "_log_softmax_backward_data": 4,
    "mse_loss": 3,
}
_INTERPOLATIONS = {
    "_adaptive_avg_pool2d_backward": 1,
    "upsample_bilinear2d": 7,  # four products, three sums
    "upsample_bicubic2d": 31,
}
_COPIES = _names(
    "clone copy _to_copy contiguous _reshape_copy view_copy slice_scatter select_scatter diagonal_scatter "
    "as_strided_scatter transpose_copy permute_copy expand_copy t_copy slice_copy select_copy squeeze_copy "
    "unsqueeze_copy alias_copy detach_copy split_copy unbind_copy _to_dense"
)
_FILLS = _names(
    "zero fill zeros ones full empty_like zeros_like ones_like full_like new_zeros new_ones new_full arange linspace "
    "eye scalar_tensor rand randn randint rand_like randn_like normal uniform exponential random"
)
_OTHER_MOVES = _names(
    "cat stack constant_pad_nd pad reflection_pad2d replication_pad2d index gather index_select take embedding flip "
    "roll pixel_shuffle pixel_unshuffle channel_shuffle repeat upsample_nearest2d im2col _local_scalar_dense "
    "tril triu index_put select_backward slice_backward"
)
# In place these write `self` and do not look at it.
_OVERWRITING = _names(
    "zero_ fill_ copy_ bernoulli_ normal_ uniform_ exponential_ random_ fill copy "
    "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full"
)
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
_CONVOLUTIONS = _names("convolution _convolution convolution_overrideable convolution_backward conv1d conv2d conv3d")
_PRODUCTS = {  # matrix products: the left factor, and what is added to the product
    "mm": ("self", ""),
    "bmm": ("self", ""),
    "matmul": ("self", ""),
    "mv": ("self", ""),
    "dot": ("self", ""),
    "addmm": ("mat1", "self"),
    "baddbmm": ("batch1", "self"),
    "addmv": ("mat", "self"),
    "linear": ("input", "bias"),
}
_POOLS = ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "avg_pool3d", "max_pool3d_with_indices")


class Cost(NamedTuple):
    """What one operation costs at least.

    op_class: one of CLASSES. unit: "matrix" (convolutions that are not depthwise, linear layers, matrix products: a
    matrix unit may do them) or "vector". dtype: the type computed in as a precision's word (fp32, bf16, fp16, fp64),
    empty for others. flops: with the taps inside the image only, a multiply-add being two; None: no formula for this
    operator. nominal_flops: with all taps, as published counts have it. macs: nominal multiply-adds of convolutions
    and matrix products, without biases; 0 for everything else. bytes: compulsory traffic, each element of memory read
    once and each written once. footprint: bytes of distinct memory, less than `bytes` where an operation writes what it
    read. winograd: a dense 3x3 convolution of stride 1 and dilation 1, or its backward.
    """

    op_class: str
    unit: str
    dtype: str
    flops: int | None
    nominal_flops: int | None
    macs: int
    bytes: int
    footprint: int
    winograd: bool


class _Count(NamedTuple):
    """Floating-point operations of one operator: over the taps inside the image, over all taps, and all the rest.

    For convolutions and matrix products the first two are the multiply-adds; only a backward pass does them again.
    """

    op_class: str
    unit: str = "vector"
    products: int = 0
    nominal: int = 0
    rest: int = 0
    winograd: bool = False


class _Conv(NamedTuple):
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


def cost(op: Op) -> Cost:
    """The least that one operation must compute and move.

    An operator without a formula has flops None and the class "other"; its bytes are those of the general rule.
    """
    count = _count(op)
    dtype, traffic, footprint = _dtype(op), _traffic(op), _footprint(op)
    if count is None:
        return Cost("other", "vector", dtype, None, None, 0, traffic, footprint, False)
    return Cost(
        op_class=count.op_class,
        unit=count.unit,
        dtype=dtype,
        flops=count.products + count.rest,
        nominal_flops=count.nominal + count.rest,
        macs=count.nominal // 2 if _is_product(count) else 0,
        bytes=traffic,
        footprint=footprint,
        winograd=count.winograd,
    )


def works(ops: Iterable[Op]) -> tuple[list[Work], dict[str, int]]:
    """The operations as work, equal ones merged by count, in order of first appearance.

    Also the operators that have no formula, with how often they came: their work has bytes and no operations.
    """
    merged: Counter[Work] = Counter()
    unmodelled: Counter[str] = Counter()
    for op in ops:
        priced = cost(op)
        if priced.flops is None:
            unmodelled[op.name] += 1
        flops = priced.flops or 0
        work = Work(
            bytes=priced.bytes,
            footprint=priced.footprint if priced.footprint < priced.bytes else 0,
            dtype=priced.dtype,
            matrix_flops=flops if priced.unit == "matrix" else 0,
            vector_flops=flops if priced.unit == "vector" else 0,
            winograd_flops=flops if priced.winograd else 0,
            op_class=priced.op_class,
            phase=op.phase,
        )
        merged[work] += 1
    return _counted(merged), dict(unmodelled)


def fused_works(ops: Sequence[Op], task: str) -> list[Work]:
    """The least that a compiler must move which fuses all operations within a block, and none across blocks.

    ops: one step in order, with phases. task: "infer" or "train". The network's input is the first memory read that
    nothing writes and that is not read as a weight; all other memory that nothing writes is a parameter. Of the
    forward operations those that depend on the input are followed: after each, what they have written (or the input)
    and a later one reads is live. Where exactly one tensor is live the network is a chain, and can be cut. A block is
    what lies between neighbouring cuts; one without a convolution or matrix product (norms, activations, pooling,
    copies) belongs to the block before it, or after it if it is the first. So a residual branch is one block with
    its addition.

    A forward block moves the entering tensor (the elements it needs), the leaving tensor and each parameter it reads,
    once. It computes what its operations compute; those without a formula add nothing.

    With task "train" each block also has a backward one. It reads the entering tensor again, the leaving tensor's
    gradient and the parameters; it writes the parameters' gradients and the entering tensor's gradient, except where
    that is the network's input. Everything between is computed anew, at no cost: this is a bound. Its operations:
    each product once for the weight and once for the input (not where that needs no gradient), everything else as
    often as in the forward block. The loss is left out. The optimizer is one work: each memory that was there when
    it began is read once if it reads it and written once if it writes it (parameters, moments: both; gradients: read);
    its temporaries stay in registers. Memory that it first fills with a constant is state of a first step, and
    was there.

    The works have the class "fused" and no phase; equal ones are merged by count.
    """
    forward = [op for op in ops if op.phase == "forward"]
    merged: Counter[Work] = Counter()
    blocks = _blocks(forward)
    for block in blocks:
        merged[_forward_work(block)] += 1
    if task == "train":
        for block in reversed(blocks):
            merged[_backward_work(block)] += 1
        optimizer = [op for op in ops if op.phase == "optimizer"]
        if optimizer:
            merged[_optimizer_work(optimizer)] += 1
    return _counted(merged)


# ---- operations


def _kernel(op: Op) -> str:
    """The operator without namespace and overload, in-place and list forms taken for the plain one; "" if not ATen."""
    return _spelling(op).removesuffix("_")


def _spelling(op: Op) -> str:
    namespace, _, rest = op.name.partition(".")
    return rest.partition(".")[0].removeprefix("_foreach_") if namespace == "aten" else ""


def _count(op: Op) -> _Count | None:
    kernel = _kernel(op)
    if kernel in _CONVOLUTIONS:
        conv = _conv(op)
        return None if conv is None else _convolution(op, conv)
    if kernel in _PRODUCTS:
        return _matrix_product(op, *_PRODUCTS[kernel])
    if "scaled_dot_product" in kernel:
        return _attention(op)
    if "norm" in kernel and (per_element := _norm(op, kernel)):
        return _Count("norm", rest=per_element * _first_elements(op))
    if kernel in _POOLS or kernel == "avg_pool2d_backward":
        return _pool(op, kernel)
    if kernel == "gelu" and op.arguments.get("approximate") == "tanh":
        return _Count("activation", rest=9 * _output_elements(op))
    if kernel in _ACTIVATIONS:
        return _Count("activation", rest=_ACTIVATIONS[kernel] * _output_elements(op))
    if kernel in _ELEMENTWISE:
        return _Count("elementwise", rest=_ELEMENTWISE[kernel] * _output_elements(op))
    if kernel in _ELEMENTWISE_OF_FIRST:
        return _Count("elementwise", rest=_ELEMENTWISE_OF_FIRST[kernel] * _first_elements(op))
    if kernel in _REDUCTIONS:
        return _Count("other", rest=_REDUCTIONS[kernel] * _first_elements(op))
    if kernel in _INTERPOLATIONS:
        return _Count("other", rest=_INTERPOLATIONS[kernel] * _output_elements(op))
    if kernel.startswith("nll_loss"):  # a sum of one picked element per target
        return _Count("other", rest=sum(_numel(target) for target in op.inputs.get("target", ())))
    if kernel in _COPIES:
        return _Count("layout copy")
    return _Count("other") if kernel in _FILLS or kernel in _OTHER_MOVES else None


def _convolution(op: Op, conv: _Conv) -> _Count:
    products = _products(conv, _inside(conv))
    nominal = _products(conv, _all_taps(conv))
    rest = 0
    if _kernel(op) == "convolution_backward":
        grad_input, grad_weight, grad_bias = _output_mask(op)
        products, nominal = (
            (each if grad_input else 0) + (_grad_weight(conv, each) if grad_weight else 0)
            for each in (products, nominal)
        )
        if grad_bias:
            rest = _bias_adds(conv)
    elif op.inputs.get("bias"):
        rest = _bias_adds(conv)
    depthwise = conv.groups > 1 and conv.groups == conv.source.shape[1]
    if depthwise:
        op_class = "depthwise"
    else:
        op_class = "pointwise" if math.prod(conv.kernel) == 1 and conv.groups == 1 else "dense conv"
    return _Count(
        op_class=op_class,
        unit="vector" if depthwise else "matrix",
        products=MULTIPLY_ADD * products,
        nominal=2 * nominal,
        rest=rest,
        winograd=conv.groups == 1 and conv.kernel == (3, 3) and set(conv.stride) == {1} and set(conv.dilation) == {1},
    )


def _conv(op: Op) -> _Conv | None:
    """The geometry; None where the shapes or arguments are not those of a batched convolution."""
    source, weight = _only(op, "input"), _only(op, "weight")
    target = _only(op, "grad_output") if _kernel(op) == "convolution_backward" else (op.outputs or (None,))[0]
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
    return _Conv(source, weight, target, sizes, positions, kernel, stride, padding, dilation, groups, transposed)


def _inside(conv: _Conv) -> int:
    """Taps of one pair of channels that fall inside the image, over all positions of the kernel."""
    return math.prod(in_bounds_taps(*dimension) for dimension in _dimensions(conv))


def _all_taps(conv: _Conv) -> int:
    return math.prod(conv.kernel) * math.prod(conv.positions)


def _products(conv: _Conv, taps: int) -> int:
    """Multiply-adds of the batch."""
    return conv.source.shape[0] * _channel_pairs(conv) * taps


def _channel_pairs(conv: _Conv) -> int:
    """Pairs of an input and an output channel that a kernel connects: the weight's first two sizes, groups and all."""
    return conv.weight.shape[0] * conv.weight.shape[1]


def _grad_weight(conv: _Conv, products: int) -> int:
    """Multiply-adds of the weight's gradient: each product of the forward pass is one term of one weight's sum.

    PyTorch's FlopCounterMode takes groups for 1 here, which for a depthwise convolution of C channels is C times this.
    """
    return products


def _bias_adds(conv: _Conv) -> int:
    return _numel(conv.target)


def _output_mask(op: Op) -> tuple[bool, bool, bool]:
    """Which of the gradients of input, weight and bias a backward convolution was asked for."""
    grad_input, grad_weight, grad_bias = op.arguments.get("output_mask", (True, True, len(op.outputs) > 2))
    return bool(grad_input), bool(grad_weight), bool(grad_bias)


def _dimensions(conv: _Conv) -> Iterable[tuple[int, int, int, int, int, int]]:
    return zip(conv.sizes, conv.kernel, conv.stride, conv.padding, conv.dilation, conv.positions, strict=True)


def _per_dimension(value: object, dimensions: int) -> tuple[int, ...] | None:
    """One number per spatial dimension, from a number or a list of one or of all; None for words such as "same"."""
    if isinstance(value, int):
        return (value,) * dimensions
    if not isinstance(value, Sequence) or not all(isinstance(each, int) for each in value):
        return None
    if len(value) == 1:
        return tuple(value) * dimensions
    return tuple(value) if len(value) == dimensions else None


def _matrix_product(op: Op, left: str, addend: str) -> _Count | None:
    factor = _only(op, left)
    if factor is None or not factor.shape or not op.outputs:
        return None
    elements = _numel(op.outputs[0])
    products = elements * factor.shape[-1]
    rest = elements if addend and op.inputs.get(addend) else 0
    return _Count("pointwise", "matrix", MULTIPLY_ADD * products, 2 * products, rest)


def _attention(op: Op) -> _Count | None:
    """Scores and their weighting; backward the scores again and four products. A causal mask leaves about half."""
    query, key, value = (_only(op, name) for name in ("query", "key", "value"))
    if query is None or key is None or value is None:
        return None
    queries, keys = query.shape[-2], key.shape[-2]
    causal = bool(op.arguments.get("is_causal", False))
    pairs = sum(min(keys, i + 1) for i in range(queries)) if causal else queries * keys
    width, value_width = query.shape[-1], value.shape[-1]
    per_pair = 3 * width + 2 * value_width if "backward" in op.name else width + value_width
    batch = math.prod(query.shape[:-2]) * per_pair
    return _Count("other", "matrix", MULTIPLY_ADD * batch * pairs, 2 * batch * queries * keys)


def _norm(op: Op, kernel: str) -> int:
    """Operations per normalised element; 0 if this is no normalisation layer.

    Statistics take 3 (a sum, and a sum of squares), normalising 2, scale and shift 2 where they come on their own: with
    constant statistics, or with those of a channel, they are folded into the normalising.
    """
    backward = kernel.endswith("_backward")
    if "batch_norm" in kernel:
        training = bool(op.arguments.get("training", op.arguments.get("train", "with_update" in kernel)))
        if not backward:
            return 5 if training else 2
        if training or "train" not in op.arguments:
            return 8  # two sums 4; gradient minus its two means, scaled 4
        return 5 if len(op.outputs) > 1 else 1
    affine = bool(op.inputs.get("weight"))
    if "layer_norm" in kernel or "group_norm" in kernel:
        if not backward:
            return 7 if affine else 5
        return 13 if affine else 9  # normalise again 2, weight 1, two sums 3, gradient 4; weight and bias 3
    if "rms_norm" in kernel:
        if not backward:
            return 4 if affine else 3
        return 9 if affine else 6
    return 0


def _pool(op: Op, kernel: str) -> _Count | None:
    dimensions = _pool_dimensions(op)
    if dimensions is None:
        return None
    source = op.inputs.get("grad_output", op.outputs)[0]
    planes = math.prod(source.shape[: len(source.shape) - len(dimensions)])
    inside = planes * math.prod(in_bounds_taps(*dimension) for dimension in dimensions)
    every = planes * math.prod(taps * places for _, taps, _, _, _, places in dimensions)
    # The greatest of k takes k - 1 comparisons; a mean of k takes k - 1 sums and a division.
    saved = _numel(source) if kernel.startswith("max_pool") else 0
    return _Count("other", products=max(0, inside - saved), nominal=max(0, every - saved))


def _pool_dimensions(op: Op) -> list[tuple[int, int, int, int, int, int]] | None:
    """Per spatial dimension what `in_bounds_taps` takes; None if the arguments are not known."""
    window = op.arguments.get("kernel_size")
    source = _only(op, "self") or _only(op, "input")
    target = _only(op, "grad_output") or (op.outputs[0] if op.outputs else None)
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


# ---- bytes


def _numel(operand: Operand) -> int:
    return math.prod(operand.shape)


def _unique(operand: Operand, shape: tuple[int, ...] | None = None) -> int:
    """Elements of memory behind a tensor, or behind a part of it of this shape: expanded dimensions repeat one."""
    sizes = operand.shape if shape is None else shape
    return math.prod(size if step or not size else 1 for size, step in zip(sizes, operand.stride or sizes, strict=True))


def _size(operand: Operand, elements: int) -> int:
    return elements * ELEMENT_BYTES.get(operand.dtype, 1)


def _traffic(op: Op) -> int:
    return sum(_reads(op).values()) + sum(_writes(op).values())


def _footprint(op: Op) -> int:
    return _distinct(_reads(op), _writes(op))


def _distinct(reads: dict[int, int], writes: dict[int, int]) -> int:
    return sum(max(reads.get(storage, 0), writes.get(storage, 0)) for storage in {*reads, *writes})


def _reads(op: Op) -> dict[int, int]:
    """Bytes read of each memory. Of several views of one memory the largest counts: how they overlap is not known."""
    kernel, unread = _kernel(op), _unread(op)
    found: dict[int, int] = {}
    for argument, operands in op.inputs.items():
        if argument in unread:
            continue
        for operand in operands:
            size = _size(operand, _elements_read(op, kernel, argument, operand))
            found[operand.storage] = max(found.get(operand.storage, 0), size)
    return found


def _writes(op: Op) -> dict[int, int]:
    """Bytes written of each memory."""
    found: dict[int, int] = {}
    # The schema of the fused optimizers says that gradients are written; they are only where they are unscaled.
    kept = set()
    if _kernel(op).startswith("_fused_") and not op.inputs.get("grad_scale"):
        kept = {operand.storage for operand in op.inputs.get("grads", ())}
    for operand in op.outputs:
        if operand.storage not in kept:
            found[operand.storage] = max(found.get(operand.storage, 0), _size(operand, _unique(operand)))
    return found


def _unread(op: Op) -> set[str]:
    """Arguments whose elements are not needed."""
    names = {"out", *_SHAPES_ONLY.get(_kernel(op), ())}
    if _spelling(op) in _OVERWRITING:
        names.add("self")
    if _kernel(op) == "convolution_backward":
        grad_input, grad_weight, _ = _output_mask(op)
        if not grad_input:
            names.add("weight")
        if not grad_weight:
            names.add("input")
    return names


def _elements_read(op: Op, kernel: str, argument: str, operand: Operand) -> int:
    if kernel in _CONVOLUTIONS and argument == "input":
        conv = _conv(op)
        if conv is not None and not conv.transposed:
            read = tuple(touched(*dimension) for dimension in _dimensions(conv))
            return _unique(operand, operand.shape[:2] + read)
    if kernel in _POOLS and argument in ("self", "input"):
        dimensions = _pool_dimensions(op)
        if dimensions is not None:
            read = tuple(touched(*dimension) for dimension in dimensions)
            return _unique(operand, operand.shape[: -len(read)] + read)
    if kernel in ("nll_loss_forward", "nll_loss2d_forward") and argument == "self":
        return min(_unique(operand), sum(_numel(target) for target in op.inputs.get("target", ())))
    if _PICKED.get(kernel) == argument:
        return min(_unique(operand), _output_elements(op))
    if kernel in _SCATTERED and argument == "self":
        return max(0, _unique(operand) - sum(_numel(source) for source in op.inputs.get("src", ())))
    return _unique(operand)


def _only(op: Op, argument: str) -> Operand | None:
    operands = op.inputs.get(argument, ())
    return operands[0] if operands else None


def _output_elements(op: Op) -> int:
    return sum(_numel(operand) for operand in op.outputs)


def _first_elements(op: Op) -> int:
    """Elements of the first argument, all tensors of it if it is a list."""
    return sum(_numel(operand) for operand in next(iter(op.inputs.values()), ()))


def _dtype(op: Op) -> str:
    operands = [operand for argument in op.inputs.values() for operand in argument] + list(op.outputs)
    return next((_WORDS[operand.dtype] for operand in operands if operand.dtype in _WORDS), "")


def _counted(merged: Counter[Work]) -> list[Work]:
    return [msgspec.structs.replace(work, count=count) for work, count in merged.items()]


# ---- blocks

_WEIGHT_ARGUMENTS = ("weight", "bias", "running_mean", "running_var")
_BUFFERS = ("running_mean", "running_var")


class _Block(NamedTuple):
    """Forward operations between two cuts. Sizes in bytes.

    enter: what it needs of the tensor that comes in; enter_gradient: that tensor in full, 0 for the network's input.
    leave: the tensor that goes out. parameters: all it reads from elsewhere; learned: those that have a gradient.
    frozen: its products whose input needs no gradient, by place in ops.
    """

    ops: list[Op]
    enter: int
    enter_gradient: int
    leave: int
    parameters: int
    learned: int
    frozen: frozenset[int]


def _blocks(forward: list[Op]) -> list[_Block]:
    if not forward:
        return []
    network_input = _network_input(forward)
    ends, crossing = _cuts(forward, network_input)
    sizes: dict[int, int] = {}
    for op in forward:
        for operand in [operand for argument in op.inputs.values() for operand in argument] + list(op.outputs):
            sizes[operand.storage] = max(sizes.get(operand.storage, 0), _size(operand, _unique(operand)))
    differentiable = _differentiable(forward, network_input)
    written_ever = {storage for op in forward for storage in _writes(op)}
    blocks: list[_Block] = []
    start, entering = 0, network_input
    for end, leaving in zip(ends, crossing, strict=True):
        mine = forward[start : end + 1]
        needed, parameters, learned = 0, dict[int, int](), dict[int, int]()
        inside: set[int] = set()
        for op in mine:
            for argument, operands in op.inputs.items():
                for operand in operands:
                    if operand.storage in written_ever or argument in _BUFFERS or operand.dtype not in _WORDS:
                        continue
                    if operand.storage != network_input:
                        learned[operand.storage] = sizes[operand.storage]
            for storage, read in _reads(op).items():
                if storage == entering:
                    needed = max(needed, read)
                elif storage not in inside:
                    parameters[storage] = max(parameters.get(storage, 0), read)
            inside |= _writes(op).keys()
        blocks.append(
            _Block(
                ops=mine,
                enter=needed,
                enter_gradient=sizes[entering] if entering is not None and entering != network_input else 0,
                leave=sizes[leaving] if leaving is not None else 0,
                parameters=sum(parameters.values()),
                learned=sum(learned.values()),
                frozen=frozenset(i - start for i in range(start, end + 1) if not differentiable[i]),
            )
        )
        start, entering = end + 1, leaving
    return blocks


def _network_input(forward: list[Op]) -> int | None:
    """The first memory read that nothing writes and that is not read as a weight."""
    written = {storage for op in forward for storage in _writes(op)}
    only_weights = _only_weights(forward, written)
    for op in forward:
        for operands in op.inputs.values():
            for operand in operands:
                if operand.storage not in written and operand.storage not in only_weights:
                    return operand.storage
    return None


def _only_weights(forward: list[Op], written: set[int]) -> set[int]:
    """Memory that is read as a weight and as nothing else: directly, or through copies of other types and the like."""
    weight: set[int] = set()
    other: set[int] = set()
    for op in reversed(forward):
        results = {operand.storage for operand in op.outputs}
        # What only feeds weights (a cast, a standardisation) reads nothing but weights.
        feeds_weights = bool(results) and results <= weight - other
        largest = max((_numel(each) for argument in op.inputs.values() for each in argument), default=0)
        kernel = _kernel(op)
        for argument, operands in op.inputs.items():
            for operand in operands:
                small = kernel in ("mul", "add") and _numel(operand) < largest and operand.storage not in written
                as_weight = (
                    feeds_weights
                    or argument in _WEIGHT_ARGUMENTS
                    or (kernel in ("mm", "addmm") and argument == "mat2")
                    or (kernel == "addmm" and argument == "self")
                    or small
                )
                (weight if as_weight else other).add(operand.storage)
    return weight - other


def _cuts(forward: list[Op], network_input: int | None) -> tuple[list[int], list[int | None]]:
    """The last operation of each block, and the memory that leaves it."""
    last_read: dict[int, int] = {}
    for i, op in enumerate(forward):
        for storage in _reads(op):
            last_read[storage] = i
    live = set() if network_input is None else {network_input}
    descended = set(live)
    ends: list[int] = []
    crossing: list[int | None] = []
    for i, op in enumerate(forward[:-1]):
        if not _reads(op).keys() & descended:
            continue  # of parameters alone: belongs to whoever uses it, and is no place to cut
        descended |= _writes(op).keys()
        live = {storage for storage in live | _writes(op).keys() if last_read.get(storage, -1) > i}
        if len(live) == 1:
            ends.append(i)
            crossing.extend(live)
    final = max(forward[-1].outputs, key=_numel, default=None)
    ends.append(len(forward) - 1)
    crossing.append(None if final is None else final.storage)
    return _absorbed(forward, ends, crossing)


def _absorbed(forward: list[Op], ends: list[int], crossing: list[int | None]) -> tuple[list[int], list[int | None]]:
    """The cuts without those before a block that has no product, and after it if it is the first."""
    kept: list[tuple[int, int | None]] = []
    start, led = 0, False  # led: the block being grown has a product
    for end, storage in zip(ends, crossing, strict=True):
        has_product = any(_has_product(op) for op in forward[start : end + 1])
        if kept and (not has_product or not led):
            kept[-1] = (end, storage)
        else:
            kept.append((end, storage))
        led = led or has_product
        start = end + 1
    return [end for end, _ in kept], [storage for _, storage in kept]


def _has_product(op: Op) -> bool:
    count = _count(op)
    return count is not None and _is_product(count)


def _is_product(count: _Count) -> bool:
    return count.unit == "matrix" or count.op_class == "depthwise"


def _differentiable(forward: list[Op], network_input: int | None) -> list[bool]:
    """For each operation whether its data needs a gradient: not the network's input, nor a copy of it."""
    free = {network_input}
    found = []
    for op in forward:
        reads = _reads(op).keys()
        found.append(not reads & free)
        if reads and reads <= free:
            free |= _writes(op).keys()
    return found


class _Flops(NamedTuple):
    matrix: int
    vector: int
    winograd: int
    dtype: str


def _sum_flops(block: _Block, *, backward: bool) -> _Flops:
    matrix = vector = winograd = 0
    largest, dtype = -1, ""
    for i, op in enumerate(block.ops):
        count = _count(op)
        if count is None:
            continue
        product = _is_product(count)
        flops = count.products * (2 if backward and product and i not in block.frozen else 1) + count.rest
        if count.unit == "matrix":
            matrix += flops
        else:
            vector += flops
        if count.winograd:
            winograd += flops
        # The type of the largest product; of the first operation with a type where there is no product.
        weight = flops if product else 0
        if weight > largest or (weight == largest == 0 and not dtype):
            largest, dtype = weight, _dtype(op)
    return _Flops(matrix, vector, winograd, dtype)


def _fused(traffic: int, flops: _Flops, footprint: int = 0) -> Work:
    return Work(
        bytes=traffic,
        footprint=footprint,
        dtype=flops.dtype,
        matrix_flops=flops.matrix,
        vector_flops=flops.vector,
        winograd_flops=flops.winograd,
        op_class="fused",
    )


def _forward_work(block: _Block) -> Work:
    return _fused(block.enter + block.leave + block.parameters, _sum_flops(block, backward=False))


def _backward_work(block: _Block) -> Work:
    read = block.enter + block.leave + block.parameters
    written = block.enter_gradient + block.learned
    return _fused(read + written, _sum_flops(block, backward=True))


def _optimizer_work(optimizer: list[Op]) -> Work:
    there: set[int] = set()
    temporary: set[int] = set()
    reads: dict[int, int] = {}
    writes: dict[int, int] = {}
    for op in optimizer:
        for storage, size in _reads(op).items():
            if storage not in temporary:
                there.add(storage)
                reads[storage] = max(reads.get(storage, 0), size)
        for storage, size in _writes(op).items():
            if storage in temporary:
                continue
            if storage in there or _spelling(op).endswith("_"):
                writes[storage] = max(writes.get(storage, 0), size)
            elif _kernel(op) not in _FILLS:
                temporary.add(storage)
                continue
            there.add(storage)
    flops = [(cost(op).flops or 0, _dtype(op)) for op in optimizer]
    largest = max(flops, key=lambda each: each[0])
    moved = sum(reads.values()) + sum(writes.values())
    counted = _Flops(0, sum(each for each, _ in flops), 0, largest[1])
    return _fused(moved, counted, _distinct(reads, writes))
