"""A faster way of writing a model that somebody has: the form of its layers, and what serves its depthwise convs.

Decides which layers become what; holds no network and no kernel.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vanbench.errors import unknown
from vanbench.kernels.depthwise import IMPLEMENTATIONS
from vanbench.kernels.geometry import Geometry
from vanbench.models import forms
from vanbench.models.published import rewritten
from vanbench.spec.names import DEPTHWISE, FORMS

__all__ = ["Converted", "DepthwiseConv2d", "convert", "depthwise_convs", "use_depthwise", "use_form"]


class Converted(NamedTuple):
    """model: what computes the same. changes: what was done to it, a line each; empty: nothing was found to change."""

    model: Any
    changes: tuple[str, ...]


def convert(model: nn.Module, form: str = "folded", depthwise: str = "native") -> Converted:
    """A copy of `model` that computes the same function faster; the model itself is left as it is.

    Args:
        model: a VAN, any timm model, or any module that holds such layers.
        form: "reference" (as it is), "lean" (VAN without copies; trains as before) or "folded" (inference only: batch
            norms, layer scales and VAN's inner shortcut in the weights of convolutions; the copy is in eval mode).
        depthwise: what serves depthwise convolutions: "native" (torch), "polyphase" or "cpu"; where it cannot serve
            one, torch does, and the changes say so.

    Returns:
        `Converted(model, changes)`. On bf16 or fp16 models a fold rounds the weights anew: convert first, cast after.

    Raises:
        UserError: for an unknown form or implementation.
    """
    copied = copy.deepcopy(model)
    known = rewritten(copied) if form != "reference" else None
    copied = copied if known is None else known
    dtype = next((parameter.dtype for parameter in copied.parameters()), torch.get_default_dtype())
    changes = use_form(copied, form)
    served = use_depthwise(copied, depthwise, dtype)
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
    served: dict[str, int] = {}
    left: dict[str, int] = {}
    if word == "native":
        return Served(tuple(_left_to_torch(model)), ())
    for conv in depthwise_convs(model).values():
        geometry = geometry_of(conv)
        reason = IMPLEMENTATIONS[word].why_not(conv.weight.device.type, geometry, dtype)
        called = f"{geometry.kernel_size}x{geometry.kernel_size}"
        called += f" dilation {geometry.dilation}" if geometry.dilation > 1 else ""
        if reason is not None:
            line = f"depthwise {called} convolution(s) left to torch: {reason}"
            left[line] = left.get(line, 0) + 1
            continue
        gelu = conv.gelu if isinstance(conv, DepthwiseConv2d) else isinstance(conv, forms.ConvGelu)
        conv.__class__ = DepthwiseConv2d
        conv.gelu = gelu  # type: ignore[assignment]
        conv.implementation = word  # type: ignore[assignment]
        called += " with GELU" if gelu and IMPLEMENTATIONS[word].forward_gelu is not None else ""
        served[called] = served.get(called, 0) + 1
    return Served(
        tuple(f"{count} depthwise {called} convolution(s) served by {word}" for called, count in served.items()),
        tuple(f"{count} {line}" for line, count in left.items()),
    )


def _left_to_torch(model: nn.Module) -> list[str]:
    """Undo what serves depthwise convolutions, in place; gives a line if anything did."""
    served = [conv for conv in depthwise_convs(model).values() if isinstance(conv, DepthwiseConv2d)]
    for conv in served:
        conv.__class__ = forms.ConvGelu if conv.gelu else nn.Conv2d  # type: ignore[assignment]
    return [f"{len(served)} depthwise convolution(s) given back to torch"] if served else []


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
