"""What serves a model's depthwise convolutions: torch, an implementation by its word, or for each the fastest.

Holds no kernel; `kernels.depthwise` has the table of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vanbench.errors import unknown
from vanbench.kernels.choice import Choice, Conv, fastest
from vanbench.kernels.depthwise import IMPLEMENTATIONS
from vanbench.kernels.geometry import Geometry
from vanbench.models import forms
from vanbench.spec.names import DEPTHWISE
from vanbench.units import significant

__all__ = [
    "DepthwiseConv2d",
    "DepthwisePair",
    "Served",
    "depthwise_convs",
    "depthwise_words",
    "fastest_depthwise",
    "use_depthwise",
    "use_fastest",
]


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution served by one of `vanbench.kernels.depthwise.IMPLEMENTATIONS`.

    Parameters as of the nn.Conv2d that it was. implementation: the row of the table. gelu: whether a GELU follows.
    """

    implementation: str
    gelu: bool

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (C, H, W), as nn.Conv2d; under autocast in its type."""
        if x.dim() == 3:
            return self.forward(x[None])[0]
        weight, bias = self.weight, self.bias
        device = x.device.type
        if torch.is_autocast_enabled(device) and x.dtype is not torch.float64:
            dtype = torch.get_autocast_dtype(device)
            x, weight = x.to(dtype), weight.to(dtype)
            bias = None if bias is None else bias.to(dtype)
        served = IMPLEMENTATIONS[self.implementation]
        geometry = geometry_of(self)
        if not self.gelu:
            return served.forward(x, weight, bias, geometry)
        if served.forward_gelu is not None:
            return served.forward_gelu(x, weight, bias, geometry)
        return F.gelu(served.forward(x, weight, bias, geometry))

    def extra_repr(self) -> str:
        """With what serves it."""
        said: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{said}, implementation={self.implementation!r}" + (", gelu=True" if self.gelu else "")


class DepthwisePair(nn.Module):
    """Two depthwise convolutions in a row, the 5x5 and the dilated 7x7 of VAN's gate, as one kernel. For inference.

    first, second: the convolutions; implementation: the row of the table that has such a kernel.
    """

    def __init__(self, first: DepthwiseConv2d, second: DepthwiseConv2d) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.implementation = first.implementation

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), same shape out."""
        served = IMPLEMENTATIONS[self.implementation].forward_pair
        assert served is not None
        first, second = self.first, self.second
        device = x.device.type
        if torch.is_autocast_enabled(device):
            y: Tensor = second(first(x))
            return y
        return served(x, first.weight, first.bias, second.weight, second.bias)


def geometry_of(conv: nn.Conv2d) -> Geometry:
    """Of a convolution of `depthwise_convs`."""
    return Geometry(conv.kernel_size[0], conv.dilation[0], conv.stride[0])


def depthwise_convs(model: nn.Module) -> dict[str, nn.Conv2d]:
    """The depthwise convolutions by name: square kernels of more than one tap, with padding that keeps the map."""
    return {
        name: module
        for name, module in model.named_modules()
        if type(module) in (nn.Conv2d, forms.ConvGelu, DepthwiseConv2d) and _is_ours(module)
    }


def _is_ours(conv: nn.Conv2d) -> bool:
    square = all(len(set(each)) == 1 for each in (conv.kernel_size, conv.stride, conv.dilation))
    return (
        square
        and 1 < conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size[0] % 2 == 1
        and conv.kernel_size[0] > 1
        and conv.padding_mode == "zeros"
        and (
            conv.padding == "same"
            if isinstance(conv.padding, str)
            else set(conv.padding) == {geometry_of(conv).padding}
        )
    )


class Served(NamedTuple):
    """Depthwise convolutions that an implementation serves now, and those that it cannot and why; a line each."""

    changes: tuple[str, ...]
    left: tuple[str, ...]


def use_depthwise(model: nn.Module, word: str, dtype: torch.dtype) -> Served:
    """Have an implementation serve the depthwise convolutions of `model`, in place.

    dtype: that they compute in, which under autocast is not the weights'.

    Raises:
        UserError: for an unknown implementation.
    """
    if word not in DEPTHWISE:
        raise unknown("depthwise", word, DEPTHWISE)
    served: Counter[str] = Counter()
    left: Counter[str] = Counter()
    _unpair(model)
    for conv in depthwise_convs(model).values():
        geometry = geometry_of(conv)
        if word == "native":
            served["depthwise convolution(s) given back to torch"] += _serve(conv, word)
            continue
        reason = IMPLEMENTATIONS[word].why_not(conv.weight.device.type, geometry, dtype)
        if reason is None:
            _serve(conv, word)
            gelu = conv.gelu and IMPLEMENTATIONS[word].forward_gelu is not None
            called = _called(geometry) + " with GELU" * bool(gelu)
            served[f"depthwise {called} convolution(s) served by {word}"] += 1
        else:
            left[f"depthwise {_called(geometry)} convolution(s) left to torch: {reason}"] += 1
    if IMPLEMENTATIONS[word].forward_pair is not None:
        pairs = _pair(model)
        served["pair(s) of a 5x5 and a 7x7 dilation 3 in one kernel"] += pairs
        left["pair of convolutions found: only the folded form of VAN has them"] += not pairs
    return Served(_lines(served), _lines(left))


def _pair(model: nn.Module) -> int:
    """Join the two convolutions of each folded gate that are served by the same kernels; gives how many."""
    count = 0
    for block in model.modules():
        if isinstance(block, forms.FoldedBlock):
            first, second = block.conv0, block.conv_spatial
            if not isinstance(first, DepthwiseConv2d) or not isinstance(second, DepthwiseConv2d):
                continue
            if (geometry_of(first), geometry_of(second)) == (Geometry(5), Geometry(7, 3)):
                block.conv0, block.conv_spatial = DepthwisePair(first, second), nn.Identity()
                count += 1
    return count


def _unpair(model: nn.Module) -> None:
    for block in model.modules():
        if isinstance(block, forms.FoldedBlock) and isinstance(block.conv0, DepthwisePair):
            pair = block.conv0
            block.conv0, block.conv_spatial = pair.first, pair.second


def fastest_depthwise(model: nn.Module, example: Tensor, dtype: torch.dtype) -> dict[str, Choice]:
    """The fastest implementation for each depthwise convolution, by name, at the sizes that the example gives it.

    Measured on this machine the first time, then remembered; of a model in training mode forward and both gradients
    together. The model is run once, in eval mode, and left as it was. dtype: as in `use_depthwise`.
    """
    _unpair(model)
    convs = depthwise_convs(model)
    names: dict[nn.Module, str] = {conv: name for name, conv in convs.items()}
    learns = model.training
    seen: dict[str, Conv] = {}

    def look(conv: nn.Module, inputs: tuple[Any, ...]) -> None:
        x, name = inputs[0], names[conv]
        if x.dim() == 4 and name not in seen:
            seen[name] = Conv(
                shape=tuple(x.shape),
                geometry=geometry_of(convs[name]),
                dtype=dtype,
                memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last,
                training=learns,
                gelu=_has_gelu(convs[name]) and not learns,
                device=x.device.type,
            )

    hooks = [conv.register_forward_pre_hook(look) for conv in convs.values()]
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    return {name: fastest(conv) for name, conv in seen.items()}


def use_fastest(model: nn.Module, choices: Mapping[str, Choice]) -> Served:
    """Have each depthwise convolution served as `choices` says by its name, in place; the others are torch's."""
    convs = depthwise_convs(model)
    ratios: dict[tuple[str, str], list[float]] = {}
    for name, conv in convs.items():
        word = choices[name].word if name in choices else "native"
        _serve(conv, word)
        if name in choices:
            ratios.setdefault((_called(geometry_of(conv)), word), []).append(choices[name].ratio)
    return Served(
        tuple(
            f"{len(each)} depthwise {called} convolution(s) served by {word}, alone {_range(each)} times as fast"
            for (called, word), each in ratios.items()
            if word != "native"
        ),
        tuple(
            f"{len(each)} depthwise {called} convolution(s) left to torch: nothing here is faster for certain"
            for (called, word), each in ratios.items()
            if word == "native"
        ),
    )


def depthwise_words(model: nn.Module) -> dict[str, int]:
    """How many depthwise convolutions each implementation serves, those of torch's own under native."""
    return dict(Counter(getattr(conv, "implementation", "native") for conv in depthwise_convs(model).values()))


def _serve(conv: nn.Conv2d, word: str) -> bool:
    """Whether anything was changed."""
    gelu = _has_gelu(conv)
    if word == "native":
        served = isinstance(conv, DepthwiseConv2d)
        conv.__class__ = forms.ConvGelu if gelu else nn.Conv2d
        conv.__dict__.pop("implementation", None)
        return served
    conv.__class__ = DepthwiseConv2d
    conv.gelu = gelu  # type: ignore[assignment]
    conv.implementation = word  # type: ignore[assignment]
    return True


def _has_gelu(conv: nn.Conv2d) -> bool:
    return bool(conv.gelu) if isinstance(conv, DepthwiseConv2d) else isinstance(conv, forms.ConvGelu)


def _called(geometry: Geometry) -> str:
    """A kernel's size for people."""
    return f"{geometry.kernel_size}x{geometry.kernel_size}" + (
        f" dilation {geometry.dilation}" if geometry.dilation > 1 else ""
    )


def _lines(counted: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} {line}" for line, count in counted.items() if count)


def _range(ratios: Sequence[float]) -> str:
    ends = [significant(each, 2) for each in (min(ratios), max(ratios))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
