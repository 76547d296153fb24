"""Knows a VAN by the names of its parameters, whoever wrote its code, and puts its layers into the network of `van.py`.

The published file, and the copies of it that people keep, have the same parameters under the same names.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from vanbench.models.van import STAGES, VAN

__all__ = ["rewritten"]

# Float64 code that sums in another order differs by some 1e-13; another architecture by far more.
_TOLERANCE = 1e-9
_IMAGE_SIZE = 64


def rewritten(model: nn.Module) -> VAN | None:
    """`van.VAN` holding the very layers and parameters of `model`; None if it is no published VAN.

    Layers (with their epsilons, hooks, types and devices), parameters, drop path and training flags are taken over,
    not copied. A network that has the names but computes something else is left alone: both are run on random images
    in float64 before.
    """
    if isinstance(model, VAN):
        return None
    state = model.state_dict()
    theirs: Any = model
    try:
        blocks = [list(getattr(theirs, f"block{i + 1}").children()) for i in range(STAGES)]
        dims = [stage[0].layer_scale_1.shape[0] for stage in blocks]
        ratios = [stage[0].mlp.fc1.out_channels // dim for stage, dim in zip(blocks, dims, strict=True)]
        channels = theirs.patch_embed1.proj.in_channels
        classes = theirs.head.out_features if isinstance(theirs.head, nn.Linear) else 0
    except (AttributeError, IndexError, TypeError):
        return None
    with torch.device("meta"):
        fresh = VAN(channels, classes, "avg", dims, [len(stage) for stage in blocks], ratios)
    if {name: value.shape for name, value in fresh.state_dict().items()} != {
        name: value.shape for name, value in state.items()
    }:
        return None
    _take_over(fresh, model)
    return fresh if _alike(fresh, model) else None


def _take_over(fresh: VAN, model: nn.Module) -> None:
    theirs = dict(model.named_modules())
    for name, module in list(fresh.named_modules()):
        other = theirs.get(name)
        if other is None:
            continue
        module.training = other.training
        for word, parameter in other.named_parameters(recurse=False):
            setattr(module, word, parameter)
        for word, child in list(module.named_children()):
            found = theirs.get(f"{name}.{word}" if name else word)
            # Layers as they are; drop path too, which is an Identity here where its rate is 0.
            if found is not None and not list(found.children()) and not list(child.children()):
                setattr(module, word, found)


def _alike(fresh: VAN, model: nn.Module) -> bool:
    images = torch.randn(2, fresh.in_chans, _IMAGE_SIZE, _IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    theirs, ours = (_answer(copy.deepcopy(each), images) for each in (model, fresh))
    return (
        theirs is not None
        and ours is not None
        and theirs.shape == ours.shape
        and bool((theirs - ours).norm() <= _TOLERANCE * theirs.norm())
    )


def _answer(model: nn.Module, images: Tensor) -> Tensor | None:
    """The logits in float64; None for a network that does not take such images, or gives something else."""
    try:
        with torch.no_grad():
            got = model.double().eval().cpu()(images.double())
    except Exception:  # someone else's forward
        return None
    return got if isinstance(got, Tensor) else None
