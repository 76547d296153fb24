"""The cost of an operation: floating-point operations and compulsory bytes, from its shapes alone.

Every count is a least one: taps that fall into the padding are not counted, each element of memory is read once and
written once however often a kernel comes back to it, and a transcendental function is one operation. The formulas of
operations are here; taps are `geometry`'s, bytes are `traffic`'s. Knows no device and no time; what a machine makes of
these counts is a bound's business. It measures nothing and imports no torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from vanbench.analysis import geometry, traffic
from vanbench.analysis.own_operators import as_aten, parts_of
from vanbench.record.ops import Op, Work

__all__ = ["CLASSES", "FILLS", "Cost", "Count", "cost", "count_of", "counted", "works"]

CLASSES = ("depthwise", "pointwise", "dense conv", "norm", "activation", "elementwise", "layout copy", "other")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MULTIPLY_ADD = 2  # floating-point operations; the source of most factors of two between published counts

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
FILLS = _names(
    "zero fill zeros ones full empty_like zeros_like ones_like full_like new_zeros new_ones new_full arange linspace "
    "eye scalar_tensor rand randn randint rand_like randn_like normal uniform exponential random"
)
_OTHER_MOVES = _names(
    "cat stack constant_pad_nd pad reflection_pad2d replication_pad2d index gather index_select take embedding flip "
    "roll pixel_shuffle pixel_unshuffle channel_shuffle repeat upsample_nearest2d im2col _local_scalar_dense "
    "tril triu index_put select_backward slice_backward"
)
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


class Count(NamedTuple):
    """Floating-point operations of one operator: over the taps inside the image, over all taps, and all the rest.

    For convolutions and matrix products the first two are the multiply-adds; only a backward pass does them again.
    """

    op_class: str
    unit: str = "vector"
    products: int = 0
    nominal: int = 0
    rest: int = 0
    winograd: bool = False

    @property
    def is_product(self) -> bool:
        """Whether it is a convolution or a matrix product."""
        return self.unit == "matrix" or self.op_class == "depthwise"


def cost(op: Op) -> Cost:
    """The least that one operation must compute and move.

    An operator without a formula has flops None and the class "other"; its bytes are those of the general rule.
    """
    op = as_aten(op)
    count = count_of(op)
    dtype, moved, footprint = traffic.dtype_word(op), traffic.moved(op), traffic.footprint(op)
    if count is None:
        return Cost("other", "vector", dtype, None, None, 0, moved, footprint, False)
    return Cost(
        op_class=count.op_class,
        unit=count.unit,
        dtype=dtype,
        flops=count.products + count.rest,
        nominal_flops=count.nominal + count.rest,
        macs=count.nominal // 2 if count.is_product else 0,
        bytes=moved,
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
    return counted(merged), dict(unmodelled)


def counted(merged: Counter[Work]) -> list[Work]:
    """Works with how often each came, in order of first appearance."""
    return [msgspec.structs.replace(work, count=count) for work, count in merged.items()]


def count_of(op: Op) -> Count | None:
    """The floating-point operations of one operation; None where its operator has no formula."""
    if parts := parts_of(op):
        counts = [count for part in parts if (count := count_of(part)) is not None]
        return counts[0]._replace(
            products=sum(each.products for each in counts),
            nominal=sum(each.nominal for each in counts),
            rest=sum(each.rest for each in counts),
        )
    kernel = traffic.kernel_of(op)
    if kernel in geometry.CONVOLUTIONS:
        conv = geometry.conv_of(op)
        return None if conv is None else _convolution(op, conv)
    if kernel in _PRODUCTS:
        return _matrix_product(op, *_PRODUCTS[kernel])
    if "scaled_dot_product" in kernel:
        return _attention(op)
    if "norm" in kernel and (per_element := _norm(op, kernel)):
        return Count("norm", rest=per_element * _first_elements(op))
    if kernel in geometry.POOLS or kernel == "avg_pool2d_backward":
        return _pool(op, kernel)
    if kernel == "gelu" and op.arguments.get("approximate") == "tanh":
        return Count("activation", rest=9 * traffic.output_elements(op))
    if kernel in _ACTIVATIONS:
        return Count("activation", rest=_ACTIVATIONS[kernel] * traffic.output_elements(op))
    if kernel in _ELEMENTWISE:
        return Count("elementwise", rest=_ELEMENTWISE[kernel] * traffic.output_elements(op))
    if kernel in _ELEMENTWISE_OF_FIRST:
        return Count("elementwise", rest=_ELEMENTWISE_OF_FIRST[kernel] * _first_elements(op))
    if kernel in _REDUCTIONS:
        return Count("other", rest=_REDUCTIONS[kernel] * _first_elements(op))
    if kernel in _INTERPOLATIONS:
        return Count("other", rest=_INTERPOLATIONS[kernel] * traffic.output_elements(op))
    if kernel.startswith("nll_loss"):  # a sum of one picked element per target
        return Count("other", rest=sum(traffic.numel(target) for target in op.inputs.get("target", ())))
    if kernel in _COPIES:
        return Count("layout copy")
    return Count("other") if kernel in FILLS or kernel in _OTHER_MOVES else None


def _convolution(op: Op, conv: geometry.Conv) -> Count:
    products = _products(conv, geometry.taps_inside(conv))
    nominal = _products(conv, geometry.all_taps(conv))
    rest = 0
    if traffic.kernel_of(op) == "convolution_backward":
        grad_input, grad_weight, grad_bias = geometry.output_mask(op)
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
    return Count(
        op_class=op_class,
        unit="vector" if depthwise else "matrix",
        products=MULTIPLY_ADD * products,
        nominal=2 * nominal,
        rest=rest,
        winograd=conv.groups == 1 and conv.kernel == (3, 3) and set(conv.stride) == {1} and set(conv.dilation) == {1},
    )


def _products(conv: geometry.Conv, taps: int) -> int:
    """Multiply-adds of the batch."""
    return conv.source.shape[0] * _channel_pairs(conv) * taps


def _channel_pairs(conv: geometry.Conv) -> int:
    """Pairs of an input and an output channel that a kernel connects: the weight's first two sizes, groups and all."""
    return conv.weight.shape[0] * conv.weight.shape[1]


def _grad_weight(conv: geometry.Conv, products: int) -> int:
    """Multiply-adds of the weight's gradient: each product of the forward pass is one term of one weight's sum.

    PyTorch's FlopCounterMode takes groups for 1 here, which for a depthwise convolution of C channels is C times this.
    """
    return products


def _bias_adds(conv: geometry.Conv) -> int:
    return traffic.numel(conv.target)


def _matrix_product(op: Op, left: str, addend: str) -> Count | None:
    factor = geometry.operand_of(op, left)
    if factor is None or not factor.shape or not op.outputs:
        return None
    elements = traffic.numel(op.outputs[0])
    products = elements * factor.shape[-1]
    rest = elements if addend and op.inputs.get(addend) else 0
    return Count("pointwise", "matrix", MULTIPLY_ADD * products, 2 * products, rest)


def _attention(op: Op) -> Count | None:
    """Scores and their weighting; backward the scores again and four products. A causal mask leaves about half."""
    query, key, value = (geometry.operand_of(op, name) for name in ("query", "key", "value"))
    if query is None or key is None or value is None:
        return None
    queries, keys = query.shape[-2], key.shape[-2]
    causal = bool(op.arguments.get("is_causal", False))
    pairs = sum(min(keys, i + 1) for i in range(queries)) if causal else queries * keys
    width, value_width = query.shape[-1], value.shape[-1]
    per_pair = 3 * width + 2 * value_width if "backward" in op.name else width + value_width
    batch = math.prod(query.shape[:-2]) * per_pair
    return Count("other", "matrix", MULTIPLY_ADD * batch * pairs, 2 * batch * queries * keys)


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


def _pool(op: Op, kernel: str) -> Count | None:
    dimensions = geometry.pool_dimensions(op)
    if dimensions is None:
        return None
    source = op.inputs.get("grad_output", op.outputs)[0]
    planes = math.prod(source.shape[: len(source.shape) - len(dimensions)])
    inside = planes * math.prod(geometry.in_bounds_taps(*dimension) for dimension in dimensions)
    every = planes * math.prod(taps * places for _, taps, _, _, _, places in dimensions)
    # The greatest of k takes k - 1 comparisons; a mean of k takes k - 1 sums and a division.
    saved = traffic.numel(source) if kernel.startswith("max_pool") else 0
    return Count("other", products=max(0, inside - saved), nominal=max(0, every - saved))


def _first_elements(op: Op) -> int:
    """Elements of the first argument, all tensors of it if it is a list."""
    return sum(traffic.numel(operand) for operand in next(iter(op.inputs.values()), ()))
