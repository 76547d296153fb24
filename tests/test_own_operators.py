"""Our own operators are priced as the convolutions that they are."""

from __future__ import annotations

import pytest
import torch

from vanbench.analysis.cost import cost
from vanbench.analysis.own_operators import as_aten
from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry
from vanbench.record.ops import Op
from vanbench.spec.names import DIRECTIONS
from vanbench.worker.trace import Recorder


def priced(word: str, direction: str, geometry: Geometry) -> Op:
    x, g, bias = torch.zeros(2, 16, 14, 15), torch.zeros(2, 16, 14, 15), torch.zeros(16)
    w = torch.zeros(16, 1, geometry.kernel_size, geometry.kernel_size)
    implementation = IMPLEMENTATIONS[word]
    with Recorder() as recorder:
        if direction == "forward":
            implementation.forward(x, w, bias, geometry)
        else:
            getattr(implementation, direction)(g, x, w, geometry)
    assert len(recorder.ops) == 1
    op: Op = recorder.ops[0]
    return op


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("geometry", [Geometry(3), Geometry(5, 2), Geometry(7, 3)], ids=str)
def test_ours_costs_what_torchs_does(direction: str, geometry: Geometry) -> None:
    if IMPLEMENTATIONS["cpu"].why_not("cpu", geometry, torch.float32):
        pytest.skip("no C compiler")
    ours, theirs = (priced(word, direction, geometry) for word in ("cpu", "native"))
    assert ours.name.startswith("vanbench.depthwise_cpu")
    assert cost(ours) == cost(theirs)
    assert cost(ours).op_class == "depthwise"


def test_the_pair_costs_both_convs_and_moves_no_map_between_them() -> None:
    x, bias = torch.zeros(2, 16, 14, 15), torch.zeros(16)
    w, w2 = torch.zeros(16, 1, 5, 5), torch.zeros(16, 1, 7, 7)
    with Recorder() as recorder:
        torch.ops.vanbench.depthwise_cuda_pair(x, w, bias, w2, bias)
    first, second = (cost(priced("native", "forward", each)) for each in (Geometry(5), Geometry(7, 3)))
    pair = cost(recorder.ops[0])
    assert pair.op_class == "depthwise"
    assert pair.flops == first.flops + second.flops  # type: ignore[operator]
    assert pair.macs == first.macs + second.macs
    # Both maps, both kernels, and the bias, which is one piece of memory here.
    assert pair.bytes == 4 * (2 * x.numel() + w.numel() + w2.numel() + bias.numel())


def test_other_operations_are_left_as_they_are() -> None:
    for name in ("aten.convolution.default", "vanbench.other.default", "mine.depthwise_cpu.default"):
        op = Op(name=name)
        assert as_aten(op) is op
