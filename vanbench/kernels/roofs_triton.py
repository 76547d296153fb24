"""A GPU's roofs as Triton kernels: streams that rotate over their working set, and multiply-adds in registers."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["BLOCK", "CHAINS", "multiply_adds", "nothing", "stream"]

BLOCK = 1024
CHAINS = 8


@triton.jit
def stream(a, b, c, sums, chunk, passes, KIND: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """KIND 0 read (a), 1 copy (a to c), 2 add, 3 triad (c = a + 3 b), 4 update (c = 3 - c).

    A program's chunk changes with each pass.
    chunk: floats, a multiple of BLOCK; programs x chunk is the length of an array. The chunk rotates so that a pass
    finds nothing in its own L1 cache. sums: BLOCK floats a program, the sum of what was read (KIND 0).
    """
    program = tl.program_id(0)
    programs = tl.num_programs(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for p in range(passes):
        start = ((program + p * 97) % programs).to(tl.int64) * chunk
        for i in range(0, chunk, BLOCK):
            place = start + i + tl.arange(0, BLOCK)
            if KIND == 0:
                total += tl.load(a + place)
            elif KIND == 1:
                tl.store(c + place, tl.load(a + place))
            elif KIND == 2:
                tl.store(c + place, tl.load(a + place) + tl.load(b + place))
            elif KIND == 3:
                tl.store(c + place, tl.load(a + place) + 3.0 * tl.load(b + place))
            else:
                tl.store(c + place, 3.0 - tl.load(c + place))
    if KIND == 0:
        tl.store(sums + program * BLOCK + tl.arange(0, BLOCK), total)


@triton.jit
def multiply_adds(out, x, y, steps, PACKED: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """CHAINS accumulators a lane, each acc = acc * x + y for `steps` steps; their mean to `out`, BLOCK a program.

    PACKED 0: fp32. 1: pairs of bf16 in one instruction, 2: pairs of fp16. With x = 0.5, y = 1 all come to 2.
    """
    lanes = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    start = (lanes % 7).to(tl.float32)
    if PACKED == 0:
        a0 = start
        a1 = start + 1
        a2 = start + 2
        a3 = start + 3
        a4 = start + 4
        a5 = start + 5
        a6 = start + 6
        a7 = start + 7
        for _ in range(steps):
            a0 = a0 * x + y
            a1 = a1 * x + y
            a2 = a2 * x + y
            a3 = a3 * x + y
            a4 = a4 * x + y
            a5 = a5 * x + y
            a6 = a6 * x + y
            a7 = a7 * x + y
    else:
        half = tl.bfloat16 if PACKED == 1 else tl.float16
        a0 = start.to(half)
        a1 = (start + 1).to(half)
        a2 = (start + 2).to(half)
        a3 = (start + 3).to(half)
        a4 = (start + 4).to(half)
        a5 = (start + 5).to(half)
        a6 = (start + 6).to(half)
        a7 = (start + 7).to(half)
        vx = tl.full((BLOCK,), 0.0, tl.float32).to(half) + x.to(half)
        vy = tl.full((BLOCK,), 0.0, tl.float32).to(half) + y.to(half)
        for _ in range(steps):
            a0 = _packed(a0, vx, vy, PACKED)
            a1 = _packed(a1, vx, vy, PACKED)
            a2 = _packed(a2, vx, vy, PACKED)
            a3 = _packed(a3, vx, vy, PACKED)
            a4 = _packed(a4, vx, vy, PACKED)
            a5 = _packed(a5, vx, vy, PACKED)
            a6 = _packed(a6, vx, vy, PACKED)
            a7 = _packed(a7, vx, vy, PACKED)
    mean = (
        (a0.to(tl.float32) + a1.to(tl.float32) + a2.to(tl.float32) + a3.to(tl.float32))
        + (a4.to(tl.float32) + a5.to(tl.float32) + a6.to(tl.float32) + a7.to(tl.float32))
    ) / 8
    tl.store(out + lanes, mean)


@triton.jit
def _packed(acc, x, y, PACKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """acc * x + y on two 16-bit values at a time: the instruction that doubles the rate of the fp32 units."""
    if PACKED == 1:
        return tl.inline_asm_elementwise(
            "fma.rn.bf16x2 $0, $1, $2, $3;", "=r,r,r,r", [acc, x, y], dtype=tl.bfloat16, is_pure=True, pack=2
        )
    return tl.inline_asm_elementwise(
        "fma.rn.f16x2 $0, $1, $2, $3;", "=r,r,r,r", [acc, x, y], dtype=tl.float16, is_pure=True, pack=2
    )


@triton.jit
def nothing(out):  # type: ignore[no-untyped-def]
    """The least a kernel can do and still be one: a store of one number."""
    tl.store(out, 1.0)
