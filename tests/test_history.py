"""The history: lines that survive whatever befalls a file, and a verdict on each point with the error rates it claims.

`python tests/test_history.py` prints the simulated rates that docs/history.md quotes.
"""

from __future__ import annotations

import datetime
import json
import math
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import make_environment, make_record, make_round, make_sweep

from vanbench.analysis.history import Judgement, check_newest, check_run, judge, series_of
from vanbench.analysis.history_points import Change, LeftOut, differences, hardware_differences, points_of
from vanbench.analysis.level import BASELINE_POINTS, LEAST_POINTS, Level, Limits, limits_of
from vanbench.analysis.verdict import Verdict
from vanbench.errors import UserError
from vanbench.record.ceilings import NO_BOOK
from vanbench.record.environment import Gpu, Hardware
from vanbench.record.history import Accepted, Entry, Point, accept, append, read_history, stack_key, stack_of
from vanbench.record.record import Failed, Skipped
from vanbench.record.store import Run
from vanbench.report.table import rows
from vanbench.spec.cell import Cell

__all__ = ["MACHINE", "at", "make_history", "make_point"]

MACHINE = make_environment().machine_key
CELL = Cell(model="van_b0", batch_size=8)
STACK = {"torch": "2.15.0", "python": "3.11.7", "threads": "2"}


def at(number: int) -> str:
    """The time of the run of this number: one every seven hours."""
    start = datetime.datetime(2026, 1, 2, 3, 4, 5)
    return (start + datetime.timedelta(hours=7 * number)).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_point(number: int = 0, images_per_s: float | None = 100.0, **changes: Any) -> Point:
    """A point of the run of this number; `cell` may be a Cell, from which key and slug follow."""
    cell = changes.pop("cell", CELL)
    stack = changes.pop("stack", STACK)
    machine_key = changes.pop("machine_key", MACHINE)
    fields: dict[str, Any] = {
        "id": f"{machine_key[:4]}{cell.key[:6]}{number:06d}",
        "time": at(number),
        "commit": f"{number:040x}",
        "branch": "main",
        "machine_key": machine_key,
        "machine": f"example-cpu-{machine_key[:6]}",
        "device_name": "Example CPU",
        "stack": stack,
        "stack_key": stack_key(stack),
        "cell_key": cell.key,
        "cell": cell.asked,
        "slug": cell.slug,
        "images_per_s": images_per_s,
        "rounds": 5,
    }
    return Point(**{**fields, **changes})


def make_history(count: int, seed: int = 0, sd: float = 0.01, **changes: Any) -> list[Point]:
    """So many points around 100 images/s, with normal noise on the log scale."""
    noise = np.random.default_rng(seed).normal(0, sd, count)
    return [make_point(i, 100 * math.exp(each), **changes) for i, each in enumerate(noise.tolist())]


def _judge(points: Sequence[Point], *accepted: Accepted) -> Judgement:
    (series,) = series_of(points, accepted)
    return judge(series)


def _verdicts(points: Sequence[Point], *accepted: Accepted) -> str:
    """A letter a point: L learning, P pass, R regressed, I improved, X invalid."""
    letters = {Verdict.INVALID: "X"}
    return "".join(letters.get(each.verdict, str(each.verdict)[0]) for each in _judge(points, *accepted).points)


def _series(*rates: float, steady: int = 20) -> list[Point]:
    """`steady` points that differ by less than the least change, then these rates."""
    first = [100 + 0.2 * (-1) ** i for i in range(steady)]
    return [make_point(i, rate) for i, rate in enumerate([*first, *rates])]


# --- lines on disk --------------------------------------------------------------------------------------------------


def _shards(store: Path) -> list[Path]:
    return sorted(store.rglob("*.jsonl"))


def _ids(store: Path) -> list[str]:
    return [point.id for point in read_history(store).points]


def test_what_was_appended_is_read_again_in_the_order_of_time(tmp_path: Path) -> None:
    points = make_history(12)
    shuffled = list(points)
    random.Random(1).shuffle(shuffled)
    wanted = accept(points[3], at(4), "cleaner code", "abcdef1")
    entries: list[Entry] = [*shuffled, wanted]
    assert append(tmp_path / "store", entries) == 13
    history = read_history(tmp_path / "store")
    assert list(history.points) == points
    assert history.accepted == (wanted,)
    assert history.unreadable == ()


def test_a_shard_holds_one_month_of_one_machine_and_a_line_is_an_entry(tmp_path: Path) -> None:
    append(tmp_path, [make_point(0), make_point(90), make_point(200), make_point(200, machine_key="feedfacecafe")])
    assert [(str(shard.relative_to(tmp_path)), len(shard.read_text().splitlines())) for shard in _shards(tmp_path)] == [
        (f"{MACHINE}/2026-01.jsonl", 2),
        (f"{MACHINE}/2026-03.jsonl", 1),
        ("feedfacecafe/2026-03.jsonl", 1),
    ]


def test_a_new_store_merges_by_union_and_the_users_own_attributes_are_left_alone(tmp_path: Path) -> None:
    append(tmp_path / "new" / "store", [make_point()])
    assert (tmp_path / "new" / "store" / ".gitattributes").read_text() == "*.jsonl merge=union\n"
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / ".gitattributes").write_text("* text=auto\n")
    append(tmp_path / "old", [make_point()])
    assert (tmp_path / "old" / ".gitattributes").read_text() == "* text=auto\n"


def test_added_twice_a_point_is_there_once_and_the_second_time_nothing_is_written(tmp_path: Path) -> None:
    points = make_history(5)
    assert append(tmp_path, points[:3]) == 3
    assert append(tmp_path, points) == 2
    before = {shard: shard.read_bytes() for shard in _shards(tmp_path)}
    assert append(tmp_path, points) == 0
    assert {shard: shard.read_bytes() for shard in _shards(tmp_path)} == before
    assert append(tmp_path, [make_point(7), make_point(7)]) == 1


def test_nothing_to_append_makes_no_store(tmp_path: Path) -> None:
    assert append(tmp_path / "store", []) == 0
    assert not (tmp_path / "store").exists()


_WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_history import append, make_point
store, gate, mine = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
(store.parent / f"ready-{{mine}}").touch()
while not gate.exists():
    pass
for number in range(int(sys.argv[4])):
    # The even ones are everybody's, the odd ones this writer's own.
    name = f"{{number:06d}}" + (mine if number % 2 else "")
    append(store, [make_point(number, id=name, time="2026-01-02T03:04:05Z")])
"""


def _writers(store: Path, names: str, each: int) -> list[subprocess.Popen[bytes]]:
    """Processes that stand ready to append so many points each, once a file called `gate` is beside the store."""
    code = _WRITER.format(tests=str(Path(__file__).parent))
    words = [sys.executable, "-c", code, str(store), str(store.parent / "gate")]
    writers = [subprocess.Popen([*words, name, str(each)]) for name in names]
    deadline = time.monotonic() + 60
    while len(list(store.parent.glob("ready-*"))) < len(names) and time.monotonic() < deadline:
        time.sleep(0.01)
    return writers


def test_processes_that_append_at_once_lose_nothing_and_write_nothing_twice(tmp_path: Path) -> None:
    store = tmp_path / "store"
    # Enough that reading what is there takes a while, in which the others may come.
    append(store, [make_point(i, id=f"old-{i}", time="2026-01-02T03:04:05Z") for i in range(300)])
    writers = _writers(store, "abc", 40)
    (tmp_path / "gate").touch()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    assert len(set(_ids(store))) == 300 + 20 + 3 * 20
    assert read_history(store).unreadable == ()
    assert sum(len(shard.read_bytes().splitlines()) for shard in _shards(store)) == 300 + 20 + 3 * 20


@pytest.mark.skipif(sys.platform == "win32", reason="the lock is another one there")
def test_a_writer_waits_for_the_one_before_it(tmp_path: Path) -> None:
    import fcntl

    store = tmp_path / "store"
    append(store, [make_point(99, time="2026-01-02T03:04:05Z")])
    (shard,) = _shards(store)
    (writer,) = _writers(store, "a", 1)
    with open(shard, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (tmp_path / "gate").touch()
        with pytest.raises(subprocess.TimeoutExpired):
            writer.wait(0.5)
        assert len(shard.read_bytes().splitlines()) == 1
    assert writer.wait(60) == 0
    assert len(_ids(store)) == 2


def test_after_a_torn_last_line_the_next_point_is_whole_and_the_torn_one_is_named(tmp_path: Path) -> None:
    points = make_history(3)
    append(tmp_path, points[:2])
    (shard,) = _shards(tmp_path)
    shard.write_bytes(shard.read_bytes()[:-40])
    append(tmp_path, points[2:])
    history = read_history(tmp_path)
    assert [point.id for point in history.points] == [points[0].id, points[2].id]
    ((path, line, why),) = history.unreadable
    assert (path, line) == (shard, 2)
    assert "truncated" in why
    # What was lost is simply added again.
    assert append(tmp_path, points) == 1
    assert list(read_history(tmp_path).points) == points


def test_a_corrupt_line_in_the_middle_is_named_and_costs_nothing_else(tmp_path: Path) -> None:
    points = make_history(6)
    append(tmp_path, points)
    (shard,) = _shards(tmp_path)
    lines = shard.read_bytes().splitlines()
    for number, nonsense in enumerate([b"{", b"\xff\xfe\x00", b'{"type":"note"}', b"[]"], 1):
        lines[number] = nonsense
    shard.write_bytes(b"\r\n".join(lines) + b"\r\n\r\n")
    history = read_history(tmp_path)
    assert [point.id for point in history.points] == [points[0].id, points[5].id]
    assert [(each.path, each.line) for each in history.unreadable] == [(shard, number) for number in (2, 3, 4, 5)]
    assert all(each.why for each in history.unreadable)


@pytest.mark.parametrize(
    "change",
    [
        {"machine_key": "../../etc"},
        {"time": "yesterday"},
        {"time": "2026-13-02T03:04:05Z"},
        {"cell_key": "no key"},
        {"images_per_s": "fast"},
        {"rates": 7},
    ],
)
def test_a_line_with_a_field_that_cannot_be_is_a_corrupt_line(tmp_path: Path, change: dict[str, Any]) -> None:
    append(tmp_path, make_history(2))
    (shard,) = _shards(tmp_path)
    first, second = shard.read_text().splitlines()
    shard.write_text(f"{json.dumps({**json.loads(first), **change})}\n{second}\n")
    history = read_history(tmp_path)
    assert len(history.points) == 1
    assert [each.line for each in history.unreadable] == [1]
    assert next(iter(change)) in history.unreadable[0].why


def test_a_conflict_that_somebody_committed_costs_its_markers_alone(tmp_path: Path) -> None:
    points = make_history(4)
    append(tmp_path, points)
    (shard,) = _shards(tmp_path)
    a, b, c, d = shard.read_text().splitlines()
    shard.write_text("\n".join([a, "<<<<<<< HEAD", b, "=======", b, c, ">>>>>>> other", d]) + "\n")
    history = read_history(tmp_path)
    assert list(history.points) == points
    assert [each.line for each in history.unreadable] == [2, 4, 7]


def test_a_union_merge_of_two_histories_is_their_union(tmp_path: Path) -> None:
    points = make_history(9)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    append(ours, points[:6])
    append(theirs, [*points[:3], *points[6:]])
    (shard,) = _shards(ours)
    # As `git merge-file --union` leaves it: what is common once at best, both sides' lines one after the other.
    shard.write_bytes(shard.read_bytes() + _shards(theirs)[0].read_bytes())
    assert list(read_history(ours).points) == points


def test_git_itself_merges_two_branches_of_a_store_without_a_conflict(tmp_path: Path) -> None:
    store = tmp_path / "store"
    points = make_history(6)

    def git(*words: str) -> None:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(store), *who, *words], check=True, capture_output=True)

    append(store, points[:2])
    git("init", "-b", "bench-history")
    git("add", "-A")
    git("commit", "-m", "first")
    git("checkout", "-b", "other")
    append(store, points[2:4])
    git("commit", "-am", "other")
    git("checkout", "bench-history")
    append(store, points[4:])
    git("commit", "-am", "ours")
    git("merge", "other", "-m", "both")
    history = read_history(store)
    assert list(history.points) == points
    assert history.unreadable == ()


def test_a_line_of_a_newer_version_is_left_out_and_named(tmp_path: Path) -> None:
    append(tmp_path, make_history(3))
    (shard,) = _shards(tmp_path)
    first, second, third = (json.loads(line) for line in shard.read_text().splitlines())
    second["schema_version"] = 2
    third = {"type": "something new", "schema_version": 7}
    shard.write_text("".join(json.dumps(each) + "\n" for each in (first, second, third)))
    history = read_history(tmp_path)
    assert len(history.points) == 1
    assert [(each.line, each.why) for each in history.unreadable] == [
        (2, "schema version 2, this vanbench reads up to 1"),
        (3, "schema version 7, this vanbench reads up to 1"),
    ]


def test_fields_that_a_later_vanbench_added_do_no_harm(tmp_path: Path) -> None:
    append(tmp_path, make_history(1))
    (shard,) = _shards(tmp_path)
    shard.write_text(json.dumps({**json.loads(shard.read_text()), "humidity": 0.4}) + "\n")
    assert len(read_history(tmp_path).points) == 1


def test_what_else_lies_in_a_store_is_not_looked_at(tmp_path: Path) -> None:
    append(tmp_path, make_history(1))
    for other in ("plots/x/notes.jsonl", "data/2026-01.jsonl", f"{MACHINE}/deeper/2026-01.jsonl"):
        (tmp_path / other).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / other).write_text("not ours\n")
    history = read_history(tmp_path)
    assert len(history.points) == 1
    assert history.unreadable == ()


def test_a_missing_store_or_a_place_that_cannot_be_one_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; vanbench track add makes one"):
        read_history(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a directory"):
        read_history(tmp_path / "file")
    with pytest.raises(UserError, match="is not a directory"):
        append(tmp_path / "file", [make_point()])
    with pytest.raises(UserError, match="is not a directory"):
        append(tmp_path / "file" / "deeper", [make_point()])
    (tmp_path / "store" / MACHINE / "2026-01.jsonl").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot write .*2026-01\.jsonl"):
        append(tmp_path / "store", [make_point()])


def test_a_key_or_a_time_that_would_lead_out_of_the_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no machine key"):
        append(tmp_path / "store", [make_point(machine_key="../../../x")])
    with pytest.raises(UserError, match="has no time such as"):
        append(tmp_path / "store", [make_point(time="../../x")])
    with pytest.raises(UserError, match="has no time such as"):
        append(tmp_path / "store", [make_point(time="2026-02-31T00:00:00Z")])
    assert not (tmp_path / "store").exists()


_FULL_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_history import append, make_history
from vanbench.errors import StorageError
store = Path(sys.argv[1])
size = next(store.rglob("*.jsonl")).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))
try:
    append(store, make_history(4))
except StorageError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the size of files cannot be limited there")
def test_on_a_full_disk_the_shard_stays_as_it_was(tmp_path: Path) -> None:
    append(tmp_path, make_history(1))
    (shard,) = _shards(tmp_path)
    before = shard.read_bytes()
    code = _FULL_DISK.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert "no space left to write" in done.stdout
    assert shard.read_bytes() == before


# --- from a run to points -------------------------------------------------------------------------------------------


def _run(tmp_path: Path, **changes: Any) -> Run:
    sweep = make_sweep(["van_b0", "resnet18"], batch_size=(8,))
    records = tuple(
        make_record(cell, [make_round(f"r{i}", [0.03 * (1 + 0.01 * i)] * 4, images=8) for i in range(5)])
        for cell in sweep.cells()
    )
    fields: dict[str, Any] = {"path": tmp_path, "sweep": sweep, "environment": make_environment(), "records": records}
    return Run(**{**fields, "book": NO_BOOK, **changes})


def _points(run: Run) -> list[Point]:
    table = rows(run.sweep, run.environment, run.records, run.book)
    return points_of(run, table, "abcdef1", "main")[0]


def test_a_point_has_the_figures_of_results_csv_and_each_rounds_own(tmp_path: Path) -> None:
    run = _run(tmp_path)
    table = rows(run.sweep, run.environment, run.records, run.book)
    points, left_out = points_of(run, table, "abcdef1", "main")
    assert left_out == []
    for point, row in zip(points, table, strict=True):
        assert (point.images_per_s, point.low, point.high) == (
            row["images_per_s"],
            row["images_per_s_low"],
            row["images_per_s_high"],
        )
        assert point.rates == pytest.approx([8 / (0.03 * (1 + 0.01 * i)) for i in range(5)])
        assert (point.rounds, point.time, point.commit, point.branch) == (5, run.environment.date, "abcdef1", "main")
        assert (point.cell_key, point.cell["model"]) == (row["key"], row["model"])
        assert point.reference == run.records[0].cell.slug
    assert points[0].ratio == 1
    assert points[1].ratio == pytest.approx(1)


def test_cells_that_were_not_measured_are_left_out_with_the_reason(tmp_path: Path) -> None:
    run = _run(tmp_path)
    first, second = (record.cell for record in run.records)
    failed = make_record(first, [], Failed(kind="timeout", message="silent", rerun="vanbench run"))
    run = run._replace(records=(failed, make_record(second, [], Skipped(reason="budget"))))
    points, left_out = points_of(run, rows(run.sweep, run.environment, run.records, run.book), None, None)
    assert points == []
    assert left_out == [
        LeftOut(first.slug, first.key, "failed", "timeout: silent"),
        LeftOut(second.slug, second.key, "skipped", "budget"),
    ]


def test_a_run_keeps_its_ids_when_it_is_continued_or_moved_and_another_run_has_others(tmp_path: Path) -> None:
    run = _run(tmp_path)
    ids = [point.id for point in _points(run)]
    assert len(set(ids)) == 2
    begun = run._replace(
        path=tmp_path / "elsewhere",
        records=tuple(make_record(record.cell, record.rounds[:2]) for record in run.records),
    )
    assert [point.id for point in _points(begun)] == ids
    others = [
        run._replace(environment=make_environment(date="2026-01-02T03:04:06Z")),
        run._replace(environment=make_environment(machine_key="feedfacecafe")),
        # Two machines of a kind, begun in the same second: the clocks of their first rounds differ.
        run._replace(
            records=tuple(
                make_record(record.cell, [make_round("r0", [0.031] * 4, images=8), *record.rounds[1:]])
                for record in run.records
            )
        ),
    ]
    for other in others:
        assert not set(ids) & {point.id for point in _points(other)}


def test_a_run_without_a_proper_date_is_the_users_mistake(tmp_path: Path) -> None:
    run = _run(tmp_path, environment=make_environment(date="2026-01-02 03:04"))
    with pytest.raises(UserError, match=r"environment\.json has no time such as"):
        _points(run)


def test_the_stack_is_what_decides_speed_and_nothing_that_changes_by_itself() -> None:
    import msgspec

    environment = make_environment(settings={"OMP_NUM_THREADS": "2", "LD_PRELOAD": "some/folder/libtcmalloc.so.4"})
    stack = stack_of(environment, 2)
    assert stack["LD_PRELOAD"] == "libtcmalloc.so.4"
    assert stack["OMP_NUM_THREADS"] == stack["threads"] == "2"
    assert "cuda" not in stack
    key = stack_key(stack)

    def changed(**software: Any) -> str:
        other = msgspec.structs.replace(environment, software=msgspec.structs.replace(environment.software, **software))
        return stack_key(stack_of(other, 2))

    for name in ("python", "torch", "timm", "os", "libc", "cuda", "cudnn", "driver", "cpu_capability"):
        assert changed(**{name: "other"}) != key, name
    for name in ("vanbench", "kernel", "numpy"):
        assert changed(**{name: "other"}) == key, name
    assert stack_key(stack_of(environment, 1)) != key
    visible = make_environment(settings={**environment.settings, "CUDA_VISIBLE_DEVICES": "3"})
    assert stack_key(stack_of(visible, 2)) == key


def test_the_state_is_recorded_and_no_host_name_is(tmp_path: Path) -> None:
    import socket

    (first, _) = _points(_run(tmp_path))
    assert first.state["pressure"] == 0.01
    assert first.state["kernel"] == "6.1"
    assert "governor" not in first.state
    assert first.device_name == make_environment().device_name
    append(tmp_path / "store", [first], make_environment().hardware)
    text = "".join(path.read_text() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    assert "host" not in text


def test_the_hardware_stands_beside_the_shards_and_its_differences_are_named(tmp_path: Path) -> None:
    here = make_environment().hardware
    append(tmp_path, [make_point()], here)
    known = read_history(tmp_path).machines
    assert known == {MACHINE: here}
    assert hardware_differences(here, {}) is None
    other = Hardware(
        architecture="x86_64",
        cpu="Other CPU",
        cores=2,
        logical_cores=2,
        cpu_quota=None,
        memory_gib=24,
        virtualisation="kvm",
        gpus=(Gpu(name="H", memory_bytes=1, multiprocessors=2, compute_capability="9.0"),),
    )
    found = hardware_differences(other, known)
    assert found is not None
    assert found[0] == MACHINE
    assert found[1][0] == Change("cpu", "Example CPU", "Other CPU")
    assert ("gpus.0.name", "", "H") in found[1]
    # A damaged one is no more than a missing one.
    (tmp_path / MACHINE / "machine.json").write_text("{")
    assert read_history(tmp_path).machines == {}


# --- the rule -------------------------------------------------------------------------------------------------------


def test_with_fewer_than_ten_earlier_points_nothing_is_concluded() -> None:
    assert _verdicts(make_history(11)) == "LLLLLLLLLLP"
    assert _verdicts(_series(50, 50, 50, steady=8)) == "LLLLLLLLLLP"


def test_the_limit_is_the_written_formula() -> None:
    logs = np.log([97, 99, 100, 101, 104, 98, 102, 100.5, 99.5, 103, 96]).tolist()
    mad = np.median(np.abs(logs - np.median(logs)))
    expected = 3 * 1.4826 * mad * math.sqrt(1 + 1.57 / 11)
    assert limits_of(logs) == pytest.approx(Limits(float(np.median(logs)), float(expected)))
    assert limits_of([0.0] * 12).half == pytest.approx(math.log(1.02))


def test_two_in_a_row_below_the_limit_are_a_regression_and_one_is_not() -> None:
    assert _verdicts(_series(95, 100, 95, 100, 100))[20:] == "PPPPP"
    assert _verdicts(_series(95, 95, 95, 100, 100))[20:] == "PRRPP"
    assert _verdicts(_series(98.5, 98.5, 98.5))[20:] == "PPP"
    assert _verdicts(_series(95, 105, 95, 105))[20:] == "PPPP"


def test_an_improvement_is_the_mirror_image() -> None:
    assert _verdicts(_series(105.3, 105.3, 105.3, 100, 100))[20:] == "PIIPP"
    down = _series(95, 95, 97, 92, 100, 100, 94)
    up = [make_point(i, 10_000 / (point.images_per_s or 1)) for i, point in enumerate(down)]
    swapped = str.maketrans("RI", "IR")
    assert _verdicts(up) == _verdicts(down).translate(swapped)
    for low, high in zip(_judge(down).points, _judge(up).points, strict=True):
        if low.lower is not None:
            assert high.upper == pytest.approx(10_000 / low.lower)


def test_a_first_low_point_does_not_shift_what_the_second_is_held_against() -> None:
    judged = _judge(_series(95, 94)).points
    assert judged[21].lower == judged[20].lower
    assert judged[21].baseline == judged[20].baseline


def test_a_point_that_stood_alone_joins_the_baseline() -> None:
    points = [*make_history(20, sd=0.02), *(make_point(20 + i, rate) for i, rate in enumerate([80.0, 100, 100]))]
    judged = _judge(points).points
    assert [each.side for each in judged[20:]] == [-1, 0, 0]
    logs = [math.log(point.images_per_s or 0) for point in points]
    for place, baseline in ((20, logs[0:20]), (21, logs[0:20]), (22, logs[2:22])):
        limits = limits_of(baseline)
        assert judged[place].lower == pytest.approx(math.exp(limits.centre - limits.half), rel=1e-12), place
    assert judged[22].lower != pytest.approx(judged[20].lower, rel=1e-6)


def test_a_lasting_regression_alerts_until_it_is_undone() -> None:
    verdicts = _verdicts(_series(*[95.0] * 60, *[100.0] * 3))
    assert verdicts[20:] == "P" + "R" * 59 + "PPP"


def test_a_lone_good_run_does_not_end_a_regression_but_two_in_a_row_do() -> None:
    assert _verdicts(_series(95, 95, 99.5, 95, 99.5, 95))[20:] == "PRPRPR"
    assert _verdicts(_series(95, 95, 99.5, 99.5, 95, 99.5, 95, 95))[20:] == "PRPPPPPR"


def test_an_improvement_becomes_the_baseline_once_it_has_points_enough_and_its_loss_is_seen() -> None:
    verdicts = _verdicts(_series(*[106 + 0.1 * (-1) ** i for i in range(12)], 100, 100, 100))
    assert verdicts[20:] == "P" + "I" * 9 + "PP" + "PRR"
    # Before that, the limits are as sharp as they were.
    early = _judge(_series(*[106.0] * 5, 95, 95))
    assert [each.verdict for each in early.points[-2:]] == [Verdict.PASS, Verdict.REGRESSED]
    assert early.points[-1].lower == early.points[20].lower


@pytest.mark.parametrize("rate", [math.nan, math.inf, 0.0, -3.0, None])
def test_a_rate_that_is_none_is_invalid_and_otherwise_as_if_it_were_not_there(rate: float | None) -> None:
    points = _series(95, 95)
    points.insert(21, make_point(20, rate, id="broken"))
    assert _verdicts(points)[20:] == "PXR"
    assert [each.lower for each in _judge(points).points if each.point.id != "broken"] == [
        each.lower for each in _judge(_series(95, 95)).points
    ]
    (finding,) = check_newest([_judge(points[:22])])[0]
    assert finding.verdict is Verdict.INVALID
    assert finding.points == 21


def test_a_changed_stack_opens_a_segment_and_says_what_changed() -> None:
    newer = {"torch": "2.16.0", "python": "3.11.7", "threads": "2", "cudnn": "91100"}
    points = [*_series(), *(make_point(i, 90.0, stack=newer) for i in range(20, 32))]
    judgement = _judge(points)
    assert _verdicts(points) == "L" * 10 + "P" * 10 + "L" * 10 + "PP"
    assert [(opening.place, opening.changes) for opening in judgement.openings] == [
        (0, ()),
        (20, (Change("torch", "2.15.0", "2.16.0"), Change("cudnn", "", "91100"))),
    ]
    assert differences({"a": "1", "b": "2"}, {"b": "2"}) == (Change("a", "1", ""),)
    # One low point on either side of the change are no two in a row.
    assert _verdicts([*_series(95), *(make_point(i, 94.0, stack=newer) for i in range(21, 23))])[20:] == "PLL"


def test_an_accepted_change_opens_a_segment_that_begins_with_the_points_that_alerted() -> None:
    points = _series(*[95.0] * 16, 90, 90)
    wanted = accept(points[22], at(23), "a safer kernel", None)
    assert _verdicts(points, wanted) == "L" * 10 + "P" * 10 + "PRRR" + "L" * 6 + "P" * 6 + "PR"
    judgement = _judge(points, wanted)
    assert [(opening.place, opening.accepted) for opening in judgement.openings] == [(0, ()), (24, (wanted,))]
    assert [each.settled for each in judgement.points[19:25]] == [None, wanted, wanted, wanted, wanted, None]
    assert judgement.points[24].earlier == 4


def test_right_after_it_was_accepted_a_regression_is_held_against_itself() -> None:
    points = _series(95, 95, 95)
    wanted = accept(points[22], at(23), "a safer kernel", None)
    again = accept(points[22], at(24), "said twice", None)
    for accepted in ((wanted,), (wanted, again)):
        (finding,), ended = check_newest([_judge(points, *accepted)])
        assert (finding.verdict, finding.points, ended) == (Verdict.LEARNING, 3, [])
        assert finding.since.accepted == accepted
        assert finding.judged is not None
        assert finding.judged.baseline == pytest.approx(95)
    assert check_newest([_judge(points)])[0][0].verdict is Verdict.REGRESSED
    # What is said twice is no second beginning: the points that alerted stay in.
    assert _judge([*points, make_point(30, 95.0)], wanted, again).points[-1].earlier == 3
    long = _series(*[95.0] * 12)
    (finding,), _ = check_newest([_judge(long, accept(long[-1], at(40), "late", None))])
    assert (finding.verdict, finding.points) == (Verdict.PASS, 12)


def test_an_acceptance_of_another_series_changes_nothing() -> None:
    points = _series(95, 95, 95)
    other = make_point(0, cell=Cell(model="resnet18", batch_size=8))
    wanted = accept(other, at(21), "not about this one", None)
    series = series_of([*points, other], [wanted])
    mine = next(each for each in series if each.cell_key == CELL.key)
    assert mine.accepted == ()
    assert judge(mine).points[-1].verdict is Verdict.REGRESSED


@pytest.mark.parametrize("factor", [1e-3, 3.7, 1e6])
def test_scaling_all_rates_changes_no_verdict(factor: float) -> None:
    points = [*make_history(60, seed=5, sd=0.02), *(make_point(60 + i, 93.0) for i in range(8))]
    scaled = [make_point(i, (point.images_per_s or 0) * factor) for i, point in enumerate(points)]
    assert "R" in _verdicts(points)
    assert _verdicts(scaled) == _verdicts(points)
    for mine, other in zip(_judge(points).points, _judge(scaled).points, strict=True):
        assert other.change == (None if mine.change is None else pytest.approx(mine.change, abs=1e-9))


def test_another_machines_points_change_nothing() -> None:
    mine = make_history(40, seed=2)
    others = make_history(40, seed=3, sd=0.3, machine_key="feedfacecafe")
    mixed = sorted([*mine, *others], key=lambda point: (point.time, point.id))
    found = next(each for each in series_of(mixed) if each.machine_key == MACHINE)
    assert judge(found) == _judge(mine)


def test_the_ratio_is_held_against_the_same_reference_only() -> None:
    reference = "resnet18 bs8 fp32"
    points = [make_point(i, 100.0, ratio=2.0, reference=reference) for i in range(12)]
    points += [make_point(12, 100.0, ratio=1.9, reference=reference), make_point(13, 100.0, ratio=9.0, reference="x")]
    judged = _judge(points).points
    assert judged[12].ratio_change == pytest.approx(-0.05)
    assert judged[13].ratio_change is None
    own = [make_point(i, 100.0, ratio=1.0, reference=CELL.slug) for i in range(12)]
    assert _judge(own).points[-1].ratio_change is None


def test_series_stand_in_the_order_of_sizes_as_numbers() -> None:
    cells = [Cell(model=model, batch_size=size) for model in ("van_b1", "van_b0") for size in (32, 8, 128)]
    found = series_of([make_point(0, cell=cell) for cell in cells])
    assert [(each.points[0].cell["model"], each.points[0].cell["batch_size"]) for each in found] == [
        (model, size) for model in ("van_b0", "van_b1") for size in (8, 32, 128)
    ]


def test_a_cell_that_nobody_measures_any_more_is_not_judged() -> None:
    gone = Cell(model="resnet18", batch_size=8)
    for later, ended in ((BASELINE_POINTS - 1, 0), (BASELINE_POINTS, 1)):
        points = [make_point(0, cell=gone), *(make_point(i) for i in range(1, later + 1))]
        findings, over = check_newest([judge(each) for each in series_of(points)])
        assert (len(findings), len(over)) == (2 - ended, ended)


# --- a run held against the history ---------------------------------------------------------------------------------


def test_a_run_is_held_against_what_came_before_it_whether_or_not_it_is_in_the_history_already() -> None:
    points = _series(95, 95, 100, 100)
    for history in (points, points[:21], [*points[:21], *points[22:]]):
        (finding,) = check_run(MACHINE, [points[21]], [], history, [])
        assert (finding.verdict, finding.points) == (Verdict.REGRESSED, 22)
    (finding,) = check_run(MACHINE, [make_point(30, cell=Cell(model="van_b1"))], [], points, [])
    assert (finding.verdict, finding.points) == (Verdict.LEARNING, 1)


def test_a_run_of_a_machine_that_the_history_does_not_know_is_invalid() -> None:
    (finding,) = check_run("feedfacecafe", [make_point(30, machine_key="feedfacecafe")], [], _series(), [])
    assert finding.verdict is Verdict.INVALID
    # The same cell and figure, as the first machine ever, has simply no history yet.
    (finding,) = check_run("feedfacecafe", [make_point(30, machine_key="feedfacecafe")], [], [], [])
    assert finding.verdict is Verdict.LEARNING


def test_a_cell_of_the_history_that_failed_now_is_missing_and_one_skipped_is_inconclusive() -> None:
    history = [*_series(), make_point(0, cell=Cell(model="resnet18"))]
    left_out = [
        LeftOut("van_b0 bs8 fp32", CELL.key, "failed", "exception: no"),
        LeftOut("resnet18 bs1 fp32", Cell(model="resnet18").key, "skipped", "budget"),
        LeftOut("van_b1 bs1 fp32", Cell(model="van_b1").key, "failed", "never was there"),
    ]
    findings = check_run(MACHINE, [], left_out, history, [])
    assert [(each.verdict, each.why) for each in findings] == [
        (Verdict.MISSING, "failed: exception: no"),
        (Verdict.INCONCLUSIVE, "skipped: budget"),
    ]
    assert check_run("feedfacecafe", [], left_out, history, []) == []


# --- error rates, simulated -----------------------------------------------------------------------------------------

RUNS = 60


def _normal(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.standard_normal(count)


def _autocorrelated(rng: np.random.Generator, count: int) -> np.ndarray:
    """Of the first order, 0.5, with standard deviation 1."""
    noise = rng.standard_normal(count)
    for i in range(1, count):
        noise[i] = 0.5 * noise[i - 1] + math.sqrt(0.75) * noise[i]
    return noise


def _heavy(rng: np.random.Generator, count: int) -> np.ndarray:
    """Student's t with three degrees of freedom, scaled to standard deviation 1."""
    scaled: np.ndarray = rng.standard_t(3, count) / math.sqrt(3)
    return scaled


NOISES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": _normal,
    "autocorrelated 0.5": _autocorrelated,
    "heavy tails (t3)": _heavy,
}


def false_alerts(noise: str, sd: float, trials: int, seed: int = 1) -> tuple[float, float, float]:
    """Shares of judged points that alert, that lie below their limit, and of series of 60 runs that ever alert.

    The second is what a rule without "twice in a row" would alert on.
    """
    rng = np.random.default_rng(seed)
    judged = alerts = low = alerting = 0
    for _ in range(trials):
        level = Level()
        seen = [level.hold(log) for log in (sd * NOISES[noise](rng, RUNS)).tolist()]
        mine = sum(held.verdict is Verdict.REGRESSED for held in seen)
        judged += sum(held.limits is not None for held in seen)
        alerts, low, alerting = alerts + mine, low + sum(held.side < 0 for held in seen), alerting + (mine > 0)
    return alerts / judged, low / judged, alerting / trials


def detected(noise: str, sd: float, step: float, trials: int, seed: int = 2) -> dict[int, float]:
    """Share of steps down after 30 runs that alert within so many runs; at 20, the share that alerts at that run."""
    rng = np.random.default_rng(seed)
    hits = dict.fromkeys((2, 3, 5, 20), 0)
    for _ in range(trials):
        level = Level()
        logs = sd * NOISES[noise](rng, 50)
        logs[30:] += math.log1p(-step)
        alerts = [level.hold(log).verdict is Verdict.REGRESSED for log in logs.tolist()][30:]
        for within in (2, 3, 5):
            hits[within] += any(alerts[:within])
        hits[20] += alerts[19]
    return {within: count / trials for within, count in hits.items()}


@pytest.mark.parametrize(
    ("noise", "sd", "most"),
    [
        ("normal", 0.01, 0.001),
        ("normal", 0.02, 0.002),
        ("autocorrelated 0.5", 0.01, 0.004),
        ("autocorrelated 0.5", 0.02, 0.009),
        ("heavy tails (t3)", 0.01, 0.001),
        ("heavy tails (t3)", 0.02, 0.003),
    ],
)
def test_false_alerts_are_rare_and_a_rule_of_one_point_would_alert_far_more_often(
    noise: str, sd: float, most: float
) -> None:
    alerts, single, _ = false_alerts(noise, sd, 400)
    assert alerts <= most
    assert single > max(2 * alerts, 0.004)


def test_a_step_of_five_percent_is_seen_within_two_runs_and_goes_on_alerting() -> None:
    seen = detected("normal", 0.01, 0.05, 800)
    assert seen[2] >= 0.85
    assert seen[20] >= 0.80
    assert detected("autocorrelated 0.5", 0.01, 0.05, 400)[2] >= 0.85
    assert detected("heavy tails (t3)", 0.01, 0.05, 400)[2] >= 0.9
    # Said where it is weak, too: noise of 2 % hides it, and a step of 10 % it does not.
    assert 0.1 <= detected("normal", 0.02, 0.05, 400)[2] <= 0.4
    assert detected("normal", 0.02, 0.10, 400)[2] >= 0.85


def test_a_baseline_that_took_every_point_in_would_fall_silent() -> None:
    """Why points that alert stay out: with them in, the limits open up and the slow level becomes the baseline."""
    rng = np.random.default_rng(3)
    silent = widest = 0.0
    for _ in range(200):
        logs = (0.01 * rng.standard_normal(50)).tolist()
        logs[30:] = [log + math.log(0.95) for log in logs[30:]]
        limits = [limits_of(logs[max(0, i - BASELINE_POINTS) : i]) for i in range(LEAST_POINTS, 50)]
        low = [log < each.centre - each.half for log, each in zip(logs[LEAST_POINTS:], limits, strict=True)]
        silent += not any(low[30:])
        widest += max(each.half for each in limits[20:]) / limits[19].half
    assert silent / 200 >= 0.95
    assert widest / 200 >= 3


def _percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def print_rates(trials: int = 4000) -> None:
    """The two tables of docs/history.md."""
    print("| noise | sd | false alerts a run | points below the limit once | series of 60 runs with a false alert |")
    print("|---|---:|---:|---:|---:|")
    for noise in NOISES:
        for sd in (0.01, 0.02):
            alerts, single, series = false_alerts(noise, sd, trials)
            figures = [_percent(sd), _percent(alerts, 2), _percent(single, 2), _percent(series, 1)]
            print(f"| {noise} | {' | '.join(figures)} |")
    print("\n| noise | sd | step | within 2 runs | within 3 | within 5 | still alerting at the 20th run |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for noise, sd, step in (
        *(("normal", 0.01, step) for step in (0.03, 0.05, 0.10)),
        *(("normal", 0.02, step) for step in (0.05, 0.10)),
        ("autocorrelated 0.5", 0.01, 0.05),
        ("heavy tails (t3)", 0.01, 0.05),
    ):
        seen = detected(noise, sd, step, trials)
        figures = [_percent(share) for share in (sd, step, *seen.values())]
        print(f"| {noise} | {' | '.join(figures)} |")


if __name__ == "__main__":
    print_rates()
