"""The fused ideal: a step's blocks, and what each must move and compute at least if it were one operation.

Finds where a network is a chain of one tensor, and cuts it there. What an operation costs it asks `cost`, its bytes
`traffic`. It is no compiler's plan, and knows no device and no time. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from vanbench.analysis import traffic
from vanbench.analysis.cost import FILLS, cost, count_of, counted
from vanbench.record.ops import Op, Work

__all__ = ["fused_works"]

_WEIGHT_ARGUMENTS = ("weight", "bias", "running_mean", "running_var")
_BUFFERS = ("running_mean", "running_var")


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
    return counted(merged)


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
            size = traffic.bytes_of(operand, traffic.unique(operand))
            sizes[operand.storage] = max(sizes.get(operand.storage, 0), size)
    differentiable = _differentiable(forward, network_input)
    written_ever = {storage for op in forward for storage in traffic.writes(op)}
    blocks: list[_Block] = []
    start, entering = 0, network_input
    for end, leaving in zip(ends, crossing, strict=True):
        mine = forward[start : end + 1]
        needed, parameters, learned = 0, dict[int, int](), dict[int, int]()
        inside: set[int] = set()
        for op in mine:
            for argument, operands in op.inputs.items():
                for operand in operands:
                    if operand.storage in written_ever or argument in _BUFFERS or operand.dtype not in traffic.WORDS:
                        continue
                    if operand.storage != network_input:
                        learned[operand.storage] = sizes[operand.storage]
            for storage, read in traffic.reads(op).items():
                if storage == entering:
                    needed = max(needed, read)
                elif storage not in inside:
                    parameters[storage] = max(parameters.get(storage, 0), read)
            inside |= traffic.writes(op).keys()
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
    written = {storage for op in forward for storage in traffic.writes(op)}
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
        largest = max((traffic.numel(each) for argument in op.inputs.values() for each in argument), default=0)
        kernel = traffic.kernel_of(op)
        for argument, operands in op.inputs.items():
            for operand in operands:
                small = kernel in ("mul", "add") and traffic.numel(operand) < largest and operand.storage not in written
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
        for storage in traffic.reads(op):
            last_read[storage] = i
    live = set() if network_input is None else {network_input}
    descended = set(live)
    ends: list[int] = []
    crossing: list[int | None] = []
    for i, op in enumerate(forward[:-1]):
        if not traffic.reads(op).keys() & descended:
            continue  # of parameters alone: belongs to whoever uses it, and is no place to cut
        descended |= traffic.writes(op).keys()
        live = {storage for storage in live | traffic.writes(op).keys() if last_read.get(storage, -1) > i}
        if len(live) == 1:
            ends.append(i)
            crossing.extend(live)
    final = max(forward[-1].outputs, key=traffic.numel, default=None)
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
    count = count_of(op)
    return count is not None and count.is_product


def _differentiable(forward: list[Op], network_input: int | None) -> list[bool]:
    """For each operation whether its data needs a gradient: not the network's input, nor a copy of it."""
    free = {network_input}
    found = []
    for op in forward:
        reads = traffic.reads(op).keys()
        found.append(not reads & free)
        if reads and reads <= free:
            free |= traffic.writes(op).keys()
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
        count = count_of(op)
        if count is None:
            continue
        product = count.is_product
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
            largest, dtype = weight, traffic.dtype_word(op)
    return _Flops(matrix, vector, winograd, dtype)


def _fused(moved: int, flops: _Flops, footprint: int = 0) -> Work:
    return Work(
        bytes=moved,
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
        for storage, size in traffic.reads(op).items():
            if storage not in temporary:
                there.add(storage)
                reads[storage] = max(reads.get(storage, 0), size)
        for storage, size in traffic.writes(op).items():
            if storage in temporary:
                continue
            if storage in there or traffic.spelling_of(op).endswith("_"):
                writes[storage] = max(writes.get(storage, 0), size)
            elif traffic.kernel_of(op) not in FILLS:
                temporary.add(storage)
                continue
            there.add(storage)
    flops = [(cost(op).flops or 0, traffic.dtype_word(op)) for op in optimizer]
    largest = max(flops, key=lambda each: each[0])
    moved = sum(reads.values()) + sum(writes.values())
    summed = _Flops(0, sum(each for each, _ in flops), 0, largest[1])
    return _fused(moved, summed, traffic.distinct(reads, writes))
