"""The check before timing has teeth under the drawn weights: it finds planted faults and passes correct code."""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vanbench.models.van import VAN
from vanbench.models.weights import draw_weights
from vanbench.worker import precision as words
from vanbench.worker.check import (
    FLOOR,
    Check,
    NonFinite,
    check_inference,
    check_training,
    inference_tolerance,
    training_tolerance,
)

MODELS = ("van_b0", "convnext_atto", "convnext_tiny", "resnet18", "resnet50")
PRECISIONS = ("fp32", "bf16", "amp-bf16", "fp16", "amp-fp16")
PIXELS = 64


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small ops on several threads mostly wait for each other, and for whatever else runs on the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = normal(2, 3, PIXELS, PIXELS, seed=2)


def run(model: nn.Module, precision: str, images: Tensor) -> Tensor:
    with torch.no_grad(), words.autocast(precision, "cpu"):
        logits: Tensor = model(images.to(words.input_dtype(precision)))
    return logits


def at(model: nn.Module, precision: str) -> nn.Module:
    return words.cast(copy.deepcopy(model), precision)


def moved(logits: Tensor, expected: Tensor) -> float:
    """Of the least moved image: if it is noticed, so is every image."""
    return float(((logits - expected).norm(dim=1) / expected.norm(dim=1)).min())


class Drawn(NamedTuple):
    model: nn.Module
    movements: list[tuple[float, str]]  # of the logits when that convolution alone is zeroed, least first


@functools.cache
def drawn(name: str) -> Drawn:
    model: Any = timm.create_model(name).eval()
    draw_weights(model, 0, normal(4, 3, PIXELS, PIXELS))
    spatial = [
        (label, module)
        for label, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size[0] >= 3
        and (module.groups == module.in_channels or (name.startswith("resnet") and label.startswith("layer")))
    ]
    expected = run(model, "fp32", IMAGES)
    movements = []
    for label, module in spatial:
        kept = module.weight.detach().clone()
        module.weight.data.zero_()
        movements.append((moved(run(model, "fp32", IMAGES), expected), label))
        module.weight.data.copy_(kept)
    assert (
        len(movements) >= {"van_b0": 39, "convnext_atto": 12, "convnext_tiny": 18, "resnet18": 16, "resnet50": 16}[name]
    )
    return Drawn(model, sorted(movements))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_zeroing_any_one_spatial_convolution_exceeds_three_tolerances(name: str, precision: str) -> None:
    model, movements = drawn(name)
    cell = at(model, precision)
    right = check_inference(
        model, IMAGES, run(cell, precision, IMAGES), lambda images: run(cell, precision, images), precision=precision
    )
    assert right.passed
    assert right.tolerance >= FLOOR[precision]
    assert movements[0][0] > 3 * right.tolerance
    for _, label in movements[:2]:  # the least noticeable ones, this time in the cell's own precision
        wrong = at(model, precision)
        wrong.get_parameter(f"{label}.weight").data.zero_()
        found = check_inference(
            model, IMAGES, run(wrong, precision, IMAGES), None, right.tolerance, precision=precision
        )
        assert found.error > 3 * found.tolerance, label
        assert not found.passed


@pytest.mark.parametrize("name", ["van_b3", "convnext_small", "resnet101"])
def test_deep_models_stay_in_the_range_of_fp16(name: str) -> None:
    model: Any = timm.create_model(name).eval()
    draw_weights(model, 0, normal(2, 3, PIXELS, PIXELS))
    largest = 0.0

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal largest
        largest = max(largest, float(output.abs().max()))

    for module in model.modules():
        module.register_forward_hook(note)
    logits = run(model, "fp32", IMAGES)
    assert largest < 1e4  # of 65504
    assert 0.3 < float(logits.square().mean().sqrt()) < 3
    assert float((logits[0] - logits[1]).norm() / logits[0].norm()) > 0.1  # the images are told apart


def test_weights_depend_on_the_seed_and_nothing_else() -> None:
    def state(seed: int, unrelated: int) -> dict[str, Tensor]:
        torch.manual_seed(unrelated)
        model: Any = timm.create_model("resnet18")
        draw_weights(model, seed, normal(2, 3, 64, 64))
        return {key: value.clone() for key, value in model.state_dict().items()}

    first, again, other = state(0, 1), state(0, 2), state(1, 1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert all(not torch.equal(first[key], other[key]) for key, value in first.items() if value.is_floating_point())


def test_the_order_of_construction_does_not_matter() -> None:
    class Pair(nn.Module):
        def __init__(self, order: str) -> None:
            super().__init__()
            for name in order:
                self.add_module(name, nn.Linear(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            x = x.mean((2, 3))
            y: Tensor = self.get_submodule("b")(self.get_submodule("a")(x))
            return y

    one, two = Pair("ab"), Pair("ba")
    for model in (one, two):
        draw_weights(model, 0, normal(8, 4, 2, 2))
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())


def test_drawing_leaves_the_random_state_and_the_training_flags_alone() -> None:
    model = VAN(embed_dims=(4, 6, 8, 12), depths=(1, 1, 1, 1), drop_path_rate=0.5, drop_rate=0.5)
    model.block2.eval()
    flags = {name: module.training for name, module in model.named_modules()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    draw_weights(model, 0, normal(2, 3, 64, 64))
    assert torch.equal(before, torch.get_rng_state())
    assert flags == {name: module.training for name, module in model.named_modules()}
    assert all(module.momentum == 0.1 for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_every_parameter_is_redrawn_and_no_branch_is_small() -> None:
    model = drawn("van_b0").model
    initial: Any = timm.create_model("van_b0")
    for (name, new), old in zip(model.named_parameters(), initial.parameters(), strict=True):
        assert not torch.equal(new, old), name
        assert float(new.detach().std()) > 0
        if "layer_scale" in name:
            assert float(new.detach().abs().min()) > 5 * 0.01
    for name, gamma in drawn("convnext_atto").model.named_parameters():
        if name.endswith("gamma"):
            assert float(gamma.detach().abs().min()) > 0.1


def test_running_statistics_are_those_of_the_calibration_images() -> None:
    model: Any = timm.create_model("resnet18").eval()
    images = normal(8, 3, 64, 64)
    draw_weights(model, 0, images)
    seen: dict[str, Tensor] = {}
    model.bn1.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0]))
    run(model, "fp32", images)
    torch.testing.assert_close(model.bn1.running_mean, seen["x"].mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    variance = seen["x"].var((0, 2, 3))
    torch.testing.assert_close(
        model.bn1.running_var, variance.clamp(min=0.1 * float(variance.mean())), rtol=1e-3, atol=0
    )


# --- inference: planted faults, on the smallest VAN -------------------------------------------------------------------


def _tanh_gelu(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.GELU):
            module.approximate = "tanh"


def _swapped_channels(model: nn.Module) -> None:
    weight = model.get_submodule("block1.0.attn.proj_1").weight
    assert isinstance(weight, Tensor)
    weight.data[[0, 1]] = weight.data[[1, 0]]


def _transposed_kernel(model: nn.Module) -> None:
    weight = model.get_submodule("block2.1.attn.spatial_gating_unit.conv0").weight
    assert isinstance(weight, Tensor)
    weight.data = weight.data.transpose(2, 3).contiguous()


def _wrong_permutation(model: nn.Module) -> None:
    # A (B, N, C) block of tokens read as (B, C, N): the classic slip between layouts.
    norm = model.get_submodule("norm2")
    norm.register_forward_hook(lambda module, inputs, output: output.transpose(1, 2).reshape(output.shape))


def _lost_bias(model: nn.Module) -> None:
    model.get_parameter("block4.1.mlp.fc1.bias").data.zero_()


FAULTS: dict[str, Callable[[nn.Module], None]] = {
    "GELU by tanh": _tanh_gelu,
    "two channels swapped": _swapped_channels,
    "a kernel transposed": _transposed_kernel,
    "tokens read in the wrong order": _wrong_permutation,
    "a bias lost": _lost_bias,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_fails_the_check(fault: str) -> None:
    reference = drawn("van_b0").model
    wrong = copy.deepcopy(reference)
    FAULTS[fault](wrong)
    got = run(wrong, "fp32", IMAGES)
    check = check_inference(reference, IMAGES, got, lambda images: run(reference, "fp32", images), precision="fp32")
    assert not check.passed
    assert check.quantity == "logits"


def test_images_in_the_wrong_order_fail_the_check() -> None:
    reference = drawn("van_b0").model
    got = run(reference, "fp32", IMAGES).flip(0)
    assert not check_inference(reference, IMAGES, got, None, 0.05, precision="bf16").passed


@pytest.mark.parametrize("precision", PRECISIONS)
def test_channels_last_passes(precision: str) -> None:
    reference = drawn("van_b0").model
    cell = at(reference, precision).to(memory_format=torch.channels_last)
    got = run(cell, precision, IMAGES.contiguous(memory_format=torch.channels_last))
    native = at(reference, precision)
    assert check_inference(reference, IMAGES, got, lambda x: run(native, precision, x), precision=precision).passed


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_logits_are_a_failure_of_their_own(value: float) -> None:
    got = run(drawn("van_b0").model, "fp32", IMAGES)
    got[1, 3] = value
    with pytest.raises(NonFinite, match="logits"):
        check_inference(drawn("van_b0").model, IMAGES, got, None, 1.0, precision="fp32")


def test_a_nan_error_never_passes() -> None:
    assert not Check("logits", float("nan"), 1.0).passed


def test_the_check_leaves_the_reference_as_it_was() -> None:
    reference = copy.deepcopy(drawn("resnet18").model).train()
    before = copy.deepcopy(reference.state_dict())
    inference_tolerance(reference, IMAGES, lambda x: run(drawn("resnet18").model, "fp32", x), precision="fp32")
    assert all(module.training for module in reference.modules())
    assert all(torch.equal(value, before[key]) for key, value in reference.state_dict().items())
    assert {p.dtype for p in reference.parameters()} == {torch.float32}


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        check_inference(drawn("van_b0").model, IMAGES, torch.zeros(2, 7), None, 1.0, precision="fp32")
    with pytest.raises(ValueError, match="native"):
        check_inference(drawn("van_b0").model, IMAGES, torch.zeros(2, 1000), None, precision="fp32")


# --- training ---------------------------------------------------------------------------------------------------------

LABELS = torch.tensor([1, 4])
Answer = tuple[Tensor, dict[str, Tensor]]


@functools.cache
def trained(name: str) -> nn.Module:
    model: nn.Module
    if name == "van":
        model = VAN(num_classes=10, embed_dims=(8, 12, 16, 24), depths=(1, 2, 1, 1), mlp_ratios=(2, 2, 2, 2))
    else:
        model = timm.create_model(name, num_classes=10)
    draw_weights(model, 0, normal(4, 3, 96, 96))
    return model.train()


TRAINING_IMAGES = normal(2, 3, 96, 96, seed=4)


def answer(model: nn.Module, precision: str, images: Tensor = TRAINING_IMAGES, labels: Tensor = LABELS) -> Answer:
    cell = words.cast(copy.deepcopy(model), precision).train()
    with words.autocast(precision, "cpu"):
        loss = F.cross_entropy(cell(images.to(words.input_dtype(precision))), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {name: p.grad for name, p in cell.named_parameters() if p.grad is not None}


def judged(name: str, got: Answer, precision: str, tolerance: Mapping[str, float] | None = None) -> Check:
    reference = trained(name)
    return check_training(
        reference,
        TRAINING_IMAGES,
        LABELS,
        *got,
        lambda images, labels: answer(reference, precision, images, labels),
        tolerance,
        precision=precision,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "amp-bf16"])
@pytest.mark.parametrize("name", ["van", "resnet18", "convnext_atto"])
def test_correct_training_passes_in_either_memory_format(name: str, precision: str) -> None:
    model = trained(name)
    assert judged(name, answer(model, precision), precision).passed
    channels_last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    got = answer(channels_last, precision, TRAINING_IMAGES.contiguous(memory_format=torch.channels_last))
    check = judged(name, got, precision)
    assert check.passed, check


def test_gradients_that_are_zero_in_truth_do_not_fail_correct_code() -> None:
    loss, grads = answer(trained("van"), "fp32")
    grads["patch_embed1.proj.bias"] = -grads["patch_embed1.proj.bias"]  # rounding residue: its sign means nothing
    assert judged("van", (loss, grads), "fp32").passed
    weight = grads["patch_embed1.proj.weight"]
    grads["patch_embed1.proj.bias"] = torch.full_like(grads["patch_embed1.proj.bias"], 0.1 * float(weight.std()))
    check = judged("van", (loss, grads), "fp32")
    assert not check.passed
    assert check.quantity == "gradient of patch_embed1.proj.bias"


@pytest.mark.parametrize("precision", ["fp32", "amp-bf16"])
@pytest.mark.parametrize(
    "parameter",
    ["block2.1.attn.spatial_gating_unit.conv_spatial.weight", "block3.0.layer_scale_2", "norm4.bias", "head.bias"],
)
def test_a_wrong_gradient_is_named(parameter: str, precision: str) -> None:
    loss, grads = answer(trained("van"), precision)
    grads[parameter] = torch.zeros_like(grads[parameter])
    check = judged("van", (loss, grads), precision)
    assert not check.passed
    assert check.quantity == f"gradient of {parameter}"


def test_a_wrong_loss_a_missing_gradient_and_a_nan_are_told_apart() -> None:
    loss, grads = answer(trained("van"), "fp32")
    tolerance = training_tolerance(
        trained("van"), TRAINING_IMAGES, LABELS, lambda *batch: answer(trained("van"), "fp32", *batch), precision="fp32"
    )
    check = judged("van", (loss * 1.01, grads), "fp32", tolerance)
    assert (check.quantity, check.passed) == ("loss", False)
    partial = {name: grad for name, grad in grads.items() if name != "head.bias"}
    assert judged("van", (loss, partial), "fp32", tolerance) == ("gradient of head.bias", float("inf"), 0.0)
    assert judged("van", (loss, grads), "fp32", tolerance).passed
    with pytest.raises(NonFinite, match="loss"):
        judged("van", (loss * float("nan"), grads), "fp32", tolerance)
    with pytest.raises(NonFinite, match=r"gradient of norm1\.weight"):
        judged("van", (loss, {**grads, "norm1.weight": grads["norm1.weight"] / 0}), "fp32", tolerance)


def test_checking_training_leaves_the_reference_as_it_was() -> None:
    reference = trained("resnet18")
    before = copy.deepcopy(reference.state_dict())
    assert judged("resnet18", answer(reference, "fp32"), "fp32").passed
    assert all(torch.equal(value, before[key]) for key, value in reference.state_dict().items())
    assert all(p.grad is None for p in reference.parameters())
