"""A faster way of writing a model that somebody has: the form of its layers, and what serves its depthwise convs.

Decides which layers become what; holds no network and no kernel.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vanbench.errors import UserError, unknown
from vanbench.kernels.choice import Choice, Conv, fastest
from vanbench.kernels.depthwise import IMPLEMENTATIONS
from vanbench.kernels.geometry import Geometry
from vanbench.models import forms
from vanbench.models.published import rewritten
from vanbench.spec.names import AUTO, DEPTHWISE, FORMS
from vanbench.units import significant

__all__ = [
    "Converted",
    "DepthwiseConv2d",
    "convert",
    "depthwise_convs",
    "depthwise_words",
    "fastest_depthwise",
    "use_depthwise",
    "use_fastest",
    "use_form",
]


class Converted(NamedTuple):
    """model: what computes the same. changes: what was done to it, a line each; empty: nothing was found to change."""

    model: Any
    changes: tuple[str, ...]


def convert(
    model: nn.Module, form: str = "folded", depthwise: str = "native", example: Tensor | None = None
) -> Converted:
    """A copy of `model` that computes the same function faster; the model itself is left as it is.

    Args:
        model: a VAN, any timm model, or any module that holds such layers.
        form: "reference" (as it is), "lean" (VAN without copies; trains as before) or "folded" (inference only: batch
            norms, layer scales and VAN's inner shortcut in the weights of convolutions; the copy is in eval mode).
        depthwise: what serves depthwise convolutions: "native" (torch), "polyphase" or "cpu"; where it cannot serve
            one, torch does, and the changes say so. "auto": for each the fastest, by a short measurement on this
            machine at the example's size, which is kept for the next time.
        example: images (N, C, H, W) as the model will be given them, in their type and memory format; for "auto".

    Returns:
        `Converted(model, changes)`. On bf16 or fp16 models a fold rounds the weights anew: convert first, cast after.

    Raises:
        UserError: for an unknown form or implementation, and for "auto" without an example.
    """
    if depthwise not in (*DEPTHWISE, AUTO):
        raise unknown("depthwise", depthwise, (*DEPTHWISE, AUTO))
    copied = copy.deepcopy(model)
    known = rewritten(copied) if form != "reference" else None
    copied = copied if known is None else known
    dtype = next((parameter.dtype for parameter in copied.parameters()), torch.get_default_dtype())
    changes = use_form(copied, form)
    if depthwise != AUTO:
        served = use_depthwise(copied, depthwise, dtype)
    elif example is None:
        raise UserError('depthwise="auto" goes by the size of maps: give example=images as the model will get them')
    else:
        served = use_fastest(copied, fastest_depthwise(copied, example, dtype))
    return Converted(copied, (*changes, *served.changes, *served.left))


def use_form(model: nn.Module, form: str) -> list[str]:
    """Write `model` in another form, in place; gives what was changed, a line each: none if nothing was.

    Raises:
        UserError: for an unknown form.
    """
    if form not in FORMS:
        raise unknown("form", form, FORMS)
    if form == "lean":
        return forms.lean(model)
    if form == "folded":
        changes = [*forms.folded(model), *_fold_layer_scales(model)]
        return [*changes, *_fold_batch_norms(model)]
    return []


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
    return Served(_lines(served), _lines(left))


def fastest_depthwise(model: nn.Module, example: Tensor, dtype: torch.dtype) -> dict[str, Choice]:
    """The fastest implementation for each depthwise convolution, by name, at the sizes that the example gives it.

    Measured on this machine the first time, then remembered; of a model in training mode forward and both gradients
    together. The model is run once, in eval mode, and left as it was. dtype: as in `use_depthwise`.
    """
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


# --- folding ----------------------------------------------------------------------------------------------------------


def _fold_layer_scales(model: nn.Module) -> list[str]:
    """ConvNeXt's: gamma * fc2(x) is a layer whose weights are scaled."""
    count = 0
    for block in model.modules():
        if isinstance(block, ConvNeXtBlock) and block.gamma is not None:
            layer, gamma = block.mlp.fc2, block.gamma.detach().double()
            with torch.no_grad():
                layer.weight.copy_(layer.weight.double() * gamma.reshape(-1, *[1] * (layer.weight.dim() - 1)))
                if layer.bias is not None:
                    layer.bias.copy_(layer.bias.double() * gamma)
            block.gamma = None
            count += 1
    return [f"{count} layer scale(s) folded into the layer before"] if count else []


def _fold_batch_norms(model: nn.Module) -> list[str]:
    """Each batch norm that alone reads a convolution goes into it; what reads what is found by tracing."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return []
    model.eval()
    try:
        graph = fx.symbolic_trace(model)
    except Exception as error:  # someone else's forward: whatever it raises means that it cannot be traced
        first = (str(error).strip().splitlines() or [""])[0]
        return [f"{len(norms)} batch norm(s) left: torch.fx cannot trace the model: {first}"]
    called: dict[str, int] = {}
    for node in graph.graph.nodes:
        if node.op == "call_module":
            called[node.target] = called.get(node.target, 0) + 1
    # What reads a layer's weights itself would see others after a fold.
    read = {node.target.rpartition(".")[0] for node in graph.graph.nodes if node.op == "get_attr"}
    modules = dict(model.named_modules())
    folded = 0
    for node in graph.graph.nodes:
        if node.op != "call_module" or type(modules.get(node.target)) is not nn.BatchNorm2d:
            continue
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or source.target in read:
            continue
        conv = str(source.target)
        if not isinstance(modules[conv], nn.Conv2d):
            continue
        norm = modules[node.target]
        if len(source.users) > 1 or called[conv] > 1 or called[node.target] > 1 or norm.running_mean is None:
            continue
        _replace(model, conv, fuse_conv_bn_eval(modules[conv], norm))
        _replace(model, node.target, nn.Identity())
        folded += 1
    lines = [f"{folded} batch norm(s) folded into the convolution before"] if folded else []
    left = len(norms) - folded
    return [*lines, f"{left} batch norm(s) left: none follows a convolution alone"] if left else lines


def _replace(model: nn.Module, name: str, fresh: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, fresh)


# --- depthwise convolutions -------------------------------------------------------------------------------------------


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
