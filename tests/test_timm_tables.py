"""timm's published tables are read whatever their columns' order, and say in what they differ from ours.

The files in tests/timm/ are headers and a few rows of the tables in the results folder of timm's repository.
"""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

import pytest

from vanbench.errors import UserError
from vanbench.report.columns import COLUMNS
from vanbench.report.timm_tables import is_timm_table, published_name, read_timm

FILES = sorted((Path(__file__).parent / "timm").glob("*.csv"))
SAID = ("precision", "memory_format", "compile", "device", "device_name", "torch_version")
HEAD = "model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,param_count,infer_gmacs,infer_macts"


def _read(name: str) -> tuple[list[dict[str, object]], list[str]]:
    (file,) = [file for file in FILES if file.name == name]
    table = read_timm(file.read_text(), file.name)
    return [dict(row) for row in table.rows], table.warnings


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "benchmark-infer-amp-nchw-pt113-cu117-rtx3090.csv",
            ("amp-fp16", "contiguous", "off", "cuda", "RTX 3090", "1.13+cu117"),
        ),
        (
            "benchmark-infer-amp-nchw-pt210-cu121-rtx3090.csv",
            ("amp-fp16", "contiguous", "off", "cuda", "RTX 3090", "2.1.0+cu121"),
        ),
        (
            "benchmark-infer-amp-nchw-pt240-cu124-rtx4090-dynamo.csv",
            ("amp-fp16", "contiguous", "default", "cuda", "RTX 4090", "2.4.0+cu124"),
        ),
        (
            "benchmark-infer-amp-nhwc-pt240-cu124-rtx4090.csv",
            ("amp-fp16", "channels_last", "off", "cuda", "RTX 4090", "2.4.0+cu124"),
        ),
        (
            "benchmark-infer-amp_bf16-nchw-pt291-cu130-pro6000maxq-dynamo.csv",
            ("amp-bf16", "contiguous", "default", "cuda", "RTX PRO 6000 Max-Q", "2.9.1+cu130"),
        ),
        (
            "benchmark-infer-bf16-nchw-pt291-cu130-pro6000maxq-dynamo.csv",
            ("bf16", "contiguous", "default", "cuda", "RTX PRO 6000 Max-Q", "2.9.1+cu130"),
        ),
        (
            "benchmark-infer-fp32-nchw-pt221-cpu-i9_10940x-dynamo.csv",
            ("fp32", "contiguous", "default", "cpu", "i9-10940X", "2.2.1"),
        ),
        (
            "benchmark-infer-fp32-nchw-pt240-cpu-i7_12700h-dynamo.csv",
            ("fp32", "contiguous", "default", "cpu", "i7-12700H", "2.4.0"),
        ),
        (
            "benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv",
            ("amp-fp16", "channels_last", "off", "cuda", "RTX 3090", "1.12+cu113"),
        ),
    ],
)
def test_the_name_of_a_file_says_how_its_rows_were_measured(name: str, said: tuple[str, ...]) -> None:
    rows, warnings = _read(name)
    assert rows
    assert {tuple(row[column] for column in SAID) for row in rows} == {said}
    assert not any("does not follow" in warning for warning in warnings)
    assert any("fp16" in warning for warning in warnings) == ("-amp-" in name)
    assert any("dynamo" in warning for warning in warnings) == ("dynamo" in name)


def test_the_files_of_these_tests_have_all_five_headers() -> None:
    assert len({file.read_text().splitlines()[0] for file in FILES}) == 5
    assert all(is_timm_table(file.read_text()) for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_figure_is_the_one_under_its_header_in_si_units(file: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(file.read_text())))
    table = read_timm(file.read_text(), file.name)
    assert len(table.rows) == len(lines)
    task = "train" if "-train-" in file.name else "infer"
    for line, row in zip(lines, table.rows, strict=True):
        assert list(row) == [column.name for column in COLUMNS]
        assert (row["status"], row["task"], row["form"], row["depthwise"]) == ("measured", task, "reference", "native")
        assert row["model"] == line["model"]
        assert row["images_per_s"] == float(line[f"{task}_samples_per_sec"])
        assert row["image_size"] == int(line[f"{task}_img_size"])
        assert isinstance(row["batch_size"], int)
        assert row["batch_size"] == float(line[f"{task}_batch_size"])
        assert row["params"] == {"25.56": 25_560_000, "28.59": 28_590_000}[line["param_count"]]
        gmacs = line.get("infer_gmacs")
        assert row["macs"] == (
            {"4.11": 4_110_000_000, "4.47": 4_470_000_000, "7.39": 7_390_000_000}[gmacs] if gmacs else None
        )
        for column in ("images_per_s_low", "images_per_s_high", "machine_key", "key", "flags", "median_s"):
            assert row[column] is None, column


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_order_of_columns_changes_nothing(file: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(file.read_text())))
    names = list(lines[0])
    random.Random(file.name).shuffle(names)
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(lines)
    assert text.getvalue().splitlines()[0] != file.read_text().splitlines()[0]
    assert read_timm(text.getvalue(), file.name) == read_timm(file.read_text(), file.name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_warnings_say_what_every_published_figure_lacks(file: Path) -> None:
    words = " | ".join(read_timm(file.read_text(), file.name).warnings)
    for fact in ("published by timm", "another machine", "no interval", "synthetic", "one run", "made smaller"):
        assert fact in words
    assert ("SGD" in words) == ("-train-" in file.name)


def test_batches_that_differ_in_one_table_are_told_with_their_range() -> None:
    _, warnings = _read("benchmark-train-amp-nhwc-pt112-cu113-rtx3090.csv")
    assert any("256 to 512 in this table" in warning for warning in warnings)


@pytest.mark.parametrize(
    "name",
    ["mine.csv", "benchmark-infer-int8-nchw-pt240-cu124-rtx4090.csv", "model_benchmark_amp_nchw_rtx3090.csv"],
)
def test_a_file_of_another_name_leaves_empty_what_only_a_name_tells_and_warns(name: str) -> None:
    table = read_timm(f"{HEAD}\nresnet50,224,100.5,10,64,25.56,4.11,11.11\n", name)
    assert all(table.rows[0][column] is None for column in SAID)
    assert table.rows[0]["images_per_s"] == 100.5
    assert any(warning.startswith(f"{name} does not follow") for warning in table.warnings)


def test_fp32_on_a_gpu_is_tf32_and_an_unknown_device_keeps_its_word() -> None:
    name = "benchmark-infer-fp32-nchw-pt2101-cu130-h200.csv"
    table = read_timm(f"{HEAD}\nresnet50,224,100.5,10,64,25.56,4.11,11.11\n", name)
    row = table.rows[0]
    assert (row["precision"], row["device_name"], row["torch_version"]) == ("tf32", "h200", "2.10.1+cu130")
    assert any("tf32" in warning for warning in table.warnings)


def test_a_table_of_both_tasks_gives_a_row_for_each() -> None:
    text = (
        "model,infer_samples_per_sec,infer_batch_size,infer_img_size,train_samples_per_sec,train_batch_size,train_img_size\n"
        "rn50,100,64,288,30,32,224\n"
    )
    rows = read_timm(text, "benchmark.csv").rows
    seen = [tuple(row[name] for name in ("model", "task", "images_per_s", "batch_size", "image_size")) for row in rows]
    assert seen == [("resnet50", "infer", 100.0, 64, 288), ("resnet50", "train", 30.0, 32, 224)]


def test_a_row_without_a_figure_is_left_out_and_named() -> None:
    table = read_timm(f"{HEAD}\nresnet50,224,,10,64,25.56,,\nresnet18,224,5,10,64,11.69,,\n", "x.csv")
    assert [row["model"] for row in table.rows] == ["resnet18"]
    assert table.rows[0]["macs"] is None
    assert any("1 rows have no figure" in warning and "resnet50 (infer)" in warning for warning in table.warnings)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("resnet50,224,fast,10,64,25.56,,", "could not convert string to float: 'fast'"),
        ("resnet50,224,nan,10,64,25.56,,", "'nan' is no rate"),
        ("resnet50,224,-3,10,64,25.56,,", "'-3' is no rate"),
        ("resnet50,224,3,10,64.5,25.56,,", "'64.5' is no whole number"),
        ("resnet50,,3,10,64,25.56,,", "infer_img_size '' is no whole number"),
        (",224,3,10,64,25.56,,", "no model is named"),
    ],
)
def test_a_figure_that_is_none_is_refused_with_its_line(line: str, said: str) -> None:
    with pytest.raises(UserError, match=r"x\.csv, line 3: .*") as caught:
        read_timm(f"{HEAD}\nresnet18,224,5,10,64,11.69,,\n{line}\n", "x.csv")
    assert said in str(caught.value)


def test_a_results_csv_of_ours_is_not_taken_for_one_of_timms() -> None:
    assert not is_timm_table(",".join(column.name for column in COLUMNS) + "\n")
    assert not is_timm_table("")
    assert not is_timm_table("infer_samples_per_sec\n")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_name_made_for_a_row_is_read_as_the_same_configuration(file: Path) -> None:
    row = read_timm(file.read_text(), file.name).rows[0]
    name = published_name(row)
    assert name is not None
    again = read_timm(file.read_text(), name).rows[0]
    assert again == row
    assert name.replace("-4090", "-rtx4090") == file.name


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "benchmark-infer-fp32-nchw-pt2150-cpu-intel_r_xeon_r_2_cores.csv"),
        ({"device": "cuda:0", "torch_version": "2.15.0+cu132", "precision": "fp32"}, None),
        (
            {"device": "cuda:0", "torch_version": "2.15.0+cu132", "precision": "tf32", "device_name": "NVIDIA H200"},
            "benchmark-infer-fp32-nchw-pt2150-cu132-nvidia_h200.csv",
        ),
        ({"device": "cpu", "precision": "tf32"}, None),
        ({"device": "cuda:0", "torch_version": "2.15.0", "precision": "bf16"}, None),
        ({"torch_version": "nightly"}, None),
        ({"memory_format": None}, None),
        ({"compile": None}, None),
    ],
)
def test_rows_of_ours_get_a_name_only_where_timms_names_have_words_for_them(
    changed: dict[str, str | None], name: str | None
) -> None:
    row = dict.fromkeys(column.name for column in COLUMNS)
    row = {**row, "task": "infer", "precision": "fp32", "memory_format": "contiguous", "compile": "off"}
    row |= {"device": "cpu", "device_name": "Intel(R) Xeon(R) (2 cores)", "torch_version": "2.15.0+cpu", **changed}
    assert published_name(row) == name
