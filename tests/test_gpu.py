"""On a CUDA device: the main job, its precisions, its memory and its failures. Skips itself where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import vanbench
from vanbench.execute.run import Finished, measure
from vanbench.record.record import Failed, Measured, Record
from vanbench.spec.sweep import parse_sweep

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none"),
]


def run(out: Path, models: str, **flags: Any) -> list[Record]:
    given = {"batch-size": "4", "image-size": "64", "rounds": "2:2", "round": "1", "budget": "400", "device": "cuda"}
    sweep = parse_sweep({}, {"models": models, **given, **{k.replace("_", "-"): v for k, v in flags.items()}})
    for event in measure(sweep, out=out):
        if isinstance(event, Finished):
            return list(event.records)
    raise AssertionError("the run did not finish")


def test_the_main_job_measures_every_precision_in_both_layouts(tmp_path: Path) -> None:
    precision = "fp32,tf32,bf16,fp16,amp-bf16,amp-fp16"
    for record in run(tmp_path / "run", "van_b0,convnext_atto,resnet18", precision=precision):
        assert isinstance(record.outcome, Measured), (record.cell.slug, record.outcome)
        assert record.facts is not None
        assert record.facts.device == "cuda:0"
        assert record.facts.check_error <= record.facts.check_tolerance
        for one in record.rounds:
            assert one.peak_bytes is not None
            assert one.peak_reserved_bytes is not None
            assert one.peak_reserved_bytes >= one.peak_bytes > 0
            assert sum(one.step_s) == pytest.approx(one.seconds, rel=0.2)
    frame = vanbench.load(tmp_path / "run")
    assert (frame["status"] == "measured").all()


def test_training_is_measured_with_and_without_a_grad_scaler(tmp_path: Path) -> None:
    for record in run(tmp_path / "run", "van_b0,resnet18", task="train", precision="fp32,bf16,amp-fp16"):
        assert isinstance(record.outcome, Measured), (record.cell.slug, record.outcome)
        for one in record.rounds:
            assert len(one.backward_s) == len(one.step_s)


def test_a_batch_that_does_not_fit_is_out_of_memory_and_the_others_go_on(tmp_path: Path) -> None:
    sizes = {"batch_size": "65536", "image_size": "512", "memory_format": "contiguous", "precision": "fp32"}
    records = run(tmp_path / "run", "resnet50", **sizes)
    outcome = records[0].outcome
    assert isinstance(outcome, Failed)
    assert outcome.kind == "out_of_memory"


def test_compiled_cells_are_measured_with_their_compile_time(tmp_path: Path) -> None:
    words = {"compile": "off,default,reduce-overhead", "memory_format": "channels_last", "precision": "bf16"}
    for record in run(tmp_path / "run", "resnet18", **words):
        assert isinstance(record.outcome, Measured), (record.cell.slug, record.outcome)
        if record.cell.compile != "off":
            assert record.rounds[0].compile_s is not None


def test_energy_is_measured_once_a_cell_where_the_counter_is_there(tmp_path: Path) -> None:
    pynvml = pytest.importorskip("pynvml")
    pynvml.nvmlInit()
    try:
        pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError as error:
        pytest.skip(f"no energy counter: {error}")
    (record,) = run(tmp_path / "run", "resnet18", memory_format="channels_last", precision="bf16")
    assert record.rounds[0].energy_j is not None
    assert record.rounds[1].energy_j is None


def test_the_traced_step_is_the_real_one_on_the_device_too() -> None:
    from test_trace import _plain

    from vanbench.spec.cell import Cell
    from vanbench.worker.build import reference_model, subject_model
    from vanbench.worker.trace import Recorder, in_modules, trace_step

    device = torch.device("cuda", 0)
    for precision in ("fp32", "bf16"):
        for memory_format in ("contiguous", "channels_last"):
            cell = Cell(model="van_b0", batch_size=2, image_size=64, precision=precision, memory_format=memory_format)
            model = subject_model(cell, reference_model(cell, device, 0))
            recorder = Recorder()
            images = torch.randn(2, 3, 64, 64, device=device).to(next(model.parameters()).dtype)
            if memory_format == "channels_last":
                images = images.to(memory_format=torch.channels_last)
            with torch.no_grad(), in_modules(model, recorder), recorder:
                model(images)
            assert _plain(trace_step(cell, model, device)) == _plain(recorder.ops), (precision, memory_format)


def test_ceilings_of_the_device_are_found_and_hold_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vanbench.cli import main

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["ceilings", "--device", "cuda", "--seconds", "30", "--out", str(tmp_path / "c")]) == 0
    run(tmp_path / "run", "van_b0,resnet18", precision="fp32,bf16", batch_size="32", image_size="224")
    frame = vanbench.load(tmp_path / "run")
    assert frame["bound_fraction"].between(0.0, 1.0).all(), frame[["model", "precision", "bound_fraction"]]


def test_a_profile_names_the_kernels(tmp_path: Path) -> None:
    from vanbench.execute.profile import profile_cells
    from vanbench.record.folder import read_folder
    from vanbench.report.look import ops_table

    flags = {"models": "van_b0", "batch-size": "8", "precision": "bf16", "memory-format": "channels_last"}
    list(profile_cells(parse_sweep({}, {**flags, "device": "cuda"}), out=tmp_path / "p", seconds=2))
    rows = ops_table(read_folder(tmp_path / "p"))
    convs = [row for row in rows if row["op"] == "aten.convolution.default"]
    assert all(row["kernel"] for row in convs)
    assert all(row["backend"] for row in convs), {row["kernel"] for row in convs if not row["backend"]}


def test_depthwise_convs_are_timed_with_their_kernels(tmp_path: Path) -> None:
    from vanbench.execute.depthwise import Axes, time_depthwise
    from vanbench.record.folder import read_folder
    from vanbench.report.look import depthwise_table
    from vanbench.spec.names import DIRECTIONS

    axes = Axes(8, (), (1,), ("bf16",), ("contiguous", "channels_last"), DIRECTIONS, ("native",))
    list(time_depthwise(["van_b0"], axes, device="cuda", rounds=1, budget_s=120, out=tmp_path / "d"))
    rows = depthwise_table(read_folder(tmp_path / "d"))
    assert {row["status"] for row in rows} == {"measured"}
    assert all(row["kernel"] for row in rows)
