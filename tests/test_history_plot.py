"""The figures of the history: what happened is in them, nothing lies on anything else, and no name breaks them."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from test_history import STACK, at, make_history, make_point

from vanbench.analysis.history import judge, series_of
from vanbench.errors import UserError
from vanbench.record.history import Accepted, Point, accept
from vanbench.report.history_plot import draw_history, save_history
from vanbench.spec.cell import Cell

NEWER = {**STACK, "torch": "2.16.0", "cudnn": "91100", "timm": "1.0.31"}
CELL = Cell(model="van_b0", batch_size=8)


def make_story(cell: Cell = CELL, level: float = 412.0, seed: int = 0) -> list[Point]:
    """44 runs: a new stack from number 14, no figure at 19, low once at 28, 5 % slower from 32 on."""
    rng = np.random.default_rng(seed)
    points = []
    for i in range(44):
        rate = level * (1 if i < 14 else 1.04) * (1 if i < 32 else 0.95) * math.exp(rng.normal(0, 0.008))
        rate *= 0.955 if i == 28 else 1
        half = rate * abs(rng.normal(0.012, 0.004))
        commit = f"{rng.integers(2**60):015x}" + "0" * 25
        stack = STACK if i < 14 else NEWER
        points.append(
            make_point(
                i, rate if i != 19 else None, cell=cell, stack=stack, low=rate - half, high=rate + half, commit=commit
            )
        )
    return points


def _draw(points: Sequence[Point], accepted: Sequence[Accepted], folder: Path) -> dict[str, Path]:
    ordered = sorted(points, key=lambda point: (point.time, point.id))
    return {path.name: path for path in save_history([judge(each) for each in series_of(ordered, accepted)], folder)}


def _words(svg: Path) -> list[str]:
    tree = ElementTree.parse(svg)
    return ["".join(element.itertext()).strip() for element in tree.iter() if element.tag.endswith("}text")]


def _story(folder: Path) -> dict[str, Path]:
    points = make_story()
    return _draw(points, [accept(points[37], at(37), "a safer depthwise kernel", "abcdef1")], folder)


def test_a_story_has_its_segments_alerts_and_accepted_change_in_words_and_ink(tmp_path: Path) -> None:
    files = _story(tmp_path)
    assert sorted(files) == ["van_b0-infer.png", "van_b0-infer.svg"]
    words = _words(files["van_b0-infer.svg"])
    for said in (
        "van_b0, infer: images/s run by run",
        "van_b0 bs8 fp32",
        "images/s",
        "torch 2.15.0 → 2.16.0, cudnn none → 91100, 1 more",
        "accepted: a safer depthwise kernel",
        "alert, accepted later",
        "no valid figure",
        "learning",
        "limit",
        "2026-01-14",
        str(make_story()[-1].commit)[:7],
    ):
        assert said in words, said
    assert "alert: slower, twice in a row" not in words, "nothing alerts that was not accepted"
    pixels = matplotlib.image.imread(files["van_b0-infer.png"])[..., :3]
    ink = (pixels.min(axis=2) < 0.9).mean()
    assert 0.005 < ink < 0.5
    assert min(pixels[:, :2].min(), pixels[:, -2:].min()) > 0.9, "nothing runs over the edge"


def test_without_the_acceptance_the_alerts_stand(tmp_path: Path) -> None:
    words = _words(_draw(make_story(), [], tmp_path)["van_b0-infer.svg"])
    assert "alert: slower, twice in a row" in words
    assert "alert, accepted later" not in words
    assert not any(word.startswith("accepted:") for word in words)


def _axes(points: Sequence[Point], accepted: Sequence[Accepted] = ()) -> list[Any]:
    (drawn,) = draw_history([judge(each) for each in series_of(points, accepted)])
    assert drawn.figure is not None
    return list(drawn.figure.axes)


def test_points_stand_at_their_figures_and_runs_at_equal_distances() -> None:
    points = make_history(12)
    far = make_point(500, 93.0)
    (axis,) = _axes([*points, far])
    seen = sorted(
        (float(x), float(y))
        for line in axis.get_lines()
        if line.get_linestyle() == "None"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    )
    assert [x for x, _ in seen] == list(range(13))
    assert [y for _, y in seen] == pytest.approx([point.images_per_s for point in [*points, far]])


def test_the_limit_is_drawn_where_it_was_judged_by_and_breaks_between_segments() -> None:
    points = make_story()
    wanted = accept(points[37], at(37), "wanted", None)
    (axis,) = _axes(points, [wanted])
    (limit,) = [line for line in axis.get_lines() if line.get_linestyle() == "--"]
    drawn = {float(x): float(y) for x, y in zip(limit.get_xdata(), limit.get_ydata(), strict=True)}
    (series,) = series_of(points, [wanted])
    for place, judged in enumerate(judge(series).points):
        assert drawn[place] == pytest.approx(judged.lower if judged.lower is not None else math.nan, nan_ok=True)
    assert math.isnan(drawn[13.5])
    assert math.isnan(drawn[37.5])
    lines = sorted(line.get_xdata()[0] for line in axis.get_lines() if list(line.get_ydata()) == [0, 1])
    assert lines == [13.5, 37.5]


def test_labels_of_segments_cover_neither_each_other_nor_a_point(tmp_path: Path) -> None:
    """Stack changes that follow closely, at both ends too, with long words."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    points = [
        make_point(
            i, 100 + 3 * math.sin(i), stack={**STACK, "torch": f"2.{15 + changed}.0", "driver": f"5{changed}0.1"}
        )
        for i in range(44)
        for changed in [sum(i >= at_run for at_run in (1, 3, 22, 25, 41, 43))]
    ]
    (drawn,) = draw_history([judge(each) for each in series_of(points)])
    assert drawn.figure is not None
    canvas: Any = FigureCanvasAgg(drawn.figure)
    canvas.draw()
    (axis,) = drawn.figure.axes
    renderer = canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axis.texts]
    assert len(boxes) == 6
    for i, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[i + 1 :])
        assert one.y1 <= axis.get_window_extent(renderer).y1 + 1
        assert one.x0 >= 0
        assert one.x1 <= drawn.figure.get_window_extent(renderer).x1
    for line in axis.get_lines():
        if line.get_linestyle() == "None":
            for x, y in axis.transData.transform(line.get_xydata()):
                assert not any(box.contains(x, y) for box in boxes)


def test_many_cells_are_several_figures_and_many_runs_are_the_last_ones(tmp_path: Path) -> None:
    cells = [Cell(model="van_b0", batch_size=size) for size in (1, 2, 4, 8, 16, 32)]
    points = [make_point(i, 100.0 + i % 3, cell=cell) for cell in cells for i in range(250)]
    files = _draw(points, [], tmp_path)
    assert sorted(name for name in files if name.endswith("svg")) == ["van_b0-infer-1.svg", "van_b0-infer-2.svg"]
    words = [word for file in files.values() if file.suffix == ".svg" for word in _words(file)]
    assert all(cell.slug in words for cell in cells)
    assert "The last 240 of 250 runs." in words
    assert files["van_b0-infer-1.png"].stat().st_size < 700_000


def test_each_model_and_task_has_a_figure_and_hostile_names_break_nothing(tmp_path: Path) -> None:
    names = ["a.b:net", "a.b;net", "$x_1^2$", "../../etc/passwd", "日本:net", "n" * 200]
    cells = [Cell(model=name) for name in names] + [Cell(model="a.b:net", task="train")]
    points = [make_point(i, 100.0 + i, cell=cell) for cell in cells for i in range(3)]
    wanted = [accept(points[0], at(5), "$\\frac{1}{2}$ <b> & " + "long " * 40, None)]
    files = _draw(points, wanted, tmp_path / "plots")
    assert len(files) == 2 * len(cells)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(files)
    assert [path.name for path in tmp_path.iterdir()] == ["plots"]
    assert "$x_1^2$, infer: images/s run by run" in [
        word for f in files.values() if f.suffix == ".svg" for word in _words(f)
    ]


@pytest.mark.parametrize("rates", [[None], [math.nan, 0.0], [5.0], [5.0, 5.0], [1e-9, 1e9]])
def test_the_smallest_and_the_oddest_histories_are_drawn(rates: list[float | None], tmp_path: Path) -> None:
    files = _draw([make_point(i, rate) for i, rate in enumerate(rates)], [], tmp_path)
    assert all(path.stat().st_size > 3000 for path in files.values())


def test_a_huge_interval_of_two_rounds_does_not_flatten_the_rest() -> None:
    points = make_history(20)
    points[5] = make_point(5, 100.0, low=0.001, high=1e7)
    (axis,) = _axes(points)
    low, high = axis.get_ylim()
    assert high - low < 20


def test_drawn_twice_a_figure_is_the_same_to_the_byte(tmp_path: Path) -> None:
    first, second = _story(tmp_path / "first"), _story(tmp_path / "second")
    for name in first:
        assert first[name].read_bytes() == second[name].read_bytes(), name


def test_a_place_where_no_folder_can_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "plots").write_bytes(b"a file")
    with pytest.raises(UserError, match="cannot make"):
        _story(tmp_path / "plots")
