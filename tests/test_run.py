"""The run loop over a worker that is a real little program: what fails, what goes on, what is kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from vanbench.errors import StorageError, UserError, WorkerError
from vanbench.execute.run import Finished, Saved, measure, preview
from vanbench.record.record import Failed, Measured, Record, Skipped
from vanbench.record.store import read_run
from vanbench.spec.sweep import parse_sweep

FLAGS = {
    "batch-size": "1",
    "memory-format": "contiguous",
    "budget": "30",
    "rounds": "2:2",
    "round": "0.05",
    "timeout": "4",
    "settle": "0",
}


def run(worker: tuple[str, ...], out: Path, models: str, **flags: Any) -> dict[str, Record]:
    sweep = parse_sweep({}, {"models": models, **FLAGS, **{k.replace("_", "-"): v for k, v in flags.items()}})
    for event in measure(sweep, out=out, worker=worker):
        if isinstance(event, Finished):
            return {record.cell.model: record for record in event.records}
    raise AssertionError("the run did not finish")


# Model, kind of failure, a word of its message.
FAILURES = [
    ("fake:exit", "exit", "left with status 3: about to leave"),
    ("fake:exit-later", "exit", "left with status 3"),
    ("fake:hang", "timeout", "no answer for 4 s"),
    ("fake:hang-later", "timeout", "no answer for 4 s"),
    ("fake:segv", "signal", "SIGSEGV"),
    ("fake:segv-later", "signal", "SIGSEGV"),
    ("fake:killed", "signal", "SIGKILL"),
    ("fake:garbage", "protocol", "unreadable message"),
    ("fake:garbage-later", "protocol", "unreadable message"),
    ("fake:half", "exit", "in the middle of a message"),
    ("fake:endless", "protocol", "an endless message"),
    ("fake:raise", "exit", "RuntimeError: scripted"),
    ("fake:nan", "non_finite", "not finite"),
    ("fake:wrong", "wrong_answer", "logits differ"),
    ("fake:oom", "out_of_memory", "scripted"),
    ("fake:vet_exit", "exit", "left with status 3"),
    ("fake:vet_hang", "timeout", "no answer for 4 s"),
    ("fake:vet_segv", "signal", "SIGSEGV"),
    ("fake:vet_oom", "out_of_memory", "scripted"),
]


def test_every_failure_is_a_row_with_its_kind_and_command_and_the_others_go_on(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    models = ["fake:100", *(model for model, _, _ in FAILURES), "fake:200"]
    records = run(fake_worker, tmp_path / "run", ",".join(models), budget="120")
    for model, kind, words in FAILURES:
        outcome = records[model].outcome
        assert isinstance(outcome, Failed), model
        assert (model, outcome.kind) == (model, kind)
        assert words in outcome.message
        assert outcome.rerun.startswith(f"vanbench run --models {model} ")
        if model.endswith("-later"):  # failed in the first round: none is finished
            assert records[model].rounds == ()
    for model in ("fake:100", "fake:200"):
        assert isinstance(records[model].outcome, Measured)
        assert len({one.round.split(".")[0] for one in records[model].rounds}) == 2
    table = (tmp_path / "run" / "results.csv").read_text().splitlines()
    assert len(table) == 1 + len(models)
    assert sum(",failed," in line for line in table) == len(FAILURES)


def test_a_cell_that_runs_out_of_memory_in_company_is_tried_alone_before_it_is_called_so(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    records = run(fake_worker, tmp_path / "run", "fake:100,fake:oom_company,fake:oom")
    lone = records["fake:oom_company"]
    assert isinstance(lone.outcome, Measured)
    assert [one.alone for one in lone.rounds] == [True, True]
    outcome = records["fake:oom"].outcome
    assert isinstance(outcome, Failed)
    assert outcome.kind == "out_of_memory"


def test_a_group_closes_early_when_memory_is_short_and_the_rest_is_measured_all_the_same(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_HELD", "1000")
    monkeypatch.setenv("FAKE_FREE", "1500")
    records = run(fake_worker, tmp_path / "run", "fake:100,fake:200,fake:300")
    assert all(isinstance(record.outcome, Measured) for record in records.values())
    sizes = Counter(one.round for record in records.values() for one in record.rounds)
    assert max(sizes.values()) <= 2, "one cell and the reference, which is started all the same"
    assert {len(records[model].rounds) for model in ("fake:200", "fake:300")} == {2}


def test_more_cells_than_a_group_holds_all_meet_the_reference(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    models = [f"fake:{100 + i}" for i in range(17)]
    records = run(fake_worker, tmp_path / "run", ",".join(models))
    reference = {one.round for one in records["fake:100"].rounds}
    for model in models[1:]:
        rounds = [one.round for one in records[model].rounds]
        assert len(rounds) == 2
        assert set(rounds) <= reference
    sizes = Counter(one.round for record in records.values() for one in record.rounds)
    assert max(sizes.values()) <= 8


def test_known_speeds_come_out_as_they_are(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    import vanbench

    run(fake_worker, tmp_path / "run", "fake:100,fake:250", rounds="5:5", round="0.2")
    frame = vanbench.load(tmp_path / "run").set_index("model")
    assert frame.loc["fake:100", "images_per_s"] == pytest.approx(100, rel=2e-3)
    assert frame.loc["fake:250", "ratio"] == pytest.approx(2.5, rel=2e-3)
    assert frame.loc["fake:250", "ratio_low"] < 2.5 < frame.loc["fake:250", "ratio_high"] or frame.loc[
        "fake:250", "ratio"
    ] == pytest.approx(2.5, rel=1e-3)
    assert frame.loc["fake:100", "ratio"] == 1


def test_a_device_without_a_precision_skips_its_cells_with_the_reason(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    sweep = parse_sweep({}, {"models": "fake:100,fake:skip", **FLAGS, "precision": "fp32,tf32"})
    for event in measure(sweep, out=tmp_path / "run", worker=fake_worker):
        last = event
    assert isinstance(last, Finished)
    outcomes = {(r.cell.model, r.cell.precision): r.outcome for r in last.records}
    assert outcomes["fake:100", "tf32"] == Skipped(reason="the CPU has no tf32")
    assert outcomes["fake:skip", "fp32"] == Skipped(reason="not on this device")


def test_a_first_cell_that_the_device_cannot_measure_is_no_reference(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    import vanbench

    sweep = parse_sweep({}, {"models": "fake:100,fake:200", **FLAGS, "precision": "tf32,fp32"})
    list(measure(sweep, out=tmp_path / "run", worker=fake_worker))
    frame = vanbench.load(tmp_path / "run").set_index(["model", "precision"])
    assert frame.loc[("fake:100", "fp32"), "ratio"] == 1
    assert frame.loc[("fake:200", "fp32"), "ratio"] == pytest.approx(2, rel=1e-2)
    assert not frame["flags"].str.contains("no_reference").any()


def test_the_list_of_cells_names_what_would_be_skipped_and_measures_nothing(fake_worker: tuple[str, ...]) -> None:
    sweep = parse_sweep({}, {"models": "fake:100,fake:200", "precision": "fp32,tf32"})
    seen = preview(sweep, worker=fake_worker)
    assert len(seen.cells) == 16
    assert sum(reason is not None for _, reason in seen.cells) == 8
    assert 0 < seen.seconds <= 240


def test_cells_that_the_budget_does_not_reach_are_skipped_and_resumed_later(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SLEEP", "0.3")
    sweep = parse_sweep({}, {"models": "fake:100,fake:200", **FLAGS, "batch-size": "1,2,3,4,5", "budget": "7"})
    for event in measure(sweep, out=tmp_path / "run", worker=fake_worker):
        last = event
    assert isinstance(last, Finished)
    budget = [record for record in last.records if record.outcome == Skipped(reason="budget")]
    assert 0 < len(budget) < 10
    monkeypatch.setenv("FAKE_SLEEP", "0.001")
    for event in measure(None, resume=tmp_path / "run", overrides={"budget_s": 60.0}, worker=fake_worker):
        last = event
    assert isinstance(last, Finished)
    assert all(isinstance(record.outcome, Measured) for record in last.records)


def test_resuming_continues_and_changes_no_finished_round(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "run"
    sweep = parse_sweep({}, {"models": "fake:100,fake:200,fake:exit", **FLAGS, "rounds": "4:4"})
    events = measure(sweep, out=path, worker=fake_worker)
    for event in events:
        if isinstance(event, Saved) and event.round == 2:
            break
    events.close()  # type: ignore[attr-defined]
    before = {record.key: record for record in read_run(path).records}
    kept = {file.name: file.read_bytes() for file in (path / "cells").iterdir()}
    assert {len(record.rounds) for record in before.values()} == {0, 2}
    for event in measure(None, resume=path, worker=fake_worker):
        last = event
    assert isinstance(last, Finished)
    for record in last.records:
        assert record.rounds[: len(before[record.key].rounds)] == before[record.key].rounds
        if record.cell.model == "fake:exit":
            assert (path / "cells" / f"{record.key}.json").read_bytes() == kept[f"{record.key}.json"]
        else:
            assert len(record.rounds) == 4
    assert len({one.round for one in last.records[0].rounds}) == 4


def test_failed_cells_are_measured_again_only_when_told_so(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(fake_worker, path, "fake:100,fake:exit")
    for event in measure(None, resume=path, retry_failed=True, worker=fake_worker):
        last = event
    assert isinstance(last, Finished)
    assert isinstance(last.records[1].outcome, Failed)
    assert last.records[1].outcome.kind == "exit"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [("FAKE_MEMORY_GIB", "48", "memory_gib: 24 then, 48 now"), ("FAKE_TORCH", "3", "torch: 2")],
)
def test_a_run_is_not_continued_on_another_machine_and_the_field_is_named(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    run(fake_worker, tmp_path / "run", "fake:100")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=said):
        list(measure(None, resume=tmp_path / "run", worker=fake_worker))


def test_a_run_is_not_continued_with_another_sampling_and_the_field_is_named(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    run(fake_worker, path, "fake:100")
    with pytest.raises(UserError, match="cannot change sample_s"):
        list(measure(None, resume=path, overrides={"sample_s": 0.5}, worker=fake_worker))
    text = (path / "sweep.toml").read_text()
    (path / "sweep.toml").write_text(text.replace("settle = 0.0", "settle = 0.5"))
    with pytest.raises(UserError, match=r"settle_s = 0\.0, sweep\.toml says 0\.5"):
        list(measure(None, resume=path, worker=fake_worker))


def test_a_second_run_in_a_busy_directory_is_refused(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "run"
    sweep = parse_sweep({}, {"models": "fake:100", **FLAGS, "rounds": "5:5"})
    events = measure(sweep, out=path, worker=fake_worker)
    next(events)
    with pytest.raises(UserError, match="in use by another vanbench run"):
        list(measure(None, resume=path, worker=fake_worker))
    with pytest.raises(UserError, match="holds a run already"):
        list(measure(sweep, out=path, worker=fake_worker))
    events.close()  # type: ignore[attr-defined]


def test_a_directory_that_is_foreign_or_a_file_is_refused(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    sweep = parse_sweep({}, {"models": "fake:100", **FLAGS})
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="not empty and holds no run"):
        list(measure(sweep, out=tmp_path / "foreign", worker=fake_worker))
    with pytest.raises(UserError, match="is not a directory"):
        list(measure(sweep, out=tmp_path / "foreign" / "thesis.tex", worker=fake_worker))
    with pytest.raises(UserError, match="not a run directory"):
        list(measure(None, resume=tmp_path / "foreign", worker=fake_worker))
    with pytest.raises(UserError, match="no such run directory"):
        list(measure(None, resume=tmp_path / "absent", worker=fake_worker))
    assert [file.name for file in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]


def test_a_record_that_was_tampered_with_is_refused_by_name(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "run"
    run(fake_worker, path, "fake:100")
    file = next((path / "cells").iterdir())
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=file.name):
        read_run(path)


def test_a_worker_that_cannot_start_is_an_error_with_its_last_words(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = parse_sweep({}, {"models": "fake:100", **FLAGS})
    monkeypatch.setenv("FAKE_BROKEN", "1")
    with pytest.raises(WorkerError, match="this interpreter has no torch"):
        list(measure(sweep, out=tmp_path / "run", worker=fake_worker))
    with pytest.raises(WorkerError, match="cannot start the worker"):
        list(measure(sweep, out=tmp_path / "run", worker=("/nowhere/python",)))


@pytest.mark.skipif(sys.platform != "linux", reason="the full device is Linux's")
def test_a_full_disk_is_an_error_and_what_was_kept_stays_whole(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this sandbox does not let us mount a tmpfs")
    try:
        sweep = parse_sweep({}, {"models": "fake:100,fake:200", **FLAGS, "rounds": "9:9"})
        events = measure(sweep, out=disk / "run", worker=fake_worker)
        with pytest.raises(StorageError, match="no space left to write"):  # noqa: PT012 -- some event raises it
            for event in events:
                if isinstance(event, Saved) and event.round == 2:
                    kept = read_run(disk / "run").records
                    (disk / "filler").write_bytes(b"x" * (shutil.disk_usage(disk).free - 4096))
        after = read_run(disk / "run").records
        for was, now in zip(kept, after, strict=True):
            assert now.rounds[: len(was.rounds)] == was.rounds
        assert not list((disk / "run").rglob("*.tmp"))
        (disk / "filler").unlink()
        for event in measure(None, resume=disk / "run", worker=fake_worker):
            last = event
        assert isinstance(last, Finished)
        assert {len(record.rounds) for record in last.records} == {9}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="bind mounts are Linux's")
def test_a_read_only_folder_is_a_clear_error(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this sandbox does not let us mount a tmpfs")
    try:
        sweep = parse_sweep({}, {"models": "fake:100", **FLAGS})
        with pytest.raises(UserError, match="Read-only file system"):
            list(measure(sweep, out=disk / "run", worker=fake_worker))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


RUNNER = """
import sys
from pathlib import Path
from vanbench.cli.app import main
from vanbench.execute import run
run.measure.__kwdefaults__["worker"] = tuple(sys.argv[1].split("|"))
sys.exit(main(sys.argv[2:]))
"""


def start(worker: tuple[str, ...], out: Path, **environment: str) -> subprocess.Popen[str]:
    words = ["run", "--models", "fake:100,fake:200", "--batch-size", "1", "--memory-format", "contiguous"]
    words += ["--rounds", "50:50", "--budget", "100", "--out", str(out)]
    sweep = out.parent / "s.toml"
    sweep.write_text("[axes]\nmodels = 'x:y'\n[sampling]\nround = 0.2\n")
    words.insert(1, str(sweep))
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, "|".join(worker), *words],
        env={**os.environ, "FAKE_SLEEP": "0.01", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_rounds(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        files = list((out / "cells").glob("*.json")) if (out / "cells").exists() else []
        rounds = [len(msgspec.json.decode(file.read_bytes(), type=Record).rounds) for file in files]
        if len(rounds) == 2 and min(rounds) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("the run does not get on")


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process], within_s: float) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_everything_within_two_seconds_and_keeps_every_finished_round(
    fake_worker: tuple[str, ...], tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = start(fake_worker, out)
    wait_for_rounds(out, 2, process)
    below = descendants(process)
    assert below
    sent = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - sent < 2
    assert process.returncode == 130
    assert "interrupted; every finished round is kept" in said
    assert gone(below, 2)
    assert min(len(record.rounds) for record in read_run(out).records) >= 2
    assert (out / "results.csv").exists()


def test_an_interrupt_that_something_swallows_still_ends_the_run(tmp_path: Path) -> None:
    from collections.abc import Iterator

    from vanbench.cli import interrupt
    from vanbench.cli.progress import follow

    def events() -> Iterator[Saved]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:  # as some C extensions do while they are imported
            pass
        yield Saved(tmp_path, 1, 0.5, 1.0)
        raise AssertionError("the run went on")

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    interrupt.install()
    try:
        with pytest.raises(KeyboardInterrupt):
            follow(events(), quiet=True, as_json=False)
    finally:
        interrupt.install()  # forgets the signal
        for number, handler in before.items():
            signal.signal(number, handler)


def test_nobody_outlives_a_parent_that_is_killed(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(fake_worker, out)
    wait_for_rounds(out, 1, process)
    deadline = time.monotonic() + 20
    while len(below := descendants(process)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(below) >= 2, "a nursery and a child"
    process.kill()
    process.communicate()
    assert gone(below, 5)
    assert min(len(record.rounds) for record in read_run(out).records) >= 1
    for event in measure(None, resume=out, overrides={"max_rounds": 3, "min_rounds": 3}, worker=fake_worker):
        last = event
    assert isinstance(last, Finished)


def test_a_run_that_goes_on_compiles_cold_again(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    """What was compiled lay in the first job's scratch folder, which is gone."""
    out = tmp_path / "run"
    sweep = parse_sweep({}, {"models": "fake:a,fake:b", **FLAGS, "rounds": "2:2"})
    list(measure(sweep, out=out, worker=fake_worker))
    list(measure(None, resume=out, overrides={"max_rounds": 4, "min_rounds": 4}, worker=fake_worker))
    for record in read_run(out).records:
        assert [each.compile_cold for each in record.rounds] == [True, False, True, False]


def test_the_parent_sleeps_while_a_worker_hangs(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    sweep = parse_sweep({}, {"models": "fake:hang", **FLAGS})
    before = time.process_time()
    list(measure(sweep, out=tmp_path / "run", worker=fake_worker))
    # Four seconds of silence: what the parent uses is its start, its table and its plots' absence.
    assert time.process_time() - before < 0.8


def test_where_nothing_can_be_forked_each_child_is_a_process_that_connects_back(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    from vanbench.execute.child import ChildFailure
    from vanbench.execute.round import Done, Lost, play
    from vanbench.execute.starter import Spawner
    from vanbench.record.task import Measure
    from vanbench.spec.cell import Cell
    from vanbench.spec.sampling import Sampling

    names = ("100", "exit", "segv-later", "hang", "250")
    sampling = Sampling(timeout_s=1.0)
    tasks = [Measure(cell=Cell(model=f"fake:{n}"), device="cpu", sampling=sampling, seed=0) for n in names]
    with Spawner(tmp_path, fake_worker) as spawner:
        events = list(play([spawner] * len(tasks), tasks, name="r1.0", turns_s=0.3, seed=0))
        done = [event.cell.model for event in events if isinstance(event, Done)]
        lost = {event.cell.model: event.kind for event in events if isinstance(event, Lost)}
        assert done == ["fake:100", "fake:250"]
        assert lost == {"fake:exit": "exit", "fake:segv-later": "signal", "fake:hang": "timeout"}
        child = spawner.fork(tasks[0], "left alive")
        with pytest.raises(ChildFailure, match="no answer"):  # noqa: PT012 -- after some messages
            for _ in range(5):
                child.receive(0.5)
    assert not psutil.Process().children(recursive=True)


def test_a_stranger_on_the_port_is_not_taken_for_a_worker(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    from vanbench.execute.starter import Spawner
    from vanbench.record.task import Names

    stranger = tmp_path / "stranger.py"
    stranger.write_text(
        "import socket, sys\ns = socket.create_connection(('127.0.0.1', int(sys.argv[2])))\ns.sendall(b'x' * 32)\n"
    )
    with (
        Spawner(tmp_path, (sys.executable, str(stranger))) as spawner,
        pytest.raises(WorkerError, match="the worker process ended"),
    ):
        spawner.fork(Names(), "names")


def test_every_cell_starts_before_and_after_every_other_over_two_rounds() -> None:
    from vanbench.execute.round import start_order

    for number in (2, 4, 6):
        first, second = start_order(5, 7, number), start_order(5, 7, number + 1)
        assert first == tuple(reversed(second))
        assert sorted(first) == list(range(5))
    assert len({start_order(5, 7, number) for number in range(2, 42, 2)}) > 10


def test_over_two_laps_every_cell_has_the_same_mean_place() -> None:
    import random

    from vanbench.execute.round import lap_order

    orders = lap_order(6, random.Random(3))
    seen = [(next(orders), next(orders)) for _ in range(50)]
    for there, back in seen:
        assert {there.index(cell) + back.index(cell) for cell in range(6)} == {5}
    assert len({there for there, _ in seen}) > 40
