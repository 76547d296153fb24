"""The fused ideal: blocks written down by hand, and those that real models are cut into."""

from __future__ import annotations

import itertools

import pytest
from tracing import MODELS, dense, op_of, traced

from vanbench.analysis.blocks import fused_works
from vanbench.analysis.cost import works
from vanbench.record.ops import Op, Operand, Work
from vanbench.spec.names import KNOWN

# ---- by hand


def pointwise(x: Operand, y: Operand, weight: int) -> Op:
    return Op(
        name="aten.convolution.default",
        inputs={"input": (x,), "weight": (dense((y.shape[1], x.shape[1], 1, 1), weight),)},
        outputs=(y,),
        arguments={"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1},
    )


def test_a_chain_is_cut_at_every_tensor_but_not_before_an_activation() -> None:
    x, a, b, c = dense((1, 2, 4, 4), 0), dense((1, 3, 4, 4), 1), dense((1, 3, 4, 4), 2), dense((1, 5, 4, 4), 3)
    ops = [pointwise(x, a, 10), op_of("aten.gelu.default", (b,), self=a), pointwise(b, c, 11)]
    first = Work(bytes=4 * (32 + 48 + 6), dtype="fp32", matrix_flops=192, vector_flops=240, op_class="fused")
    second = Work(bytes=4 * (48 + 80 + 15), dtype="fp32", matrix_flops=480, op_class="fused")
    assert fused_works(ops, "infer") == [first, second]
    # Backward: the gradient of the second input and weight; then the first weight's alone, from x anew.
    assert fused_works(ops, "train")[2:] == [
        Work(bytes=4 * (48 + 80 + 15 + 48 + 15), dtype="fp32", matrix_flops=960, op_class="fused"),
        Work(bytes=4 * (32 + 48 + 6 + 6), dtype="fp32", matrix_flops=192, vector_flops=240, op_class="fused"),
    ]


def test_a_residual_branch_is_one_block_with_its_addition() -> None:
    x, y, a, b, z = (dense((1, 2, 4, 4), i) for i in range(5))
    ops = [
        pointwise(x, y, 10),
        pointwise(y, a, 11),
        op_of("aten.mul.Tensor", (b,), self=a, other=dense((2, 1, 1), 12)),
        op_of("aten.add.Tensor", (z,), self=y, other=b),
    ]
    stem = Work(bytes=4 * (32 + 32 + 4), dtype="fp32", matrix_flops=128, op_class="fused")
    branch = Work(bytes=4 * (32 + 32 + 4 + 2), dtype="fp32", matrix_flops=128, vector_flops=64, op_class="fused")
    assert fused_works(ops, "infer") == [stem, branch]
    backward = fused_works(ops, "train")[2]
    assert backward.bytes == 4 * (32 + 32 + 6 + 32 + 6)
    assert (backward.matrix_flops, backward.vector_flops) == (256, 64)


def test_a_first_block_without_a_product_belongs_to_the_next() -> None:
    x, a, b = dense((1, 2, 4, 4), 0), dense((1, 2, 4, 4), 1), dense((1, 2, 4, 4), 2)
    ops = [op_of("aten.gelu.default", (a,), self=x), pointwise(a, b, 10)]
    assert [work.bytes for work in fused_works(ops, "infer")] == [4 * (32 + 32 + 4)]
    assert [work.count for work in fused_works([*ops[:1]], "infer")] == [1]
    assert fused_works([], "train") == []


def test_blocks_that_cost_the_same_are_counted() -> None:
    maps = [dense((1, 2, 4, 4), i) for i in range(5)]
    ops = [pointwise(x, y, 10 + i) for i, (x, y) in enumerate(itertools.pairwise(maps))]
    assert [work.count for work in fused_works(ops, "infer")] == [4]
    assert sorted(work.count for work in fused_works(ops, "train")) == [1, 3, 4]


def test_the_optimizer_moves_parameters_and_moments_both_ways_and_gradients_once() -> None:
    p, g, m = dense((6,), 0), dense((6,), 1), dense((6,), 2)
    t = dense((6,), 3)
    forward = op_of("aten.gelu.default", (dense((6,), 8),), self=dense((6,), 7))
    ops = [
        forward,
        op_of("aten.lerp_.Scalar", (m,), self=m, end=g, phase="optimizer"),
        op_of("aten.sqrt.default", (t,), self=m, phase="optimizer"),
        op_of("aten.add_.Tensor", (t,), self=t, phase="optimizer"),
        op_of("aten.addcdiv_.default", (p,), self=p, tensor1=m, tensor2=t, phase="optimizer"),
    ]
    seen = fused_works(ops, "train")[-1]
    # p and m are read and written, g is read: five passes over three memories.
    flops = 6 * (3 + 1 + 1 + 3)
    assert seen == Work(bytes=4 * 6 * 5, footprint=4 * 6 * 3, dtype="fp32", vector_flops=flops, op_class="fused")
    made = op_of("aten.zeros_like.default", (m,), self=p, phase="optimizer")
    assert fused_works([forward, made, *ops[1:]], "train")[-1] == seen  # the first step, which makes its state


# ---- real models, traced without memory


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("van_b0", 13 * 2 + 4 + 1), ("convnext_tiny", 18 + 1 + 3 + 1), ("resnet50", 16 + 1 + 1)],
)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("batch", [1, 8])
def test_the_fused_ideal_of_a_model_cuts_it_between_blocks(name: str, blocks: int, autocast: bool, batch: int) -> None:
    ops = traced(name, batch, "infer", autocast=autocast)
    merged, _ = works(ops)
    fused = fused_works(ops, "infer")
    assert sum(work.count for work in fused) == blocks
    assert {work.dtype for work in fused} == {"bf16" if autocast else "fp32"}
    for kind in ("matrix_flops", "vector_flops", "winograd_flops"):
        assert sum(work.count * getattr(work, kind) for work in fused) == sum(
            work.count * getattr(work, kind) for work in merged
        )
    moved = sum(work.count * work.bytes for work in fused)
    assert moved < sum(work.count * work.bytes for work in merged) / 2
    # No less than all parameters, the picture and the logits.
    assert moved > 4 * (KNOWN[name].params + batch * 3 * 224 * 224)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("autocast", [False, True])
def test_the_fused_ideal_of_training_is_below_what_runs(name: str, autocast: bool) -> None:
    ops = traced(name, 2, "train", autocast=autocast)
    merged, _ = works(ops)
    fused = fused_works(ops, "train")
    forward = fused_works([op for op in ops if op.phase == "forward"], "infer")
    assert sum(work.count for work in fused) == 2 * sum(work.count for work in forward) + 1
    assert sum(work.count * work.bytes for work in fused) < sum(work.count * work.bytes for work in merged)
    # Parameters and both moments are read and written, gradients read; a step count of 4 bytes for each tensor.
    floor = 7 * 4 * KNOWN[name].params
    assert floor < fused[-1].bytes < floor * 1.001
    for kind in ("matrix_flops", "winograd_flops"):
        done = sum(work.count * getattr(work, kind) for work in fused)
        # The bias of a linear layer has its gradient from a sum, which is no work for a matrix unit.
        assert done == pytest.approx(sum(work.count * getattr(work, kind) for work in merged), rel=1e-3)
    depthwise = sum(work.count * work.vector_flops for work in merged if work.op_class == "depthwise")
    assert sum(work.count * work.vector_flops for work in fused) > depthwise


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "vit_small_patch16_224"])
def test_transformers_have_blocks_too(name: str) -> None:
    assert fused_works(traced(name, 2, "train"), "train")


@pytest.mark.parametrize("foreach", [False, True])
def test_the_first_optimizer_step_moves_what_the_later_ones_do(foreach: bool) -> None:
    later = fused_works(traced("van_b0", 2, "train", foreach=foreach), "train")[-1]
    first = fused_works(traced("van_b0", 2, "train", foreach=foreach, first=True), "train")[-1]
    assert first.bytes == pytest.approx(later.bytes, rel=1e-3)
