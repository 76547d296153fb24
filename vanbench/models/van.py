"""VAN, the Visual Attention Network (Guo et al., arXiv 2202.09741): seven sizes of one architecture.

Parameter names, shapes and arithmetic follow the published checkpoints, including what the paper's figures leave out:
the shortcut inside the attention and the copies it makes. A leaner way of writing the same function is another
form (`forms.py`), not a change here: this file is what the others are compared with. It holds no trained weights.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from timm.layers.drop import DropPath
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

LAYER_SCALE_INIT = 1e-2
LAYER_NORM_EPS = 1e-6  # of the published classifiers; VAN's segmentation backbones have PyTorch's default of 1e-5
STAGES = 4


class LargeKernelAttention(nn.Module):
    """Gate every position by a depthwise view of its surroundings, 23 pixels wide (section 3.1 of the paper).

    A 21x21 depthwise convolution taken apart: 5x5, then 7x7 with dilation 3, then 1x1 across channels.
    (B, C, H, W) -> (B, C, H, W). The gate is linear: no sigmoid, hence it may be negative.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.conv_spatial = nn.Conv2d(dim, dim, 7, padding=9, dilation=3, groups=dim)
        self.conv1 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        gated = x.clone()  # the published model pays for this copy, so the reference form does as well
        gate: Tensor = self.conv1(self.conv_spatial(self.conv0(x)))
        return gated * gate


class Attention(nn.Module):
    """Large kernel attention between two 1x1 convolutions, with a shortcut of its own. (B, C, H, W), same shape out.

    The shortcut adds the attention's input, which is the *normalised* stream; Figure 4 of the paper omits it,
    the published weights were trained with it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = LargeKernelAttention(dim)
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x.clone()  # see LargeKernelAttention: copied because the published model copies
        x = self.activation(self.proj_1(x))
        y: Tensor = self.proj_2(self.spatial_gating_unit(x))
        return y + shortcut


class DepthwiseConv(nn.Module):
    """A 3x3 depthwise convolution; a module of its own only because checkpoints call it `dwconv.dwconv`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.dwconv(x)
        return y


class Mlp(nn.Module):
    """Convolutional feed-forward network: widen, 3x3 depthwise, *then* GELU, narrow. (B, C, H, W), same shape out."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.dwconv = DepthwiseConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.act(self.dwconv(self.fc1(x))))
        y: Tensor = self.drop(self.fc2(x))
        return y


class Block(nn.Module):
    """Attention, then MLP: each after a batch norm, under a layer scale, on a residual stream. (B, C, H, W)."""

    def __init__(self, dim: int, mlp_ratio: int, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.attn = Attention(dim)
        self.drop_path: nn.Module = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = Mlp(dim, dim * mlp_ratio, drop)
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), LAYER_SCALE_INIT))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), LAYER_SCALE_INIT))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        x = x + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))
        return x


class PatchEmbed(nn.Module):
    """An overlapping strided convolution and a batch norm. (B, C, H, W) -> (B, dim, ceil(H/stride), ceil(W/stride))."""

    def __init__(self, in_chans: int, dim: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, stride, padding=kernel_size // 2)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.proj(x))
        return y


class VAN(nn.Module):
    """The network: four stages at strides 4, 8, 16, 32, each ended by a layer norm over its tokens, and a linear head.

    Images (B, in_chans, H, W) of any height and width -> logits (B, num_classes).

    Args:
        in_chans: channels of the image.
        num_classes: classes of the head; 0 leaves the head out.
        global_pool: how timm's pooling turns the last map into a vector: "avg" as published, or "max", "avgmax",
            "catavgmax"; "" leaves the map as it is and needs num_classes=0.
        embed_dims: channels of each stage.
        depths: blocks of each stage.
        mlp_ratios: width of each stage's MLP over its channels.
        drop_rate: dropout inside the MLPs (0 in every published recipe).
        drop_path_rate: stochastic depth of the last block; the rate grows linearly from 0 at the first. Published
            recipes: 0.1 for b0 to b2, 0.2 for b3.

    Raises:
        ValueError: for a head without pooling.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dims: Sequence[int] = (64, 128, 320, 512),
        depths: Sequence[int] = (3, 3, 12, 3),
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.feature_info = [
            {"num_chs": dim, "reduction": 4 * 2**i, "module": f"norm{i + 1}"} for i, dim in enumerate(embed_dims)
        ]
        # Plain arithmetic rather than torch.linspace(...).item(), which cannot run on the meta device.
        last = max(sum(depths) - 1, 1)
        drop_paths = [drop_path_rate * i / last for i in range(sum(depths))]

        def stage(i: int) -> tuple[nn.Module, nn.Module, nn.Module]:
            dim, before = embed_dims[i], sum(depths[:i])
            return (
                PatchEmbed(in_chans, dim, 7, 4) if i == 0 else PatchEmbed(embed_dims[i - 1], dim, 3, 2),
                nn.Sequential(
                    *(Block(dim, mlp_ratios[i], drop_rate, rate) for rate in drop_paths[before : before + depths[i]])
                ),
                nn.LayerNorm(dim, eps=LAYER_NORM_EPS),
            )

        self.patch_embed1, self.block1, self.norm1 = stage(0)
        self.patch_embed2, self.block2, self.norm2 = stage(1)
        self.patch_embed3, self.block3, self.norm3 = stage(2)
        self.patch_embed4, self.block4, self.norm4 = stage(3)
        self._stages_kept = STAGES

        self.global_pool: nn.Module
        self.head: nn.Module
        self.apply(_initialise)
        self.reset_classifier(num_classes, global_pool)

    @property
    def stages(self) -> tuple[tuple[nn.Module, nn.Module, nn.Module], ...]:
        """Each stage's patch embedding, blocks and layer norm, in order."""
        return (
            (self.patch_embed1, self.block1, self.norm1),
            (self.patch_embed2, self.block2, self.norm2),
            (self.patch_embed3, self.block3, self.norm3),
            (self.patch_embed4, self.block4, self.norm4),
        )[: self._stages_kept]

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> logits (B, num_classes), or pooled features where there is no head."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> the last normalised map (B, C, ceil(H/32), ceil(W/32)).

        As everywhere in timm this comes before pooling; the published file pools in its method of the same name.
        """
        return self._maps(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """A map (B, C, H, W) -> logits (B, num_classes), or the pooled vector (B, C) with `pre_logits`."""
        x = self.global_pool(x)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps that the stages hand on, each (B, C_i, ceil(H/r_i), ceil(W/r_i)) with r = 4, 8, 16, 32.

        Args:
            x: images (B, in_chans, H, W).
            indices: which stages: the last n, these, or all.
            norm: without effect, because every stage of VAN ends in a norm of its own.
            stop_early: leave out the stages after the last one asked for.
            output_fmt: only "NCHW".
            intermediates_only: leave out the final map.

        Raises:
            ValueError: for another `output_fmt`.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}; VAN's maps come as 'NCHW' only")
        wanted, last = feature_take_indices(len(self.stages), indices)
        maps = self._maps(x, stages=last + 1 if stop_early else None)
        taken = [maps[i] for i in sorted(wanted)]
        return taken if intermediates_only else (maps[-1], taken)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what no map of `indices` needs; gives the indices, counted from the front.

        A stage's norm is part of its map, so `prune_norm` has nothing to remove.
        """
        kept, last = feature_take_indices(len(self.stages), indices)
        for name in (f"{part}{i + 1}" for i in range(last + 1, STAGES) for part in ("patch_embed", "block", "norm")):
            setattr(self, name, nn.Identity())
        ended_early = last + 1 < self._stages_kept
        self._stages_kept = last + 1
        if ended_early:
            self.num_features = self.head_hidden_size = int(self.feature_info[last]["num_chs"])
        if prune_head or ended_early:
            self.reset_classifier(0, "")
        return list(kept)

    def get_classifier(self) -> nn.Module:
        """The head: a Linear, or an Identity where num_classes is 0."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a fresh head of `num_classes` (0: none) in place, on the model's device and in its dtype.

        Raises:
            ValueError: for a head without pooling.
        """
        if global_pool is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        if num_classes > 0 and self.global_pool.is_identity():  # type: ignore[operator]
            raise ValueError("a head needs pooled features: global_pool='' goes with num_classes=0 only")
        like = next(self.parameters())
        self.num_classes = num_classes
        self.head_hidden_size = self.num_features * int(self.global_pool.feat_mult())  # type: ignore[operator]
        self.head = nn.Identity()
        if num_classes > 0:
            self.head = nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
            _initialise(self.head)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns by which timm orders the parameters from input to output, for layer-wise learning rates."""
        return {
            "stem": r"^patch_embed1",
            "blocks": r"^(?:patch_embed|block|norm)(\d)"
            if coarse
            else [
                (r"^patch_embed(\d)", (0,)),
                (r"^block(\d)\.(\d+)", None),
                (r"^norm(\d)", (99999,)),
            ],
        }

    def _maps(self, x: Tensor, stages: int | None = None) -> list[Tensor]:
        maps: list[Tensor] = []
        for patch_embed, blocks, norm in self.stages[:stages]:
            # A later stage reads NCHW memory whatever the memory format: the published model copies here.
            x = blocks(patch_embed(maps[-1].contiguous() if maps else x))
            B, C, H, W = x.shape
            tokens = norm(x.flatten(2).transpose(1, 2))
            maps.append(tokens.reshape(B, H, W, C).permute(0, 3, 1, 2))
        return maps


def _initialise(module: nn.Module) -> None:
    """The published initialisation of one layer: convolutions by fan-out, the head by a truncated normal."""
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        fan_out = height * width * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    else:
        return  # norms and layer scales are made with their initial values
    if module.bias is not None:
        nn.init.zeros_(module.bias)


class Size(NamedTuple):
    """One row of the table of sizes: per-stage channels, blocks and MLP ratios."""

    embed_dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    mlp_ratios: tuple[int, int, int, int] = (8, 8, 4, 4)


SIZES = {
    "van_b0": Size((32, 64, 160, 256), (3, 3, 5, 2)),
    "van_b1": Size((64, 128, 320, 512), (2, 2, 4, 2)),
    "van_b2": Size((64, 128, 320, 512), (3, 3, 12, 3)),
    "van_b3": Size((64, 128, 320, 512), (3, 5, 27, 3)),
    "van_b4": Size((64, 128, 320, 512), (3, 6, 40, 3)),
    "van_b5": Size((96, 192, 480, 768), (3, 3, 24, 3)),
    "van_b6": Size((96, 192, 384, 768), (6, 6, 90, 6)),
}

# No address in any of them: a benchmark needs no trained weights, and nothing is ever downloaded.
default_cfgs = generate_default_cfgs(
    {
        name: {
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "first_conv": "patch_embed1.proj",
            "classifier": "head",
        }
        for name in SIZES
    }
)


def _build(name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    model: nn.Module = build_model_with_cfg(
        VAN,
        name,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **{**SIZES[name]._asdict(), **kwargs},
    )
    return model


@register_model
def van_b0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VAN-B0, 4.1 M parameters; keyword arguments as for `VAN` and `timm.create_model`."""
    return _build("van_b0", pretrained, **kwargs)


@register_model
def van_b1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VAN-B1, 13.9 M parameters; keyword arguments as for `VAN` and `timm.create_model`."""
    return _build("van_b1", pretrained, **kwargs)


@register_model
def van_b2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VAN-B2, 26.6 M parameters; keyword arguments as for `VAN` and `timm.create_model`."""
    return _build("van_b2", pretrained, **kwargs)


@register_model
def van_b3(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VAN-B3, 44.8 M parameters; keyword arguments as for `VAN` and `timm.create_model`."""
    return _build("van_b3", pretrained, **kwargs)


@register_model
def van_b4(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VAN-B4, 60.3 M parameters; keyword arguments as for `VAN` and `timm.create_model`."""
    return _build("van_b4", pretrained, **kwargs)


@register_model
def van_b5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VAN-B5, 90.0 M parameters; keyword arguments as for `VAN` and `timm.create_model`."""
    return _build("van_b5", pretrained, **kwargs)


@register_model
def van_b6(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VAN-B6, 199.8 M parameters; keyword arguments as for `VAN` and `timm.create_model`."""
    return _build("van_b6", pretrained, **kwargs)
