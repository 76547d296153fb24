"""A GPU's roofs, visit by visit: Triton streams and multiply-adds, torch's own operations, launches in a CUDA graph."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vanbench.worker import precision
from vanbench.worker.visit import Place, Visit

__all__ = ["visits"]

_SMALLEST_BYTES = 1 << 20
_LARGEST_BYTES = 8 << 30
_REPEAT_S = 0.002
_REPEATS = 5
_ARRAYS = {"read": 1, "copy": 2, "add": 3, "triad": 3, "update": 1}
_MOVED = {**_ARRAYS, "update": 2}
_TORCH_FROM_BYTES = 64 << 20
_PROGRAMS_A_MULTIPROCESSOR = (4, 8)
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PACKED = {"fp32": 0, "bf16": 1, "fp16": 2}
_SIDES = (4096, 8192)
_LAUNCHES = 500
_STEPS = 4096


def visits(device: torch.device) -> tuple[list[Visit], list[str]]:
    """Every visit of a GPU, and notes on what could not be looked at. Answers have been checked."""
    made: list[Visit] = []
    notes: list[str] = []
    kernels: Any = None
    try:
        from vanbench.kernels import roofs_triton

        kernels = roofs_triton
    except ImportError as reason:
        notes.append(f"no Triton ({reason}): streams are torch's own, and no multiply-add loop was measured")
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    streams = _Streams(device, min(_LARGEST_BYTES, torch.cuda.mem_get_info(device)[0] // 4))
    for size in streams.sizes():
        if kernels is not None:
            for programs in _PROGRAMS_A_MULTIPROCESSOR:
                made += streams.by_triton(kernels, size, multiprocessors * programs)
        if size >= _TORCH_FROM_BYTES or kernels is None:
            made += streams.by_torch(size)
    for word, dtype in _DTYPES.items():
        reason_not = precision.unsupported(word, device)
        if reason_not is not None:
            notes.append(f"no matrix roof in {word}: {reason_not}")
            continue
        made += _products(word, dtype, device)
    if kernels is not None:
        for word in _PACKED:
            if precision.unsupported(word, device) is None:
                made += _multiply_adds(kernels, word, device, multiprocessors)
        made.append(_launch(kernels, device))
    return made, notes


def _seconds(call: Callable[[], object], count: int) -> float:
    """Seconds of one of `count` calls in a row, by events around them."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e-3 / count


def _rate_of(call: Callable[[], object], amount: float) -> Callable[[], float]:
    known = [0.0]

    def run() -> float:
        if not known[0]:
            call()
            known[0] = _seconds(call, 2)
        count = max(1, round(_REPEAT_S / known[0]))
        known[0] = min(_seconds(call, count) for _ in range(_REPEATS))
        return amount / known[0]

    return run


class _Streams:
    """Arrays that the streams of all sizes share."""

    def __init__(self, device: torch.device, largest: int) -> None:
        self._device = device
        self._largest = largest
        self.a = torch.ones(largest // 4, device=device)
        self.b = torch.full((largest // 8,), 2.0, device=device)
        self.c = torch.zeros(largest // 4, device=device)

    def sizes(self) -> list[int]:
        """Powers of two from far below the L2 cache on."""
        count = (self._largest // _SMALLEST_BYTES).bit_length()
        return [_SMALLEST_BYTES << i for i in range(count)]

    def _answer(self, kind: str, length: int) -> Tensor:
        a, b = self.a[:length], self.b[:length]
        return {"copy": a, "add": a + b, "triad": a + 3.0 * b}[kind]

    def _after(self, kind: str, length: int, passes: int) -> Tensor:
        """What c holds after a launch that began with -1 everywhere."""
        if kind == "update":
            return torch.full((length,), 4.0 if passes % 2 else -1.0, device=self._device)
        return self._answer(kind, length)

    def by_triton(self, kernels: Any, size: int, programs: int) -> list[Visit]:
        """Visits of one size: each launch passes over the arrays often enough that launching costs little."""
        made = []
        sums = torch.zeros(programs * kernels.BLOCK, device=self._device)
        for number, (kind, arrays) in enumerate(_ARRAYS.items()):
            chunk = size // 4 // arrays // programs // kernels.BLOCK * kernels.BLOCK
            if chunk == 0:
                continue
            length = chunk * programs
            passes = max(1, round(2e-4 * 3e12 / size))

            def call(number: int = number, chunk: int = chunk, passes: int = passes) -> None:
                kernels.stream[(programs,)](
                    self.a, self.b, self.c, sums, chunk, passes, KIND=number, BLOCK=kernels.BLOCK
                )

            self.c[:length] = -1.0
            call()
            if kind == "read":
                if float(sums.double().sum()) != float(length) * passes:
                    raise ArithmeticError(f"read: the sum is {float(sums.double().sum())}, not {length * passes}")
            elif not torch.equal(self.c[:length], self._after(kind, length, passes)):
                raise ArithmeticError(f"{kind}: the stream gave a wrong answer")
            amount = 4.0 * length * _MOVED[kind] * passes
            made.append(Visit(Place("stream", kind, size), f"Triton, {programs} programs", _rate_of(call, amount)))
        return made

    def by_torch(self, size: int) -> list[Visit]:
        """Visits of torch's own operations of one size."""
        made = []
        for kind, arrays in _ARRAYS.items():
            length = size // 4 // arrays
            a, b, c = self.a[:length], self.b[:length], self.c[:length]
            calls: dict[str, Callable[[], object]] = {
                "read": partial(torch.sum, a),
                "copy": partial(c.copy_, a),
                "add": partial(torch.add, a, b, out=c),
                "triad": partial(torch.add, a, b, alpha=3.0, out=c),
                "update": c.neg_,
            }
            made.append(
                Visit(Place("stream", kind, size), f"torch {kind}", _rate_of(calls[kind], 4.0 * length * _MOVED[kind]))
            )
        return made


def _products(word: str, dtype: torch.dtype, device: torch.device) -> list[Visit]:
    made = []
    for side in _SIDES:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

        def product(a: Tensor = a, b: Tensor = b) -> Tensor:
            precision.set_matmul_precision(word)
            return torch.mm(a, b)

        got, expected = product()[:4].double(), a[:4].double() @ b.double()
        error = float((got - expected).norm() / expected.norm())
        if not error < {"fp32": 1e-5, "tf32": 2e-3, "bf16": 1e-2, "fp16": 2e-3}[word]:
            raise ArithmeticError(f"the product of matrices in {word} is off by {error:.2g}")
        made.append(Visit(Place("matrix", word), f"torch.mm {side}", _rate_of(product, 2.0 * side**3)))
    return made


def _multiply_adds(kernels: Any, word: str, device: torch.device, multiprocessors: int) -> list[Visit]:
    """Visits of a precision's vector roof; what is widened to fp32 runs at fp32's rate, so that counts for all."""
    made = []
    ways = [("fp32", "multiply-adds in fp32 registers" + ("" if word == "fp32" else ", widened"))]
    if word != "fp32":
        ways.append((word, f"pairs of {word} multiply-adds in registers"))
    for (by, how), programs in itertools.product(ways, (8, 16)):
        grid = multiprocessors * programs
        out = torch.zeros(grid * kernels.BLOCK, device=device)

        def call(by: str = by, grid: int = grid, out: Tensor = out) -> None:
            kernels.multiply_adds[(grid,)](out, 0.5, 1.0, _STEPS, PACKED=_PACKED[by], BLOCK=kernels.BLOCK)

        call()
        if not bool(((out - 2.0).abs() < 1e-2).all()):
            raise ArithmeticError(f"multiply-adds in {by} came to {float(out[0])}, not to 2")
        flops = 2.0 * kernels.CHAINS * _STEPS * grid * kernels.BLOCK
        made.append(Visit(Place("vector", word), f"{how}, {grid} programs", _rate_of(call, flops)))
    return made


def _launch(kernels: Any, device: torch.device) -> Visit:
    """The least time of one kernel more: many that do nothing, in one CUDA graph."""
    out = torch.zeros(1, device=device)
    kernels.nothing[(1,)](out)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_LAUNCHES):
            kernels.nothing[(1,)](out)
    graph.replay()
    torch.cuda.synchronize(device)
    if float(out[0]) != 1.0:
        raise ArithmeticError("the kernel that does nothing did not even do that")
    rate = _rate_of(graph.replay, float(_LAUNCHES))
    return Visit(Place("launch"), f"{_LAUNCHES} kernels in a CUDA graph", lambda: 1.0 / rate())
