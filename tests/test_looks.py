"""`profile` and `depthwise`: real workers on small models, their tables and pages, and what people mistype."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from builders import make_ceilings, make_environment, roof
from pandas.testing import assert_frame_equal

import vanbench
from vanbench.cli import main
from vanbench.errors import UserError
from vanbench.execute.depthwise import Axes, cases_of, time_depthwise
from vanbench.execute.profile import Kept, Missed, profile_cells
from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry, inputs_of, reference
from vanbench.record.ceilings import Book, Stream
from vanbench.record.folder import Lone, make_folder, read_folder, save_lone, save_profiles
from vanbench.record.ops import Op, Operand
from vanbench.record.profile import Case, CaseVisit, Profile, ProfiledOp, Shape
from vanbench.report.class_lines import warnings_of
from vanbench.report.depthwise_columns import DEPTHWISE_COLUMNS, depthwise_rows, op_of
from vanbench.report.look import ops_table, write_folder
from vanbench.report.op_tables import first_break, groups, kinds, steps
from vanbench.report.ops_columns import OPS_COLUMNS, op_rows
from vanbench.report.table import read_rows
from vanbench.report.to_csv import csv_text
from vanbench.spec.cell import Cell
from vanbench.spec.names import DEPTHWISE, DIRECTIONS
from vanbench.spec.sweep import parse_sweep
from vanbench.worker.depthwise import shapes
from vanbench.worker.profile import primitives

KINDS = {"text": str, "integer": int, "number": (int, float)}


# --- a real profile


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VAN-B0 and ResNet-18 at 64 px, in channels_last, a few steps each."""
    out = tmp_path_factory.mktemp("profile") / "p"
    flags = {"models": "van_b0,resnet18", "batch-size": "1", "image-size": "64", "memory-format": "channels_last"}
    events = list(profile_cells(parse_sweep({}, flags), out=out, seconds=0.5))
    assert sum(isinstance(event, Kept) for event in events) == 2
    write_folder(out)
    return out


@pytest.mark.slow
def test_every_operation_of_a_step_has_its_time_its_cost_and_who_computed_it(profiled: Path) -> None:
    rows = read_rows((profiled / "ops.csv").read_text(), "ops.csv", OPS_COLUMNS, ("op",), "ops.csv")
    van = [row for row in rows if row["model"] == "van_b0"]
    assert len(van) == 277
    assert all(row["seconds"] > 0 for row in rows)  # type: ignore[operator]
    assert all(row["flops"] is not None and row["bytes"] for row in rows)
    convs = [row for row in van if row["op"] == "aten.convolution.default"]
    assert len(convs) == 108
    if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        depthwise = [row for row in convs if row["op_class"] == "depthwise"]  # tiny 1x1 convs may be native
        assert {row["backend"] for row in depthwise} == {"oneDNN"}
        assert all("convolution" in str(row["kernel"]) for row in depthwise)
    dilated = [row for row in convs if row["dilation"] == 3]
    assert {(row["kernel_size"], row["op_class"], row["unit"]) for row in dilated} == {(7, "depthwise", "vector")}
    assert len(dilated) == 13
    # 64 px: maps of 16, 8, 4 and 2 pixels, where few of the 49 taps fall into the image.
    assert all(row["flops"] < row["nominal_flops"] / 2 for row in dilated)  # type: ignore[operator]


@pytest.mark.slow
def test_the_audit_names_the_first_operation_that_lost_channels_last(profiled: Path) -> None:
    van, resnet = steps(ops_table(read_folder(profiled)))
    broke = first_break(van)
    assert broke is not None
    assert broke["op"] == "aten.clone.default"
    assert broke["shape_out"] == "1x32x16x16", "the copy after the first stage"
    assert any("channels_last is lost first at operation" in line for line in warnings_of(van))
    assert first_break(resnet) is None


@pytest.mark.slow
def test_the_sum_over_operations_is_the_step_or_the_difference_is_said(profiled: Path) -> None:
    for step in steps(ops_table(read_folder(profiled))):
        said = any("add up to" in line for line in warnings_of(step))
        assert said == (abs(step.off) > 0.05)
        # Other processes decide how near they are: the operations are timed after the steps.
        assert -0.9 < step.off < 2.0
        assert sum(group.share for group in groups(step, "op_class")) == pytest.approx(1.0)
        assert sum(group.seconds for group in groups(step, "stage")) == pytest.approx(step.total_s)
        assert sum(group.operations for group in groups(step, "op_class")) == len(step.rows)


@pytest.mark.slow
def test_a_profile_is_redrawn_without_torch(profiled: Path) -> None:
    (profiled / "ops.csv").unlink()
    code = f"""
import sys
from vanbench.cli import main
assert main(["report", {str(profiled)!r}]) == 0
print(sorted(m for m in ("torch", "timm") if m in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
    assert (profiled / "ops.csv").exists()
    assert (profiled / "plots" / "classes.png").exists()
    assert "depthwise 7x7 dilation 3" in (profiled / "report.md").read_text()


@pytest.mark.slow
def test_a_cell_that_fails_is_named_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)  # so that `tests.own_models` can be imported by a worker
    flags = {"models": "tests.own_models:Raises,resnet18", "batch-size": "1", "image-size": "32"}
    sweep = parse_sweep({}, {**flags, "precision": "fp32", "memory-format": "contiguous"})
    events = list(profile_cells(sweep, out=tmp_path / "p", seconds=0.1))
    missed = [event for event in events if isinstance(event, Missed)]
    assert [event.cell.model for event in missed] == ["tests.own_models:Raises"]
    assert sum(isinstance(event, Kept) for event in events) == 1
    write_folder(tmp_path / "p", plots=False)
    assert "Not profiled" in (tmp_path / "p" / "report.md").read_text()


def test_compiled_cells_are_refused(tmp_path: Path) -> None:
    sweep = parse_sweep({}, {"models": "resnet18", "compile": "default"})
    with pytest.raises(UserError, match="profile takes eager cells alone"):
        list(profile_cells(sweep, out=tmp_path / "p"))
    assert not (tmp_path / "p").exists()


# --- tables from values made by hand


def _op(name: str, seconds: list[float], module: str = "block1.0", **changes: Any) -> ProfiledOp:
    x = Operand(shape=(1, 4, 8, 8), stride=(256, 64, 8, 1), dtype="float32", storage=0)
    y = msgspec.structs.replace(x, storage=1)
    fields = {"inputs": {"self": (x,)}, "outputs": (y,), "module": module, **changes}
    return ProfiledOp(op=Op(name=name, **fields), seconds=seconds)


def _profile(*ops: ProfiledOp, step_s: float = 1.0) -> Profile:
    return Profile(
        cell=Cell(model="van_b0"), device="cpu", device_name="", threads=2, ops=list(ops), step_s=[step_s, step_s]
    )


def test_a_row_of_ops_follows_from_its_times_and_its_roof() -> None:
    profile = _profile(_op("aten.gelu.default", [0.2, 0.1, 0.9]), _op("aten.clone.default", [0.6, 0.6, 0.6]))
    streams = (Stream(kind="copy", bytes=1, ceiling=roof(2048.0)),)
    table = op_rows(profile, make_ceilings(streams=streams, launch=None), make_environment())
    gelu, clone = table
    assert gelu["seconds"] == 0.2
    assert gelu["share"] == pytest.approx(0.25)
    assert gelu["bytes"] == 2 * 4 * 256
    assert gelu["flops"] == 5 * 256
    assert gelu["bound_s"] == pytest.approx(1.0)
    assert gelu["bound_fraction"] == pytest.approx(5.0)
    assert gelu["bound_kind"] == "bandwidth"
    assert (clone["op_class"], clone["intensity"]) == ("layout copy", None)
    for row in table:
        for column in OPS_COLUMNS:
            assert row[column.name] is None or isinstance(row[column.name], KINDS[column.kind]), column.name  # type: ignore[arg-type]
    back = read_rows(csv_text(table, OPS_COLUMNS), "it", OPS_COLUMNS, ("op",), "ops.csv")
    assert [row["seconds"] for row in back] == [0.2, 0.6]


def test_without_ceilings_there_are_times_and_no_bounds() -> None:
    (row,) = op_rows(_profile(_op("aten.gelu.default", [0.2])), None, make_environment())
    assert (row["bound_s"], row["bound_fraction"], row["bound_kind"]) == (None, None, None)


def test_a_step_whose_operations_do_not_add_up_says_how_far_off() -> None:
    table = op_rows(_profile(_op("aten.gelu.default", [0.8]), step_s=1.0), None, make_environment())
    (step,) = steps(table)
    assert step.off == pytest.approx(-0.2)
    assert "20 % less than the step without a profiler" in warnings_of(step)[0]
    (close,) = steps(op_rows(_profile(_op("aten.gelu.default", [0.96])), None, make_environment()))
    assert warnings_of(close) == []


def test_an_operation_without_a_formula_is_named_and_leaves_its_class_without_a_bound() -> None:
    table = op_rows(
        _profile(_op("aten.odd.default", [0.5]), _op("aten.gelu.default", [0.5])), make_ceilings(), make_environment()
    )
    (step,) = steps(table)
    assert any("no formula for aten.odd.default" in line for line in warnings_of(step))
    by = {group.name: group for group in groups(step, "op_class")}
    assert by["other"].bound_s is None
    assert by["activation"].bound_s is not None
    assert [group.name for group in kinds(step)] == ["other (odd)", "activation (gelu)"]


def test_an_operation_that_was_given_contiguous_is_not_blamed_for_handing_it_on() -> None:
    table = op_rows(
        _profile(_op("aten.gelu.default", [0.5]), _op("aten.clone.default", [0.5])), None, make_environment()
    )
    gelu, clone = table
    assert (gelu["layout_in"], gelu["layout_out"]) == ("contiguous", "contiguous")
    assert first_break(steps(table)[0]) is None
    clone["layout_in"] = "channels_last"
    assert first_break(steps(table)[0]) is clone


def test_primitives_are_read_from_onednns_log_of_old_and_new_versions() -> None:
    text = (
        "onednn_verbose,v1,info,oneDNN v3.12.0\n"
        "onednn_verbose,v1,primitive,exec,cpu,reorder,jit:uni,undef,src:f32,,,32x1x7x7,0.01\n"
        "onednn_verbose,v1,primitive,exec,cpu,convolution,jit_dw:avx512_core,forward_training,src:f32,,,mb8,0.2\n"
        "onednn_verbose,exec,cpu,convolution,brgconv:avx512_core,forward,src,,,x,0.3\n"
        "onednn_verbose,v1,primitive,create:cache_miss,cpu,convolution,jit,x\n"
        "something else\n"
    )
    assert primitives(text) == ["reorder jit:uni", "convolution jit_dw:avx512_core", "convolution brgconv:avx512_core"]


# --- depthwise convs alone


def test_the_table_of_implementations_has_every_word_and_no_other() -> None:
    assert tuple(IMPLEMENTATIONS) == DEPTHWISE


@pytest.mark.parametrize("word", DEPTHWISE)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "geometry", [Geometry(3), Geometry(5, 2), Geometry(7, 3), Geometry(7, 1, 2), Geometry(3, 3, 2)]
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_every_implementation_gives_float64s_answer(
    word: str, direction: str, geometry: Geometry, memory_format: torch.memory_format
) -> None:
    tensors = inputs_of(3, 5, 9, 7, geometry, torch.float64, memory_format, torch.device("cpu"), 0)
    x, w, g = tensors
    implementation = IMPLEMENTATIONS[word]
    reason = implementation.why_not("cpu", geometry, torch.float64)
    if reason is not None:
        pytest.skip(reason)
    got = {
        "forward": lambda: implementation.forward(x, w, None, geometry)[[0, 2]],
        "grad_input": lambda: implementation.grad_input(g, x, w, geometry)[[0, 2]],
        "grad_weight": lambda: implementation.grad_weight(g, x, w, geometry),
    }[direction]()
    assert torch.allclose(got, reference(direction, x, w, g, geometry), rtol=1e-12, atol=1e-12)


def test_the_depthwise_convs_of_the_models_are_found() -> None:
    seen = {(s.channels, s.height, s.kernel_size, s.dilation, s.stride) for s in shapes("van_b0", 224)}
    assert (32, 56, 7, 3, 1) in seen
    assert (1024, 7, 3, 1, 1) in seen
    assert len(seen) == 12
    assert {(s.kernel_size, s.dilation) for s in shapes("convnext_atto", 224)} == {(7, 1)}
    assert shapes("resnet18", 224) == []


def test_what_goes_without_saying_depends_on_the_device() -> None:
    axes = Axes(None, (), (), ("bf16",), ("channels_last",), DIRECTIONS, ())
    on_cpu, on_cuda = axes.on("cpu"), axes.on("cuda:0")
    assert (on_cpu.batch_size, on_cpu.implementations) == (8, ("native", "polyphase", "cpu"))
    assert (on_cuda.batch_size, on_cuda.implementations) == (
        64,
        ("native", "polyphase", "cuda", "triton", "cudnn", "aten"),
    )
    asked = axes._replace(batch_size=3, implementations=("aten",))
    assert asked.on("cuda") == asked.on("cpu") == asked


def _shape(model: str, channels: int, px: int, kernel: int, dilation: int, stride: int = 1) -> Shape:
    return Shape(
        model=model, channels=channels, height=px, width=px, kernel_size=kernel, dilation=dilation, stride=stride
    )


def test_cases_are_every_map_with_every_kernel_and_those_that_occur_are_marked() -> None:
    axes = Axes(8, (3, 7), (1, 3), ("fp32",), ("contiguous", "channels_last"), DIRECTIONS, ("native",))
    found = [
        _shape("a", 32, 56, 7, 3),
        _shape("b", 32, 56, 7, 3),
        _shape("a", 64, 28, 5, 1),
        _shape("a", 96, 56, 3, 1, 2),
    ]
    cases = cases_of(found, axes)
    places = {(c.channels, c.kernel_size, c.dilation, c.stride) for c in cases}
    assert len(places) == 2 * 4 + 1 + 1, "two maps with four kernels each, the 5x5 that occurs, the strided one"
    assert len(cases) == len(places) * 6
    by = {(c.channels, c.kernel_size, c.dilation, c.stride): c.models for c in cases}
    assert by[32, 7, 3, 1] == ("a", "b")
    assert by[64, 5, 1, 1] == ("a",)
    assert by[32, 3, 1, 1] == ()
    alone = cases_of(found, axes._replace(kernel_sizes=()))
    assert {c.models for c in alone} == {("a", "b"), ("a",)}


CASE = Case(
    batch_size=2, channels=4, height=8, width=8, kernel_size=7, dilation=3, stride=1, precision="fp32",
    memory_format="contiguous", direction="forward", models=("van_b0",),
)  # fmt: skip


def _visit(seconds: float, word: str = "native", case: int = 0, **changes: Any) -> CaseVisit:
    fields = {"case": case, "depthwise": word, "warm_s": seconds, "cold_s": 2 * seconds, **changes}
    return CaseVisit(**fields)


def test_a_row_of_depthwise_has_means_over_rounds_and_both_roofs() -> None:
    lone = Lone(
        cases=(CASE, msgspec.structs.replace(CASE, direction="grad_weight"), msgspec.structs.replace(CASE, dilation=1)),
        implementations=("native", "other"),
        device="cpu",
        threads=2,
        rounds=(
            (_visit(0.1), _visit(0.05, "other"), _visit(1.0, case=1, status="failed", reason="wrong_answer: x")),
            (_visit(0.4), _visit(0.1, "other")),
        ),
    )
    table = depthwise_rows(lone, make_ceilings(launch=None), make_environment())
    assert len(table) == 6
    native, other, failed = table[:3]
    assert native["warm_s"] == pytest.approx(0.2)
    assert native["cold_s"] == pytest.approx(0.4)
    assert (native["ratio"], native["ratio_low"]) == (1.0, None)
    assert other["ratio"] == pytest.approx(8**0.5)
    assert native["warm_s_low"] < 0.2 < native["warm_s_high"]  # type: ignore[operator]
    assert (failed["status"], failed["warm_s"], failed["reason"]) == ("failed", None, "wrong_answer: x")
    assert (table[4]["status"], table[4]["reason"]) == ("skipped", "budget")
    moved = 4 * (2 * 2 * 4 * 64 + 4 * 49)
    assert native["bytes"] == moved
    assert native["cold_bound_s"] == pytest.approx(moved / 10e9), "main memory's roof"
    assert native["flops"] < native["nominal_flops"]  # type: ignore[operator]
    assert native["cold_fraction"] == pytest.approx(native["cold_bound_s"] / 0.4)  # type: ignore[operator]
    for row in table:
        for column in DEPTHWISE_COLUMNS:
            assert row[column.name] is None or isinstance(row[column.name], KINDS[column.kind]), column.name  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_case_costs_what_the_same_conv_costs_in_a_model(direction: str) -> None:
    from vanbench.analysis.cost import cost

    found = cost(op_of(msgspec.structs.replace(CASE, direction=direction)))
    taps = 0
    for row in range(8):
        for column in range(8):
            taps += sum(0 <= row + 3 * i - 9 < 8 for i in range(7)) * sum(0 <= column + 3 * i - 9 < 8 for i in range(7))
    assert found.flops == 2 * 2 * 4 * taps
    assert found.nominal_flops == 2 * 2 * 4 * 64 * 49
    assert found.op_class == "depthwise"
    maps = 4 * 2 * 4 * 64
    weight = 4 * 4 * 49
    assert found.bytes == 2 * maps + weight


@pytest.mark.slow
def test_depthwise_convs_of_a_model_are_timed_warm_and_cold_and_kept(tmp_path: Path) -> None:
    axes = Axes(2, (), (1,), ("fp32", "bf16"), ("channels_last",), DIRECTIONS, ("native",))
    out = tmp_path / "d"
    list(time_depthwise(["van_b0"], axes, image_size=32, rounds=2, budget_s=600, out=out))
    write_folder(out)
    with (out / "depthwise.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 * 3 * 2
    measured = [row for row in rows if row["status"] == "measured"]
    assert {row["precision"] for row in measured} >= {"fp32"}
    assert all(row["status"] != "failed" for row in rows), [row["reason"] for row in rows if row["status"] == "failed"]
    for row in measured:
        assert float(row["warm_s"]) > 0
        assert float(row["cold_s"]) > 0
        assert row["models"] == "van_b0"
        assert row["rounds"] == "2"
        assert float(row["check_error"]) <= float(row["check_tolerance"])
    assert list((out / "plots").glob("depthwise-*.png"))


@pytest.mark.slow
def test_a_wrong_kernel_is_a_failed_row_and_has_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vanbench.record.task import TimeCases, Visited
    from vanbench.worker import depthwise as worker

    native = IMPLEMENTATIONS["native"]
    wrong = native._replace(forward=lambda x, w, bias, geometry: native.forward(x, w, bias, geometry) * 1.001)
    monkeypatch.setitem(IMPLEMENTATIONS, "wrong", wrong)
    said: list[Any] = []

    class Ear:
        def send(self, message: Any) -> None:
            said.append(message)

    worker.serve(TimeCases(cases=(CASE,), implementations=("native", "wrong"), device="cpu"), Ear())  # type: ignore[arg-type]
    visits = {each.visit.depthwise: each.visit for each in said if isinstance(each, Visited)}
    assert visits["native"].status == "measured"
    assert visits["wrong"].status == "failed"
    assert visits["wrong"].reason.startswith("wrong_answer")
    assert visits["wrong"].warm_s is None


# --- folders


def test_a_folder_that_holds_something_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(UserError, match="is not empty"):
        make_folder(tmp_path, make_environment(), Book())
    assert (tmp_path / "x").read_text() == "mine"


def test_what_a_folder_keeps_is_read_back(tmp_path: Path) -> None:
    make_folder(tmp_path / "f", make_environment(), Book(entries=(make_ceilings(),)))
    profile = _profile(_op("aten.gelu.default", [0.2]))
    save_profiles(tmp_path / "f", [profile], [("x", "exception: y")])
    lone = Lone(cases=(CASE,), implementations=("native",), device="cpu", threads=2, rounds=((_visit(0.1),),))
    save_lone(tmp_path / "f", lone)
    folder = read_folder(tmp_path / "f")
    assert folder.profiles is not None
    assert folder.profiles.profiles == (profile,)
    assert folder.lone == lone
    assert folder.book.entries == (make_ceilings(),)
    written = {path.name for path in write_folder(tmp_path / "f")}
    assert {"ops.csv", "depthwise.csv", "report.html", "report.md", "ceilings.png"} <= written
    page = (tmp_path / "f" / "report.html").read_text(encoding="utf-8")
    for title in ("Operations", "Depthwise convs alone", "The measured ceilings"):
        assert f">{title}</h2>" in page
    assert page.count("<svg") == len(list((tmp_path / "f" / "plots").glob("*.svg"))) > 3


def test_folders_and_their_tables_load_as_the_same_frame(tmp_path: Path) -> None:
    for name in ("profile", "depthwise"):
        make_folder(tmp_path / name, make_environment(), Book(entries=(make_ceilings(),)))
    save_profiles(tmp_path / "profile", [_profile(_op("aten.gelu.default", [0.2, 0.3]))], [])
    lone = Lone(cases=(CASE,), implementations=("native",), device="cpu", threads=2, rounds=((_visit(0.1),),))
    save_lone(tmp_path / "depthwise", lone)
    for name, table, columns in (
        ("profile", "ops.csv", OPS_COLUMNS),
        ("depthwise", "depthwise.csv", DEPTHWISE_COLUMNS),
    ):
        write_folder(tmp_path / name, plots=False)
        frame = vanbench.load(tmp_path / name)
        assert list(frame.columns) == [column.name for column in columns]
        assert len(frame) == 1
        assert_frame_equal(frame, vanbench.load(tmp_path / name / table), check_exact=True)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds nothing of vanbench"):
        read_folder(tmp_path)
    (tmp_path / "environment.json").write_text("{}")
    with pytest.raises(UserError, match="is not what vanbench wrote"):
        read_folder(tmp_path)


# --- the command line


@pytest.mark.slow
def test_profile_prints_its_table_and_where_it_lies(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["profile", "--models", "resnet18", "--batch-size", "1", "--image-size", "32", "--seconds", "0.1"]
    assert main([*words, "--memory-format", "contiguous", "--out", "p"]) == 0
    said = capsys.readouterr()
    assert "dense conv" in said.out
    assert "p: ops.csv, report.html, report.md, plots/" in said.out
    assert "no ceilings of this machine" in said.err
    assert main([*words, "--memory-format", "contiguous", "--out", "q", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 68
    assert main([*words, "--out", "p"]) == 2, "the folder is taken"
