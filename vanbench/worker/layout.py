"""Which memory format the convs of a model really see. A model in channels_last may lose it on the way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["channels_last_share"]


def _says_channels_last(x: Tensor) -> bool | None:
    """True or False by the strides; None where both formats have the same strides (1 channel, 1 pixel)."""
    if x.dim() != 4 or x.shape[1] == 1 or x.shape[2] * x.shape[3] == 1:
        return None
    return x.is_contiguous(memory_format=torch.channels_last)


def channels_last_share(model: nn.Module, run: Callable[[], object]) -> float | None:
    """The share of 2-d convs between others whose input is channels_last while `run()` runs `model`.

    The first conv is left out: its input is the image as it was given. None if no conv can tell.
    """
    seen: list[bool] = []

    def look(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        told = _says_channels_last(inputs[0])
        if told is not None and inputs[0].shape[1] != 3:
            seen.append(told)

    hooks = [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, nn.Conv2d)]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return sum(seen) / len(seen) if seen else None
