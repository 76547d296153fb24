"""Depthwise kernels as operators of torch: checked arguments, shapes without data, gradients. Holds no kernel.

An implementation's three passes become `vanbench::depthwise_<word>`, `..._grad_input` and `..._grad_weight`, which
autograd, torch.compile (without a graph break) and whoever counts the cost of a convolution know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vanbench.kernels.geometry import Geometry

__all__ = [
    "KERNEL_SIZES",
    "Operators",
    "Passes",
    "inference_operator",
    "memory_format",
    "operators",
    "override",
    "stencil_passes",
    "why_no_geometry",
]

KERNEL_SIZES = (3, 5, 7)
_NAMESPACE = "vanbench"


class Passes(NamedTuple):
    """What an implementation computes of maps (N, C, H, W) and weights (C, 1, k, k), stride 1, size kept.

    forward(x, w, bias, dilation, gelu) -> like x; grad_input(g, w, dilation) -> like g; grad_weight(g, x, w, dilation)
    -> like w. "like": shape, type and memory format. They are given checked arguments, and any strides.
    """

    forward: Callable[[Tensor, Tensor, Tensor | None, int, bool], Tensor]
    grad_input: Callable[[Tensor, Tensor, int], Tensor]
    grad_weight: Callable[[Tensor, Tensor, Tensor, int], Tensor]


def stencil_passes(stencil: Callable[..., Tensor], weight_sums: Callable[..., Tensor]) -> Passes:
    """Of a kernel whose input gradient is its forward pass with the taps in opposite order.

    stencil(x, w, bias, dilation, turned=, gelu=); weight_sums(g, x, w, dilation).
    """
    return Passes(
        forward=lambda x, w, bias, dilation, gelu: stencil(x, w, bias, dilation, turned=False, gelu=gelu),
        grad_input=lambda g, w, dilation: stencil(g, w, None, dilation, turned=True, gelu=False),
        grad_weight=weight_sums,
    )


class Operators(NamedTuple):
    """As `depthwise.Implementation` has them; forward is differentiable, forward_gelu is for inference."""

    forward: Callable[[Tensor, Tensor, Tensor | None, Geometry], Tensor]
    forward_gelu: Callable[[Tensor, Tensor, Tensor | None, Geometry], Tensor]
    grad_input: Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]
    grad_weight: Callable[[Tensor, Tensor, Tensor, Geometry], Tensor]


def why_no_geometry(word: str, geometry: Geometry, sizes: Sequence[int] = KERNEL_SIZES) -> str | None:
    """Why the implementation `word`, which has these kernel sizes and stride 1, has no such conv; or None."""
    if geometry.kernel_size not in sizes:
        listed = f"{', '.join(map(str, sizes[:-1]))} and {sizes[-1]}"
        return f"depthwise={word} has kernels of {listed}: this one has {geometry.kernel_size}"
    if geometry.stride != 1:
        return f"depthwise={word} is for stride 1: this one has {geometry.stride}"
    return None


def memory_format(x: Tensor) -> torch.memory_format:
    """channels_last for what is that and nothing else; a map that is both, as with one channel, is contiguous."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


# Defined through the library rather than by `custom_op`, whose wrapper costs as much as a small map's kernel. Arguments
# are called as aten's, and padding and groups are among them although they follow from the rest, so that whoever counts
# the cost of a convolution can count these.
_LIBRARY: Any = torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
_CONV = "int padding, int dilation, int groups"


def operators(
    word: str,
    keys: Sequence[str],
    passes: Passes,
    dtypes: Sequence[torch.dtype],
    sizes: Sequence[int] | None = KERNEL_SIZES,
    gelu: bool = True,
) -> Operators:
    """Define the operators of the implementation `word`, once a process, for devices by torch's dispatch keys.

    dtypes: that it computes in. sizes: of kernels; None: any odd one. gelu: whether it has a GELU epilogue.
    """
    name = f"depthwise_{word}"
    epilogue = ", bool gelu=False" if gelu else ""
    _LIBRARY.define(f"{name}(Tensor input, Tensor weight, Tensor? bias, {_CONV}{epilogue}) -> Tensor")
    _LIBRARY.define(f"{name}_grad_input(Tensor grad_output, Tensor weight, {_CONV}) -> Tensor")
    _LIBRARY.define(f"{name}_grad_weight(Tensor grad_output, Tensor input, Tensor weight, {_CONV}) -> Tensor")
    check = _checker(tuple(dtypes), None if sizes is None else tuple(sizes))

    def forward(
        x: Tensor, w: Tensor, bias: Tensor | None, padding: int, dilation: int, groups: int, gelu: bool = False
    ) -> Tensor:
        check(x.shape, w.shape, (x.dtype, w.dtype), padding, dilation, groups)
        if bias is not None and (bias.shape != (groups,) or bias.dtype is not x.dtype):
            said = f"{_told(bias.dtype, bias.shape)} does not go with input {_told(x.dtype, x.shape)}"
            raise ValueError(f"bias {said}")
        return passes.forward(x, w, bias, dilation, gelu)

    def grad_input(g: Tensor, w: Tensor, padding: int, dilation: int, groups: int) -> Tensor:
        check(g.shape, w.shape, (g.dtype, w.dtype), padding, dilation, groups)
        return passes.grad_input(g, w, dilation)

    def grad_weight(g: Tensor, x: Tensor, w: Tensor, padding: int, dilation: int, groups: int) -> Tensor:
        check(x.shape, w.shape, (x.dtype, w.dtype), padding, dilation, groups)
        if g.shape != x.shape or g.dtype is not x.dtype:
            said = f"{_told(g.dtype, g.shape)}, the input {_told(x.dtype, x.shape)}"
            raise ValueError(f"the output's gradient is {said}: they must be alike")
        return passes.grad_weight(g, x, w, dilation)

    for key in keys:
        for suffix, function in (("", forward), ("_grad_input", grad_input), ("_grad_weight", grad_weight)):
            _LIBRARY.impl(name + suffix, function, key)
    for suffix, fake in (("", _like_first), ("_grad_input", _like_first), ("_grad_weight", _like_weight)):
        torch.library.register_fake(f"{_NAMESPACE}::{name}{suffix}", fake)
    _define_gradients(name)
    return _calls(name)


def inference_operator(name: str, arguments: str, keys: Sequence[str], function: Callable[..., Tensor]) -> Any:
    """Define an operator whose answer is like its first argument, and which has no gradient."""
    _LIBRARY.define(f"{name}({arguments}) -> Tensor")
    for key in keys:
        _LIBRARY.impl(name, function, key)
    torch.library.register_fake(f"{_NAMESPACE}::{name}", _like_first)

    def backward(ctx: Any, g: Tensor) -> None:
        raise RuntimeError(f"{name} is for inference: it keeps no map before its last step")

    torch.library.register_autograd(f"{_NAMESPACE}::{name}", backward)
    return getattr(torch.ops.vanbench, name).default


def override(name: str, function: Callable[..., Tensor], key: str) -> None:
    """Put another function in a pass's place, as a test that plants a fault does. name: without the namespace."""
    _LIBRARY.impl(name, function, key, allow_override=True)


def _calls(name: str) -> Operators:
    whole, of_input, of_weight = (
        getattr(torch.ops.vanbench, name + suffix).default for suffix in ("", "_grad_input", "_grad_weight")
    )

    def forward(x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        y: Tensor = whole(x, w, bias, geometry.padding, geometry.dilation, x.shape[1])
        return y

    def forward_gelu(x: Tensor, w: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        y: Tensor = whole(x, w, bias, geometry.padding, geometry.dilation, x.shape[1], True)
        return y

    def grad_input(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        y: Tensor = of_input(g, w, geometry.padding, geometry.dilation, x.shape[1])
        return y

    def grad_weight(g: Tensor, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        y: Tensor = of_weight(g, x, w, geometry.padding, geometry.dilation, x.shape[1])
        return y

    return Operators(forward, forward_gelu, grad_input, grad_weight)


def _define_gradients(name: str) -> None:
    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, w, bias, *rest = inputs
        ctx.geometry, ctx.count = rest[:3], len(inputs)
        ctx.biased = bias is not None
        ctx.gelu = any(rest[3:])
        ctx.save_for_backward(x, w)

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gelu:
            raise RuntimeError(f"{name} with gelu=True is for inference: it keeps no map before the GELU")
        x, w = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        library = torch.ops.vanbench
        return (
            getattr(library, f"{name}_grad_input")(g, w, *ctx.geometry) if wanted[0] else None,
            getattr(library, f"{name}_grad_weight")(g, x, w, *ctx.geometry) if wanted[1] else None,
            g.sum(dim=(0, 2, 3)) if ctx.biased and wanted[2] else None,
            *[None] * (ctx.count - 3),
        )

    torch.library.register_autograd(f"{_NAMESPACE}::{name}", backward, setup_context=remember)


def _like_first(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x, memory_format=memory_format(x))


def _like_weight(g: Tensor, x: Tensor, w: Tensor, *rest: Any) -> Tensor:
    return w.new_empty(w.shape)


def _checker(dtypes: tuple[torch.dtype, ...], sizes: tuple[int, ...] | None) -> Callable[..., None]:
    """Kernels read memory as they are told: what they are told must be so."""

    @lru_cache(maxsize=4096)
    def check(
        x: torch.Size, w: torch.Size, types: tuple[torch.dtype, torch.dtype], padding: int, dilation: int, groups: int
    ) -> None:
        kernel = w[-1] if w else 0
        channels = x[1] if len(x) == 4 else None
        if channels is None or w != (channels, 1, kernel, kernel) or groups != channels:
            raise ValueError(
                f"not a depthwise conv: input {_told(types[0], x)}, weight {_told(types[1], w)}, {groups} groups"
            )
        known = kernel % 2 == 1 if sizes is None else kernel in sizes
        if not known or dilation < 1 or padding != dilation * (kernel - 1) // 2:
            raise ValueError(f"no kernel for size {kernel}, dilation {dilation}, padding {padding}")
        if types[0] not in dtypes or types[1] is not types[0]:
            raise ValueError(f"no kernel for input {_told(types[0], x)} and weight {_told(types[1], w)}")

    return check


def _told(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
