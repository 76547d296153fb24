"""From blocks to a verdict: the rule, its mirror images, what makes it invalid, and what it says in words."""

from __future__ import annotations

import gzip
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import make_environment, make_round
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from vanbench.analysis.gate import Judgement, decide, detectable, look
from vanbench.analysis.gate_outcome import outcome, suspects
from vanbench.analysis.observation import Observed, apart, grown, observe
from vanbench.analysis.verdict import REACTIONS, Verdict, exit_code, worst
from vanbench.errors import UserError
from vanbench.record.gate import Apart, ArmSeen, Block, GateRecord, Loss, PairRecord, Size, read_gate, save_gate
from vanbench.record.measurement import Answer, Disturbance, Round
from vanbench.report.frames import load_frame
from vanbench.report.gate_text import COMMENT_BYTES, gate_markdown, headline
from vanbench.report.step_summary import append_summary
from vanbench.spec.arm import Arm, Pair, pairs, parse_arm
from vanbench.spec.cell import Cell
from vanbench.spec.rules import Rules
from vanbench.spec.sampling import Sampling

RULES = Rules()
SMALL = Size(params=10, macs=20, bytes_modelled=30, graph_breaks=0)


def observed(slowdown: float, count: int = 24, sd: float = 0.01, seed: int = 1, twin: float = 0.0) -> list[Observed]:
    """Blocks whose head takes `slowdown` (a share) longer."""
    draw = random.Random(seed)
    return [Observed(draw.gauss(-math.log1p(slowdown), sd), draw.gauss(twin, sd)) for _ in range(count)]


def block(number: int = 1, slowdown: float = 0.0, seed: int = 0, **changes: Any) -> Block:
    """A block of eight laps of a tenth of a second."""
    draw = random.Random(1000 * seed + number)

    def one(factor: float, **others: Any) -> Round:
        return make_round("b", [0.1 * factor * draw.lognormvariate(0, 0.01) for _ in range(8)], **others)

    rounds = {"base": one(1.0), "head": one(1.0 + slowdown), "twin": one(1.0)}
    return Block(number=number, seed=1, order=(0, 1, 2), **{**rounds, **changes})


def record(*passes: Sequence[Block], **changes: Any) -> GateRecord:
    """A gate of one pair."""
    cell = Cell(model="van_b0", batch_size=8)
    pair = PairRecord(base=cell, head=cell, base_size=SMALL, head_size=SMALL, passes=tuple(tuple(p) for p in passes))
    return with_pairs([msgspec.structs.replace(pair, **changes)])


def with_pairs(members: Sequence[PairRecord], **changes: Any) -> GateRecord:
    arm = ArmSeen(asked=Arm(), environment=make_environment())
    fields: dict[str, Any] = {
        "date": "2026-01-02T03:04:05Z",
        "base": arm,
        "head": arm,
        "rules": RULES,
        "sampling": Sampling(),
        "pairs": tuple(members),
    }
    return GateRecord(**{**fields, **changes})


def blocks(slowdown: float, count: int = 8, seed: int = 0) -> list[Block]:
    return [block(number, slowdown, seed) for number in range(1, count + 1)]


def only(made: GateRecord) -> tuple[Verdict, str]:
    (line,) = outcome(made).pairs
    return line.verdict, line.why


# --- the rule -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slowdown", "verdict"),
    [
        (0.0, Verdict.PASS),
        (0.01, Verdict.PASS),
        (0.05, Verdict.REGRESSED),
        (0.30, Verdict.REGRESSED),
        (-0.06, Verdict.IMPROVED),
    ],
)
def test_a_verdict_follows_the_true_slowdown(slowdown: float, verdict: Verdict) -> None:
    judged = decide(observed(slowdown), RULES)
    assert judged is not None
    assert judged.verdict is verdict
    assert judged.blocks == 8


def test_nothing_is_said_between_the_looks() -> None:
    noisy = observed(0.05, sd=0.08)
    seen = {count: decide(noisy[:count], RULES) for count in range(25)}
    assert all(seen[count] is None for count in (*range(8), 9, 10, 11, 13, 14, 15))
    plain = observed(0.0)
    assert decide(plain[:7], RULES) is None
    assert decide(plain[:8], RULES) == decide(plain, RULES)


def test_a_slowdown_below_the_least_effect_is_never_regressed_however_sure() -> None:
    sure = look([Observed(-0.015 + 1e-5 * i, 0.0) for i in range(24)], RULES)
    assert sure.p_slower is not None
    assert sure.p_slower < 1e-9
    assert sure.verdict is Verdict.PASS


def test_what_24_blocks_cannot_tell_is_inconclusive_and_says_what_they_could() -> None:
    judged = decide(observed(0.03, sd=0.08, seed=3), RULES)
    assert judged is not None
    assert judged.verdict is Verdict.INCONCLUSIVE
    assert judged.blocks == 24
    assert judged.detectable is not None
    assert judged.detectable > RULES.tolerance
    assert judged.needed is not None
    assert judged.needed > 24
    assert f"needs about {judged.needed} blocks" in judged.why
    assert f"{100 * judged.detectable:.2g} %" in judged.why


def test_the_smallest_detectable_slowdown_is_found_as_often_as_it_says() -> None:
    draw = random.Random(5)
    alpha, sd, count = RULES.alpha_of(1), 0.02, 16
    effect = math.log1p(detectable(sd, count, alpha, 0.8))
    hits = 0
    for _ in range(2000):
        seen = look([Observed(draw.gauss(-effect, sd), 0.0) for _ in range(count)], RULES)
        assert seen.p_slower is not None
        hits += seen.p_slower < alpha
    assert 0.77 < hits / 2000 < 0.85


def test_more_blocks_of_the_same_spread_detect_less() -> None:
    found = [detectable(0.02, count, 0.001, 0.8) for count in (8, 12, 16, 24, 100)]
    assert found == sorted(found, reverse=True)


def test_many_cells_share_the_error_that_is_allowed() -> None:
    assert RULES.alpha_of(1) == RULES.alpha_of(10) == RULES.alpha / 4
    assert RULES.alpha_of(40) == RULES.family_alpha / 40 / 4


def test_a_twin_that_differs_from_its_base_makes_it_invalid() -> None:
    judged = decide(observed(0.0, twin=0.05), RULES)
    assert judged is not None
    assert judged.verdict is Verdict.INVALID
    assert "twin" in judged.why
    apart_but_unsure = decide(observed(0.0, sd=0.03, twin=0.022, seed=2), RULES)
    assert apart_but_unsure is not None
    assert apart_but_unsure.verdict is not Verdict.INVALID


# --- metamorphic ----------------------------------------------------------------------------------------------------

MIRROR = {Verdict.REGRESSED: Verdict.IMPROVED, Verdict.IMPROVED: Verdict.REGRESSED}


@given(st.lists(st.floats(-0.2, 0.2), min_size=24, max_size=24), st.sampled_from([8, 12, 16, 24]), st.floats(-0.1, 0.1))
def test_arms_swapped_mirror_what_a_look_sees(noise: list[float], count: int, shift: float) -> None:
    there = look([Observed(x + shift, 0.0) for x in noise[:count]], RULES)
    back = look([Observed(-x - shift, 0.0) for x in noise[:count]], RULES)
    assert there.mean == pytest.approx(-(back.mean or 0.0))
    assert there.p_slower == pytest.approx(back.p_faster)
    assert there.detectable == pytest.approx(back.detectable)
    if there.verdict in MIRROR:
        assert back.verdict is MIRROR[there.verdict]


@given(st.permutations(range(8)))
def test_the_order_of_blocks_within_a_look_changes_nothing(order: list[int]) -> None:
    seen = observed(0.03, count=8, sd=0.02)
    one, other = look(seen, RULES), look([seen[i] for i in order], RULES)
    assert one.verdict is other.verdict
    assert one.mean == pytest.approx(other.mean)
    assert one.p_slower == pytest.approx(other.p_slower)


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_another_unit_of_time_changes_nothing(factor: float) -> None:
    def scaled(one: Round | None) -> Round:
        assert one is not None
        return msgspec.structs.replace(one, sample_s=[factor * s for s in one.sample_s])

    plain = blocks(0.05)
    other = [msgspec.structs.replace(b, base=scaled(b.base), head=scaled(b.head), twin=scaled(b.twin)) for b in plain]
    for one, two in zip(map(observe, plain), map(observe, other), strict=True):
        assert one.change == pytest.approx(two.change)
        assert one.twin == pytest.approx(two.twin)


def test_the_same_rounds_thrice_are_a_pass_with_no_change_at_all() -> None:
    one = make_round("b", [0.1, 0.11, 0.09, 0.1])
    judged = decide([observe(Block(number=i, seed=0, order=(0, 1, 2), base=one, head=one, twin=one)) for i in range(8)],
                    RULES)  # fmt: skip
    assert judged is not None
    assert judged.verdict is Verdict.PASS
    assert judged.mean == 0.0
    assert judged.excluded == 0.0


# --- what one block says --------------------------------------------------------------------------------------------


def test_both_processes_of_the_base_count_alike() -> None:
    one = Block(
        number=1,
        seed=0,
        order=(0, 1, 2),
        base=make_round("b", [0.10] * 4),
        head=make_round("b", [0.11] * 4),
        twin=make_round("b", [0.12] * 4),
    )
    assert observe(one).change == pytest.approx(math.log(math.sqrt(0.10 * 0.12) / 0.11))
    assert observe(one).twin == pytest.approx(math.log(0.10 / 0.12))


def test_stalls_that_hit_all_three_alike_favour_nobody() -> None:
    draw = random.Random(8)

    def one() -> Round:
        stalls = [2 if draw.random() < 0.1 else 1 for _ in range(18)]
        return make_round("b", [0.1 * stall * draw.lognormvariate(0, 0.04) for stall in stalls])

    seen = [observe(Block(number=i, seed=0, order=(0, 1, 2), base=one(), head=one(), twin=one())) for i in range(4000)]
    mean = sum(each.change for each in seen) / len(seen)
    error = math.sqrt(sum(each.change**2 for each in seen)) / len(seen)
    assert abs(mean) < 3.3 * error
    assert error < 0.0004, "a bias of 0.24 % would not be seen"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": make_round("b", [0.1] * 7 + [math.nan])}, "head: sample 8 took nan s"),
        ({"twin": make_round("b", [0.0] + [0.1] * 7)}, "twin: sample 1 took 0.0 s"),
        ({"head": make_round("b", [0.1] * 8, images=0)}, "head: sample 1 has 0 images"),
        ({"base": make_round("b", [0.1] * 7)}, "unequal counts of samples: base 7, head 8, twin 8"),
        ({"head": None}, "no round of head"),
        ({"lost": (Loss(role="head", kind="out_of_memory", message="too big"),)}, "head: out_of_memory: too big"),
    ],
)
def test_a_broken_block_makes_the_verdict_invalid_and_says_why(changes: dict[str, Any], words: str) -> None:
    made = record([*blocks(0.0, 7), block(8, **changes)])
    verdict, why = only(made)
    assert verdict is Verdict.INVALID
    assert words in why
    assert exit_code([verdict]) == 4


def disturbed(number: int) -> Block:
    loud = Disturbance(window_s=1.0, steps=8, involuntary_switches=1000)
    return block(number, 0.5, head=make_round("b", [0.5] * 8, disturbance=loud))


def test_disturbed_blocks_are_left_out_whole_and_too_many_make_it_invalid() -> None:
    some = record([*blocks(0.0, 6), disturbed(7), disturbed(8), block(9), block(10)])
    (line,) = outcome(some).pairs
    assert line.verdict is Verdict.PASS
    assert line.first is not None
    assert (line.first.blocks, line.first.left_out) == (8, 2)
    many = record([*blocks(0.0, 8), *(disturbed(9 + i) for i in range(3))])
    assert only(many)[0] is Verdict.INVALID
    assert "3 of 11 blocks were disturbed: contended" in only(many)[1]


def test_under_eight_blocks_is_invalid() -> None:
    assert only(record(blocks(0.0, 7))) == (Verdict.INVALID, "7 valid blocks; at least 8 are needed")


# --- without timing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["params", "macs", "bytes_modelled", "graph_breaks"])
def test_whatever_grew_by_one_is_regressed_without_a_block(field: str) -> None:
    more = msgspec.structs.replace(SMALL, **{field: getattr(SMALL, field) + 1})
    verdict, why = only(record((), head_size=more))
    assert verdict is Verdict.REGRESSED
    assert why.startswith("1 more ")
    assert only(record(blocks(0.0), base_size=more))[0] is Verdict.PASS
    unknown = msgspec.structs.replace(SMALL, macs=None)
    assert grown(unknown, SMALL) == grown(SMALL, unknown) == []


def test_where_the_axes_differ_what_grew_is_told_and_time_decides() -> None:
    more = msgspec.structs.replace(SMALL, params=12)
    other = Cell(model="van_b0", batch_size=8, memory_format="channels_last")
    (line,) = outcome(record(blocks(-0.1), head=other, head_size=more)).pairs
    assert line.verdict is Verdict.IMPROVED
    assert line.more == ("2 more parameters (10 to 12)",)


def test_arms_whose_answers_differ_are_not_compared() -> None:
    far = Apart(quantity="logits", distance=0.02, allowed=0.01)
    assert only(record((), apart=far))[0] is Verdict.INVALID
    assert "not the same function" in only(record((), apart=far))[1]
    lost = Apart(quantity="logits", distance=math.nan, allowed=0.01)
    assert only(record(blocks(0.0), apart=lost))[0] is Verdict.INVALID
    beyond = Apart(quantity="logits", distance=math.inf, allowed=0.0)
    assert "beyond measure" in only(record((), apart=beyond))[1]
    near = Apart(quantity="logits", distance=0.009, allowed=0.01)
    assert only(record(blocks(0.0), apart=near))[0] is Verdict.PASS


def test_the_distance_of_two_answers_is_that_of_the_worst_row_in_units_of_what_it_may_be() -> None:
    base = Answer(quantity="logits", rows=[[3.0, 4.0], [1.0, 0.0]], tolerances=[0.1, 0.2])
    head = Answer(quantity="logits", rows=[[3.0, 4.5], [1.15, 0.0]], tolerances=[0.1, 0.2])
    found = apart(base, head)
    assert found.distance == pytest.approx(0.1)
    assert found.allowed == 0.1
    assert apart(base, base).distance == 0
    for wrong in ([[3.0, math.nan], [1.0, 0.0]], [[3.0, 4.0]], [[3.0, 4.0], [1.0]]):
        assert not math.isfinite(apart(base, msgspec.structs.replace(head, rows=wrong)).distance)


def test_a_cell_that_the_head_lacks_fails_and_one_that_the_base_lacks_is_new() -> None:
    assert only(record((), missing="head"))[0] is Verdict.MISSING
    assert only(record((), missing="base"))[0] is Verdict.NEW
    assert exit_code([Verdict.MISSING]) == 1
    assert exit_code([Verdict.NEW]) == 0


def test_records_of_two_machines_are_no_comparison() -> None:
    elsewhere = ArmSeen(asked=Arm(), environment=make_environment(machine_key="feedfeedfeed"))
    made = with_pairs(record(blocks(0.0)).pairs, head=elsewhere)
    assert outcome(made).verdicts == [Verdict.INVALID]
    assert "different machines" in headline(made, outcome(made))


# --- two passes -----------------------------------------------------------------------------------------------------


def test_a_regression_counts_only_if_it_recurs() -> None:
    slow = blocks(0.05)
    assert only(record(slow))[0] is Verdict.INCONCLUSIVE
    assert "not confirmed" in only(record(slow))[1]
    assert only(record(slow, blocks(0.05, seed=1))) == (Verdict.REGRESSED, only(record(slow, blocks(0.05, seed=1)))[1])
    assert "confirmed 2 of 2" in only(record(slow, blocks(0.05, seed=1)))[1]
    verdict, why = only(record(slow, blocks(0.0, seed=1)))
    assert verdict is Verdict.PASS
    assert "the second did not" in why
    assert only(record(slow, blocks(-0.1, seed=1)))[0] is Verdict.INCONCLUSIVE


def test_the_second_pass_is_for_those_that_regressed() -> None:
    slow, plain = record(blocks(0.05)).pairs[0], record(blocks(0.0, seed=4)).pairs[0]
    other = msgspec.structs.replace(plain, base=Cell(model="resnet18"), head=Cell(model="resnet18"))
    third = msgspec.structs.replace(plain, base=Cell(model="resnet34"), head=Cell(model="resnet34"))
    assert suspects(with_pairs([slow, other, third])) == [0]
    assert suspects(with_pairs([other, third])) == []


def test_what_is_slower_everywhere_by_a_little_shows_in_all_cells_together() -> None:
    rules = Rules()
    members = []
    for place, model in enumerate(("resnet18", "resnet34", "resnet50", "van_b0")):
        made = record(blocks(0.028, seed=10 + place)).pairs[0]
        # Each cell alone is too noisy to say so.
        noisy = [
            msgspec.structs.replace(
                b,
                head=msgspec.structs.replace(
                    b.head, sample_s=[s * random.Random(100 * place + b.number).lognormvariate(0, 0.022)
                                      for s in b.head.sample_s]
                ),
            )
            for b in made.passes[0]
            if b.head is not None
        ]  # fmt: skip
        members.append(
            msgspec.structs.replace(made, base=Cell(model=model), head=Cell(model=model), passes=(tuple(noisy),))
        )
    found = outcome(with_pairs(members, rules=rules))
    assert found.family is not None
    assert found.family.first is not None
    spread = [line.first.sd for line in found.pairs if line.first is not None and line.first.sd is not None]
    assert found.family.first.sd is not None
    assert found.family.first.sd < min(spread)


def opposed(slowdown: float, count: int = 8, seed: int = 0) -> GateRecord:
    """Two cells that are slower by the same, whose noise is large and of opposite sign in every block."""
    members = []
    for sign, model in ((1, "resnet18"), (-1, "resnet34")):
        made = []
        for number in range(1, count + 1):
            off = math.exp(sign * (-1) ** number * (0.05 + 0.001 * number + 0.0001 * seed))
            head = make_round("b", [0.1 * (1 + slowdown) * off * (1 + 0.002 * (number % 3))] * 4)
            flat = make_round("b", [0.1] * 4)
            made.append(Block(number=number, seed=0, order=(0, 1, 2), base=flat, head=head, twin=flat))
        cell = Cell(model=model)
        members.append(PairRecord(base=cell, head=cell, passes=(tuple(made),)))
    return with_pairs(members)


def test_what_no_cell_shows_alone_all_together_can_and_it_must_recur_too() -> None:
    once = opposed(0.04)
    found = outcome(once)
    assert [line.verdict for line in found.pairs] == [Verdict.INCONCLUSIVE] * 2
    assert found.family is not None
    assert found.family.first is not None
    assert found.family.first.verdict is Verdict.REGRESSED
    assert found.family.verdict is Verdict.INCONCLUSIVE, "it has not recurred"
    assert exit_code(found.verdicts, "pass", "pass") == 0
    assert suspects(once) == [0, 1]
    again = opposed(0.04, seed=5)
    twice = with_pairs(
        [
            msgspec.structs.replace(pair, passes=(*pair.passes, *other.passes))
            for pair, other in zip(once.pairs, again.pairs, strict=True)
        ]
    )
    assert exit_code(outcome(twice).verdicts, "pass", "pass") == 1
    assert Verdict.REGRESSED in outcome(twice).verdicts


def test_all_cells_together_are_judged_over_the_blocks_that_all_played_undisturbed() -> None:
    first, second = opposed(0.04, count=9).pairs
    loud = Disturbance(window_s=1.0, steps=8, involuntary_switches=1000)
    blocks_of = list(second.passes[0])
    spoiled = msgspec.structs.replace(blocks_of[2], head=make_round("b", [9.0] * 4, disturbance=loud))
    blocks_of[2] = spoiled
    found = outcome(with_pairs([first, msgspec.structs.replace(second, passes=(tuple(blocks_of),))]))
    assert found.family is not None
    assert found.family.first is not None
    kept = [number for number in range(9) if number != 2]
    changes = [(observe(first.passes[0][i]).change + observe(second.passes[0][i]).change) / 2 for i in kept]
    assert found.family.first.mean == pytest.approx(sum(changes) / 8)


# --- exit codes -----------------------------------------------------------------------------------------------------


def test_the_gravest_verdict_decides_and_reactions_silence_only_their_own() -> None:
    assert worst([Verdict.PASS, Verdict.INVALID, Verdict.REGRESSED]) is Verdict.REGRESSED
    assert worst([]) is None
    codes = {verdict: exit_code([Verdict.PASS, verdict]) for verdict in Verdict}
    assert codes == {
        Verdict.REGRESSED: 1, Verdict.IMPROVED: 0, Verdict.PASS: 0, Verdict.INCONCLUSIVE: 3, Verdict.LEARNING: 3,
        Verdict.INVALID: 4, Verdict.NEW: 0, Verdict.MISSING: 1,
    }  # fmt: skip
    assert exit_code([Verdict.INCONCLUSIVE, Verdict.INVALID], "warn", "fail") == 4
    assert exit_code([Verdict.INCONCLUSIVE, Verdict.INVALID], "fail", "pass") == 3
    assert exit_code([Verdict.INCONCLUSIVE, Verdict.INVALID, Verdict.REGRESSED], "pass", "pass") == 1
    assert REACTIONS == ("fail", "warn", "pass")


# --- arms -----------------------------------------------------------------------------------------------------------


def test_an_arm_is_read_and_written_the_same() -> None:
    arm = parse_arm("head", "memory-format=channels_last, python=other/bin/python,path=.,slowdown=10%")
    assert arm == Arm(axes={"memory-format": "channels_last"}, python="other/bin/python", path=".", slowdown=0.1)
    assert parse_arm("head", arm.text) == arm
    assert parse_arm("base", "") == parse_arm("base", ".") == Arm()
    assert parse_arm("base", "model=van_b0,batch_size=4").axes == {"models": "van_b0", "batch-size": "4"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pyton=x", "did you mean 'python'"),
        ("channels_last", "is not key=value"),
        ("path=a,ref=b", "both path and ref"),
        ("threads=2,threads=4", "twice"),
        ("slowdown=lots", "slowdown=lots"),
        ("slowdown=-1", "share from 0"),
    ],
)
def test_a_wrong_word_in_an_arm_is_said(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_arm("head", text)


def test_pairs_are_the_cells_with_each_arms_own_axes_put_in() -> None:
    head = Arm(axes={"memory-format": "channels_last"})
    found = pairs(Arm(), head, {"models": "van_b0,resnet18", "batch-size": "8"})
    assert [pair.base.memory_format for pair in found] == ["contiguous"] * 2
    assert [pair.head.memory_format for pair in found] == ["channels_last"] * 2
    assert found[0].slug == "van_b0 bs8 fp32 -> van_b0 bs8 fp32 channels_last"
    assert pairs(Arm(axes={"models": "van_b0"}), Arm(axes={"models": "resnet18"}), {}) == (
        Pair(Cell(model="van_b0"), Cell(model="resnet18")),
    )
    with pytest.raises(UserError, match="gives several for both arms"):
        pairs(Arm(), head, {"models": "van_b0", "memory-format": "contiguous,channels_last"})
    with pytest.raises(UserError, match="did you mean 'channels_last'"):
        pairs(Arm(), Arm(axes={"memory-format": "channels_lost"}), {"models": "van_b0"})
    with pytest.raises(UserError, match="no models"):
        pairs(Arm(), Arm(), {})


# --- the record, the page -------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_and_nan_is_read_to_be_judged(tmp_path: Path) -> None:
    made = record(blocks(0.05), blocks(0.05, seed=1))
    save_gate(tmp_path / "gate.json", made)
    assert read_gate(tmp_path) == made
    far = record((), apart=Apart(quantity="logits", distance=math.inf, allowed=0.0))
    save_gate(tmp_path / "gate.json", far)
    assert only(read_gate(tmp_path))[0] is Verdict.INVALID
    broken = record(
        [*blocks(0.0, 7), block(8, head=make_round("b", [math.nan] * 8, disturbance=Disturbance(window_s=1.0)))]
    )
    save_gate(tmp_path / "gate.json", broken)
    assert only(read_gate(tmp_path / "gate.json"))[0] is Verdict.INVALID


def test_a_records_blocks_are_a_frame_from_folder_file_or_archive(tmp_path: Path) -> None:
    made = record([*blocks(0.05, 7), block(8, lost=(Loss(role="head", kind="exit", message="no"),))])
    save_gate(tmp_path / "gate.json", made)
    (tmp_path / "kept.json.gz").write_bytes(gzip.compress((tmp_path / "gate.json").read_bytes()))
    frame = load_frame(tmp_path)
    assert_frame_equal(frame, load_frame(tmp_path / "kept.json.gz"))
    assert read_gate(tmp_path / "kept.json.gz") == made
    assert list(frame["block"]) == list(range(1, 9))
    assert set(frame["pass"]) == {1}
    assert frame["ratio"][:7].mean() == pytest.approx(1 / 1.05, rel=0.01)
    assert frame["ratio"].isna()[7]
    assert frame["broken"][7] == "head: exit: no"
    # 8 images in a tenth of a second, the head a twentieth longer.
    assert frame["base_images_per_s"].mean() == pytest.approx(80, rel=0.02)
    assert frame["head_images_per_s"].mean() == pytest.approx(80 / 1.05, rel=0.02)
    (tmp_path / "kept.json.gz").write_bytes(b"\x1f\x8b\x08nonsense")
    with pytest.raises(UserError, match=r"cannot read|no record"):
        load_frame(tmp_path / "kept.json.gz")


@pytest.mark.parametrize(("text", "words"), [("{", "no record"), ("[]", "no record"), (None, "no such record")])
def test_what_is_no_record_is_the_users_mistake(tmp_path: Path, text: str | None, words: str) -> None:
    file = tmp_path / "gate.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=words):
        read_gate(file)


def test_the_page_is_cut_until_it_fits_and_what_failed_stays_longest() -> None:
    slow = record(blocks(0.05), blocks(0.05, seed=1)).pairs[0]
    plain = record(blocks(0.0)).pairs[0]
    members = [slow, *(
        msgspec.structs.replace(plain, base=Cell(model=f"some_long_model_name_{i}"),
                                head=Cell(model=f"some_long_model_name_{i}"))
        for i in range(60)
    )]  # fmt: skip
    made = with_pairs(members)
    found = outcome(made)
    whole = gate_markdown(made, found, COMMENT_BYTES)
    assert "<details>" in whole
    for most in (12_000, 3_000, 700, 80):
        text = gate_markdown(made, found, most)
        assert len(text.encode()) <= most
        if most >= 3_000:
            assert "van_b0" in text
    assert "some_long_model_name_7" not in gate_markdown(made, found, 3_000)
    assert "60 cells that passed are left out" in gate_markdown(made, found, 3_000)
    assert "1 REGRESSED" in gate_markdown(made, found, 700)


def test_a_hostile_model_name_is_text_on_the_page() -> None:
    cell = Cell(model="a:b|<script>`x`")
    made = with_pairs([msgspec.structs.replace(record(blocks(0.0)).pairs[0], base=cell, head=cell)])
    text = gate_markdown(made, outcome(made))
    rows = [line for line in text.splitlines() if "script" in line]
    assert all(line.replace("\\|", "").count("|") in (8, 9) for line in rows), rows
    assert "``" in rows[0]


def test_a_step_summary_is_appended_where_ci_asks_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    assert append_summary(lambda most: "x") is None
    page = tmp_path / "summary.md"
    page.write_text("before")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    append_summary(lambda most: f"{most}")
    assert page.read_text() == f"before\n{1000 * 1024 - 7}"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "folder"))
    with pytest.raises(UserError, match="cannot write"):
        append_summary(lambda most: "x")


def test_a_judgement_shows_its_figures() -> None:
    judged = look(observed(0.05, count=8), RULES)
    assert isinstance(judged, Judgement)
    made = record(blocks(0.05), blocks(0.05, seed=1))
    text = gate_markdown(made, outcome(made))
    assert "-4.8" in text or "-4.7" in text or "-4.9" in text
    assert "❌ **REGRESSED**" in text
