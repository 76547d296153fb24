"""The traced step is the real step: same operations, shapes, strides and types; and it knows its modules and phases."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vanbench.models  # noqa: F401  (registers VAN with timm)
from vanbench.analysis.blocks import fused_works
from vanbench.analysis.cost import cost, works
from vanbench.analysis.stages import layout, stage
from vanbench.record.ops import Op, Operand
from vanbench.record.task import Vet, Vetted
from vanbench.spec.cell import Cell
from vanbench.worker import precision, vet
from vanbench.worker.build import subject_model
from vanbench.worker.trace import Recorder, in_modules, trace_step

CPU = torch.device("cpu")


def _cell(model: str, **changes: Any) -> Cell:
    return Cell(**{"model": model, "batch_size": 2, "image_size": 64, **changes})


def _plain(ops: list[Op]) -> list[Any]:
    """What must agree: operators, arguments, modules, and each operand's shape, stride and type."""

    def seen(operands: tuple[Operand, ...]) -> list[Any]:
        # Native code leaves unused outputs empty where the pretended one is not asked for either.
        return [(each.shape, each.stride, each.dtype) for each in operands if each.shape != (0,)]

    return [
        (op.name, op.phase, op.module, {word: seen(each) for word, each in op.inputs.items()}, seen(op.outputs))
        for op in ops
    ]


@pytest.mark.parametrize("model", ["van_b0", "convnext_atto", "resnet18"])
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("word", ["fp32", "bf16"])
def test_a_step_without_memory_is_the_real_one_strides_included(model: str, memory_format: str, word: str) -> None:
    cell = _cell(model, memory_format=memory_format, precision=word)
    subject = subject_model(cell, timm.create_model(model)).eval()
    recorder = Recorder()
    images = torch.randn(2, 3, 64, 64).to(precision.input_dtype(word))
    if memory_format == "channels_last":
        images = images.to(memory_format=torch.channels_last)
    with torch.no_grad(), in_modules(subject, recorder), recorder:
        subject(images)
    assert _plain(trace_step(cell, subject, CPU)) == _plain(recorder.ops)


def test_a_training_step_has_its_four_phases_and_backward_knows_its_modules() -> None:
    cell = _cell("van_b0", task="train")
    model = subject_model(cell, timm.create_model("van_b0"))
    ops = trace_step(cell, model, CPU)
    assert list(dict.fromkeys(op.phase for op in ops)) == ["forward", "loss", "backward", "optimizer"]
    forward = {op.module for op in ops if op.name == "aten.convolution.default"}
    backward = [op for op in ops if op.name == "aten.convolution_backward.default"]
    assert {op.module for op in backward} == forward
    assert len(backward) == 108
    gelu = [op.module for op in ops if op.name == "aten.gelu_backward.default"]
    assert sorted(gelu) == sorted(op.module for op in ops if op.name == "aten.gelu.default")
    assert all(op.module == "" for op in ops if op.phase in ("loss", "optimizer"))
    assert {stage(op) for op in ops if op.phase == "backward"} >= {"stage 1", "stage 2", "stage 3", "stage 4", "head"}


def test_tracing_leaves_the_model_as_it_was() -> None:
    cell = _cell("resnet18", task="train")
    model = subject_model(cell, timm.create_model("resnet18"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace_step(cell, model, CPU)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_autocast_casts_weights_once_a_sample_and_so_not_in_the_traced_step() -> None:
    model = timm.create_model("resnet18").eval()
    ops = trace_step(_cell("resnet18", precision="amp-bf16"), model, CPU)
    convs = [op for op in ops if op.name == "aten.convolution.default"]
    assert {op.inputs["input"][0].dtype for op in convs} == {"bfloat16"}
    casts = [op for op in ops if op.name == "aten._to_copy.default" and len(op.inputs["self"][0].shape) == 4]
    assert [op.inputs["self"][0].shape for op in casts] == [(2, 3, 64, 64)], "the images alone"


def test_views_and_empty_allocations_are_no_operations() -> None:
    recorder = Recorder()
    with torch.no_grad(), recorder:
        x = torch.empty(2, 3, 4, 4)
        y = x.flatten(2).transpose(1, 2).reshape(2, 4, 4, 3)
        z = y.contiguous()
        z.add_(1.0)
    assert [op.name for op in recorder.ops] == ["aten.clone.default", "aten.add_.Tensor"]
    clone, add = recorder.ops
    assert (layout(clone.inputs["self"][0]), layout(clone.outputs[0])) == ("strided", "contiguous")
    assert add.inputs["self"][0].storage == add.outputs[0].storage


def test_what_an_operator_without_a_formula_is_called_is_told() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            values: Tensor = torch.linalg.svdvals(x.mean(1))
            return values.sum(-1, keepdim=True).repeat(1, 1000)

    ops = trace_step(_cell("resnet18"), Odd(), CPU)
    _, unknown = works(ops)
    assert any("linalg" in name for name in unknown)


# A model whose forward needs values cannot run without memory.
class NeedsValues(nn.Module):
    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x).mean((2, 3))
        return y * float(y.sum())


def test_a_model_that_needs_values_has_no_list_of_operations_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VANBENCH_CACHE", str(tmp_path))
    said: list[Any] = []

    class Ear:
        def send(self, message: Any) -> None:
            said.append(message)

    cell = _cell("test_trace:NeedsValues", image_size=32)
    vet.serve(Vet(cell=cell, device="cpu", seed=0), Ear())  # type: ignore[arg-type]
    assert isinstance(said[-1], Vetted)
    step = vet.step_cost_of(cell)
    assert step.works == ()
    assert step.unmodelled[0].startswith("no list of operations: ")


def test_the_vetted_step_is_what_the_formulas_make_of_the_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VANBENCH_CACHE", str(tmp_path))

    class Deaf:
        def send(self, message: Any) -> None:
            pass

    cell = _cell("van_b0", compile="default", threads=1, image_size=224)
    vet.serve(Vet(cell=cell, device="cpu", seed=0), Deaf())  # type: ignore[arg-type]
    step = vet.step_cost_of(cell)
    ops = trace_step(cell, timm.create_model("van_b0").eval(), CPU)
    assert step.macs == 864_224_000
    assert sum(each.bytes * each.count for each in step.works) == sum(cost(op).bytes for op in ops)
    assert list(step.works) == [*map(_without_winograd, works(ops)[0])]
    assert sum(each.count for each in step.fused) == sum(each.count for each in fused_works(ops, "infer"))
    assert step.unmodelled == ()
    assert vet.step_cost_of(_cell("van_b0", image_size=224)) == step, "compiling and threads change none of it"


def _without_winograd(work: Any) -> Any:
    import msgspec

    return msgspec.structs.replace(work, winograd_flops=0)  # oneDNN on x86 has none


def test_layouts_are_told_by_strides() -> None:
    def of(x: Tensor) -> str:
        return layout(Operand(shape=tuple(x.shape), stride=tuple(x.stride()), dtype="float32", storage=0))

    x = torch.zeros(2, 3, 4, 5)
    assert of(x) == "contiguous"
    assert of(x.to(memory_format=torch.channels_last)) == "channels_last"
    assert of(torch.zeros(2, 3, 1, 1)) == "either"
    assert of(torch.zeros(2, 1, 4, 5)) == "either"
    assert of(x[:, :, ::2]) == "strided"
    assert of(torch.zeros(3, 4)) == "contiguous"
    assert of(torch.zeros(3, 4).t()) == "strided"


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("block1.0.attn.proj_1", "stage 1"),
        ("patch_embed4.proj", "stage 4"),
        ("norm2", "stage 2"),
        ("stages.0.blocks.1.conv_dw", "stage 1"),
        ("stem.0", "stem"),
        ("stem_0", "stem"),
        ("layer3.0.conv1", "stage 3"),
        ("conv1", "stem"),
        ("maxpool", "stem"),
        ("fc", "head"),
        ("head.fc", "head"),
        ("features.denseblock1", "features"),
        ("", "between"),
    ],
)
def test_stages_are_named_in_the_families_own_words(module: str, expected: str) -> None:
    assert stage(Op(name="aten.relu.default", module=module)) == expected
    assert stage(Op(name="aten.relu.default", module=module, phase="optimizer")) == "optimizer"


def test_a_groups_share_adds_up_over_the_step() -> None:
    counts = Counter(cost(op).op_class for op in trace_step(_cell("van_b0"), timm.create_model("van_b0").eval(), CPU))
    assert counts["depthwise"] == 39
    assert counts["dense conv"] == 4
    assert counts["layout copy"] == 29
