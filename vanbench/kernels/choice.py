"""Which implementation serves a depthwise conv fastest on this machine: measured in turns at first use, then kept.

The measurement is short, so only what is faster for certain takes torch's own code's place: `native` stays where
nothing is. It times convs alone, and knows no model.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from vanbench.errors import VanbenchError
from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry, inputs_of
from vanbench.kernels.kept import Kept
from vanbench.spec.names import CUDA_DEPTHWISE

__all__ = ["Choice", "Conv", "WrongKernel", "decided", "fastest", "timed"]

# What is slower than the fastest by this factor at its second call is out of the running; torch's own stays in it.
_HOPELESS = 2.0
# A turn is calls of one implementation in a row, for about so long; laps go on for so long, and until there are enough,
# but of slow calls no longer than the last of these.
_TURN_S = 0.002
_SECONDS = 0.3
_LEAST_LAPS = 8
_MOST_SECONDS = 3.0
# So much faster in the median lap, and faster in three laps of four: else it may be the machine's doing.
_LEAST_GAIN = 1.02
# Relative L2 between two implementations of the same sums, each rounded on its own.
_ALLOWED = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


class WrongKernel(VanbenchError):  # noqa: N818 -- a kernel's fault, not the user's
    """An implementation's answer is not torch's; the message says which and where."""


class Conv(NamedTuple):
    """What the choice depends on. shape: (N, C, H, W) of the input. training: both gradients count as well.

    gelu: an exact GELU follows. device: a type. Threads and machine are those of the process.
    """

    shape: tuple[int, int, int, int]
    geometry: Geometry
    dtype: torch.dtype
    memory_format: torch.memory_format
    training: bool = False
    gelu: bool = False
    device: str = "cpu"

    @property
    def slug(self) -> str:
        """A name for files and people."""
        geometry = self.geometry
        words = ["x".join(map(str, self.shape)), f"k{geometry.kernel_size} d{geometry.dilation} s{geometry.stride}"]
        words += [str(self.dtype).removeprefix("torch."), str(self.memory_format).removeprefix("torch.")]
        return " ".join([*words, *["train"] * self.training, *["gelu"] * self.gelu])


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The word of `IMPLEMENTATIONS`, and its speed over torch's own (1 for native): the median lap's ratio."""

    word: str
    ratio: float


def fastest(conv: Conv) -> Choice:
    """The implementation for this conv: from the user's cache, or measured now and kept there.

    Raises:
        WrongKernel: an implementation's answer is not torch's.
    """
    kept = Kept("depthwise", Choice, conv.device)
    known = kept.find(conv.slug)
    if known is None:
        known = _measured(conv)
        kept.keep(conv.slug, known)
    return known


def _measured(conv: Conv) -> Choice:
    able = [
        word
        for word, each in IMPLEMENTATIONS.items()
        # What a CPU emulates is not timed, even where it can serve; what is special for pairs is not for a conv alone.
        if (conv.device == "cuda" or word not in CUDA_DEPTHWISE)
        and each.forward_pair is None
        and each.why_not(conv.device, conv.geometry, conv.dtype) is None
    ]
    if able == ["native"] or 0 in conv.shape:
        return Choice(word="native", ratio=1.0)
    (first,) = timed(conv, able, 0.0, 1)
    near = [word for word, once in zip(able, first, strict=True) if word == "native" or once <= _HOPELESS * min(first)]
    return decided(near, timed(conv, near, _SECONDS))


def timed(conv: Conv, words: Sequence[str], seconds: float, least_laps: int = _LEAST_LAPS) -> list[list[float]]:
    """Seconds a call of each of `words`, lap by lap, for so many seconds and laps; each answer is checked first.

    Raises:
        WrongKernel: an implementation's answer is not torch's.
    """
    n, c, h, w = conv.shape
    device = torch.device(conv.device)
    tensors = inputs_of(n, c, h, w, conv.geometry, conv.dtype, conv.memory_format, device, 0)
    with torch.enable_grad() if conv.training else torch.inference_mode():
        calls = {word: _call(word, conv, *tensors) for word in ("native", *words)}
        _check(calls, conv)
        counts = [max(1, round(_TURN_S / _seconds(calls[word], 1, conv.device))) for word in words]
        places = list(range(len(words)))
        laps: list[list[float]] = []
        start = perf_counter()
        while (used := perf_counter() - start) < seconds or (len(laps) < least_laps and used < _MOST_SECONDS):
            row = [0.0] * len(words)
            # Every second lap in the opposite order.
            for place in reversed(places) if len(laps) % 2 else places:
                row[place] = _seconds(calls[words[place]], counts[place], conv.device)
            laps.append(row)
    return laps


def decided(words: Sequence[str], laps: Sequence[Sequence[float]]) -> Choice:
    """By laps of seconds a call, as long as `words`, native among them: the fastest of those that gain for certain."""
    native = words.index("native")
    best = Choice(word="native", ratio=1.0)
    for place, word in enumerate(words):
        ratios = sorted(lap[native] / lap[place] for lap in laps)
        ratio = statistics.median(ratios)
        if ratio > max(_LEAST_GAIN, best.ratio) and ratios[len(ratios) // 4] > 1.0:
            best = Choice(word=word, ratio=ratio)
    return best


def _call(word: str, conv: Conv, x: Tensor, w: Tensor, g: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    """What the model would do: the output, or the output's way back to both gradients."""
    served = IMPLEMENTATIONS[word]
    bias = w.new_zeros(w.shape[0])
    if not conv.training:
        if not conv.gelu:
            return lambda: (served.forward(x, w, bias, conv.geometry),)
        fused = served.forward_gelu
        if fused is not None:
            return lambda: (fused(x, w, bias, conv.geometry),)
        return lambda: (F.gelu(served.forward(x, w, bias, conv.geometry)),)
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    return lambda: torch.autograd.grad(served.forward(x, w, bias, conv.geometry), (x, w), g)


def _check(calls: dict[str, Callable[[], tuple[Tensor, ...]]], conv: Conv) -> None:
    """Also each implementation's first call, which compiles, or finds its memory."""
    expected = [each.double() for each in calls["native"]()]
    for word, call in calls.items():
        for got, wanted in zip(call(), expected, strict=True):
            error = float((got.double() - wanted).norm() / wanted.norm())
            if not error <= _ALLOWED[conv.dtype]:
                raise WrongKernel(
                    f"depthwise={word} is wrong for {conv.slug}: it differs from torch's own by {error:.3g} "
                    f"(relative L2, at most {_ALLOWED[conv.dtype]:g} allowed)"
                )


def _seconds(call: Callable[[], tuple[Tensor, ...]], count: int, device: str) -> float:
    """A call's, among `count` in a row."""
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    wait()
    start = perf_counter()
    for _ in range(count):
        call()
    wait()
    return (perf_counter() - start) / count


def _nothing() -> None:
    """A CPU's calls are over when they return."""
