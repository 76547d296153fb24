"""Heat maps of depthwise convolutions timed alone: the share of the roof by shape and kernel, from depthwise.csv.

What is absent is a hatched cell, and a figure with nothing to show is a reason. It measures nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vanbench.report.drawing import GREY, Drawn, drawing, grid_shape, number, one_line, page
from vanbench.report.op_cases import DARK, Row, devices, ink_on, text_of, words_of
from vanbench.units import significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_depthwise"]

_PASSES = ("forward", "grad_input", "grad_weight")


def draw_depthwise(rows: Sequence[Row]) -> list[Drawn]:
    """Heat maps of the fraction of the roof, shape by kernel; a figure for each precision, kernel in use and cache."""
    title = "Depthwise convolutions as a share of their roof"
    if not rows:
        return [Drawn("depthwise", title, None, "there are no cases")]
    apart = ("precision", "depthwise", "batch_size", "stride", "device", "threads")
    varied = [name for name in apart if name in apart[:2] or len({text_of(row, name) for row in rows}) > 1]
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(text_of(row, name) for name in varied)].append(row)
    figures = []
    names: set[str] = set()
    for place, mine in groups.items():
        says = {"batch_size": "batch{}", "stride": "stride{}", "threads": "{}threads"}
        named = [says.get(each, "{}").format(word) for each, word in zip(varied, place, strict=True) if word]
        for cache in ("warm", "cold"):
            plain = (re.sub(r"[^A-Za-z0-9._]+", "-", one_line(each)).strip("-") for each in named)
            name = "-".join(["depthwise", *plain, cache])
            # Two kernels whose names differ only in signs that no file name should have.
            while name in names:
                name += "-2"
            names.add(name)
            said = f"{title}, {cache} cache: {', '.join(one_line(each) for each in named)}"
            figures.append(_draw_maps(name, said, mine, cache))
    return figures


def _draw_maps(name: str, title: str, rows: Sequence[Row], cache: str) -> Drawn:
    """One figure: a panel for each memory format and pass."""
    if not any(number(row, f"{cache}_fraction") is not None or number(row, f"{cache}_s") is not None for row in rows):
        return Drawn(name, title, None, f"no case was measured with a {cache} cache")
    formats = list(dict.fromkeys(text_of(row, "memory_format") for row in rows))
    seen = {text_of(row, "pass") for row in rows}
    passes = [each for each in _PASSES if each in seen] + sorted(seen - {*_PASSES})
    shapes = sorted({_shape(row) for row in rows}, key=lambda shape: (-shape[1] * shape[2], shape))
    kernels = sorted({(number(row, "kernel_size") or 0.0, number(row, "dilation") or 1.0) for row in rows})
    panels = [(layout, each) for layout in formats for each in passes]
    shape = (len(formats), len(passes)) if len(passes) > 1 else grid_shape(len(formats))
    size = (0.44 * len(kernels) + 0.75, 0.285 * len(shapes) + 0.62)
    notes = [
        "Large: percent of the bound under the measured roofs; small: ms. Framed: the case occurs in a model. "
        f"Hatched: not measured, or it failed. {cache.capitalize()} cache.",
        devices(rows),
    ]
    strided = ["stride"] if text_of(rows[0], "stride") not in ("", "1") else []
    about = words_of(rows[0], ["precision", "depthwise", "batch_size", *strided, "device", "threads"])
    with drawing():
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import PowerNorm

        # By the square root: most kernels are slow, and 2 % must be told from 10 %.
        shades = ScalarMappable(PowerNorm(0.5, vmin=0.0, vmax=1.0, clip=True), "cividis")
        figure, axes = page(
            title.partition(":")[0], about, notes, shape, size, len(panels), room=0.68, sharex=True, sharey=True
        )
        for place, (axis, (layout, each)) in enumerate(zip(axes, panels, strict=True)):
            mine = [row for row in rows if text_of(row, "memory_format") == layout and text_of(row, "pass") == each]
            _draw_map(axis, mine, shapes, kernels, cache, shades)
            axis.set_title(", ".join(one_line(word, 20) for word in (layout, each) if word), loc="left")
            axis.set_xticks(range(len(kernels)), [f"k{k:g} d{d:g}" for k, d in kernels], fontsize=7)
            axis.set_yticks(range(len(shapes)), [_shape_words(each) for each in shapes], fontsize=7)
            axis.tick_params(length=0, labelbottom=place + shape[1] >= len(panels))
        beside = axes[shape[1] - 1]
        strip = beside.inset_axes((1.0 + 0.14 / size[0], 0.0, 0.11 / size[0], 1.0))
        strip.set_in_layout(False)
        bar = figure.colorbar(shades, cax=strip)
        ticks = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0] if len(shapes) > 4 else [0.0, 0.1, 0.4, 1.0]
        ticks = ticks if len(shapes) > 1 else [0.0, 1.0]
        bar.set_ticks(ticks, labels=[f"{100 * tick:g} %" for tick in ticks])
        bar.ax.tick_params(labelsize=7, length=2)
        bar.outline.set_visible(False)
    return Drawn(name, title, figure)


def _shape(row: Row) -> tuple[int, int, int]:
    channels, height, width = (int(number(row, name) or 0) for name in ("channels", "height", "width"))
    return channels, height, width or height


def _shape_words(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{channels}ch {height}px" if height == width else f"{channels}ch {height}x{width}px"


def _draw_map(
    axis: Axes,
    rows: Sequence[Row],
    shapes: Sequence[tuple[int, int, int]],
    kernels: Sequence[tuple[float, float]],
    cache: str,
    shades: Any,
) -> None:
    from matplotlib.patches import Rectangle

    cases = {(_shape(row), (number(row, "kernel_size") or 0.0, number(row, "dilation") or 1.0)): row for row in rows}
    for line, shape in enumerate(shapes):
        for column, kernel in enumerate(kernels):
            row = cases.get((shape, kernel), {})
            share, spent = number(row, f"{cache}_fraction"), number(row, f"{cache}_s")
            cell = Rectangle((column - 0.5, line - 0.5), 1, 1, facecolor="white", edgecolor="white", linewidth=0.8)
            axis.add_patch(cell)
            ink = DARK
            if share is not None:
                cell.set(facecolor=shades.to_rgba(share), label="measured")
                ink = ink_on(cell.get_facecolor()[:3])
            elif spent is None:
                cell.set(facecolor="#FAFAFA", edgecolor="#C4C4C4", hatch="////", linewidth=0.4, label="missing")
            words = "" if share is None else significant(100 * share, 2 if share < 1 else 3)
            if share is None and spent is None and text_of(row, "status") in ("failed", "skipped"):
                # Upon a patch of its own, as hatching would cross the word.
                words = text_of(row, "status")
                axis.text(column, line, words, ha="center", va="center", fontsize=6, color=GREY, style="italic",
                          bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})  # fmt: skip
                words = ""
            if words:
                axis.text(column, line - 0.14, words, ha="center", va="center", fontsize=7.5, color=ink)
            if spent is not None:
                said = significant(spent * 1e3, 2 if spent < 0.1 else 3)
                axis.text(column, line + 0.27, said, ha="center", va="center", fontsize=5.2, color=ink)
            if text_of(row, "models"):
                inside = Rectangle((column - 0.45, line - 0.44), 0.9, 0.88, fill=False, label="in a model")
                inside.set(edgecolor="#D55E00", linewidth=1.1, zorder=3)
                axis.add_patch(inside)
    axis.set_xlim(-0.5, len(kernels) - 0.5)
    axis.set_ylim(len(shapes) - 0.5, -0.5)
    for side in ("left", "bottom"):
        axis.spines[side].set_visible(False)
