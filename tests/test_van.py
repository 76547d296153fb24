"""VAN against its published counts and against its own equations, written a second time in another way."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn import functional as F

from vanbench.models.van import SIZES, VAN, Attention, Block, LargeKernelAttention, Mlp

PUBLISHED = {  # parameters, state_dict keys
    "van_b0": (4_105_800, 402),
    "van_b1": (13_861_800, 318),
    "van_b2": (26_578_472, 626),
    "van_b3": (44_765_608, 1102),
    "van_b4": (60_283_176, 1494),
    "van_b5": (89_967_688, 962),
    "van_b6": (199_829_416, 3062),
}
DIMS, DEPTHS = (4, 6, 8, 12), (1, 2, 1, 1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small ops on several threads mostly wait for each other, and for whatever else runs on the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def restated(weights: Mapping[str, Tensor], images: Tensor, training: bool = False) -> Tensor:
    """VAN's logits from its equations and a state_dict alone: no modules, tokens as matrices, erf written out."""

    def conv(x: Tensor, key: str, **how: Any) -> Tensor:
        return F.conv2d(x, weights[f"{key}.weight"], weights[f"{key}.bias"], **how)

    def depthwise(x: Tensor, key: str, reach: int, step: int = 1) -> Tensor:
        # A sum over taps of shifted images, rather than a grouped convolution.
        kernel, (H, W) = weights[f"{key}.weight"], x.shape[2:]
        padded = F.pad(x, [reach] * 4)
        taps = range(0, 2 * reach + 1, step)
        shifted = [
            kernel[:, 0, i, j, None, None] * padded[:, :, di : di + H, dj : dj + W]
            for i, di in enumerate(taps)
            for j, dj in enumerate(taps)
        ]
        return torch.stack(shifted).sum(0) + weights[f"{key}.bias"][:, None, None]

    def pointwise(x: Tensor, key: str) -> Tensor:
        return (
            torch.einsum("oc,nchw->nohw", weights[f"{key}.weight"][:, :, 0, 0], x)
            + (weights[f"{key}.bias"][:, None, None])
        )

    def batch_norm(x: Tensor, key: str) -> Tensor:
        mean, var = weights[f"{key}.running_mean"], weights[f"{key}.running_var"]
        if training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        gain = weights[f"{key}.weight"] / (var + 1e-5).sqrt()
        return (x - mean[:, None, None]) * gain[:, None, None] + weights[f"{key}.bias"][:, None, None]

    def gelu(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    x = images
    for stage in (1, 2, 3, 4):
        how = {"stride": 4, "padding": 3} if stage == 1 else {"stride": 2, "padding": 1}
        x = batch_norm(conv(x, f"patch_embed{stage}.proj", **how), f"patch_embed{stage}.norm")
        block = 0
        while f"block{stage}.{block}.layer_scale_1" in weights:
            key = f"block{stage}.{block}"
            normed = batch_norm(x, f"{key}.norm1")
            u = gelu(pointwise(normed, f"{key}.attn.proj_1"))
            unit = f"{key}.attn.spatial_gating_unit"
            gate = depthwise(depthwise(u, f"{unit}.conv0", 2), f"{unit}.conv_spatial", 9, 3)
            attended = pointwise(u * pointwise(gate, f"{unit}.conv1"), f"{key}.attn.proj_2")
            x = x + weights[f"{key}.layer_scale_1"][:, None, None] * (attended + normed)
            hidden = pointwise(batch_norm(x, f"{key}.norm2"), f"{key}.mlp.fc1")
            hidden = gelu(depthwise(hidden, f"{key}.mlp.dwconv.dwconv", 1))
            x = x + weights[f"{key}.layer_scale_2"][:, None, None] * pointwise(hidden, f"{key}.mlp.fc2")
            block += 1
        mean, var = x.mean(1, keepdim=True), x.var(1, correction=0, keepdim=True)
        scale, shift = weights[f"norm{stage}.weight"], weights[f"norm{stage}.bias"]
        x = (x - mean) / (var + 1e-6).sqrt() * scale[:, None, None] + shift[:, None, None]
    return x.mean((2, 3)) @ weights["head.weight"].T + weights["head.bias"]


def small_van(**kwargs: Any) -> VAN:
    """A small VAN in float64 whose every parameter and running statistic is of order one, and no two alike."""
    generator = torch.Generator().manual_seed(3)
    model = VAN(num_classes=5, embed_dims=DIMS, depths=DEPTHS, mlp_ratios=(2, 2, 2, 2), **kwargs).double().eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            draw = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
            one_value_a_channel = tensor.ndim == 1 and not name.endswith("bias") and "mean" not in name
            tensor.copy_(draw + 0.5 if one_value_a_channel else (draw - 0.5) * (12 / max(tensor[0].numel(), 4)) ** 0.5)
    return model


def image(height: int = 40, width: int = 40) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("name", PUBLISHED)
def test_each_size_has_the_published_parameters_and_keys(name: str) -> None:
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    assert (sum(p.numel() for p in model.parameters()), len(model.state_dict())) == PUBLISHED[name]
    assert all(p.is_meta for p in model.parameters())


def test_parameter_names_are_those_of_the_published_checkpoints() -> None:
    keys = set(VAN(embed_dims=DIMS, depths=DEPTHS).state_dict())
    unit = "block2.1.attn.spatial_gating_unit"
    assert keys >= {
        "patch_embed1.proj.weight", "patch_embed4.norm.running_var", "norm3.bias", "head.weight", "head.bias",
        "block1.0.norm1.num_batches_tracked", "block1.0.norm2.weight", "block2.1.layer_scale_1",
        "block2.1.layer_scale_2", "block2.1.attn.proj_1.bias", "block2.1.attn.proj_2.weight",
        f"{unit}.conv0.weight", f"{unit}.conv_spatial.bias", f"{unit}.conv1.weight",
        "block4.0.mlp.fc1.weight", "block4.0.mlp.dwconv.dwconv.weight", "block4.0.mlp.fc2.bias",
    }  # fmt: skip
    assert {key.split(".")[0] for key in keys} == {
        *(f"{part}{i}" for part in ("patch_embed", "block", "norm") for i in (1, 2, 3, 4)),
        "head",
    }


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (64, 35), (1, 1)])
def test_logits_are_those_of_the_equations_at_any_size(height: int, width: int) -> None:
    model, images = small_van(), image(height, width)
    with torch.no_grad():
        assert distance(model(images), restated(model.state_dict(), images)) < 1e-12


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_the_equations(training: bool) -> None:
    model, images, labels = small_van().train(training), image(37, 45), torch.tensor([1, 3])
    ours = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
    leaves = {k: v.detach().clone().requires_grad_() for k, v in model.named_parameters()}
    loss = F.cross_entropy(restated({**model.state_dict(), **leaves}, images, training), labels)
    theirs = torch.autograd.grad(loss, list(leaves.values()))
    for name, a, b in zip(leaves, ours, theirs, strict=True):
        if training and name.startswith("patch_embed") and name.endswith("proj.bias"):
            assert max(a.abs().max(), b.abs().max()) < 1e-12  # a batch norm takes any constant away
        else:
            assert distance(a, b) < 1e-10, name


def _set(**attributes: Any) -> Callable[[nn.Module], None]:
    def change(module: nn.Module) -> None:
        for name, value in attributes.items():
            setattr(module, name, value)

    return change


def _no_shortcut(module: nn.Module) -> None:
    module.forward = lambda x: module.proj_2(module.spatial_gating_unit(module.activation(module.proj_1(x))))  # type: ignore[operator]


def _shortcut_of_stream(module: Any) -> None:
    module.forward = lambda x: (
        (z := x + module.layer_scale_1[:, None, None] * (module.attn(n := module.norm1(x)) - n + x))
        + module.layer_scale_2[:, None, None] * module.mlp(module.norm2(z))
    )


def _gelu_before_dwconv(module: Any) -> None:
    module.forward = lambda x: module.fc2(module.dwconv(module.act(module.fc1(x))))


def _gelu_twice(module: Any) -> None:
    module.forward = lambda x: module.fc2(module.act(module.dwconv(module.act(module.fc1(x)))))


def _gate(form: Callable[[Any, Tensor], Tensor]) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        module.forward = lambda x: form(module, x)

    return change


def _swapped_scales(module: Any) -> None:
    module.layer_scale_1, module.layer_scale_2 = module.layer_scale_2, module.layer_scale_1


def _dilation(module: Any) -> None:
    module.conv_spatial.dilation, module.conv_spatial.padding = (2, 2), (6, 6)


def _padding(module: Any) -> None:
    module.conv0.padding_mode, module.conv0._reversed_padding_repeated_twice = "replicate", [2, 2, 2, 2]


def _pool_before_norm(model: Any) -> None:
    model.norm4, norm = nn.Identity(), model.norm4
    model.global_pool = nn.Sequential(model.global_pool, norm)


MISTAKES: dict[str, tuple[type, Callable[[Any], None]]] = {
    "batch norm with layer norm's epsilon": (nn.BatchNorm2d, _set(eps=1e-6)),
    "batch norm with epsilon 1e-3": (nn.BatchNorm2d, _set(eps=1e-3)),
    "layer norm with batch norm's epsilon": (nn.LayerNorm, _set(eps=1e-5)),
    "GELU by tanh": (nn.GELU, _set(approximate="tanh")),
    "no shortcut inside the attention": (Attention, _no_shortcut),
    "shortcut of the stream, not of the normalised input": (Block, _shortcut_of_stream),
    "no GELU in the attention": (Attention, _set(activation=nn.Identity())),
    "no GELU in the MLP": (Mlp, _set(act=nn.Identity())),
    "GELU before the depthwise convolution": (Mlp, _gelu_before_dwconv),
    "GELU before and after it": (Mlp, _gelu_twice),
    "dilation 2": (LargeKernelAttention, _dilation),
    "another padding": (LargeKernelAttention, _padding),
    "conv_spatial before conv0": (
        LargeKernelAttention,
        _gate(lambda m, x: x * m.conv1(m.conv0(m.conv_spatial(x)))),
    ),
    "conv1 first": (LargeKernelAttention, _gate(lambda m, x: x * m.conv_spatial(m.conv0(m.conv1(x))))),
    "a sigmoid gate": (LargeKernelAttention, _gate(lambda m, x: x * m.conv1(m.conv_spatial(m.conv0(x))).sigmoid())),
    "a gate that adds": (LargeKernelAttention, _gate(lambda m, x: x + m.conv1(m.conv_spatial(m.conv0(x))))),
    "a gate of itself": (LargeKernelAttention, _gate(lambda m, x: (a := m.conv1(m.conv_spatial(m.conv0(x)))) * a)),
    "layer scales swapped": (Block, _swapped_scales),
    "layer scale left out": (Block, lambda m: m.layer_scale_2.data.fill_(1.0)),
    "norms swapped": (Block, lambda m: m._modules.update(norm1=m.norm2, norm2=m.norm1)),
    "a stage without its norm": (VAN, _set(norm2=nn.Identity())),
    "pooling before the last norm": (VAN, _pool_before_norm),
    "pooling by maximum": (VAN, _set(global_pool=nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten()))),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_noticed(mistake: str) -> None:
    kind, change = MISTAKES[mistake]
    model, images = small_van(), image()
    with torch.no_grad():
        right = restated(model.state_dict(), images)
        assert distance(model(images), right) < 1e-12
        for module in [module for module in model.modules() if type(module) is kind]:
            change(module)
        assert distance(model(images), right) > 1e-9


def test_the_published_copies_are_made() -> None:
    # The reference form is what the leaner forms are measured against.
    block = Block(8, 2, 0.0, 0.0).eval()
    with torch.profiler.profile() as profile, torch.no_grad():
        block(torch.randn(1, 8, 4, 4))
    assert sum(event.count for event in profile.key_averages() if event.key == "aten::clone") == 2


def test_initial_values_follow_the_published_scheme() -> None:
    torch.manual_seed(0)
    model = VAN(embed_dims=(32, 64, 160, 256), depths=(1, 1, 1, 1))
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is not None
            assert not module.bias.any()
            height, width = module.kernel_size
            expected = math.sqrt(2 / (height * width * module.out_channels / module.groups))
            n = module.weight.numel()
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=4 / math.sqrt(2 * n)), name
            assert abs(float(module.weight.detach().mean())) < 4 * expected / math.sqrt(n), name
        elif isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            assert bool((module.weight == 1).all())
            assert not module.bias.any()
    head = model.get_classifier()
    assert isinstance(head, nn.Linear)
    assert float(head.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not head.bias.any()
    scales = [p for name, p in model.named_parameters() if "layer_scale" in name]
    assert len(scales) == 8
    assert all(bool((p == 0.01).all()) for p in scales)


def test_equal_seeds_give_equal_models_in_a_single_pass() -> None:
    torch.manual_seed(7)
    first = VAN(embed_dims=DIMS, depths=DEPTHS).state_dict()
    torch.manual_seed(7)
    second = VAN(embed_dims=DIMS, depths=DEPTHS).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_drop_path_grows_linearly_from_zero_over_the_blocks() -> None:
    model: Any = timm.create_model("van_b0", drop_path_rate=0.3)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.3 * i / 12 for i in range(13)])
    assert isinstance(blocks[0].drop_path, nn.Identity)
    assert not any("drop_path" in key for key in model.state_dict())


def test_drop_path_drops_whole_branches_of_single_images() -> None:
    torch.manual_seed(0)
    model = small_van(drop_path_rate=0.9)
    images = image().repeat(8, 1, 1, 1)
    with torch.no_grad():
        assert distance(model(images)[0], model(images)[2]) < 1e-12  # none in eval mode
        model.train()
        assert distance(model(images)[0], model(images)[2]) > 1e-3


def test_a_model_trains() -> None:
    torch.manual_seed(0)
    model = VAN(num_classes=2, embed_dims=DIMS, depths=DEPTHS)
    images, labels = torch.randn(8, 3, 64, 64), torch.tensor([0, 1] * 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert all(p.grad is not None for p in model.parameters())


def test_features_come_as_maps_at_strides_4_to_32() -> None:
    features: Any = timm.create_model("van_b0", features_only=True, out_indices=(0, 2, 3)).eval()
    plain: Any = timm.create_model("van_b0").eval()
    plain.load_state_dict(
        {**plain.state_dict(), **{k.removeprefix("model."): v for k, v in features.state_dict().items()}}
    )
    assert features.feature_info.channels() == [32, 160, 256]
    assert features.feature_info.reduction() == [4, 16, 32]
    images = torch.randn(1, 3, 64, 70)
    with torch.no_grad():
        maps = features(images)
        assert [tuple(m.shape) for m in maps] == [(1, 32, 16, 18), (1, 160, 4, 5), (1, 256, 2, 3)]
        assert torch.equal(maps[-1], plain.forward_features(images))


def test_features_of_early_stages_leave_out_the_later_ones() -> None:
    early: Any = timm.create_model("van_b0", features_only=True, out_indices=(1,), in_chans=1)
    assert not [name for name, _ in early.named_parameters() if "block3" in name or "head" in name]
    assert [tuple(m.shape) for m in early(torch.randn(2, 1, 32, 32))] == [(2, 64, 4, 4)]


def test_intermediates_agree_with_the_whole() -> None:
    model, images = small_van(), image()
    with torch.no_grad():
        final, maps = model.forward_intermediates(images, indices=[1, 3])
        assert isinstance(final, Tensor)
        assert torch.equal(final, maps[1])
        assert torch.equal(model.forward_head(final), model(images))
        stopped = model.forward_intermediates(images, indices=[1], stop_early=True, intermediates_only=True)
        assert torch.equal(stopped[0], maps[0])
    with pytest.raises(ValueError, match="NCHW"):
        model.forward_intermediates(images, output_fmt="NLC")


def test_heads_behave_as_timm_users_expect() -> None:
    model: Any = timm.create_model("van_b0", num_classes=7, in_chans=4).eval()
    images = torch.randn(2, 4, 32, 32)
    assert model(images).shape == (2, 7)
    assert model.num_features == model.head_hidden_size == 256
    assert model.forward_features(images).shape == (2, 256, 1, 1)
    assert model.forward_head(model.forward_features(images), pre_logits=True).shape == (2, 256)
    model.reset_classifier(3)
    assert model.num_classes == 3
    assert model.get_classifier().out_features == 3
    assert not model.get_classifier().bias.any()
    assert model(images).shape == (2, 3)
    model.reset_classifier(0)
    assert model(images).shape == (2, 256)
    model.reset_classifier(0, "")
    assert model(images).shape == (2, 256, 1, 1)
    model.reset_classifier(5, "catavgmax")
    assert model(images).shape == (2, 5)
    with pytest.raises(ValueError, match="pooled"):
        model.reset_classifier(3, "")
    assert timm.create_model("van_b0", num_classes=0)(images[:, :3]).shape == (2, 256)


def test_a_new_head_is_where_the_model_is() -> None:
    with torch.device("meta"):
        model: Any = timm.create_model("van_b0")
    model.to(torch.bfloat16).reset_classifier(3)
    assert model.head.weight.is_meta
    assert model.head.weight.dtype is torch.bfloat16


def test_the_default_configuration_is_the_published_one() -> None:
    for name in SIZES:
        cfg: Any = timm.get_pretrained_cfg(name)
        assert (cfg.mean, cfg.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        assert (cfg.crop_pct, cfg.interpolation, cfg.input_size) == (0.9, "bicubic", (3, 224, 224))
        assert not cfg.url
        assert not cfg.hf_hub_id
    model = VAN(embed_dims=DIMS, depths=DEPTHS)
    assert isinstance(model.get_submodule(cfg.first_conv), nn.Conv2d)
    assert model.get_submodule(cfg.classifier) is model.head


def test_asking_for_trained_weights_says_that_there_are_none() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist for van_b0"):
        timm.create_model("van_b0", pretrained=True)


def test_timm_can_order_the_parameters_from_input_to_output() -> None:
    model: Any = timm.create_model("van_b0")
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    order = [groups[f"{name}"] for name in ("patch_embed1.proj.weight", "block1.0.layer_scale_1", "block1.2.norm1.bias",
             "block3.0.attn.proj_1.weight", "block4.1.mlp.fc2.weight")]  # fmt: skip
    assert order == sorted(order)
    assert len(set(order)) == len(order)
