"""A CPU's roofs, visit by visit: streams and multiply-adds in C where there is a compiler, torch's own operations."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import psutil
import torch
from torch import Tensor
from torch.nn import functional as F

from vanbench.kernels import roofs
from vanbench.kernels.compiled import NoCompiler
from vanbench.worker import precision
from vanbench.worker.visit import Place, Visit

__all__ = ["visits"]

_SMALLEST_BYTES = 32 << 10
_LARGEST_BYTES = 2 << 30
_LONG_BYTES = 128 << 20
# A visit's repetitions: long enough for the clock, short enough that many fit between two of the machine's moods.
_REPEAT_S = 0.002
_REPEATS = 6
# Below this, a stream by torch shows what it costs to call torch.
_TORCH_FROM_BYTES = 1 << 20
# Stores past the caches cannot pay where the arrays stay in a core's own.
_BYPASS_FROM_BYTES = 4 << 20
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SIDES = (1024, 2048)
_CONVS = ((3, 256, 28), (1, 512, 28))  # kernel, channels in and out, pixels; batch 8


def visits(threads: int, largest: int = _LARGEST_BYTES) -> tuple[list[Visit], list[str]]:
    """Every visit for so many threads, and notes on what could not be looked at. Answers have been checked.

    largest: bytes of the largest stream, at most an eighth of what is free.
    """
    made: list[Visit] = []
    notes: list[str] = []
    arrays = _Arrays(min(largest, psutil.virtual_memory().available // 8))
    try:
        roofs.flops_of_a_pass("fp32")
        compiled = True
    except NoCompiler as reason:
        compiled = False
        notes.append(f"{reason}: streams are torch's own, and no multiply-add loop was measured")
    sizes = arrays.sizes()
    if compiled:
        arrays.check_compiled(threads)
        for size in sizes:
            for kind in roofs.KINDS:
                made.append(arrays.compiled(kind, size, threads, bypass=False))
                if kind not in ("read", "update") and size >= _BYPASS_FROM_BYTES:
                    made.append(arrays.compiled(kind, size, threads, bypass=True))
        for word in roofs.PRECISIONS:
            made += _multiply_adds(word, threads)
    arrays.check_torch()
    for size in sizes:
        if size >= _TORCH_FROM_BYTES or not compiled:
            made += arrays.torch_streams(size)
    for word, dtype in _DTYPES.items():
        reason_not = precision.unsupported(word, torch.device("cpu"))
        if reason_not is not None:
            notes.append(f"no matrix roof in {word}: {reason_not}")
            continue
        products = _products(word, dtype)
        made += products
        if not compiled:
            # Without a loop of multiply-adds: a product of fp32 matrices runs on the same units.
            made += [Visit(Place("vector", word), visit.how, visit.run) for visit in products]
    made.append(_launch())
    return made, notes


class _Arrays:
    """Three fp32 arrays that the streams of all sizes share: a and c of `largest` bytes, b of half of it."""

    def __init__(self, largest: int) -> None:
        self._largest = max(_SMALLEST_BYTES, largest)
        # 64-byte aligned: torch's allocator does that.
        self.a = torch.empty(self._largest // 4)
        self.b = torch.empty(self._largest // 8)
        self.c = torch.empty(self._largest // 4)
        self._rate = 50e9  # bytes/s, a first guess of how long a pass takes; each visit knows better

    def sizes(self) -> list[int]:
        """Powers of two from the first cache on; of four where a pass is long, so that more visits fit."""
        count = (self._largest // _SMALLEST_BYTES).bit_length()
        sizes = [_SMALLEST_BYTES << i for i in range(count)]
        return [
            size for size in sizes if size <= _LONG_BYTES or (size.bit_length() - _LONG_BYTES.bit_length()) % 2 == 0
        ]

    def check_compiled(self, threads: int) -> None:
        """Fill the arrays, and compare every compiled kernel's answer with torch's, with and without bypass."""
        for array, value in ((self.a, 1.0), (self.b, 2.0), (self.c, 0.0)):
            roofs.fill(array, value, threads)
        length = 128 * threads * 16
        for kind in roofs.KINDS:
            for bypass in (False, True):
                self.c[:length] = -1.0
                roofs.stream(kind, self.a, self.b, self.c, length, bypass=bypass, inner=1, repeats=1, threads=threads)
                if kind != "read":
                    _same(kind, self.c[:length], self._answer(kind, length))

    def check_torch(self) -> None:
        """The same for torch's own operations."""
        self.a.fill_(1.0)
        self.b.fill_(2.0)
        for kind, call in self._torch_calls(4096).items():
            self.c[:4096] = -1.0
            call()
            if kind != "read":
                expected = torch.ones(4096) if kind == "update" else self._answer(kind, 4096)  # torch's only negates
                _same(kind, self.c[:4096], expected)

    def _answer(self, kind: str, length: int) -> Tensor:
        a, b = self.a[:length], self.b[:length]
        return {"copy": a, "add": a + b, "triad": a + 3.0 * b, "update": torch.full_like(a, 4.0)}[kind]

    def compiled(self, kind: str, size: int, threads: int, *, bypass: bool) -> Visit:
        """A visit of a compiled stream."""
        length = size // 4 // roofs.KINDS[kind]
        known = [size / self._rate]

        def run() -> float:
            inner = max(1, round(_REPEAT_S / known[0]))
            seconds, bytes_a_pass = roofs.stream(
                kind,
                self.a,
                self.b,
                self.c,
                length,
                bypass=bypass,
                inner=inner,
                repeats=_repeats(known[0] * inner),
                threads=threads,
            )
            known[0] = min(seconds) / inner
            return bytes_a_pass * inner / min(seconds)

        return Visit(Place("stream", kind, size), "C, stores past the caches" if bypass else "C", run)

    def _torch_calls(self, length: int) -> dict[str, Callable[[], object]]:
        a, b, c = self.a[:length], self.b[:length], self.c[:length]
        return {
            "read": lambda: torch.sum(a),
            "copy": lambda: c.copy_(a),
            "add": lambda: torch.add(a, b, out=c),
            "triad": lambda: torch.add(a, b, alpha=3.0, out=c),
            "update": c.neg_,
        }

    def torch_streams(self, size: int) -> list[Visit]:
        """Visits of torch's own streams of one size."""
        made = []
        for kind, arrays in roofs.KINDS.items():
            length = size // 4 // arrays
            call = self._torch_calls(length)[kind]
            made.append(
                Visit(Place("stream", kind, size), f"torch {kind}", _rate_of(call, 4 * length * roofs.MOVED[kind]))
            )
        return made


def _same(kind: str, got: Tensor, expected: Tensor) -> None:
    if not torch.equal(got, expected):
        raise ArithmeticError(f"{kind}: the stream gave a wrong answer")


def _repeats(seconds: float) -> int:
    """How often within a visit: six times, less often where one repetition takes long."""
    return max(2, min(_REPEATS, round(6 * _REPEAT_S / seconds)))


def _rate_of(call: Callable[[], object], amount: float) -> Callable[[], float]:
    """A visit's function: the best of a few repetitions of enough calls each."""
    known = [0.0]

    def run() -> float:
        if not known[0]:
            known[0] = _seconds(call, 1)
        inner = max(1, round(_REPEAT_S / known[0]))
        best = min(_seconds(call, inner) for _ in range(_repeats(known[0] * inner)))
        known[0] = best / inner
        return amount / known[0]

    return run


def _seconds(call: Callable[[], object], count: int) -> float:
    with torch.inference_mode():
        start = time.perf_counter()
        for _ in range(count):
            call()
        return time.perf_counter() - start


def _multiply_adds(word: str, threads: int) -> list[Visit]:
    """Visits of a precision's vector roof. What is widened to fp32 runs at fp32's rate, so that counts for all."""
    ways = [("fp32", "multiply-adds in fp32 registers" + ("" if word == "fp32" else ", widened"))]
    if word == "bf16" and roofs.flops_of_a_pass(word):
        ways.append((word, "sums of two bf16 products in registers"))
    elif word != "fp32" and roofs.flops_of_a_pass(word):
        ways.append((word, f"multiply-adds in {word} registers"))

    def visit(by: str, how: str) -> Visit:
        flops = roofs.flops_of_a_pass(by)
        known = [flops / 1e11]

        def run() -> float:
            inner = max(1, round(_REPEAT_S / known[0]))
            seconds = min(roofs.multiply_adds(by, inner=inner, repeats=_REPEATS, threads=threads))
            known[0] = seconds / inner
            return flops * threads / known[0]

        return Visit(Place("vector", word), how, run)

    return [visit(by, how) for by, how in ways]


def _products(word: str, dtype: torch.dtype) -> list[Visit]:
    """Visits of a precision's matrix roof: products of square matrices, and dense convolutions, the library's best."""
    made = []
    for side in _SIDES:
        a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
        _check_product(word, torch.mm(a, b), a, b)
        made.append(Visit(Place("matrix", word), f"torch.mm {side}", _rate_of(partial(torch.mm, a, b), 2.0 * side**3)))
    for kernel, channels, pixels in _CONVS:
        x = torch.randn(8, channels, pixels, pixels).to(dtype=dtype, memory_format=torch.channels_last)
        w = torch.randn(channels, channels, kernel, kernel).to(dtype=dtype, memory_format=torch.channels_last)
        # Taps that lie outside the image cost nothing, and are not counted: no padding.
        flops = 2.0 * 8 * channels**2 * kernel**2 * (pixels - kernel + 1) ** 2
        made.append(
            Visit(
                Place("matrix", word),
                f"conv2d {kernel}x{kernel}, {channels} channels, channels_last",
                _rate_of(partial(F.conv2d, x, w), flops),
            )
        )
    return made


def _check_product(word: str, got: Tensor, a: Tensor, b: Tensor) -> None:
    """Four rows against float64: a product of numbers of order 1 in this precision is no further off than this."""
    expected = a[:4].double() @ b.double()
    error = float((got[:4].double() - expected).norm() / expected.norm())
    allowed = {"fp32": 1e-5, "bf16": 1e-2, "fp16": 2e-3}[word]
    if not error < allowed:
        raise ArithmeticError(f"the product of matrices in {word} is off by {error:.2g}")


def _launch() -> Visit:
    """The least time of one operation more: a call of torch on a single number."""
    one = torch.zeros(1)
    seconds_of = _rate_of(one.neg_, 1.0)
    return Visit(Place("launch"), "torch neg_ of one number", lambda: 1.0 / seconds_of())
