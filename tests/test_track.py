"""`vanbench track` as people and CI jobs type it: what is added, judged, drawn, accepted, and the exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import make_environment, make_record, make_round, make_sweep
from test_history import MACHINE, STACK, at, make_point

from vanbench.analysis.history import check_newest, check_run, judge, series_of
from vanbench.analysis.verdict import Verdict
from vanbench.cli import main
from vanbench.record.environment import Environment
from vanbench.record.history import Point, append, read_history, stack_key, stack_of
from vanbench.record.record import Failed
from vanbench.record.store import Store
from vanbench.report.history_text import markdown, shift, sparkline
from vanbench.spec.cell import Cell

CELL = Cell(model="van_b0", batch_size=8)
OTHER = Cell(model="resnet18", batch_size=8)


@pytest.fixture(autouse=True)
def _no_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever CI runs these tests, it is not what they are about."""
    for name in ("GITHUB_SHA", "GITHUB_REF_NAME", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


def make_run(
    path: Path, number: int = 100, rate: float = 100.0, failed: Sequence[str] = (), **environment: Any
) -> Path:
    """A run directory of van_b0 and resnet18: van_b0 at `rate` images/s, resnet18 at twice that."""
    sweep = make_sweep(["van_b0", "resnet18"], batch_size=(8,))
    with Store.create(path, sweep, make_environment(**{"date": at(number), **environment})) as store:
        for cell in sweep.cells():
            if cell.model in failed:
                store.save(make_record(cell, [], Failed(kind="exception", message="it broke", rerun="vanbench run")))
                continue
            seconds = 8 / (rate * (2 if cell.model == "resnet18" else 1))
            rounds = [make_round(f"r{i}", [seconds * (1 + 0.002 * (i % 3 - 1))] * 4, images=8) for i in range(5)]
            store.save(make_record(cell, rounds))
    return path


def _stack(environment: Environment | None = None) -> dict[str, str]:
    return stack_of(environment or make_environment(), 2)


def make_store(path: Path, rates: Sequence[float | None] = (), *, steady: int = 20, **changes: Any) -> list[Point]:
    """A store with a series of van_b0 that stands at 100 images/s and then has these rates."""
    stack = changes.pop("stack", _stack())
    all_rates = [*(100 + 0.2 * (-1) ** i for i in range(steady)), *rates]
    points = [make_point(i, rate, **{"cell": CELL, "stack": stack, **changes}) for i, rate in enumerate(all_rates)]
    append(path, points, make_environment().hardware)
    return points


# --- add ------------------------------------------------------------------------------------------------------------


def test_add_appends_each_measured_cell_once_and_says_so(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(in_tmp / "run")
    assert main(["track", "add", "run", "--commit", "ABCDEF1234", "--branch", "main"]) == 0
    assert "run: 2 points added to vanbench-history, 0 there already, 0 cells left out" in capsys.readouterr().out
    history = read_history(Path("vanbench-history"))
    assert sorted(point.slug for point in history.points) == ["resnet18 bs8 fp32", "van_b0 bs8 fp32"]
    assert {(point.commit, point.branch) for point in history.points} == {("abcdef1234", "main")}
    assert list(history.machines) == [MACHINE]
    assert main(["track", "add", "run", "run"]) == 0
    assert "run: 0 points added to vanbench-history, 2 there already" in capsys.readouterr().out
    assert len(read_history(Path("vanbench-history")).points) == 2


def test_add_says_which_cells_it_left_out_and_why(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(in_tmp / "run", failed=["resnet18"])
    assert main(["track", "add", "run", "--store", "kept"]) == 0
    said = capsys.readouterr()
    assert "1 point added to kept, 0 there already, 1 cell left out" in said.out
    assert "resnet18 bs8 fp32: failed: exception: it broke" in said.err


def test_a_mistake_in_the_last_run_adds_nothing_of_the_first(in_tmp: Path) -> None:
    make_run(in_tmp / "run")
    assert main(["track", "add", "run", "absent"]) == 2
    assert [path.name for path in in_tmp.iterdir()] == ["run"]


def _added(in_tmp: Path, *words: str) -> tuple[str | None, str | None]:
    store = in_tmp / f"store-{len(list(in_tmp.iterdir()))}"
    assert main(["track", "add", "run", "--store", str(store), *words]) == 0
    point = read_history(store).points[0]
    return point.commit, point.branch


def test_the_commit_is_the_given_one_else_the_cis_else_gits_else_none(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(in_tmp / "run")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(in_tmp.parent))
    assert _added(in_tmp) == (None, None)
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q", "-b", "trunk"], ["commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *who, *words], check=True)
    sha = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert _added(in_tmp) == (sha, "trunk")
    subprocess.run(["git", "checkout", "-q", "--detach"], check=True)
    assert _added(in_tmp) == (sha, None)
    monkeypatch.setenv("GITHUB_SHA", "1234567890")
    monkeypatch.setenv("GITHUB_REF_NAME", "main")
    assert _added(in_tmp) == ("1234567890", "main")
    assert _added(in_tmp, "--commit", "fedcba9", "--branch", "dev") == ("fedcba9", "dev")
    monkeypatch.delenv("GITHUB_SHA")
    subprocess.run(["git", "checkout", "-q", "trunk"], check=True)
    assert _added(in_tmp) == (sha, "main")
    monkeypatch.delenv("GITHUB_REF_NAME")
    assert _added(in_tmp, "--commit", "fedcba9") == ("fedcba9", None)


def test_without_git_there_is_no_commit_and_no_trouble(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(in_tmp / "run")
    monkeypatch.setenv("PATH", str(in_tmp))
    assert _added(in_tmp) == (None, None)


# --- check ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "code", "verdict"),
    [
        ([100.0], 0, "PASS"),
        ([95.0], 0, "PASS"),
        ([95.0, 95.0], 1, "REGRESSED"),
        ([95.0] * 30, 1, "REGRESSED"),
        ([95.0, 95.0, 100.0], 0, "PASS"),
        ([106.0, 106.0], 0, "IMPROVED"),
        ([95.0, 0.0], 4, "INVALID"),
        ([None], 4, "INVALID"),
    ],
)
def test_check_leaves_with_the_code_of_its_verdict(
    rates: list[float | None], code: int, verdict: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(Path("vanbench-history"), rates)
    assert main(["track", "check"]) == code
    out = capsys.readouterr().out
    assert f"1 {verdict}" in out
    assert "van_b0 bs8 fp32" in out


def test_ten_points_are_still_learning_and_the_eleventh_is_judged(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(Path("ten"), steady=10)
    make_store(Path("eleven"), steady=11)
    assert main(["track", "check", "--store", "ten"]) == 3
    assert "10 of 10" in capsys.readouterr().out
    assert main(["track", "check", "--store", "eleven"]) == 0


def test_what_is_unclear_or_invalid_can_be_passed_with_or_without_a_warning(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(Path("few"), steady=3)
    make_store(Path("broken"), [None])
    make_store(Path("slow"), [95.0, 95.0])
    assert main(["track", "check", "--store", "few", "--on-inconclusive", "pass"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["track", "check", "--store", "few", "--on-inconclusive", "warn"]) == 0
    assert "warning: 1 cell still learning or inconclusive" in capsys.readouterr().err
    assert main(["track", "check", "--store", "few", "--on-invalid", "warn"]) == 3
    assert main(["track", "check", "--store", "broken", "--on-invalid", "warn"]) == 0
    assert "warning: 1 cell could not be judged" in capsys.readouterr().err
    assert main(["track", "check", "--store", "broken", "--on-inconclusive", "warn"]) == 4
    # Nothing excuses a regression.
    assert main(["track", "check", "--store", "slow", "--on-invalid", "pass", "--on-inconclusive", "pass"]) == 1


def test_of_several_series_the_gravest_verdict_counts(in_tmp: Path) -> None:
    store = Path("vanbench-history")
    make_store(store, [100.0, 100.0])
    make_store(store, [95.0, 95.0], cell=OTHER)
    assert main(["track", "check"]) == 1


def test_check_shows_the_baseline_the_change_and_what_disturbed_an_alert(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(Path("vanbench-history"), [95.0, 94.7], flags=("contended",), ratio=0.5, reference="resnet18 bs8 fp32")
    assert main(["track", "check"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"van_b0 bs8 fp32 +94\.7 +100 +-5\.3 % +-2 % +0 % +REGRESSED +22", out), out
    assert "flagged contended: other processes used the CPU" in out


def test_a_first_low_point_passes_and_is_pointed_out(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(Path("vanbench-history"), [95.0])
    assert main(["track", "check"]) == 0
    assert "below its limit for the first time" in capsys.readouterr().out


def test_a_new_segment_says_since_when_it_learns(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Path("vanbench-history")
    make_store(store)
    append(store, [make_point(20, 90.0, cell=CELL, stack={**_stack(), "torch": "2.16.0"})])
    assert main(["track", "check"]) == 3
    assert "a new segment since torch 2.15.0 → 2.16.0" in capsys.readouterr().out


def test_check_is_appended_to_the_page_beside_a_ci_job(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = in_tmp / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    make_store(Path("vanbench-history"), [95.0, 95.0])
    assert main(["track", "check"]) == 1
    assert "### vanbench track: 1 REGRESSED" in page.read_text()


def test_check_judges_a_run_without_adding_it(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Path("vanbench-history")
    make_store(store, [95.0])
    make_store(store, cell=OTHER, steady=4)
    make_run(in_tmp / "slow", rate=94.0)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert main(["track", "check", "slow"]) == 1
    out = capsys.readouterr().out
    assert "1 REGRESSED · 1 LEARNING" in out
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before
    make_run(in_tmp / "good", rate=100.0)
    assert main(["track", "check", "good"]) == 3
    assert main(["track", "check", "good", "--on-inconclusive", "pass"]) == 0
    # Added, it is judged the same.
    assert main(["track", "add", "slow"]) == 0
    assert main(["track", "check", "slow"]) == 1


def test_a_run_of_another_machine_is_invalid_and_told_apart(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(Path("vanbench-history"))
    hardware = msgspec.structs.replace(make_environment().hardware, cores=4, memory_gib=16)
    make_run(in_tmp / "run", hardware=hardware, machine_key=hardware.key, machine=hardware.slug)
    assert main(["track", "check", "run"]) == 4
    said = capsys.readouterr()
    assert "2 INVALID" in said.out
    assert f"machine {hardware.key} (example-cpu-4-cores-{hardware.key[:6]}) is not in the history, which" in said.err
    assert f"knows {MACHINE}" in said.err
    assert f"from {MACHINE} it differs in cores 2 → 4, memory_gib 24 → 16" in said.err
    assert main(["track", "check", "run", "--on-invalid", "warn"]) == 0


def test_a_cell_that_fails_now_and_was_measured_before_does_not_pass(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(Path("vanbench-history"))
    make_store(Path("vanbench-history"), cell=OTHER)
    make_run(in_tmp / "run", failed=["van_b0"], rate=50.0)
    assert main(["track", "check", "run"]) == 1
    out = capsys.readouterr().out
    assert "1 MISSING" in out
    assert "van_b0 bs8 fp32: failed: exception: it broke" in out


def test_a_run_with_nothing_to_judge_does_not_pass(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_store(Path("vanbench-history"), cell=Cell(model="van_b1"))
    make_run(in_tmp / "run", failed=["van_b0", "resnet18"])
    assert main(["track", "check", "run"]) == 2
    assert "run has no measured cell to judge; van_b0 bs8 fp32: failed" in capsys.readouterr().err


def test_the_machine_is_the_one_measured_last_or_the_one_named_or_all(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path("vanbench-history")
    make_store(store, [95.0, 95.0])
    make_store(store, [100.0] * 9, machine_key="feedfacecafe")
    assert main(["track", "check"]) == 0
    assert main(["track", "check", "--machine", "feed"]) == 0
    assert main(["track", "check", "--machine", MACHINE[:6]]) == 1
    capsys.readouterr()
    assert main(["track", "check", "--machine", "all"]) == 1
    out = capsys.readouterr().out
    assert f"example-cpu-{MACHINE[:6]}: 1 REGRESSED" in out
    assert "example-cpu-feedfa: 1 PASS" in out
    make_store(store, machine_key="feedfacebabe")
    assert main(["track", "check", "--machine", "feed"]) == 2
    assert "machine 'feed' is 2 machines: " in capsys.readouterr().err


def test_corrupt_lines_are_named_and_counted_and_do_not_decide(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path("vanbench-history")
    make_store(store)
    (shard,) = store.rglob("*.jsonl")
    shard.write_text("{broken\n" + shard.read_text() + "<<<<<<< HEAD\n")
    for verb in (["check"], ["show"], ["accept", "van_b0*", "--reason", "why not"]):
        assert main(["track", *verb]) == 0
        error = capsys.readouterr().err
        assert f"{shard}, line 1: left out: " in error
        assert f"{shard}, line 22: left out: " in error
        assert "2 lines of the history could not be read" in error


def test_json_has_every_figure_and_no_word_besides(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Path("vanbench-history")
    make_store(store, [95.0, 94.0], low=93.0, high=95.0)
    make_store(store, [None], cell=OTHER)
    (shard,) = store.rglob("*.jsonl")
    shard.write_text(shard.read_text() + "{\n")
    assert main(["track", "check", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["exit_code"] == 1
    assert found["unreadable"][0]["line"] == 44
    assert found["unreadable"][0]["path"] == str(shard)
    by_slug = {row["slug"]: row for row in found["findings"]}
    slow = by_slug["van_b0 bs8 fp32"]
    assert (slow["verdict"], slow["points"], slow["images_per_s"], slow["low"]) == ("REGRESSED", 22, 94.0, 93.0)
    assert slow["limit"] < slow["baseline"] == pytest.approx(100, abs=0.3)
    assert slow["change"] == pytest.approx(-0.06, abs=0.005)
    assert (by_slug["resnet18 bs8 fp32"]["verdict"], by_slug["resnet18 bs8 fp32"]["images_per_s"]) == ("INVALID", None)


def test_a_cell_that_nobody_measures_any_more_is_named_and_does_not_decide(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path("vanbench-history")
    append(store, [make_point(0, cell=OTHER)])
    make_store(store, [100.0] * 3)
    assert main(["track", "check"]) == 0
    assert "not judged, as they are in none of the machine's last 20 runs: resnet18 bs8 fp32" in capsys.readouterr().out


# --- show -----------------------------------------------------------------------------------------------------------


def test_show_draws_into_the_store_and_lists_what_opened_segments(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path("vanbench-history")
    make_store(store, [95.0, 95.0])
    make_store(store, cell=OTHER)
    assert main(["track", "accept", "van_b0 bs8 fp32", "--reason", "a safer kernel"]) == 0
    capsys.readouterr()
    assert main(["track", "show"]) == 0
    out = capsys.readouterr().out
    folder = store / "plots" / f"example-cpu-{MACHINE[:6]}"
    made = sorted(path.name for path in folder.iterdir())
    assert made == [f"{model}-infer.{suffix}" for model in ("resnet18", "van_b0") for suffix in ("png", "svg")]
    assert all(str(folder / name) in out for name in made)
    assert re.search(r"van_b0 bs8 fp32 +[▁▂▃▄▅▆▇█]{22} +95 +0 % +LEARNING +2 of 10", out), out
    assert "accepted: a safer kernel  (van_b0 bs8 fp32)" in out


def test_show_takes_a_model_a_machine_and_a_place(in_tmp: Path) -> None:
    store = Path("vanbench-history")
    make_store(store)
    make_store(store, cell=OTHER)
    make_store(store, machine_key="feedfacecafe")
    assert main(["track", "show", "--model", "van*", "--machine", MACHINE[:6], "--out", "here"]) == 0
    assert sorted(path.name for path in Path("here").iterdir()) == ["van_b0-infer.png", "van_b0-infer.svg"]
    assert main(["track", "show", "--machine", "all", "--out", "both"]) == 0
    assert sorted(path.name for path in Path("both").iterdir()) == sorted(
        [f"example-cpu-{MACHINE[:6]}", "example-cpu-feedfa"]
    )
    assert not (store / "plots").exists()


def test_figures_in_the_store_are_no_part_of_the_history(in_tmp: Path) -> None:
    make_store(Path("vanbench-history"))
    before = read_history(Path("vanbench-history"))
    assert main(["track", "show"]) == 0
    assert read_history(Path("vanbench-history")) == before


# --- accept ---------------------------------------------------------------------------------------------------------


def test_an_accepted_regression_ends_its_alerts_and_a_further_one_alerts_again(in_tmp: Path) -> None:
    store = Path("vanbench-history")
    make_store(store, [95.0] * 5)
    assert main(["track", "check"]) == 1
    assert main(["track", "accept", "van_b0*", "--reason", "a safer kernel", "--commit", "abcdef1"]) == 0
    assert main(["track", "check"]) == 3
    (wanted,) = read_history(store).accepted
    assert (wanted.reason, wanted.commit, wanted.cell_key) == ("a safer kernel", "abcdef1", CELL.key)
    # Acceptance is dated now, so what comes later must be too.
    later = [
        make_point(0, 95.0, cell=CELL, stack=_stack(), time=f"2999-01-{day:02d}T00:00:00Z", id=f"a{day}")
        for day in range(1, 8)
    ]
    append(store, later)
    assert main(["track", "check"]) == 0
    append(
        store,
        [
            msgspec.structs.replace(each, id=f"b{i}", time=f"2999-02-0{i}T00:00:00Z", images_per_s=90.0)
            for i, each in enumerate(later[:2], 1)
        ],
    )
    assert main(["track", "check"]) == 1


@pytest.mark.parametrize(
    "word", ["van_b0 bs8 fp32", "VAN_B0 BS8 FP32", CELL.key, CELL.key[:8], "van*", "*bs8 fp32 channels_last"]
)
def test_accept_takes_a_name_a_key_or_a_pattern_of_exactly_one_series(
    word: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path("vanbench-history")
    make_store(store)
    make_store(store, cell=OTHER)
    make_store(store, cell=Cell(model="resnet18", batch_size=8, memory_format="channels_last"))
    assert main(["track", "accept", word, "--reason", "so it is"]) == 0
    (wanted,) = read_history(store).accepted
    assert wanted.slug == ("resnet18 bs8 fp32 channels_last" if word.startswith("*") else "van_b0 bs8 fp32")
    assert "1 change accepted in vanbench-history: so it is" in capsys.readouterr().out


def test_several_series_need_all(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Path("vanbench-history")
    make_store(store)
    make_store(store, cell=OTHER)
    assert main(["track", "accept", "*bs8*", "--reason", "so it is"]) == 2
    assert "'*bs8*' is 2 series: resnet18 bs8 fp32" in capsys.readouterr().err
    assert read_history(store).accepted == ()
    assert main(["track", "accept", "*bs8*", "--reason", "so it is", "--all"]) == 0
    assert len(read_history(store).accepted) == 2


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["chekc"], "did you mean 'check'"),
        (["add"], "Missing argument"),
        (["add", "absent"], "no such run directory: absent"),
        (["add", "store"], "store is not a run directory: it has no environment.json"),
        (["add", "run", "--commit", "main"], "commit 'main' is not 7 to 64 hex digits"),
        (["add", "run", "--store", "file"], "file is not a directory"),
        (["check", "--store", "absent"], "no history: absent does not exist; vanbench track add makes one"),
        (["check", "--store", "file"], "no history: file is not a directory"),
        (["check", "--store", "empty"], "empty holds no points"),
        (["check", "absent", "--store", "store"], "no such run directory: absent"),
        (["check", "run", "--store", "store", "--machine", "all"], "--machine does not go with a run directory"),
        (["check", "--store", "store", "--machine", "e54fd638"], "unknown machine 'e54fd638'; did you mean"),
        (["check", "--store", "store", "--machine", ""], "unknown machine ''"),
        (["check", "--store", "store", "--on-inconclusive", "wran"], "'wran'; did you mean 'warn'"),
        (["check", "--store", "store", "--on-invalid", "ignore"], "unknown --on-invalid 'ignore'"),
        (["check", "--store", "store", "--jsno"], "did you mean '--json'"),
        (["show", "--store", "store", "--model", "van_bo"], "unknown model 'van_bo'; did you mean 'van_b0'"),
        (["show", "--store", "absent"], "no history: absent"),
        (["accept", "van_b0 bs8 fp23", "--store", "store", "--reason", "x"], "did you mean 'van_b0 bs8 fp32'"),
        (["accept", "van_b0*", "--store", "store"], "Missing option '--reason'"),
        (["accept", "van_b0*", "--store", "store", "--reason", "  "], "--reason is empty"),
        (["accept", "van_b0*", "--store", "store", "--reason", "x", "--commit", "HEAD"], "commit 'HEAD' is not"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_word_and_exit_2(
    words: list[str], said: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_store(Path("store"))
    make_run(Path("run"))
    Path("file").write_text("")
    Path("empty").mkdir()
    before = sorted(in_tmp.rglob("*"))
    assert main(["track", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error
    assert sorted(in_tmp.rglob("*")) == before, "a mistake leaves nothing behind"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_cannot_be_written_is_the_users_mistake(in_tmp: Path) -> None:
    make_run(Path("run"))
    Path("store").mkdir(mode=0o500)
    assert main(["track", "add", "run", "--store", "store"]) == 2


def test_every_verb_shows_the_traceback_when_asked(in_tmp: Path) -> None:
    from vanbench.errors import UserError

    for words in (["add", "absent"], ["check"], ["show"], ["accept", "x", "--reason", "y"]):
        with pytest.raises(UserError):
            main(["track", *words, "--debug"])


# --- text -----------------------------------------------------------------------------------------------------------


def test_the_markdown_table_has_the_gravest_first_and_is_escaped() -> None:
    slow = [make_point(i, rate, cell=Cell(model="z|net*")) for i, rate in enumerate([100.0] * 12 + [90.0, 90.0])]
    fine = [make_point(i, 100.0, cell=CELL) for i in range(14)]
    findings, _ = check_newest([judge(each) for each in series_of([*fine, *slow])])
    text = markdown(findings, "example_cpu", unreadable=2, ended=1)
    lines = text.splitlines()
    assert lines[0] == r"### vanbench track: 1 REGRESSED · 1 PASS (example\_cpu)"
    assert lines[2] == "| cell | images/s | baseline | change | limit | of ratio | verdict | points | note |"
    assert lines[4].startswith(r"| z\|net\* bs1 fp32 | 90 | 100 | -10 % | -2 % |  | **REGRESSED** | 14 |")
    assert lines[5].startswith(r"| van\_b0 bs8 fp32 | 100 | 100 | 0 % | -2 % |  | PASS | 14 |")
    assert lines[7] == "2 lines of the history could not be read; 1 series that nobody measures any more is not judged."
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines[2:6]}
    assert widths == {10}
    assert markdown([], "m") == "### vanbench track: nothing to judge (m)\n"


def test_the_markdown_of_a_run_says_what_is_missing() -> None:
    from vanbench.analysis.history_points import LeftOut

    left_out = [LeftOut(CELL.slug, CELL.key, "failed", "exception: <no> " + "x" * 400)]
    findings = check_run(MACHINE, [], left_out, [make_point(0, cell=CELL)], [])
    assert [each.verdict for each in findings] == [Verdict.MISSING]
    text = markdown(findings, "m")
    assert r"| **MISSING** |  | failed: exception: \<no\> xxx" in text
    assert max(map(len, text.splitlines())) < 260


def test_bars_span_the_last_points_and_changes_carry_their_sign() -> None:
    assert sparkline([1, 2, 3, None, float("nan"), 8]) == "▁▂▃··█"
    assert sparkline([5.0, 5.0]) == "▅▅"
    assert sparkline([None]) == "·"
    assert len(sparkline(list(range(1, 100)))) == 24
    assert [shift(each) for each in (-0.0534, 0.1236, 0.00004, 0.0, 12.0, None, float("nan"))] == [
        "-5.3 %",
        "+12.4 %",
        "0 %",
        "0 %",
        "+1200 %",
        "",
        "",
    ]


def test_points_of_the_made_up_stores_have_the_stack_that_a_run_has(in_tmp: Path) -> None:
    """Otherwise the tests above would compare segments where they mean to compare speeds."""
    make_run(in_tmp / "run")
    assert main(["track", "add", "run"]) == 0
    assert {point.stack_key for point in read_history(Path("vanbench-history")).points} == {stack_key(_stack())}
    assert stack_key(_stack()) != stack_key(STACK)


# --- the page -------------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parent.parent / "docs" / "history.md"


def test_every_command_on_the_page_is_understood() -> None:
    from typer.main import get_command

    from vanbench.cli.track import track

    group = get_command(track)
    found = re.findall(r"vanbench track (\w+)([^`\n]*)", PAGE.read_text(encoding="utf-8"))
    assert {verb for verb, _ in found} == {"add", "check", "show", "accept"}
    for verb, rest in found:
        command = group.commands[verb]  # type: ignore[attr-defined]
        options = {option for parameter in command.params for option in parameter.opts}
        for word in shlex.split(rest):
            if word.startswith("--"):
                assert word in options, (verb, word)


def test_the_rates_on_the_page_are_those_of_the_simulation() -> None:
    """A few of its lines, from fewer trials: a rule that was changed without its page is noticed."""
    from test_history import detected, false_alerts

    text = PAGE.read_text(encoding="utf-8")
    (alerts,) = re.findall(r"^\| normal \| 1 % \| (\d+\.\d\d) % \|", text, re.MULTILINE)
    assert false_alerts("normal", 0.01, 300)[0] == pytest.approx(float(alerts) / 100, abs=0.0006)
    (within,) = re.findall(r"^\| normal \| 1 % \| 5 % \| (\d+) % \|", text, re.MULTILINE)
    assert detected("normal", 0.01, 0.05, 500)[2] == pytest.approx(int(within) / 100, abs=0.05)
