"""Real workers, real disasters: each cell that goes wrong is a row with its reason, and the others go on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vanbench
from vanbench.execute.run import Finished, measure
from vanbench.record.record import Failed, Measured, Record
from vanbench.record.store import read_run
from vanbench.spec.sweep import parse_sweep

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # so that `tests.own_models` can be imported by a worker


def run(out: Path, models: list[str], **flags: Any) -> dict[str, Record]:
    given = {"batch-size": "2", "image-size": "64", "memory-format": "contiguous", "rounds": "1:1", "round": "0.2"}
    words = {**given, "budget": "200", **{name.replace("_", "-"): value for name, value in flags.items()}}
    sweep = parse_sweep(
        {}, {"models": ",".join(f"tests.own_models:{m}" if m[0].isupper() else m for m in models), **words}
    )
    for event in measure(sweep, out=out):
        if isinstance(event, Finished):
            return {f"{r.cell.model.split(':')[-1]}/{r.cell.memory_format}": r for r in event.records}
    raise AssertionError("the run did not finish")


def test_every_real_failure_is_a_row_and_the_others_in_its_round_go_on(tmp_path: Path) -> None:
    expected = {
        "Raises": ("exception", "RuntimeError: enough of this (own_models.py:"),
        "NotANumber": ("non_finite", "finite"),
        "Greedy": ("out_of_memory", "can't allocate memory"),
        "Crash": ("signal", "SIGSEGV"),
        "Hang": ("timeout", "no answer for 10 s"),
        "Leaver": ("exit", "left with status 7: leaving now"),
        "not_a_module": ("exception", "gave a int, not a torch.nn.Module"),
    }
    models = [
        "Tiny",
        *(m for m in expected if m != "not_a_module"),
        "tests.own_models:not_a_module",
        "Chatter",
        "resnet18",
    ]
    records = run(tmp_path / "run", models, timeout="10")
    for model, (kind, words) in expected.items():
        outcome = records[f"{model}/contiguous"].outcome
        assert isinstance(outcome, Failed), model
        assert (model, outcome.kind) == (model, kind)
        assert words in outcome.message
        assert f"--models tests.own_models:{model} " in outcome.rerun
    for model in ("Tiny", "Chatter", "resnet18"):
        record = records[f"{model}/contiguous"]
        assert isinstance(record.outcome, Measured), record.outcome
        assert record.facts is not None
        assert record.facts.check_error <= record.facts.check_tolerance
    frame = vanbench.load(tmp_path / "run").set_index("model")
    assert frame.loc["resnet18", "ratio"] > 0
    assert frame.loc["tests.own_models:Tiny", "ratio"] == 1


def test_a_model_that_is_wrong_in_one_layout_is_no_speed_in_it_and_a_lost_layout_is_flagged(tmp_path: Path) -> None:
    both = "contiguous,channels_last"
    records = run(tmp_path / "run", ["Tiny", "LossyInChannelsLast", "LosesLayout"], memory_format=both)
    wrong = records["LossyInChannelsLast/channels_last"].outcome
    assert isinstance(wrong, Failed)
    assert wrong.kind == "wrong_answer"
    assert isinstance(records["LossyInChannelsLast/contiguous"].outcome, Measured)
    frame = vanbench.load(tmp_path / "run").set_index(["model", "memory_format"])
    assert "layout_lost" in frame.loc[("tests.own_models:LosesLayout", "channels_last"), "flags"]
    assert "layout_lost" not in frame.loc[("tests.own_models:Tiny", "channels_last"), "flags"]
    assert frame.loc[("tests.own_models:Tiny", "channels_last"), "channels_last_share"] == 1


def test_training_is_measured_in_three_parts_that_add_up(tmp_path: Path) -> None:
    records = run(tmp_path / "run", ["Tiny", "resnet18"], task="train", rounds="2:2", precision="fp32,amp-bf16")
    for record in records.values():
        assert isinstance(record.outcome, Measured), record.outcome
        for one in record.rounds:
            assert len(one.forward_s) == len(one.backward_s) == len(one.optimizer_s) == len(one.step_s)
            whole = [sum(parts) for parts in zip(one.forward_s, one.backward_s, one.optimizer_s, strict=True)]
            assert whole == pytest.approx(one.step_s)
            assert sum(one.step_s) == pytest.approx(one.seconds, rel=0.1)


def test_a_step_is_never_shorter_than_what_it_must_take_and_the_sample_covers_it(tmp_path: Path) -> None:
    record = run(tmp_path / "run", ["Slow"])["Slow/contiguous"]
    assert isinstance(record.outcome, Measured)
    (one,) = record.rounds
    assert min(one.step_s) >= 0.005
    assert one.images == 2 * len(one.step_s)
    assert sum(one.step_s) <= one.seconds


def test_a_timed_process_keeps_blocks_that_glibc_would_map_anew_at_each_use() -> None:
    import platform

    if platform.libc_ver()[0] != "glibc":
        pytest.skip("the threshold is glibc's")
    code = """
import ctypes, sys, torch
from vanbench.worker.memory import raise_the_threshold

class Mallinfo(ctypes.Structure):
    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(n, ctypes.c_size_t) for n in _names.split()]

libc = ctypes.CDLL(None)
if not hasattr(libc, "mallinfo2"):
    sys.exit(77)
libc.mallinfo2.restype = Mallinfo
if sys.argv[1] == "raised":
    raise_the_threshold()
before = libc.mallinfo2().hblkhd
block = torch.empty(20 << 20, dtype=torch.uint8)
print(libc.mallinfo2().hblkhd - before >= 20 << 20)
"""
    mapped = {}
    for word in ("raised", "left"):
        done = subprocess.run([sys.executable, "-c", code, word], capture_output=True, text=True, check=False)
        if done.returncode == 77:
            pytest.skip("this glibc has no mallinfo2")
        mapped[word] = done.stdout.strip()
    assert mapped == {"raised": "False", "left": "True"}


def test_compiling_is_timed_apart_and_a_graph_break_is_flagged(tmp_path: Path) -> None:
    if subprocess.run(["g++", "--version"], capture_output=True, check=False).returncode:
        pytest.skip("torch.compile on a CPU needs a C++ compiler")
    models = ["Tiny", "BreaksGraph"]
    run(tmp_path / "run", models, compile="default", rounds="2:2", timeout="300")
    by_model = {record.cell.model.split(":")[1]: record for record in read_run(tmp_path / "run").records}
    for record in by_model.values():
        assert isinstance(record.outcome, Measured), record.outcome
        first, second = record.rounds
        assert first.compile_cold
        assert not second.compile_cold
        assert first.compile_s is not None
        assert second.compile_s is not None
        assert first.compile_s > second.compile_s > 0
    frame = vanbench.load(tmp_path / "run").set_index("model")
    assert "graph_break" in frame.loc["tests.own_models:BreaksGraph", "flags"]
    assert "graph_break" not in frame.loc["tests.own_models:Tiny", "flags"]
    assert "recompiled" not in frame.loc["tests.own_models:Tiny", "flags"]


@contextlib.contextmanager
def memory_cgroup(limit: int) -> Iterator[list[str]]:
    """A command prefix under which everything shares `limit` bytes; skips the test where the rights are lacking."""
    name = f"vanbench-test-{os.getpid()}"
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    parent, file = (v1, "memory.limit_in_bytes") if (v1 / "memory.limit_in_bytes").exists() else (v2, "memory.max")
    # A cgroup's children belong below our own group, where the hierarchy is shared with others.
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if (parent is v1 and "memory" in controllers.split(",")) or (parent is v2 and controllers == ""):
            parent = Path(str(parent) + path)
    group = parent / name
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no right to make a memory cgroup: {error}")
    try:
        try:
            (group / file).write_text(str(limit))
        except OSError as error:
            pytest.skip(f"no right to limit a memory cgroup: {error}")
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            import time

            time.sleep(0.1)


def test_the_kernels_out_of_memory_killer_is_recognised_and_the_parent_survives_it(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("memory cgroups are Linux's")
    words = ["run", "--models", "tests.own_models:Tiny,tests.own_models:Hoarder", "--image-size", "64"]
    words += ["--batch-size", "2", "--memory-format", "contiguous", "--rounds", "1:1", "--budget", "60"]
    with memory_cgroup(3 << 29) as prefix:
        done = subprocess.run(
            [*prefix, sys.executable, "-m", "vanbench", *words, "--out", str(tmp_path / "run")],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 1, done.stderr
    tiny, hoarder = read_run(tmp_path / "run").records
    assert isinstance(tiny.outcome, Measured)
    assert isinstance(hoarder.outcome, Failed)
    assert hoarder.outcome.kind == "out_of_memory"
    assert "out-of-memory killer" in hoarder.outcome.message


def test_the_main_job_on_real_models_gives_every_file(tmp_path: Path) -> None:
    out = tmp_path / "run"
    sweep = tmp_path / "short.toml"
    sweep.write_text('[axes]\nmodels = ["van_b0", "convnext_atto"]\nimage-size = 64\n[sampling]\nround = 0.5\n')
    words = ["run", str(sweep), "--batch-size", "1,2", "--rounds", "2:2", "--budget", "100"]
    words += ["--out", str(out), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "vanbench", *words], capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    for name in (
        "sweep.toml",
        "environment.json",
        "results.csv",
        "report.md",
        "report.html",
        "plots/images_per_s.png",
        "plots/batch.svg",
    ):
        assert (out / name).stat().st_size > 0, name
    assert len(list((out / "cells").glob("*.json"))) == 8
    frame = vanbench.load(out)
    assert list(frame["status"]) == ["measured"] * 8
    assert (frame["images_per_s"] > 0).all()
    assert frame["macs"].notna().all()
    van = frame[(frame["model"] == "van_b0") & (frame["memory_format"] == "channels_last")]
    # The published form goes back to NCHW after each stage (facts of the model, not of this machine).
    assert van["flags"].str.contains("layout_lost").all()
    again = subprocess.run(
        [sys.executable, "-m", "vanbench", "report", str(out)], capture_output=True, text=True, check=False, timeout=100
    )
    assert again.returncode == 0, again.stderr


def test_a_real_worker_serves_a_cell_where_nothing_can_be_forked(tmp_path: Path) -> None:
    from vanbench.execute.round import Done, play
    from vanbench.execute.starter import Spawner
    from vanbench.record.task import Measure, Said, Vet
    from vanbench.spec.cell import Cell
    from vanbench.spec.sampling import Sampling

    cell = Cell(model="tests.own_models:Tiny", batch_size=2, image_size=64)
    task = Measure(cell=cell, device="cpu", sampling=Sampling(warmup_s=0.05), seed=0)
    with Spawner(tmp_path) as spawner:
        vetting = spawner.fork(Vet(cell=cell, device="cpu", seed=0), "vetting")
        while isinstance(vetting.receive(120), Said):
            pass
        vetting.leave()
        done = [e for e in play([spawner], [task], name="r1.0", turns_s=0.1, seed=0) if isinstance(e, Done)]
    assert [one.cell for one in done] == [cell]
    assert len(done[0].round.sample_s) >= 2
