"""Allocators: each serves the process that was started for it, and what is recommended is what was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest
from builders import make_environment, make_facts, make_record, make_round
from typer.testing import CliRunner

from vanbench.analysis.gains import gains, recommended
from vanbench.cli.app import app
from vanbench.execute.allocators import find_gains, gains_of
from vanbench.execute.run import Finished, Opened, measure
from vanbench.execute.starter import WORKER
from vanbench.record import allocators
from vanbench.record.allocators import Gain, Gains, gains_place
from vanbench.record.record import Failed, Measured, Record, Skipped
from vanbench.spec.cell import Cell
from vanbench.spec.names import ALLOCATORS
from vanbench.spec.sweep import parse_sweep

TINY = "tests.own_models:Tiny"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="allocators are chosen by means of Linux")
HERE = [word for word in ALLOCATORS if word not in allocators.why_not()]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent.parent)  # so that `tests.own_models` can be imported by a worker


def measured(words: str, out: Path, worker: tuple[str, ...] = WORKER) -> dict[str, Record]:
    axes = {"models": TINY, "image-size": 64, "batch-size": 1, "memory-format": "contiguous", "allocator": words}
    sampling = {"rounds": "1:1", "budget": 60, "round": 0.1}
    events = list(measure(parse_sweep({}, {**axes, **sampling, "device": "cpu"}), out=out, worker=worker))
    finished = events[-1]
    assert isinstance(finished, Finished)
    return {record.cell.allocator: record for record in finished.records}


@LINUX
def test_every_allocator_that_is_here_serves_its_cell_and_the_others_say_why(tmp_path: Path) -> None:
    found = measured(",".join(ALLOCATORS), tmp_path / "run")
    for word in ALLOCATORS:
        outcome = found[word].outcome
        assert isinstance(outcome, Measured if word in HERE else Skipped), f"{word}: {outcome}"
        assert word in HERE or outcome.reason == allocators.why_not()[word]  # type: ignore[union-attr]


@LINUX
def test_a_process_that_another_allocator_serves_is_not_timed(tmp_path: Path) -> None:
    """The worker's process loses the setting on its way: its cell must not be called `keep`."""
    found = measured("system,keep", tmp_path / "run", ("env", "-u", "GLIBC_TUNABLES", *WORKER))
    assert isinstance(found["system"].outcome, Measured)
    lost = found["keep"].outcome
    assert isinstance(lost, Failed)
    assert "started for allocator=keep, and system serves it" in lost.message


def test_what_is_set_already_stays_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")
    assert allocators.environment_of("keep")["GLIBC_TUNABLES"].startswith("glibc.malloc.arena_max=1:glibc.malloc.mmap_")
    assert allocators.environment_of("system") == {}
    if "tcmalloc" in HERE:
        monkeypatch.setenv("LD_PRELOAD", "libm.so.6")
        assert allocators.setting("tcmalloc").endswith("libm.so.6'")


def test_a_library_that_is_not_installed_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    allocators._library.cache_clear()
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    try:
        if sys.platform == "linux":
            assert allocators.why_not()["jemalloc"] == "no libjemalloc.so is installed (Debian: libjemalloc2)"
    finally:
        allocators._library.cache_clear()


def test_a_cell_of_an_allocator_that_is_not_here_is_a_row_that_says_so(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    missing = make_environment(unsupported={"tcmalloc": "no libtcmalloc.so is installed"})
    assert missing.why_not(Cell(model="van_b0", allocator="tcmalloc")) == "no libtcmalloc.so is installed"
    assert missing.why_not(Cell(model="van_b0", allocator="keep")) is None


# --- what is recommended ----------------------------------------------------------------------------------------------


def seen(**ratios: tuple[float, float, float]) -> Gains:
    found = tuple(Gain(allocator=word, ratio=value, low=low, high=high) for word, (value, low, high) in ratios.items())
    return Gains(machine_key="k", date="2026-01-02T03:04:05Z", torch_version="2", cell="van_b0 bs8 fp32", gains=found)


def test_of_allocators_that_cannot_be_told_apart_the_one_that_needs_least_is_recommended() -> None:
    best = recommended(seen(keep=(1.30, 1.2, 1.4), tcmalloc=(1.35, 1.3, 1.4)))
    assert best is not None
    assert best.allocator == "keep"


def test_an_allocator_that_is_better_for_certain_is_recommended() -> None:
    best = recommended(seen(keep=(1.10, 1.05, 1.15), tcmalloc=(1.35, 1.3, 1.4)))
    assert best is not None
    assert best.allocator == "tcmalloc"


@pytest.mark.parametrize("ratio", [(1.3, 0.9, 1.9), (1.01, 1.005, 1.015), (0.8, 0.7, 0.9)])
def test_a_gain_that_is_not_certain_or_not_worth_it_is_not_recommended(ratio: tuple[float, float, float]) -> None:
    assert recommended(seen(keep=ratio)) is None


def test_gains_are_ratios_to_the_systems_allocator() -> None:
    records = []
    for word, seconds in (("system", 0.2), ("keep", 0.1)):
        rounds = [make_round(f"r{i}", [seconds * (1 + 0.001 * i)] * 4, images=8) for i in range(3)]
        records.append(make_record(Cell(model="van_b0", batch_size=8, allocator=word), rounds, facts=make_facts()))
    found = gains(records, make_environment())
    assert found is not None
    (gain,) = found.gains
    assert gain.allocator == "keep"
    assert gain.ratio == pytest.approx(2.0, rel=1e-6)
    assert gains(records[1:], make_environment()) is None
    assert gains(records[:1], make_environment()) is None


@LINUX
def test_what_was_measured_is_kept_and_told_by_env(tmp_path: Path) -> None:
    events = list(find_gains(model=TINY, batch_size=1, budget_s=30, rounds="1:1", out=tmp_path / "run", worker=WORKER))
    (opened,) = [event for event in events if isinstance(event, Opened)]
    key = opened.environment.machine_key
    known = gains_of(key)
    assert known is not None
    assert [gain.allocator for gain in known.gains] == [word for word in HERE if word != "system"]
    place = gains_place(key)
    place.write_bytes(msgspec.json.encode(msgspec.structs.replace(known, gains=seen(keep=(1.4, 1.3, 1.5)).gains)))
    told = CliRunner().invoke(app, ["env"])
    assert "keep 1.40 ± 0.10" in told.output, told.output
    assert "GLIBC_TUNABLES=glibc.malloc.mmap_max=0" in told.output
    place.write_bytes(msgspec.json.encode(msgspec.structs.replace(known, gains=seen(keep=(1.0, 0.9, 1.1)).gains)))
    assert "the system's serves as well" in CliRunner().invoke(app, ["env"]).output
    place.unlink()
