"""Depthwise convs of channels-last maps as Triton kernels: the forward pass, which is also the input's gradient, and
the weight's gradient. What starts them is `triton.py`; they know pointers and sizes only.

Sums are in fp32. Reuse is by rows: a row of the map, once read, is added to every output row of its program that it
belongs to. Rows d apart belong together where the dilation is d, so a program's output rows are d apart too.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["triton_depthwise", "triton_depthwise_weight_sums"]


@triton.jit
def triton_depthwise(  # type: ignore[no-untyped-def]
    x,
    taps,
    bias,
    y,
    height,
    width,
    channels,
    dilation,
    row_tiles,
    column_tiles,
    KERNEL: tl.constexpr,
    TURNED: tl.constexpr,
    BIAS: tl.constexpr,
    GELU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """y (N, H, W, C) = x (N, H, W, C) with taps (k * k, C) in fp32, then bias (C,), then an exact GELU.

    TURNED: the taps in opposite order, which makes it the gradient of the input. A program computes ROWS (1, 2 or 4)
    rows of one phase by COLUMNS neighbours by CHANNELS. Grid: channel tiles x column_tiles, row_tiles of all phases, N.
    """
    place = tl.program_id(0)
    column_tile = place % column_tiles
    channel = (place // column_tiles) * CHANNELS + tl.arange(0, CHANNELS)
    phase = tl.program_id(1) // row_tiles
    first = (tl.program_id(1) % row_tiles) * ROWS
    image = tl.program_id(2).to(tl.int64) * height * width * channels
    x += image
    y += image

    PAD: tl.constexpr = KERNEL // 2
    column = column_tile * COLUMNS + tl.arange(0, COLUMNS)
    known = tl.full((1, CHANNELS), True, tl.int1) if WHOLE else (channel < channels)[None, :]
    a0 = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    a1 = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    a2 = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    a3 = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    for i in tl.static_range(ROWS + KERNEL - 1):
        row = phase + (first + (i - PAD)) * dilation
        # What lies outside the map is a row of zeros: nothing is read, nothing added.
        if (row >= 0) & (row < height):
            for j in tl.static_range(KERNEL):
                source = column + (j - PAD) * dilation
                inside = (source >= 0) & (source < width)
                seen = tl.load(
                    x + (row * width + source)[:, None] * channels + channel[None, :],
                    mask=inside[:, None] & known,
                    other=0.0,
                ).to(tl.float32)
                if i < KERNEL:
                    a0 = tl.fma(seen, _tap(taps, i, j, channel, known, channels, KERNEL, TURNED), a0)
                if (ROWS > 1) and ((i >= 1) and (i < KERNEL + 1)):
                    a1 = tl.fma(seen, _tap(taps, i - 1, j, channel, known, channels, KERNEL, TURNED), a1)
                if (ROWS > 2) and ((i >= 2) and (i < KERNEL + 2)):
                    a2 = tl.fma(seen, _tap(taps, i - 2, j, channel, known, channels, KERNEL, TURNED), a2)
                if (ROWS > 2) and (i >= 3):
                    a3 = tl.fma(seen, _tap(taps, i - 3, j, channel, known, channels, KERNEL, TURNED), a3)

    if BIAS:
        added = tl.load(bias + channel[None, :], mask=known, other=0.0).to(tl.float32)
    else:
        added = tl.zeros((1, CHANNELS), tl.float32)
    there = (column < width)[:, None] & known
    target = y + column[:, None] * channels + channel[None, :]
    _put(target, a0 + added, phase + first * dilation, height, width, channels, there, GELU)
    if ROWS > 1:
        _put(target, a1 + added, phase + (first + 1) * dilation, height, width, channels, there, GELU)
    if ROWS > 2:
        _put(target, a2 + added, phase + (first + 2) * dilation, height, width, channels, there, GELU)
        _put(target, a3 + added, phase + (first + 3) * dilation, height, width, channels, there, GELU)


@triton.jit
def _tap(taps, row, column, channel, known, channels, KERNEL: tl.constexpr, TURNED: tl.constexpr):  # type: ignore[no-untyped-def]
    place = row * KERNEL + column
    if TURNED:
        place = KERNEL * KERNEL - 1 - place
    return tl.load(taps + place * channels + channel[None, :], mask=known, other=0.0)


@triton.jit
def _put(target, value, row, height, width, channels, there, GELU: tl.constexpr):  # type: ignore[no-untyped-def]
    if GELU:
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
    if row < height:
        tl.store(target + row * width * channels, value.to(target.dtype.element_ty), mask=there)


@triton.jit
def triton_depthwise_weight_sums(  # type: ignore[no-untyped-def]
    x,
    g,
    parts,
    height,
    width,
    channels,
    dilation,
    lines,
    lines_each,
    KERNEL: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """parts (chunks, k * k, C) in fp32: for each tap the sum of g times the shifted x, over a chunk of rows.

    A row of all images counts as one line: line = n * height + h. lines: of all images; lines_each: of a chunk. Added
    up in order by one program, so that two runs give the same bits. Grid: channel tiles, kernel rows, chunks.
    """
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    kernel_row = tl.program_id(1)
    chunk = tl.program_id(2)
    known = tl.full((1, CHANNELS), True, tl.int1) if WHOLE else (channel < channels)[None, :]
    PAD: tl.constexpr = KERNEL // 2
    a0 = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    a1 = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    a2 = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    a3 = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    a4 = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    a5 = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    a6 = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    shift = (kernel_row - PAD) * dilation
    first_line = chunk.to(tl.int64) * lines_each
    for step in range(lines_each):
        line = first_line + step
        row = line % height + shift
        if (line < lines) & ((row >= 0) & (row < height)):
            from_g = g + line * width * channels
            from_x = x + (line + shift) * width * channels
            for start in range(0, width, COLUMNS):
                column = start + tl.arange(0, COLUMNS)
                given = tl.load(
                    from_g + column[:, None] * channels + channel[None, :],
                    mask=(column < width)[:, None] & known,
                    other=0.0,
                ).to(tl.float32)
                first = column - PAD * dilation
                a0 = tl.fma(given, _seen(from_x, first, width, channel, known, channels), a0)
                a1 = tl.fma(given, _seen(from_x, first + dilation, width, channel, known, channels), a1)
                a2 = tl.fma(given, _seen(from_x, first + 2 * dilation, width, channel, known, channels), a2)
                if KERNEL > 3:
                    a3 = tl.fma(given, _seen(from_x, first + 3 * dilation, width, channel, known, channels), a3)
                    a4 = tl.fma(given, _seen(from_x, first + 4 * dilation, width, channel, known, channels), a4)
                if KERNEL > 5:
                    a5 = tl.fma(given, _seen(from_x, first + 5 * dilation, width, channel, known, channels), a5)
                    a6 = tl.fma(given, _seen(from_x, first + 6 * dilation, width, channel, known, channels), a6)
    parts += (chunk.to(tl.int64) * KERNEL + kernel_row) * KERNEL * channels
    _keep(parts, 0, a0, channel, known, channels)
    _keep(parts, 1, a1, channel, known, channels)
    _keep(parts, 2, a2, channel, known, channels)
    if KERNEL > 3:
        _keep(parts, 3, a3, channel, known, channels)
        _keep(parts, 4, a4, channel, known, channels)
    if KERNEL > 5:
        _keep(parts, 5, a5, channel, known, channels)
        _keep(parts, 6, a6, channel, known, channels)


@triton.jit
def _seen(x, column, width, channel, known, channels):  # type: ignore[no-untyped-def]
    inside = (column >= 0) & (column < width)
    return tl.load(x + column[:, None] * channels + channel[None, :], mask=inside[:, None] & known, other=0.0).to(
        tl.float32
    )


@triton.jit
def _keep(parts, tap, sums, channel, known, channels):  # type: ignore[no-untyped-def]
    tl.store(parts + tap * channels + channel[None, :], tl.sum(sums, axis=0)[None, :], mask=known)
