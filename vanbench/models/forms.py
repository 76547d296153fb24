"""Other ways of writing VAN: the same function of the same image, with less work and fewer copies. Measures nothing.

`lean` has the parameters of the published network under the published names, and trains as it does. `folded` is for
inference: what a batch norm, a layer scale or the inner shortcut does to a channel is done to the weights beforehand.
Which network gets which form is decided in `convert.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vanbench.models.van import VAN, Attention, Block, LargeKernelAttention, PatchEmbed

__all__ = ["ConvGelu", "FoldedBlock", "LeanAttention", "LeanLargeKernelAttention", "LeanVAN", "folded", "lean"]


class LeanLargeKernelAttention(LargeKernelAttention):
    """Without the copy of what is gated."""

    def forward(self, x: Tensor) -> Tensor:
        gate: Tensor = self.conv1(self.conv_spatial(self.conv0(x)))
        return x * gate


class LeanAttention(Attention):
    """Without the copy of the shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x))))
        return y + x


class LeanVAN(VAN):
    """Whose maps stay maps between stages: each is normalised over its channels where it lies.

    Nothing is copied into another memory format, so that a map that came as channels_last goes on so.
    """

    def _maps(self, x: Tensor, stages: int | None = None) -> list[Tensor]:
        maps: list[Tensor] = []
        for patch_embed, blocks, norm in self.stages[:stages]:
            x = blocks(patch_embed(x))
            # Channels come last for the norm by a change of strides.
            x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            maps.append(x)
        return maps


_LEAN: dict[type[nn.Module], type[nn.Module]] = {
    VAN: LeanVAN,
    Attention: LeanAttention,
    LargeKernelAttention: LeanLargeKernelAttention,
}


def lean(model: nn.Module) -> list[str]:
    """Rewrite every VAN in `model`, in place; gives what was changed, a line each.

    Parameters, buffers, hooks, training flags and the names in a state dict stay as they are.
    """
    counts: dict[str, int] = {}
    for module in model.modules():
        fresh = _LEAN.get(type(module))
        if fresh is not None:
            # The class alone changes: a lean module holds exactly what the module had.
            module.__class__ = fresh
            counts[fresh.__name__] = counts.get(fresh.__name__, 0) + 1
    return [
        line
        for name, line in (
            ("LeanVAN", "{} network(s): no copy into another memory format between stages"),
            ("LeanAttention", "{} attention module(s): no copy of the inner shortcut"),
            ("LeanLargeKernelAttention", "{} gate(s): no copy of what is gated"),
        )
        if (count := counts.get(name))
        for line in [line.format(count)]
    ]


class ConvGelu(nn.Conv2d):
    """A convolution and an exact GELU, one module so that one kernel may do both."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d."""
        return F.gelu(super().forward(x))


class FoldedBlock(nn.Module):
    """A block of VAN with its norms, layer scales and inner shortcut in the weights. (B, C, H, W), same shape out.

    With s1, s2 the layer scales and a x + b what the first norm does to a channel of the stream x:
    x + s1 (proj_2(...) + a x + b) is (1 + s1 a) x + proj_2'(...), where proj_2' has its weights times s1, and its bias
    too, plus s1 b. The norms before 1x1 convolutions are part of these: they have no padding that a bias would miss.

    Made from a block in eval mode, of which it keeps nothing; has no training mode.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        attention, mlp = block.attn, block.mlp
        gate = attention.spatial_gating_unit
        weight, bias = _affine(block.norm1)
        scale = block.layer_scale_1.detach().double()
        self.proj_1 = _after_affine(attention.proj_1, *_affine(block.norm1))
        # Modules of any kind from here on: one kernel may serve both.
        self.conv0: nn.Module = copy.deepcopy(gate.conv0)
        self.conv_spatial: nn.Module = copy.deepcopy(gate.conv_spatial)
        self.conv1 = copy.deepcopy(gate.conv1)
        self.proj_2 = _scaled(attention.proj_2, scale, scale * bias)
        stream = (1 + scale * weight).to(block.layer_scale_1)
        self.register_buffer("stream_scale", stream[:, None, None])
        self.fc1 = _after_affine(mlp.fc1, *_affine(block.norm2))
        self.dwconv = copy.deepcopy(mlp.dwconv.dwconv)
        self.dwconv.__class__ = ConvGelu
        self.fc2 = _scaled(mlp.fc2, block.layer_scale_2.detach().double())
        self.requires_grad_(False)
        self.train(False)

    stream_scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        # In place where the memory is the block's own: fresh memory of these sizes costs page faults.
        y = torch.ops.aten.gelu_(self.proj_1(x))
        y = self.conv1(self.conv_spatial(self.conv0(y))).mul_(y)
        x = self.proj_2(y).addcmul_(x, self.stream_scale)
        z: Tensor = self.fc2(self.dwconv(self.fc1(x)))
        return z.add_(x)

    def train(self, mode: bool = True) -> FoldedBlock:
        """Refuses training mode: its batch norms' statistics are part of the weights.

        Raises:
            RuntimeError: for mode=True.
        """
        if mode:
            raise RuntimeError("a folded network is for inference: its batch norms are part of its weights")
        return super().train(False)


def folded(model: nn.Module) -> list[str]:
    """Rewrite every VAN in `model` for inference, in place, in eval mode; gives what was changed, a line each."""
    lines = lean(model)
    # One that is lean already, as after training, is folded all the same; one that is folded has no block left.
    vans = [module for module in model.modules() if isinstance(module, VAN) and _blocks(module)]
    if not vans:
        return lines
    model.eval()
    blocks = norms = 0
    left: list[str] = []
    for van in vans:
        reason = _not_foldable(van)
        if reason is not None:
            left.append(f"a VAN left unfolded: {reason}")
            continue
        for stage in _stage_names(van):
            for name, block in list(getattr(van, f"block{stage}").named_children()):
                setattr(getattr(van, f"block{stage}"), name, FoldedBlock(block))
                blocks += 1
            embed = getattr(van, f"patch_embed{stage}")
            embed.proj, embed.norm = fuse_conv_bn_eval(embed.proj, embed.norm), nn.Identity()
            norms += 1
        van.requires_grad_(False)
    if not blocks:
        return [*lines, *left]
    return [
        *lines[:1],
        f"{blocks} block(s): batch norms, layer scales and the inner shortcut folded into the 1x1 convolutions",
        f"{norms} patch embedding(s): batch norm folded into the convolution",
        *left,
    ]


def _blocks(van: VAN) -> list[Block]:
    return [module for module in van.modules() if isinstance(module, Block)]


def _not_foldable(van: VAN) -> str | None:
    """Why a network of somebody else's making cannot be folded as the published one can, or None."""
    for name, module in van.named_modules():
        if isinstance(module, Block):
            for norm in (module.norm1, module.norm2):
                if not isinstance(norm, _BatchNorm) or norm.running_mean is None:
                    return f"a norm of {name} is no batch norm with running statistics"
            for activation in (module.attn.activation, module.mlp.act):
                if type(activation) is not nn.GELU or activation.approximate != "none":
                    return f"an activation of {name} is {activation}, not the exact GELU"
        if isinstance(module, PatchEmbed) and not isinstance(module.norm, _BatchNorm):
            return f"the norm of {name} is no batch norm"
    return None


def _stage_names(van: VAN) -> Iterable[int]:
    return range(1, len(van.stages) + 1)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(a, b) with norm(x) = a x + b in eval mode, by channel, in float64: rounding comes once, at the end."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.double(), norm.running_var.double()
    a = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        a = a * norm.weight.detach().double()
    b = -mean * a
    if norm.bias is not None:
        b = b + norm.bias.detach().double()
    return a, b


def _after_affine(conv: nn.Conv2d, a: Tensor, b: Tensor) -> nn.Conv2d:
    """A 1x1 convolution that computes conv(a x + b)."""
    weight = conv.weight.detach().double()
    return _like(conv, weight * a[:, None, None], _bias(conv) + weight.sum(dim=(2, 3)) @ b)


def _scaled(conv: nn.Conv2d, scale: Tensor, added: Tensor | float = 0.0) -> nn.Conv2d:
    """A convolution that computes scale * conv(x) + added, by channel."""
    return _like(conv, conv.weight.detach().double() * scale[:, None, None, None], _bias(conv) * scale + added)


def _bias(conv: nn.Conv2d) -> Tensor:
    if conv.bias is None:
        return torch.zeros(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
    return conv.bias.detach().double()


def _like(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """The convolution with other values, of the same type and memory format."""
    fresh = copy.deepcopy(conv)
    fresh.weight = nn.Parameter(torch.empty_like(conv.weight).copy_(weight))
    fresh.bias = nn.Parameter(bias.to(conv.weight.dtype))
    return fresh
