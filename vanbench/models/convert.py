"""A faster way of writing a model that somebody has: the form of its layers, and what serves its depthwise convs.

Decides which layers become what; holds no network and no kernel.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vanbench.errors import UserError, unknown
from vanbench.models import forms
from vanbench.models.published import rewritten
from vanbench.models.serve import fastest_depthwise, use_depthwise, use_fastest
from vanbench.spec.names import AUTO, DEPTHWISE, FORMS

__all__ = ["Converted", "convert", "use_form"]


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
