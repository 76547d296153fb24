"""Figures of operations and roofs: lengths, areas and lines are the figures given, gaps stay gaps, names are literal."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from vanbench.record.ceilings import Ceiling, Ceilings, Stream
from vanbench.report.drawing import Drawn, save
from vanbench.report.op_plots import (
    CLASS_COLOURS,
    depthwise_figures,
    draw_ceilings,
    draw_classes,
    draw_depthwise,
    draw_roofline,
    op_figures,
)

Row = dict[str, Any]
HOSTILE = "$x_1^2$ <b>&\"' _hidden"
# Read bandwidth of a two-core CPU by working set, in GB/s; copies are a little slower.
LEVELS = {16: 295, 64: 300, 512: 150, 4096: 120, 16384: 90, 65536: 40, 262144: 32, 1048576: 30}


def _ceiling(best: float, how: str) -> Ceiling:
    return Ceiling(best=best, median=0.93 * best, low=0.8 * best, visits=12, how=how)


def make_ceilings(**changes: Any) -> Ceilings:
    kinds = {"read": 1.0, "copy": 0.82, "add": 0.86, "triad": 0.85}
    streams = [
        Stream(kind=kind, bytes=kib * 1024, ceiling=_ceiling(rate * 1e9 * part, "own C, 2 threads"))
        for kind, part in kinds.items()
        for kib, rate in LEVELS.items()
    ]
    fields: dict[str, Any] = {
        "machine_key": "abc",
        "device": "cpu",
        "device_name": "Example CPU @ 2.50GHz",
        "threads": 2,
        "date": "2026-01-02T03:04:05Z",
        "seconds": 60.0,
        "torch_version": "2.15.0",
        "streams": tuple(streams),
        "matrix": {
            "fp32": _ceiling(200e9, "torch.mm 2048 x 2048"),
            "bf16": _ceiling(620e9, "conv 1x1 channels_last"),
        },
        "vector": {"fp32": _ceiling(195e9, "own C, AVX-512 FMA")},
        "launch": _ceiling(2.1e-6, "add of one element"),
    }
    return Ceilings(**{**fields, **changes})


def _op(op_class: str, name: str, shape: Sequence[int], flops: float, traffic: float, **more: Any) -> Row:
    """A row of ops.csv that runs at a plausible share of its bound."""
    unit = "matrix" if op_class in ("pointwise", "dense conv", "depthwise") else "vector"
    bound = max(traffic / 45e9, flops / 195e9)
    reached = {"depthwise": 0.16, "pointwise": 0.75, "dense conv": 0.6, "norm": 0.7, "activation": 0.45}
    spread = 0.8 + 0.4 * ((shape[1] * 7 + shape[2]) % 10) / 10
    text = "x".join(map(str, shape))
    return {
        "op_class": op_class, "op": name, "unit": unit, "shape_in": text, "shape_out": text, "dtype": "fp32",
        "phase": "forward", "kernel_size": None, "stride": None, "dilation": None, "groups": None,
        "seconds": bound / (reached.get(op_class, 0.5) * spread), "flops": flops, "bytes": traffic, "bound_s": bound,
        **more,
    }  # fmt: skip


def _conv(batch: int, into: int, out: int, px: int, kernel: int, dilation: int = 1, stride: int = 1) -> Row:
    depthwise = into == out and kernel > 1
    op_class = "depthwise" if depthwise else "pointwise" if kernel == 1 else "dense conv"
    end = px // stride
    flops = 2.0 * batch * end * end * out * kernel * kernel * (1 if depthwise else into)
    traffic = 4.0 * batch * (into * px * px + out * end * end)
    more = {"kernel_size": kernel, "dilation": dilation, "stride": stride, "groups": into if depthwise else 1}
    row = _op(op_class, "aten.convolution.default", (batch, into, px, px), flops, traffic, **more)
    return {**row, "shape_out": f"{batch}x{out}x{end}x{end}"}


def _plain(batch: int, channels: int, px: int, op_class: str, name: str, per_element: float, streams: int) -> Row:
    elements = batch * channels * px * px
    return _op(op_class, name, (batch, channels, px, px), per_element * elements, 4.0 * streams * elements)


def van_b0(batch: int = 8, **more: Any) -> list[Row]:
    """The forward pass of VAN-B0, about 300 operations, with the columns that figures read."""
    ops: list[Row] = []
    into, px = 3, 224
    for stage, (width, depth, widens) in enumerate(((32, 3, 8), (64, 3, 8), (160, 5, 4), (256, 2, 4))):
        kernel, stride = (7, 4) if stage == 0 else (3, 2)
        ops.append(_conv(batch, into, width, px, kernel, stride=stride))
        px, into = px // stride, width
        ops.append(_plain(batch, width, px, "norm", "aten.native_batch_norm.default", 2, 2))
        for _ in range(depth):
            ops.append(_plain(batch, width, px, "norm", "aten.native_batch_norm.default", 2, 2))
            ops += [_conv(batch, width, width, px, 1) for _ in range(2)]
            ops += [_conv(batch, width, width, px, 5), _conv(batch, width, width, px, 7, 3)]
            ops += [_conv(batch, width, width, px, 1) for _ in range(2)]
            ops.append(_plain(batch, width, px, "activation", "aten.gelu.default", 8, 2))
            ops += [_plain(batch, width, px, "elementwise", f"aten.{each}.Tensor", 1, 3) for each in ("mul", "add")]
            ops.append(_plain(batch, width, px, "norm", "aten.native_batch_norm.default", 2, 2))
            wide = width * widens
            ops += [_conv(batch, width, wide, px, 1), _conv(batch, wide, wide, px, 3)]
            ops.append(_plain(batch, wide, px, "activation", "aten.gelu.default", 8, 2))
            ops.append(_conv(batch, wide, width, px, 1))
            ops += [_plain(batch, width, px, "elementwise", "aten.mul.Tensor", 1, 3) for _ in range(3)]
        ops.append(_plain(batch, width, px, "layout copy", "aten.clone.default", 0, 2))
    ops.append({**_plain(batch, 256, 1, "other", "aten.mean.dim", 49, 50)})
    fields = {
        "model": "van_b0", "task": "infer", "batch_size": batch, "image_size": 224, "precision": "fp32",
        "memory_format": "contiguous", "form": "reference", "depthwise": "native", "device": "cpu", "threads": 2,
        "device_name": "Example CPU @ 2.50GHz", **more,
    }  # fmt: skip
    rows = [{**op, **fields, "module": f"stage{i // 70 + 1}.block{i % 70}"} for i, op in enumerate(ops)]
    step = 1.06 * sum(row["seconds"] for row in rows)
    return [{**row, "step_s": step} for row in rows]


def cases(**more: Any) -> list[Row]:
    """depthwise.csv: VAN's shapes and kernels; 7x7 d3 failed at 14 px, 256 channels are not measured at k5 d2."""
    rows = []
    for memory_format in ("contiguous", "channels_last"):
        for way in ("forward", "grad_input", "grad_weight"):
            for channels, px in ((32, 56), (256, 56), (64, 28), (512, 28), (160, 14), (640, 14), (256, 7), (1024, 7)):
                for kernel, dilation in ((3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 3)):
                    if (channels, kernel, dilation) == (256, 5, 2):
                        continue
                    traffic = 8.0 * 8 * channels * px * px
                    bound = traffic / 60e9
                    fraction = {"contiguous": 0.9, "channels_last": 0.55}[memory_format] / (1 + kernel * dilation / 9)
                    fraction *= 0.05 if dilation > 1 else 1 / (1 + channels / 500)
                    failed = (channels, px, kernel) == (160, 14, 7)
                    used = (kernel, dilation) in ((5, 1), (7, 3)) and channels in (32, 64, 160, 256) or kernel == 3
                    rows.append(
                        {
                            "status": "failed" if failed else "measured",
                            "models": "van_b0" if used else None,
                            "batch_size": 8,
                            "channels": channels,
                            "height": px,
                            "width": px,
                            "kernel_size": kernel,
                            "dilation": dilation,
                            "stride": 1,
                            "precision": "fp32",
                            "memory_format": memory_format,
                            "pass": way,
                            "depthwise": "native",
                            "device": "cpu",
                            "threads": 2,
                            "device_name": "Example CPU @ 2.50GHz",
                            "warm_s": None if failed else bound / fraction,
                            "warm_fraction": None if failed else fraction,
                            "cold_s": None if failed else bound / fraction * 1.3,
                            "cold_fraction": None if failed else fraction * 0.9,
                            **more,
                        }  # fmt: skip
                    )
    return rows
