"""The harness against known truth, with the fake worker as the machine: what it says, and when it must not say it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from builders import make_environment, make_round

from vanbench.analysis.selftest import KNOWN_LIMIT, findings, minutes_for
from vanbench.analysis.verdict import Verdict
from vanbench.cli.app import main
from vanbench.errors import WorkerError
from vanbench.execute.selftest import Kept, Over, selftest
from vanbench.record.gate import Loss
from vanbench.record.measurement import Disturbance
from vanbench.record.selftest import SEATS, SelftestRecord, TruthBlock, read_selftest, save_selftest
from vanbench.report.selftest_text import draw_selftest, plain_words, selftest_markdown
from vanbench.report.write import redraw
from vanbench.spec.cell import Cell
from vanbench.spec.rules import Rules
from vanbench.spec.sampling import Sampling

CELL = Cell(model="resnet18", batch_size=4, image_size=96)
LOUD = Disturbance(window_s=1.0, steps=8, involuntary_switches=1000)


def record(count: int = 24, sd: float = 0.01, wrong: float = 1.0, bias: float = 0.0, **changes: Any) -> SelftestRecord:
    """Blocks of a machine whose processes differ by `sd`; the slowed seats are slowed by `bias` more than they say."""
    draw = random.Random(3)

    def one(slowdown: float) -> Any:
        factor = 0.1 * (1 + slowdown + (bias if slowdown else 0.0)) * draw.lognormvariate(0, sd)
        return make_round("b", [factor] * 8, images=4, start_up_s=1.0)

    blocks = [
        TruthBlock(number=number, rounds=tuple(one(s) for s in SEATS), seconds=16.0) for number in range(1, count + 1)
    ]
    fields: dict[str, Any] = {
        "environment": make_environment(),
        "cell": CELL,
        "known_cell": CELL,
        "known_images_per_s": 800.0,
        "sampling": Sampling(),
        "rules": Rules(),
        "known": tuple(make_round(f"k{i}", [0.01 * wrong] * 8, images=8) for i in range(3)),
        "blocks": tuple(blocks),
    }
    return SelftestRecord(**{**fields, **changes})


def test_on_a_sound_machine_every_truth_is_found_and_nothing_speaks_against_the_harness() -> None:
    found = findings(record())
    assert found.sound
    assert found.known is not None
    assert abs(found.known.error) < 1e-9
    for truth in found.truths:
        assert truth.measured.value == pytest.approx(truth.slowdown, abs=0.01)
    by_truth = {truth.slowdown: truth for truth in found.truths}
    assert by_truth[0.0].judgement.verdict is Verdict.PASS
    assert by_truth[0.0].redrawn == 0
    assert by_truth[0.05].judgement.verdict is by_truth[0.10].judgement.verdict is Verdict.REGRESSED
    assert by_truth[0.05].redrawn == by_truth[0.10].redrawn == 1
    held, count = found.groups
    assert count == 24
    assert held / count > 0.8


def test_a_harness_that_times_wrong_is_found_out() -> None:
    off = findings(record(wrong=1 + 2 * KNOWN_LIMIT))
    assert not off.sound
    assert "WRONG" in plain_words(record(wrong=1.1), findings(record(wrong=1.1)))[0]
    biased = findings(record(bias=0.05))
    assert not any(truth.covered for truth in biased.truths if truth.slowdown)


def test_a_noisy_machine_is_told_what_it_cannot_detect() -> None:
    calm, noisy = record(sd=0.005), record(sd=0.2)
    assert minutes_for(findings(calm), 0.05, Rules()) == pytest.approx(8 * findings(calm).block_s / 60)  # type: ignore[operator]
    assert minutes_for(findings(noisy), 0.05, Rules()) is None
    assert minutes_for(findings(calm), 0.01, Rules()) is None, "below the least effect nothing is regressed"
    words = " ".join(plain_words(noisy, findings(noisy)))
    assert "5 % cannot be told from noise here" in words
    words = " ".join(plain_words(calm, findings(calm)))
    assert "A slowdown of 5 % is found in about" in words


def test_a_gates_block_is_shorter_by_what_the_other_seats_took() -> None:
    # 16 s with six seats: six starts of 1 s and turns of 8 laps; half of both belongs to the other three.
    seconds = findings(record()).block_s
    assert seconds is not None
    assert 16 - 3 - 0.5 < seconds < 16 - 3


def test_disturbed_blocks_are_left_out_whole_and_without_two_calm_ones_nothing_is_said() -> None:
    blocks = list(record().blocks)
    spoiled = [each.__class__(number=each.number, seconds=16.0, rounds=(
        *each.rounds[:-1], make_round("b", [9.0] * 8, disturbance=LOUD))) for each in blocks]  # fmt: skip
    some = findings(record(blocks=tuple(spoiled[:4] + blocks[4:])))
    assert (some.blocks, some.left_out) == (20, 4)
    assert some.truths[-1].measured.value == pytest.approx(0.10, abs=0.01)
    none = record(blocks=tuple(spoiled))
    assert "24 of 24 blocks were disturbed" in findings(none).problem
    assert not findings(none).sound
    assert draw_selftest(none, findings(none)).figure is None
    lost = TruthBlock(number=1, rounds=(None,) * 6, lost=(Loss(role="slowed by 5%", kind="signal", message="SIGSEGV"),))
    assert findings(record(blocks=(lost,))).problem == "slowed by 5%: signal: SIGSEGV"


def test_the_page_holds_the_words_the_table_and_the_picture(tmp_path: Path) -> None:
    made = record()
    save_selftest(tmp_path, made)
    assert {path.name for path in redraw(tmp_path)} == {"report.md", "selftest.png", "selftest.svg"}
    text = (tmp_path / "report.md").read_text()
    assert "The harness is right" in text
    assert "| 5 % slower |" in text
    assert "![selftest](plots/selftest.png)" in text
    assert "REGRESSED" in selftest_markdown(made, findings(made))


def play(worker: tuple[str, ...], out: Path, model: str = "fake:100", truth: float = 100.0) -> SelftestRecord:
    """As short as it can be."""
    events = selftest(
        Cell(model=model), seconds=12.0, out=out, worker=worker, known=Cell(model="fake:100"),
        known_images_per_s=truth, seat_s=0.01,
    )  # fmt: skip
    kept = 0
    for event in events:
        kept += isinstance(event, Kept)
        if isinstance(event, Over):
            assert len(event.record.blocks) == kept
            assert read_selftest(out) == event.record
            return event.record
    raise AssertionError("it did not end")


def test_the_fake_worker_as_a_machine_of_known_truth(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    made = play(fake_worker, tmp_path / "s")
    assert len(made.blocks) >= 3
    assert len(made.known) == 3
    assert all(len(block.rounds) == len(SEATS) for block in made.blocks)
    found = findings(made)
    assert found.known is not None
    assert abs(found.known.error) < 0.01
    for truth in found.truths:
        assert truth.measured.value == pytest.approx(truth.slowdown, abs=0.01)
    assert not findings(play(fake_worker, tmp_path / "w", truth=110.0)).sound


def test_what_cannot_be_measured_is_said_at_once(fake_worker: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"segv.*SIGSEGV"):
        play(fake_worker, tmp_path / "s", model="fake:vet_segv")
    assert "SIGSEGV" in findings(play(fake_worker, tmp_path / "t", model="fake:segv-later")).problem


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "resnet18,van_b0"], "one model"),
        (["--minutes", "600"], "--minutes 600 is above 60"),
        (["--device", "cdua"], "did you mean 'cuda'"),
    ],
)
def test_a_mistake_is_one_message_and_exit_2(
    words: list[str], message: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["selftest", *words]) == 2
    assert message in capsys.readouterr().err
    assert not any(in_tmp.iterdir())


@pytest.mark.slow
def test_a_model_of_known_rate_is_measured_at_its_rate(tmp_path: Path) -> None:
    import vanbench
    from vanbench.models.known import STEP_S

    frame = vanbench.run(
        ["vanbench.models.known:KnownRate"], out=tmp_path / "run", batch_size=8, image_size=32,
        memory_format="contiguous", rounds="2:2", round=0.5,
    )  # fmt: skip
    # The fastest it may be is exact; how slow, the machine's other users decide.
    row: Any = frame.iloc[0]
    assert row["images_per_s"] <= 8 / STEP_S * 1.0001
    assert row["median_s"] > STEP_S * 0.999
    (file,) = (tmp_path / "run" / "cells").glob("*.json")
    quickest = min(step for each in json.loads(file.read_text())["rounds"] for step in each["step_s"])
    assert quickest == pytest.approx(STEP_S, rel=0.05)
    assert math.isfinite(row["images_per_s_low"])


@pytest.mark.slow
def test_an_injected_slowdown_is_that_share_of_each_samples_own_time(tmp_path: Path) -> None:
    from vanbench.execute.round import Done, play
    from vanbench.execute.selftest import _KNOWN
    from vanbench.execute.starter import starter
    from vanbench.record.task import Measure, Vet

    tasks = [
        Measure(cell=_KNOWN, device="cpu", sampling=Sampling(), seed=0, slowdown=slowdown) for slowdown in (0.0, 0.5)
    ]
    with starter(tmp_path) as nursery:
        vetting = nursery.fork(Vet(cell=_KNOWN, device="cpu", seed=0), "vetting")
        while type(vetting.receive(120)).__name__ != "Vetted":
            pass
        events = play([nursery] * 2, tasks, name="b", turns_s=1.5, seed=0)
        done = {event.seat: event.round for event in events if isinstance(event, Done)}
    # Both wait busily for a time of their own, so that other processes hardly matter.
    quickest = {seat: min(s / n for s, n in zip(each.sample_s, each.sample_images, strict=True))
                for seat, each in done.items()}  # fmt: skip
    assert quickest[1] / quickest[0] == pytest.approx(1.5, rel=0.02)
