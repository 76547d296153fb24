"""Figures are made where there is something to show, hold ink and searchable text, and no name breaks them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from builders import make_environment, make_record, make_round, make_sweep

from vanbench.errors import UserError
from vanbench.record.record import Failed, Outcome, Record, Skipped
from vanbench.record.store import Store
from vanbench.report.drawing import save
from vanbench.report.plots import draw
from vanbench.report.table import Row, rows
from vanbench.report.write import redraw, write_report
from vanbench.spec.cell import Cell
from vanbench.spec.names import KNOWN

KINDS = ["images_per_s", "ratio", "batch", "latency", "order", "bound", "accuracy", "memory"]
FAILED = Failed(kind="exception", message="no", rerun="vanbench run")


def _record(cell: Cell, index: int, outcome: Outcome | None = None) -> Record:
    if outcome is not None:
        return make_record(cell, [], outcome)
    rng = np.random.default_rng(index)
    step = 0.004 * (1 + index % 7) * cell.batch_size**0.9
    group = f"{cell.task}{cell.batch_size}-{cell.image_size}"
    made = [
        make_round(f"{group}-{i}", (step * rng.normal(1, 0.03, 13).clip(0.5)).tolist(), images=cell.batch_size)
        for i in range(5)
    ]
    return make_record(cell, made)


def _table(models: list[str], failed: Callable[[int], bool] = lambda _: False, **axes: tuple[object, ...]) -> list[Row]:
    sweep = make_sweep(models, **axes)
    records = [_record(cell, i, FAILED if failed(i) else None) for i, cell in enumerate(sweep.cells())]
    return rows(sweep, make_environment(), records)


def _bounded(table: list[Row]) -> list[Row]:
    """With a bound for each cell, as with ceilings, twice to ten times what it reached."""
    for i, row in enumerate(table):
        row["bound_images_per_s"] = float(str(row["images_per_s"])) * (2 + i % 9)
    return table


def _draw(table: list[Row], folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    paths, figures = save(draw(table), folder)
    return {path.name: path for path in paths}, {each.name: each.reason for each in figures if each.reason}


def _words(svg: Path) -> list[str]:
    tree = ElementTree.parse(svg)
    return ["".join(element.itertext()).strip() for element in tree.iter() if element.tag.endswith("}text")]


def test_every_figure_of_three_models_is_made_with_ink_and_searchable_text(tmp_path: Path) -> None:
    models = ["van_b0", "convnext_tiny", "resnet50"]
    table = _table(models, batch_size=(1, 8), memory_format=("contiguous", "channels_last"))
    files, missing = _draw(_bounded(table), tmp_path)
    assert missing == {}
    assert sorted(files) == sorted(f"{kind}.{suffix}" for kind in KINDS for suffix in ("png", "svg"))
    for name, path in files.items():
        assert 5_000 < path.stat().st_size < 500_000, name
        if path.suffix == ".png":
            pixels = matplotlib.image.imread(path)[..., :3]
            ink = (pixels.min(axis=2) < 0.9).mean()
            assert 0.005 < ink < 0.5, name
            # Nothing runs over the left or the right edge.
            assert min(pixels[:, :2].min(), pixels[:, -2:].min()) > 0.9, name
        else:
            words = " | ".join(_words(path))
            assert "Example CPU · torch 2.15.0 · vanbench 0.1.0 · 2026-01-02" in words
            assert "van_b0" in words
            assert "convnext_tiny" in words
            assert "resnet50" in words


def test_axes_say_their_unit_and_ratios_mark_their_reference(tmp_path: Path) -> None:
    files, _ = _draw(_bounded(_table(["van_b0", "resnet18", "resnet50"], batch_size=(1, 8))), tmp_path)
    for name, unit in (
        ("images_per_s.svg", "images/s"),
        ("ratio.svg", "ratio to the reference"),
        ("batch.svg", "batch size (images)"),
        ("latency.svg", "time of a step (ms)"),
        ("order.svg", "images/s over the fastest model's"),
        ("bound.svg", "images/s that the ceilings allow"),
        ("accuracy.svg", "published top-1 (%)"),
        ("memory.svg", "peak memory (MiB)"),
    ):
        assert unit in _words(files[name]), name
    assert any("Hollow: the reference, van_b0." in words for words in _words(files["ratio.svg"]))


def test_drawn_twice_a_figure_is_the_same_to_the_byte(tmp_path: Path) -> None:
    table = _table(["van_b0", "resnet18"], batch_size=(8,))
    first, _ = _draw(table, tmp_path / "first")
    second, _ = _draw(table, tmp_path / "second")
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].read_bytes() == second[name].read_bytes(), name


def test_twenty_models_with_gaps_are_all_named(tmp_path: Path) -> None:
    models = [*list(KNOWN)[:6], *list(KNOWN)[7:19], "swin_tiny_patch4_window7_224", "my.code:Net"]
    table = _table(models, lambda i: i in (3, 4, 11), batch_size=(8,), memory_format=("contiguous", "channels_last"))
    files, missing = _draw(table, tmp_path)
    assert sorted(missing) == ["batch", "bound", "latency"]
    for figure in ("images_per_s.svg", "order.svg"):
        assert set(models) <= set(_words(files[figure])), figure
    named = [word for word in _words(files["accuracy.svg"]) if word in KNOWN]
    assert sorted(named) == sorted(name for name in models if name in KNOWN and KNOWN[name].top1 is not None)


def test_a_model_without_any_figure_keeps_its_place_and_says_so(tmp_path: Path) -> None:
    files, _ = _draw(_table(["van_b0", "resnet18", "resnet50"], lambda i: i == 1, batch_size=(8,)), tmp_path)
    words = _words(files["images_per_s.svg"])
    assert "resnet18" in words
    assert words.count("failed") == 1


def test_one_model_has_no_ratio_and_no_batch_axis_and_says_why(tmp_path: Path) -> None:
    files, missing = _draw(_table(["van_b0"], batch_size=(8,)), tmp_path)
    assert sorted(missing) == ["batch", "bound", "latency", "order", "ratio"]
    assert missing["ratio"] == "nothing was measured beside a reference"
    assert {name.split(".")[0] for name in files} == {"images_per_s", "accuracy", "memory"}


@pytest.mark.parametrize("outcome", [FAILED, Skipped(reason="budget")])
def test_where_nothing_was_measured_nothing_is_drawn_and_old_figures_go(tmp_path: Path, outcome: Outcome) -> None:
    (tmp_path / "ratio.png").write_bytes(b"old")
    sweep = make_sweep(["van_b0", "resnet18"], batch_size=(1, 8))
    table = rows(sweep, make_environment(), [make_record(cell, [], outcome) for cell in sweep.cells()])
    files, missing = _draw(table, tmp_path)
    assert files == {}
    assert sorted(missing) == sorted(KINDS)
    assert list(tmp_path.iterdir()) == []
    assert save(draw([]), tmp_path) == ([], [])


def test_hostile_names_are_drawn_as_they_stand(tmp_path: Path) -> None:
    names = ["$x_1^2$", "_hidden", '<b>&"', "%d {} \\frac", "a" * 90, "日本:net"]
    files, _ = _draw(_table(names, batch_size=(1, 8)), tmp_path)
    for figure in ("images_per_s.svg", "batch.svg", "order.svg"):
        words = _words(files[figure])
        assert {"$x_1^2$", "_hidden", '<b>&"', "日本:net"} <= set(words), figure
        # A footnote is the longest line.
        assert max(map(len, words)) < 150
        assert any(re.fullmatch("a+…a+", word) for word in words)


def test_each_task_and_image_size_has_a_figure_of_its_own(tmp_path: Path) -> None:
    table = _table(["van_b0", "resnet18"], batch_size=(4,), task=("infer", "train"), image_size=(96,))
    files, _ = _draw(table, tmp_path)
    assert "images_per_s-infer-96px.png" in files
    assert "ratio-train-96px.svg" in files
    assert not any(name.startswith("accuracy") for name in files)


def _run_directory(path: Path) -> Path:
    sweep = make_sweep(["van_b0", "resnet18", "resnet50"], batch_size=(8,))
    with Store.create(path, sweep, make_environment()) as store:
        for i, cell in enumerate(sweep.cells()[:2]):
            store.save(_record(cell, i))
    return path


def test_a_report_has_table_text_and_plots_and_every_picture_that_the_text_shows(tmp_path: Path) -> None:
    run = _run_directory(tmp_path / "run")
    written = write_report(run)
    assert {run / "results.csv", run / "report.md", run / "plots" / "ratio.svg"} <= set(written)
    assert all(path.stat().st_size > 0 for path in written)
    text = (run / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(pictures) == 4
    assert all((run / picture).exists() for picture in pictures)
    assert "not reached" in text
    assert "fewer than two batch sizes" in text


def test_a_bare_csv_is_redrawn_beside_itself(tmp_path: Path) -> None:
    run = _run_directory(tmp_path / "run")
    from_run = write_report(run)
    lone = tmp_path / "kept.csv"
    lone.write_bytes((run / "results.csv").read_bytes())
    written = redraw(lone)
    assert written[0] == tmp_path / "kept-report" / "report.md"
    assert len(written) == len(from_run) - 1
    assert lone.read_bytes() == (run / "results.csv").read_bytes()
    with pytest.raises(UserError, match="no such run directory or"):
        redraw(tmp_path / "absent.csv")


def test_a_place_where_no_folder_can_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "plots").write_bytes(b"a file")
    with pytest.raises(UserError, match="cannot make"):
        save(draw(_table(["van_b0"])), tmp_path / "plots")


def test_models_that_change_places_are_joined_and_the_order_says_where(tmp_path: Path) -> None:
    table = _table(["van_b0", "resnet18", "resnet50"], batch_size=(8,), precision=("fp32", "bf16"))
    files, _ = _draw(table, tmp_path)
    words = _words(files["order.svg"])
    assert {"fp32", "bf16"} <= set(words)
    assert not any(word.startswith("batch") for word in words), "all have the same"
    (drawn,) = [each for each in draw(table) if each.name == "order"]
    assert drawn.figure is not None
    points = [line for line in drawn.figure.axes[0].lines if line.get_linestyle() == "None"]
    heights = np.sort(np.array([line.get_ydata() for line in points], dtype=float), axis=0)
    assert heights[-1].tolist() == [1, 1], "each over the fastest of its own configuration"
    assert (heights[0] < 1).all()
    # A configuration that one model alone has is no order.
    alone = [row for row in table if row["precision"] == "fp32" or row["model"] == "van_b0"]
    _, missing = _draw(alone, tmp_path)
    assert missing["order"] == "fewer than two configurations were measured"


def test_the_roof_of_a_run_is_drawn_where_there_are_ceilings(tmp_path: Path) -> None:
    files, _ = _draw(_bounded(_table(["van_b0"], batch_size=(8,))), tmp_path)
    words = _words(files["bound.svg"])
    assert "images/s that the ceilings allow" in words
    assert not any("batch size" in word for word in words), "one batch needs no number at its point"
