"""Roofs: visits and their best, the book that keeps them, kernels whose answers are checked, and a real look."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import torch
from builders import make_ceilings, make_environment, roof

from vanbench.errors import UserError
from vanbench.execute.ceilings import book_for
from vanbench.execute.run import Finished, measure
from vanbench.kernels import compiled, roofs
from vanbench.record.ceilings import Book, Stream, cache_place, merged, read_book, remember
from vanbench.record.store import read_run
from vanbench.report.frames import load_frame
from vanbench.report.write import adopt, redraw
from vanbench.spec.sweep import parse_sweep
from vanbench.worker import ceilings_cpu
from vanbench.worker.ceilings import as_ceilings, find
from vanbench.worker.visit import Place, Visit

needs_a_compiler = pytest.mark.skipif(compiled.compiler() is None, reason="no C compiler on this machine")


class FakeClock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _visit(clock: FakeClock, place: Place, how: str, values: list[float]) -> Visit:
    left: Iterator[float] = iter(values * 100)

    def run() -> float:
        clock.now += 1.0
        return next(left)

    return Visit(place, how, run)


def test_every_roof_is_visited_again_and_again_until_the_time_is_up() -> None:
    clock = FakeClock()
    places = [Place("matrix", word) for word in ("fp32", "bf16", "fp16")]
    seen = find([_visit(clock, place, "mm", [1.0]) for place in places], 30.0, 0, clock=clock)
    assert {place: len(seen[place]["mm"]) for place in places} == dict.fromkeys(places, 10)


def test_each_is_visited_once_however_short_the_time() -> None:
    clock = FakeClock()
    seen = find([_visit(clock, Place("matrix", str(i)), "mm", [1.0]) for i in range(50)], 2.0, 0, clock=clock)
    assert len(seen) == 50


def test_a_roof_is_the_best_visit_of_the_best_method_and_a_launch_the_least() -> None:
    clock = FakeClock()
    visits = [
        _visit(clock, Place("stream", "copy", 64), "C", [5.0, 9.0, 1.0]),
        _visit(clock, Place("stream", "copy", 64), "torch", [8.0, 8.0, 8.0]),
        _visit(clock, Place("launch"), "neg", [3.0, 2.0, 7.0]),
        _visit(clock, Place("matrix", "fp32"), "mm", [4.0]),
        _visit(clock, Place("vector", "fp32"), "fma", [6.0]),
    ]
    found = as_ceilings(find(visits, 15.0, 0, clock=clock), make_ceilings(streams=(), matrix={}, vector={}))
    (stream,) = found.streams
    assert (stream.ceiling.best, stream.ceiling.how, stream.ceiling.median, stream.ceiling.low) == (9.0, "C", 5.0, 1.0)
    assert found.launch is not None
    assert (found.launch.best, found.launch.low) == (2.0, 7.0)
    assert (found.matrix["fp32"].best, found.vector["fp32"].best) == (4.0, 6.0)


def test_a_second_look_raises_roofs_and_lowers_none() -> None:
    first = make_ceilings()
    again = make_ceilings(
        streams=(
            Stream(kind="copy", bytes=1 << 16, ceiling=roof(50e9)),
            Stream(kind="copy", bytes=1 << 20, ceiling=roof(99e9)),
            Stream(kind="triad", bytes=1 << 20, ceiling=roof(1e9)),
        ),
        matrix={"fp32": roof(300e9), "bf16": roof(1.0)},
        vector={},
        launch=roof(5e-7),
        date="2026-02-02T00:00:00Z",
    )
    both = merged(first, again)
    best = {(each.kind, each.bytes): each.ceiling.best for each in both.streams}
    assert best[("copy", 1 << 16)] == 100e9
    assert best[("copy", 1 << 20)] == 99e9
    assert best[("triad", 1 << 20)] == 1e9
    assert best[("add", 1 << 28)] == 10e9
    assert {word: each.best for word, each in both.matrix.items()} == {"fp32": 300e9, "tf32": 800e9, "bf16": 1.0}
    assert both.vector == first.vector
    assert both.launch is not None
    assert both.launch.best == 5e-7
    assert (both.date, both.repeated) == (first.date, again.date)
    assert both.matrix["fp32"].visits == 6


def test_a_book_holds_an_entry_for_each_device_and_thread_count() -> None:
    two, one = make_ceilings(), make_ceilings(threads=1)
    newer = make_ceilings(date="2026-03-03T00:00:00Z")
    book = Book().with_entry(two).with_entry(one).with_entry(newer)
    assert book.of("k", "cpu", 2) == newer
    assert book.of("k", "cpu", 1) == one
    assert book.of("k", "cpu", 4) is None
    assert book.of("other", "cpu", 2) is None
    gpu = make_ceilings(device="cuda:0", threads=1)
    assert book.with_entry(gpu).of("k", "cuda:0", 16) == gpu, "a GPU's roofs know no CPU threads"


def test_the_cache_keeps_the_newest_and_a_run_takes_it_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    environment = make_environment()
    assert book_for(environment, None) == Book()
    entry = make_ceilings(machine_key=environment.machine_key)
    for threads in (1, 2, 2):
        remember(msgspec.structs.replace(entry, threads=threads))
    remember(msgspec.structs.replace(entry, device="cuda:0"))
    assert cache_place(environment.machine_key).parent.parent.parent == tmp_path
    assert [each.threads for each in book_for(environment, None).entries] == [1, 2], "the device's alone"


@pytest.mark.parametrize("content", ["", "{", '{"entries": 3}', '{"schema_version": 9}'])
def test_a_file_that_holds_no_ceilings_is_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "ceilings.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"ceilings\.json"):
        read_book(path)
    with pytest.raises(UserError, match="no such file of ceilings"):
        read_book(tmp_path / "absent.json")


def _book_file(path: Path, machine_key: str) -> Path:
    entry = make_ceilings(machine_key=machine_key, streams=(Stream(kind="copy", bytes=1 << 20, ceiling=roof(1e9)),))
    path.write_bytes(msgspec.json.encode(Book(entries=(entry,))))
    return path


def test_ceilings_of_another_machine_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no ceilings of this machine's cpu"):
        book_for(make_environment(), _book_file(tmp_path / "c.json", "another"))


def _run(worker: tuple[str, ...], out: Path, ceilings: Path | None) -> None:
    flags = {"batch-size": "1", "memory-format": "contiguous", "budget": "30", "rounds": "2:2", "round": "0.05"}
    sweep = parse_sweep({}, {"models": "fake:100,fake:200", "settle": "0", **flags})
    assert any(isinstance(event, Finished) for event in measure(sweep, out=out, worker=worker, ceilings=ceilings))


def _fake_key(worker: tuple[str, ...]) -> str:
    from vanbench.execute.probe import probe

    return probe(worker=worker).machine_key


def test_a_run_with_ceilings_has_bounds_and_looks_again_at_its_end(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ROOF", "2")
    file = _book_file(tmp_path / "c.json", _fake_key(fake_worker))
    _run(fake_worker, tmp_path / "run", file)
    (entry,) = read_run(tmp_path / "run").book.entries
    assert entry.repeated == "2026-01-01T00:00:00Z"
    assert entry.streams[0].ceiling.best == 2e9, "the second look found more"
    frame = load_frame(tmp_path / "run")
    step_s = 2 * (1 << 20) / 2e9
    assert list(frame["bound_images_per_s"]) == pytest.approx([1 / step_s] * 2)
    assert list(frame["bytes_modelled"]) == [2 << 20] * 2
    assert list(frame["bound_kind"]) == ["bandwidth"] * 2
    assert list(frame["bound_fraction"]) == pytest.approx(list(frame["images_per_s"] * step_s))
    assert list(frame["bandwidth_bytes_per_s"]) == pytest.approx(list(frame["images_per_s"] * (2 << 20)))
    assert list(frame["ideal_images_per_s"]) == pytest.approx([2 / step_s] * 2)
    assert list(frame["macs"]) == [2000] * 2


def test_a_second_look_that_fails_costs_the_run_nothing(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CEILINGS", "segv")
    _run(fake_worker, tmp_path / "run", _book_file(tmp_path / "c.json", _fake_key(fake_worker)))
    (entry,) = read_run(tmp_path / "run").book.entries
    assert entry.repeated is None
    assert load_frame(tmp_path / "run")["bound_fraction"].notna().all()


def test_a_run_without_ceilings_has_bytes_but_no_bound_until_it_is_given_some(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    _run(fake_worker, tmp_path / "run", None)
    assert not (tmp_path / "run" / "ceilings.json").exists()
    frame = load_frame(tmp_path / "run")
    assert frame["bound_images_per_s"].isna().all()
    assert frame["bytes_modelled"].notna().all()
    adopt(tmp_path / "run", _book_file(tmp_path / "c.json", _fake_key(fake_worker)))
    redraw(tmp_path / "run")
    assert load_frame(tmp_path / "run")["bound_images_per_s"].notna().all()
    with pytest.raises(UserError, match="holds no ceilings of cpu on the machine of"):
        adopt(tmp_path / "run", _book_file(tmp_path / "d.json", "another"))


def test_a_roof_that_was_not_measured_leaves_no_bound_and_is_named(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    entry = make_ceilings(machine_key=_fake_key(fake_worker), vector={}, matrix={})
    (tmp_path / "c.json").write_bytes(msgspec.json.encode(Book(entries=(entry,))))
    _run(fake_worker, tmp_path / "run", None)
    adopt(tmp_path / "run", tmp_path / "c.json")
    frame = load_frame(tmp_path / "run")
    assert frame["bound_images_per_s"].isna().all()
    assert list(frame["unmodelled"]) == ["no ceiling: vector fp32"] * 2


def test_a_row_above_its_bound_says_so(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ROOF", "0.0001")
    file = tmp_path / "c.json"
    entry = make_ceilings(
        machine_key=_fake_key(fake_worker), streams=(Stream(kind="copy", bytes=1, ceiling=roof(1e5)),), launch=None
    )
    file.write_bytes(msgspec.json.encode(Book(entries=(entry,))))
    _run(fake_worker, tmp_path / "run", file)
    frame = load_frame(tmp_path / "run")
    assert (frame["bound_fraction"] > 1).all()
    assert frame["flags"].str.contains("above_bound").all()


# --- the kernels


@needs_a_compiler
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("bypass", [False, True])
def test_streams_give_the_right_answer_to_the_last_element(threads: int, bypass: bool) -> None:
    length = 128 * threads * 5
    a, b = torch.rand(length + 128), torch.rand(length + 128)
    expected = {"copy": a, "add": a + b, "triad": a + 3.0 * b}
    for kind, answer in expected.items():
        c = torch.full_like(a, -1.0)
        seconds, moved = roofs.stream(kind, a, b, c, length, bypass=bypass, inner=2, repeats=2, threads=threads)
        assert torch.allclose(c[:length], answer[:length], rtol=1e-6)
        assert (c[length:] == -1.0).all(), "nothing beyond its part"
        assert len(seconds) == 2
        assert moved == 4 * length * roofs.MOVED[kind]
    c = torch.full_like(a, -1.0)
    _, moved = roofs.stream("update", a, b, c, length, bypass=False, inner=3, repeats=1, threads=threads)
    assert (c[:length] == 4.0).all(), "3 - (3 - (3 - -1))"
    assert (c[length:] == -1.0).all()
    assert moved == 8 * length


@needs_a_compiler
def test_a_read_that_adds_up_wrongly_is_no_figure() -> None:
    a = torch.ones(128 * 8)
    assert roofs.stream("read", a, a, a, len(a), bypass=False, inner=3, repeats=1, threads=1)[1] == 4 * len(a)
    a[5] = 1000.0  # the second thread's part adds up to something else than the first's
    with pytest.raises(ArithmeticError, match="the sum is"):
        roofs.stream("read", a, a, a, len(a), bypass=False, inner=1, repeats=1, threads=2)


@needs_a_compiler
@pytest.mark.parametrize("kind", roofs.KINDS)
def test_no_stream_goes_beyond_an_array(kind: str) -> None:
    long, short = torch.ones(1024), torch.ones(512)
    for short_one in range(3):
        a, b, c = (short if i == short_one else long for i in range(3))
        used = {"read": (0,), "copy": (0, 2), "update": (2,)}.get(kind, (0, 1, 2))
        if short_one in used:
            with pytest.raises(ValueError, match="1024 floats in an array of 512"):
                roofs.stream(kind, a, b, c, 1024, bypass=False, inner=1, repeats=1, threads=2)


@needs_a_compiler
def test_every_visit_of_every_size_stays_within_its_arrays() -> None:
    visits, _ = ceilings_cpu.visits(2, 1 << 20)
    streams = [visit for visit in visits if visit.place.roof == "stream" and visit.how != "torch"]
    assert {visit.place.bytes for visit in streams} == {1 << power for power in range(15, 21)}
    assert all(visit.run() > 0 for visit in streams), "each raises where an array is too short"


def test_sizes_go_in_twos_and_in_fours_where_a_pass_is_long() -> None:
    sizes = ceilings_cpu._Arrays(1 << 15).sizes()
    assert sizes == [1 << 15]
    long = ceilings_cpu._Arrays.sizes(type("Long", (), {"_largest": 2 << 30})())
    assert long[:3] == [1 << 15, 1 << 16, 1 << 17]
    assert long[-3:] == [128 << 20, 512 << 20, 2 << 30]


@needs_a_compiler
@pytest.mark.parametrize("precision", roofs.PRECISIONS)
def test_multiply_adds_come_to_their_fixed_point(precision: str) -> None:
    if not roofs.flops_of_a_pass(precision):
        pytest.skip(f"no instruction for {precision} on this CPU")
    assert len(roofs.multiply_adds(precision, inner=5, repeats=3, threads=2)) == 3


@needs_a_compiler
def test_a_wrong_stream_is_found_before_a_figure_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    right = roofs.stream

    def wrong(kind: str, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, length: int, **words: object) -> object:
        got = right(kind, a, b, c, length, **words)  # type: ignore[arg-type]
        if kind == "triad":
            c[length - 1] += 1.0
        return got

    monkeypatch.setattr(roofs, "stream", wrong)
    with pytest.raises(ArithmeticError, match="triad"):
        ceilings_cpu.visits(2, 1 << 20)


@needs_a_compiler
def test_several_processes_may_compile_at_once(tmp_path: Path) -> None:
    code = "from vanbench.kernels import roofs; print(roofs.flops_of_a_pass('fp32'))"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    said: list[str] = []

    def one() -> None:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        said.append(done.stdout.strip())

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(said)) == 1
    assert int(said[0]) > 0
    (library,) = (tmp_path / "vanbench" / "kernels").iterdir()
    assert library.suffix == ".so"


def test_without_a_compiler_torchs_own_operations_are_the_roofs_and_a_note_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    compiled.load.cache_clear()
    roofs._library.cache_clear()
    try:
        visits, notes = ceilings_cpu.visits(2, 1 << 18)
    finally:
        monkeypatch.undo()
        compiled.load.cache_clear()
        roofs._library.cache_clear()
    assert any("no C compiler" in note for note in notes)
    places = {visit.place for visit in visits}
    assert Place("vector", "fp32") in places
    assert {place.word for place in places if place.roof == "stream"} == {"read", "copy", "add", "triad", "update"}


def test_a_source_that_does_not_compile_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled.compiler() is None:
        pytest.skip("no C compiler on this machine")
    monkeypatch.setattr(compiled, "__file__", str(tmp_path / "compiled.py"))
    (tmp_path / "broken.c").write_text("int f(void) { return missing; }\n")
    with pytest.raises(compiled.NoCompiler, match=r"cannot compile broken\.c: .*missing"):
        compiled.load("broken")


def test_the_triton_kernels_give_the_right_answer_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    code = """
import torch
from vanbench.kernels import roofs_triton as kernels
n, programs, passes = 8192, 4, 3
a, b = torch.arange(n, dtype=torch.float32) % 5, torch.ones(n)
expected = {1: a, 2: a + b, 3: a + 3 * b}
expected[4] = torch.full((n,), 4.0)
for kind in range(5):
    c, sums = torch.full((n,), -1.0), torch.zeros(programs * kernels.BLOCK)
    kernels.stream[(programs,)](a, b, c, sums, n // programs, passes, KIND=kind, BLOCK=kernels.BLOCK)
    assert (sums.sum() == passes * a.sum()) if kind == 0 else torch.equal(c, expected[kind]), kind
out = torch.zeros(2 * kernels.BLOCK)
kernels.multiply_adds[(2,)](out, 0.5, 1.0, 40, PACKED=0, BLOCK=kernels.BLOCK)
assert ((out - 2).abs() < 1e-3).all()
one = torch.zeros(2)
kernels.nothing[(1,)](one)
assert one.tolist() == [1.0, 0.0]
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    if "only 0-dimensional arrays can be converted to Python scalars" in done.stderr:
        pytest.skip("the interpreter of this Triton cannot loop under this NumPy (seen with 3.6 and 2.5)")
    assert done.returncode == 0, done.stderr
