"""The columns are the contract's, rows follow from records, and both ways to a DataFrame give the same table."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pandas as pd
import pytest
from builders import make_environment, make_facts, make_record, make_round, make_sweep
from pandas.testing import assert_frame_equal
from rich.console import Console

from vanbench.errors import UserError
from vanbench.record.measurement import Disturbance
from vanbench.record.record import Failed, Outcome, Record, Skipped
from vanbench.record.store import Store
from vanbench.report.columns import COLUMNS, CONTRACT
from vanbench.report.columns_page import document
from vanbench.report.frames import load_frame
from vanbench.report.screen import remedy_lines, summary_table
from vanbench.report.table import Row, labels, read_rows, rows
from vanbench.report.to_csv import csv_text
from vanbench.report.to_markdown import heading_of_run, markdown
from vanbench.report.write import write_table
from vanbench.spec.cell import Cell

ROOT = Path(__file__).parent.parent
ORDER = re.findall(
    r"\w+",
    """schema_version, status, reason, model, task, batch_size, image_size, precision, memory_format, compile, form,
    depthwise, device, threads, images_per_s, images_per_s_low, images_per_s_high, ratio, ratio_low, ratio_high,
    median_s, p95_s, samples, rounds, warmup_s, compile_s, peak_bytes, params, macs, bytes_modelled,
    bandwidth_bytes_per_s, bound_images_per_s, bound_fraction, bound_kind, energy_j_per_image, flags, machine_key,
    device_name, torch_version, vanbench_version, key""",
)
FAILED = Failed(kind="out_of_memory", message="killed\nby the | kernel", rerun="vanbench run --models resnet18")


def _speeds(cell: Cell, sample_s: float, spread: float = 0.01, count: int = 5) -> Record:
    rounds = [make_round(f"g{i}", [sample_s * (1 + spread * i)] * 6, images=cell.batch_size) for i in range(count)]
    return make_record(cell, rounds)


def _table(*outcomes: Outcome | None, **axes: tuple[int, ...]) -> list[Row]:
    """One contest of van_b0, resnet18 and convnext_tiny, each 0.1 s, 0.05 s and 0.2 s a sample, or not measured."""
    sweep = make_sweep(["van_b0", "resnet18", "convnext_tiny"], batch_size=(8,), **axes)
    records = []
    for cell, outcome, seconds in zip(sweep.cells(), outcomes or (None,) * 3, (0.1, 0.05, 0.2), strict=True):
        measured = _speeds(cell, seconds)
        records.append(measured if outcome is None else msgspec.structs.replace(measured, outcome=outcome))
    return rows(sweep, make_environment(), records)


def test_the_contracts_columns_come_first_in_its_order() -> None:
    assert [column.name for column in CONTRACT] == ORDER
    assert [column.name for column in COLUMNS][: len(ORDER)] == ORDER
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert {column.kind for column in COLUMNS} == {"text", "integer", "number"}


def test_the_committed_list_of_columns_is_up_to_date() -> None:
    """Otherwise write it again: open("docs/columns.md", "w").write(vanbench.report.columns_page.document())."""
    assert (ROOT / "docs" / "columns.md").read_text(encoding="utf-8") == document()


def test_every_value_has_the_kind_that_its_column_says() -> None:
    kinds = {"text": str, "integer": int, "number": (int, float)}
    for row in _table(None, FAILED, Skipped(reason="budget")):
        assert list(row) == [column.name for column in COLUMNS]
        for column in COLUMNS:
            assert row[column.name] is None or isinstance(row[column.name], kinds[column.kind]), column.name  # type: ignore[arg-type]


def test_the_reference_is_one_and_the_others_are_divided_by_it() -> None:
    van, resnet, convnext = _table()
    assert (van["ratio"], van["ratio_low"], van["ratio_high"], van["flags"]) == (1.0, None, None, None)
    assert resnet["ratio"] == pytest.approx(2)
    assert convnext["ratio"] == pytest.approx(0.5)
    assert resnet["ratio_to"] == "van_b0 bs8 fp32"
    assert resnet["images_per_s"] == pytest.approx(8 / (0.05 * 1.02))


def test_the_width_is_the_ratios_and_the_references_own_does_not_count_beside_others() -> None:
    van, resnet, _ = _table()
    assert van["half_width"] is None
    assert resnet["half_width"] == pytest.approx(0, abs=1e-12)
    alone = make_sweep(["van_b0"], batch_size=(8,))
    row = rows(alone, make_environment(), [_speeds(alone.cells()[0], 0.1, spread=0.1)])[0]
    assert row["half_width"] == pytest.approx(0.17, abs=0.05)
    assert row["flags"] == "wide"


@pytest.mark.parametrize("outcome", [FAILED, Skipped(reason="budget")])
def test_without_its_reference_a_cell_has_no_ratio_and_says_so(outcome: Outcome) -> None:
    van, resnet, convnext = _table(outcome, None, None)
    assert van["ratio"] is None
    assert van["flags"] is None
    for row in (resnet, convnext):
        assert (row["ratio"], row["ratio_low"], row["status"]) == (None, None, "measured")
        assert row["flags"] == "no_reference"


def test_a_failed_cell_has_its_reason_and_its_command_and_no_figure() -> None:
    _, failed, _ = _table(None, FAILED, None)
    assert failed["status"] == "failed"
    assert failed["reason"] == "out_of_memory: killed by the | kernel"
    assert failed["rerun"] == FAILED.rerun
    assert failed["rounds"] == 5
    absent = ("images_per_s", "ratio", "median_s", "p95_s", "samples", "peak_bytes", "half_width", "energy_j_per_image")
    assert [failed[name] for name in absent] == [None] * len(absent)


def test_the_95th_percentile_needs_59_steps() -> None:
    sweep = make_sweep(["van_b0"])
    for steps, shown in ((58, False), (59, True)):
        record = make_record(sweep.cells()[0], [make_round("g0", [0.1] * steps)])
        row = rows(sweep, make_environment(), [record])[0]
        assert (row["p95_s"] is not None) is shown
        assert row["median_s"] == pytest.approx(0.1)


def test_compile_time_is_the_cold_rounds_and_memory_is_the_largest() -> None:
    sweep = make_sweep(["van_b0"])
    made = [
        make_round("g0", compile_s=40.0, compile_cold=True, peak_bytes=5, energy_j=6.0, energy_images=2),
        make_round("g1", compile_s=3.0, peak_bytes=7),
    ]
    row = rows(sweep, make_environment(), [make_record(sweep.cells()[0], made)])[0]
    assert (row["compile_s"], row["peak_bytes"], row["energy_j_per_image"]) == (40.0, 7, 3.0)
    row = rows(sweep, make_environment(), [make_record(sweep.cells()[0], made[1:])])[0]
    assert (row["compile_s"], row["energy_j_per_image"]) == (None, None)


def test_device_and_threads_are_what_they_came_to_or_as_asked() -> None:
    sweep = make_sweep(["van_b0", "resnet18"])
    first, second = sweep.cells()
    table = rows(
        sweep,
        make_environment(),
        [make_record(first, facts=make_facts(threads=2)), make_record(second, [], Skipped(reason="not reached"))],
    )
    assert [(row["device"], row["threads"]) for row in table] == [("cpu", "2"), ("auto", "auto")]
    assert labels(table) == ["van_b0 bs1 fp32", "resnet18 bs1 fp32"]


def test_disturbances_are_columns() -> None:
    seen = Disturbance(window_s=10, steps=100, minor_faults=700, pressure_s=1, steal_s=0.5, involuntary_switches=30)
    sweep = make_sweep(["van_b0"])
    row = rows(sweep, make_environment(), [make_record(sweep.cells()[0], [make_round(disturbance=seen)])])[0]
    assert row["page_faults_per_step"] == 7
    assert row["pressure"] == pytest.approx(0.1)
    assert row["steal"] == pytest.approx(0.025)
    assert row["involuntary_per_s"] == 3
    assert row["throttled"] is None


def test_a_row_is_a_line_of_plain_numbers_and_empty_cells() -> None:
    table = _table(None, FAILED, Skipped(reason="line\nbreak, and comma"))
    text = csv_text(table)
    lines = text.splitlines()
    assert len(lines) == 4
    assert lines[0].split(",")[: len(ORDER)] == ORDER
    read = list(csv.DictReader(io.StringIO(text)))
    assert read[2]["reason"] == "line break, and comma"
    assert read[1]["images_per_s"] == ""
    assert read[0]["bound_kind"] == ""
    for column in COLUMNS:
        if column.kind != "text":
            assert all("e" not in row[column.name].lower() and row[column.name] != "nan" for row in read), column.name


def test_a_table_read_back_is_the_table() -> None:
    table = _table(None, FAILED, None)
    back = read_rows(csv_text(table), "it")
    for before, after in zip(table, back, strict=True):
        assert after == {name: pytest.approx(v, rel=1e-9) if isinstance(v, float) else v for name, v in before.items()}


def test_a_run_directory_and_its_csv_load_as_the_same_frame(tmp_path: Path) -> None:
    sweep = make_sweep(["van_b0", "resnet18", "NA"], batch_size=(8,))
    cells = sweep.cells()
    run = tmp_path / "run"
    with Store.create(run, sweep, make_environment()) as store:
        store.save(_speeds(cells[0], 0.1))
        store.save(msgspec.structs.replace(_speeds(cells[1], 0.05), outcome=FAILED))
        write_table(run, sweep, store.environment, store.in_order())
    from_run, from_csv = load_frame(run), load_frame(run / "results.csv")
    assert_frame_equal(from_run, from_csv, check_exact=True)
    assert list(from_run["model"]) == ["van_b0", "resnet18", "NA"]
    assert list(from_run["status"]) == ["measured", "failed", "skipped"]
    assert list(from_run["reason"])[2] == "not reached"
    assert str(from_run["peak_bytes"].dtype) == "Int64"
    assert str(from_run["images_per_s"].dtype) == "float64"
    assert pd.isna(from_run["ratio"][1])
    assert from_run["flags"][0] == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such run directory or results.csv"),
        (b"a,b\n1,2\n", "is not a results.csv of vanbench: it has no column status"),
        (b"", "it has no column"),
        (b"\xff\xfe\x00", "is not text"),
        (b"status,model,task,batch_size,image_size,images_per_s\nmeasured,m,infer,many,224,1\n", "line 2"),
        (
            b"status,model,task,batch_size,image_size,images_per_s,images_per_s_low,images_per_s_high\n"
            b"measured,m,infer,1,224,5,6,7\n",
            "line 2: images_per_s 5.0 is not within its interval, 6.0 to 7.0",
        ),
    ],
)
def test_what_is_no_table_is_refused_with_the_reason(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "results.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_frame(path)


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run directory"):
        load_frame(tmp_path)


def test_an_older_csv_without_the_newer_columns_still_loads(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_text("status,model,task,batch_size,image_size,images_per_s\nmeasured,van_b0,infer,8,224,27.3\n")
    frame = load_frame(path)
    assert list(frame.columns) == [column.name for column in COLUMNS]
    assert frame["images_per_s"][0] == 27.3


def test_making_and_writing_the_table_loads_neither_pandas_nor_matplotlib_nor_torch() -> None:
    script = (
        "import sys; sys.path[:0] = ['.', 'tests']\n"
        "from builders import make_environment, make_record, make_sweep\n"
        "import vanbench.report.write, vanbench.report.screen\n"
        "from vanbench.report.table import rows; from vanbench.report.to_csv import csv_text\n"
        "from vanbench.report.to_markdown import markdown, heading_of_run\n"
        "sweep = make_sweep(['van_b0']); record = make_record(sweep.cells()[0])\n"
        "table = rows(sweep, make_environment(), [record]); csv_text(table)\n"
        "markdown(table, heading_of_run(sweep, make_environment()), [], [])\n"
        "heavy = {'pandas', 'matplotlib', 'torch', 'timm', 'rich'} & set(sys.modules); assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


def test_the_report_says_what_where_and_why_and_survives_hostile_names() -> None:
    hostile = "a|b`c`<i>$x$_y_"
    sweep = make_sweep(["van_b0", hostile, "resnet18"], batch_size=(8,), question="Is *it* faster?")
    cells = sweep.cells()
    records = [_speeds(cells[0], 0.1), _speeds(cells[1], 0.05), make_record(cells[2], [], FAILED)]
    table = rows(sweep, make_environment(), records)
    text = markdown(table, heading_of_run(sweep, make_environment()), [("Figure", "plots/a.png")], ["no figure b"])
    assert "Is \\*it\\* faster?" in text
    assert "3 cells: 2 measured, 1 failed." in text
    assert "out\\_of\\_memory: killed by the \\| kernel" in text
    assert "`vanbench run --models resnet18`" in text
    assert "![Figure](plots/a.png)" in text
    assert "torch 2.15.0" in text
    assert "95 % interval" in text
    measured = next(part for part in text.split("\n\n") if part.startswith("| cell | images/s"))
    # Fastest first, and every line has as many unescaped bars as the head.
    lines = measured.splitlines()
    assert lines[2].startswith("| a\\|b")
    assert {line.replace("\\|", "").count("|") for line in lines} == {11}
    assert "of bound" in lines[0]
    assert "none: no bounds; measure them with vanbench ceilings" in text


def _printed(table: list[Row], width: int = 100) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(summary_table(table))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_terminals_table_fits_and_puts_the_fastest_first_and_failures_last() -> None:
    sweep = make_sweep(["van_b0", "convnext_tiny"], batch_size=(1, 8), memory_format=("contiguous", "channels_last"))
    records = [_speeds(cell, 0.1 / (i + 1)) for i, cell in enumerate(sweep.cells())]
    records[3] = make_record(sweep.cells()[3], [], FAILED)
    lines = _printed(rows(sweep, make_environment(), records))
    assert max(map(len, lines)) <= 100
    starts = [line.split()[:2] for line in lines if "bs" in line]
    assert len(starts) == 8
    assert starts[0] == ["convnext_tiny", "bs1"]
    assert starts[2] == ["van_b0", "bs1"]
    assert starts[-1] == ["convnext_tiny", "bs1"]
    assert "out_of_memory" in "".join(lines[-3:])
    assert "…" not in "".join(lines)


def test_the_terminals_table_draws_markup_in_names_as_it_stands() -> None:
    sweep = make_sweep(["[red]x[/]"], batch_size=(8,))
    lines = _printed(rows(sweep, make_environment(), [_speeds(sweep.cells()[0], 0.1)]))
    assert any("[red]x[/]" in line for line in lines)


def test_each_flag_is_explained_once_and_failed_cells_have_their_command() -> None:
    lines = remedy_lines(_table(FAILED, None, None))
    assert [line.split(":")[0] for line in lines] == ["no_reference (2 cells)", "to run it alone"]
    assert lines[-1].endswith(FAILED.rerun)
