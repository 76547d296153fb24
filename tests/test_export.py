"""Exports are read by the tools they are for, carry the figures that were measured, and say what they leave behind."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import make_environment, make_facts, make_record, make_round, make_sweep
from hypothesis import given
from hypothesis import strategies as st
from pytest_benchmark.stats import Stats

from vanbench.cli.app import main
from vanbench.record.record import Failed, Skipped
from vanbench.record.store import Store
from vanbench.report.exporters import FORMATS, Wishes, export
from vanbench.report.stored import Entry, Stored, read_stored
from vanbench.report.table import rows
from vanbench.report.timm_tables import read_timm
from vanbench.report.write import write_table
from vanbench.spec.cell import Cell

FAILED = Failed(kind="exception", message="no such\nthing", rerun="vanbench run")


def _run(
    path: Path,
    models: Sequence[str] = ("van_b0", "resnet18", "resnet50"),
    *,
    date: str = "2026-01-02T03:04:05Z",
    slower: float = 1.0,
    **axes: Any,
) -> Path:
    """A run directory: resnet18 failed, resnet50 was not reached, the others took 13 samples of 2 steps in 5 rounds."""
    sweep = make_sweep(models, **{"batch_size": (8,), **axes})
    with Store.create(path, sweep, make_environment(date=date)) as store:
        for place, cell in enumerate(sweep.cells()):
            if cell.model.startswith("resnet"):
                outcome = FAILED if cell.model == "resnet18" else Skipped(reason="budget")
                store.save(make_record(cell, [], outcome))
                continue
            step = 0.01 * slower * (1 + place)
            times = [[2 * step * (1 + 0.01 * ((r * 7 + i * 5) % 11)) for i in range(13)] for r in range(5)]
            made = [make_round(f"r{r}", each, images=2 * cell.batch_size, steps=2) for r, each in enumerate(times)]
            store.save(make_record(cell, made))
        write_table(path, sweep, store.environment, store.in_order())
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return _run(tmp_path / "run")


def _made(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[str, str]:
    """What `vanbench export` printed: to the standard stream and to the error stream."""
    assert main(["export", *map(str, words)]) == 0
    seen = capsys.readouterr()
    return seen.out, seen.err


def _rate(run: Path, model: str = "van_b0") -> dict[str, float]:
    """images_per_s and its ends, of a model's first row in results.csv."""
    with open(run / "results.csv", newline="") as file:
        line = next(line for line in csv.DictReader(file) if line["model"] == model)
    return {name: float(line[name]) for name in ("images_per_s", "images_per_s_low", "images_per_s_high", "median_s")}


# --- what holds for every format ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_only_measured_rows_are_exported_and_the_others_are_named(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, said = _made(capsys, run, "--to", name)
    assert "van_b0" in text
    assert "resnet" not in text
    assert "left out: resnet18 bs8 fp32: failed, exception: no such thing" in said
    assert "left out: resnet50 bs8 fp32: skipped, budget" in said


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pytest-benchmark"])
def test_a_run_directory_and_its_csv_give_the_same_export(
    name: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _made(capsys, run, "--to", name) == _made(capsys, run / "results.csv", "--to", name)


@pytest.mark.parametrize("name", FORMATS)
def test_out_writes_what_would_have_been_printed(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = _made(capsys, run, "--to", name)
    written, _ = _made(capsys, run, "--to", name, "--out", run / "exported.txt")
    assert (run / "exported.txt").read_text() == text
    assert written.splitlines()[0] == str(run / "exported.txt")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "bencer"], "did you mean 'bencher'?"),
        (["--to", "timm", "--task", "inference"], "unknown task 'inference'; did you mean 'infer'?"),
        (["--to", "timm", "--only", "precison=fp32"], "unknown axis of --only 'precison'; did you mean 'precision'?"),
        (["--to", "timm", "--only", "precision"], "'precision' is not axis=value"),
        (["--to", "timm", "--only", "precision=bf16"], "unknown precision 'bf16'"),
        (["--to", "timm", "--only", "task=infer,task=train"], "--only gives task twice"),
        (["--to", "timm", "--only", "task=infer", "--task", "train"], "exclude each other"),
        (["--to", "bencher", "--only", "model=resnet18"], "no measured row to export; resnet18 bs8 fp32: failed"),
        (["--to", "otava", "--out", "x.yaml"], "is the name of the configuration"),
        (["--to", "otava", "--commit", "a,b"], "names 2 commits for 1 runs"),
        ([], "Missing option '--to'"),
        (["--to", "bencher", "--out", "no/such/folder.json"], "cannot write"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    words: list[str], said: str, run: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), *words]) == 2
    seen = capsys.readouterr()
    assert said in seen.err
    assert seen.out == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such run directory or results.csv"),
        ("a,b\n1,2\n", "is not a results.csv of vanbench"),
        ("status,model,task,batch_size,image_size,images_per_s\n", "has no rows"),
        ("status,model,task,batch_size,image_size,images_per_s\nmeasured,,infer,1,224,5\n", "row 1: no model is named"),
    ],
)
def test_a_file_that_is_no_table_exits_with_2(
    content: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "x.csv").write_text(content)
    assert main(["export", str(tmp_path / "x.csv"), "--to", "bencher"]) == 2
    assert said in capsys.readouterr().err


def test_a_wrong_format_is_told_before_any_file_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "nowhere", "--to", "tim"]) == 2
    assert "did you mean 'timm'?" in capsys.readouterr().err


def test_a_figure_in_a_row_that_was_not_measured_is_not_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = "status,reason,model,task,batch_size,image_size,images_per_s"
    lines = [head, "measured,,van_b0,infer,8,224,50", "failed,timeout: slow,resnet18,infer,8,224,60"]
    lines += ["measured,,resnet50,infer,8,224,nan", "measured,,resnet34,infer,8,224,"]
    (tmp_path / "x.csv").write_text("\n".join(lines) + "\n")
    text, said = _made(capsys, tmp_path / "x.csv", "--to", "bencher")
    assert json.loads(text) == {"van_b0 bs8 fp32": {"throughput": {"value": 50.0}}}
    assert "left out: resnet18 bs8 fp32: failed, timeout: slow" in said
    assert said.count("measured, no images/s") == 2


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "otava"])
def test_several_runs_make_a_series_for_otava_alone(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), str(run), "--to", name]) == 2
    assert f"{name} takes one run, 2 are given (several: otava)" in capsys.readouterr().err


def test_two_rows_of_one_name_are_refused_rather_than_one_of_them_lost(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (run / "results.csv").read_text().splitlines()
    (tmp_path / "twice.csv").write_text("\n".join([*lines, lines[1]]) + "\n")
    assert main(["export", str(tmp_path / "twice.csv"), "--to", "bencher"]) == 2
    assert "several rows named 'van_b0 bs8 fp32'" in capsys.readouterr().err


def test_only_picks_rows_by_any_axis_under_any_alias(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run(
        tmp_path / "run", ("van_b0", "convnext_tiny"), batch_size=(1, 8), memory_format=("contiguous", "channels_last")
    )
    text, _ = _made(
        capsys, run, "--to", "bencher", "--only", "models=convnext_t, batch-size=8,memory_format=channels_last"
    )
    assert list(json.loads(text)) == ["convnext_tiny bs8 fp32 channels_last"]


def test_an_exported_table_of_timms_says_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__).parent / "timm" / "benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv"
    text, said = _made(capsys, file, "--to", "bencher")
    assert json.loads(text)["resnet50 bs512 amp-fp16 channels_last"] == {"throughput": {"value": 5088.39}}
    assert "published by timm" in said


# --- timm -----------------------------------------------------------------------------------------------------------


def test_timms_columns_are_the_latest_ones_with_its_units(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, said = _made(capsys, run, "--to", "timm")
    published = Path(__file__).parent / "timm" / "benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv"
    assert text.splitlines()[0] == published.read_text().splitlines()[0]
    (line,) = csv.DictReader(io.StringIO(text))
    rate = _rate(run)["images_per_s"]
    assert float(line["infer_samples_per_sec"]) == rate
    assert float(line["infer_step_time"]) == pytest.approx(1000 * 8 / rate, rel=1e-9)
    assert (line["param_count"], line["infer_gmacs"], line["infer_macts"]) == ("4.1058", "0.864224", "")
    assert "no room for intervals, ratios, flags and the machine key (0123456789ab)" in said


def test_a_table_written_for_timm_is_read_back_under_the_name_it_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run(tmp_path / "run", ("van_b0", "convnext_tiny"), memory_format=("channels_last",))
    text, said = _made(capsys, run, "--to", "timm")
    (name,) = [line.rpartition(" ")[2] for line in said.splitlines() if "file's name: " in line]
    table = read_timm(text, name)
    assert [row["model"] for row in table.rows] == ["van_b0", "convnext_tiny"]
    ours = {str(each.row["model"]): each.row for each in read_stored(run / "results.csv").entries}
    for row in table.rows:
        for column in (
            "task",
            "batch_size",
            "image_size",
            "precision",
            "memory_format",
            "compile",
            "images_per_s",
            "params",
        ):
            assert row[column] == ours[str(row["model"])][column], column


def test_the_fastest_model_stands_first_in_a_table_for_timm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run(tmp_path / "run", ("convnext_tiny", "van_b0"), batch_size=(1, 8))
    text, _ = _made(capsys, run, "--to", "timm")
    rates = [float(line["infer_samples_per_sec"]) for line in csv.DictReader(io.StringIO(text))]
    assert len(rates) == 4
    assert rates == sorted(rates, reverse=True)


def test_a_table_for_timm_is_of_one_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run(tmp_path / "run", ("van_b0",), task=("infer", "train"))
    assert main(["export", str(run), "--to", "timm"]) == 2
    assert "has infer and train: give --task" in capsys.readouterr().err
    text, _ = _made(capsys, run, "--to", "timm", "--task", "train")
    published = Path(__file__).parent / "timm" / "benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv"
    assert text.splitlines()[0] == published.read_text().splitlines()[0]
    assert text.splitlines()[1].startswith("van_b0,")


@pytest.mark.parametrize(
    ("axis", "values"), [("memory_format", ("contiguous", "channels_last")), ("precision", ("fp32", "bf16"))]
)
def test_configurations_that_timms_columns_cannot_tell_apart_are_not_mixed(
    axis: str, values: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes: dict[str, Any] = {axis: values}
    run = _run(tmp_path / "run", ("van_b0",), **axes)
    assert main(["export", str(run), "--to", "timm"]) == 2
    choice = f"{axis.replace('_', '-')}={values[0]}"
    assert f"choose with --only {choice}" in capsys.readouterr().err
    text, _ = _made(capsys, run, "--to", "timm", "--only", choice)
    assert len(text.splitlines()) == 2


def test_a_compile_mode_that_timms_names_lack_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run(tmp_path / "run", ("van_b0",), compile=("max-autotune",))
    _, said = _made(capsys, run, "--to", "timm")
    assert "-dynamo.csv" in said
    assert "which does not say max-autotune" in said


# --- pytest-benchmark -----------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=9), min_size=1, max_size=4),
    st.integers(1, 4),
)
def test_statistics_are_those_that_pytest_benchmark_computes_itself(times: list[list[float]], steps: int) -> None:
    cell = Cell(model="van_b0", batch_size=8)
    made = [make_round(f"r{i}", each, images=8 * steps, steps=steps) for i, each in enumerate(times)]
    record = make_record(cell, made)
    environment = make_environment()
    (row,) = rows(make_sweep(["van_b0"], batch_size=(8,)), environment, [record])
    stored = Stored(Path("run"), [Entry("van_b0 bs8 fp32", row, record)], environment)
    (benchmark,) = json.loads(export([stored], "pytest-benchmark", Wishes()).text)["benchmarks"]
    theirs: Any = Stats()  # type: ignore[no-untyped-call]
    for seconds in [seconds for each in times for seconds in each]:
        theirs.update(seconds * 8 / (8 * steps))
    stats = benchmark["stats"]
    assert stats["iterations"] == steps
    assert stats["data"] == pytest.approx(theirs.data)
    counts = {"rounds", "iqr_outliers", "stddev_outliers", "outliers"}
    for name in Stats.fields:
        if name not in counts:
            assert stats[name] == pytest.approx(getattr(theirs, name), rel=1e-9, abs=1e-12), name
    assert stats["rounds"] == theirs.rounds
    assert stats["outliers"] == f"{stats['stddev_outliers']};{stats['iqr_outliers']}"


def test_outliers_are_counted_as_pytest_benchmark_counts_them(tmp_path: Path) -> None:
    theirs: Any = Stats()  # type: ignore[no-untyped-call]
    times = [0.02, 0.0201, 0.0202, 0.0203, 0.0199, 0.0198, 0.05, 0.001]
    for seconds in times:
        theirs.update(seconds)
    record = make_record(Cell(model="van_b0", batch_size=8), [make_round("r0", times)])
    environment = make_environment()
    (row,) = rows(make_sweep(["van_b0"], batch_size=(8,)), environment, [record])
    stored = Stored(tmp_path, [Entry("van_b0", row, record)], environment)
    (benchmark,) = json.loads(export([stored], "pytest-benchmark", Wishes()).text)["benchmarks"]
    assert theirs.outliers == "2;2"
    assert {name: benchmark["stats"][name] for name in ("outliers", "ld15iqr", "hd15iqr")} == {
        "outliers": "2;2",
        "ld15iqr": theirs.ld15iqr,
        "hd15iqr": theirs.hd15iqr,
    }


def test_pytest_benchmarks_own_compare_reads_the_export(run: Path, in_tmp: Path) -> None:
    other = _run(in_tmp / "other", slower=2.0)
    for path, name in ((run, "base"), (other, "head")):
        assert main(["export", str(path), "--to", "pytest-benchmark", "--out", f"{name}.json"]) == 0
    words = ["compare", "base.json", "head.json", "--csv=seen.csv", "--columns=mean,median,rounds,iterations"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", *words], capture_output=True, text=True, check=True, cwd=in_tmp
    )
    assert "infer, batch 8, 224 px" in done.stdout
    assert "Failed to load" not in done.stderr
    seen = list(csv.DictReader(io.StringIO((in_tmp / "seen.csv").read_text())))
    assert [line["name"] for line in seen] == ["vanbench[van_b0 bs8 fp32]"] * 2
    for line, path in zip(seen, (run, other), strict=True):
        assert float(line["mean"]) == pytest.approx(0.01 * (2 if path == other else 1) * 1.05, rel=0.01)
        assert (line["rounds"], line["iterations"]) == ("65", "2")


def test_pytest_compares_a_benchmark_of_that_name_with_the_export(run: Path, in_tmp: Path) -> None:
    assert main(["export", str(run), "--to", "pytest-benchmark", "--out", "base.json"]) == 0
    (in_tmp / "test_speed.py").write_text(
        "import time\n"
        "def test_step(benchmark):\n"
        "    benchmark.fullname = 'vanbench[van_b0 bs8 fp32]'\n"
        "    benchmark.pedantic(time.sleep, args=(0.03,), rounds=3)\n"
    )
    words = ["-p", "no:cacheprovider", "--benchmark-compare=base.json", "test_speed.py"]
    plain = [sys.executable, "-m", "pytest", "--rootdir", str(in_tmp), *words]
    done = subprocess.run(plain, capture_output=True, text=True, check=True, cwd=in_tmp)
    assert "test_step (base)" in done.stdout
    assert "test_step (NOW)" in done.stdout
    # The step took 10 ms then and 30 ms now: a gate on the mean must trip, so the figures were read as seconds a step.
    gated = subprocess.run([*plain, "--benchmark-compare-fail=mean:150%"], capture_output=True, text=True, cwd=in_tmp)
    assert gated.returncode != 0
    assert "Performance has regressed" in gated.stdout + gated.stderr
    subprocess.run([*plain, "--benchmark-compare-fail=mean:300%"], capture_output=True, check=True, cwd=in_tmp)


def test_the_export_for_pytest_benchmark_carries_machine_commit_and_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run(tmp_path / "run", memory_format=("channels_last",))
    text, _ = _made(capsys, run, "--to", "pytest-benchmark", "--commit", "abc123", "--branch", "main")
    document = json.loads(text)
    assert document["machine_info"]["cpu"] == {"arch": "x86_64", "brand_raw": "Example CPU", "count": 2}
    assert (document["commit_info"]["id"], document["commit_info"]["branch"]) == ("abc123", "main")
    assert document["datetime"] == "2026-01-02T03:04:05+00:00"
    (benchmark,) = document["benchmarks"]
    extra, rate = benchmark["extra_info"], _rate(run)
    for name in ("images_per_s", "images_per_s_low", "images_per_s_high"):
        assert extra[name] == rate[name]
    assert (extra["batch_size"], extra["machine_key"], extra["rounds"]) == (8, "0123456789ab", 5)
    assert extra["flags"] == []
    assert benchmark["params"]["memory_format"] == "channels_last"


def test_pytest_benchmark_needs_raw_times_and_says_where_they_are(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run / "results.csv"), "--to", "pytest-benchmark"]) == 2
    assert "give the run directory" in capsys.readouterr().err


# --- github-action-benchmark and Bencher ----------------------------------------------------------------------------


def test_entries_for_github_action_benchmark_have_its_fields_and_no_other(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _ = _made(capsys, run, "--to", "github-action-benchmark")
    (entry,) = json.loads(text)
    # Its schema: name, unit and value must be there, range and extra are text if they are; others are dropped.
    assert set(entry) == {"name", "unit", "value", "range", "extra"}
    assert all(isinstance(entry[name], str) for name in ("name", "unit", "range", "extra"))
    rate = _rate(run)
    assert (entry["name"], entry["unit"], entry["value"]) == ("van_b0 bs8 fp32", "images/s", rate["images_per_s"])
    half = float(entry["range"].removeprefix("± ").removesuffix(" %")) / 100
    assert half == pytest.approx(rate["images_per_s_high"] / rate["images_per_s"] - 1, rel=0.06)
    assert "median step 10.5 ms" in entry["extra"]
    assert "machine 0123456789ab, Example CPU" in entry["extra"]
    assert "5 rounds, 65 samples" in entry["extra"]


def test_a_row_without_an_interval_has_no_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make_sweep(["van_b0"], batch_size=(8,))
    with Store.create(tmp_path / "run", sweep, make_environment()) as store:
        store.save(make_record(sweep.cells()[0], [make_round("r0")]))
    text, _ = _made(capsys, tmp_path / "run", "--to", "github-action-benchmark")
    assert "range" not in json.loads(text)[0]
    text, _ = _made(capsys, tmp_path / "run", "--to", "bencher")
    assert set(json.loads(text)["van_b0 bs8 fp32"]["throughput"]) == {"value"}


def _bmf_faults(document: object) -> list[str]:
    """What Bencher Metric Format forbids: its JSON schema, and the longest names it takes."""
    faults = []
    for name, measures in document.items() if isinstance(document, dict) else [("", None)]:
        if not 0 < len(name) <= 1024:
            faults.append(f"name of {len(name)} letters")
        for measure, metric in measures.items() if isinstance(measures, dict) else [("", None)]:
            if not 0 < len(measure) <= 64 or not isinstance(metric, dict):
                faults.append(f"{name}: measure {measure!r}")
                continue
            values = [metric.get(key, 0) for key in ("value", "lower_value", "upper_value")]
            if "value" not in metric or set(metric) - {"value", "lower_value", "upper_value"}:
                faults.append(f"{name}, {measure}: {sorted(metric)}")
            if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
                faults.append(f"{name}, {measure}: a value is no number")
    return faults


def test_the_export_for_bencher_follows_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run(tmp_path / "run", ("van_b0", "convnext_tiny", "resnet18"), batch_size=(1, 8))
    text, said = _made(capsys, run, "--to", "bencher")
    document = json.loads(text)
    assert _bmf_faults(document) == []
    assert len(document) == 4
    rate = _rate(run)
    assert document["van_b0 bs1 fp32"] == {
        "throughput": {
            "value": rate["images_per_s"],
            "lower_value": rate["images_per_s_low"],
            "upper_value": rate["images_per_s_high"],
        },
        "latency": {"value": pytest.approx(rate["median_s"] * 1e9, rel=1e-9)},
    }
    assert "--testbed 0123456789ab" in said


@pytest.mark.parametrize(
    "broken",
    [
        [],
        {"a": 3},
        {"a": {"throughput": 3}},
        {"a": {"throughput": {"lower_value": 3}}},
        {"a": {"throughput": {"value": "3"}}},
        {"a": {"throughput": {"value": None}}},
        {"": {}},
    ],
)
def test_the_checker_of_that_schema_finds_what_breaks_it(broken: object) -> None:
    assert _bmf_faults(broken)


def test_flags_are_said_where_a_format_has_no_room_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = make_sweep(["van_b0"], batch_size=(8,), memory_format=("channels_last",))
    facts = make_facts(channels_last_share=0.1)
    with Store.create(tmp_path / "run", sweep, make_environment()) as store:
        store.save(make_record(sweep.cells()[0], facts=facts))
    for name in ("timm", "bencher"):
        text, said = _made(capsys, tmp_path / "run", "--to", name)
        assert "flagged: van_b0 bs8 fp32 channels_last (layout_lost" in said
        assert "layout_lost" not in text
    for name in ("github-action-benchmark", "pytest-benchmark", "otava"):
        text, _ = _made(capsys, tmp_path / "run", "--to", name)
        assert "layout_lost" in text


# --- Otava ----------------------------------------------------------------------------------------------------------


def _series(folder: Path, rates: Sequence[float]) -> list[str]:
    """Run directories a day apart; `rates` are how much faster than the first, given in another order than time."""
    paths = [
        _run(folder / f"run{i}", date=f"2026-01-{i + 1:02d}T00:00:00Z", slower=1 / rate) for i, rate in enumerate(rates)
    ]
    return [str(path) for path in reversed(paths)]


def test_runs_become_a_series_in_the_order_of_time(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = _series(in_tmp, (1.0, 1.5, 2.0))
    text, _ = _made(capsys, *paths, "--to", "otava", "--commit", "c, b ,a", "--branch", "main")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["time"][:10] for line in lines] == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert [line["commit"] for line in lines] == ["a", "b", "c"]
    assert {line["machine_key"] for line in lines} == {"0123456789ab"}
    first = float(lines[0]["van_b0 bs8 fp32"])
    assert [float(line["van_b0 bs8 fp32"]) / first for line in lines] == pytest.approx([1.0, 1.5, 2.0])


def test_a_cell_that_one_run_lacks_is_left_out_of_the_series_and_noted(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = _run(in_tmp / "a", ("van_b0", "convnext_tiny"))
    second = _run(in_tmp / "b", ("van_b0", "resnet18"), date="2026-01-03T00:00:00Z")
    text, said = _made(capsys, first, second, "--to", "otava")
    assert "convnext_tiny" not in text.splitlines()[0]
    assert all("" not in line for line in csv.reader(text.splitlines()[:1]))
    assert "left out: convnext_tiny bs8 fp32: not in every run" in said
    assert f"left out of {second}: resnet18 bs8 fp32: failed" in said
    third = _run(in_tmp / "c", ("convnext_tiny",))
    assert main(["export", str(second), str(third), "--to", "otava"]) == 2
    assert "there is no series" in capsys.readouterr().err


def test_machines_do_not_share_a_series(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.csv"
    other.write_text((run / "results.csv").read_text().replace("0123456789ab", "ffffffffffff"))
    assert main(["export", str(run), str(other), "--to", "otava"]) == 2
    assert "of several or of an unknown one: 0123456789ab, ffffffffffff" in capsys.readouterr().err


def test_a_table_without_one_date_is_no_point_of_a_series(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.csv").write_text((run / "results.csv").read_text().replace("2026-01-02T03:04:05Z", ""))
    assert main(["export", str(tmp_path / "old.csv"), "--to", "otava"]) == 2
    assert "has 0 dates of runs" in capsys.readouterr().err


def test_otavas_configuration_is_yaml_that_names_the_file_and_every_metric(in_tmp: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    _run(in_tmp / "run", ("van_b0", "my.code:Net"))
    assert main(["export", "run", "--to", "otava", "--out", "s.csv"]) == 0
    test = yaml.safe_load((in_tmp / "s.yaml").read_text())["tests"]["vanbench"]
    header = next(csv.reader((in_tmp / "s.csv").read_text().splitlines()))
    assert (test["type"], test["file"], test["time_column"]) == ("csv", "s.csv", header[0])
    assert [test["time_column"], *test["attributes"], *test["metrics"]] == header
    assert {metric["direction"] for metric in test["metrics"].values()} == {1}
    assert [metric["column"] for metric in test["metrics"].values()] == list(test["metrics"])
    assert test["csv_options"] == {"delimiter": ",", "quote_char": '"'}


@pytest.mark.skipif(
    shutil.which("otava") is None,
    reason="no otava command on the path: apache-otava asks for one version of numpy and has an environment of its own",
)
def test_otava_itself_reads_the_series_and_finds_the_run_that_slowed_down(in_tmp: Path) -> None:
    paths = _series(in_tmp, (*[1 + 0.002 * (i % 3) for i in range(8)], *[0.5 + 0.001 * (i % 3) for i in range(8)]))
    assert main(["export", *paths, "--to", "otava", "--out", "s.csv", "--branch", "main"]) == 0
    words = ["otava", "analyze", "vanbench", "--config-file", "s.yaml", "--branch", "main", "--since", "2025-12-31"]
    done = subprocess.run([*words, "--output", "json"], capture_output=True, text=True, check=True, cwd=in_tmp)
    (change,) = json.loads(done.stdout)["vanbench"]
    assert [each["metric"] for each in change["changes"]] == ["van_b0 bs8 fp32"]
    assert float(change["changes"][0]["forward_change_percent"]) == pytest.approx(-50, abs=1)
    log = subprocess.run(words, capture_output=True, text=True, check=True, cwd=in_tmp).stdout
    assert log.count("0123456789ab") == 16
