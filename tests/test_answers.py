"""What follows from rows together: choices, training, knees, growth and orders, by hand and by brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from builders import make_environment, make_facts, make_record, make_round, make_sweep
from hypothesis import given, settings
from hypothesis import strategies as st

from vanbench.analysis.knee import Knee, Point, best_within, knee
from vanbench.analysis.ranking import pairs, tau
from vanbench.analysis.ratio import Estimate, quotient
from vanbench.record.record import Failed
from vanbench.report.answers import Answer, answers
from vanbench.report.table import Row, rows
from vanbench.spec.cell import Cell

CERTAIN = 1e-4


def known(value: float) -> Estimate:
    return Estimate(value, value * (1 - CERTAIN), value * (1 + CERTAIN))


def table(models: Sequence[str], seconds: dict[tuple[str, str], float], **axes: tuple[object, ...]) -> list[Row]:
    """Rows of cells whose images take seconds by (model, word of the configuration), with a hair of noise."""
    sweep = make_sweep(models, **axes)
    records = []
    for cell in sweep.cells():
        words = {cell.task, cell.compile, cell.memory_format, cell.precision, f"{cell.image_size}px"}
        (second,) = [time for (model, word), time in seconds.items() if model == cell.model and word in words] or [
            seconds[cell.model, f"batch {cell.batch_size}"]
        ]
        contest = f"{cell.task}{cell.batch_size}-{cell.image_size}"
        made = [
            make_round(
                f"{contest}-{i}",
                [second * cell.batch_size * (1 + 0.001 * i)] * 4,
                images=cell.batch_size,
                compile_s=10.0 if cell.compile != "off" else None,
                compile_cold=i == 0,
                forward_s=[1.0] if cell.task == "train" else [],
                backward_s=[2.5] if cell.task == "train" else [],
                optimizer_s=[0.5] if cell.task == "train" else [],
            )
            for i in range(3)
        ]
        share = 0.9 if cell.memory_format == "channels_last" else 0.0
        records.append(make_record(cell, made, facts=make_facts(channels_last_share=share)))
    return rows(sweep, make_environment(), records)


def titled(found: Sequence[Answer], title: str) -> Answer:
    (one,) = [each for each in found if each.title == title]
    assert len(one.align) == len(one.head)
    assert all(len(line) == len(one.head) for line in one.lines)
    return one


def figure(text: str) -> float:
    return float(text.partition(" ")[0])


# --- quotients


def test_half_widths_add_in_quadrature_on_the_log_scale() -> None:
    over = quotient(Estimate(6, 6 / 1.3, 6 * 1.3), Estimate(2, 2 / 1.4, 2 * 1.4))
    half = math.hypot(math.log(1.3), math.log(1.4))
    assert over == pytest.approx((3, 3 * math.exp(-half), 3 * math.exp(half)))
    assert quotient(Estimate(6), Estimate(2, 1, 4)) == Estimate(3)


# --- the knee


def at(batch: int, value: float, spread: float = CERTAIN) -> Point:
    return Point(batch, Estimate(value, value * (1 - spread), value * (1 + spread)), batch / value)


def test_the_knee_is_the_smallest_batch_that_reaches_95_percent_of_the_best() -> None:
    assert knee([at(1, 50), at(2, 80), at(4, 96), at(8, 100), at(16, 99)]) == Knee(4, 4, 4)
    assert knee([at(4, 94), at(2, 80), at(1, 50), at(8, 100)]) == Knee(8, 8, 8, at_end=True)


def test_intervals_leave_the_knee_open() -> None:
    # 4 reaches it by its upper end alone, 8 by its value, and only 16 is sure to.
    points = [at(1, 10), at(2, 60), at(4, 92, 0.05), at(8, 96, 0.05), at(16, 100), at(32, 101)]
    assert knee(points) == Knee(8, 4, 16)


def test_two_batch_sizes_show_no_bend() -> None:
    assert knee([at(1, 10), at(2, 20)]) is None


def test_under_a_limit_of_latency_the_best_is_another() -> None:
    points = [at(1, 50), at(2, 80), at(4, 100)]
    assert best_within(points, 0.03) == points[1]
    assert best_within(points, 0.04) == points[2]
    assert best_within(points, 0.01) is None


# --- orders


@settings(deadline=None)  # the first call loads scipy.stats
@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.randoms())
def test_tau_is_that_of_counted_pairs(values: list[int], random: object) -> None:
    others = list(values)
    random.shuffle(others)  # type: ignore[attr-defined]
    one, other = ({str(i): Estimate(float(v)) for i, v in enumerate(vs)} for vs in (values, others))

    def sign(a: int, b: int) -> int:
        return (a > b) - (a < b)

    both = list(combinations(range(len(values)), 2))
    agreed = sum(sign(values[i], values[j]) * sign(others[i], others[j]) for i, j in both)
    untied = [sum(sign(vs[i], vs[j]) ** 2 for i, j in both) for vs in (values, others)]
    found = tau(one, other)
    if 0 in untied:
        assert found is None
    else:
        assert found == pytest.approx(agreed / math.sqrt(untied[0] * untied[1]))


def test_a_pair_changes_places_for_certain_only_where_both_intervals_say_so() -> None:
    wide = Estimate(2.0, 0.5, 8.0)
    (certain,) = pairs([{"a": known(2), "b": known(1)}, {"a": known(1), "b": known(2)}])
    assert certain.changes
    assert certain.certainly
    (unsure,) = pairs([{"a": known(2), "b": known(1)}, {"a": known(1), "b": wide}])
    assert unsure.changes
    assert not unsure.certainly
    (steady,) = pairs([{"a": known(2), "b": known(1)}, {"a": known(3), "b": known(2)}])
    assert not steady.changes
    assert pairs([{"a": known(2), "b": known(1)}, {"a": known(1)}]) == [], "they meet only once"


# --- from rows


def test_one_configuration_of_one_model_has_nothing_to_answer() -> None:
    assert answers(table(["van_b0"], {("van_b0", "off"): 1.0})) == []
    assert answers([]) == []


def test_what_a_layout_is_worth_stands_beside_how_far_it_was_kept() -> None:
    shown = table(
        ["van_b0", "resnet18"],
        {
            ("van_b0", "contiguous"): 1.0,
            ("van_b0", "channels_last"): 0.8,
            ("resnet18", "contiguous"): 0.5,
            ("resnet18", "channels_last"): 1.0,
        },
        memory_format=("contiguous", "channels_last"),
        batch_size=(4,),
    )
    worth = titled(answers(shown), "What memory format is worth")
    assert [line[0] for line in worth.lines] == ["van_b0 bs4 fp32", "resnet18 bs4 fp32"]
    assert [figure(line[2]) for line in worth.lines] == [1.25, 0.5]
    assert {line[3] for line in worth.lines} == {"90 %"}


def test_compiling_has_paid_when_it_saved_what_it_took() -> None:
    shown = table(
        ["van_b0", "resnet18"],
        {
            ("van_b0", "off"): 0.5,
            ("van_b0", "default"): 0.4,
            ("resnet18", "off"): 0.5,
            ("resnet18", "default"): 0.6,
        },
        compile=("off", "default"),
        batch_size=(4,),
    )
    worth = titled(answers(shown), "What compile is worth")
    # Ten seconds of compiling, a tenth of a second saved an image.
    assert [line[-1] for line in worth.lines] == ["100", "never"]
    assert [line[-2] for line in worth.lines] == ["10 s", "10 s"]


def test_a_gain_within_its_interval_has_settled_no_payback() -> None:
    shown = table(["van_b0"], {("van_b0", "off"): 0.5, ("van_b0", "default"): 0.4}, compile=("off", "default"))
    for row in shown:
        if row["compile"] == "default":
            row |= {"ratio": 1.25, "ratio_low": 0.9, "ratio_high": 1.6}
    assert titled(answers(shown), "What compile is worth").lines[0][-1] == "not settled"


def test_a_batch_whose_latency_is_unknown_is_within_no_limit() -> None:
    shown = table(["van_b0"], {("van_b0", f"batch {batch}"): 0.001 for batch in (1, 2, 4)}, batch_size=(1, 2, 4))
    for row in shown:
        row["median_s"] = None
    (line,) = titled(answers(shown), "Batch size: the knee").lines
    assert line[3:6] == ["none", "none", "none"]


def test_one_round_settles_no_payback() -> None:
    shown = table(["van_b0"], {("van_b0", "off"): 0.4, ("van_b0", "default"): 0.5}, compile=("off", "default"))
    for row in shown:
        row |= {"ratio_low": None, "ratio_high": None}
    assert titled(answers(shown), "What compile is worth").lines[0][-1] == "not settled"


def test_training_is_held_to_the_same_models_inference_and_to_the_reference() -> None:
    shown = table(
        ["resnet18", "van_b0"],
        {
            ("resnet18", "infer"): 1.0,
            ("resnet18", "train"): 3.0,
            ("van_b0", "infer"): 1.0,
            ("van_b0", "train"): 6.0,
        },
        task=("infer", "train"),
        batch_size=(2,),
    )
    found = titled(answers(shown), "Training beside inference")
    first, second = found.lines
    assert (figure(first[3]), first[4]) == (3, "1")
    assert (figure(second[3]), figure(second[4])) == (6, 2)
    assert second[5:] == ["25 %", "62 %", "12 %"]


def test_the_time_of_a_pixel_is_one_where_time_grows_with_the_pixels() -> None:
    shown = table(
        ["van_b0", "resnet18"],
        {
            ("van_b0", "100px"): 1.0,
            ("van_b0", "200px"): 4.0,
            ("resnet18", "100px"): 1.0,
            ("resnet18", "200px"): 8.0,
        },
        image_size=(100, 200),
    )
    found = titled(answers(shown), "Image size: the time of a pixel")
    assert [line[0] for line in found.lines] == ["van_b0 bs1 fp32", "resnet18 bs1 fp32"]
    assert [figure(line[1]) for line in found.lines] == [1, 2]


def test_a_batch_sweep_shows_its_knee_its_latencies_and_what_found_no_memory() -> None:
    seconds = {("van_b0", f"batch {batch}"): time for batch, time in ((1, 0.02), (2, 0.012), (4, 0.01), (8, 0.01))}
    shown = table(["van_b0"], seconds, batch_size=(1, 2, 4, 8))
    for row in shown:
        row["bound_kind"] = "launch" if int(str(row["batch_size"])) < 4 else "bandwidth"
    sweep = make_sweep(["van_b0"], batch_size=(16,))
    failed = make_record(sweep.cells()[0], [], Failed(kind="out_of_memory", message="no", rerun="x"))
    other = make_sweep(["van_b1"], batch_size=(2,)).cells()[0]
    another = make_record(other, [], Failed(kind="out_of_memory", message="another model's", rerun="x"))
    shown += rows(sweep, make_environment(), [failed, another])
    (line,) = titled(answers(shown), "Batch size: the knee").lines
    assert line[0] == "van_b0 fp32"
    assert line[1] == "4"
    assert line[3:6] == ["none", "99.9 (batch 4)", "99.9 (batch 4)"]
    assert line[6:] == ["8 (16: out of memory)", "1 to 2 launch, 4 to 8 bandwidth"]


def test_who_changes_places_is_named() -> None:
    seconds = {
        ("van_b0", "fp32"): 1.0,
        ("van_b0", "bf16"): 1.0,
        ("resnet18", "fp32"): 2.0,
        ("resnet18", "bf16"): 0.5,
        ("resnet50", "fp32"): 3.0,
        ("resnet50", "bf16"): 3.0,
    }
    shown = table(["van_b0", "resnet18", "resnet50"], seconds, precision=("fp32", "bf16"))
    found = titled(answers(shown), "Order of the models")
    assert [line[:2] for line in found.lines] == [
        ["fp32", "van_b0 > resnet18 > resnet50"],
        ["bf16", "resnet18 > van_b0 > resnet50"],
    ]
    assert [line[2] for line in found.lines] == ["1", "0.33"]
    assert "1 of 3 pairs change places for certain (van_b0 and resnet18), 0 perhaps" in found.text


def test_rows_without_ratios_are_compared_by_images_per_second() -> None:
    shown = table(
        ["van_b0"],
        {("van_b0", "contiguous"): 1.0, ("van_b0", "channels_last"): 0.5},
        memory_format=("contiguous", "channels_last"),
    )
    for row in shown:
        row |= {"ratio": None, "ratio_low": None, "ratio_high": None}
    assert titled(answers(shown), "What memory format is worth").lines[0][2].startswith("2")


def test_every_committed_table_has_its_answers() -> None:
    from vanbench.report.table import read_rows

    results = Path(__file__).parents[1] / "results"
    for file in results.glob("*/first_answer.csv"):
        titles = [each.title for each in answers(read_rows(file.read_text(), file.name))]
        assert titles == ["What memory format is worth"]


def test_a_cell_of_the_table_is_a_cell() -> None:
    assert Cell(model="van_b0").slug == "van_b0 bs1 fp32", "what _named takes words out of"
