"""Models that differ from VAN in one thing, and gates alone, for sweeps to name as `experiments.variants:NAME`.

Why: a question about a part of a model is answered by a model without it; where the function changes it says so.
How long: it measures nothing; the sweeps that name these say how long they take.
Command: vanbench run experiments/inner_shortcut.toml, token_round_trip.toml or decomposition.toml, from the root.
Columns: none of its own.
"""

from __future__ import annotations

import timm
from torch import Tensor, nn
from torch.nn import functional as F

import vanbench.models  # noqa: F401 -- registers VAN with timm
from vanbench.models.forms import LeanAttention, LeanLargeKernelAttention, LeanVAN
from vanbench.models.van import Attention, LargeKernelAttention

__all__ = [
    "attention_gates",
    "dense_gates",
    "gates",
    "van_b0_without_clones",
    "van_b0_without_shortcut",
    "van_b0_without_tokens",
    "whole_depthwise_gates",
]

WIDTH, GATES, KERNEL, HEADS = 64, 4, 21, 1


def _van_b0() -> nn.Module:
    model: nn.Module = timm.create_model("van_b0")
    return model


def van_b0_without_tokens() -> nn.Module:
    """The same function: maps stay maps between stages, normalised over their channels where they lie."""
    model = _van_b0()
    model.__class__ = LeanVAN
    return model


def van_b0_without_clones() -> nn.Module:
    """The same function, without the copies of the gate's input and of the inner shortcut."""
    model = _van_b0()
    for module in model.modules():
        if type(module) is Attention:
            module.__class__ = LeanAttention
        elif type(module) is LargeKernelAttention:
            module.__class__ = LeanLargeKernelAttention
    return model


class _NoShortcut(Attention):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x))))
        return y


def van_b0_without_shortcut() -> nn.Module:
    """Another function: no inner shortcut, and none of the clones."""
    model = van_b0_without_clones()
    for module in model.modules():
        if isinstance(module, LeanAttention):
            module.__class__ = _NoShortcut  # type: ignore[assignment]
    return model


# --- gates alone ------------------------------------------------------------------------------------------------------


class _Gated(nn.Module):
    """x times a gate of x."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.gate(x)
        return y


class _SelfAttention(nn.Module):
    """Every pixel a token; (B, C, H, W), same shape out."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(WIDTH, 3 * WIDTH, 1)
        self.proj = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(x).flatten(2).transpose(1, 2).reshape(b, h * w, 3, HEADS, c // HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h, w, c).permute(0, 3, 1, 2)
        y: Tensor = self.proj(mixed)
        return y


class _Gates(nn.Module):
    """Four layers of one kind, each on a shortcut, between a 1x1 convolution from the image and a linear head."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 1)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer(x)
        y: Tensor = self.head(x.mean(dim=(2, 3)))
        return y


def gates() -> nn.Module:
    """VAN's: 5x5 and dilated 7x7 depthwise, then 1x1; times the input."""
    return _Gates([LeanLargeKernelAttention(WIDTH) for _ in range(GATES)])


def whole_depthwise_gates() -> nn.Module:
    """A 21x21 depthwise convolution and a 1x1; times the input."""

    def gate() -> nn.Module:
        whole = nn.Conv2d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2, groups=WIDTH)
        return _Gated(nn.Sequential(whole, nn.Conv2d(WIDTH, WIDTH, 1)))

    return _Gates([gate() for _ in range(GATES)])


def dense_gates() -> nn.Module:
    """A dense 21x21 convolution; times the input."""
    return _Gates([_Gated(nn.Conv2d(WIDTH, WIDTH, KERNEL, padding=KERNEL // 2)) for _ in range(GATES)])


def attention_gates() -> nn.Module:
    """Self-attention over all pixels, of the same width, with one head."""
    return _Gates([_SelfAttention() for _ in range(GATES)])
