"""Figures of operations and roofs: lengths, areas and lines as given, gaps stay gaps, names are literal."""

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
from vanbench.report.ceilings_plot import draw_ceilings
from vanbench.report.class_bars import draw_classes
from vanbench.report.depthwise_maps import draw_depthwise
from vanbench.report.drawing import Drawn, save
from vanbench.report.look import op_figures
from vanbench.report.op_cases import CLASS_COLOURS
from vanbench.report.roofline_plot import draw_roofline

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
    unit = "matrix" if op_class in ("pointwise", "dense conv") else "vector"
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
        "memory_format": "contiguous", "form": "reference", "depthwise": "native", "device": "cpu", "threads": "2",
        "device_name": "Example CPU @ 2.50GHz", **more,
    }  # fmt: skip
    rows = [{**op, **fields, "place": i, "module": f"stage{i // 70 + 1}.block{i % 70}"} for i, op in enumerate(ops)]
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
                    used = kernel == 3 or (channels <= 256 and (kernel, dilation) in ((5, 1), (7, 3)))
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
                        }
                    )
    return rows


def _words(svg: Path) -> list[str]:
    tree = ElementTree.parse(svg)
    return ["".join(element.itertext()).strip() for element in tree.iter() if element.tag.endswith("}text")]


def _figure(drawn: Drawn) -> Figure:
    assert drawn.figure is not None, drawn.reason
    return drawn.figure


def _said(figure: Figure) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def _panels(figure: Figure) -> list[Axes]:
    return [axis for axis in figure.axes if axis.get_title(loc="left")]


def _lines(axis: Axes) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for line in axis.get_lines():
        yield np.asarray(line.get_xdata(), dtype=float), np.asarray(line.get_ydata(), dtype=float)


def _patches(axis: Axes) -> list[Any]:
    return list(axis.patches)


def _bars(axis: Axes) -> list[Any]:
    return [patch for patch in _patches(axis) if patch.get_height() == pytest.approx(0.62)]


# --- files ----------------------------------------------------------------------------------------------------------


def test_every_figure_is_made_with_ink_and_searchable_text_and_nothing_cut_off(tmp_path: Path) -> None:
    entry = make_ceilings()
    made = [draw_ceilings(entry), *op_figures(van_b0(), entry), *draw_depthwise(cases())]
    paths, figures = save(made, tmp_path)
    assert [each.reason for each in figures] == [""] * 5
    names = ["ceilings", "roofline", "classes", "depthwise-fp32-native-warm", "depthwise-fp32-native-cold"]
    assert [path.name for path in paths] == [f"{name}.{suffix}" for name in names for suffix in ("png", "svg")]
    for path in paths:
        assert 5_000 < path.stat().st_size < 1_500_000, path.name
        if path.suffix == ".png":
            pixels = matplotlib.image.imread(path)[..., :3]
            assert 0.005 < (pixels.min(axis=2) < 0.9).mean() < 0.8, path.name
            edges = (pixels[:, :2], pixels[:, -2:], pixels[:2], pixels[-2:])
            assert min(edge.min() for edge in edges) > 0.9, path.name
        else:
            assert any("Example CPU @ 2.50GHz" in word for word in _words(path)), path.name
    assert "1x1 160→640ch 14px" in _words(tmp_path / "roofline.svg")


def test_drawn_twice_a_figure_is_the_same_to_the_byte(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        save([draw_roofline(van_b0(), make_ceilings()), *draw_depthwise(cases()[:9])], tmp_path / folder)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_without_rows_or_roofs_every_figure_says_why_and_old_files_go(tmp_path: Path) -> None:
    (tmp_path / "roofline.png").write_bytes(b"old")
    bare = make_ceilings(streams=(), matrix={}, vector={})
    for made in ([draw_ceilings(bare)], op_figures([], bare), op_figures([], None), draw_depthwise([])):
        paths, figures = save(made, tmp_path)
        assert paths == []
        assert all(each.reason for each in figures)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 2, 300])
def test_any_number_of_rows_without_values_leaves_gaps_and_breaks_nothing(tmp_path: Path, count: int) -> None:
    empty = [dict.fromkeys(van_b0()[0]) for _ in range(count)]
    assert [bool(each.reason) for each in op_figures(empty, make_ceilings())] == [True, True]
    assert all(each.reason for each in draw_depthwise([dict.fromkeys(cases()[0]) for _ in range(count)]))
    assert all(each.reason for each in draw_depthwise([{}]))
    rows = [*empty, *van_b0()[:count], *({**row, "bound_s": None, "step_s": None} for row in van_b0()[:count])]
    rows += [{**van_b0()[0], "seconds": math.nan, "flops": math.inf}]
    save(op_figures(rows, make_ceilings()), tmp_path)
    assert (tmp_path / "classes.png").exists()


def test_hostile_names_are_drawn_as_they_stand(tmp_path: Path) -> None:
    odd = {"model": HOSTILE, "device_name": HOSTILE, "module": HOSTILE * 50, "op": "$op_1$<i>", "kernel_size": None}
    entry = make_ceilings(
        device_name=HOSTILE,
        matrix={"fp32": _ceiling(2e11, "$mm_1$ <b>")},
        streams=(Stream(kind="_$k$", bytes=4096, ceiling=_ceiling(1e11, "x")),),
        notes=(HOSTILE,),
    )
    rows = [{**row, **odd} for row in van_b0()]
    rows += [{**rows[3], "op_class": "_$class$", "model": "a" * 90}]
    paths, figures = save(
        [draw_ceilings(entry), *op_figures(rows, entry), *draw_depthwise(cases(depthwise="$k_1$/<b>"))], tmp_path
    )
    assert not any(each.reason for each in figures)
    assert {path.parent for path in paths} == {tmp_path}
    words = {name: _words(tmp_path / f"{name}.svg") for name in ("ceilings", "roofline", "classes")}
    assert {"_$k$", HOSTILE, "$mm_1$ <b>"} <= set(words["ceilings"])
    assert any(word.startswith("$op_1$<i> 256ch") for word in words["roofline"])
    assert any(word.startswith(f"{HOSTILE}, fp32") for word in words["roofline"])
    assert {HOSTILE, "_$class$"} <= set(words["classes"])
    assert any("$k_1$/<b>" in word for word in _words(tmp_path / "depthwise-fp32-k_1-b-warm.svg"))


# --- roofs ----------------------------------------------------------------------------------------------------------


def test_ceilings_are_drawn_at_their_values() -> None:
    entry = make_ceilings()
    drawn = draw_ceilings(entry)
    left, right = _figure(drawn).axes[:2]
    curves = [(x.tolist(), y.tolist()) for x, y in _lines(left)]
    for kind in ("read", "copy", "add", "triad"):
        mine = sorted((each for each in entry.streams if each.kind == kind), key=lambda each: each.bytes)
        for part in ("best", "median"):
            expected = [getattr(each.ceiling, part) / 1e9 for each in mine]
            assert any(x == [each.bytes for each in mine] and y == pytest.approx(expected) for x, y in curves)
    assert left.get_yscale() == "log"
    assert 0 < left.get_ylim()[0] < min(each.ceiling.median for each in entry.streams) / 1e9
    assert [label.get_text() for label in left.get_xticklabels()] == ["32 KiB", "1 MiB", "32 MiB", "1 GiB"]
    assert [bar.get_width() for bar in _patches(right)] == pytest.approx([200, 195, 620])
    assert [x[0] for x, _ in _lines(right)] == pytest.approx([186, 195 * 0.93, 620 * 0.93])
    said = _said(_figure(drawn))
    assert {"torch.mm 2048 x 2048", "conv 1x1 channels_last", "own C, AVX-512 FMA"} <= set(said)
    assert entry.convention in " ".join(said)
    assert "2 threads" in drawn.title
    assert any("torch 2.15.0 · 2026-01-02" in word for word in said)


@pytest.mark.parametrize("gone", [{"streams": ()}, {"matrix": {}, "vector": {}}, {"vector": {}, "launch": None}])
def test_ceilings_without_a_part_draw_the_rest(gone: dict[str, Any], tmp_path: Path) -> None:
    entry = make_ceilings(**gone)
    save([draw_ceilings(entry), *op_figures(van_b0()[:20], entry)], tmp_path)
    assert {"ceilings.png", "roofline.png"} <= {path.name for path in tmp_path.iterdir()}


def test_the_rooflines_roofs_equal_the_ceilings_and_are_labelled() -> None:
    figure = _figure(draw_roofline(van_b0(), make_ceilings()))
    (axis,) = _panels(figure)
    slopes, levels = set(), set()
    for x, y in _lines(axis):
        if y[0] == y[1]:
            levels.add(round(float(y[0]), 6))
        else:
            assert y / x == pytest.approx([y[0] / x[0]] * 2)
            slopes.add(round(float(y[0] / x[0]), 6))
            # A slope ends at the highest level.
            assert y[1] == pytest.approx(200)
    assert slopes == {300, 120, 30}
    assert levels == {200, 195}
    assert {"read, 64 KiB: 300 GB/s", "read, 4 MiB: 120 GB/s", "read, 1 GiB: 30 GB/s"} <= set(_said(figure))
    assert "matrix fp32: 200 GFLOP/s (torch.mm 2048 x 2048)" in _said(figure)


def test_roofs_follow_the_types_that_operations_compute_in() -> None:
    rows = [
        {**row, "precision": "amp-bf16", "dtype": "bf16" if row["unit"] == "matrix" else "fp32"} for row in van_b0()
    ]
    said = " ".join(_said(_figure(draw_roofline(rows, make_ceilings()))))
    assert "matrix bf16: 620" in said
    assert "vector fp32: 195" in said
    assert "matrix fp32" not in said
    entry = make_ceilings(matrix={**make_ceilings().matrix, "tf32": _ceiling(4e11, "torch.mm")})
    said = " ".join(_said(_figure(draw_roofline([{**row, "precision": "tf32"} for row in van_b0()], entry))))
    assert "matrix tf32: 400" in said
    assert "vector fp32: 195" in said
    assert "matrix fp32" not in said


# --- operations -----------------------------------------------------------------------------------------------------


def test_markers_areas_are_proportional_to_time_and_equal_operations_are_one_marker() -> None:
    rows = van_b0()
    (axis,) = _panels(_figure(draw_roofline(rows, make_ceilings())))
    (dots,) = (each for each in axis.collections if isinstance(each, PathCollection))
    sizes, places = np.asarray(dots.get_sizes()), np.asarray(dots.get_offsets())
    counted = [row for row in rows if row["flops"] > 0]
    geometry = ("op_class", "op", "shape_in", "shape_out", "kernel_size", "stride", "dilation")
    assert len(sizes) == len({tuple(row[name] for name in geometry) for row in counted}) < len(counted)
    seconds = sum(row["seconds"] for row in counted)
    assert sizes.sum() == pytest.approx(2000 * seconds / rows[0]["step_s"])
    # The 7x7 d3 convs of the first stage: three times the same.
    same = [row for row in rows if (row["kernel_size"], row["shape_in"]) == (7, "8x32x56x56")]
    assert len(same) == 3
    spent, flops = (sum(row[name] for row in same) for name in ("seconds", "flops"))
    at = np.argmin(
        np.abs(places[:, 1] - flops / spent / 1e9) + np.abs(places[:, 0] - same[0]["flops"] / same[0]["bytes"])
    )
    assert sizes[at] == pytest.approx(2000 * spent / rows[0]["step_s"])
    assert tuple(places[at]) == pytest.approx((flops / sum(row["bytes"] for row in same), flops / spent / 1e9))
    assert tuple(np.asarray(dots.get_facecolor())[at][:3]) == to_rgba(CLASS_COLOURS["depthwise"])[:3]


def test_operations_without_flops_are_not_drawn_but_told() -> None:
    rows = van_b0()
    spent = sum(row["seconds"] for row in rows if not row["flops"])
    said = _said(_figure(draw_roofline(rows, make_ceilings())))
    share = f"{100 * spent / rows[0]['step_s']:.2g}"
    assert f"without FLOPs, not drawn: layout copy {share} % of the time" in said


def test_each_configuration_has_a_panel_at_most_three_in_a_line() -> None:
    rows = [
        {**row, "memory_format": layout, "precision": each}
        for row in van_b0()[:40]
        for layout in ("contiguous", "channels_last")
        for each in ("fp32", "bf16", "x")
    ]
    panels = _panels(_figure(draw_roofline(rows, make_ceilings())))
    assert sorted(axis.get_title(loc="left") for axis in panels) == sorted(
        f"van_b0, {each}, {layout}" for layout in ("contiguous", "channels_last") for each in ("fp32", "bf16", "x")
    )
    assert len({round(axis.get_position().x0, 2) for axis in panels}) == 3
    assert len({axis.get_xlim() + axis.get_ylim() for axis in panels}) == 1
    eight = [{**row, "batch_size": batch} for row in van_b0()[:9] for batch in range(1, 9)]
    panels = _panels(_figure(draw_roofline(eight, make_ceilings())))
    assert (len(panels), len({round(axis.get_position().x0, 2) for axis in panels})) == (8, 3)


def test_bars_are_as_long_as_the_summed_times() -> None:
    rows = van_b0()
    fast = [{**row, "memory_format": "channels_last", "seconds": row["seconds"] / 2} for row in rows]
    figure = _figure(draw_classes([*rows, *fast]))
    left, right = figure.axes[:2]
    for place, mine in enumerate((rows, fast)):
        names = [name for name in CLASS_COLOURS if any(row["op_class"] == name for row in mine)]
        sums = [sum(row["seconds"] for row in mine if row["op_class"] == name) for name in names]
        step = mine[0]["step_s"]
        sums.append(step - sum(sums))
        for axis, scale in ((left, 1e3 / 8), (right, 100 / step)):
            bars = [bar for bar in _bars(axis) if round(bar.get_y() + 0.31) == place]
            assert [bar.get_width() for bar in bars] == pytest.approx([each * scale for each in sums])
            assert [to_rgba(bar.get_facecolor()) for bar in bars][:-1] == [
                to_rgba(CLASS_COLOURS[name]) for name in names
            ]
            bound = sum(row["bound_s"] for row in mine if row["op_class"] == "depthwise") * scale
            marks = [x[0] for x, y in _lines(axis) if round(y[0] - 0.2) == place]
            assert any(mark == pytest.approx(bound) for mark in marks)
    assert "outside ops" in _said(figure)


def test_operations_longer_than_the_step_are_told_and_a_part_without_a_bound_has_no_mark() -> None:
    rows = [{**row, "step_s": 1e-6, "bound_s": None} for row in van_b0()]
    figure = _figure(draw_classes(rows))
    assert any("longer than the step in 1 of 1 bars" in word for word in _said(figure))
    assert "outside ops" not in _said(figure)
    assert sum(bar.get_width() for bar in _bars(figure.axes[1])) == pytest.approx(100)
    assert not figure.axes[0].get_lines()
    assert draw_classes([{**row, "batch_size": None} for row in rows]).figure is None


# --- depthwise ------------------------------------------------------------------------------------------------------


def test_a_map_has_a_cell_for_each_shape_and_kernel_and_hatches_what_is_missing() -> None:
    warm, cold = draw_depthwise(cases())
    assert (warm.name, cold.name) == ("depthwise-fp32-native-warm", "depthwise-fp32-native-cold")
    for drawn, column in ((warm, "warm"), (cold, "cold")):
        panels = _panels(_figure(drawn))
        assert len(panels) == 6
        for axis in panels:
            layout, way = axis.get_title(loc="left").split(", ")
            mine = [row for row in cases() if (row["memory_format"], row["pass"]) == (layout, way)]
            cells = {
                gid: [p for p in axis.patches if p.get_label() == gid] for gid in ("measured", "missing", "in a model")
            }
            assert len(cells["measured"]) == sum(row[f"{column}_s"] is not None for row in mine) == 44
            assert len(cells["missing"]) == 48 - 44
            assert all(cell.get_hatch() for cell in cells["missing"])
            assert len(cells["in a model"]) == sum(bool(row["models"]) for row in mine)
            said = [text.get_text() for text in axis.texts]
            assert said.count("failed") == 2
            first = mine[0]
            assert f"{100 * first[f'{column}_fraction']:.2g}" in said
            assert f"{1e3 * first[f'{column}_s']:.2g}" in said
        assert [label.get_text() for label in panels[-1].get_xticklabels()] == [
            "k3 d1", "k3 d2", "k5 d1", "k5 d2", "k7 d1", "k7 d3",
        ]  # fmt: skip
        shown = [label.get_text() for label in panels[0].get_yticklabels()]
        assert shown[:3] == ["32ch 56px", "256ch 56px", "64ch 28px"]
        assert shown[-1] == "1024ch 7px"


def test_each_precision_kernel_and_cache_has_a_map_of_its_own_and_an_empty_one_says_why() -> None:
    rows = [*cases(), *cases(precision="bf16", cold_s=None, cold_fraction=None), *cases(depthwise="shift/sum")]
    rows = [row for row in rows if row["pass"] == "forward"]
    figures = {each.name: each for each in draw_depthwise(rows)}
    assert sorted(figures) == sorted(
        f"depthwise-{each}-{cache}"
        for each in ("fp32-native", "bf16-native", "fp32-shift-sum")
        for cache in ("warm", "cold")
    )
    assert [name for name, each in figures.items() if each.figure is None] == ["depthwise-bf16-native-cold"]
    assert figures["depthwise-bf16-native-cold"].reason == "no case was measured with a cold cache"
    # One shape in two batch sizes is two figures, not two values in one cell.
    assert len(draw_depthwise([*cases()[:2], *cases(batch_size=1)[:2]])) == 4
