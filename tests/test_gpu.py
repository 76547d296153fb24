"""On a CUDA device: the main job, its precisions, its memory and its failures. Skips itself where there is none."""

from __future__ import annotations

from functools import partial
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


# --- depthwise kernels


SHAPES = [(4, 32, 56, 56), (3, 64, 28, 28), (2, 160, 14, 14), (2, 256, 7, 7), (1, 21, 17, 22), (1, 3, 1, 1)]
HALVES = [torch.float32, torch.bfloat16, torch.float16]
# Relative L2: fp32 sums of as many products as a weight's gradient has; 16 bit: the output's rounding.
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def _poison(x: Any) -> None:
    """What is not written is seen: the memory that an output is given next is full of what is no number."""
    for _ in range(2):
        torch.full_like(x, float("nan"))


@pytest.mark.parametrize("word", ["cuda", "triton", "cudnn", "aten"])
@pytest.mark.parametrize("geometry", [(3, 1), (5, 1), (7, 1), (7, 3)], ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_kernel_on_the_device_is_right_and_gives_the_same_bits_again(
    word: str, geometry: tuple[int, int], dtype: Any, memory_format: Any
) -> None:
    from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry, inputs_of, reference

    torch.backends.cudnn.allow_tf32 = False
    where, implementation = Geometry(*geometry), IMPLEMENTATIONS[word]
    assert implementation.why_not("cuda", where, dtype) is None
    for shape in SHAPES:
        x, w, g = inputs_of(*shape, where, dtype, memory_format, torch.device("cuda"), 0)
        calls = {
            "forward": partial(implementation.forward, x, w, None, where),
            "grad_input": partial(implementation.grad_input, g, x, w, where),
            "grad_weight": partial(implementation.grad_weight, g, x, w, where),
        }
        for direction, call in calls.items():
            call()  # a search, if there is one
            _poison(x)
            got, again = call(), call()
            expected = reference(direction, x, w, g, where)
            ends = got if direction == "grad_weight" else got[[0, shape[0] - 1]]
            error = float((ends.double() - expected).norm() / expected.norm())
            assert error < ALLOWED[dtype], (direction, shape)
            if word in ("cuda", "triton"):
                assert torch.equal(got, again), (direction, shape)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_fused_kernels_on_the_device_are_right(dtype: Any) -> None:
    from torch.nn import functional as F

    from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry, inputs_of

    def far(got: Any, expected: Any) -> float:
        return float((got.double() - expected).norm() / expected.norm())

    for shape in [*SHAPES, (1, 8, 300, 300)]:
        x, w5, _ = inputs_of(*shape, Geometry(5), dtype, torch.channels_last, torch.device("cuda"), 0)
        _, w7, _ = inputs_of(*shape, Geometry(7, 3), dtype, torch.channels_last, torch.device("cuda"), 1)
        _, w3, _ = inputs_of(*shape, Geometry(3), dtype, torch.channels_last, torch.device("cuda"), 2)
        bias = torch.randn(shape[1], device="cuda").to(dtype)
        groups = shape[1]
        for word in ("cuda", "triton"):
            fused = IMPLEMENTATIONS[word].forward_gelu
            assert fused is not None
            expected = F.gelu(F.conv2d(x.double(), w3.double(), bias.double(), padding=1, groups=groups))
            assert far(fused(x, w3, bias, Geometry(3)), expected) < ALLOWED[dtype], (word, shape)
        pair = IMPLEMENTATIONS["cuda-pair"].forward_pair
        assert pair is not None
        between = F.conv2d(x.double(), w5.double(), bias.double(), padding=2, groups=groups).to(dtype).double()
        expected = F.conv2d(between, w7.double(), bias.double(), padding=9, dilation=3, groups=groups)
        _poison(x)
        got = pair(x, w5, bias, w7, bias)
        assert far(got, expected) < 2 * ALLOWED[dtype], shape
        assert torch.equal(got, pair(x, w5, bias, w7, bias)), shape


@pytest.mark.parametrize("word", ["cuda", "triton", "cuda-pair"])
def test_a_model_served_on_the_device_runs_on_any_stream_in_a_graph_and_compiled(word: str) -> None:
    import timm

    import vanbench.models

    torch.manual_seed(0)
    model = timm.create_model("van_b0").eval().cuda().to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 96, 96, device="cuda").to(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = vanbench.models.convert(model, form="folded").model(images)
        served = vanbench.models.convert(model, form="folded", depthwise=word).model
        torch.testing.assert_close(served(images), expected, rtol=1e-3, atol=1e-3)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.testing.assert_close(served(images), expected, rtol=1e-3, atol=1e-3)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = served(images)
        images.copy_(images.flip(0))
        graph.replay()
        torch.testing.assert_close(captured, expected.flip(0), rtol=1e-3, atol=1e-3)
    compiled = torch.compile(served, fullgraph=True, mode="reduce-overhead")
    with torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(compiled(images).clone(), expected.flip(0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("word", ["cuda", "triton"])
def test_training_with_kernels_on_the_device_gives_the_same_gradients(word: str) -> None:
    import timm

    import vanbench.models

    torch.manual_seed(0)
    model = timm.create_model("van_b0", drop_path_rate=0.0, drop_rate=0.0).train().cuda()
    images = torch.randn(8, 3, 64, 64, device="cuda")
    served = vanbench.models.convert(model, form="lean", depthwise=word).model
    for each in (model, served):
        each(images).square().mean().backward()
    theirs = dict(model.named_parameters())
    for name, parameter in served.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=2e-2, atol=1e-4, msg=name)


def test_auto_on_the_device_keeps_torchs_own_where_it_is_fastest(tmp_path: Path, monkeypatch: Any) -> None:
    from vanbench.kernels.choice import Conv, fastest
    from vanbench.kernels.depthwise import IMPLEMENTATIONS, Geometry

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for shape, geometry in (((64, 32, 56, 56), Geometry(7, 3)), ((64, 256, 56, 56), Geometry(3))):
        choice = fastest(Conv(shape, geometry, torch.bfloat16, torch.channels_last, device="cuda"))
        assert choice.word in IMPLEMENTATIONS
        assert (choice.ratio == 1.0) == (choice.word == "native")
        assert choice.ratio >= 1.0


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_the_sanitizer_finds_nothing_in_the_kernels_on_the_device(tool: str, tmp_path: Path) -> None:
    import shutil
    import subprocess
    import sys
    import textwrap

    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("no compute-sanitizer on the path")
    code = """
        import torch
        from vanbench.kernels import cuda
        from vanbench.kernels.depthwise import Geometry
        cuda._STENCIL, cuda._WEIGHT_SUMS, cuda._PAIR = cuda._STENCIL[:1], cuda._WEIGHT_SUMS[:1], cuda._PAIR[:1]
        x = torch.randn(2, 36, 10, 11, device="cuda").to(memory_format=torch.channels_last)
        w5, w7 = (torch.randn(36, 1, k, k, device="cuda") for k in (5, 7))
        cuda.forward(x, w7, None, Geometry(7, 3))
        cuda.grad_input(x, x, w7, Geometry(7, 3))
        cuda.grad_weight(x, x, w7, Geometry(7, 3))
        cuda.forward_pair(x, w5, None, w7, None)
        torch.cuda.synchronize()
        print("ran")
    """
    done = subprocess.run(
        [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[1],
    )
    if "Device not supported" in done.stdout + done.stderr:
        pytest.skip("compute-sanitizer does not support this device")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "ran" in done.stdout
