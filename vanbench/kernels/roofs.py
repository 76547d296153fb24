"""A CPU's roofs as callables: streams and multiply-adds by a team of threads, from `roofs.c`. Keeps no figure."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from vanbench.kernels.compiled import load

__all__ = ["KINDS", "MOVED", "PRECISIONS", "evict", "fill", "flops_of_a_pass", "multiply_adds", "stream"]

# How many arrays a kind touches, and how many times the length of one it moves: an update reads and writes the same.
KINDS = {"read": 1, "copy": 2, "add": 3, "triad": 3, "update": 1}
MOVED = {"read": 1, "copy": 2, "add": 3, "triad": 3, "update": 2}
PRECISIONS = ("fp32", "bf16", "fp16")
# Each member's part is a whole number of the loops' steps.
_PART = 128


class _Barrier(ctypes.Structure):
    _fields_ = [("waiting", ctypes.c_int), ("generation", ctypes.c_int), ("members", ctypes.c_int)]


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    library = load("roofs")
    library.flops_of_a_pass.restype = ctypes.c_long
    library.stream.restype = library.multiply_add.restype = library.fill.restype = None
    library.evict.restype = ctypes.c_int
    return library


def _team(threads: int, work: Callable[[_Barrier, int], None]) -> None:
    """Run `work(barrier, member)` on so many threads, this one among them; the C code meets at the barrier."""
    barrier = _Barrier(0, 0, threads)
    others = [threading.Thread(target=work, args=(barrier, member)) for member in range(1, threads)]
    for other in others:
        other.start()
    work(barrier, 0)
    for other in others:
        other.join()


def fill(array: Tensor, value: float, threads: int) -> None:
    """Fill an fp32 array, each thread the part that it will use: the first touch decides where pages lie."""
    library = _library()
    part = array.numel() // threads

    def work(_barrier: _Barrier, member: int) -> None:
        library.fill(_at(array, member * part), ctypes.c_size_t(part), ctypes.c_float(value))

    _team(threads, work)
    array[part * threads :].fill_(value)


def stream(
    kind: str,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    length: int,
    *,
    bypass: bool,
    inner: int,
    repeats: int,
    threads: int,
) -> tuple[list[float], float]:
    """Seconds of each of `repeats` repetitions of `inner` passes, and the bytes of one pass.

    kind: read (of a), copy (a to c), add (c = a + b), triad (c = a + 3 b) or update (c = 3 - c). length: floats of one
    array; what does not divide among the threads is left out, and out of the bytes. bypass: stores go past the caches.

    Raises:
        ArithmeticError: the sum that was read is not that of the array.
        ValueError: an array is shorter than that.
    """
    library = _library()
    part = length // threads // _PART * _PART
    if part == 0:
        raise ValueError(f"{length} floats are too few for {threads} threads")
    for array in _touched(kind, a, b, c):
        if array.numel() < length or not array.is_contiguous():
            raise ValueError(f"{kind} of {length} floats in an array of {array.numel()}")
    times = (ctypes.c_double * repeats)()
    sums = [ctypes.c_float() for _ in range(threads)]

    def work(barrier: _Barrier, member: int) -> None:
        offset = member * part
        library.stream(
            list(KINDS).index(kind),
            _at(a, offset),
            _at(b, offset),
            _at(c, offset),
            ctypes.c_size_t(part),
            int(bypass),
            ctypes.c_long(inner),
            repeats,
            ctypes.byref(barrier),
            member,
            times,
            ctypes.byref(sums[member]),
        )

    _team(threads, work)
    if kind == "read":
        expected = float(a[:part].double().sum())
        # Sums in fp32 of equal numbers: their error grows with the length.
        if any(abs(each.value - expected) > 1e-3 * abs(expected) for each in sums):
            raise ArithmeticError(f"read: the sum is {sums[0].value}, not {expected}")
    return [nanoseconds * 1e-9 for nanoseconds in times], float(part * threads * 4 * MOVED[kind])


def _touched(kind: str, a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, ...]:
    """The arrays that C code will go through."""
    return {"read": (a,), "copy": (a, c), "update": (c,)}.get(kind, (a, b, c))


def flops_of_a_pass(precision: str) -> int:
    """FLOPs of one thread's pass of `multiply_adds`; 0 where this CPU has no instruction for the precision."""
    return int(_library().flops_of_a_pass(PRECISIONS.index(precision)))


def multiply_adds(precision: str, *, inner: int, repeats: int, threads: int) -> list[float]:
    """Seconds of each of `repeats` repetitions of `inner` passes of multiply-adds in registers.

    Raises:
        ArithmeticError: an accumulator did not come to where it must.
    """
    library = _library()
    times = (ctypes.c_double * repeats)()
    ends = [ctypes.c_float() for _ in range(threads)]

    def work(barrier: _Barrier, member: int) -> None:
        library.multiply_add(
            PRECISIONS.index(precision),
            ctypes.c_float(0.5),
            ctypes.c_float(1.0),
            ctypes.c_long(inner),
            repeats,
            ctypes.byref(barrier),
            member,
            times,
            ctypes.byref(ends[member]),
        )

    _team(threads, work)
    if any(abs(end.value - 2.0) > 1e-2 for end in ends):
        raise ArithmeticError(f"multiply-adds in {precision} came to {ends[0].value}, not to 2")
    return [nanoseconds * 1e-9 for nanoseconds in times]


def evict(tensor: Tensor) -> bool:
    """Drop a tensor's memory from every cache level; False where the machine has no instruction for it."""
    storage = tensor.untyped_storage()
    return bool(_library().evict(ctypes.c_void_p(storage.data_ptr()), ctypes.c_size_t(storage.nbytes())))


def _at(array: Tensor, offset: int) -> ctypes.c_void_p:
    assert array.dtype is torch.float32
    return ctypes.c_void_p(array.data_ptr() + 4 * offset)
