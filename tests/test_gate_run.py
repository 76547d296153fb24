"""The gate as a whole: with the fake worker for every way it can end, with real ones for what only they can show."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vanbench.analysis.gate_outcome import Outcome, outcome
from vanbench.analysis.verdict import Verdict
from vanbench.cli.app import main
from vanbench.errors import UserError
from vanbench.execute.arms import sources
from vanbench.execute.gate import Ended, Opened, Played, gate
from vanbench.execute.round import Turn
from vanbench.record.gate import GateRecord, read_gate
from vanbench.spec.arm import Arm
from vanbench.spec.rules import Rules

QUICK = Rules(looks=(4, 6))


def play(
    worker: tuple[str, ...],
    out: Path,
    base: Arm | None = None,
    head: Arm | None = None,
    models: str = "fake:100",
    **changes: Any,
) -> tuple[GateRecord, Outcome]:
    """A gate of the fake worker's, its turns as short as they can be."""
    options: dict[str, Any] = {"rules": QUICK, "turns_s": 0.02, "out": out, "worker": worker, **changes}
    flags = {"models": models} if models else {}
    for event in gate(base or Arm(), head or Arm(), flags, **options):
        if isinstance(event, Ended):
            assert outcome(read_gate(out)) == event.outcome, "the record comes to another end than the gate did"
            return event.record, event.outcome
    raise AssertionError("the gate did not end")


def verdicts(found: Outcome) -> list[Verdict]:
    return [line.verdict for line in found.pairs]


def test_the_same_arm_twice_passes_and_a_slow_one_is_regressed_twice(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    record, found = play(fake_worker, tmp_path / "same")
    assert verdicts(found) == [Verdict.PASS]
    assert len(record.pairs[0].passes) == 1
    assert len(record.pairs[0].passes[0]) == 4
    record, found = play(fake_worker, tmp_path / "slow", head=Arm(slowdown=0.05))
    assert verdicts(found) == [Verdict.REGRESSED]
    assert [len(blocks) for blocks in record.pairs[0].passes] == [4, 4]
    assert record.verdicts == {"fake:100 bs1 fp32": "REGRESSED"}
    first, second = ({block.seed for block in blocks} for blocks in record.pairs[0].passes)
    assert not first & second
    _, found = play(fake_worker, tmp_path / "fast", base=Arm(slowdown=0.05))
    assert verdicts(found) == [Verdict.IMPROVED]


def test_arms_of_other_models_are_compared_and_their_answers_are_not(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    base, head = Arm(axes={"models": "fake:100"}), Arm(axes={"models": "fake:200~answer=9"})
    record, found = play(fake_worker, tmp_path / "g", base, head, models="")
    assert verdicts(found) == [Verdict.IMPROVED]
    assert record.pairs[0].apart is None
    assert found.pairs[0].slug == "fake:100 bs1 fp32 -> fake:200~answer=9 bs1 fp32"


def test_the_start_of_the_arms_is_mirrored_in_every_second_block(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    record, _ = play(fake_worker, tmp_path / "g")
    orders = [block.order for block in record.pairs[0].passes[0]]
    assert orders[0] == orders[1][::-1]
    assert orders[2] == orders[3][::-1]
    assert all(sorted(order) == [0, 1, 2] for order in orders)


def test_several_cells_are_played_in_one_block_and_judged_together(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    _, found = play(fake_worker, tmp_path / "g", head=Arm(slowdown=0.1), models="fake:100,fake:50,fake:200")
    assert verdicts(found) == [Verdict.REGRESSED] * 3
    assert found.family is not None
    assert found.family.verdict is Verdict.REGRESSED
    assert found.family.confirmed


def other_head(folder: Path, fake_worker: tuple[str, ...], fact: str) -> tuple[tuple[str, ...], Arm]:
    """A worker whose head, of the same name, has another fact; and the head, which has a tree of its own."""
    script = folder / "worker.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(Path(fake_worker[1]).parent)!r})\n"
        "import fake_worker, vanbench.worker.nursery as nursery\n"
        "def serve(message, channel):\n"
        "    if os.environ['VANBENCH_CACHE'].endswith('head'):\n"
        f"        message = message.replace(b'fake:100', b'fake:100~{fact}')\n"
        "    fake_worker.serve(message, channel)\n"
        "nursery.main(sys.argv[1:], fake_worker.warm, serve)\n"
    )
    (folder / "tree").mkdir()
    return (sys.executable, str(script)), Arm(path=str(folder / "tree"))


@pytest.mark.parametrize("what", ["params", "macs", "bytes", "breaks"])
def test_more_of_what_can_be_counted_is_regressed_before_a_block_is_played(
    what: str, fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    worker, head = other_head(tmp_path, fake_worker, f"{what}=99999999")
    record, found = play(worker, tmp_path / "g", head=head)
    assert verdicts(found) == [Verdict.REGRESSED]
    assert "counted, not timed" in found.pairs[0].why
    assert record.pairs[0].passes == ((),)


def test_different_answers_are_invalid_before_a_block_is_played(tmp_path: Path, fake_worker: tuple[str, ...]) -> None:
    worker, head = other_head(tmp_path, fake_worker, "answer=2.1")
    _, found = play(worker, tmp_path / "g", head=head)
    assert verdicts(found) == [Verdict.INVALID]
    assert "not the same function" in found.pairs[0].why


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("fake:oom", "base: out_of_memory"),
        ("fake:oom-later", "out_of_memory"),
        ("fake:segv-later", "SIGSEGV"),
        ("fake:wrong", "base: wrong_answer"),
        ("fake:exit-later", "left with status 3"),
    ],
)
def test_an_arm_that_dies_is_invalid_and_says_how(
    model: str, words: str, fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    _, found = play(fake_worker, tmp_path / "g", models=model)
    assert verdicts(found) == [Verdict.INVALID]
    assert words in found.pairs[0].why


def test_too_little_memory_for_three_is_invalid(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_HELD", "1000")
    monkeypatch.setenv("FAKE_FREE", "1500")
    _, found = play(fake_worker, tmp_path / "g")
    assert verdicts(found) == [Verdict.INVALID]
    assert "three processes side by side" in found.pairs[0].why


def test_a_disturbed_machine_is_invalid_and_says_by_what(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SWITCHES", "1000")
    record, found = play(fake_worker, tmp_path / "g")
    assert verdicts(found) == [Verdict.INVALID]
    assert "contended" in found.pairs[0].why
    assert len(record.pairs[0].passes[0]) == 2, "it was known after two blocks of four"


def test_a_model_that_the_head_lacks_is_missing_and_one_that_both_lack_a_mistake(
    fake_worker: tuple[str, ...], tmp_path: Path
) -> None:
    base, head = Arm(axes={"models": "fake:100"}), Arm(axes={"models": "nothing"})
    _, found = play(fake_worker, tmp_path / "g", base, head, models="")
    assert verdicts(found) == [Verdict.MISSING]
    _, found = play(fake_worker, tmp_path / "h", head, base, models="")
    assert verdicts(found) == [Verdict.NEW]
    with pytest.raises(UserError, match="unknown model"):
        play(fake_worker, tmp_path / "i", models="nothing")


def test_time_that_runs_out_is_said(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    record, found = play(fake_worker, tmp_path / "g", budget_s=0.001)
    assert record.stopped == "budget"
    assert verdicts(found) == [Verdict.INVALID]
    assert "0 valid blocks" in found.pairs[0].why


def test_sources_that_speak_another_protocol_are_refused_by_name(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(fake_worker[1]).parent)!r})\n"
        "import fake_worker, vanbench.worker.nursery as nursery\n"
        "nursery.PROTOCOL = 2\n"
        "nursery.main(sys.argv[1:], fake_worker.warm, fake_worker.serve)\n"
    )
    record, found = play((sys.executable, str(script)), tmp_path / "g")
    assert found.verdicts == [Verdict.INVALID]
    assert "speaks protocol 2" in found.problem
    assert read_gate(tmp_path / "g").problem == record.problem


def test_an_arm_that_cannot_start_is_invalid(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BROKEN", "1")
    _, found = play(fake_worker, tmp_path / "g")
    assert found.verdicts == [Verdict.INVALID]
    assert "this interpreter has no torch" in found.problem


def test_a_tree_from_which_nothing_is_imported_is_a_mistake(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tree").mkdir()
    head = Arm(path=str(tmp_path / "tree"))
    assert verdicts(play(fake_worker, tmp_path / "g", head=head)[1]) == [Verdict.PASS]
    monkeypatch.setenv("FAKE_STRANGER", "1")
    with pytest.raises(UserError, match="nothing was imported from path="):
        play(fake_worker, tmp_path / "h", head=head)


def test_arms_of_two_sources_and_the_twin_have_a_nursery_each_in_every_block(
    fake_worker: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "pids"
    monkeypatch.setenv("FAKE_PIDS", str(started))
    play(fake_worker, tmp_path / "g", rules=Rules(looks=(2,)))
    # One to look it over and one a block, each for all three.
    assert len(started.read_text().splitlines()) == 3
    started.unlink()
    (tmp_path / "tree").mkdir()
    play(fake_worker, tmp_path / "h", head=Arm(path=str(tmp_path / "tree")), rules=Rules(looks=(2,)))
    folders = [Path(line.split()[1]).name for line in started.read_text().splitlines()]
    assert sorted(folders) == ["base"] * 6 + ["head"] * 3


def test_closing_it_in_the_middle_keeps_every_finished_block(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    events = gate(
        Arm(), Arm(), {"models": "fake:100"}, rules=QUICK, turns_s=0.02, out=tmp_path / "g", worker=fake_worker
    )
    for event in events:
        if isinstance(event, Played) and event.number == 2:
            break
    events.close()  # type: ignore[attr-defined]
    record = read_gate(tmp_path / "g")
    assert record.stopped == "interrupted"
    assert len(record.pairs[0].passes[0]) == 2
    assert verdicts(outcome(record)) == [Verdict.INVALID]


def test_events_come_in_their_order(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    kinds = [
        type(event)
        for event in gate(
            Arm(), Arm(), {"models": "fake:100"}, rules=QUICK, turns_s=0.02, out=tmp_path / "g", worker=fake_worker
        )
    ]
    assert kinds.count(Opened) == 1
    assert kinds.count(Played) == 4
    assert kinds[-1] is Ended
    assert kinds.index(Opened) < kinds.index(Turn) < kinds.index(Played)


# --- where an arm's code comes from ---------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> str:
    environment = {
        **os.environ,
        "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b.c", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@b.c",
    }  # fmt: skip
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


@pytest.fixture
def repository(in_tmp: Path) -> Path:
    git(in_tmp, "init", "-q")
    (in_tmp / "mine.py").write_text("SPEED = 1\n")
    git(in_tmp, "add", ".")
    git(in_tmp, "commit", "-qm", "one")
    (in_tmp / "mine.py").write_text("SPEED = 2\n")
    git(in_tmp, "commit", "-qam", "two")
    (in_tmp / "mine.py").write_text("SPEED = 3\n")
    return in_tmp


def test_a_commit_is_laid_out_and_the_repository_stays_as_it_was(repository: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = (git(repository, "status", "--porcelain", "-uno"), git(repository, "worktree", "list"))
    with sources(Arm(ref="HEAD~1"), Arm(ref="HEAD"), scratch) as (base, head):
        assert base.tree is not None
        assert head.tree is not None
        assert (Path(base.tree) / "mine.py").read_text() == "SPEED = 1\n"
        assert (Path(head.tree) / "mine.py").read_text() == "SPEED = 2\n"
        assert base.commit == git(repository, "rev-parse", "HEAD~1")
        assert base.scratch != head.scratch
        code = "import mine; print(mine.SPEED, mine.__file__)"
        boot = base.command[2].replace("runpy.run_module('vanbench.worker', run_name=\"__main__\")", code)
        assert boot != base.command[2]
        done = subprocess.run([base.command[0], "-c", boot], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("1 "), "the current directory came before the arm's own tree"
    assert (git(repository, "status", "--porcelain", "-uno"), git(repository, "worktree", "list")) == before


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (Arm(ref="nowhere"), "ref=nowhere is no commit here"),
        (Arm(path="nowhere"), "path=nowhere is not a directory"),
        (Arm(python="nopython"), "python=nopython is no program"),
    ],
)
def test_a_source_that_is_not_there_is_said(arm: Arm, words: str, repository: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(UserError, match=words), sources(Arm(), arm, scratch):
        raise AssertionError("it was found")


def test_equal_arms_share_one_source(tmp_path: Path) -> None:
    with sources(Arm(), Arm(slowdown=0.1), tmp_path) as (base, head):
        assert base is head


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def played(fake_worker: tuple[str, ...], tmp_path: Path) -> Path:
    # The command line has no say in the looks, so that a replayed record brings its own.
    play(fake_worker, tmp_path / "g", head=Arm(slowdown=0.05))
    return tmp_path / "g"


def test_a_record_is_judged_again_by_the_command_line(
    played: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert main(["gate", "--replay", str(played)]) == 1
    printed = capsys.readouterr()
    assert "REGRESSED" in printed.out
    assert printed.err == ""
    assert "vanbench gate: 1 REGRESSED" in summary.read_text()
    assert main(["gate", "--replay", str(played / "gate.json"), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["exit_code"] == 1
    assert document["cells"][0]["verdict"] == "REGRESSED"


def test_a_gates_page_and_plot_are_drawn_again_from_its_record(played: Path) -> None:
    assert main(["gate", "--replay", str(played)]) == 1
    assert not (played / "report.md").exists(), "a replay writes nothing"
    assert main(["report", str(played)]) == 0
    assert "REGRESSED" in (played / "report.md").read_text()
    assert (played / "comment.md").read_text().startswith("<!-- vanbench:gate:v1 -->")
    assert (played / "plots" / "gate.png").stat().st_size > 10_000


def test_a_record_whose_verdict_was_changed_is_found_out(played: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = played / "gate.json"
    file.write_text(file.read_text().replace('"REGRESSED"', '"PASS"'))
    assert main(["gate", "--replay", str(played)]) == 1
    assert "the record says PASS, its blocks say REGRESSED" in capsys.readouterr().err


def test_an_invalid_record_leaves_with_4_unless_told_otherwise(
    fake_worker: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    play(fake_worker, tmp_path / "g", models="fake:oom")
    assert main(["gate", "--replay", str(tmp_path / "g")]) == 4
    assert main(["gate", "--replay", str(tmp_path / "g"), "--on-invalid", "warn"]) == 0
    assert "warning: INVALID" in capsys.readouterr().err
    assert main(["gate", "--replay", str(tmp_path / "g"), "--on-invalid", "pass"]) == 0
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--head", "pyton=3"], "did you mean 'python'"),
        (["--models", "van_b0", "--on-invalid", "wran"], "did you mean 'warn'"),
        (["--models", "van_b0", "--tolerance", "5"], "--tolerance 5 is not a share"),
        (["--models", "van_b0", "--turns", "0"], "--turns 0"),
        (["--replay", "x", "--models", "van_b0"], "--replay judges what was measured"),
        (["--replay", "nowhere"], "no such record of a gate"),
        ([], "no models"),
        (["--models", "van_b0", "--head", "path=nowhere"], "path=nowhere is not a directory"),
    ],
)
def test_a_mistake_is_one_message_and_exit_2(
    words: list[str], message: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gate", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not any(in_tmp.iterdir())


# --- real workers ---------------------------------------------------------------------------------------------------

MODEL = """
import time
import torch

class Net(torch.nn.Module):
    # A step takes WAIT seconds, whatever the machine does.
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        self.head = torch.nn.Linear(4, 10)

    def forward(self, x):
        end = time.perf_counter() + {wait}
        y = self.head(self.body(x))
        while time.perf_counter() < end:
            pass
        return torch.{last}(y)
"""


def tree(folder: Path, wait: float, last: str = "relu") -> Arm:
    folder.mkdir()
    (folder / "their_model.py").write_text(MODEL.format(wait=wait, last=last))
    return Arm(path=str(folder))


@pytest.mark.slow
def test_two_source_trees_are_two_sources_and_the_slower_one_is_found(tmp_path: Path) -> None:
    base, head = tree(tmp_path / "base", 0.02), tree(tmp_path / "head", 0.03)
    flags = {"models": "their_model:Net", "batch-size": "2", "image-size": "64", "threads": "1"}
    ended = [
        event
        for event in gate(base, head, flags, rules=Rules(looks=(2, 3)), turns_s=0.3, out=tmp_path / "g")
        if isinstance(event, Ended)
    ]
    # Both wait busily for a time of their own; their quickest samples show it, whatever else goes on beside the tests.
    quickest = {
        role: min(
            seconds / images
            for block in ended[0].record.pairs[0].passes[0]
            for seconds, images in zip(getattr(block, role).sample_s, getattr(block, role).sample_images, strict=True)
        )
        for role in ("base", "head", "twin")
    }
    assert quickest["head"] / quickest["base"] == pytest.approx(1.5, abs=0.1)
    assert quickest["twin"] / quickest["base"] == pytest.approx(1.0, abs=0.1)
    assert ended[0].record.head.loaded == ("their_model",)


@pytest.mark.slow
def test_a_head_that_computes_something_else_is_not_timed(tmp_path: Path) -> None:
    base, head = tree(tmp_path / "base", 0.0), tree(tmp_path / "head", 0.0, "tanh")
    flags = {"models": "their_model:Net", "batch-size": "2", "image-size": "64"}
    for event in gate(base, head, flags, out=tmp_path / "g"):
        if isinstance(event, Ended):
            assert verdicts(event.outcome) == [Verdict.INVALID]
            assert "not the same function" in event.outcome.pairs[0].why
            assert event.record.pairs[0].passes == ((),)


@pytest.mark.slow
def test_an_interrupt_leaves_with_130_and_keeps_the_blocks(tmp_path: Path) -> None:
    words = ["gate", "--models", "resnet18", "--batch-size", "1", "--image-size", "64", "--turns", "0.2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vanbench", *words, "--out", str(tmp_path / "g")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        file = tmp_path / "g" / "gate.json"
        if file.exists() and read_gate(file).pairs[0].passes[0]:
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "interrupted" in error
    record = read_gate(tmp_path / "g")
    assert record.stopped == "interrupted"
    assert record.pairs[0].passes[0]
