"""A form computes the function of the published network; only how it is written differs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vanbench.models
from vanbench.errors import UserError
from vanbench.models.convert import convert, use_form
from vanbench.models.forms import FoldedBlock, LeanVAN
from vanbench.models.serve import DepthwiseConv2d, DepthwisePair, depthwise_convs, use_depthwise
from vanbench.models.van import VAN
from vanbench.models.weights import draw_weights
from vanbench.spec.cell import Cell
from vanbench.worker.layout import channels_last_share
from vanbench.worker.trace import trace_step

EXACT = 1e-12  # relative L2 in float64
SIZE = 64


def drawn(name: str, **kwargs: Any) -> nn.Module:
    """A model in float64, eval mode, under whose weights every branch matters."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, **kwargs)
    draw_weights(model, 0, images(2).float())
    return model.double().eval()


def images(count: int = 2, size: int = SIZE) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3)).double()


def distance(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).norm() / expected.norm())


def answers(model: nn.Module, size: int = SIZE) -> Tensor:
    with torch.no_grad():
        got: Tensor = model(images(2, size))
    return got


def maps(model: Any) -> list[Tensor]:
    with torch.no_grad():
        found: list[Tensor] = model.forward_intermediates(images(), intermediates_only=True)
    return found


@pytest.mark.parametrize("form", ["lean", "folded"])
@pytest.mark.parametrize("name", ["van_b0", "van_b1", "van_b2"])
@pytest.mark.parametrize("size", [64, 75])
def test_a_form_of_van_is_exact(name: str, form: str, size: int) -> None:
    model = drawn(name)
    converted, changes = convert(model, form=form)
    assert changes
    assert distance(answers(converted, size), answers(model, size)) < EXACT


@pytest.mark.parametrize("name", ["convnext_atto", "convnext_tiny", "resnet18", "resnet50", "mobilenetv3_small_100"])
def test_a_folded_model_of_timm_is_exact(name: str) -> None:
    model = drawn(name)
    converted, changes = convert(model, form="folded")
    assert changes
    assert distance(answers(converted), answers(model)) < EXACT


def test_what_is_folded_is_gone() -> None:
    folded = convert(drawn("van_b0"), form="folded").model
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(isinstance(module, FoldedBlock) for module in folded.modules()) == 13
    resnet = convert(drawn("resnet50"), form="folded").model
    assert not [module for module in resnet.modules() if isinstance(module, nn.BatchNorm2d)]
    convnext = convert(drawn("convnext_atto"), form="folded").model
    assert not [name for name, _ in convnext.named_parameters() if "gamma" in name]


def test_a_form_has_so_many_operations_and_no_copies() -> None:
    """Copies, norms and scales are gone."""

    def count(form: str) -> tuple[int, int]:
        model = timm.create_model("van_b0").eval()
        use_form(model, form)
        cell = Cell(model="van_b0", batch_size=2, memory_format="channels_last", form=form)
        ops = trace_step(cell, model.to(memory_format=torch.channels_last), torch.device("cpu"))
        return len(ops), sum(op.name in ("aten.clone.default", "aten.copy_.default") for op in ops)

    assert count("reference") == (277, 29)
    assert count("lean") == (248, 0)
    assert count("folded") == (179, 0)


@pytest.mark.parametrize("form", ["lean", "folded"])
def test_channels_last_survives_the_whole_network(form: str) -> None:
    model = timm.create_model("van_b0").eval().to(memory_format=torch.channels_last)
    x = images().float().to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert (channels_last_share(model, lambda: model(x)) or 0.0) < 1.0
        converted = convert(model, form=form).model
        assert channels_last_share(converted, lambda: converted(x)) == 1.0


def test_lean_trains_as_the_reference_does() -> None:
    """Gradients, running statistics and stochastic depth. (Dropout's masks follow the memory format.)"""
    model = drawn("van_b0", drop_path_rate=0.2).train()
    lean = convert(model, form="lean").model
    assert lean.training
    found = []
    for each in (model, lean):
        torch.manual_seed(7)
        each(images(4)).square().sum().backward()
        found.append(each)
    for (name, one), (other_name, other) in zip(*(each.named_parameters() for each in found), strict=True):
        assert name == other_name
        # What is exactly 0, as the gradient of a bias before a batch norm, is rounding in both.
        assert float((one.grad - other.grad).norm()) <= EXACT * max(float(one.grad.norm()), 1e3), name
    for (name, one), (_, other) in zip(*(each.named_buffers() for each in found), strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-12), name


def test_lean_keeps_the_names_of_the_parameters_and_timms_methods() -> None:
    model = drawn("van_b0")
    lean = convert(model, form="lean").model
    assert isinstance(lean, LeanVAN)
    assert list(lean.state_dict()) == list(model.state_dict())
    lean.load_state_dict(model.state_dict(), strict=True)
    for one, other in zip(*(maps(each) for each in (lean, model)), strict=True):
        assert distance(one, other) < EXACT


def test_what_was_trained_lean_and_with_a_kernel_is_folded_afterwards() -> None:
    model = drawn("van_b0")
    trained = convert(model, form="lean", depthwise="polyphase").model
    for depthwise in ("native", "polyphase"):
        folded, changes = convert(trained, form="folded", depthwise=depthwise)
        assert sum(isinstance(module, FoldedBlock) for module in folded.modules()) == 13
        assert any("folded into the 1x1" in line for line in changes)
        assert distance(answers(folded), answers(model)) < EXACT
        served = [module for module in folded.modules() if isinstance(module, DepthwiseConv2d)]
        assert len(served) == (0 if depthwise == "native" else 13)
    again, changes = convert(folded, form="folded")
    assert changes == ("13 depthwise convolution(s) given back to torch",)
    assert distance(answers(again), answers(model)) < EXACT


def test_a_convolution_whose_weight_is_read_elsewhere_keeps_it() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            nn.init.constant_(self.norm.weight, 3.0)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.conv(x)) + self.conv.weight.sum()
            return y

    model = Reader().double().eval()
    assert distance(answers(convert(model, form="folded").model), answers(model)) < EXACT


def test_a_folded_network_refuses_to_train() -> None:
    folded = convert(drawn("van_b0"), form="folded").model
    assert not folded.training
    with pytest.raises(RuntimeError, match="folded network is for inference"):
        folded.train()


def test_convert_leaves_the_model_as_it_is() -> None:
    model = drawn("van_b0").train()
    before = copy.deepcopy(model)
    convert(model, form="folded", depthwise="polyphase")
    assert type(model) is VAN
    assert model.training
    for (name, one), (_, other) in zip(model.state_dict().items(), before.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


def test_batch_norms_that_cannot_be_folded_stay_and_are_counted() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.lonely = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(self.lonely(x))
            z: Tensor = self.norm(y) + y
            return z

    model = Shared().double().eval()
    converted, changes = convert(model, form="folded")
    assert changes == ("2 batch norm(s) left: none follows a convolution alone",)
    assert distance(answers(converted), answers(model)) < EXACT


def test_a_model_that_cannot_be_traced_is_left_and_the_reason_said() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 0:
                x = -x
            y: Tensor = self.norm(self.conv(x))
            return y

    changes = convert(Odd(), form="folded").changes
    assert len(changes) == 1
    assert changes[0].startswith("1 batch norm(s) left: torch.fx cannot trace the model: ")


def test_a_model_without_anything_to_change_is_said_to_have_none() -> None:
    assert convert(nn.Linear(3, 4), form="folded", depthwise="polyphase").changes == ()
    assert use_form(timm.create_model("resnet18"), "lean") == []


@pytest.mark.parametrize(("word", "value", "nearest"), [("form", "fold", "folded"), ("depthwise", "cpus", "cpu")])
def test_an_unknown_word_is_refused_with_the_nearest(word: str, value: str, nearest: str) -> None:
    with pytest.raises(UserError, match=f"'{value}'.*'{nearest}'"):
        vanbench.models.convert(nn.Identity(), **{word: value})  # type: ignore[arg-type]


# --- depthwise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["polyphase", "cpu"])
@pytest.mark.parametrize("name", ["van_b0", "convnext_atto"])
def test_a_models_depthwise_convs_are_served(name: str, word: str) -> None:
    model = drawn(name)
    converted, changes = convert(model, form="reference", depthwise=word)
    if not any("served by" in line for line in changes):
        assert (name, word) == ("convnext_atto", "polyphase") or "compiler" in " ".join(changes)
        return
    assert distance(answers(converted), answers(model)) < EXACT
    assert list(converted.state_dict()) == list(model.state_dict())
    assert f"implementation='{word}'" in repr(converted)


def test_a_folded_gates_two_convs_become_one_and_two_again() -> None:
    model, given = drawn("van_b0").float(), images().float()
    joined = convert(model, form="folded", depthwise="cuda-pair")
    assert "13 pair(s) of a 5x5 and a 7x7 dilation 3 in one kernel" in joined.changes
    assert sum(isinstance(module, DepthwisePair) for module in joined.model.modules()) == 13
    expected = convert(model, form="folded").model(given)
    assert distance(joined.model(given), expected) < 1e-5
    parted = use_depthwise(joined.model, "native", torch.float32)
    assert any("given back to torch" in line for line in parted.changes)
    assert not any(isinstance(module, DepthwisePair) for module in joined.model.modules())
    assert torch.equal(joined.model(given), expected)


def test_a_form_without_pairs_is_served_conv_by_conv_and_says_so() -> None:
    changes = convert(drawn("van_b0").float(), form="lean", depthwise="cuda-pair").changes
    assert any("only the folded form of VAN has them" in line for line in changes)


def test_what_cannot_be_served_is_left_to_torch_and_said() -> None:
    served = use_depthwise(timm.create_model("van_b0"), "polyphase", torch.float32)
    assert served.changes == ("13 depthwise 7x7 dilation 3 convolution(s) served by polyphase",)
    assert len(served.left) == 2
    assert "5x5 convolution(s) left to torch: " in " ".join(served.left)


def test_depthwise_convs_are_those_with_padding_that_keeps_the_map() -> None:
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=2, groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.Conv2d(8, 16, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, (3, 5), padding=(1, 2), groups=8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, padding_mode="reflect"),
        nn.Conv2d(8, 8, 7, padding="same", dilation=3, groups=8),
    )
    assert list(depthwise_convs(model)) == ["0", "6"]


def test_autocast_reaches_a_served_conv() -> None:
    conv = nn.Conv2d(16, 16, 7, padding=9, dilation=3, groups=16)
    served = convert(conv, form="reference", depthwise="polyphase").model
    assert type(served) is DepthwiseConv2d
    x = torch.randn(1, 16, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        assert served(x).dtype is torch.bfloat16
        assert torch.allclose(served(x).float(), conv(x).float(), atol=2e-2)
    assert torch.equal(served(x[0]), served(x)[0])


# --- somebody else's VAN --------------------------------------------------------------------------------------------


class TheirAttention(nn.Module):
    """As in the published file: copies, and a shortcut of its own."""

    def __init__(self, dim: int, shortcut: bool = True) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = nn.Module()
        self.spatial_gating_unit.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.spatial_gating_unit.conv_spatial = nn.Conv2d(dim, dim, 7, padding=9, groups=dim, dilation=3)
        self.spatial_gating_unit.conv1 = nn.Conv2d(dim, dim, 1)
        self.proj_2 = nn.Conv2d(dim, dim, 1)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.proj_1(x))
        unit: Any = self.spatial_gating_unit
        z: Tensor = self.proj_2(y * unit.conv1(unit.conv_spatial(unit.conv0(y))))
        return z + x if self.shortcut else z


class TheirMlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = nn.Module()
        self.dwconv.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        inner: Any = self.dwconv
        y: Tensor = self.fc2(nn.functional.gelu(inner.dwconv(self.fc1(x))))
        return y


class TheirBlock(nn.Module):
    def __init__(self, dim: int, ratio: int, shortcut: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(dim, eps=1e-3), nn.BatchNorm2d(dim)
        self.attn, self.mlp = TheirAttention(dim, shortcut), TheirMlp(dim, dim * ratio)
        self.layer_scale_1 = nn.Parameter(torch.rand(dim))
        self.layer_scale_2 = nn.Parameter(torch.rand(dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.layer_scale_1[:, None, None] * self.attn(self.norm1(x))
        x = x + self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x))
        return x


class TheirEmbed(nn.Module):
    def __init__(self, channels: int, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(channels, dim, kernel, stride, kernel // 2), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.norm(self.proj(x))
        return x, x.shape[2], x.shape[3]


class TheirVAN(nn.Module):
    """Of the published file's shape: stages by name, patch embeddings that give sizes, blocks in lists."""

    def __init__(self, shortcut: bool = True) -> None:
        super().__init__()
        dims, ratios = (8, 16, 24, 32), (8, 8, 4, 4)
        for i, (dim, ratio) in enumerate(zip(dims, ratios, strict=True)):
            embed = TheirEmbed(dims[i - 1] if i else 3, dim, 3 if i else 7, 2 if i else 4)
            setattr(self, f"patch_embed{i + 1}", embed)
            setattr(self, f"block{i + 1}", nn.ModuleList(TheirBlock(dim, ratio, shortcut) for _ in range(1 + i % 2)))
            setattr(self, f"norm{i + 1}", nn.LayerNorm(dim, eps=1e-5))
        self.head = nn.Linear(dims[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(4):
            x, height, width = getattr(self, f"patch_embed{i + 1}")(x)
            for block in getattr(self, f"block{i + 1}"):
                x = block(x)
            x = getattr(self, f"norm{i + 1}")(x.flatten(2).transpose(1, 2))
            if i < 3:
                x = x.reshape(len(x), height, width, -1).permute(0, 3, 1, 2).contiguous()
        y: Tensor = self.head(x.mean(dim=1))
        return y


@pytest.mark.parametrize("form", ["lean", "folded"])
def test_a_van_of_other_code_is_known_by_its_parameters(form: str) -> None:
    torch.manual_seed(0)
    model = TheirVAN()
    draw_weights(model, 0, images().float())
    model = model.double().eval()
    converted, changes = convert(model, form=form)
    assert isinstance(converted, VAN)
    assert changes
    assert distance(answers(converted), answers(model)) < EXACT
    if form == "lean":
        assert set(converted.state_dict()) == set(model.state_dict())


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (lambda block: setattr(block.attn, "activation", nn.GELU("tanh")), "not the exact GELU"),
        (lambda block: setattr(block, "norm1", nn.GroupNorm(1, 8)), "no batch norm"),
    ],
    ids=["tanh", "group norm"],
)
def test_a_van_with_other_layers_is_made_lean_and_not_folded(plant: Any, said: str) -> None:
    model: Any = timm.create_model("van_b0", embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_classes=10)
    plant(model.block1[0])
    model = model.double().eval()
    converted, changes = convert(model, form="folded")
    assert isinstance(converted, LeanVAN)
    assert any(said in line for line in changes)
    assert distance(answers(converted), answers(model)) < EXACT


def test_a_network_of_the_same_names_that_computes_something_else_is_left_alone() -> None:
    model = TheirVAN(shortcut=False).eval()
    converted, changes = convert(model, form="lean")
    assert type(converted) is TheirVAN
    assert changes == ()
